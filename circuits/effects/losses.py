"""What the stream loses when a sender is ablated: the numerator of every edge, estimated or exact.

A sender is the embedding (``embed``), a head, a neuron or a half-layer as a whole; its loss is ``write(clean) -
write(ablated)`` wherever the ablation applies. Behind a post-norm a head's and a neuron's write is taken with the
norm's factor frozen to the clean run (SCIENCE section 1). Biases stay, so they lose nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.kinds import Positions
from circuits.effects.own import OwnTexts
from circuits.errors import ComponentError, MeasurementError
from circuits.model.anatomy import Model
from circuits.model.readout import Readout
from circuits.model.resuming import Resumer
from circuits.model.running import Recording, record
from circuits.model.sites import Component, Half, Input, Kind, parse, parse_input
from circuits.model.ways import resumer

__all__ = ["EMBED", "READOUT", "Losses", "Receiver", "Sender", "precedes", "receivers_in", "senders_in"]

EMBED = "embed"
"""Source node: what the token (and position) embedding puts into the stream."""

READOUT = "readout"
"""Receiver: the final stream at the read-out token, as the six metrics read it."""

Sender = Component | str
"""A component, or ``embed``."""

Receiver = Input | str
"""A component's input, or ``readout``."""


@dataclass(frozen=True)
class Losses:
    """Some texts, their clean run, and what stands for each write when it is ablated.

    Attributes:
        where: 1 where an ablation applies, ``[prompt, pos]``.
        embed: what stands for the embedding, ``[prompt, pos, d_model]``.
        replaced: what stands for the activations of a kind, one tensor a layer.
    """

    model: Model
    readout: Readout
    resume: Resumer
    where: Float[Tensor, "prompt pos"]
    embed: Tensor
    replaced: Mapping[Kind, Sequence[Tensor]]

    @classmethod
    def of_batch(cls, batch: Batch, positions: Positions) -> Losses:
        """Of a batch of whole scenarios."""
        replaced = {kind: batch.replaced.of(kind) for kind in Kind}
        return cls(batch.model, batch.readout, batch.resume, batch.where(positions), batch.replaced_embed, replaced)

    @classmethod
    def of_texts(cls, model: Model, readout: Readout, texts: OwnTexts) -> Losses:
        """Of texts of one emotion, which are run once more; half-layers as a whole have no replacement there."""
        resume = resumer(model, record(model, texts.tokens))
        return cls(model, readout, resume, texts.where, texts.embed, {Kind.HEAD: texts.z, Kind.NEURON: texts.post})

    @property
    def run(self) -> Recording:
        return self.resume.run

    @property
    def way(self) -> Float[Tensor, "prompt pos d_model"]:
        """Loss of the embedding."""
        return (self.run.embed - self.embed) * self.where[..., None]

    def amounts(self, kind: Kind, layer: int) -> Tensor:
        """Clean minus replaced activations of a kind and layer where the ablation applies, ``[prompt, pos, ..]``.

        Raises:
            MeasurementError: these texts come without a replacement for the kind.
        """
        if kind not in self.replaced:
            raise MeasurementError(
                f"no replacement is known for {kind} half-layers of these texts; name heads and neurons"
            )
        clean = self.run.streams.of(kind)[layer]
        where = self.where.to(clean.device)
        return (clean - self.replaced[kind][layer]) * where.reshape(*where.shape, *[1] * (clean.dim() - 2))

    def factor(self, layer: int, half: Half) -> Tensor | None:
        """A post-norm's frozen factor ``[prompt, pos, d_model]``; None where there is none."""
        return self.run.post_norm.get((layer, half))

    @torch.no_grad()
    def written(self, senders: Sequence[Sender]) -> Float[Tensor, "sender prompt pos d_model"]:
        """The losses written out."""
        first = self.run.embed
        found = first.new_empty(len(senders), *first.shape)
        amounts: dict[tuple[Kind, int], Tensor] = {}
        for row, sender in zip(found, senders, strict=True):
            if isinstance(sender, str):
                row.copy_(self.way)
                continue
            kind, layer, index = sender.kind, sender.layer, sender.index
            if (kind, layer) not in amounts:
                amounts[kind, layer] = self.amounts(kind, layer)
            lost = amounts[kind, layer]
            if kind in (Kind.ATTN, Kind.MLP):
                row.copy_(lost)
                continue
            if kind is Kind.HEAD:
                write = lost[:, :, index] @ self.model.W_O(layer)[index]
            else:
                write = lost[..., index, None] * self.model.W_out(layer)[index]
            frozen = self.factor(layer, sender.half)
            row.copy_(write if frozen is None else write * frozen)
        return found


def senders_in(model: Model, names: Iterable[Sender]) -> tuple[Sender, ...]:
    """The senders meant by names or components, those near the embedding first.

    Raises:
        ComponentError: one is malformed, unknown to the model or listed twice.
    """
    found = [one if isinstance(one, Component) or one == EMBED else parse(one) for one in names]
    for one in found:
        if isinstance(one, Component):
            model.require(one)
    _require_once(found)
    return tuple(sorted(found, key=_height))


def receivers_in(model: Model, names: Iterable[Receiver | Component]) -> tuple[Receiver, ...]:
    """The receivers meant by names, components (their whole input) or inputs, the read-out last.

    Raises:
        ComponentError: one is malformed, unknown to the model, without an input or listed twice.
    """
    found: list[Receiver] = []
    for one in names:
        if isinstance(one, str) and one != READOUT:
            one = parse_input(one)
        found.append(Input(one) if isinstance(one, Component) else one)
    for each in found:
        if isinstance(each, Input):
            model.require(each.component)
    _require_once(found)
    return tuple(sorted(found, key=_height))


def precedes(model: Model, sender: Sender, receiver: Receiver) -> bool:
    """Whether the sender's write can reach the receiver's input without passing another component."""
    if isinstance(sender, str) or isinstance(receiver, str):
        return True
    reader = receiver.component
    if sender.layer != reader.layer:
        return sender.layer < reader.layer
    return model.capabilities.sequential and sender.half is Half.ATTN and reader.half is Half.MLP


def _height(one: Sender | Receiver) -> tuple[int, bool, str, int, str]:
    """Order of the stream; among those at the same place, one kind after the other."""
    if isinstance(one, str):
        return (-1 if one == EMBED else 10**9, False, "", 0, "")
    component, part = (one.component, one.part or "") if isinstance(one, Input) else (one, "")
    return component.layer, component.half is Half.MLP, component.kind, component.index, part


def _require_once(found: Sequence[Sender | Receiver]) -> None:
    if len(set(found)) < len(found):
        repeated = next(one for i, one in enumerate(found) if one in found[:i])
        raise ComponentError(f"{repeated} is listed twice; list each once")
