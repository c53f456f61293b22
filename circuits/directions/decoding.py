"""From which state on can an emotion be decoded? Held-out AUROC at every state, against a max-statistic null.

Directions are estimated on some scenarios and scored on others: the area under the curve of ⟨state, v_e⟩, emotion e against
the other five. The null permutes emotions inside groups (scenario and valence) and keeps, for each permutation, the
*largest* AUROC over all states, because the first of many states to pass a per-state threshold would pass by chance.

The bootstrap draws scenarios. AUROC is a share of won pairs, so a draw needs no ranking: with ``W[s, t]`` the pairs that texts
of scenario s win against those of t, and ``c`` how often each scenario was drawn, it is ``c'Wc`` over the pairs there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from circuits.directions.estimators import Estimator, contrast
from circuits.errors import DirectionError
from circuits.model.reading import Readings
from circuits.model.sites import State
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["Decodability", "Folds", "across", "auroc", "null_maxima", "resampled", "within"]

Array = NDArray[np.float64]

_DRAWS = 1000


@dataclass(frozen=True)
class Decodability:
    """Held-out AUROC ``[emotion, state]``, its 95% interval, and the null's 95th percentile of maxima ``[emotion]``."""

    states: tuple[State, ...]
    auroc: Array
    low: Array
    high: Array
    threshold: Array
    n: int

    def onset(self, e: Emotion) -> State | None:
        """First state from which on every later state exceeds the null's threshold; None when there is none."""
        passed = self.auroc[e.column] > self.threshold[e.column]
        if not passed[-1]:
            return None
        failures = np.flatnonzero(~passed)
        return self.states[int(failures[-1]) + 1 if len(failures) else 0]


def within(
    readings: Readings,
    states: tuple[State, ...],
    *,
    estimator: Estimator = contrast,
    folds: int = 5,
    permutations: int = 200,
    seed: int = 0,
) -> Decodability:
    """Cross-validated inside one prompt set, folds by scenario."""
    dealt = Folds.of(readings.prompts, folds)
    return _decodability(readings, states, lambda r: dealt.scores(r, estimator), permutations, seed)


def across(
    source: Readings,
    target: Readings,
    states: tuple[State, ...],
    *,
    estimator: Estimator = contrast,
    permutations: int = 200,
    seed: int = 0,
) -> Decodability:
    """Directions from ``source``, scored on every prompt of ``target`` (another prompt set, same model)."""
    vectors = estimator(source)
    return _decodability(target, states, lambda r: np.einsum("psd,esd->pse", r.values, vectors), permutations, seed)


def _decodability(
    readings: Readings,
    states: tuple[State, ...],
    score: Callable[[Readings], Array],
    permutations: int,
    seed: int,
) -> Decodability:
    projections = score(readings)
    rng = np.random.default_rng(seed)
    maxima = null_maxima(readings, score, permutations, rng)
    low, high = np.quantile(resampled(projections, readings.prompts, rng), [0.025, 0.975], axis=0)
    return Decodability(
        states,
        auroc(projections, readings.prompts.emotions),
        low,
        high,
        np.quantile(maxima, 0.95, axis=0),
        readings.prompts.n_scenarios,
    )


@dataclass(frozen=True)
class Folds:
    """Scenarios dealt to folds at random.

    Attributes:
        of_row: fold of every prompt, ``[prompt]``.
        trained: the prompts outside each fold.
    """

    of_row: NDArray[np.int64]
    trained: tuple[Prompts, ...]

    @classmethod
    def of(cls, prompts: Prompts, folds: int) -> Folds:
        """Folds of whole scenarios.

        Raises:
            DirectionError: there are fewer scenarios than folds.
        """
        count = int(prompts.scenarios.max()) + 1
        if count < folds:
            raise DirectionError(f"{prompts.name!r} has {count} scenarios; {folds}-fold decoding needs {folds}")
        fold = np.random.default_rng(0).permutation(count)[prompts.scenarios] % folds
        return cls(fold, tuple(prompts.where(fold != k) for k in range(folds)))

    def scores(self, readings: Readings, estimator: Estimator) -> Array:
        """Projection of every text on directions from the other folds, less its fold's mean: ``[prompt, state, emotion]``."""
        result = np.empty((len(self.of_row), readings.values.shape[1], len(EMOTIONS)))
        for k, prompts in enumerate(self.trained):
            mine = self.of_row == k
            other = replace(readings, prompts=prompts, values=readings.values[~mine], spans=readings.spans[~mine])
            found = np.einsum("psd,esd->pse", readings.values[mine], estimator(other), optimize=True)
            # Scores of different folds are compared with each other: each fold's own mean must not decide.
            result[mine] = found - found.mean(0)
        return result


def null_maxima(
    readings: Readings, score: Callable[[Readings], Array], permutations: int, rng: np.random.Generator
) -> Array:
    """Largest AUROC over states with emotions permuted inside groups, ``[permutation, emotion]``."""
    maxima = np.empty((permutations, len(EMOTIONS)))
    for i in range(permutations):
        maxima[i] = auroc(score(_permuted(readings, rng)), readings.prompts.emotions).max(1)
    return maxima


def _permuted(readings: Readings, rng: np.random.Generator) -> Readings:
    """The texts of each group handed to its labels in another order."""
    groups = readings.prompts.groups
    order = np.arange(len(groups))
    for g in range(int(groups.max()) + 1):
        members = np.flatnonzero(groups == g)
        order[members] = rng.permutation(members)
    return replace(readings, values=readings.values[order], spans=readings.spans[order])


def resampled(scores: Array, prompts: Prompts, rng: np.random.Generator) -> Array:
    """AUROC on resampled scenarios, ``[draw, emotion, state]``: all states share the draws, so their differences are paired.

    Args:
        scores: ``[prompt, state, emotion]``.
    """
    scenarios = prompts.scenarios
    count = int(scenarios.max()) + 1
    drawn = np.stack([np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(_DRAWS)])
    drawn = drawn.astype(np.float64)
    result = np.empty((_DRAWS, len(EMOTIONS), scores.shape[1]))
    indicator = (scenarios == np.arange(count)[:, None]).astype(np.float64)  # [scenario, prompt]
    for e in EMOTIONS:
        own = prompts.emotions == e.column
        ours, theirs = indicator[:, own], indicator[:, ~own]
        pairs = (drawn @ ours.sum(1)) * (drawn @ theirs.sum(1))
        for state in range(scores.shape[1]):
            a, b = scores[own, state, e.column], scores[~own, state, e.column]
            won = (np.sign(a[:, None] - b) + 1) / 2
            wins = ((drawn @ (ours @ won @ theirs.T)) * drawn).sum(1)
            result[:, e.column, state] = np.divide(wins, pairs, out=np.full(_DRAWS, np.nan), where=pairs > 0)
    return result


def auroc(scores: Array, labels: NDArray[np.int64]) -> Array:
    """Mann–Whitney AUROC of ``scores`` [prompt, state, emotion], each emotion against the rest: [emotion, state]."""
    ranks = rankdata(scores, axis=0)
    result = np.empty((len(EMOTIONS), scores.shape[1]))
    for e in EMOTIONS:
        positive = labels == e.column
        n, m = positive.sum(), (~positive).sum()
        result[e.column] = (ranks[positive, :, e.column].sum(0) - n * (n + 1) / 2) / (n * m)
    return result
