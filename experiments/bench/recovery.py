"""How close a finding comes to the truth, and how sure a mean over seeds is.

The area under the ROC curve is the chance that a true item has a higher score than another, ties counting half: .5 for scores
that say nothing. Precision of nothing found and recall of nothing true do not exist and are NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy.stats import beta, rankdata

__all__ = ["auroc", "clopper_pearson", "mean_over_seeds", "of_ranking", "precision", "recall"]

T = TypeVar("T", bound=Hashable)

DRAWS = 5000


def precision(found: Collection[T], true: Collection[T]) -> float:
    """Share of what was found that is true."""
    return len(set(found) & set(true)) / len(set(found)) if found else float("nan")


def recall(found: Collection[T], true: Collection[T]) -> float:
    """Share of what is true that was found."""
    return len(set(found) & set(true)) / len(set(true)) if true else float("nan")


def auroc(scores: Mapping[T, float], true: Collection[T], possible: Collection[T]) -> float:
    """Area under the ROC curve over ``possible`` items; one without a score has zero. NaN where all or none are true.

    Raises:
        ValueError: a true or scored item is not possible, so the area would hide it.
    """
    known = set(possible)
    strange = [item for item in (*true, *scores) if item not in known]
    if strange:
        raise ValueError(
            f"{strange[0]} is not among the {len(possible)} possible items; expected true and scored ones to be"
        )
    items, real = list(possible), set(true)
    ranks = rankdata([scores.get(item, 0.0) for item in items])
    hit = np.array([item in real for item in items])
    n, m = int(hit.sum()), int((~hit).sum())
    if not n or not m:
        return float("nan")
    return float((ranks[hit].sum() - n * (n + 1) / 2) / (n * m))


def of_ranking(ranked: Sequence[T], scores: Sequence[float]) -> dict[T, float]:
    """A number for each place of a ranking, higher is better; neighbours of equal score are tied.

    Places, not scores: a method may rank its circuit first whatever the scores. All numbers are above zero.
    """
    if len(ranked) != len(scores):
        raise ValueError(f"{len(ranked)} items are ranked and {len(scores)} scored; expected as many")
    places = np.cumsum([i > 0 and scores[i] != scores[i - 1] for i in range(len(ranked))])
    return {item: float(len(ranked) - place) for item, place in zip(ranked, places, strict=True)}


def clopper_pearson(hits: int, of: int) -> tuple[float, float]:
    """Exact 95% interval of a rate."""
    low = float(beta.ppf(0.025, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0
    return low, high


def mean_over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with its 95% percentile bootstrap interval, one value a seed; NaN are left out, no interval below five."""
    real = np.array([v for v in values if not np.isnan(v)])
    if not len(real):
        return float("nan"), float("nan"), float("nan")
    if len(real) < 5:
        return float(real.mean()), float("nan"), float("nan")
    drawn = real[np.random.default_rng(0).integers(0, len(real), (DRAWS, len(real)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(real.mean()), float(low), float(high)
