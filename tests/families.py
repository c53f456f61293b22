"""Tiny random models of stock architectures, in Hugging Face layout: what every law is tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.prompts.emotions import EMOTIONS

__all__ = [
    "ANSWERS",
    "CORE",
    "CUES",
    "EXPERTS",
    "FAMILIES",
    "REFUSED",
    "REPLAYED",
    "WORDS",
    "make_model_directory",
    "save_tokenizer",
]

WORDS = "the a ran home saw lost found dog cat box red green old new Tom Mia and then it was in on felt Now I".split()
ANSWERS = {
    "anger": ["angry"], "disgust": ["disgusted"], "fear": ["afraid"],
    "happiness": ["happy"], "sadness": ["sad"], "surprise": ["surprised"],
}  # fmt: skip
CUES = {e: [f"{e}cue{i}" for i in range(3)] for e in EMOTIONS}

_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
_COMMON = {
    "vocab_size": 80, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 32, "pad_token_id": 0, **_ENDS,
}  # fmt: skip
_SHARED = {**_COMMON, "num_key_value_heads": 2}
_NARROW = {**_SHARED, "head_dim": 4}
_OLD = {"vocab_size": 80, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_inner": 24, "n_positions": 32, **_ENDS}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}

_CONFIGS: Mapping[str, Callable[[], Any]] = {
    "bigcode": lambda: t.GPTBigCodeConfig(**_OLD),
    "bloom": lambda: t.BloomConfig(vocab_size=80, hidden_size=16, n_layer=3, n_head=4, pad_token_id=0, **_ENDS),
    "codegen": lambda: t.CodeGenConfig(rotary_dim=2, **_OLD),
    "cohere": lambda: t.CohereConfig(**_SHARED),
    "falcon": lambda: t.FalconConfig(vocab_size=80, hidden_size=16, num_hidden_layers=3, num_attention_heads=4,
                                     ffn_hidden_size=24, **_ENDS),
    "gemma": lambda: t.GemmaConfig(**_NARROW),
    "gemma2": lambda: t.Gemma2Config(query_pre_attn_scalar=4, sliding_window=4, **_NARROW),
    "gemma3": lambda: t.Gemma3TextConfig(query_pre_attn_scalar=4, sliding_window=4, **_NARROW),
    "glm": lambda: t.GlmConfig(**_NARROW),
    "gpt2": lambda: t.GPT2Config(**_OLD),
    "gpt_neo": lambda: t.GPTNeoConfig(vocab_size=80, hidden_size=16, num_layers=3, num_heads=4, intermediate_size=24,
                                      attention_types=[[["global", "local", "global"], 1]], max_position_embeddings=32,
                                      window_size=4, **_ENDS),
    "gptj": lambda: t.GPTJConfig(rotary_dim=2, **_OLD),
    "granite": lambda: t.GraniteConfig(attention_multiplier=0.4, **_SHARED),
    "llama": lambda: t.LlamaConfig(**_NARROW),
    "mistral": lambda: t.MistralConfig(sliding_window=4, **_NARROW),
    "mixtral": lambda: t.MixtralConfig(num_local_experts=2, **_NARROW),
    "mpt": lambda: t.MptConfig(vocab_size=80, d_model=16, n_layers=3, n_heads=4, max_seq_len=32),
    "neox": lambda: t.GPTNeoXConfig(use_parallel_residual=True, **_COMMON),
    "neox_sequential": lambda: t.GPTNeoXConfig(use_parallel_residual=False, **_COMMON),
    "olmo": lambda: t.OlmoConfig(**_COMMON),
    "olmo2": lambda: t.Olmo2Config(**_SHARED),
    "olmoe": lambda: t.OlmoeConfig(**_COMMON, **_EXPERTS),
    "opt": lambda: t.OPTConfig(vocab_size=80, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, ffn_dim=24,
                               max_position_embeddings=32, word_embed_proj_dim=16, pad_token_id=0, **_ENDS),
    "phi": lambda: t.PhiConfig(partial_rotary_factor=0.5, **_COMMON),
    "phi3": lambda: t.Phi3Config(**_SHARED),
    "qwen2": lambda: t.Qwen2Config(**_SHARED),
    "qwen2_moe": lambda: t.Qwen2MoeConfig(moe_intermediate_size=8, shared_expert_intermediate_size=12, **_SHARED, **_EXPERTS),
    "qwen3": lambda: t.Qwen3Config(**_NARROW),
    "qwen3_moe": lambda: t.Qwen3MoeConfig(moe_intermediate_size=8, **_NARROW, **_EXPERTS),
    "smollm3": lambda: t.SmolLM3Config(**_SHARED),
    "stablelm": lambda: t.StableLmConfig(**_SHARED),
    "starcoder2": lambda: t.Starcoder2Config(**_SHARED),
}  # fmt: skip

REFUSED = ("codegen", "cohere", "stablelm")
"""Families whose bridge does not compute the model, or whose logits are more than a norm and a map."""
EXPERTS = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
"""Mixtures of experts: heads and half-layers, no neurons."""
FAMILIES = tuple(name for name in _CONFIGS if name not in (*REFUSED, *EXPERTS))
REPLAYED = ("bloom", "gpt_neo", "mpt")
"""Families among them whose blocks are not fitted by plain ones (attention biases, masks inside a module)."""
CORE = ("gpt2", "llama", "qwen3", "neox", "neox_sequential", "gemma2", "opt")
"""One of every sort, for tests that take many steps each."""


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
    torch.manual_seed(seed)
    model = t.AutoModelForCausalLM.from_config(_CONFIGS[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.4 / parameter.shape[-1] ** 0.25)
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def load_family(directory: Path, family: str) -> Model:
    """A tiny model through the door."""
    model = load(make_model_directory(directory, family), device="cpu")
    if len(set(model.token_ids("the a ran"))) < 3:
        # Hugging Face insists on its own sort of tokenizer for this family, in which the words of these tests are not.
        model.tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    return model
