"""From a laid-out board to a stock Llama in memory, with a word-level tokenizer.

How an ordinary architecture is made to compute by hand: RMSNorm divides by sqrt(mean square + eps) and multiplies by a
weight; with eps = 1e8 and weight = 1e4 it is the identity up to 1e-8 of its input, so streams add up as designed and
the final norm leaves logits linear. Rotary embeddings turn pairs of query and key dimensions by angles that fall with
the pair's number; with a huge base all but the first two pairs stand still, and only those hold content. The gated
MLP's linear branch reads the constant one, which leaves ``relu`` of the gate.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from circuits.model.planted.board import Board
from circuits.model.planted.texts import BOS, PAD, UNK, Lexicon

__all__ = ["wire"]

NORM_EPS = 1e8
ROPE_BASE = 1e30
TURNING_PAIRS = 2
"""Rotary pairs left empty: the third turns by 1e30 ** (-2 / 8) = 3e-8 of a radian per token, d_head being 16."""
CONTEXT = 64


def wire(board: Board, lexicon: Lexicon, *, name: str) -> TransformerBridge:
    """Build the model the board and the lexicon describe; nothing touches the disk or the network."""
    hf_model = _llama(board, lexicon)
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


def _llama(board: Board, lexicon: Lexicon) -> LlamaForCausalLM:
    dims = board.dims
    words = lexicon.words
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=dims.d_model,
        intermediate_size=dims.d_mlp,
        num_hidden_layers=dims.n_layers,
        num_attention_heads=dims.n_heads,
        num_key_value_heads=dims.n_heads,
        head_dim=dims.d_head,
        hidden_act="relu",
        rms_norm_eps=NORM_EPS,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        tie_word_embeddings=False,
        bos_token_id=words.index(BOS),
        pad_token_id=words.index(PAD),
        eos_token_id=None,
        attn_implementation="eager",  # attention patterns must exist to be read
    )
    with torch.random.fork_rng(devices=[]):  # the random weights it starts from must not cost the caller random numbers
        model = LlamaForCausalLM(config).eval()
    turn = _rotation(dims.d_model, board.rng)
    state = {
        "model.embed_tokens.weight": lexicon.embedding @ turn.T,
        "lm_head.weight": lexicon.unembedding @ turn.T,
        "model.norm.weight": np.full(dims.d_model, np.sqrt(NORM_EPS)),
    }
    for layer in range(dims.n_layers):
        block = {
            "input_layernorm.weight": np.full(dims.d_model, np.sqrt(NORM_EPS)),
            "post_attention_layernorm.weight": np.full(dims.d_model, np.sqrt(NORM_EPS)),
        }
        block |= _attention(board, layer, turn) | _mlp(board, layer, turn)
        state |= {f"model.layers.{layer}.{key}": value for key, value in block.items()}
    model.load_state_dict({key: torch.from_numpy(value).float() for key, value in state.items()}, strict=True)
    return model


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
    for place, spec in board.neurons.items():
        if place.layer == layer:
            gate[place.index], write[place.index] = turn @ spec.read, turn @ spec.write
    return {
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": np.tile(turn @ board.space.one, (dims.d_mlp, 1)),
        "mlp.down_proj.weight": write.T,
    }


def _rotation(size: int, rng: np.random.Generator) -> Float[NDArray[np.float64], "size size"]:
    """A random orthogonal matrix, uniform in the sense of Haar (Mezzadri 2007: QR with the signs of R's diagonal)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diagonal(r)))
