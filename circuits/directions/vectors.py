"""Directions as values: unit vectors with the state they belong to and how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuits.errors import DirectionError
from circuits.model.sites import State
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["Directions"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Directions:
    """One unit vector per emotion and state.

    Attributes:
        estimator: name of the function that made them.
        states: the axis ``state``, both half-layers of every layer.
        vectors: ``[emotion, state, d_model]``, unit length; zero where undefined.
        norms: length before scaling [residual units], ``[emotion, state]``; 0 marks a state at which the emotion does not
            differ from the others and no direction exists.
        split_half: mean cosine between halves of the scenarios, ``[emotion, state]``; NaN when there are too few.
        model, prompts: fingerprints of what they were estimated from.
        n: scenarios.
    """

    estimator: str
    states: tuple[State, ...]
    vectors: Array
    norms: Array
    split_half: Array
    model: str
    prompts: str
    n: int

    def at(self, state: State, e: Emotion) -> Array:
        """The unit vector [d_model] of one emotion at one state.

        Raises:
            DirectionError: an unknown state, or one at which the emotion has no direction.
        """
        if state not in self.states:
            raise DirectionError(f"no directions at {state}; expected one of {self.states[0]} to {self.states[-1]}")
        place = self.states.index(state)
        if self.norms[e.column, place] == 0:
            raise DirectionError(
                f"{e} has no direction at {state}: the state does not differ by emotion there; use a later state"
            )
        vector: Array = self.vectors[e.column, place]
        return vector

    def defined(self, state: State, e: Emotion) -> bool:
        """Whether the emotion has a direction at the state."""
        return bool(self.norms[e.column, self.states.index(state)] > 0)

    def cosines(self) -> Array:
        """Pairwise cosines, ``[state, emotion, emotion]``; NaN where a direction is undefined."""
        products: Array = np.einsum("esd,fsd->sef", self.vectors, self.vectors)
        missing = (self.norms == 0).T
        products[missing[:, :, None] | missing[:, None, :]] = np.nan
        return products

    @property
    def expected_cosine(self) -> float:
        """Mean pairwise cosine of six centred vectors of equal length: -0.2."""
        return -1 / (len(EMOTIONS) - 1)
