"""Edges exactly: path patching of one direct edge at a time, many side by side.

The weight of u→v is ``metric(clean) - metric(patched)`` where, in the patched run, v alone reads the stream without
what u loses by its ablation (normalised anew), v's activation is computed from that, and everything above v is
recomputed. Everything else that v does not feed is as in the clean run: all components between u and v keep their
clean activations. So a weight is the total effect of the change that u alone makes in v;
:mod:`circuits.effects.edges` is its derivative. For a part of a head (``L2H3<q>``) the head's other parts read the
clean stream; the weights of the three parts need not sum to that of the whole. A head that shares its keys and
values reads its own copy of them. Into the read-out a weight is the direct effect.

References: Wang et al. 2022 (path patching); Goldowsky-Dill et al. 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.chunks import chunk_size, in_chunks, threads_for
from circuits.effects.edges import direct_losses
from circuits.effects.kinds import Positions
from circuits.effects.losses import Losses, Receiver, Sender, precedes, receivers_in, senders_in
from circuits.errors import ComponentError, MeasurementError
from circuits.model.anatomy import Model
from circuits.model.resuming import Change
from circuits.model.sites import Component, Half, Input

__all__ = ["patched_edges", "path_effects"]

Edge = tuple[Sender, Receiver]


def path_effects(
    batch: Batch,
    edges: Iterable[tuple[Sender, Receiver | Component]],
    *,
    positions: Positions = Positions.ALL,
    size: int | None = None,
) -> Float[Tensor, "edge prompt emotion"]:
    """Exact weights [logits] of edges on all six metrics, in the order given.

    Senders are ``embed``, heads, neurons and half-layers; receivers heads, their parts, neurons, MLPs and ``readout``; names or
    values. ``size`` edges run side by side.

    Raises:
        ComponentError: an unknown end, or a sender that cannot reach its receiver directly.
        UnsupportedModelError: a head's part is named and the model is replayed.
        MeasurementError: a weight is NaN or infinite, or memory does not suffice.
    """
    return patched_edges(Losses.of_batch(batch, positions), edges, size=size, at_readout=positions is Positions.READOUT)


def patched_edges(
    losses: Losses,
    edges: Iterable[tuple[Sender, Receiver | Component]],
    *,
    size: int | None = None,
    at_readout: bool = False,
) -> Float[Tensor, "edge prompt emotion"]:
    """The same on any texts; ``at_readout`` where losses concern the read-out token alone."""
    model, resume = losses.model, losses.resume
    found = [_edge(model, *edge) for edge in edges]
    tokens = resume.tokens
    result = losses.readout(resume.clean).new_zeros(len(found), len(tokens), 6)
    into_readout = [i for i, (_, r) in enumerate(found) if isinstance(r, str)]
    if into_readout:
        result[into_readout] = direct_losses(losses, [found[i][0] for i in into_readout])
    inner = [(i, sender, r) for i, (sender, r) in enumerate(found) if isinstance(r, Input)]
    # Upward, edges into the same input side by side.
    inner.sort(key=lambda edge: (edge[2].component.layer, edge[2].component.half is Half.MLP, edge[2].name))
    clean = losses.readout(resume.clean)

    @torch.no_grad()
    def work(start: int, stop: int) -> Tensor:
        changes = []
        for place, group in groupby(inner[start:stop], key=lambda edge: edge[2]):
            changes.append(_change(losses, place, [sender for _, sender, _ in group], at_readout))
        return clean - losses.readout(resume.after(changes, at_readout=at_readout))

    size = size or chunk_size(model, tokens.ids.numel())
    with threads_for(resume) as threads:
        for start, stop, values in in_chunks(len(inner), size, work, threads=threads):
            result[[i for i, _, _ in inner[start:stop]]] = values
    broken = torch.nonzero(~torch.isfinite(result))
    if len(broken):
        (sender, receiver), text = found[int(broken[0, 0])], int(broken[0, 1])
        raise MeasurementError(
            f"the edge {sender} to {receiver} is not finite on text {text} of the batch; measure in float32"
        )
    return result


def _edge(model: Model, sender: Sender, receiver: Receiver | Component) -> Edge:
    (one,), (other,) = senders_in(model, [sender]), receivers_in(model, [receiver])
    if not precedes(model, one, other):
        raise ComponentError(f"{one} cannot reach {other} directly: it writes above or beside what {other} reads")
    return one, other


def _change(losses: Losses, place: Input, senders: list[Sender], at_readout: bool) -> Change:
    """What the receiver's half-layer gains when its input lacks each sender's loss."""
    component, run = place.component, losses.run
    after = component.half is Half.MLP and losses.model.capabilities.sequential
    clean = (run.mid if after else run.pre)[component.layer]
    change = losses.resume.reheard(place, clean - losses.written(senders).to(clean.device))
    if not at_readout:
        return change
    return Change(change.layer, change.half, losses.resume.picked(change.amount), change.write)
