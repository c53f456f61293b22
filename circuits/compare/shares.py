"""Shares of a whole with a scenario bootstrap, the same resamples for every part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from circuits.effects.statistics import MIN_SCENARIOS

__all__ = ["Shares"]

Array = NDArray[np.float64]

_DRAWS = 2000


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
        self._rows = np.random.default_rng(0).multinomial(self.n, np.full(self.n, 1 / self.n), size=_DRAWS) / self.n
        self._draws = self._rows @ self._whole

    def _mean(self, values: Array) -> Array:
        total = np.zeros(self.n)
        np.add.at(total, self._place, values)
        result: Array = total / self._count
        return result

    def share(self, part: Array) -> float:
        total = self._whole.mean()
        return float(self._mean(part).mean() / total) if total != 0 else float("nan")

    def row(self, part: Array) -> dict[str, float]:
        values = self._mean(part)
        low = high = float("nan")
        # Where the whole may be nothing a share has no interval; the contribution beside it stays meaningful.
        if self.n >= MIN_SCENARIOS and (self._draws > 0).all():
            low, high = (float(x) for x in np.quantile((self._rows @ values) / self._draws, [0.025, 0.975]))
        return {"contribution": float(values.mean()), "share": self.share(part), "low": low, "high": high}
