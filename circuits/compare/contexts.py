"""Two sets of contexts of one emotion, made comparable: does each have a direction, is it the same, and who writes it there.

All three questions are asked of *deviations*: what a text's state has beyond the mean of its scenario's six texts (the contrast
direction is their mean). Inner products of mean deviations are taken over pairs of different scenarios only, so that noise,
which a scenario shares with itself alone, neither lengthens a direction nor turns it: the cosine of two contexts is then not
pulled towards zero by few scenarios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import linear_sum_assignment

from circuits.circuit.estimates import DRAWS, Estimate
from circuits.directions.estimators import deviations
from circuits.effects.statistics import MIN_SCENARIOS, scenario_means
from circuits.errors import MeasurementError
from circuits.model.reading import Readings
from circuits.prompts.emotions import Emotion

__all__ = ["Deviations", "Matching", "cosine", "exists", "matched", "profile_table", "profiles_apart"]

Array = NDArray[np.float64]

_PERMUTATIONS = 1000


@dataclass(frozen=True)
class Deviations:
    """Deviations of every emotion from its scenario's mean, and which emotion is meant.

    Attributes:
        names: the scenarios.
        every: ``[scenario, emotion, state, d_model]``.
        column: of the emotion.
    """

    names: tuple[str, ...]
    every: Float[np.ndarray, "scenario emotion state d_model"]
    column: int

    @property
    def values(self) -> Float[np.ndarray, "scenario state d_model"]:
        """The emotion's own."""
        result: Array = self.every[:, self.column]
        return result

    @classmethod
    def of(cls, readings: Readings, e: Emotion) -> Deviations:
        """Of complete groups; a scenario told at several valences has the mean of its groups.

        Raises:
            DirectionError: no group has all six emotions.
        """
        apart, scenarios = deviations(readings)
        prompts = readings.prompts
        first = np.unique(prompts.scenarios, return_index=True)[1]
        names = tuple(prompts.rows[int(first[number])].scenario for number in np.unique(scenarios))
        return cls(names, scenario_means(apart, scenarios), e.column)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def mean(self) -> Float[np.ndarray, "state d_model"]:
        """The contrast direction before scaling."""
        result: Array = self.values.mean(0)
        return result


def exists(some: Deviations, *, seed: int = 0) -> Float[np.ndarray, " state"]:
    """p of "this emotion has no direction here", by state, for all states at once.

    The statistic is the mean inner product of the emotion's deviations in two different scenarios; the null picks the text of
    a random emotion in every scenario instead, and keeps the largest of all states in units of their spread.

    Raises:
        MeasurementError: fewer than five scenarios.
    """
    n = len(some)
    if n < MIN_SCENARIOS:
        raise MeasurementError(
            f"{n} scenarios to estimate a direction from; expected at least {MIN_SCENARIOS} in the split 'fit'"
        )
    picks = np.random.default_rng(seed).integers(0, some.every.shape[1], (_PERMUTATIONS, n))
    picks[0] = some.column  # the first row is what was found
    found = np.empty((_PERMUTATIONS, some.every.shape[2]))
    for state in range(found.shape[1]):
        drawn = some.every[np.arange(n), picks, state]
        found[:, state] = (drawn.sum(1) ** 2).sum(-1) - (drawn**2).sum((1, 2))
    scale = np.abs(some.every).max()
    spread = found[1:].std(0)
    # What all picks have alike is rounding, and no state to find something at.
    alive = spread > (1e-6 * scale * n) ** 2
    standard = np.divide(found, spread, out=np.full_like(found, -np.inf), where=alive)
    reached = standard[1:].max(1)[:, None] >= standard[0] * (1 - 1e-12)
    return np.where(alive & (found[0] > 0), (1 + reached.sum(0)) / _PERMUTATIONS, 1.0)


def cosine(a: Deviations, b: Deviations, state: int) -> Estimate:
    """Cosine of two contexts' directions at a state, corrected for noise, with a 95% interval over scenarios.

    ``⟨A, B⟩ / √(⟨A, A⟩ ⟨B, B⟩)`` with every product over pairs of different scenarios. Scenarios of the same name in both are
    left out together (jackknife, Student's t). Noise can carry it beyond 1; it is NaN where a direction is not longer than its
    noise.
    """
    x, y = a.values[:, state], b.values[:, state]
    names = sorted({*a.names, *b.names})
    rows_a, rows_b = (np.array([names.index(name) for name in some.names]) for some in (a, b))
    same = rows_a[:, None] == rows_b[None]
    gram = {"aa": x @ x.T, "bb": y @ y.T, "ab": x @ y.T}

    def of(weights: Array) -> Array:
        wa, wb = weights[:, rows_a], weights[:, rows_b]
        aa = _pairs(gram["aa"], wa, wa, np.eye(len(x), dtype=bool))
        bb = _pairs(gram["bb"], wb, wb, np.eye(len(y), dtype=bool))
        ab = _pairs(gram["ab"], wa, wb, same)
        good = (aa > 0) & (bb > 0)
        result: Array = np.where(good, ab / np.sqrt(np.where(good, aa * bb, 1)), np.nan)
        return result

    n = min(len(a), len(b))
    every = np.ones((1, len(names)))
    value = float(of(every)[0])
    if n < MIN_SCENARIOS or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), n)
    # Products of pairs that are mostly noise are degenerate: a bootstrap is too narrow for them, a jackknife is not.
    without = of(every - np.eye(len(names)))
    error = float(np.sqrt((len(names) - 1) * np.mean((without - without.mean()) ** 2)))
    width = float(stats.t.ppf(0.975, n - 1)) * error
    return Estimate(value, value - width, value + width, n)


def _pairs(gram: Array, first: Array, second: Array, same: NDArray[np.bool_]) -> Array:
    """Weighted mean of ``gram`` over pairs that are not the same scenario, one for each row of weights."""
    apart = np.where(same, 0.0, gram)
    total = ((first @ apart) * second).sum(1)
    count = ((first @ (~same).astype(np.float64)) * second).sum(1)
    result: Array = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return result


@dataclass(frozen=True)
class Matching:
    """Pairs of scenarios, one of each context, with like projections on the common direction.

    Attributes:
        pairs: their numbers in A and in B.
        before, after: difference of the contexts' mean projections in units of their pooled spread.
        mean_a, mean_b: mean projection [residual units] of the matched.
        caliper: largest difference allowed [residual units].
    """

    pairs: tuple[tuple[int, int], ...]
    before: float
    after: float
    mean_a: float
    mean_b: float
    caliper: float

    def __len__(self) -> int:
        return len(self.pairs)

    def as_dict(self) -> dict[str, Any]:
        return {
            "pairs": len(self.pairs), "before": self.before, "after": self.after, "mean_a": self.mean_a, "mean_b": self.mean_b,
            "caliper": self.caliper, "unit": "residual units",
        }  # fmt: skip


_CALIPER, _BALANCE = 0.5, 0.25


def matched(a: Float[np.ndarray, " first"], b: Float[np.ndarray, " second"]) -> Matching:
    """Match two sets of projections one to one, as close as can be, no pair further apart than half a pooled spread.

    Raises:
        MeasurementError: fewer than half of the smaller set, or fewer than five, can be matched, or the matched still differ by
            a quarter of a spread.
    """
    spread = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)) if min(len(a), len(b)) > 1 else 0.0
    floor = 1e-3 * float(np.abs(np.concatenate([a, b])).max(initial=0.0))
    unit = max(spread, floor, np.finfo(np.float64).tiny)
    caliper = _CALIPER * unit
    distance = np.abs(a[:, None] - b[None])
    # What lies too far apart is as good as infinitely far: as many pairs as possible, then the closest.
    rows, columns = linear_sum_assignment(np.where(distance <= caliper, distance, 1e6 * unit))
    pairs = tuple((int(i), int(j)) for i, j in zip(rows, columns, strict=True) if distance[i, j] <= caliper)
    before = float((a.mean() - b.mean()) / unit)
    needed = max(MIN_SCENARIOS, -(-min(len(a), len(b)) // 2))
    if len(pairs) < needed:
        raise MeasurementError(
            f"the contexts cannot be matched: mean projections are {a.mean():.3g} and {b.mean():.3g} residual units (spread "
            f"{spread:.2g}), and only {len(pairs)} of {min(len(a), len(b))} scenarios have a partner within {caliper:.2g}; "
            f"expected at least {needed}: use contexts in which the emotion is as strong"
        )
    left, right = (np.array(some) for some in zip(*pairs, strict=True))
    after = float((a[left].mean() - b[right].mean()) / unit)
    if abs(after) > _BALANCE:
        raise MeasurementError(
            f"the contexts cannot be matched: after matching their mean projections still differ by {after:+.2g} spreads "
            f"({a[left].mean():.3g} and {b[right].mean():.3g} residual units); expected at most {_BALANCE}"
        )
    return Matching(pairs, before, after, float(a[left].mean()), float(b[right].mean()), caliper)


def profile_table(names: Sequence[str], a: Array, b: Array, *, seed: int = 0) -> pd.DataFrame:
    """Who writes the direction in each context: mean contribution [residual units] of every node, and the difference.

    ``a``, ``b``: ``[pair, node]``, matched. The interval of the difference resamples pairs.
    """
    n = len(a)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
    drawn = weights @ (a - b)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0) if n >= MIN_SCENARIOS else np.full((2, a.shape[1]), np.nan)
    return pd.DataFrame({
        "component": list(names), "a": a.mean(0), "b": b.mean(0), "difference": (a - b).mean(0), "low": low, "high": high,
        "n": n, "unit": "residual",
    })  # fmt: skip


def profiles_apart(
    a: Float[np.ndarray, "pair node"], b: Float[np.ndarray, "pair node"], *, seed: int = 0
) -> dict[str, Any]:
    """Do the contexts' contribution profiles fall apart, beside what swapping contexts inside pairs would give?

    ``distance``: summed absolute difference of the mean profiles over their mean summed size (0 alike, 2 without a common
    node), with the p of swaps. ``rand``: adjusted Rand index of a clustering of all profiles into two (k-means) with the
    contexts, with its p; 1 where the two clusters are the contexts, about 0 where they have nothing to do with them.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score
    from threadpoolctl import threadpool_limits

    n = len(a)
    if not a.shape[1]:
        return {"nodes": 0, "n": n}
    size = (np.abs(a.mean(0)).sum() + np.abs(b.mean(0)).sum()) / 2
    apart = a - b
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(999, n))

    # The first row is what was found, the others what swapping gives.
    summed = np.abs(np.concatenate([apart.mean(0)[None], signs @ apart / n])).sum(1)
    found, *null = summed / size if size > 0 else np.full(len(summed), np.nan)
    rows = np.concatenate([a, b])
    if len(np.unique(rows.round(12), axis=0)) < 2:
        rand, p_rand = 0.0, 1.0
    else:
        with threadpool_limits(1, user_api="blas"):
            labels = KMeans(2, n_init=10, random_state=seed).fit(rows).labels_
        truth = np.repeat([0, 1], n)
        rand = float(adjusted_rand_score(truth, labels))
        swapped = []
        for sign in signs[:199]:
            flip = sign < 0
            swapped.append(adjusted_rand_score(np.concatenate([flip, ~flip]), labels))
        p_rand = float((1 + (np.array(swapped) >= rand - 1e-9).sum()) / (1 + len(swapped)))
    return {
        "nodes": int(a.shape[1]), "n": n, "distance": float(found), "distance_null": float(np.mean(null)),
        "distance_p": float((1 + (np.array(null) >= found - 1e-12).sum()) / (1 + len(null))), "rand": rand, "rand_p": p_rand,
    }  # fmt: skip
