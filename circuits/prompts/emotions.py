"""The six emotions (Ekman 1992) and their order.

Every array with an ``emotion`` axis uses this order. Nothing else in the package spells the six names out.
"""

from __future__ import annotations

from enum import StrEnum

from circuits.errors import PromptError

__all__ = ["EMOTIONS", "Emotion", "emotion"]


class Emotion(StrEnum):
    """One of Ekman's six; a member is also its lower-case name."""

    ANGER = "anger"
    DISGUST = "disgust"
    FEAR = "fear"
    HAPPINESS = "happiness"
    SADNESS = "sadness"
    SURPRISE = "surprise"

    @property
    def column(self) -> int:
        """Position on every ``emotion`` axis."""
        return EMOTIONS.index(self)


EMOTIONS: tuple[Emotion, ...] = tuple(Emotion)


def emotion(name: str) -> Emotion:
    """The emotion called ``name``.

    Raises:
        PromptError: the name is not one of the six.
    """
    try:
        return Emotion(name)
    except ValueError:
        raise PromptError(f"unknown emotion {name!r}; expected one of {', '.join(EMOTIONS)}") from None
