"""Conservation laws that make attribution mean something, checked when a model is loaded (SCIENCE section 1).

If the writes of all components do not add up to the stream, or our read-out is not the model's own, then an "effect of a
head" is a number about something else. So every model is measured against these laws on a short prompt before anything
else, and refused with the law's name where one fails; families are never trusted by name.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from circuits.errors import LawError
from circuits.model.anatomy import Capabilities, Law, Model, Tokens
from circuits.model.readout import Readout
from circuits.model.running import Recording, record
from circuits.model.sites import Half
from circuits.prompts.emotions import EMOTIONS
from circuits.prompts.metrics import Answers

__all__ = ["check", "short_prompt"]

_BOUND = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest relative error by dtype; the float32 one is the definition's, half precision can only rule out gross breaks."""


def short_prompt(model_vocab: int, device: torch.device) -> Tokens:
    """Two fixed pseudo-texts of different length, so that padding is part of what is checked."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model_vocab, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 0, 0
    return Tokens(ids.to(device), mask.to(device), (mask.sum(1) - 1).to(device))


@torch.no_grad()
def check(model: Model, reference: Tensor | None = None) -> Capabilities:
    """``model.capabilities`` with the laws measured.

    ``reference`` are Hugging Face's logits for :func:`short_prompt`, taken before the model was wrapped; without it
    (a bridge built elsewhere) that law is left out.

    Raises:
        LawError: a law fails; the message names it, its error and the bound.
    """
    tokens = short_prompt(model.vocab, model.device)
    recording = record(model, tokens)
    logits = model.bridge(tokens.ids, attention_mask=tokens.mask, use_cache=False)
    bound = _BOUND.get(model.dtype, 1e-4)
    real = tokens.mask.bool()
    pairs = [*_half_layers(model, recording), *_sums(model, recording), _read_out(model, tokens, recording, logits)]
    if reference is not None:
        pairs.append(("logits = Hugging Face's logits", reference.to(logits), logits))
    laws = []
    for name, left, right in pairs:
        if left.shape[:2] == real.shape:
            left, right = left[real], right[real]
        error = (left - right).abs().max() / left.abs().max().clamp_min(1e-30)
        laws.append(Law(name, float(error), bound))
    for law in laws:
        if not law.holds:
            raise LawError(
                f"{model.name} breaks the law «{law.name}»: relative error {law.error:.2g}, expected at most "
                f"{law.bound:.0e}; head and neuron effects would not add up, so this model is not measured"
            )
    return replace(model.capabilities, laws=tuple(laws))


def _half_layers(model: Model, run: Recording) -> list[tuple[str, Tensor, Tensor]]:
    pairs = []
    for layer in range(model.n_layers):
        attn, mlp = run.streams.attn_out[layer], run.streams.mlp_out[layer]
        if model.capabilities.sequential:
            pairs.append((f"layer {layer}: resid_mid = resid_pre + attn_out", run.mid[layer], run.pre[layer] + attn))
            pairs.append((f"layer {layer}: resid_post = resid_mid + mlp_out", run.pre[layer + 1], run.mid[layer] + mlp))
        else:
            both = run.pre[layer] + attn + mlp
            pairs.append((f"layer {layer}: resid_post = resid_pre + attn_out + mlp_out", run.pre[layer + 1], both))
    return pairs


def _sums(model: Model, run: Recording) -> list[tuple[str, Tensor, Tensor]]:
    pairs = []
    total = run.embed
    for layer in range(model.n_layers):
        heads = torch.einsum("bphd,hdm->bpm", run.streams.z[layer], model.W_O(layer)) + model.bias(layer, Half.ATTN)
        if run.post_norm:
            heads = heads * run.post_norm[layer, Half.ATTN]
        pairs.append((f"layer {layer}: attn_out = sum of heads + b_O", run.streams.attn_out[layer], heads))
        total = total + heads
        if not model.capabilities.neurons:
            total = total + run.streams.mlp_out[layer]  # experts are one write
            continue
        neurons = run.streams.post[layer] @ model.W_out(layer) + model.bias(layer, Half.MLP)
        if run.post_norm:
            neurons = neurons * run.post_norm[layer, Half.MLP]
        pairs.append((f"layer {layer}: mlp_out = sum of neurons + b_out", run.streams.mlp_out[layer], neurons))
        total = total + neurons
    pairs.append(("final stream = sum of all writes", run.final, total))
    return pairs


def _read_out(model: Model, tokens: Tokens, run: Recording, logits: Tensor) -> tuple[str, Tensor, Tensor]:
    columns = list(range(len(EMOTIONS)))
    readout = Readout(model, Answers({e: (i,) for e, i in zip(EMOTIONS, columns, strict=True)}, ()))
    return "logits = our read-out of the final stream", logits[..., columns], readout.logits(run.final)
