"""Linear emotion directions at every state, by three estimators (SCIENCE section 4).

An estimator is a function from readings to one raw vector per emotion and state; scaling to unit length, split-half
reliability and bookkeeping are the same for all and live in :func:`estimate_directions`.

* :func:`contrast` (Wang et al. 2025, arXiv 2510.11328): within each complete group g, ``δ_{g,e} = h_{g,e} - mean_e' h_{g,e'}``,
  then ``v_e = mean_g δ_{g,e}``. The six vectors sum to zero: their rank is at most five and their expected pairwise cosine
  is -1/5, so compare cosines with -0.2, not with 0.
* :func:`grand_mean` (Sofroniew et al. 2026): mean over e's texts (over tokens from a given one on) minus the mean over
  emotions, with the top principal components of *neutral* text that explain half of its variance projected out.
* :func:`probe`: L2 logistic regression over the six, its strength chosen by cross-validation grouped by scenario.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.directions.vectors import Directions
from circuits.errors import DirectionError
from circuits.model.anatomy import Model
from circuits.model.reading import Readings, capture
from circuits.model.words import require_words
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

__all__ = [
    "Estimator", "contrast", "deviations", "directions_from", "estimate_directions", "grand_mean", "group_means", "probe",
    "rounding",
]  # fmt: skip

Array = NDArray[np.float64]

Estimator = Callable[[Readings], Array]
"""From readings to raw vectors ``[emotion, state, d_model]``."""

_NEUTRAL_VARIANCE = 0.5
_STRENGTHS = (0.01, 0.1, 1.0)
_FOLDS = 3
_HALVES = 4


def group_means(readings: Readings, values: Array) -> Array:
    """``[group, emotion, state, d_model]`` over complete groups (scenario and valence) only.

    Raises:
        DirectionError: no group has all six emotions.
    """
    groups, emotions = readings.prompts.groups, readings.prompts.emotions
    six = len(EMOTIONS)
    total = np.zeros((groups.max() + 1, six, *values.shape[1:]))
    count = np.zeros((groups.max() + 1, six))
    np.add.at(total, (groups, emotions), values)
    np.add.at(count, (groups, emotions), 1)
    complete = (count > 0).all(1)
    if not complete.any():
        raise DirectionError(
            f"{readings.prompts.name!r} has no scenario with all six emotions; contrast directions need complete scenarios"
        )
    means: Array = total[complete] / count[complete][..., None, None]
    return means


def deviations(readings: Readings) -> tuple[Array, NDArray[np.int64]]:
    """Every complete group's ``δ_{g,e}`` at the read-out token, ``[group, emotion, state, d_model]``, and its scenario.

    Raises:
        DirectionError: no group has all six emotions.
    """
    means = group_means(readings, readings.values)
    groups, first = np.unique(readings.prompts.groups, return_index=True)
    whole = [np.unique(readings.prompts.emotions[readings.prompts.groups == g]).size == len(EMOTIONS) for g in groups]
    return means - means.mean(1, keepdims=True), readings.prompts.scenarios[first][np.array(whole)]


def contrast(readings: Readings) -> Array:
    """Mean over complete groups of each emotion's deviation from the group's mean (Wang et al. 2025)."""
    means = group_means(readings, readings.values)
    vectors: Array = (means - means.mean(1, keepdims=True)).mean(0)
    return vectors


def rounding(readings: Readings) -> Array:
    """Length [residual units] up to which a difference at a state is rounding and no direction, ``[state]``.

    A state that does not differ by emotion, as the first ones of a planted model, still differs in its last bits.
    """
    largest = np.abs(readings.values).max(axis=(0, 2))
    length: Array = np.finfo(np.float32).eps * largest * np.sqrt(readings.values.shape[-1])
    return length


def grand_mean(readings: Readings) -> Array:
    """Mean over an emotion's texts minus the mean over emotions, neutral variance projected out (Sofroniew et al. 2026).

    Raises:
        DirectionError: there are no neutral texts, or an emotion has no text.
    """
    if readings.neutral is None or len(readings.neutral) < 2:
        raise DirectionError(
            f"grand_mean needs neutral texts and {readings.prompts.name!r} has none; give rows a 'neutral' field"
        )
    emotions = readings.prompts.emotions
    for e in EMOTIONS:
        if not (emotions == e.column).any():
            raise DirectionError(f"{readings.prompts.name!r} has no text of {e}; directions need all six emotions")
    means = np.stack([readings.spans[emotions == e.column].mean(0) for e in EMOTIONS])
    vectors = means - means.mean(0, keepdims=True)
    for state in range(vectors.shape[1]):
        neutral = readings.neutral[:, state] - readings.neutral[:, state].mean(0)
        _, singular, axes = np.linalg.svd(neutral, full_matrices=False)
        total = float((singular**2).sum())
        if total <= (np.finfo(np.float32).eps * np.abs(readings.neutral[:, state]).max()) ** 2 * neutral.size:
            continue  # neutral texts that do not vary here have no components to take out
        share = np.cumsum(singular**2) / total
        top = axes[: int(np.searchsorted(share, _NEUTRAL_VARIANCE)) + 1]
        vectors[:, state] -= vectors[:, state] @ top.T @ top
    result: Array = vectors
    return result


def probe(readings: Readings) -> Array:
    """Weights of a six-way L2 logistic regression on standardised states, expressed in the stream's own units.

    The strength C is the one of .01, .1, 1 with the best accuracy in cross-validation grouped by scenario.
    """
    from sklearn.model_selection import GroupKFold, cross_val_score
    from threadpoolctl import threadpool_limits

    labels, scenarios = readings.prompts.emotions, readings.prompts.scenarios
    folds = min(_FOLDS, len(np.unique(scenarios)))
    if folds < 2:
        raise DirectionError(f"{readings.prompts.name!r} has one scenario; a probe needs two or more")
    vectors = np.zeros((len(EMOTIONS), readings.values.shape[1], readings.values.shape[2]))
    # The problems are small: several linear-algebra threads wait for each other ten times longer than they work.
    with threadpool_limits(1, user_api="blas"):
        for state in range(readings.values.shape[1]):
            x = readings.values[:, state] - readings.values[:, state].mean(0)
            spread = x.std(0)
            if float(spread.max()) == 0:
                continue
            x = x / np.where(spread > 0, spread, 1)
            scores = [
                cross_val_score(_classifier(c), x, labels, groups=scenarios, cv=GroupKFold(folds)).mean()
                for c in _STRENGTHS
            ]
            fitted = _classifier(_STRENGTHS[int(np.argmax(scores))]).fit(x, labels)
            vectors[fitted.classes_, state] = np.where(spread > 0, fitted.coef_ / np.where(spread > 0, spread, 1), 0)
    return vectors


def _classifier(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=2000, tol=1e-3)


def estimate_directions(model: Model, prompts: Prompts, estimator: Estimator = contrast) -> Directions:
    """Directions of all six emotions at both positions of every layer, with split-half cosines.

    Estimate on the ``fit`` split what is to be tested on another.

    Raises:
        PromptError: a text holds a word that is not in the model's vocabulary of whole words.
        DirectionError: no complete scenario, no neutral texts (``grand_mean``), or an emotion that differs nowhere.
    """
    require_words(model, prompts)
    return directions_from(model, capture(model, prompts), estimator)


def directions_from(model: Model, readings: Readings, estimator: Estimator = contrast) -> Directions:
    """The same from readings at hand."""
    vectors = estimator(readings)
    norms = np.linalg.norm(vectors, axis=-1)
    floor = rounding(readings) if estimator is not probe else np.zeros(vectors.shape[1])
    defined = norms > floor
    for e in EMOTIONS:
        if not defined[e.column].any():
            raise DirectionError(
                f"{e} has a zero direction at every state of {model.name}: its texts do not differ from the others'; "
                "check the prompts or leave directions out"
            )
    unit = np.where(defined[..., None], vectors / np.where(defined, norms, 1)[..., None], 0)
    return Directions(
        estimator=getattr(estimator, "__name__", str(estimator)),
        states=model.states,
        vectors=unit,
        norms=np.where(defined, norms, 0),
        split_half=_split_half(readings, estimator),
        model=model.fingerprint,
        prompts=readings.prompts.fingerprint,
        n=readings.prompts.n_scenarios,
    )


def _split_half(readings: Readings, estimator: Estimator) -> Array:
    """Mean cosine between directions of two random halves of the scenarios, ``[emotion, state]``; NaN below four."""
    scenarios = readings.prompts.scenarios
    count = scenarios.max() + 1
    shape = (len(EMOTIONS), readings.values.shape[1])
    if count < 4:
        return np.full(shape, np.nan)
    rng = np.random.default_rng(0)
    total = np.zeros(shape)
    repeats = 1 if estimator is probe else _HALVES
    for _ in range(repeats):
        first = rng.permutation(count) < count // 2
        a, b = (estimator(readings.where(mask)) for mask in (first[scenarios], ~first[scenarios]))
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        total += np.where(lengths > 0, (a * b).sum(-1) / np.where(lengths > 0, lengths, 1), 0)
    mean: Array = total / repeats
    return mean
