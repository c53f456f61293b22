"""Edges between components, to first order (edge attribution patching).

The direct edge u→v is the part of v's effect that u's write causes by changing v's own input, everything between left as it
was: ``⟨write_u(clean) - write_u(ablated), ∂⟨v's activation, g_v⟩/∂(v's input)⟩`` with ``g_v = ∂metric/∂(v's activation)`` held
fixed. The input of a head is ``resid_pre`` through the attention half only, the input of a neuron ``resid_mid`` through the
MLP half only, so skip connections do not leak in. The edge u→read-out is u's direct effect, in closed form.

Reference: Syed et al. 2023 (edge attribution patching); Nanda 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch, Plan
from circuits.effects.direct import direct_effect
from circuits.effects.kinds import Positions
from circuits.model.sites import Component, Half, Kind
from circuits.prompts.emotions import Emotion

__all__ = ["EMBED", "edge_scores"]

EMBED = "embed"
"""Source node: what the token (and position) embedding puts into the stream."""


def edge_scores(
    plan: Plan, nodes: Sequence[Component], e: Emotion, positions: Positions
) -> dict[tuple[str, str], np.ndarray]:
    """First-order scores [logits] of every possible edge among ``embed``, ``nodes`` and the read-out of ``e``.

    ``nodes`` are heads and neurons. Each value has one entry per prompt of emotion ``e``, in the order of the prompts.
    """
    order = sorted(nodes, key=lambda c: (c.layer, c.half is Half.MLP, c.index))
    rows: list[np.ndarray] = []
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for batch in plan.batches(grad=True):
        mine = torch.tensor(np.flatnonzero(batch.prompts.emotions == e.column), device=batch.tokens.ids.device)
        if not len(mine):
            continue
        rows.append(batch.rows[mine.cpu().numpy()])
        for edge, value in _batch_scores(batch, order, e, positions, mine).items():
            parts.setdefault(edge, []).append(value)
    place = np.argsort(np.concatenate(rows)) if rows else np.array([], dtype=int)
    return {edge: np.concatenate(values)[place] for edge, values in parts.items()}


def _batch_scores(
    batch: Batch, order: list[Component], e: Emotion, positions: Positions, mine: Tensor
) -> dict[tuple[str, str], np.ndarray]:
    leaves = [batch.run.streams.of(c.kind)[c.layer] for c in order]
    unique = {id(t): t for t in leaves}
    gradients = dict(
        zip(
            unique,
            torch.autograd.grad(batch.clean[:, e.column].sum(), list(unique.values()), retain_graph=True),
            strict=True,
        )
    )
    where = batch.where(positions)[mine]
    changes = torch.stack(
        [_embedding_change(batch, where, mine), *(_write_change(batch, c, where, mine) for c in order)]
    )
    scores: dict[tuple[str, str], np.ndarray] = {}
    for receiver in order:
        slope = _slope(batch, receiver, gradients[id(batch.run.streams.of(receiver.kind)[receiver.layer])])[mine]
        # ``order`` is the stream's order, so everything that can reach the receiver is a leading part of it.
        senders = [c for c in order if _precedes(c, receiver)]
        products = _score(changes[: len(senders) + 1], slope)
        for sender, product in zip((EMBED, *(c.name for c in senders)), products, strict=True):
            scores[sender, receiver.name] = product
    for kind, layer in sorted({(c.kind, c.layer) for c in order}, key=str):
        direct = direct_effect(batch, kind, layer)[:, mine, e.column].cpu().numpy()
        for c in order:
            if (c.kind, c.layer) == (kind, layer):
                scores[c.name, str(e)] = direct[c.index]
    return scores


def _slope(batch: Batch, receiver: Component, gradient: Tensor) -> Float[Tensor, "prompt pos d_model"]:
    """Gradient of the receiver's share of the metric with respect to the stream it reads, through its own half only."""
    activation = batch.run.streams.of(receiver.kind)[receiver.layer]
    if receiver.kind is Kind.HEAD:
        local = (activation[:, :, receiver.index] * gradient[:, :, receiver.index].detach()).sum()
        source = batch.run.pre[receiver.layer]
    else:
        local = (activation[..., receiver.index] * gradient[..., receiver.index].detach()).sum()
        source = batch.run.mid[receiver.layer] if batch.model.capabilities.sequential else batch.run.pre[receiver.layer]
    (slope,) = torch.autograd.grad(local, source, retain_graph=True)
    return slope


def _precedes(sender: Component, receiver: Component) -> bool:
    """Whether the sender's write can reach the receiver's input."""
    if sender.layer != receiver.layer:
        return sender.layer < receiver.layer
    return sender.half is Half.ATTN and receiver.half is Half.MLP


@torch.no_grad()
def _write_change(batch: Batch, c: Component, where: Tensor, mine: Tensor) -> Float[Tensor, "prompt pos d_model"]:
    """What the stream loses when the component is ablated, at every ablated position."""
    clean, replaced = batch.run.streams.of(c.kind)[c.layer], batch.replaced.of(c.kind)[c.layer]
    if c.kind is Kind.HEAD:
        write = (clean[mine, :, c.index] - replaced[mine, :, c.index]) @ batch.model.W_O(c.layer)[c.index]
    else:
        write = (clean[mine, :, c.index] - replaced[mine, :, c.index])[..., None] * batch.model.W_out(c.layer)[c.index]
    frozen = batch.run.post_norm.get((c.layer, c.half))
    if frozen is not None:
        write = write * frozen[mine]
    return write * where[..., None]


@torch.no_grad()
def _embedding_change(batch: Batch, where: Tensor, mine: Tensor) -> Float[Tensor, "prompt pos d_model"]:
    """Embedding minus its replacement, under the same ablation as every other write."""
    return (batch.run.embed - batch.replaced_embed)[mine] * where[..., None]


@torch.no_grad()
def _score(
    changes: Float[Tensor, "sender prompt pos d_model"], slope: Float[Tensor, "prompt pos d_model"]
) -> np.ndarray:
    values: np.ndarray = torch.einsum("sbpm,bpm->sb", changes, slope).cpu().numpy()
    return values
