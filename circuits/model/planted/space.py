"""Sizes of planted models, and the named features their residual stream is made of.

A planted model is designed in *feature space*: every axis of the residual stream is one feature with a name (the cue's
anger, the answer "angry", the constant one ...), and a weight says which features are read and written. Only at the end
(:mod:`circuits.model.planted.wiring`) is the whole stream turned by a random orthogonal matrix, so that in the finished
model no feature lies on an axis, as in a trained one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["Dims", "PlantedNorm", "PlantedSize", "Space", "Vector"]

Vector = Float[NDArray[np.float64], " d_model"]
_NAMED = 23
"""Axes with a name in every kind."""


class PlantedSize(StrEnum):
    """How large a planted model and its prompt set are."""

    SMALL = "small"
    """3 layers of 4 heads and 24 neurons (84 components), 48 scenarios: exact sweeps take seconds."""
    MEDIUM = "medium"
    """6 layers of 8 heads and 96 neurons (624 components), 60 scenarios: screening begins to pay."""
    LARGE = "large"
    """8 layers of 16 heads and 256 neurons (2,176 components), 60 scenarios: an exact sweep takes minutes."""


class PlantedNorm(StrEnum):
    """What stands before every half-layer and before the unembedding."""

    NONE = "none"
    """Norms that are the identity: streams and logits are sums, and the worked examples hold to rounding."""
    LAYER = "layer"
    """Layer norm (the model is then a stock StableLM): whatever is ablated, the rest of the stream grows."""
    RMS = "rms"
    """RMS norm, with the same consequence."""


@dataclass(frozen=True)
class Dims:
    """Shape of a planted model and of its prompt set."""

    n_layers: int
    n_heads: int
    d_head: int
    d_mlp: int
    n_scenarios: int
    n_cues: int
    """Cue words per emotion; the texts also use one neutral cue word."""

    @property
    def d_model(self) -> int:
        return self.n_heads * self.d_head

    @classmethod
    def of(cls, size: PlantedSize) -> Dims:
        match size:
            case PlantedSize.SMALL:
                return cls(n_layers=3, n_heads=4, d_head=16, d_mlp=24, n_scenarios=48, n_cues=4)
            case PlantedSize.MEDIUM:
                return cls(n_layers=6, n_heads=8, d_head=16, d_mlp=96, n_scenarios=60, n_cues=6)
            case PlantedSize.LARGE:
                return cls(n_layers=8, n_heads=16, d_head=16, d_mlp=256, n_scenarios=60, n_cues=6)


@dataclass(frozen=True)
class Space:
    """Which axis of feature space carries what; every axis is used, and no two names share one.

    Four pools hold what has no meaning of its own: ``plot`` (content of the filler words), ``mixed`` (what background
    components write for each other), ``chance`` (content of the chance words) and ``heard`` (chance content once a head
    has moved it). What is left is ``silent``: read by no component and by no answer word, only by filler words.

    Attributes:
        n_extra: axes a kind keeps for features of its own, taken from the pools.
        centred: keep the last axis empty. The stream is turned so that it becomes the direction (1, ..., 1), and layer
            norm, which takes the mean away, takes nothing away.
    """

    d_model: int
    n_extra: int = 0
    centred: bool = False

    def cue(self, e: Emotion) -> Vector:
        """The emotion as the cue word's embedding carries it."""
        return self._axis(e.column)

    def moved(self, e: Emotion) -> Vector:
        """The emotion once a head has moved it to the read-out token."""
        return self._axis(6 + e.column)

    def answer(self, e: Emotion) -> Vector:
        """The unembedding of the emotion's answer word."""
        return self._axis(12 + e.column)

    @cached_property
    def all_answers(self) -> Vector:
        """Unit vector that raises all six answers alike, and so no difference between them."""
        return np.asarray(np.mean([self.answer(e) for e in EMOTIONS], axis=0) * np.sqrt(len(EMOTIONS)))

    @property
    def one(self) -> Vector:
        """The constant 1 that every token carries: the source of all biases."""
        return self._axis(18)

    @property
    def start(self) -> Vector:
        """Present on the first token only."""
        return self._axis(19)

    @property
    def is_cue(self) -> Vector:
        """Present on every cue word, whatever its emotion."""
        return self._axis(20)

    @property
    def is_readout(self) -> Vector:
        """Present on the read-out token only."""
        return self._axis(21)

    @property
    def is_chance(self) -> Vector:
        """Present on every chance word."""
        return self._axis(22)

    def extra(self, index: int) -> Vector:
        """One of the ``n_extra`` features that mean what the kind says."""
        return self._axis(_NAMED + index)

    @property
    def plot(self) -> slice:
        return self._pools[0]

    @property
    def mixed(self) -> slice:
        return self._pools[1]

    @property
    def chance(self) -> slice:
        return self._pools[2]

    @property
    def heard(self) -> slice:
        return self._pools[3]

    @property
    def silent(self) -> slice:
        return self._pools[4]

    def random(self, rng: np.random.Generator, *pools: slice) -> Vector:
        """A unit vector drawn uniformly from the sphere inside the given pools."""
        vector = np.zeros(self.d_model)
        for pool in pools:
            vector[pool] = rng.standard_normal(pool.stop - pool.start)
        return np.asarray(vector / np.linalg.norm(vector))

    @cached_property
    def _pools(self) -> tuple[slice, ...]:
        first = _NAMED + self.n_extra
        share = (self.d_model - first) // 5
        ends = [first + share * i for i in range(5)] + [self.d_model - self.centred]
        return tuple(slice(a, b) for a, b in pairwise(ends))

    def _axis(self, index: int) -> Vector:
        vector = np.zeros(self.d_model)
        vector[index] = 1.0
        return vector
