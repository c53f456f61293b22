"""The comparison as a value; see :func:`circuits.compare.writers.writers` for how it is made."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from circuits.errors import MeasurementError
from circuits.model.sites import State
from circuits.prompts.emotions import Emotion

__all__ = ["COLUMNS", "DOSE_COLUMNS", "EFFECT_COLUMNS", "HALF_COLUMNS", "RATE_COLUMNS", "Comparison", "SameEffect"]

COLUMNS = (
    "emotion", "state", "layer", "half", "item", "role", "contribution", "share", "low", "high", "cosine", "n", "unit",
    "reason",
)  # fmt: skip

EFFECT_COLUMNS = (
    "emotion", "out", "state", "onward", "what", "value", "low", "high", "share", "share_low", "share_high", "n", "unit",
)  # fmt: skip

HALF_COLUMNS = (
    "emotion", "layer", "half", "half_layer", "state", "position", "quantity", "value", "low", "high", "unit", "n", "reason",
)  # fmt: skip

DOSE_COLUMNS = ("emotion", "what", "dose", "factor", "texts", "read", "value", "low", "high", "n", "unit")

RATE_COLUMNS = ("measure", "emotion", "rate", "value", "low", "high", "cells", "unit", "n", "reason")


@dataclass(frozen=True)
class Comparison:
    """Circuit against direction.

    ``table`` has one row per emotion, state and item. Items with role ``part`` are ``heads``, ``neurons``, ``rest`` (embedding
    and biases; the three add up to 1), ``circuit`` and ``random circuits`` (mean over matched ones); items with role ``node``
    are the circuit's own components. ``contribution`` [residual units] is the mean emotion-centred projection of the item's
    write on the direction, ``share`` that divided by the whole state's, with a 95% scenario bootstrap interval (for random
    circuits: the 2.5th and 97.5th percentile over circuits), ``cosine`` that of the node's mean centred write with the
    direction (NaN for parts, and for a node whose write does not differ by emotion). Where there is no direction the parts'
    numbers are NaN and ``reason`` says why.
    """

    table: pd.DataFrame


@dataclass(frozen=True)
class SameEffect:
    """Effects of circuit and direction side by side.

    ``table`` has one row per emotion, reading (``out``: ``projected`` or ``levelled``), state, ``onward`` (from the state on,
    or there alone) and ``what``:

    - ``circuit``: a; the same wherever the direction is taken out.
    - ``direction``: b. ``both``: c. ``mediated``: a + b - c.
    - ``random direction``: as much taken out along random unit vectors orthogonal to the directions; mean over draws, 2.5th and
      97.5th percentile.
    - ``random circuits``: matched random circuits ablated; the same.
    - ``correlation``: of a and b over texts, no unit.

    ``value`` in logits with a 95% scenario bootstrap interval; ``share`` is the value as a share of the circuit's effect, NaN
    where that is not clearly above zero. Where the emotion has no direction at a state there is no row.
    """

    table: pd.DataFrame

    def at(self, e: Emotion, what: str, state: State, *, out: str = "levelled", onward: bool = True) -> pd.Series:
        """One row.

        Raises:
            MeasurementError: there is none.
        """
        t = self.table
        rows = t[
            (t["emotion"] == str(e)) & (t["what"] == what) & (t["state"] == state.name) & (t["out"] == out)
            & (t["onward"] == onward)
        ]  # fmt: skip
        if len(rows) != 1:
            raise MeasurementError(f"there is no {what} of {e} at {state} ({out}); the table has {len(t)} rows")
        return rows.iloc[0]
