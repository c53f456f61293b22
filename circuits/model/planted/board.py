"""The board on which a planted model is laid out: which place is taken by which head or neuron, and why.

A kind of planted model first places its circuit on seeded free places, then the background takes all that are left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from circuits.model import sites
from circuits.model.planted.space import Dims, Space, Vector
from circuits.prompts.emotions import Emotion

__all__ = ["EMBED", "Board", "HeadSpec", "NeuronSpec"]

EMBED = "embed"
"""Name of the token embedding as the source of an edge."""


@dataclass(frozen=True)
class HeadSpec:
    """One attention head in feature space.

    The score of key token k for query token q is ``(query x_q) . (key x_k)`` before the usual division by the square
    root of ``d_head``; the head writes ``output value x`` averaged over tokens by its attention.
    """

    query: Float[NDArray[np.float64], "rank d_model"]
    key: Float[NDArray[np.float64], "rank d_model"]
    value: Float[NDArray[np.float64], "content d_model"]
    output: Float[NDArray[np.float64], "d_model content"]


@dataclass(frozen=True)
class NeuronSpec:
    """One neuron in feature space: it writes ``relu(read . x) * (linear . x) * write``.

    Biases are read from the constant one, and so is the linear branch unless it is given.
    """

    read: Vector
    write: Vector
    linear: Vector | None = None


@dataclass
class Board:
    """Places of one model while it is being laid out (the only mutable thing here; it never leaves the package)."""

    dims: Dims
    space: Space
    rng: np.random.Generator
    heads: dict[sites.Component, HeadSpec] = field(default_factory=dict)
    neurons: dict[sites.Component, NeuronSpec] = field(default_factory=dict)
    edges: dict[tuple[str, Emotion], set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    """True edges by context and emotion."""
    contexts: dict[str, Vector] = field(default_factory=dict)
    """What the read-out word of each context puts into the stream; nothing where texts have no context."""
    undertones: dict[Emotion, Vector] = field(default_factory=dict)
    """What mixed cue words of an emotion carry besides it; nothing where no cue word is mixed."""
    noise: set[str] = field(default_factory=set)

    def free_heads(self, layers: Iterable[int]) -> list[sites.Component]:
        """Heads of these layers that nobody has taken, in order."""
        places = (sites.head(layer, h) for layer in layers for h in range(self.dims.n_heads))
        return [place for place in places if place not in self.heads]

    def free_neurons(self, layers: Iterable[int]) -> list[sites.Component]:
        """Neurons of these layers that nobody has taken, in order."""
        places = (sites.neuron(layer, n) for layer in layers for n in range(self.dims.d_mlp))
        return [place for place in places if place not in self.neurons]

    def place_head(self, layers: Iterable[int], spec: HeadSpec) -> sites.Component:
        """Put a head on a random free place of these layers."""
        place = self._draw(self.free_heads(layers))
        self.heads[place] = spec
        return place

    def place_neuron(self, layers: Iterable[int], spec: NeuronSpec) -> sites.Component:
        """Put a neuron on a random free place of these layers."""
        place = self._draw(self.free_neurons(layers))
        self.neurons[place] = spec
        return place

    def connect(self, e: Emotion, *path: str | sites.Component, context: str = "") -> None:
        """Record that the emotion's circuit runs along ``path`` and ends in the emotion's read-out."""
        names = [str(step) for step in path] + [e.value]
        self.edges[context, e].update(pairwise(names))

    def _draw(self, places: list[sites.Component]) -> sites.Component:
        return places[int(self.rng.integers(len(places)))]
