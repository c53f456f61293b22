"""From a laid-out board to a stock Llama in memory, with a word-level tokenizer.

How an ordinary architecture is made to compute by hand: RMSNorm divides by sqrt(mean square + eps) and multiplies by a
weight; with eps = 1e8 and weight = 1e4 it is the identity up to 1e-8 of its input, so streams add up as designed and
the final norm leaves logits linear. Rotary embeddings turn pairs of query and key dimensions by angles that fall with
the pair's number; with a huge base all but the first two pairs stand still, and only those hold content. The gated
MLP's linear branch reads the constant one, which leaves ``relu`` of the gate.

With a norm that is one, its weight is set so that the norm is the identity on average where the circuit reads: at the
cue word for what attention reads, at the read-out token for what MLP and unembedding read. Layer norm makes a StableLM,
which is a Llama in everything else; it also takes the mean away, which is nothing where the stream keeps the direction
(1, ..., 1) empty (:class:`.space.Space`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    StableLmConfig,
    StableLmForCausalLM,
)

from circuits.model.planted.board import Board
from circuits.model.planted.space import Dims, PlantedNorm, Space
from circuits.model.planted.texts import BOS, PAD, UNK, Lexicon, Row

__all__ = ["wire"]

IDENTITY_EPS, NORM_EPS = 1e8, 1e-5
ROPE_BASE = 1e30
TURNING_PAIRS = 2
"""Rotary pairs left empty: the third turns by 1e30 ** (-2 / 8) = 3e-8 of a radian per token, d_head being 16."""
CONTEXT = 64
CALIBRATION = 6
"""Scenarios the weights of norms are set on."""

State = dict[str, NDArray[np.float64]]


def wire(
    board: Board,
    lexicon: Lexicon,
    rows: Sequence[Row],
    *,
    name: str,
    norm: PlantedNorm,
    noise: float,
    rng: np.random.Generator,
) -> TransformerBridge:
    """Build the model the board and the lexicon describe; nothing touches the disk or the network.

    Args:
        rows: texts of which the first are those the norms are set on.
        noise: relative standard deviation of what is added to every matrix, drawn from ``rng``.
    """
    hf_model = _empty(board.dims, lexicon.words, norm)
    state = _weights(board, lexicon)
    for key, weight in state.items():
        if noise and weight.ndim == 2:
            state[key] = weight + noise * np.sqrt(np.mean(weight**2)) * rng.standard_normal(weight.shape)
    if norm is PlantedNorm.LAYER:
        state |= {key.replace(".weight", ".bias"): np.zeros_like(w) for key, w in state.items() if w.ndim == 1}
    hf_model.load_state_dict({key: torch.from_numpy(value).float() for key, value in state.items()}, strict=True)
    if norm is not PlantedNorm.NONE:
        _set_norms(hf_model, lexicon, [row for row in rows if row.scenario in _first_scenarios(rows)])
    return TransformerBridge.boot_transformers(
        name, hf_model=hf_model, tokenizer=_tokenizer(lexicon, name), dtype=torch.float32, device="cpu"
    )


def _tokenizer(lexicon: Lexicon, name: str) -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(lexicon.words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    # With its name and the promise that it adds the first token, the bridge takes it as it is; without, it would look
    # for a directory of that name to load it again.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        pad_token=PAD,
        unk_token=UNK,
        padding_side="right",
        add_bos_token=True,
        name_or_path=name,
    )


def _empty(dims: Dims, words: Sequence[str], norm: PlantedNorm) -> LlamaForCausalLM | StableLmForCausalLM:
    """A stock model of the right shape whose weights are not set yet."""
    shape = {
        "vocab_size": len(words),
        "hidden_size": dims.d_model,
        "intermediate_size": dims.d_mlp,
        "num_hidden_layers": dims.n_layers,
        "num_attention_heads": dims.n_heads,
        "num_key_value_heads": dims.n_heads,
        "hidden_act": "relu",
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "bos_token_id": words.index(BOS),
        "pad_token_id": words.index(PAD),
        "eos_token_id": None,
        "attn_implementation": "eager",  # attention patterns must exist to be read
    }
    rope = {"rope_type": "default", "rope_theta": ROPE_BASE}
    with torch.random.fork_rng(devices=[]):  # the random weights it starts from must not cost the caller random numbers
        if norm is PlantedNorm.LAYER:
            whole = {**rope, "partial_rotary_factor": 1.0}
            return StableLmForCausalLM(StableLmConfig(**shape, layer_norm_eps=NORM_EPS, rope_parameters=whole)).eval()
        eps = IDENTITY_EPS if norm is PlantedNorm.NONE else NORM_EPS
        config = LlamaConfig(**shape, head_dim=dims.d_head, rms_norm_eps=eps, rope_parameters=rope)
        return LlamaForCausalLM(config).eval()


def _weights(board: Board, lexicon: Lexicon) -> State:
    """Every weight by its name; norms as those that are the identity need them."""
    dims = board.dims
    turn = _turn(board.space, board.rng)
    identity = np.full(dims.d_model, np.sqrt(IDENTITY_EPS))
    state = {
        "model.embed_tokens.weight": lexicon.embedding @ turn.T,
        "lm_head.weight": lexicon.unembedding @ turn.T,
        "model.norm.weight": identity,
    }
    for layer in range(dims.n_layers):
        block = {"input_layernorm.weight": identity, "post_attention_layernorm.weight": identity}
        block |= _attention(board, layer, turn) | _mlp(board, layer, turn)
        state |= {f"model.layers.{layer}.{key}": value for key, value in block.items()}
    return state


def _first_scenarios(rows: Sequence[Row]) -> set[str]:
    return set(list(dict.fromkeys(row.scenario for row in rows))[:CALIBRATION])


@torch.no_grad()
def _set_norms(model: LlamaForCausalLM | StableLmForCausalLM, lexicon: Lexicon, rows: Sequence[Row]) -> None:
    """Give each norm the mean root mean square of what it reads, one after the other in a single run."""
    places = {word: i for i, word in enumerate(lexicon.words)}
    texts = [torch.tensor([places[word] for word in (BOS, *row.text.split())]) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=places[PAD])
    number = torch.arange(len(texts))
    readout = torch.tensor([len(text) - 1 for text in texts])
    cue = (ids == torch.tensor([places[row.cue] for row in rows])[:, None]).int().argmax(1)

    def setting(position: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            read = inputs[0][number, position]
            cast(Tensor, norm.weight).fill_(read.pow(2).mean(-1).sqrt().mean())

        return before

    hooks = [model.model.norm.register_forward_pre_hook(setting(readout))]
    for block in model.model.layers:
        hooks.append(block.input_layernorm.register_forward_pre_hook(setting(cue)))
        hooks.append(block.post_attention_layernorm.register_forward_pre_hook(setting(readout)))
    model(ids)
    for hook in hooks:
        hook.remove()


def _attention(board: Board, layer: int, turn: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Query, key, value and output matrices of one layer, heads one below the other."""
    dims = board.dims
    query, key, value = (np.zeros((dims.n_heads, dims.d_head, dims.d_model)) for _ in range(3))
    output = np.zeros((dims.n_heads, dims.d_model, dims.d_head))
    half = dims.d_head // 2
    still = [i + offset for offset in (0, half) for i in range(TURNING_PAIRS, half)]
    for place, spec in board.heads.items():
        if place.layer != layer:
            continue
        scores = _rotation(len(still), board.rng)[:, : len(spec.query)]
        content = _rotation(dims.d_head, board.rng)[:, : len(spec.value)]
        query[place.index, still] = scores @ spec.query @ turn.T
        key[place.index, still] = scores @ spec.key @ turn.T
        value[place.index] = content @ spec.value @ turn.T
        output[place.index] = turn @ spec.output @ content.T
    return {
        "self_attn.q_proj.weight": query.reshape(-1, dims.d_model),
        "self_attn.k_proj.weight": key.reshape(-1, dims.d_model),
        "self_attn.v_proj.weight": value.reshape(-1, dims.d_model),
        "self_attn.o_proj.weight": np.concatenate(list(output), axis=1),
    }


def _mlp(board: Board, layer: int, turn: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Gate, linear branch and output matrix of one layer."""
    dims = board.dims
    gate, write = (np.zeros((dims.d_mlp, dims.d_model)) for _ in range(2))
    linear = np.tile(turn @ board.space.one, (dims.d_mlp, 1))
    for place, spec in board.neurons.items():
        if place.layer == layer:
            gate[place.index], write[place.index] = turn @ spec.read, turn @ spec.write
            if spec.linear is not None:
                linear[place.index] = turn @ spec.linear
    return {
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": linear,
        "mlp.down_proj.weight": write.T,
    }


def _turn(space: Space, rng: np.random.Generator) -> Float[NDArray[np.float64], "d_model d_model"]:
    """The random orthogonal matrix from feature space to the stream; a centred space's last axis becomes (1, ..., 1)."""
    if not space.centred:
        return _rotation(space.d_model, rng)
    ones = np.ones((space.d_model, 1))
    q, _ = np.linalg.qr(np.hstack([ones, rng.standard_normal((space.d_model, space.d_model - 1))]))
    return np.hstack([q[:, 1:] @ _rotation(space.d_model - 1, rng), ones / np.sqrt(space.d_model)])


def _rotation(size: int, rng: np.random.Generator) -> Float[NDArray[np.float64], "size size"]:
    """A random orthogonal matrix, uniform in the sense of Haar (Mezzadri 2007: QR with the signs of R's diagonal)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diagonal(r)))
