"""Total effects, exactly: the component is replaced and everything downstream recomputed.

A component is ablated by changing what it adds to its half-layer, ``(replaced - clean) · W_O[h]`` for a head and
``(replaced - clean) · W_out[n]`` for a neuron (a change of rank one); the run is then resumed above it
(:mod:`circuits.model.resuming`), many ablations side by side. Effects are differences between two runs of the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.chunks import chunk_size, in_chunks
from circuits.effects.kinds import Positions
from circuits.errors import MeasurementError
from circuits.model.resuming import Change
from circuits.model.sites import Component, Half, Kind
from circuits.prompts.emotions import EMOTIONS

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact:
    """Exact effects on one batch."""

    batch: Batch
    positions: Positions
    _cached: dict[tuple[int, Kind], Tensor] = field(default_factory=dict)

    @cached_property
    def _clean(self) -> Float[Tensor, "prompt emotion"]:
        return self.batch.readout(self.batch.resume.clean)

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
            final = self.batch.resume.after(changes, at_readout=self.positions is Positions.READOUT)
            return self._clean - self.batch.readout(final)

        for start, stop, found in in_chunks(len(order), size, work):
            some = order[start:stop]
            self._require_finite(found, [components[place] for place in some])
            yield some, found

    def _change(self, components: list[Component]) -> Change:
        """What the half-layer gains when each of these, all of one kind and layer, is replaced."""
        model, (layer, kind) = self.batch.model, (components[0].layer, components[0].kind)
        gains = self._gains(layer, kind)
        index = [c.index for c in components]
        if kind is Kind.HEAD:
            return Change(layer, Half.ATTN, gains[index], model.W_O(layer)[index])
        if kind is Kind.NEURON:
            return Change(layer, Half.MLP, gains[index][..., None], model.W_out(layer)[index][:, None])
        return Change(layer, components[0].half, gains)

    def _gains(self, layer: int, kind: Kind) -> Tensor:
        """Replacement minus clean activation of all components of a layer, ``[component, prompt, pos, ..]``."""
        if (layer, kind) not in self._cached:
            self._cached.clear()  # components come layer by layer
            clean, replaced = (t.of(kind)[layer] for t in (self.batch.run.streams, self.batch.replaced))
            if self.positions is Positions.ALL:
                where = self.batch.where(Positions.ALL)
                gain = (replaced - clean) * where.reshape(*where.shape, *[1] * (clean.dim() - 2))
            else:
                gain = (self.batch.tokens.at_readout(replaced) - self.batch.tokens.at_readout(clean))[:, None]
            if kind is Kind.HEAD:
                gain = gain.permute(2, 0, 1, 3)
            elif kind is Kind.NEURON:
                gain = gain.permute(2, 0, 1)
            else:
                gain = gain[None]
            self._cached[layer, kind] = gain.contiguous()
        return self._cached[layer, kind]

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
