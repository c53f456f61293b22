"""A selection somebody is working on: its faithfulness beside random selections of the same size and layers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits import jsontext
from circuits.circuit.estimates import beside_random
from circuits.circuit.evaluation import Bench
from circuits.errors import SettingsError
from circuits.model.sites import Component
from circuits.prompts.emotions import Emotion

__all__ = ["MOST", "Selection", "worked"]

MOST = 1000
"""Random selections at most: a page waits for them."""


@dataclass(frozen=True)
class Selection:
    """Some components alone, all other heads and neurons ablated.

    Attributes:
        value, low, high: faithfulness (a share of what the whole model does) and its 95% interval over scenarios; NaN below
            five scenarios.
        n: scenarios.
        random: faithfulness of random selections with as many heads and neurons in every layer.
        random_mean, random_low, random_high: their mean and their middle 95%.
        p: share of selections that do at least as well, this one counted in.
        forwards: passes over the emotion's texts this took (the empty and the whole model are run once, before).
        seconds: what it took, without waiting for others.
    """

    emotion: Emotion
    names: tuple[str, ...]
    value: float
    low: float
    high: float
    n: int
    random: tuple[float, ...]
    random_mean: float
    random_low: float
    random_high: float
    p: float
    forwards: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values; an interval that does not exist is None."""
        found: dict[str, Any] = jsontext.plain({
            "emotion": self.emotion, "names": self.names, "value": self.value, "low": self.low, "high": self.high,
            "n": self.n, "unit": "share", "random": self.random, "random_mean": self.random_mean,
            "random_low": self.random_low, "random_high": self.random_high, "p": self.p, "forwards": self.forwards,
            "seconds": self.seconds,
        })  # fmt: skip
        return found


def worked(bench: Bench, components: Sequence[Component], *, count: int, seed: int = 0) -> Selection:
    """Faithfulness of ``components`` on a bench beside ``count`` random selections of the same size and layers.

    Raises:
        ComponentError: the model lacks one.
        MeasurementError: none, a half-layer, or a faithfulness that is not defined on these texts.
        SettingsError: ``count`` is not from 1 to 1,000.
    """
    if not 1 <= count <= MOST:
        raise SettingsError(f"the number of random selections is {count}; expected 1 to {MOST}")
    start = time.perf_counter()
    found = beside_random(bench, components, count=count, seed=seed)
    low, high = found.random_interval
    return Selection(
        emotion=bench.emotion, names=tuple(c.name for c in components), value=found.found.value, low=found.found.low,
        high=found.found.high, n=found.found.n, random=found.random, random_mean=float(np.mean(found.random)),
        random_low=low, random_high=high, p=found.p, forwards=1 + count, seconds=time.perf_counter() - start,
    )  # fmt: skip
