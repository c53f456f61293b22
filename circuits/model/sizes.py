"""The sizes of a model, without its weights: enough to say what measuring it will cost."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.errors import ModelLoadError, UnsupportedModelError

__all__ = ["SHAPES", "Sizes", "experts", "sizes_of", "token_counts"]

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Sizes:
    """What decides a price.

    Attributes:
        gated: the MLP has a gate.
        sequential: attention writes before the MLP reads.
        turned: keys are turned or normalised, so that the last block must form them.
    """

    layers: int
    d_model: int
    heads: int
    kv_heads: int
    d_head: int
    d_mlp: int
    gated: bool
    vocab: int
    sequential: bool = True
    turned: bool = True


SHAPES: Mapping[str, Sizes] = {
    "gpt2-small": Sizes(12, 768, 12, 12, 64, 3072, gated=False, vocab=50257, turned=False),
    "gpt2-xl": Sizes(48, 1600, 25, 25, 64, 6400, gated=False, vocab=50257, turned=False),
    "llama-3.2-1b": Sizes(16, 2048, 32, 8, 64, 8192, gated=True, vocab=128256),
    "llama-3.2-3b": Sizes(28, 3072, 24, 8, 128, 8192, gated=True, vocab=128256),
    "llama-3.1-8b": Sizes(32, 4096, 32, 8, 128, 14336, gated=True, vocab=128256),
}
"""Well-known shapes by name (sizes from the models' published configurations)."""


def sizes_of(name: str) -> Sizes:
    """Sizes of a well-known shape, or of a model directory by its ``config.json`` alone; no weight is read.

    Raises:
        ModelLoadError: neither a shape nor a directory with a configuration.
        UnsupportedModelError: a configuration whose blocks are no attention and dense MLP.
    """
    if name in SHAPES:
        return SHAPES[name]
    path = Path(os.path.expanduser(name))
    if not os.path.isfile(path / "config.json"):
        known = ", ".join(SHAPES)
        raise ModelLoadError(f"{name!r} is no directory with a config.json; expected one, or one of the shapes {known}")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # configurations fail in as many ways as there are families
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelLoadError(f"the configuration in {path} cannot be used: {reason}") from error
    weights = {k: tuple(p.shape) for k, p in model.named_parameters() if p.dim() == 2 and re.search(r"\.0\.", k)}
    return _counted(name, config.get_text_config(), weights)


def token_counts(directory: str, texts: Sequence[str]) -> list[int]:
    """Tokens of every text, by the tokenizer in a model directory alone.

    Raises:
        ModelLoadError: it has none that can be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # tokenizer files fail in as many ways as there are formats
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelLoadError(f"the tokenizer in {directory} cannot be used: {reason}") from error
    return [len(tokenizer(text)["input_ids"]) for text in texts]


def experts(config: Any) -> bool:
    """Whether MLPs are mixtures of experts, by a model's configuration."""
    counts = (getattr(config, key, None) for key in _EXPERTS)
    return any(isinstance(count, int) and count > 1 for count in counts)


def _counted(name: str, config: Any, weights: Mapping[str, tuple[int, ...]]) -> Sizes:
    def first(*keys: str) -> int | None:
        for key in keys:
            value = getattr(config, key, None)
            if isinstance(value, int) and value > 0:
                return value
        return None

    layers, d_model = first("num_hidden_layers", "n_layer", "num_layers"), first("hidden_size", "n_embd", "d_model")
    heads = first("num_attention_heads", "n_head", "num_heads", "n_heads")
    if layers is None or d_model is None or heads is None:
        raise UnsupportedModelError(
            f"{name!r} ({config.model_type}) names no layers, width or heads; expected a decoder"
        )
    if experts(config):
        # Their weights are sometimes as many as a dense MLP's would be.
        raise UnsupportedModelError(f"{name!r} ({config.model_type}) is a mixture of experts; expected a dense MLP")
    shared = 1 if getattr(config, "multi_query", False) is True else heads
    kv_heads, d_head = first("num_key_value_heads") or shared, first("head_dim") or d_model // heads
    attention = 2 * d_model * (heads + kv_heads) * d_head
    rest = sum(a * b for a, b in weights.values()) - attention
    # Of the matrices that are left, the widest axis is the MLP's; two of them are plain, three are gated.
    d_mlp = first("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * d_model
    maps = round(rest / (d_model * d_mlp)) if d_mlp else 0
    if maps not in (2, 3):
        raise UnsupportedModelError(
            f"{name!r} ({config.model_type}): a block has {maps} maps of {d_model} x {d_mlp} beside attention; "
            "expected a dense MLP of two, or three with a gate"
        )
    vocab = int(config.vocab_size)
    return Sizes(layers, d_model, heads, kv_heads, d_head, d_mlp, gated=maps == 3, vocab=vocab)
