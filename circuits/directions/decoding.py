"""From which state on can an emotion be decoded? Held-out AUROC at every state, against a max-statistic null.

Directions are estimated on some scenarios and scored on others: the area under the curve of ⟨state, v_e⟩, emotion e against
the other five. The null permutes emotion labels inside scenarios and keeps, for each permutation, the *largest* AUROC over
all states, because the first of many states to pass a per-state threshold would pass by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from circuits.directions.estimators import Estimator, contrast
from circuits.errors import DirectionError
from circuits.model.reading import Readings
from circuits.model.sites import State
from circuits.prompts.emotions import EMOTIONS, Emotion, emotion

__all__ = ["Decodability", "across", "within"]

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
    return _decodability(readings, states, lambda r: _cross_validated(r, estimator, folds), permutations, seed)


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
    readings: Readings, states: tuple[State, ...], score: object, permutations: int, seed: int
) -> Decodability:
    labels, scenarios = readings.prompts.emotions, readings.prompts.scenarios
    projections = score(readings)  # type: ignore[operator]
    rng = np.random.default_rng(seed)
    maxima = np.empty((permutations, len(EMOTIONS)))
    for i in range(permutations):
        shuffled = _relabelled(readings, rng)
        maxima[i] = _auroc(score(shuffled), shuffled.prompts.emotions).max(1)  # type: ignore[operator]
    count = int(scenarios.max()) + 1
    members = [np.flatnonzero(scenarios == s) for s in range(count)]
    draws = np.empty((_DRAWS, len(EMOTIONS), len(states)))
    for i in range(_DRAWS):
        rows = np.concatenate([members[s] for s in rng.integers(0, count, count)])
        draws[i] = _auroc(projections[rows], labels[rows])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return Decodability(
        states, _auroc(projections, labels), low, high, np.quantile(maxima, 0.95, axis=0), readings.prompts.n_scenarios
    )


def _cross_validated(readings: Readings, estimator: Estimator, folds: int) -> Array:
    scenarios = readings.prompts.scenarios
    count = int(scenarios.max()) + 1
    if count < folds:
        raise DirectionError(f"{readings.prompts.name!r} has {count} scenarios; {folds}-fold decoding needs {folds}")
    fold = np.random.default_rng(0).permutation(count)[scenarios] % folds
    scores = np.empty((len(scenarios), readings.values.shape[1], len(EMOTIONS)))
    for k in range(folds):
        vectors = estimator(readings.where(fold != k))
        # Scores of different folds are compared with each other: each fold's own mean must not decide.
        scores[fold == k] = np.einsum("psd,esd->pse", readings.values[fold == k], vectors)
        scores[fold == k] -= scores[fold == k].mean(0)
    return scores


def _relabelled(readings: Readings, rng: np.random.Generator) -> Readings:
    rows = list(readings.prompts.rows)
    for s in range(int(readings.prompts.scenarios.max()) + 1):
        members = np.flatnonzero(readings.prompts.scenarios == s)
        labels = rng.permutation([rows[i].emotion for i in members])
        for i, label in zip(members, labels, strict=True):
            rows[i] = replace(rows[i], emotion=emotion(str(label)))
    return replace(readings, prompts=replace(readings.prompts, rows=tuple(rows)))


def _auroc(scores: Array, labels: NDArray[np.int64]) -> Array:
    """Mann–Whitney AUROC of ``scores`` [prompt, state, emotion], each emotion against the rest: [emotion, state]."""
    ranks = rankdata(scores, axis=0)
    result = np.empty((len(EMOTIONS), scores.shape[1]))
    for e in EMOTIONS:
        positive = labels == e.column
        n, m = positive.sum(), (~positive).sum()
        result[e.column] = (ranks[positive, :, e.column].sum(0) - n * (n + 1) / 2) / (n * m)
    return result
