"""Edges between components, to first order (edge attribution patching).

The direct edge u→v is the part of v's effect that u's write causes by changing v's own input, everything between left as it
was: ``⟨write_u(clean) - write_u(ablated), ∂⟨v's activation, g_v⟩/∂(v's input)⟩`` with ``g_v = ∂metric/∂(v's activation)`` held
fixed. The input of a head is ``resid_pre`` through the attention half only, the input of a neuron ``resid_mid`` through the
MLP half only, so skip connections do not leak in. The edge u→read-out is u's direct effect, in closed form.

Reference: Syed et al. 2023 (edge attribution patching); Nanda 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch, Plan
from circuits.effects.direct import direct_effect
from circuits.effects.kinds import Positions
from circuits.model.anatomy import Tokens
from circuits.model.running import Recording, record
from circuits.model.sites import Component, Half, Kind
from circuits.prompts.emotions import Emotion

__all__ = ["EMBED", "edge_scores"]

EMBED = "embed"
"""Source node: what the token (and position) embedding puts into the stream."""

Scores = dict[tuple[str, str], np.ndarray]


def edge_scores(plan: Plan, nodes: Sequence[Component], e: Emotion, positions: Positions) -> Scores:
    """First-order scores [logits] of every possible edge among ``embed``, ``nodes`` and the read-out of ``e``.

    ``nodes`` are heads and neurons. Each value has one entry per prompt of emotion ``e``, in the order of the prompts.
    """
    order = sorted(nodes, key=lambda c: (c.layer, c.half is Half.MLP, c.index))
    rows: list[np.ndarray] = []
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for batch in plan.batches():
        mine = np.flatnonzero(batch.prompts.emotions == e.column)
        if not len(mine):
            continue
        rows.append(batch.rows[mine])
        for edge, value in _batch_scores(batch, order, e, positions, torch.tensor(mine)).items():
            parts.setdefault(edge, []).append(value)
    place = np.argsort(np.concatenate(rows)) if rows else np.array([], dtype=int)
    return {edge: np.concatenate(values)[place] for edge, values in parts.items()}


@dataclass(frozen=True)
class _Changes:
    """What the stream loses when each sender is ablated, at every ablated position.

    A neuron's loss is an amount times its write vector, so only the amount is kept per position.
    """

    embed: Float[Tensor, "prompt pos d_model"]
    heads: Float[Tensor, "sender prompt pos d_model"]
    amounts: Float[Tensor, "sender prompt pos"]
    writes: Float[Tensor, "sender d_model"]
    factors: tuple[Tensor | None, ...]


def _batch_scores(batch: Batch, order: list[Component], e: Emotion, positions: Positions, mine: Tensor) -> Scores:
    mine = mine.to(batch.tokens.ids.device)
    # Gradients are needed on the emotion's own texts only; the other five served to make the replacement values.
    tokens = Tokens(batch.tokens.ids[mine], batch.tokens.mask[mine], batch.tokens.last[mine])
    run = record(batch.model, tokens, grad=True)
    leaves = {(c.kind, c.layer): run.streams.of(c.kind)[c.layer] for c in order}
    metric = batch.readout(tokens.at_readout(run.final))[:, e.column].sum()
    gradients = dict(zip(leaves, torch.autograd.grad(metric, list(leaves.values()), retain_graph=True), strict=True))
    where = batch.where(positions)[mine]
    heads = [c for c in order if c.kind is Kind.HEAD]
    neurons = [c for c in order if c.kind is Kind.NEURON]
    changes = _changes(batch, heads, neurons, where, mine)
    scores: Scores = {}
    for receiver in order:
        slope = _slope(batch, run, receiver, gradients[receiver.kind, receiver.layer])
        scores[EMBED, receiver.name] = torch.einsum("bpm,bpm->b", changes.embed, slope).cpu().numpy()
        # Both lists are in stream order, so what can reach the receiver is a leading part of each.
        some = sum(_precedes(c, receiver) for c in heads)
        found = torch.einsum("sbpm,bpm->sb", changes.heads[:some], slope).cpu().numpy()
        for sender, value in zip(heads, found, strict=False):
            scores[sender.name, receiver.name] = value
        some = sum(_precedes(c, receiver) for c in neurons)
        for sender, value in zip(neurons, _from_neurons(changes, some, slope), strict=False):
            scores[sender.name, receiver.name] = value
    for kind, layer in leaves:
        direct = direct_effect(batch, kind, layer)[:, mine, e.column].cpu().numpy()
        scores |= {(c.name, str(e)): direct[c.index] for c in order if (c.kind, c.layer) == (kind, layer)}
    return scores


def _precedes(sender: Component, receiver: Component) -> bool:
    """Whether the sender's write can reach the receiver's input."""
    if sender.layer != receiver.layer:
        return sender.layer < receiver.layer
    return sender.half is Half.ATTN and receiver.half is Half.MLP


def _slope(batch: Batch, run: Recording, receiver: Component, gradient: Tensor) -> Float[Tensor, "prompt pos d_model"]:
    """Gradient of the receiver's share of the metric with respect to the stream it reads, through its own half only."""
    activation = run.streams.of(receiver.kind)[receiver.layer]
    local = (activation[:, :, receiver.index] * gradient[:, :, receiver.index].detach()).sum()
    after_attention = receiver.kind is Kind.NEURON and batch.model.capabilities.sequential
    source = run.mid[receiver.layer] if after_attention else run.pre[receiver.layer]
    (slope,) = torch.autograd.grad(local, source, retain_graph=True)
    return slope


@torch.no_grad()
def _changes(batch: Batch, heads: list[Component], neurons: list[Component], where: Tensor, mine: Tensor) -> _Changes:
    def loss(c: Component) -> Tensor:
        clean, replaced = batch.run.streams.of(c.kind)[c.layer], batch.replaced.of(c.kind)[c.layer]
        return clean[mine, :, c.index] - replaced[mine, :, c.index]

    embed = (batch.run.embed - batch.replaced_embed)[mine] * where[..., None]
    written = [loss(c) @ batch.model.W_O(c.layer)[c.index] * where[..., None] for c in heads]
    for i, c in enumerate(heads):
        frozen = batch.run.post_norm.get((c.layer, Half.ATTN))
        if frozen is not None:
            written[i] = written[i] * frozen[mine]
    nothing = embed.new_zeros(0, *embed.shape)
    amounts = [loss(c) * where for c in neurons]
    vectors = [batch.model.W_out(c.layer)[c.index] for c in neurons]
    factors = tuple(batch.run.post_norm.get((c.layer, Half.MLP)) for c in neurons)
    return _Changes(
        embed=embed,
        heads=torch.stack(written) if written else nothing,
        amounts=torch.stack(amounts) if amounts else nothing[..., 0],
        writes=torch.stack(vectors) if vectors else embed.new_zeros(0, embed.shape[-1]),
        factors=tuple(None if f is None else f[mine] for f in factors),
    )


@torch.no_grad()
def _from_neurons(changes: _Changes, some: int, slope: Tensor) -> np.ndarray:
    """Scores [sender, prompt] of the first ``some`` neurons: their amounts times the slope along their write vectors."""
    if some and changes.factors[0] is not None:
        along = torch.stack(
            [
                (slope * f) @ w
                for f, w in zip(changes.factors[:some], changes.writes[:some], strict=True)
                if f is not None
            ]
        )
        values: np.ndarray = (changes.amounts[:some] * along).sum(2).cpu().numpy()
        return values
    along = torch.einsum("bpm,sm->sbp", slope, changes.writes[:some])
    return (changes.amounts[:some] * along).sum(2).cpu().numpy()
