"""Do directions found on written scenarios order real text by its labelled emotion?

The area under the curve of ⟨state, v_e⟩, texts of emotion e against texts of the other five (Mann & Whitney 1947): the share
of pairs in which the text of e scores higher, ties counting half. The directions are held fixed, so texts alone are
resampled, inside each emotion. The null deals the labels out anew over texts of the same surface (how they end, how long
they are) and keeps the largest area over all states (Westfall & Young 1993), because the best of many states looks good by
chance. Dealing over all texts would not do: a model that knows no word of a text still sees its question mark, and may
order surprise by it.

The state named for an emotion is chosen on one half of its texts; every figure is from the other half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.stats import rankdata

from circuits.directions.vectors import Directions
from circuits.errors import DirectionError
from circuits.model.sites import State
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["Transfer", "auroc", "bootstrap_aurocs", "halves", "transfer"]

Array = NDArray[np.float64]

_DRAWS = 1000
_PERMUTATIONS = 1000
_LEAST = 5


@dataclass(frozen=True)
class Transfer:
    """How well one estimator's directions order labelled texts, ``[emotion, state]``; NaN where there is no direction.

    Attributes:
        auroc, low, high: area under the curve and its 95% interval over texts.
        null: mean area where labels say nothing beyond the surface; .5 where the surface says nothing either.
        threshold: 95th percentile of the null's largest area over states, ``[emotion]``.
        p: share of the null's largest areas that reach the largest area found, ``[emotion]``; one-sided, over all states.
        chosen: place of the state with the largest area on the half that nothing else is reported of, ``[emotion]``.
        n, rest: texts of the emotion and of the other five, ``[emotion]``.
    """

    estimator: str
    states: tuple[State, ...]
    auroc: Float[Array, "emotion state"]
    low: Float[Array, "emotion state"]
    high: Float[Array, "emotion state"]
    null: Float[Array, "emotion state"]
    threshold: Float[Array, " emotion"]
    p: Float[Array, " emotion"]
    chosen: Int[NDArray[np.int64], " emotion"]
    n: Int[NDArray[np.int64], " emotion"]
    rest: Int[NDArray[np.int64], " emotion"]

    def at_chosen(self, e: Emotion) -> tuple[State, float, float, float, float]:
        """The chosen state, the area there with its interval, and what the surface alone gives there."""
        row, place = e.column, int(self.chosen[e.column])
        value, low, high, null = (float(a[row, place]) for a in (self.auroc, self.low, self.high, self.null))
        return self.states[place], value, low, high, null


def transfer(
    directions: Directions,
    scores: Float[Array, "text state emotion"],
    emotions: Int[NDArray[np.int64], " text"],
    surface: NDArray[np.int64],
    *,
    draws: int = _DRAWS,
    permutations: int = _PERMUTATIONS,
    seed: int = 0,
) -> Transfer:
    """Areas under the curve of ``scores`` (projections of each text's states on the directions) at every state.

    Args:
        emotions: the labels, as places among the six.
        surface: a number of each text's group; labels are dealt out inside groups (all equal: over all texts).
        draws: bootstrap resamples of texts.
        permutations: of the labels.

    Raises:
        DirectionError: a score is not finite, the shapes disagree, or an emotion has fewer than ten texts.
    """
    wanted = (len(emotions), len(directions.states), len(EMOTIONS))
    if surface.shape != emotions.shape:
        raise DirectionError(f"there are {len(surface)} groups for {len(emotions)} texts; expected one for each")
    if scores.shape != wanted or not np.isfinite(scores).all():
        raise DirectionError(f"scores have shape {scores.shape}; expected finite numbers of shape {wanted}")
    select, test = halves(emotions, seed=seed)
    rng = np.random.default_rng(seed)
    defined = directions.norms > 0
    chosen = np.where(defined, auroc(scores[select], emotions[select]), -1).argmax(1)
    values, labels = scores[test], emotions[test]
    found = np.where(defined, auroc(values, labels), np.nan)
    ranks = rankdata(values, axis=0)
    maxima = np.empty((permutations, len(EMOTIONS)))
    averages = np.empty_like(found)
    dealt = _dealt(labels, surface[test], permutations, rng)
    for e in EMOTIONS:
        null = _from_ranks((dealt == e.column).astype(np.float64), ranks[..., e.column])
        averages[e.column] = null.mean(0)
        maxima[:, e.column] = null[:, defined[e.column]].max(1)
    drawn = bootstrap_aurocs(values, labels, draws, rng)
    low, high = (np.where(defined, np.quantile(drawn, level, axis=0), np.nan) for level in (0.025, 0.975))
    # Equal areas may differ in the last bit: a sum of the same ranks in another order.
    reached = (maxima >= np.nanmax(found, axis=1) - 1e-12).sum(0)
    counts = np.bincount(labels, minlength=len(EMOTIONS)).astype(np.int64)
    return Transfer(
        estimator=directions.estimator,
        states=directions.states,
        auroc=found,
        low=low,
        high=high,
        null=np.where(defined, averages, np.nan),
        threshold=np.quantile(maxima, 0.95, axis=0),
        p=(1 + reached) / (1 + permutations),
        chosen=chosen.astype(np.int64),
        n=counts,
        rest=len(labels) - counts,
    )


def _dealt(
    labels: NDArray[np.int64], groups: NDArray[np.int64], permutations: int, rng: np.random.Generator
) -> Int[NDArray[np.int64], "draw text"]:
    """The labels in random order inside each group."""
    result = np.tile(labels, (permutations, 1))
    for group in np.unique(groups):
        mine = np.flatnonzero(groups == group)
        result[:, mine] = rng.permuted(result[:, mine], axis=1)
    return result


def halves(
    emotions: Int[NDArray[np.int64], " text"], *, seed: int = 0
) -> tuple[Bool[NDArray[np.bool_], " text"], Bool[NDArray[np.bool_], " text"]]:
    """Two random halves of each emotion's texts: to choose a state on, and to report on.

    Raises:
        DirectionError: an emotion has fewer than ten texts.
    """
    select = np.zeros(len(emotions), dtype=np.bool_)
    rng = np.random.default_rng(seed)
    for e in EMOTIONS:
        mine = np.flatnonzero(emotions == e.column)
        if len(mine) < 2 * _LEAST:
            raise DirectionError(
                f"there are {len(mine)} texts of {e}; expected at least {2 * _LEAST}: half choose, half report"
            )
        select[rng.permutation(mine)[: len(mine) // 2]] = True
    return select, ~select


def auroc(
    scores: Float[Array, "text state emotion"], emotions: Int[NDArray[np.int64], " text"]
) -> Float[Array, "emotion state"]:
    """Area under the curve of each emotion's own scores, its texts against all others."""
    ranks = rankdata(scores, axis=0)
    rows = [_from_ranks((emotions == e.column).astype(np.float64)[None], ranks[..., e.column])[0] for e in EMOTIONS]
    return np.stack(rows)


def _from_ranks(positive: Float[Array, "draw text"], ranks: Float[Array, "text state"]) -> Float[Array, "draw state"]:
    """The area from mid-ranks: (rank sum of the positives − its least possible value) over the number of pairs."""
    n = positive.sum(1, keepdims=True)
    areas: Array = (positive @ ranks - n * (n + 1) / 2) / (n * (positive.shape[1] - n))
    return areas


def bootstrap_aurocs(
    scores: Float[Array, "text state emotion"],
    emotions: Int[NDArray[np.int64], " text"],
    draws: int,
    rng: np.random.Generator,
) -> Float[Array, "draw emotion state"]:
    """Areas of texts resampled with replacement inside each emotion, so that the groups keep their sizes.

    A resample is a count for each text; sorted once, each state costs a sum over the texts below.
    """
    counts = np.empty((draws, len(emotions)))
    for e in EMOTIONS:
        mine = emotions == e.column
        n = int(mine.sum())
        counts[:, mine] = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    areas = np.empty((draws, len(EMOTIONS), scores.shape[1]))
    for e in EMOTIONS:
        positive = emotions == e.column
        for state in range(scores.shape[1]):
            areas[:, e.column, state] = _weighted(scores[:, state, e.column], positive, counts)
    return areas


def _weighted(scores: Float[Array, " text"], positive: NDArray[np.bool_], counts: Float[Array, "draw text"]) -> Array:
    """The area where text i occurs ``counts[draw, i]`` times, ``[draw]``."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    ups, downs = (
        np.add.reduceat(np.where(mask[order], counts[:, order], 0), starts, axis=1) for mask in (positive, ~positive)
    )
    below = np.cumsum(downs, axis=1) - downs / 2  # the others below, and half of those level with it
    areas: Array = (ups * below).sum(1) / (ups.sum(1) * downs.sum(1))
    return areas
