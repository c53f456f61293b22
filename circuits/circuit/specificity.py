"""Whose circuit is it? Ablate one emotion's circuit and read all six; what circuits share beside what chance would.

Entry (e, f) of the matrix is ``m_f(M) - m_f(M∖C_e)``: what ablating the circuit of e costs f, in f's own logit
difference on f's own texts. Beside it stand random circuits of the shape of C_e. Circuits share machinery (heads most
of all), so what is in several is reported apart from what is in one only, with the overlap that random circuits of
the same shapes have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from circuits.circuit.estimates import Estimate, estimate, randoms, require_circuit
from circuits.circuit.evaluation import Bench
from circuits.circuit.matched import matched_random
from circuits.circuit.stability import chance_jaccard, jaccard
from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.sites import Component
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["Overlap", "Specificity", "overlap", "specificity"]

Set = frozenset[Component]


@dataclass(frozen=True)
class Specificity:
    """Losses [logits]: the row's circuit is ablated, the column's emotion read.

    Attributes:
        loss: by (row, column).
        random: the same of random circuits of the row's shape: mean and 97.5% quantile.
        own: what a row's circuit costs its own emotion beyond what it costs the mean of the others, each as a share of what
            the whole model has over the empty circuit there; NaN where that is no clear difference.
    """

    loss: dict[tuple[Emotion, Emotion], Estimate]
    random: dict[tuple[Emotion, Emotion], tuple[float, float]]
    own: dict[Emotion, Estimate]
    random_n: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "unit": "logits",
            "loss": {f"{a}:{b}": found.as_dict() for (a, b), found in self.loss.items()},
            "random": {f"{a}:{b}": {"mean": mean, "high": high} for (a, b), (mean, high) in self.random.items()},
            "own_beyond_others": {str(e): found.as_dict() for e, found in self.own.items()},
            "random_n": self.random_n,
        }


@dataclass(frozen=True)
class Overlap:
    """What circuits share.

    Attributes:
        core: nodes in every circuit.
        only: nodes in one circuit and no other, by emotion.
        pairs: Jaccard of every two circuits, and its chance level.
        chance_core: nodes that as many layer-matched random circuits all share, on average.
        p_core: share of draws whose core is as large, the found one counted in.
    """

    core: tuple[Component, ...]
    only: dict[Emotion, tuple[Component, ...]]
    pairs: dict[tuple[Emotion, Emotion], tuple[float, float]]
    chance_core: float
    p_core: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "core": [c.name for c in self.core],
            "only": {str(e): [c.name for c in some] for e, some in self.only.items()},
            "jaccard": {f"{a}:{b}": {"value": v, "chance": chance} for (a, b), (v, chance) in self.pairs.items()},
            "chance_core": self.chance_core, "p_core": self.p_core, "n": self.n,
        }  # fmt: skip


def specificity(
    benches: Mapping[Emotion, Bench],
    circuits: Mapping[Emotion, Collection[Component]],
    *,
    count: int = 100,
    seed: int = 0,
) -> Specificity:
    """Ablate every circuit and read every bench; empty circuits have no row.

    Raises:
        MeasurementError: all circuits are empty.
        ComponentError: the model lacks a component.
        SettingsError: fewer than one random circuit.
    """
    model = next(iter(benches.values())).model
    rows = {e: frozenset(require_circuit(model, circuits[e])) for e in EMOTIONS if circuits.get(e)}
    if not rows:
        raise MeasurementError("all circuits are empty; expected at least one to ablate")
    everything = frozenset((*model.heads, *(model.neurons if model.capabilities.neurons else ())))
    others = {e: randoms(model, some, count=count, seed=seed + e.column) for e, some in rows.items()}
    loss, random, shares = {}, {}, {}
    for f, bench in benches.items():
        sets = [everything - some for e in rows for some in (rows[e], *others[e])]
        lost = (bench.whole - bench.metrics(sets)).reshape(len(rows), 1 + count, bench.n)
        gap = _gap(bench)
        for e, values in zip(rows, lost, strict=True):
            loss[e, f] = estimate(values[0])
            means = values[1:].mean(1)
            random[e, f] = (float(means.mean()), float(np.quantile(means, 0.975)))
            shares[e, f] = values[0] / gap
    own = {e: _own(e, {f: shares[e, f] for f in benches}) for e in rows if e in benches}
    ordered = {(e, f): loss[e, f] for e in rows for f in benches}
    return Specificity(ordered, {key: random[key] for key in ordered}, own, count)


def overlap(
    model: Model, circuits: Mapping[Emotion, Collection[Component]], *, draws: int = 1000, seed: int = 0
) -> Overlap:
    """What the circuits share, beside layer-matched random circuits; empty circuits are left out.

    Raises:
        MeasurementError: fewer than two circuits.
        ComponentError: the model lacks a component.
    """
    sets = {e: frozenset(require_circuit(model, some)) for e, some in circuits.items() if some}
    if len(sets) < 2:
        raise MeasurementError(f"{len(sets)} circuits have nodes; expected at least two to compare")
    times = Counter(c for some in sets.values() for c in some)
    core = tuple(sorted(c for c, count in times.items() if count == len(sets)))
    only = {e: tuple(sorted(c for c in some if times[c] == 1)) for e, some in sets.items()}
    everything = (*model.heads, *(model.neurons if model.capabilities.neurons else ()))
    pairs = {
        (a, b): (jaccard(sets[a], sets[b]), chance_jaccard(sets[a], sets[b], everything, seed=seed))
        for a, b in combinations(sets, 2)
    }
    rng = np.random.default_rng(seed)
    cores = np.array([
        len(frozenset.intersection(*(frozenset(matched_random(model, some, rng)) for some in sets.values())))
        for _ in range(draws)
    ])  # fmt: skip
    p = (1 + int((cores >= len(core)).sum())) / (1 + draws)
    return Overlap(core, only, pairs, float(cores.mean()), p, len(sets))


def _gap(bench: Bench) -> float:
    """What the whole model has over the empty circuit; NaN where that is nothing clear."""
    try:
        bench.ratio(bench.empty)
    except MeasurementError:
        return float("nan")
    return float((bench.whole - bench.empty).mean())


def _own(e: Emotion, shares: Mapping[Emotion, np.ndarray]) -> Estimate:
    """Own share minus the mean of the others'; scenarios are paired where all emotions have the same number of them.

    Emotions that the model does not tell apart have no shares, and are no others.
    """
    other = [shares[f] for f in shares if f is not e and not np.isnan(shares[f]).any()]
    if other and all(len(some) == len(shares[e]) for some in other):
        return estimate(shares[e] - np.mean(other, axis=0))
    value = float(shares[e].mean() - np.mean([some.mean() for some in other])) if other else float("nan")
    return Estimate(value, float("nan"), float("nan"), len(shares[e]))
