"""Random models of the benchmark's shapes and texts to run them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

import circuits
from circuits.model.anatomy import Model
from circuits.prompts.datasets import Prompts

__all__ = ["SHAPES", "random_model", "random_prompts", "shallow"]

_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
_WORDS = 400


def _gpt2(layers: int, width: int, heads: int, vocab: int) -> Any:
    return transformers.GPT2Config(
        vocab_size=vocab, n_embd=width, n_layer=layers, n_head=heads, n_inner=4 * width, n_positions=128, **_ENDS
    )


SHAPES: Mapping[str, tuple[str, Callable[[], Any]]] = {
    "S": ("GPT-2, 4 layers, d_model 128, 4 heads, 512 neurons", lambda: _gpt2(4, 128, 4, 512)),
    "M": (
        "Llama, 6 layers, d_model 288, 6 heads, 768 gated neurons",
        lambda: transformers.LlamaConfig(
            vocab_size=512, hidden_size=288, num_hidden_layers=6, num_attention_heads=6, intermediate_size=768,
            max_position_embeddings=128, pad_token_id=0, **_ENDS,
        ),
    ),
    "L": ("GPT-2 small: 12 layers, d_model 768, 12 heads, 3072 neurons, vocabulary 50,257",
          lambda: _gpt2(12, 768, 12, 50257)),
}  # fmt: skip
"""What each shape is, and its configuration."""


def random_model(folder: Path, config: Any, seed: int = 0) -> Model:
    """A model with random weights through the same door as any other."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) / weight.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    words = {"<p>": 0, "<b>": 1, "<e>": 2, "<u>": 3, **{f"w{i}": i for i in range(4, _WORDS)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<u>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<u>", bos_token="<b>", eos_token="<e>", pad_token="<p>"
    ).save_pretrained(folder)
    return circuits.load(str(folder), device="cpu")


def shallow(folder: Path, layers: int) -> Model:
    """Shape S with another number of layers."""
    return random_model(folder, _gpt2(layers, 128, 4, 512))


def random_prompts(scenarios: int, tokens: int) -> Prompts:
    """Scenarios of six texts of equally many tokens, the one that begins every text included."""
    rng = np.random.default_rng(0)
    rows = [
        {"id": f"s{s}-{e}", "scenario": f"s{s}", "emotion": str(e), "split": "test",
         "text": " ".join(f"w{i}" for i in rng.integers(30, _WORDS, tokens - 1))}
        for s in range(scenarios) for e in circuits.EMOTIONS
    ]  # fmt: skip
    answers = {str(e): [f"w{20 + i}"] for i, e in enumerate(circuits.EMOTIONS)}
    return Prompts.of(rows, name="random", answers=answers)
