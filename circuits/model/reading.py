"""Reading the residual stream at both half-layer positions of every layer, and every write, at the read-out token.

``hook_resid_mid`` is read (never edited: an edit would miss the skip connection); in parallel blocks, where no such state
exists, ``resid_pre + attn_out`` stands for it. The last ``resid_post`` is *before* the final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.model.anatomy import Model, Tokens
from circuits.model.running import Recording, record
from circuits.model.sites import Half
from circuits.prompts.datasets import Prompts

__all__ = ["Readings", "Writes", "capture", "capture_writes", "read_texts"]

Array = NDArray[np.float64]

_BATCH = 64


@dataclass(frozen=True)
class Readings:
    """States of some prompts.

    Attributes:
        prompts: the axis ``prompt``.
        values: at the read-out token, ``[prompt, state, d_model]``, states in stream order.
        spans: mean over the tokens from ``start`` on, same shape.
        neutral: the same spans of the neutral texts, ``[neutral, state, d_model]``; None when there are none.
        start: first token of the spans (0 is the first token of the text).
    """

    prompts: Prompts
    values: Array
    spans: Array
    neutral: Array | None
    start: int

    def where(self, mask: NDArray[np.bool_]) -> Readings:
        """The rows where ``mask`` [prompt] is true; neutral texts stay."""
        return Readings(self.prompts.where(mask), self.values[mask], self.spans[mask], self.neutral, self.start)


@dataclass(frozen=True)
class Writes:
    """What every head and neuron writes at the read-out token, and the states it adds up to.

    Attributes:
        heads: ``[prompt, layer, head, d_model]``, after any post-norm with its scale frozen to this run.
        activations: ``[prompt, layer, neuron]``; the write is the activation times ``neuron_weights``.
        factors: ``[prompt, layer, d_model]`` of the MLP's post-norm; None where there is none.
        biases: ``[prompt, layer, half, d_model]``: ``b_O`` and ``b_out``, after any post-norm.
        embed: token and position embedding, ``[prompt, d_model]``.
        states: ``[prompt, state, d_model]``.
    """

    prompts: Prompts
    heads: Tensor
    activations: Tensor
    factors: Tensor | None
    biases: Tensor
    embed: Tensor
    states: Tensor


def read_texts(
    model: Model, texts: Sequence[str], names: Sequence[str], *, start: int = 1, embed: bool = False
) -> Iterator[tuple[Array, Array]]:
    """Batch by batch, every state ``[text, state, d_model]`` at the last token, and its mean over the tokens from ``start`` on.

    With ``embed`` the embedding stands before the states.

    Raises:
        MeasurementError: a text is too long (by its name), or an activation is NaN or infinite.
    """
    for tokens, run in _runs(model, texts, names):
        spans = _stacked(run, partial(_span, tokens=tokens, start=start), embed)
        yield _stacked(run, tokens.at_readout, embed), spans


def capture(model: Model, prompts: Prompts, *, start: int = 1, embed: bool = False) -> Readings:
    """Both positions of every layer at the read-out token, and means over the tokens from ``start`` on.

    With ``embed`` the embedding, which enters the first half-layer, stands before them: one state more.

    Raises:
        MeasurementError: a text is too long, or an activation is NaN or infinite.
    """
    values, spans = zip(*read_texts(model, prompts.texts, prompts.ids, start=start, embed=embed), strict=True)
    neutral = None
    if prompts.neutral:
        texts, names = (
            list(prompts.neutral.values()),
            [f"neutral text of {scenario}" for scenario, _ in prompts.neutral],
        )
        runs = _runs(model, texts, names)
        parts = [_stacked(run, partial(_span, tokens=tokens, start=start), embed) for tokens, run in runs]
        neutral = np.concatenate(parts)
    return Readings(prompts, np.concatenate(values), np.concatenate(spans), neutral, start)


@torch.no_grad()
def capture_writes(model: Model, prompts: Prompts) -> Writes:
    """Every head's write and every neuron's activation at the read-out token."""
    kept: dict[str, list[Tensor]] = {name: [] for name in ("heads", "neurons", "factors", "biases", "embed", "states")}
    layers = range(model.n_layers)
    there = model.device  # layers of a large model may lie on several
    weights = torch.stack([model.W_O(layer).to(there) for layer in layers])
    bias = torch.stack([torch.stack([model.bias(layer, half).to(there) for half in Half]) for layer in layers])
    for tokens, run in _runs(model, prompts.texts, prompts.ids):
        write = torch.einsum(
            "blhd,lhdm->blhm", torch.stack([tokens.at_readout(t).to(there) for t in run.streams.z], 1), weights
        )
        constant = bias.expand(len(tokens), *bias.shape)
        if run.post_norm:
            factor = torch.stack(
                [
                    torch.stack([tokens.at_readout(run.post_norm[layer, half]).to(there) for half in Half], 1)
                    for layer in layers
                ],
                1,
            )
            write, constant = write * factor[:, :, :1], constant * factor
            kept["factors"].append(factor[:, :, 1])
        kept["heads"].append(write)
        kept["biases"].append(constant)
        kept["embed"].append(tokens.at_readout(run.embed))
        kept["neurons"].append(torch.stack([tokens.at_readout(t).to(there) for t in run.streams.post], 1))
        kept["states"].append(torch.stack([tokens.at_readout(t).to(there) for t in _states(run)], 1))
    whole = {name: torch.cat(parts) if parts else None for name, parts in kept.items()}
    return Writes(
        prompts=prompts,
        heads=_some(whole["heads"]),
        activations=_some(whole["neurons"]),
        factors=whole["factors"],
        biases=_some(whole["biases"]),
        embed=_some(whole["embed"]),
        states=_some(whole["states"]),
    )


def _some(tensor: Tensor | None) -> Tensor:
    assert tensor is not None  # prompts are never empty
    return tensor


def _runs(model: Model, texts: Sequence[str], names: Sequence[str]) -> Iterator[tuple[Tokens, Recording]]:
    for first in range(0, len(texts), _BATCH):
        tokens = model.encode(texts[first : first + _BATCH], names[first : first + _BATCH])
        yield tokens, record(model, tokens)


def _states(run: Recording) -> list[Tensor]:
    return [state for mid, post in zip(run.mid, run.pre[1:], strict=True) for state in (mid, post)]


def _stacked(run: Recording, read: Callable[[Tensor], Tensor], embed: bool) -> Array:
    places = [run.embed, *_states(run)] if embed else _states(run)
    values: Array = torch.stack([read(state).cpu() for state in places], 1).to(torch.float64).numpy()
    return values


def _span(state: Tensor, tokens: Tokens, start: int) -> Tensor:
    """Mean over real tokens from ``start`` on; a text that ends before it is read at its last token."""
    tokens = tokens.on(state.device)
    positions = torch.arange(state.shape[1], device=state.device)[None]
    wanted = (tokens.mask == 1) & ((positions >= start) | (positions == tokens.last[:, None]))
    weight = wanted.to(state)
    return torch.einsum("bp,bpm->bm", weight, state) / weight.sum(1, keepdim=True)
