"""How far a half-layer turns a direction, with the noise of both estimates taken out.

The directions before and after a half-layer, ``a`` and ``b``, are sums over scenarios of what the emotion changes there. Two
noisy estimates differ even where nothing turns, so their plain angle is too large. Products of *different* scenarios have no
such bias: with ``A_ij = <a_i, b_j>``, the sum of ``A_ij`` over ``i != j`` is proportional to ``<a, b>`` on average (a
U-statistic; Hoeffding 1948), and the same holds of ``<a, a>`` and ``<b, b>``. Their ratio gives the corrected cosine. Only
products between scenarios are needed, so a bootstrap draw costs nothing that grows with the width of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from circuits.effects.statistics import MIN_SCENARIOS, tail_of
from circuits.errors import DirectionError

__all__ = ["Rotation", "rotation"]

Array = NDArray[np.float64]

_DRAWS = 1000
_SPLITS = 50


@dataclass(frozen=True)
class Rotation:
    """Angles [degrees] between the directions before and after each half-layer.

    Attributes:
        turned: angle corrected for noise, ``[emotion, half]``; NaN where a direction is undefined or drowns in noise.
        low, high: its 95% bootstrap interval over scenarios. ``low`` above 0 says that the direction does turn.
        plain: angle of the two estimates as they are, too large by their noise.
        floor: mean angle between estimates of *one* direction from two halves of the scenarios, the larger of before and
            after. Halves have half the scenarios, so this is more noise than ``plain`` holds; and as both sides of a
            half-layer are read in the same texts they share most of it: a turn below the floor may well be real.
        n: scenarios.
    """

    turned: Float[NDArray[np.float64], "emotion half"]
    low: Float[NDArray[np.float64], "emotion half"]
    high: Float[NDArray[np.float64], "emotion half"]
    plain: Float[NDArray[np.float64], "emotion half"]
    floor: Float[NDArray[np.float64], "emotion half"]
    n: int


def rotation(
    deviations: Float[NDArray[np.float64], "group emotion state d_model"],
    scenarios: Int[NDArray[np.int64], " group"],
    defined: NDArray[np.bool_],
    *,
    seed: int = 0,
) -> Rotation:
    """Angles between each state and the next.

    Args:
        deviations: what each group says of each emotion [residual units]; their mean over groups is the contrast direction
            (Wang et al. 2025).
        scenarios: scenario of each group.
        defined: whether the direction exists, ``[emotion, state]``.

    Raises:
        DirectionError: there are fewer than five scenarios.
    """
    found, place = np.unique(scenarios, return_inverse=True)
    n, (_, emotions, states, width) = len(found), deviations.shape
    if n < MIN_SCENARIOS:
        raise DirectionError(f"{n} scenarios have all six emotions; expected {MIN_SCENARIOS} at least to tell a turn")
    sums = np.zeros((n, emotions, states, width))
    np.add.at(sums, place, deviations)  # angles do not depend on length, so sums serve as well as means
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS).astype(np.float64)
    first = np.stack([rng.permutation(n) < n // 2 for _ in range(_SPLITS)]).astype(np.float64)
    tail = tail_of(n)
    columns = {name: np.full((emotions, states - 1), np.nan) for name in ("turned", "low", "high", "plain", "floor")}
    for e in range(emotions):
        inner = [sums[:, e, s] @ sums[:, e, s].T for s in range(states)]
        halves = [_halves(product, first) if defined[e, s] else np.nan for s, product in enumerate(inner)]
        for s in range(states - 1):
            if not (defined[e, s] and defined[e, s + 1]):
                continue
            across = sums[:, e, s] @ sums[:, e, s + 1].T
            trio = (inner[s], across, inner[s + 1])
            columns["floor"][e, s] = np.max(halves[s : s + 2])
            columns["plain"][e, s] = _angle(*(product.sum(keepdims=True)[0] for product in trio))[0]
            columns["turned"][e, s] = _angle(*(_apart(product, np.ones((1, n))) for product in trio))[0]
            draws = _angle(*(_apart(product, drawn) for product in trio))
            # A draw without an angle means that a direction is not told from noise: then nothing is said of its turn.
            if np.isfinite(columns["turned"][e, s]) and np.isfinite(draws).all():
                columns["low"][e, s], columns["high"][e, s] = np.quantile(draws, [tail, 1 - tail])
    return Rotation(**columns, n=n)


def _apart(product: Array, counts: Array) -> Array:
    """Sum of products over pairs of different scenarios, each drawn ``counts`` [draw, scenario] times."""
    result: Array = ((counts @ product) * counts).sum(1) - counts**2 @ np.diag(product)
    return result


def _angle(before: Array, across: Array, after: Array) -> Array:
    """Degrees between two vectors from their products; NaN where a squared length is not positive."""
    there = (before > 0) & (after > 0)
    length = np.sqrt(np.where(there, before, 1) * np.where(there, after, 1))
    result: Array = np.where(there, np.degrees(np.arccos(np.clip(across / length, -1, 1))), np.nan)
    return result


def _halves(product: Array, first: Array) -> float:
    """Mean angle [degrees] between the sums of two halves of the scenarios, over splits ``first`` [split, scenario]."""
    second = 1 - first
    parts = [((a @ product) * b).sum(1) for a, b in ((first, first), (first, second), (second, second))]
    return float(_angle(*parts).mean())
