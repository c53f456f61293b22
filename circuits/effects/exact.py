"""Total effects, exactly: the component is replaced and everything downstream recomputed.

A component is ablated by changing what it adds to its half-layer, ``(replaced - clean) · W_O[h]`` for a head and
``(replaced - clean) · W_out[n]`` for a neuron (a change of rank one); the run is then resumed above it
(:mod:`circuits.model.resuming`), many ablations side by side. Effects are differences between two runs of the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.chunks import chunk_size, in_chunks
from circuits.effects.kinds import Positions
from circuits.errors import MeasurementError
from circuits.model.resuming import Change, Resumer
from circuits.model.sites import Component, Half, Kind
from circuits.model.ways import resumer
from circuits.prompts.emotions import EMOTIONS

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact:
    """Exact effects on one batch.

    Attributes:
        resume: how upper blocks are run again.
    """

    batch: Batch
    positions: Positions
    resume: Resumer

    @classmethod
    @torch.no_grad()
    def of(cls, batch: Batch, positions: Positions) -> Exact:
        return cls(batch, positions, resumer(batch.model, batch.run))

    @cached_property
    def _clean(self) -> Float[Tensor, "prompt emotion"]:
        return self.batch.readout(self.resume.clean)

    def effects(
        self, components: Sequence[Component], *, size: int | None = None
    ) -> Iterator[tuple[list[int], Float[Tensor, "component prompt emotion"]]]:
        """``metric(clean) - metric(component ablated)`` [logits], a chunk at a time with the places of its components.

        Raises:
            MeasurementError: an effect is NaN or infinite (component and prompt are named), or memory does not suffice.
        """
        # Upward: alternatives that enter at different layers can go up together.
        order = sorted(range(len(components)), key=lambda place: _height(components[place]))
        tokens = self.batch.tokens
        changed = tokens.ids.numel() if self.positions is Positions.ALL else len(tokens)
        size = size or chunk_size(self.batch.model, changed)

        @torch.no_grad()
        def work(start: int, stop: int) -> Tensor:
            some = [components[place] for place in order[start:stop]]
            changes = [self._change(list(group)) for _, group in groupby(some, key=lambda c: (c.layer, c.kind))]
            final = self.resume.after(changes, at_readout=self.positions is Positions.READOUT)
            return self._clean - self.batch.readout(final)

        for start, stop, found in in_chunks(len(order), size, work):
            some = order[start:stop]
            self._require_finite(found, [components[place] for place in some])
            yield some, found

    def _change(self, components: list[Component]) -> Change:
        """What the half-layer gains when each of these, all of one kind and layer, is replaced."""
        batch, (layer, kind) = self.batch, (components[0].layer, components[0].kind)
        index = [c.index for c in components]
        gain = batch.replaced.of(kind)[layer] - batch.run.streams.of(kind)[layer]
        if kind in (Kind.HEAD, Kind.NEURON):
            gain = gain[:, :, index]
        if self.positions is Positions.ALL:
            gain = gain * batch.where(Positions.ALL).reshape(*gain.shape[:2], *[1] * (gain.dim() - 2))
        else:
            gain = batch.tokens.at_readout(gain)[:, None]
        if kind is Kind.HEAD:
            return Change(layer, Half.ATTN, gain.permute(2, 0, 1, 3), batch.model.W_O(layer)[index])
        if kind is Kind.NEURON:
            return Change(layer, Half.MLP, gain.permute(2, 0, 1)[..., None], batch.model.W_out(layer)[index][:, None])
        return Change(layer, components[0].half, gain[None])

    def _require_finite(self, found: Tensor, components: list[Component]) -> None:
        bad = torch.nonzero(~torch.isfinite(found))
        if len(bad):
            component, row, e = (int(i) for i in bad[0])
            raise MeasurementError(
                f"the effect of {components[component]} on prompt {self.batch.prompts.ids[row]!r} ({EMOTIONS[e]}) is "
                f"{float(found[component, row, e])}; measure in float32 or drop the prompt"
            )


def _height(component: Component) -> tuple[int, str]:
    """Components of one layer and kind side by side, layers upward."""
    return component.layer, component.kind
