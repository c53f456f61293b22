"""Total effects, exactly: the component is replaced and everything downstream recomputed.

A component is ablated by changing what it adds to its half-layer, ``(replaced - clean) · W_O[h]`` for a head and
``(replaced - clean) · W_out[n]`` for a neuron (a change of rank one); the run is then resumed above it
(:mod:`circuits.model.resuming`), many ablations side by side. Effects are differences between two runs of the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.chunks import chunk_size, in_chunks, threads_for
from circuits.effects.kinds import Arithmetic, Positions
from circuits.effects.table import require_finite
from circuits.model.machine import Recent
from circuits.model.resuming import Change, Resumer
from circuits.model.sites import Component, Kind

__all__ = ["Exact"]


Take = Callable[[list[int], Float[Tensor, "component prompt emotion"]], None]
"""Given the places of some components in the list that was asked for, and their effects."""


@dataclass(frozen=True)
class Exact:
    """Exact effects on one batch."""

    batch: Batch
    positions: Positions
    arithmetic: Arithmetic = Arithmetic.FLOAT32
    _recent: Recent[tuple[int, Kind], tuple[Tensor, Tensor | None]] = field(default_factory=lambda: Recent(2))

    @property
    def resume(self) -> Resumer:
        """How upper blocks are run again."""
        return self.batch.resume if self.arithmetic is Arithmetic.FLOAT32 else self.batch.resume_narrow

    def effects(self, components: Sequence[Component], take: Take, *, size: int | None = None) -> None:
        """``metric(clean) - metric(component ablated)`` [logits], given to ``take`` a chunk at a time.

        Raises:
            MeasurementError: an effect is NaN or infinite (component and prompt are named), or memory does not suffice.
        """
        # Upward: alternatives that enter at different layers can go up together.
        order = sorted(range(len(components)), key=lambda place: _height(components[place]))
        model, tokens, resume = self.batch.model, self.batch.tokens, self.resume
        changed = tokens.ids.numel() if self.positions is Positions.ALL else len(tokens)
        size = size or chunk_size(model, changed)
        if len(order) <= size < 2 * len(order):
            # All fit together and fill a cache: two chunks of like work for two cores, the same wherever this runs.
            size, order = -(-len(order) // 2), [*order[::2], *order[1::2]]
        clean = self.batch.readout(resume.clean)

        @torch.no_grad()
        def work(start: int, stop: int) -> Tensor:
            some = [components[place] for place in order[start:stop]]
            changes = [self._change(list(group)) for _, group in groupby(some, key=lambda c: (c.layer, c.kind))]
            final = resume.after(changes, at_readout=self.positions is Positions.READOUT)
            return clean - self.batch.readout(final)

        with threads_for(resume) as threads:
            for start, stop, found in in_chunks(len(order), size, work, threads=threads):
                some = order[start:stop]
                if not bool(torch.isfinite(found).all()):
                    numbers = found.float().cpu().numpy()
                    require_finite(numbers, [components[place] for place in some], self.batch.prompts.ids)
                take(some, found)

    def _change(self, components: list[Component]) -> Change:
        """What the half-layer gains when each of these, all of one kind and layer, is replaced."""
        layer, kind = components[0].layer, components[0].kind
        # Components come layer by layer; two threads may stand on both sides of a border.
        gains, writes = self._recent.get((layer, kind), lambda: (self._gains(layer, kind), self._writes(layer, kind)))
        index = [c.index for c in components]
        if writes is None:
            return Change(layer, components[0].half, gains)
        return Change(layer, components[0].half, _some(gains, index), _some(writes, index))

    def _gains(self, layer: int, kind: Kind) -> Tensor:
        """Replacement minus clean activation of all components of a layer, ``[component, prompt, pos, rank]``."""
        clean, replaced = (t.of(kind)[layer] for t in (self.batch.run.streams, self.batch.replaced))
        if self.positions is Positions.ALL:
            where = self.batch.where(Positions.ALL).to(clean.device)
            gain = (replaced - clean) * where.reshape(*where.shape, *[1] * (clean.dim() - 2))
        else:
            gain = (self.batch.tokens.at_readout(replaced) - self.batch.tokens.at_readout(clean))[:, None]
        if kind is Kind.HEAD:
            return gain.permute(2, 0, 1, 3).contiguous()
        return gain.permute(2, 0, 1).contiguous()[..., None] if kind is Kind.NEURON else gain[None]

    def _writes(self, layer: int, kind: Kind) -> Tensor | None:
        """What a unit of each rank writes, ``[component, rank, d_model]``; None for half-layers."""
        if kind is Kind.HEAD:
            return self.batch.model.W_O(layer)
        return self.batch.model.W_out(layer)[:, None] if kind is Kind.NEURON else None


def _height(component: Component) -> tuple[int, str]:
    """Components of one layer and kind side by side, layers upward."""
    return component.layer, component.kind


def _some(tensor: Tensor, index: list[int]) -> Tensor:
    """Entries of the first axis; neighbours without a copy."""
    first, count = index[0], len(index)
    if index == list(range(first, first + count)):
        return tensor[first : first + count]
    return tensor[index]
