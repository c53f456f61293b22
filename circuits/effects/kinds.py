"""The choices a measurement is made of, as words: how, replaced by what, where. Imported without the numerical stack."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from circuits.errors import SettingsError

__all__ = ["Ablation", "Arithmetic", "Method", "Positions", "member"]

E = TypeVar("E", bound=StrEnum)


class Ablation(StrEnum):
    """What an ablated activation becomes."""

    ZERO = "zero"
    """Nothing: removes the component with everything it does, on any text."""
    MEAN = "mean"
    """The data set's mean in the same position class: removes whatever differs between prompts."""
    MEAN_SCENARIO = "mean_scenario"
    """The mean of the scenario's six texts, its own included: removes only what differs by emotion (default)."""
    RESAMPLE = "resample"
    """The activation of another emotion's text of the same scenario, aligned from the read-out backwards."""


class Positions(StrEnum):
    """Where in the text a component is ablated."""

    ALL = "all"
    """At every token."""
    READOUT = "readout"
    """At the read-out token only; keys and values at earlier tokens stay."""


class Method(StrEnum):
    """How an effect was obtained."""

    EXACT = "exact"
    """Total effect: run with the component ablated, everything downstream recomputed."""
    GRADIENT = "gradient"
    """Total effect to first order: (clean - ablated activation) · gradient (attribution patching)."""
    IG_INPUTS = "ig_inputs"
    """The same with the gradient averaged over midpoints between the replaced and the clean embedding."""
    IG_ACTIVATIONS = "ig_activations"
    """The same with the gradient averaged over midpoints between a layer's replaced and clean activation."""
    DIRECT = "direct"
    """Direct effect, exactly: the write removed from the final stream, re-normalised; everything else frozen."""


class Arithmetic(StrEnum):
    """In which numbers upper blocks are run again."""

    FLOAT32 = "float32"
    """The model's own (float32, or what it was loaded in)."""
    BFLOAT16 = "bfloat16"
    """Half as wide: for heads and half-layers on devices that are faster so. Head rankings survive it, single-neuron effects do
    not (22-43% of their root mean square is then rounding); the error is measured on some heads and reported."""


def member(kind: type[E], value: str) -> E:
    """The member of ``kind`` called ``value``.

    Raises:
        SettingsError: no such member.
    """
    try:
        return kind(value)
    except ValueError:
        raise SettingsError(f"{kind.__name__.lower()} is {value!r}; expected one of {', '.join(kind)}") from None
