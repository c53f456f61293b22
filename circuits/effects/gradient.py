"""Total effects to first order, for everything at once: attribution patching and its integrated forms.

``effect ≈ Σ_pos ⟨clean - ablated activation, ∂metric/∂activation⟩``. What differs is where the gradient is taken:

* at the clean run (:func:`first_order`, AtP): one forward and one backward a metric for every head, neuron and half-layer;
* on the way between the embedding that ablation leaves and the clean one (:func:`integrated_inputs`): the mean over m
  midpoints, m times the price;
* on the way between a layer's ablated and clean activation (:func:`integrated_activations`): the same for each kind and
  layer, resumed there. The effects of one kind and layer then sum to what ablating all of them together costs, up to an
  error that falls with the square of m.

AtP is good for single neurons (Pearson about .997 with the exact effect on trained toys), and badly wrong for whole
half-layers and early heads, where the model bends between the two points: use the exact effect there. The gradient of
attention output is taken at ``hook_attn_out``; at ``resid_mid`` it would miss the skip connection.

References: Nanda 2023 (attribution patching); Kramár et al. 2024, AtP*, eq. 4; Sundararajan et al. 2017, eq. 3 (integrated
gradients); Hanna et al. 2024 (EAP-IG, along inputs); Marks et al. 2024, eq. 4 (along activations).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.kinds import Positions
from circuits.model.resuming import Instead, Trace
from circuits.model.sites import Kind
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["Place", "Scores", "by_position", "first_order", "integrated_activations", "integrated_inputs"]

Place = tuple[Kind, int]
"""All components of one kind in one layer."""

Scores = dict[Place, Float[Tensor, "_component prompt emotion"]]
"""Effects [logits]; half-layers have a component axis of length one."""

_BATCHED_FLOATS = 3_000_000


def first_order(
    batch: Batch, positions: Positions, places: Iterable[Place], emotions: Sequence[Emotion] = EMOTIONS
) -> Scores:
    """AtP effects [logits] at the clean run; the last axis is ``emotions``, one backward each."""
    trace = batch.resume.trace(_leaf(batch.run.pre[0]))
    return _scored(batch, positions, trace, list(places), emotions)


def integrated_inputs(batch: Batch, positions: Positions, places: Iterable[Place], steps: int) -> Scores:
    """Effects [logits] by gradients on the way from the replaced to the clean embedding, ``steps`` midpoints.

    The embedding is moved where the ablation applies.
    """
    wanted = list(places)
    where = batch.where(positions)[..., None]
    clean, way = batch.run.pre[0], where * (batch.run.pre[0] - batch.replaced_embed)
    total: Scores = {}
    for share in midpoints(steps):
        trace = batch.resume.trace(_leaf(clean - (1 - share) * way))
        _add(total, _scored(batch, positions, trace, wanted), steps)
    return total


def integrated_activations(batch: Batch, positions: Positions, places: Iterable[Place], steps: int) -> Scores:
    """Effects [logits] by gradients on the way from a place's replaced to its clean activation, ``steps`` midpoints."""
    total: Scores = {}
    for kind, layer in places:
        clean, replaced = batch.run.streams.of(kind)[layer], batch.replaced.of(kind)[layer]
        where = batch.where(positions).to(clean.device).reshape(*clean.shape[:2], *[1] * (clean.dim() - 2))
        way = where * (clean - replaced)
        for share in midpoints(steps):
            here = Instead(kind, _leaf(clean - (1 - share) * way))
            trace = batch.resume.trace(batch.run.pre[layer], layer=layer, instead=here)
            _add(total, _scored(batch, positions, trace, [(kind, layer)]), steps)
    return total


def midpoints(steps: int) -> list[float]:
    """The middles of ``steps`` equal parts of the way: an error that falls with the square of ``steps``."""
    return [(step + 0.5) / steps for step in range(steps)]


def by_position(batch: Batch, positions: Positions, place: Place) -> Float[Tensor, "component prompt pos emotion"]:
    """AtP effects [logits] of one kind and layer, token by token; zero at padding."""
    trace = batch.resume.trace(_leaf(batch.run.pre[0]))
    (gradients,) = _gradients(batch, trace, [_tensor(trace, place)])
    change = _change(batch, positions, place, gradients.shape[2])
    if place[0] is Kind.HEAD:
        scores = torch.einsum("bphd,ebphd->hbpe", change, gradients)
    elif place[0] is Kind.NEURON:
        scores = torch.einsum("bpn,ebpn->nbpe", change, gradients)
    else:
        scores = torch.einsum("bpm,ebpm->bpe", change, gradients)[None]
    if scores.shape[2] == 1 < batch.tokens.ids.shape[1]:
        whole = scores.new_zeros(*scores.shape[:2], batch.tokens.ids.shape[1], len(EMOTIONS))
        whole[:, torch.arange(len(batch.tokens), device=whole.device), batch.tokens.last] = scores[:, :, 0]
        return whole
    return scores


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(True)


def _tensor(trace: Trace, place: Place) -> Tensor:
    kind, layer = place
    return trace.of(kind)[layer - trace.layer]


def _gradients(batch: Batch, trace: Trace, tensors: Sequence[Tensor]) -> list[Float[Tensor, "emotion prompt ..."]]:
    """Gradients of the six metrics, summed over prompts: each prompt's metric depends on its own activations only."""
    with torch.enable_grad():
        metric = batch.readout(trace.final)
    rows = []
    for e in EMOTIONS:
        last = e.column == len(EMOTIONS) - 1
        rows.append(torch.autograd.grad(metric[:, e.column].sum(), tensors, retain_graph=not last))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _scored(
    batch: Batch, positions: Positions, trace: Trace, places: Sequence[Place], emotions: Sequence[Emotion] = EMOTIONS
) -> Scores:
    tensors = [_tensor(trace, place) for place in places]
    with torch.enable_grad():
        metric = batch.readout(trace.final)
    changes = [_change(batch, positions, place, t.shape[1]) for place, t in zip(places, tensors, strict=True)]
    found: dict[Place, list[Tensor]] = {place: [] for place in places}
    for e in emotions:
        last = e is emotions[-1]
        gradients = torch.autograd.grad(metric[:, e.column].sum(), tensors, retain_graph=not last)
        for place, change, gradient in zip(places, changes, gradients, strict=True):
            found[place].append(_summed(place[0], change, gradient))
    return {place: torch.stack(scores, -1) for place, scores in found.items()}


def _summed(kind: Kind, change: Tensor, gradient: Tensor) -> Float[Tensor, "component prompt"]:
    """Change times gradient, summed over positions and over what belongs to one component."""
    if kind is Kind.HEAD:
        return torch.einsum("bphd,bphd->hb", change, gradient)
    if kind is Kind.NEURON:
        return torch.einsum("bpn,bpn->nb", change, gradient)
    return torch.einsum("bpm,bpm->b", change, gradient)[None]


def _change(batch: Batch, positions: Positions, place: Place, pos: int) -> Tensor:
    """Clean minus replaced activation where the ablation applies; at the read-out token alone where the trace is so."""
    kind, layer = place
    clean, replaced = batch.run.streams.of(kind)[layer], batch.replaced.of(kind)[layer]
    if pos < clean.shape[1]:
        return (batch.tokens.at_readout(clean) - batch.tokens.at_readout(replaced))[:, None]
    where = batch.where(positions).to(clean.device)
    return (clean - replaced) * where.reshape(*where.shape, *[1] * (clean.dim() - 2))


def _add(total: Scores, scores: Scores, steps: int) -> None:
    for place, value in scores.items():
        total[place] = total[place] + value / steps if place in total else value / steps
