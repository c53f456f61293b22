"""Which half of a layer did it? What reading the stream once per layer cannot tell, and how often it would tell it wrongly.

Who samples ``resid_post`` alone sees how much a layer changes a quantity, and ascribes the change to the layer; told to name
a half, the convention is the MLP. Both quantities here are sums over the two halves exactly, as ``resid_mid`` lies between:
the projection on one fixed vector, and the AUROC of decoding. So for every layer and emotion it is known who was right.

A *cell* is one emotion at one layer. A change is *beyond noise* where its simultaneous 95% interval excludes zero, over all
cells and both halves at once (largest studentised deviation of the bootstrap; Romano & Wolf 2005), because many cells are
looked at. Of the cells whose layer changes the quantity beyond noise, *attention most* counts those in which attention moved
it further in the layer's direction than the MLP did: there "the MLP did it" is wrong. Of the cells in which either half acts
beyond noise, *opposed* counts those in which both do, with opposite signs: the layer then shows less than each half did.
*Hidden* are those among them in which the layer as a whole shows nothing beyond noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import stats

from circuits.effects.statistics import tail_of
from circuits.errors import MeasurementError
from circuits.prompts.emotions import EMOTIONS

__all__ = ["LAYER_COLUMNS", "Changes", "layer_rows", "rate_rows"]

Array = NDArray[np.float64]

LAYER_COLUMNS = (
    "measure", "emotion", "layer", "whole", "whole_low", "whole_high", "attn", "attn_low", "attn_high", "mlp", "mlp_low",
    "mlp_high", "whole_beyond", "attn_beyond", "mlp_beyond", "most", "decided", "opposed", "unit", "n", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Changes:
    """What each half of each layer adds to a quantity.

    Attributes:
        measure, unit: the quantity and its unit.
        attn, mlp: the estimates, ``[emotion, layer]``; NaN where there is nothing to measure. Their sum is the layer's.
        attn_draws, mlp_draws: the same on resampled scenarios, ``[draw, emotion, layer]``.
        n: scenarios.
        reasons: why a cell is NaN, by (emotion column, layer).
        possible: where whole, attention and MLP can have changed anything: False for rounding, or where another test already
            says that there is nothing.
    """

    measure: str
    unit: str
    attn: Float[NDArray[np.float64], "emotion layer"]
    mlp: Float[NDArray[np.float64], "emotion layer"]
    attn_draws: Float[NDArray[np.float64], "draw emotion layer"]
    mlp_draws: Float[NDArray[np.float64], "draw emotion layer"]
    n: int
    reasons: dict[tuple[int, int], str]
    possible: Bool[NDArray[np.bool_], "part emotion layer"]

    def __post_init__(self) -> None:
        missing = np.isnan(self.attn) | np.isnan(self.mlp)
        unexplained = [at for at in zip(*np.nonzero(missing), strict=True) if tuple(map(int, at)) not in self.reasons]
        if unexplained:
            e, layer = map(int, unexplained[0])
            raise MeasurementError(
                f"the {self.measure} of {EMOTIONS[e]} in layer {layer} is not a number; expected one, or a reason"
            )

    @property
    def parts(self) -> Float[NDArray[np.float64], "part emotion layer"]:
        """Whole layer, attention, MLP."""
        return np.stack([self.attn + self.mlp, self.attn, self.mlp])

    @property
    def draws(self) -> Float[NDArray[np.float64], "part draw emotion layer"]:
        """The same on resampled scenarios."""
        return np.stack([self.attn_draws + self.mlp_draws, self.attn_draws, self.mlp_draws])


@dataclass(frozen=True)
class _Verdicts:
    """What is known of every cell, all ``[emotion, layer]``."""

    defined: NDArray[np.bool_]
    beyond: NDArray[np.bool_]  # [part, emotion, layer]
    attention: NDArray[np.bool_]  # attention moved it further in the layer's direction
    decided: NDArray[np.bool_]  # the interval of who moved it further excludes a tie
    opposed: NDArray[np.bool_]
    limit: Array  # [part, emotion, layer]: a size above it is beyond noise; NaN where nothing is, -1 where anything is
    around: Array  # [end, emotion, layer]: the interval of who moved it further, seen from the estimate

    @classmethod
    def of(cls, changes: Changes) -> _Verdicts:
        parts, draws = changes.parts, changes.draws
        defined = np.asarray(~np.isnan(parts).any(0))
        limit = _limit(parts, draws, changes)
        beyond = np.asarray(np.abs(parts) > limit)
        sign = np.sign(parts[0])
        tail = tail_of(changes.n)
        further = sign * (parts[1] - parts[2])
        low, high = np.quantile(sign * (draws[1] - draws[2]), [tail, 1 - tail], axis=0)
        opposed = beyond[1] & beyond[2] & (np.sign(parts[1]) != np.sign(parts[2]))
        decided = np.asarray((low > 0) | (high < 0))
        around = np.stack([low, high]) - further
        return cls(defined, beyond, np.asarray(further > 0), decided, opposed, limit, around)


def _limit(parts: Array, draws: Array, changes: Changes) -> Array:
    """How large each part has to be to differ from zero, all cells and parts taken together."""
    spread = draws.std(1)
    large = changes.possible & ~np.isnan(parts)
    tested = large & (spread > 0)
    # What does not vary at all between scenarios is no noise.
    free = np.where(large, -1.0, np.nan)
    if not tested.any():
        return free
    away = np.abs(draws - parts[:, None]) / np.where(tested, spread, 1)[:, None]
    largest = np.where(tested[:, None], away, 0).max((0, 2, 3))
    # The bootstrap's spread is estimated from few scenarios: Student's quantile, as in `bootstrap`.
    level = stats.norm.sf(np.quantile(largest, 0.95))
    limit = np.sqrt(changes.n / (changes.n - 1)) * stats.t.isf(level, changes.n - 1)
    result: Array = np.where(tested, limit * spread, free)
    return result


def layer_rows(changes: Changes) -> list[dict[str, Any]]:
    """One row per emotion and layer, columns :data:`LAYER_COLUMNS`; intervals are 95%, cell by cell."""
    verdicts, tail = _Verdicts.of(changes), tail_of(changes.n)
    low, high = np.quantile(changes.draws, [tail, 1 - tail], axis=1)
    parts = changes.parts
    rows = []
    for e in EMOTIONS:
        for layer in range(parts.shape[2]):
            at = (e.column, layer)
            row: dict[str, Any] = {"measure": changes.measure, "emotion": str(e), "layer": layer}
            for i, part in enumerate(("whole", "attn", "mlp")):
                row |= {part: parts[i][at], f"{part}_low": low[i][at], f"{part}_high": high[i][at]}
                row[f"{part}_beyond"] = bool(verdicts.beyond[i][at])
            moved = bool(verdicts.beyond[0][at])
            row["most"] = ("attn" if verdicts.attention[at] else "mlp") if moved else ""
            row["decided"] = moved and bool(verdicts.decided[at])
            row["opposed"] = bool(verdicts.opposed[at])
            rows.append({**row, "unit": changes.unit, "n": changes.n, "reason": changes.reasons.get(at, "")})
    return rows


def rate_rows(changes: Changes) -> list[dict[str, Any]]:
    """How often, for each emotion and for all together, columns :data:`circuits.compare.table.RATE_COLUMNS`.

    A rate is a share of ``cells``, those that are asked about; these are fixed, and its 95% interval is over scenarios: how
    far the rate would move with other texts, not with other layers or models. Verdicts are given again on every resample, by
    the limits that hold for all scenarios: a cell that just passed may fail there, and the other way round. Where many cells
    lie near the limit a rate may so be near an end of its interval, or beyond it: it is then as loose as that.
    """
    verdicts = _Verdicts.of(changes)
    draws = changes.draws
    sign = np.sign(changes.parts[0])
    moved, *halves = verdicts.beyond
    active, both = halves[0] | halves[1], halves[0] & halves[1]
    ahead = sign * (draws[1] - draws[2]) > 0
    apart = both & (np.sign(draws[1]) != np.sign(draws[2]))
    again = np.asarray(np.abs(draws) > verdicts.limit[:, None])
    further = sign * (draws[1] - draws[2])
    tied = ~((further + verdicts.around[0] > 0) | (further + verdicts.around[1] < 0))
    covered = again[1] & again[2] & (np.sign(draws[1]) != np.sign(draws[2])) & ~again[0]
    asked = {
        "moved": (verdicts.defined, moved, again[0], "no emotion has a direction here"),
        "attention most": (moved, verdicts.attention, ahead, "no layer changes it beyond noise"),
        "undecided": (moved, ~verdicts.decided, tied, "no layer changes it beyond noise"),
        "opposed": (active, verdicts.opposed, apart, "no half-layer changes it beyond noise"),
        "hidden": (active, verdicts.opposed & ~moved, covered, "no half-layer changes it beyond noise"),
    }
    rows = []
    for name, (cells, yes, drawn, nothing) in asked.items():
        for who, columns in (("all", slice(None)), *((str(e), slice(e.column, e.column + 1)) for e in EMOTIONS)):
            mine = cells[columns]
            count = int(mine.sum())
            row = {"measure": changes.measure, "emotion": who, "rate": name, "cells": count}
            row |= {"unit": "share of cells", "n": changes.n, "value": np.nan, "low": np.nan, "high": np.nan}
            if count:
                row["value"] = float(yes[columns][mine].mean())
                found = drawn[:, columns][:, mine].mean(1)
                row["low"], row["high"] = (float(x) for x in np.quantile(found, [0.025, 0.975]))
            row["reason"] = "" if count else nothing
            rows.append(row)
    return rows
