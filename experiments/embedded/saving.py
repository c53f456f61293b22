"""Writing a model directory that stock Hugging Face classes load without a notice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["save_model"]


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> str:
    """Save model and tokenizer; returns the sha256 of the weights file."""
    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=40,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    # Written through a temporary file that only the owner may read; the model is for everybody.
    (directory / "model.safetensors").chmod(0o644)
    _drop_local_names(directory / "tokenizer_config.json")
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def _drop_local_names(path: Path) -> None:
    """Keep only what the tokenizer needs: where it was once loaded from is nobody's business."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    kept = {
        key: value for key, value in settings.items() if key not in {"name_or_path", "local_files_only", "is_local"}
    }
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
