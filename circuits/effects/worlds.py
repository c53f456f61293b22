"""Path patching where something is already ablated: edges that only show when what stands in for them is gone.

A *world* K is the model with the set K of heads and neurons replaced. The weight of u→v in K is ``metric(K) -
metric(K, patched)``: as in :mod:`circuits.effects.patching`, but u loses what it writes *in K*, v reads the stream of K
without that, everything above v is recomputed, and K stays replaced all along. In the world of nothing the weights are those of
path patching. An edge into one of two heads that can replace each other weighs nothing in the whole model and everything in the
world without the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.edges import direct_losses
from circuits.effects.keeping import metric_keeping, subsets_of
from circuits.effects.losses import Losses, Receiver, Sender, precedes
from circuits.effects.own import OwnTexts
from circuits.errors import ComponentError, MeasurementError
from circuits.model.anatomy import Model
from circuits.model.readout import Readout
from circuits.model.resuming import Replaced
from circuits.model.running import Hook, Recording, hook_name, hooked, record
from circuits.model.sites import Component, Half, Input, Kind

__all__ = ["patched_in_world"]


@dataclass(frozen=True)
class _Within(Losses):
    """Losses in a world: what a write differs from its replacement by when the world runs."""

    world: Recording

    @property
    def run(self) -> Recording:
        return self.world


@torch.no_grad()
def patched_in_world(
    model: Model,
    readout: Readout,
    texts: OwnTexts,
    without: Collection[Component],
    edges: Sequence[tuple[Sender, Receiver]],
) -> Float[Tensor, "edge prompt emotion"]:
    """Exact weights [logits] of edges in the world without some heads and neurons, on all six metrics, in the order given.

    Each edge takes a forward of the texts, edges into different receivers side by side; edges into the read-out take none.

    Raises:
        ComponentError: an end is itself ablated, a receiver is neither a whole head, a neuron nor the read-out, or the sender
            cannot reach it directly.
        MeasurementError: a weight is NaN or infinite, or memory does not suffice.
    """
    gone = frozenset(without)
    for sender, receiver in edges:
        _require(model, gone, sender, receiver)
    clean = Losses.of_texts(model, readout, texts)
    with hooked(model, _ablated(model, texts, gone)):
        world = record(model, texts.tokens)
    there = _Within(model, readout, clean.resume, clean.where, clean.embed, clean.replaced, world)
    result = readout(clean.resume.clean).new_zeros(len(edges), len(texts.rows), 6)
    into_readout = [i for i, (_, r) in enumerate(edges) if isinstance(r, str)]
    if into_readout:
        result[into_readout] = direct_losses(there, [edges[i][0] for i in into_readout])
    waiting: dict[Input, list[int]] = {}
    for i, (_, receiver) in enumerate(edges):
        if isinstance(receiver, Input):
            waiting.setdefault(receiver, []).append(i)
    patched = {place: _patched(there, place, [edges[i][0] for i in index]) for place, index in waiting.items()}
    kept = frozenset((*model.heads, *(model.neurons if model.capabilities.neurons else ()))) - gone
    if waiting:
        (base,) = metric_keeping(clean.resume, readout, texts.replaced, subsets_of(model, [kept]))
    # One sender of each receiver at a time: a receiver that is not kept takes the value that stands for it.
    for turn in range(max(map(len, waiting.values()), default=0)):
        places = [place for place, index in waiting.items() if turn < len(index)]
        instead = _standing(texts, {place.component: patched[place][turn] for place in places})
        subsets = subsets_of(model, [kept - {place.component} for place in places])
        found = metric_keeping(clean.resume, readout, instead, subsets)
        result[[waiting[place][turn] for place in places]] = base - found
    broken = torch.nonzero(~torch.isfinite(result))
    if len(broken):
        source, target = edges[int(broken[0, 0])]
        raise MeasurementError(f"the edge {source} to {target} is not finite in a world; measure in float32")
    return result


def _require(model: Model, gone: frozenset[Component], sender: Sender, receiver: Receiver) -> None:
    ends = {sender, receiver.component if isinstance(receiver, Input) else receiver}
    for end in ends & gone:
        raise ComponentError(f"{end} is ablated in this world; leave out the edge {sender} to {receiver}")
    if isinstance(receiver, Input) and (receiver.part or receiver.component.kind not in (Kind.HEAD, Kind.NEURON)):
        raise ComponentError(f"{receiver} is no whole head and no neuron; in a world edges enter those or the read-out")
    if not precedes(model, sender, receiver):
        raise ComponentError(f"{sender} cannot reach {receiver} directly: it writes above or beside what it reads")


def _ablated(model: Model, texts: OwnTexts, gone: Collection[Component]) -> dict[str, Hook]:
    """Hooks that replace some heads and neurons where the ablation applies."""

    def hook_for(replaced: Tensor, index: list[int]) -> Hook:
        def hook(own: Tensor) -> Tensor:
            new = own.clone()
            where = texts.where.to(own).reshape(*texts.where.shape, *[1] * (own.dim() - 2)) == 1
            new[:, :, index] = torch.where(where, replaced[:, :, index].to(own), own[:, :, index])
            return new

        return hook

    hooks: dict[str, Hook] = {}
    for kind, values in ((Kind.HEAD, texts.z), (Kind.NEURON, texts.post)):
        for layer in range(model.n_layers):
            index = sorted(c.index for c in gone if c.kind is kind and c.layer == layer)
            if index:
                hooks[hook_name(layer, kind)] = hook_for(values[layer], index)
    return hooks


def _patched(there: _Within, place: Input, senders: Sequence[Sender]) -> Tensor:
    """The receiver's activation when it reads the world without each sender's loss, ``[sender, prompt, pos, rank]``."""
    component = place.component
    after = component.half is Half.MLP and there.model.capabilities.sequential
    stream = (there.run.mid if after else there.run.pre)[component.layer]
    # What it gains over the clean run, where all else of it comes from.
    gain = there.resume.reheard(place, stream - there.written(senders).to(stream.device)).amount
    clean = there.resume.run.streams.of(component.kind)[component.layer][:, :, component.index]
    return gain + (clean[..., None] if component.kind is Kind.NEURON else clean).to(gain)


def _standing(texts: OwnTexts, values: dict[Component, Tensor]) -> Replaced:
    """The replacement values with those of some components put in."""
    z, post = list(texts.z), list(texts.post)
    for kind, tensors in ((Kind.HEAD, z), (Kind.NEURON, post)):
        for layer in {c.layer for c in values if c.kind is kind}:
            tensors[layer] = tensors[layer].clone()
    for component, value in values.items():
        if component.kind is Kind.HEAD:
            z[component.layer][:, :, component.index] = value
        else:
            post[component.layer][:, :, component.index] = value[..., 0]
    return Replaced(tuple(z), tuple(post), texts.where)
