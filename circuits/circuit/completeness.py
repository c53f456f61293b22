"""Is anything missing, is anything too much: completeness and minimality (Wang et al. 2023, sec. 4), beside random
circuits.

* Completeness: for sets K of a circuit's members, how far ``m(C∖K)`` is from ``m(M∖K)``, without sign, as a share of
  ``m(M) - m(∅)``. A circuit that lacks a backup does well with K = ∅ and badly with the K that calls the backup.
* Minimality: for a member v, the largest change that leaving it out makes over sets K of the others,
  ``|m(C∖K) - m(C∖(K ∪ {v}))|``, in the same unit. Beside it, the same of nodes that do not belong: one of v's kind and layer
  from outside is put in for the measurement.

K = ∅ and, for completeness, every single member are always among the sets; the rest are drawn, size first, then
members. Both figures are largest values over what was drawn: more draws find larger ones, which is why random
circuits get as many.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.circuit.estimates import Estimate, estimate, gap_of, randoms, require_circuit
from circuits.circuit.evaluation import Bench
from circuits.errors import SettingsError
from circuits.model.anatomy import Model
from circuits.model.sites import Component, Kind

__all__ = ["Completeness", "Minimality", "completeness", "drawn_sets", "minimality"]

Array = NDArray[np.float64]
Set = frozenset[Component]


@dataclass(frozen=True)
class Completeness:
    """How far circuit and model are apart over sampled K, as shares of ``m(M) - m(∅)``.

    Attributes:
        sets: the sampled K.
        gaps: of each K, in the order of ``sets``.
        mean: over all K.
        worst, worst_set: the largest, and the K where it is.
        random_mean, random_worst: the same two of every random circuit, with as many drawn K, on average of one each.
    """

    sets: tuple[Set, ...]
    gaps: tuple[float, ...]
    mean: Estimate
    worst: Estimate
    worst_set: Set
    random_mean: tuple[float, ...]
    random_worst: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "mean": self.mean.as_dict(), "worst": self.worst.as_dict(), "worst_set": sorted(c.name for c in self.worst_set),
            "sets": len(self.sets), "random_mean": float(np.mean(self.random_mean)),
            "random_worst": float(np.mean(self.random_worst)), "random_n": len(self.random_mean),
            "unit": "share of m(M) - m(empty)",
        }  # fmt: skip


@dataclass(frozen=True)
class Minimality:
    """The largest change each member makes, as a share of ``m(M) - m(∅)``.

    Attributes:
        largest: by member.
        given: the K where it is.
        random: the same of as many nodes from outside.
    """

    largest: dict[Component, Estimate]
    given: dict[Component, Set]
    random: tuple[float, ...]

    def idle(self, *, level: float = 0.95) -> tuple[Component, ...]:
        """Members that change no more than this quantile of nodes that do not belong."""
        bound = float(np.quantile(self.random, level)) if self.random else 0.0
        return tuple(c for c, found in self.largest.items() if found.value <= bound)

    def as_dict(self) -> dict[str, Any]:
        return {
            "largest": {c.name: found.as_dict() for c, found in self.largest.items()},
            "idle": [c.name for c in self.idle()],
            "random_mean": float(np.mean(self.random)) if self.random else float("nan"),
            "random_high": float(np.quantile(self.random, 0.95)) if self.random else float("nan"),
            "random_n": len(self.random), "unit": "share of m(M) - m(empty)",
        }  # fmt: skip


def drawn_sets(members: Sequence[Component], count: int, rng: np.random.Generator) -> list[Set]:
    """``count`` random sets, each size from one to all as likely as any other."""
    return [
        frozenset(members[i] for i in rng.choice(len(members), int(rng.integers(1, len(members) + 1)), replace=False))
        for _ in range(count)
    ]


def completeness(
    bench: Bench, circuit: Collection[Component], *, samples: int = 50, count: int = 100, each: int = 4, seed: int = 0
) -> Completeness:
    """Compare circuit and model without K, over sampled K.

    Args:
        samples: drawn K, next to the empty one and the single members.
        count: random circuits.
        each: drawn K of a random circuit, next to the empty one.

    Raises:
        SettingsError: nothing to draw.
        MeasurementError, ComponentError: see :func:`circuits.circuit.estimates.require_circuit` and ``gap_of``.
    """
    if samples < 0 or each < 0:
        raise SettingsError(f"samples is {samples} and each {each}; expected whole numbers from 0 on")
    model, members, gap = bench.model, require_circuit(bench.model, circuit), gap_of(bench)
    rng = np.random.default_rng(seed)
    singles = [frozenset({c}) for c in members]
    sets = list(dict.fromkeys([frozenset(), *singles, *drawn_sets(members, samples, rng)]))
    apart = _apart(bench, frozenset(members), sets) / gap
    gaps = np.abs(apart.mean(1))
    worst = int(gaps.argmax())
    random_mean, random_worst = [], []
    for other in randoms(model, members, count=count, seed=seed):
        some = [frozenset[Component](), *drawn_sets(sorted(other), each, rng)]
        found = np.abs(_apart(bench, other, some).mean(1)) / gap
        random_mean.append(float(found.mean()))
        random_worst.append(float(found.max()))
    return Completeness(
        sets=tuple(sets),
        gaps=tuple(float(g) for g in gaps),
        mean=estimate(apart, lambda means: np.abs(means).mean(-1)),
        worst=estimate(apart[worst], np.abs),
        worst_set=sets[worst],
        random_mean=tuple(random_mean),
        random_worst=tuple(random_worst),
    )


def minimality(
    bench: Bench, circuit: Collection[Component], *, samples: int = 10, count: int = 100, seed: int = 0
) -> Minimality:
    """Leave every member out, given each of some sampled K.

    Args:
        samples: drawn K for each member, next to the empty one.
        count: nodes from outside that are measured the same way; fewer where fewer exist.

    Raises:
        SettingsError: nothing to draw.
        MeasurementError, ComponentError: see :func:`circuits.circuit.estimates.require_circuit` and ``gap_of``.
    """
    if samples < 0 or count < 0:
        raise SettingsError(f"samples is {samples} and count {count}; expected whole numbers from 0 on")
    members, gap = require_circuit(bench.model, circuit), gap_of(bench)
    whole, rng = frozenset(members), np.random.default_rng(seed)
    largest, given = {}, {}
    for c in members:
        rest = [other for other in members if other != c]
        sets = [frozenset[Component](), *(drawn_sets(rest, samples, rng) if rest else [])]
        change = _change(bench, whole, c, sets) / gap
        top = int(np.abs(change.mean(1)).argmax())
        largest[c], given[c] = estimate(change[top], np.abs), sets[top]
    random = []
    for c in _strangers(bench.model, members, count, rng):
        sets = [frozenset[Component](), *drawn_sets(members, samples, rng)]
        random.append(float(np.abs(_change(bench, whole | {c}, c, sets).mean(1)).max() / gap))
    return Minimality(largest, given, tuple(random))


def _apart(bench: Bench, circuit: Set, sets: Sequence[Set]) -> Array:
    """``m(M∖K) - m(C∖K)`` [logits], ``[K, scenario]``."""
    model = bench.model
    everything = frozenset((*model.heads, *(model.neurons if model.capabilities.neurons else ())))
    both = bench.metrics([*(everything - without for without in sets), *(circuit - without for without in sets)])
    result: Array = both[: len(sets)] - both[len(sets) :]
    return result


def _change(bench: Bench, circuit: Set, member: Component, sets: Sequence[Set]) -> Array:
    """``m(C∖K) - m(C∖(K ∪ {v}))`` [logits], ``[K, scenario]``."""
    both = bench.metrics([*(circuit - some for some in sets), *(circuit - some - {member} for some in sets)])
    result: Array = both[: len(sets)] - both[len(sets) :]
    return result


def _strangers(model: Model, members: Sequence[Component], count: int, rng: np.random.Generator) -> list[Component]:
    """Nodes outside the circuit, of kinds and layers as its members have them."""
    inside, found = set(members), []
    for i in rng.permutation(np.resize(np.arange(len(members)), count)) if members else []:
        kind, layer = members[i].kind, members[i].layer
        size = model.n_heads if kind is Kind.HEAD else model.d_mlp
        free = [c for c in (Component(layer, kind, n) for n in range(size)) if c not in inside]
        if free:
            found.append(free[int(rng.integers(len(free)))])
    return found
