"""Would other scenarios have given the same circuit? Bootstrap and split halves of the cheap part of the choice.

What is resampled: the scenarios of ``select``, with replacement, as many as there are. What is done again: the means
of the effects already measured per prompt, their ranking, and the cut (the same number of components, or the same
smallest effect). What is not done again: any run of the model; the conditional search, edges and screening stay out.
So the figure says how steady the ranking behind a circuit is, and bounds the steadiness of whatever is built on it.

Each resample's set is compared with the set that the same rule gives on all scenarios (Jaccard). Chance is the mean
Jaccard of random sets with as many heads and neurons in every layer; the ceiling is the mean Jaccard of the sets of
two disjoint halves, which is what two independent samples of half the size would show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects
from circuits.errors import MeasurementError, SettingsError
from circuits.model.sites import Component, Kind
from circuits.prompts.emotions import Emotion

__all__ = ["Stability", "chance_jaccard", "jaccard", "stability"]

Array = NDArray[np.float64]
Set = frozenset[Component]

_CHANCE = 2000


@dataclass(frozen=True)
class Stability:
    """Jaccard of resampled sets with the set of all scenarios.

    Attributes:
        mean, low, high: over resamples, with their middle 95%.
        n: resamples.
        chance: mean Jaccard of layer-matched random sets.
        ceiling: mean Jaccard of two halves' sets; NaN below ten scenarios.
        size: components in the set of all scenarios.
        often: share of resamples each component of that set is in.
    """

    mean: float
    low: float
    high: float
    n: int
    chance: float
    ceiling: float
    size: int
    scenarios: int
    often: dict[Component, float]

    def as_dict(self) -> dict[str, Any]:
        return {
            "mean": self.mean, "low": self.low, "high": self.high, "n": self.n, "chance": self.chance, "ceiling": self.ceiling,
            "size": self.size, "scenarios": self.scenarios, "often": {c.name: share for c, share in self.often.items()},
        }  # fmt: skip


def jaccard(a: Collection[Component], b: Collection[Component]) -> float:
    """Shared over all; 1 for two empty sets, which agree."""
    one, other = set(a), set(b)
    return len(one & other) / len(one | other) if one | other else 1.0


def chance_jaccard(
    a: Collection[Component], b: Collection[Component], available: Collection[Component], *, seed: int = 0
) -> float:
    """Mean Jaccard of random sets with as many components of every kind and layer as ``a`` and ``b``.

    Drawn exactly as overlaps: two random sets of one layer share a hypergeometric number.

    Raises:
        MeasurementError: a set has more components in a layer than are available.
    """
    rng = np.random.default_rng(seed)
    shared = np.zeros(_CHANCE)
    here, first, second = (Counter((c.kind, c.layer) for c in some) for some in (set(available), set(a), set(b)))
    for place in sorted(first | second):  # sets come in another order in every process
        if max(first[place], second[place]) > here[place]:
            raise MeasurementError(f"a set has more {place[0]}s of layer {place[1]} than the {here[place]} available")
        if first[place] and second[place]:
            shared += rng.hypergeometric(first[place], here[place] - first[place], second[place], _CHANCE)
    total = first.total() + second.total()
    return float((shared / (total - shared)).mean()) if total else 1.0


def stability(
    effects: Effects,
    e: Emotion,
    *,
    size: int | None = None,
    threshold: float | None = None,
    resamples: int = 200,
    splits: int = 100,
    seed: int = 0,
) -> Stability:
    """Stability of the strongest supporters of ``e`` by mean effect.

    Args:
        effects: per-prompt effects on the prompts to resample (``select``).
        size: cut after so many; or
        threshold: cut below this mean effect [logits].

    Raises:
        SettingsError: neither or both cuts, a size that is not from 1 to the number of components, too few resamples.
        MeasurementError: fewer than five scenarios, or nothing passes the cut on all of them.
    """
    index = [i for i, c in enumerate(effects.components) if c.kind in (Kind.HEAD, Kind.NEURON)]
    components = [effects.components[i] for i in index]
    if (size is None) == (threshold is None):
        raise SettingsError(f"size is {size} and threshold {threshold}; expected one of them")
    if size is not None and not 1 <= size <= len(components):
        raise SettingsError(f"size is {size}; expected 1 to {len(components)}, the heads and neurons measured")
    if resamples < 2 or splits < 1:
        raise SettingsError(
            f"resamples is {resamples} and splits {splits}; expected at least 2 (100 for an interval) and 1"
        )
    values = effects.by_scenario(e)[:, index]
    n = len(values)
    if n < MIN_SCENARIOS:
        raise MeasurementError(f"{n} scenarios of {e}; expected at least {MIN_SCENARIOS} to resample")
    # Equal means fall in stream order, so that a tie is not broken another way each time.
    ties = np.argsort(np.argsort([str(c.layer).zfill(6) + c.kind + str(c.index).zfill(9) for c in components]))

    def chosen(means: Array) -> Set:
        if threshold is not None:
            return frozenset(components[i] for i in np.flatnonzero(means >= threshold))
        order: Sequence[int] = np.lexsort((ties, -means))[:size].tolist()
        return frozenset(components[i] for i in order)

    rng = np.random.default_rng(seed)
    whole = chosen(values.mean(0))
    if not whole:
        raise MeasurementError(
            f"no component of {e} reaches {threshold:g} logits on all {n} scenarios; lower the threshold"
        )
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    sets = [chosen(means) for means in weights @ values]
    found = np.array([jaccard(whole, some) for some in sets])
    # Cuts by threshold differ in size; chance is that of the sizes that occurred.
    chance = float(np.mean([chance_jaccard(whole, some, components, seed=seed) for some in sets[:50]]))
    ceiling = float("nan")
    if n >= 2 * MIN_SCENARIOS:
        halves = []
        for _ in range(splits):
            order = rng.permutation(n)
            a, b = (chosen(values[part].mean(0)) for part in (order[: n // 2], order[n // 2 : 2 * (n // 2)]))
            halves.append(jaccard(a, b))
        ceiling = float(np.mean(halves))
    low, high = (float(x) for x in np.quantile(found, [0.025, 0.975]))
    often = {c: float(np.mean([c in some for some in sets])) for c in sorted(whole)}
    return Stability(float(found.mean()), low, high, resamples, chance, ceiling, len(whole), n, often)
