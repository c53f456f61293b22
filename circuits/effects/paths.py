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

from circuits.effects.own import OwnTexts
from circuits.model.anatomy import Model
from circuits.model.readout import Readout
from circuits.model.running import Recording, record
from circuits.model.sites import Component, Half, Kind
from circuits.prompts.emotions import Emotion

__all__ = ["EMBED", "edge_scores"]

EMBED = "embed"
"""Source node: what the token (and position) embedding puts into the stream."""

Scores = dict[tuple[str, str], np.ndarray]


def edge_scores(
    model: Model, readout: Readout, texts: Sequence[OwnTexts], nodes: Sequence[Component], e: Emotion
) -> Scores:
    """First-order scores [logits] of every possible edge among ``embed``, ``nodes`` and the read-out of ``e``.

    ``nodes`` are heads and neurons, ``texts`` those of emotion ``e`` (:func:`circuits.effects.own.own_texts`). Each value
    has one entry per text, in the order of the texts.
    """
    order = sorted(nodes, key=lambda c: (c.layer, c.half is Half.MLP, c.index))
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for piece in texts:
        for edge, value in _piece_scores(model, readout, piece, order, e).items():
            parts.setdefault(edge, []).append(value)
    return {edge: np.concatenate(values) for edge, values in parts.items()}


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


def _piece_scores(model: Model, readout: Readout, texts: OwnTexts, order: list[Component], e: Emotion) -> Scores:
    run = record(model, texts.tokens, grad=True)
    leaves = {(c.kind, c.layer): run.streams.of(c.kind)[c.layer] for c in order}
    metric = readout(texts.tokens.at_readout(run.final))[:, e.column]
    gradients = dict(
        zip(leaves, torch.autograd.grad(metric.sum(), list(leaves.values()), retain_graph=True), strict=True)
    )
    heads = [c for c in order if c.kind is Kind.HEAD]
    neurons = [c for c in order if c.kind is Kind.NEURON]
    changes = _changes(model, texts, run, heads, neurons)
    sequential = model.capabilities.sequential
    scores: Scores = {}
    for receiver in order:
        slope = _slope(model, run, receiver, gradients[receiver.kind, receiver.layer])
        scores[EMBED, receiver.name] = torch.einsum("bpm,bpm->b", changes.embed, slope).cpu().numpy()
        # Both lists are in stream order, so what can reach the receiver is a leading part of each.
        some = sum(_precedes(c, receiver, sequential) for c in heads)
        found = torch.einsum("sbpm,bpm->sb", changes.heads[:some], slope).cpu().numpy()
        for sender, value in zip(heads, found, strict=False):
            scores[sender.name, receiver.name] = value
        some = sum(_precedes(c, receiver, sequential) for c in neurons)
        for sender, value in zip(neurons, _from_neurons(changes, some, slope), strict=False):
            scores[sender.name, receiver.name] = value
    for c, value in zip((*heads, *neurons), _direct(readout, texts, run, changes, e), strict=True):
        scores[c.name, str(e)] = value
    return scores


def _precedes(sender: Component, receiver: Component, sequential: bool) -> bool:
    """Whether the sender's write can reach the receiver's input."""
    if sender.layer != receiver.layer:
        return sender.layer < receiver.layer
    return sequential and sender.half is Half.ATTN and receiver.half is Half.MLP


def _slope(model: Model, run: Recording, receiver: Component, gradient: Tensor) -> Float[Tensor, "prompt pos d_model"]:
    """Gradient of the receiver's share of the metric with respect to the stream it reads, through its own half only."""
    activation = run.streams.of(receiver.kind)[receiver.layer]
    local = (activation[:, :, receiver.index] * gradient[:, :, receiver.index].detach()).sum()
    after_attention = receiver.kind is Kind.NEURON and model.capabilities.sequential
    source = run.mid[receiver.layer] if after_attention else run.pre[receiver.layer]
    (slope,) = torch.autograd.grad(local, source, retain_graph=True)
    return slope


@torch.no_grad()
def _changes(
    model: Model, texts: OwnTexts, run: Recording, heads: list[Component], neurons: list[Component]
) -> _Changes:
    z, post = texts.losses(run)
    embed = (run.embed - texts.embed) * texts.where[..., None]
    written = []
    for c in heads:
        write = z[c.layer][:, :, c.index] @ model.W_O(c.layer)[c.index]
        frozen = run.post_norm.get((c.layer, Half.ATTN))
        written.append(write if frozen is None else write * frozen)
    nothing = embed.new_zeros(0, *embed.shape)
    amounts = [post[c.layer][..., c.index] for c in neurons]
    vectors = [model.W_out(c.layer)[c.index] for c in neurons]
    return _Changes(
        embed=embed,
        heads=torch.stack(written) if written else nothing,
        amounts=torch.stack(amounts) if amounts else nothing[..., 0],
        writes=torch.stack(vectors) if vectors else embed.new_zeros(0, embed.shape[-1]),
        factors=tuple(run.post_norm.get((c.layer, Half.MLP)) for c in neurons),
    )


@torch.no_grad()
def _from_neurons(changes: _Changes, some: int, slope: Tensor) -> np.ndarray:
    """Scores [sender, prompt] of the first ``some`` neurons: their amounts times the slope along their write vectors."""
    if some and changes.factors[0] is not None:
        pairs = zip(changes.factors[:some], changes.writes[:some], strict=True)
        along = torch.stack([(slope * f) @ w for f, w in pairs if f is not None])
    else:
        along = torch.einsum("bpm,sm->sbp", slope, changes.writes[:some])
    scores: np.ndarray = (changes.amounts[:some] * along).sum(2).cpu().numpy()
    return scores


@torch.no_grad()
def _direct(readout: Readout, texts: OwnTexts, run: Recording, changes: _Changes, e: Emotion) -> np.ndarray:
    """Direct effects [component, prompt] of the heads, then of the neurons: each write removed from the final stream."""
    rows = torch.arange(len(texts.tokens), device=texts.where.device)
    stream = texts.tokens.at_readout(run.final)
    losses = changes.heads[:, rows, texts.tokens.last]
    parts = changes.amounts[:, rows, texts.tokens.last][..., None] * changes.writes[:, None]
    for i, frozen in enumerate(changes.factors):
        if frozen is not None:
            parts[i] = parts[i] * texts.tokens.at_readout(frozen)
    removed = torch.cat([losses, parts])
    found: np.ndarray = (readout(stream) - readout(stream - removed))[..., e.column].cpu().numpy()
    return found
