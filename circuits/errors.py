"""Every error this package raises on purpose, in one tree.

A message names the offending value, what was expected and what to do next. The command line turns any
:class:`CircuitsError` into one readable line and exit status 2; everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

__all__ = [
    "AnswerError",
    "CircuitsError",
    "ComponentError",
    "DirectionError",
    "LawError",
    "MeasurementError",
    "ModelLoadError",
    "PlantedError",
    "PromptError",
    "RunError",
    "SettingsError",
    "UnsupportedModelError",
]


class CircuitsError(Exception):
    """Base class: something the caller can understand and mend."""


class PromptError(CircuitsError):
    """A prompt file or prompt set that cannot be used as it is."""


class AnswerError(CircuitsError):
    """Answer words that leave an emotion without an answer token."""


class ModelLoadError(CircuitsError):
    """A model that cannot be found, read or trusted (missing weights, NaN weights, no network)."""


class UnsupportedModelError(CircuitsError):
    """An architecture this package does not measure (recurrent, encoder), or not in this respect (neurons of experts)."""


class LawError(UnsupportedModelError):
    """A model whose residual stream is not the sum of its writes."""


class ComponentError(CircuitsError):
    """A component name that is malformed or that the model does not have."""


class MeasurementError(CircuitsError):
    """A measurement that produced no number (NaN, infinity, empty group, text longer than the context)."""


class DirectionError(CircuitsError):
    """A direction that does not exist (zero difference, missing emotion, foreign site)."""


class PlantedError(CircuitsError):
    """An unknown kind or size of planted model."""


class SettingsError(CircuitsError):
    """A setting outside its range."""


class RunError(CircuitsError):
    """A run directory that is missing, half written, altered, or cannot be written."""
