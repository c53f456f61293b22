"""Shapes and types are checked at run time in every test: the hook must be set before ``circuits`` is imported."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network

from jaxtyping import install_import_hook

install_import_hook("circuits", "beartype.beartype")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

WORDS = "the a ran home saw lost found dog cat box red green old new Tom Mia and then it was in on felt Now I".split()
torch.set_num_threads(1)  # tests run side by side, one to a core

ANSWERS = {
    "anger": ["angry"], "disgust": ["disgusted"], "fear": ["afraid"],
    "happiness": ["happy"], "sadness": ["sad"], "surprise": ["surprised"],
}  # fmt: skip
CUES = {e: [f"{e}cue{i}" for i in range(3)] for e in EMOTIONS}
SIZE = {"vocab_size": 80, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}


def family_config(family: str) -> Any:
    """A tiny configuration of a stock architecture."""
    from transformers import (
        Gemma2Config,
        GPT2Config,
        GPTNeoXConfig,
        LlamaConfig,
        MixtralConfig,
        OPTConfig,
        Qwen3Config,
    )  # fmt: skip

    common = {**SIZE, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    gqa = {**common, "num_key_value_heads": 2, "head_dim": 4}
    if family == "gpt2":
        return GPT2Config(vocab_size=80, n_embd=16, n_layer=3, n_head=4, n_inner=24, n_positions=32,
                          bos_token_id=1, eos_token_id=2)  # fmt: skip
    if family == "llama":
        return LlamaConfig(**gqa)
    if family == "qwen3":
        return Qwen3Config(**gqa)
    if family == "neox":
        return GPTNeoXConfig(**common, use_parallel_residual=True)
    if family == "neox_sequential":
        return GPTNeoXConfig(**common, use_parallel_residual=False)
    if family == "gemma2":
        return Gemma2Config(**gqa, query_pre_attn_scalar=4, sliding_window=16)
    if family == "opt":
        return OPTConfig(vocab_size=80, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, ffn_dim=24,
                         max_position_embeddings=32, word_embed_proj_dim=16, pad_token_id=0, bos_token_id=1,
                         eos_token_id=2)  # fmt: skip
    if family == "mixtral":
        return MixtralConfig(**gqa, num_local_experts=2)
    raise ValueError(family)


FAMILIES = ("gpt2", "llama", "qwen3", "neox", "neox_sequential", "gemma2", "opt")


def save_tokenizer(directory: Path) -> None:
    words = ["<pad>", "<s>", "</s>", "<unk>", *WORDS, *(w for ws in ANSWERS.values() for w in ws),
             *(c for cs in CUES.values() for c in cs)]  # fmt: skip
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(directory)


def make_model_directory(directory: Path, family: str, seed: int = 0) -> Path:
    """A random tiny model of one family in Hugging Face layout; weights large enough for effects to be visible."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(family_config(family))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.4 / parameter.shape[-1] ** 0.25)
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Tiny random models by family, each loaded once per session."""
    made: dict[str, Model] = {}

    def get(family: str) -> Model:
        if family not in made:
            made[family] = load(make_model_directory(tmp_path_factory.mktemp(family), family), device="cpu")
        return made[family]

    return get


def tiny_rows(scenarios: int = 6, *, neutral: bool = True) -> list[dict[str, object]]:
    """Matched scenarios of unequal lengths whose cue word alone differs by emotion."""
    rows: list[dict[str, object]] = []
    for s in range(scenarios):
        filler = " ".join(WORDS[(s * 3 + i) % 20] for i in range(3 + s % 3))
        for number, e in enumerate(EMOTIONS):
            # An extra word in some rows: position classes must cope with unequal lengths.
            extra = " then" if (s + number) % 4 == 0 else ""
            rows.append({
                "id": f"s{s}-{e}", "scenario": f"s{s}", "emotion": str(e), "lexical": "implicit",
                "text": f"{filler} {CUES[e][s % 3]}{extra} Tom felt", "split": ("fit", "select", "test")[s % 3],
                **({"neutral": f"{filler} box Tom felt"} if neutral else {}),
            })  # fmt: skip
    return rows


@pytest.fixture(scope="session")
def tiny_prompts() -> Prompts:
    """36 texts in six scenarios."""
    return Prompts.of(tiny_rows(), name="tiny", answers=ANSWERS)
