"""Intervals and tests that respect scenarios, vectorised over components (SCIENCE section 5).

The scenario is the unit of resampling: rows of a scenario share their text but for the emotion, so resampling rows would
make intervals too narrow. All functions take one value per scenario and component.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_SCENARIOS", "Summary", "benjamini_hochberg", "bootstrap", "sign_flip", "summarise"]

Array = NDArray[np.float64]

MIN_SCENARIOS = 5
"""Below this many scenarios no interval or p-value is given: resampling so few says nothing."""

_CHUNK = 2_000_000


@dataclass(frozen=True)
class Summary:
    """Mean [component], 95% interval, permutation p and Benjamini–Hochberg q; NaN where scenarios are too few."""

    mean: Array
    low: Array
    high: Array
    p: Array
    q: Array
    n: int


def bootstrap(values: Array, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[Array, Array]:
    """Percentile interval of the mean over scenarios.

    Args:
        values: ``[scenario, component]``.

    Returns:
        lower and upper ends, ``[component]``.

    Reference: Efron & Tibshirani 1993, ch. 13, with scenarios as the resampled clusters.
    """
    n = values.shape[0]
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws) / n
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.empty(values.shape[1]), np.empty(values.shape[1])
    for part in _parts(values.shape[1], draws):
        low[part], high[part] = np.quantile(weights @ values[:, part], tails, axis=0)
    return low, high


def sign_flip(values: Array, *, draws: int = 4999, seed: int = 0, resolution: float = 0.0) -> Array:
    """Two-sided p that the scenario means are symmetric about zero, by random sign flips.

    ``p = (1 + #{|flipped mean| ≥ |mean|}) / (1 + draws)``: exact under symmetry, never zero (Phipson & Smyth 2010).
    A component none of whose values exceeds ``resolution`` (the rounding error of the arithmetic) gets p = 1.

    Args:
        values: ``[scenario, component]``.
    """
    n = values.shape[0]
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(draws, n)) / n
    p = np.empty(values.shape[1])
    for part in _parts(values.shape[1], draws):
        observed = np.abs(values[:, part].mean(0))
        # Equal sums in another order differ in the last bits; they must count as reached.
        reached = np.abs(signs @ values[:, part]) >= observed * (1 - 1e-9) - 1e-300
        p[part] = (1 + reached.sum(0)) / (1 + draws)
    p[np.abs(values).max(0) <= resolution] = 1.0
    return p


def benjamini_hochberg(p: Array) -> Array:
    """Adjusted p-values (Benjamini & Hochberg 1995): the share of false findings among those at most this large."""
    order = np.argsort(p)
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum(1.0, np.minimum.accumulate(ranked[::-1])[::-1])
    return q


def summarise(values: Array, *, seed: int = 0, resolution: float = 0.0) -> Summary:
    """Everything the tables show, from one value per scenario and component."""
    n = values.shape[0]
    mean = values.mean(0)
    if n < MIN_SCENARIOS:
        nothing = np.full_like(mean, np.nan)
        return Summary(mean, nothing, nothing, nothing, nothing, n)
    low, high = bootstrap(values, seed=seed)
    p = sign_flip(values, seed=seed, resolution=resolution)
    return Summary(mean, low, high, p, benjamini_hochberg(p), n)


def _parts(count: int, draws: int) -> list[slice]:
    width = max(1, _CHUNK * 8 // draws)
    return [slice(start, start + width) for start in range(0, count, width)]
