"""Random circuits of a circuit's own shape: the null every circuit is held against. Needs no model, only its sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from circuits.model.sites import Component, Kind

__all__ = ["Sized", "Sizes", "matched_random"]


@runtime_checkable
class Sized(Protocol):
    """What a model must tell for random circuits to be drawn."""

    @property
    def n_heads(self) -> int: ...
    @property
    def d_mlp(self) -> int: ...


@dataclass(frozen=True)
class Sizes:
    """Heads and neurons a layer, where the model itself is not at hand."""

    n_heads: int
    d_mlp: int


def matched_random(model: Sized, components: Iterable[Component], rng: np.random.Generator) -> tuple[Component, ...]:
    """A random circuit with as many heads and neurons in every layer as ``components`` has."""
    counts: dict[tuple[Kind, int], int] = {}
    for c in components:
        counts[c.kind, c.layer] = counts.get((c.kind, c.layer), 0) + 1
    drawn: list[Component] = []
    for (kind, layer), count in sorted(counts.items()):
        size = model.n_heads if kind is Kind.HEAD else model.d_mlp
        drawn.extend(Component(layer, kind, int(i)) for i in rng.choice(size, count, replace=False))
    return tuple(drawn)
