"""What the circuits of several emotions share, and what that is for.

Likeness: the strongest k heads (or neurons) of every emotion, found anew on two disjoint halves of the scenarios, k being the
number in the emotion's circuit. Emotions against each other and each against itself, always across halves, so that both
carry the same noise; beside each the Jaccard of random sets with as many members in every layer. The normalised likeness is
``(between - chance) / (ceiling - ceiling's chance)``: 0 where two emotions share what random sets share, 1 where they are as
alike as one emotion is to itself. Intervals: scenarios of each half drawn again with replacement, and the halves drawn
again. Rankings of resampled scenarios are noisier than rankings of scenarios, so the draws lie off the figure; their middle
95% is moved back onto it, by the mean of the draws minus the figure.

Losses: a set is ablated, and the loss of every task (an emotion, or a name of the control) stands as a share of the task's own
``m(M) - m(∅)``. Numerator and denominator are resampled together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.circuit.estimates import Estimate, estimate, gap_of, positive
from circuits.circuit.evaluation import Bench
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.errors import MeasurementError, SettingsError
from circuits.model.sites import Component
from circuits.prompts.emotions import Emotion

__all__ = ["Likeness", "Losses", "likeness", "likeness_apart", "shared_by"]

Array = NDArray[np.float64]
Set = frozenset[Component]

_SPLITS = 200
_OVERLAPS = 200


@dataclass(frozen=True)
class Likeness:
    """Mean Jaccard across halves; every figure with its draws ``[draw]`` (NaN where the normalised one does not exist).

    Attributes:
        between, chance: of two different emotions, and of random sets of their shapes.
        ceiling, ceiling_chance: of one emotion with itself, and of random sets of its shape.
        share: the normalised likeness.
        ceilings: by emotion.
        n: scenarios; each half has half of them.
        drawn: bootstrap draws of ``share``.
    """

    between: Estimate
    chance: float
    ceiling: Estimate
    ceiling_chance: float
    share: Estimate
    ceilings: dict[Emotion, float]
    n: int
    drawn: Array

    def as_dict(self) -> dict[str, Any]:
        return {
            "between": self.between.as_dict(), "chance": self.chance, "ceiling": self.ceiling.as_dict(),
            "ceiling_chance": self.ceiling_chance, "normalised": self.share.as_dict(),
            "ceiling_by_emotion": {str(e): value for e, value in self.ceilings.items()}, "n": self.n,
            "unit": "Jaccard, across halves",
        }  # fmt: skip


def likeness(
    values: Mapping[Emotion, Array],
    components: Sequence[Component],
    sizes: Mapping[Emotion, int],
    *,
    splits: int = _SPLITS,
    draws: int = 1000,
    seed: int = 0,
) -> Likeness:
    """How alike the strongest components of the emotions are.

    Args:
        values: effects by emotion, ``[scenario, component]``, the same scenarios for all.
        components: the axis ``component``; all of one kind.
        sizes: how many of each emotion; emotions with none are left out.

    Raises:
        SettingsError: no split or draw, or a size beyond the number of components.
        MeasurementError: fewer than two emotions, unequal scenarios, or fewer than ten of them.
    """
    emotions = [e for e in values if sizes.get(e, 0) > 0]
    if len(emotions) < 2:
        raise MeasurementError(
            f"{len(emotions)} emotions have components of this kind; expected at least two to compare"
        )
    if splits < 1 or draws < 2:
        raise SettingsError(f"splits is {splits} and draws {draws}; expected at least 1 and 2 (1,000 for an interval)")
    counts = {len(values[e]) for e in emotions}
    n = min(counts)
    if len(counts) > 1 or n < 2 * MIN_SCENARIOS:
        raise MeasurementError(
            f"the emotions have {sorted(counts)} scenarios; expected as many for each, {2 * MIN_SCENARIOS} at least"
        )
    most = max(sizes[e] for e in emotions)
    if most > len(components):
        raise SettingsError(f"a size is {most}; expected at most {len(components)}, the components measured")
    stacked = np.stack([values[e] for e in emotions])
    halves = _Halves(stacked, np.array([sizes[e] for e in emotions]), components, np.random.default_rng(seed))
    plain = np.stack([halves.draw(again=False) for _ in range(splits)])
    drawn = np.stack([halves.draw(again=True) for _ in range(draws)])
    at = len(emotions)
    point = plain.mean(0)
    share = _share(point[None, :4])[0]
    shares = _share(drawn[:, :4])
    ceilings = {e: float(x) for e, x in zip(emotions, point[4 : 4 + at], strict=True)}
    return Likeness(
        between=_interval(point[0], drawn[:, 0], n, 1.0), chance=float(point[1]),
        ceiling=_interval(point[2], drawn[:, 2], n, 1.0), ceiling_chance=float(point[3]),
        share=_interval(share, shares, n), ceilings=ceilings, n=n, drawn=shares,
    )  # fmt: skip


def likeness_apart(first: Likeness, second: Likeness) -> Estimate:
    """Normalised likeness of one kind minus that of another, both from the same draws (same seed, same scenarios)."""
    return _interval(first.share.value - second.share.value, first.drawn - second.drawn, first.n)


class _Halves:
    """Two halves of the scenarios, and the sets found on each."""

    def __init__(
        self, values: Array, sizes: NDArray[np.int64], components: Sequence[Component], rng: np.random.Generator
    ) -> None:
        self.values, self.sizes, self.rng = values, sizes, rng
        layers = np.array([c.layer for c in components])
        self.layers = layers == np.unique(layers)[:, None]  # [layer, component]
        # Overlaps of random sets get a generator of their own: two kinds of one seed then see the same halves.
        self.chance = np.random.default_rng([1, len(components)])

    def draw(self, *, again: bool) -> Array:
        """between, its chance, ceiling, its chance, then each emotion's ceiling."""
        n = self.values.shape[1]
        order = self.rng.permutation(n)
        parts = [order[: n // 2], order[n // 2 : 2 * (n // 2)]]
        if again:
            parts = [part[self.rng.integers(0, len(part), len(part))] for part in parts]
        first, second = (self._sets(part) for part in parts)
        both = first @ second.T
        found = both / (self.sizes[:, None] + self.sizes - both)
        random = self._random(first, second)
        apart = ~np.eye(len(found), dtype=bool)
        own = np.diag(found)
        return np.array([found[apart].mean(), random[apart].mean(), own.mean(), np.diag(random).mean(), *own])

    def _sets(self, rows: NDArray[np.int64]) -> Array:
        """Membership of the strongest, ``[emotion, component]``; equal means fall in stream order."""
        order = np.argsort(-self.values[:, rows].mean(1), axis=1, kind="stable")
        rank = np.argsort(order, axis=1, kind="stable")
        return (rank < self.sizes[:, None]).astype(np.float64)

    def _random(self, first: Array, second: Array) -> Array:
        """Mean Jaccard of random sets with as many members in every layer, ``[emotion, emotion]``."""
        here = self.layers.sum(1)
        a, b = (sets @ self.layers.T for sets in (first, second))
        good, wanted = (x.astype(np.int64) for x in np.broadcast_arrays(a[:, None], b[None]))
        drawn = self.chance.hypergeometric(good, here - good, wanted, size=(_OVERLAPS, *good.shape)).sum(-1)
        return np.asarray((drawn / (self.sizes[:, None] + self.sizes - drawn)).mean(0), dtype=np.float64)


def _share(figures: Array) -> Array:
    """Normalised likeness of ``[draw, 4]``; NaN where the ceiling is no higher than chance."""
    between, chance, ceiling, own = figures.T
    room = ceiling - own
    result: Array = np.divide(between - chance, room, out=np.full_like(room, np.nan), where=room > 0)
    return result


def _interval(value: float, drawn: Array, n: int, most: float = np.inf) -> Estimate:
    if not np.isfinite(drawn).all() or not np.isfinite(value):
        return Estimate(float(value), float("nan"), float("nan"), n)
    low, high = np.quantile(drawn, [0.025, 0.975]) - (drawn.mean() - value)
    return Estimate(float(value), min(float(low), most), min(float(high), most), n)


def shared_by(circuits: Mapping[Emotion, Collection[Component]], least: int) -> Set:
    """Components in at least so many circuits."""
    times = Counter(c for some in circuits.values() for c in set(some))
    return frozenset(c for c, count in times.items() if count >= least)


class Losses:
    """Losses of several tasks when sets are ablated, as shares of each task's own gap.

    Attributes:
        tasks: by name, those whose whole model is clearly better than none of it.
        undefined: why the others are left out.
        n: scenarios, the same in every task and in the same order.

    Raises:
        MeasurementError: no task is left, or the tasks have unequal numbers of scenarios.
    """

    def __init__(self, benches: Mapping[str, Bench]) -> None:
        self.tasks: dict[str, Bench] = {}
        self.undefined: dict[str, str] = {}
        for name, bench in benches.items():
            try:
                gap_of(bench)
                self.tasks[name] = bench
            except MeasurementError as why:
                self.undefined[name] = str(why)
        if not self.tasks:
            raise MeasurementError(f"no task is left to read: {next(iter(self.undefined.values()), 'none was given')}")
        counts = {bench.n for bench in self.tasks.values()}
        if len(counts) > 1:
            raise MeasurementError(f"the tasks have {sorted(counts)} scenarios; expected the same scenarios for each")
        self.n = counts.pop()
        self._gaps = np.stack([bench.whole - bench.empty for bench in self.tasks.values()])

    def lost(self, sets: Sequence[Collection[Component]]) -> Array:
        """``m(M) - m(M∖S)`` [logits], ``[set, task, scenario]``."""
        found = []
        for bench in self.tasks.values():
            model = bench.model
            everything = frozenset((*model.heads, *(model.neurons if model.capabilities.neurons else ())))
            found.append(bench.whole - bench.metrics([everything - frozenset(some) for some in sets]))
        return np.stack(found, 1)

    def share(self, lost: Array, weights: Mapping[str, float]) -> Estimate:
        """Weighted sum over tasks of one set's loss as a share of the task's gap; ``lost`` is ``[task, scenario]``."""
        return self.contrast(lost[None], [weights])

    def contrast(self, lost: Array, weights: Sequence[Mapping[str, float]]) -> Estimate:
        """The same of several sets, each with its weights, averaged; ``lost`` is ``[set, task, scenario]``."""
        matrix = np.array([[some.get(name, 0.0) for name in self.tasks] for some in weights]) / len(weights)
        count = len(self.tasks)
        data = np.concatenate([lost.reshape(-1, self.n), self._gaps])

        def statistic(means: Array) -> Array:
            losses, gaps = means[:, :-count].reshape(len(means), *matrix.shape), means[:, -count:]
            result: Array = (losses / positive(gaps)[:, None] * matrix).sum((1, 2))
            return result

        return estimate(data, statistic)

    def ratio(self, lost: Array, above: Mapping[str, float], below: Mapping[str, float]) -> Estimate:
        """One weighted sum over tasks of a set's share lost divided by another; ``lost`` is ``[task, scenario]``.

        NaN where the one below is not clearly above zero.
        """
        if self.share(lost, below).sign <= 0:
            return Estimate(float("nan"), float("nan"), float("nan"), self.n)
        over, under = (np.array([some.get(name, 0.0) for name in self.tasks]) for some in (above, below))
        count = len(self.tasks)

        def statistic(means: Array) -> Array:
            shares = means[:, :count] / positive(means[:, count:])
            result: Array = (shares @ over) / positive(shares @ under)
            return result

        return estimate(np.concatenate([lost, self._gaps]), statistic)

    def mean_of(self, names: Collection[str]) -> dict[str, float]:
        """Weights of the mean over these tasks, those without a gap left out."""
        some = [name for name in names if name in self.tasks]
        return dict.fromkeys(some, 1 / len(some)) if some else {}
