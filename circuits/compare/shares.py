"""Shares of a whole with a scenario bootstrap, the same resamples for every part."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from circuits.circuit.estimates import DRAWS, ends, positive
from circuits.effects.statistics import MIN_SCENARIOS

__all__ = ["Shares"]

Array = NDArray[np.float64]


@functools.cache
def _resamples(n: int) -> Array:
    """Weights of ``n`` scenarios, ``[draw, scenario]``: the same for everything that is asked of them."""
    rows: Array = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
    return rows


class Shares:
    """What parts are of a whole, means over scenarios.

    Args:
        whole: ``[prompt]``.
        scenarios: scenario of each prompt.
    """

    def __init__(self, whole: Array, scenarios: NDArray[np.int64]) -> None:
        found, self._place = np.unique(scenarios, return_inverse=True)
        self._count = np.bincount(self._place)
        self.n = len(found)
        self._whole = self._mean(whole)
        self._rows = _resamples(self.n)
        self._draws = self._rows @ self._whole

    def _mean(self, values: Array) -> Array:
        total = np.zeros(self.n)
        np.add.at(total, self._place, values)
        result: Array = total / self._count
        return result

    def share(self, part: Array) -> float:
        """Mean of the part over mean of the whole; NaN where that is zero."""
        total = self._whole.mean()
        return float(self._mean(part).mean() / total) if total != 0 else float("nan")

    def drawn(self, part: Array) -> Array:
        """The share on resampled scenarios, ``[draw]``; NaN if there are too few, and in resamples whose whole is nothing."""
        if self.n < MIN_SCENARIOS:
            return np.full(DRAWS, np.nan)
        result: Array = self._rows @ self._mean(part) / positive(self._draws)
        return result

    def row(self, part: Array) -> dict[str, float]:
        """Mean contribution [unit of the whole], share and its 95% interval.

        Where the whole may well be nothing (:func:`circuits.circuit.estimates.ends`) the share has no interval; the
        contribution beside it stays meaningful.
        """
        low, high = ends(self.drawn(part))
        return {"contribution": float(self._mean(part).mean()), "share": self.share(part), "low": low, "high": high}
