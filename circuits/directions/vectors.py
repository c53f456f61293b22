"""Directions as values: unit vectors with the state they belong to and how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuits.errors import DirectionError
from circuits.model.anatomy import Model
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

    def require(self, model: Model) -> None:
        """Check that these are unit vectors in this very model's stream.

        Raises:
            DirectionError: another model's fingerprint, a state the model lacks, vectors of another width, or a vector that is
                neither of unit length nor marked as missing.
        """
        if self.model != model.fingerprint:
            raise DirectionError("the directions were estimated on another model; estimate them on this one")
        foreign = [state for state in self.states if state not in model.states]
        if foreign:
            raise DirectionError(
                f"the directions have a vector at {foreign[0]}; expected states of {model.name}, {model.states[0]} to "
                f"{model.states[-1]}"
            )
        shape = (len(EMOTIONS), len(self.states), model.d_model)
        if self.vectors.shape != shape or self.norms.shape != shape[:2]:
            raise DirectionError(
                f"directions of shape {self.vectors.shape} with norms of shape {self.norms.shape}; expected {shape}: emotion, "
                "state and width of the stream"
            )
        lengths = np.linalg.norm(self.vectors, axis=-1)
        wrong = np.argwhere(~(np.abs(lengths - 1) < 1e-3) & (self.norms != 0))
        if len(wrong):
            e, place = wrong[0]
            raise DirectionError(
                f"the direction of {EMOTIONS[e]} at {self.states[place]} has length {lengths[e, place]:.4g}; expected 1, or a "
                "norm of 0 where there is none"
            )

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
