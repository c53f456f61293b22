"""The comparison as a value; see :func:`circuits.compare.writers.writers` for how it is made."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

__all__ = ["COLUMNS", "Comparison"]

COLUMNS = (
    "emotion", "state", "layer", "half", "item", "role", "contribution", "share", "low", "high", "cosine", "n", "unit",
    "reason",
)  # fmt: skip


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
