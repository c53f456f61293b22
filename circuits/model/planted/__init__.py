"""Planted models: small transformers wired by hand whose true circuit is known (SCIENCE section 8).

:func:`planted` builds one, with prompts to measure it on. It is a stock Llama and goes through the same door as any
model, so whatever a method reports on it can be compared with the truth.
"""

from __future__ import annotations

from circuits.model.planted.build import Planted, Truth, planted
from circuits.model.planted.kinds import PlantedKind
from circuits.model.planted.space import PlantedNorm, PlantedSize

__all__ = ["Planted", "PlantedKind", "PlantedNorm", "PlantedSize", "Truth", "planted"]
