"""Do circuit and direction have the same effect? Ablate either, both, and random ones (SCIENCE section 7.3).

All effects are losses of the emotion's own logit difference [logits] on its own held-out texts, one number a text:
a = circuit ablated, b = direction taken out, c = both. ``a + b - c`` is what the two ablations have in common: all of a when
the circuit acts through the direction alone (the mediated share is then 1), nothing when they are two separate things. The
direction is taken out at one state, or at every state from one on, each state its own vector.

Two readings of "taken out" are measured. ``projected``: the stream's projection becomes nothing (Arditi et al. 2024), which
removes what all texts share along it as well. ``levelled``: it becomes that of the circuit's own replacement values (of
the scenario's six texts, under ``mean_scenario``), so that circuit and direction lose the same thing: what differs by emotion.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.circuit.estimates import DRAWS, Estimate, ends, estimate, positive
from circuits.circuit.evaluation import Bench
from circuits.compare.steered import Job, scenarios_of, steered
from circuits.compare.table import EFFECT_COLUMNS, SameEffect
from circuits.directions.vectors import Directions
from circuits.effects.statistics import MIN_SCENARIOS, scenario_means
from circuits.errors import MeasurementError, SettingsError
from circuits.model.sites import Component, State
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["OUTS", "correlation", "pairs", "same_effect"]

Array = NDArray[np.float64]

OUTS = ("projected", "levelled")
"""Two readings of taking a direction out."""

_TINY = 1e-9


def same_effect(
    bench: Bench,
    directions: Directions,
    circuit: Collection[Component],
    random: Sequence[Collection[Component]] = (),
    *,
    states: Sequence[State] | None = None,
    onward: Collection[State] | None = None,
    outs: Sequence[str] = OUTS,
    count: int = 20,
    seed: int = 0,
) -> SameEffect:
    """Ablate the circuit, the direction and both, beside ``count`` random directions and the random circuits.

    Args:
        bench: the emotion's held-out texts, made with ``states=True``.
        directions: estimated on other texts of the same model.
        states: where the direction is taken out; every state where it is defined without it.
        onward: states from which on it is taken out everywhere; all of ``states`` without it.
        outs: ``projected``, ``levelled`` or both.

    Raises:
        DirectionError: directions of another model, or a state they have none of.
        MeasurementError: the circuit is empty, or the emotion has a direction at none of the states.
        SettingsError: fewer than one random direction.
    """
    directions.require(bench.model)
    e = bench.emotion
    if not circuit:
        raise MeasurementError(
            f"the circuit of {e} is empty; expected at least one component to hold against {e}'s direction"
        )
    if unknown := [out for out in outs if out not in OUTS]:
        raise SettingsError(f"a direction cannot be {unknown[0]!r}; expected some of {', '.join(OUTS)}")
    if count < 1:
        raise SettingsError(f"the number of random directions is {count}; expected at least 1")
    wanted = list(directions.states if states is None else states)
    there = [s for s in wanted if s in directions.states and directions.defined(s, e)]
    if not there:
        raise MeasurementError(f"{e} has a direction at none of {', '.join(map(str, wanted))}; use a later state")
    rng = np.random.default_rng(seed)
    along = rng.standard_normal((count, bench.model.d_model))
    basis = np.linalg.qr(np.stack([directions.at(s, e) for s in there], 1))[0]
    along -= along @ basis @ basis.T
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    sizes = _Sizes.of(bench, circuit, random)
    rows: list[dict[str, object]] = []
    for out in outs:
        for state in there:
            for further in (False, True):
                # From the last state on is there alone.
                if further and (state == there[-1] or (onward is not None and state not in onward)):
                    continue
                touched = [s for s in there if s.depth >= state.depth] if further else [state]
                jobs = [Job.projecting(directions, e, touched), Job.projecting(directions, e, touched, ablated=circuit)]
                jobs += [Job.projecting(directions, e, touched, along=u) for u in along]
                found = sizes.lost(bench, jobs, toward=out == "levelled")
                base = {"emotion": str(e), "out": out, "state": state.name, "onward": further, "n": sizes.n}
                rows.extend({**base, **row} for row in sizes.rows(found[0], found[1], found[2:]))
    return SameEffect(pd.DataFrame(rows, columns=list(EFFECT_COLUMNS)))


@dataclass(frozen=True)
class _Sizes:
    """Losses per text of the circuit and of random ones, and how to sum up others beside them."""

    whole: Array
    circuit: Array
    random: Array
    scenarios: NDArray[np.int64]
    column: int

    @classmethod
    def of(cls, bench: Bench, circuit: Collection[Component], random: Sequence[Collection[Component]]) -> _Sizes:
        jobs = [Job(), Job(frozenset(circuit)), *(Job(frozenset(some)) for some in random)]
        column = bench.emotion.column
        values = steered(bench, jobs)[..., column]
        return cls(values[0], values[0] - values[1], values[0] - values[2:], scenarios_of(bench), column)

    @property
    def n(self) -> int:
        return len(np.unique(self.scenarios))

    def lost(self, bench: Bench, jobs: Sequence[Job], *, toward: bool) -> Array:
        result: Array = self.whole - steered(bench, jobs, toward=toward)[..., self.column]
        return result

    def rows(self, direction: Array, both: Array, random: Array) -> list[dict[str, object]]:
        common = self.circuit + direction - both
        rows: list[dict[str, object]] = []
        for what, values in (
            ("circuit", self.circuit), ("direction", direction), ("both", both), ("mediated", common)
        ):  # fmt: skip
            rows.append({"what": what, "unit": "logits", **self._summed(values)})
        for what, several in (("random direction", random), ("random circuits", self.random)):
            if len(several):
                means = self._means(several).mean(1)
                low, high = np.quantile(means, [0.025, 0.975])
                size = float(self._means(self.circuit[None]).mean())
                share = float(means.mean()) / size if self._clear else float("nan")
                rows.append({"what": what, "unit": "logits", "value": float(means.mean()), "low": low, "high": high,
                             "share": share, "share_low": np.nan, "share_high": np.nan})  # fmt: skip
        found = correlation(self.circuit, direction, self.scenarios)
        rows.append({"what": "correlation", "unit": "1", "value": found.value, "low": found.low, "high": found.high,
                     "share": np.nan, "share_low": np.nan, "share_high": np.nan})  # fmt: skip
        return rows

    def _means(self, values: Array) -> Array:
        """``[row, text]`` to means of scenarios, ``[row, scenario]``."""
        result: Array = scenario_means(values.T, self.scenarios).T
        return result

    @property
    def _clear(self) -> bool:
        """Whether the circuit has an effect that shares can be given of."""
        one = estimate(self._means(self.circuit[None])[0])
        return bool(one.value > _TINY and not one.low <= 0)

    def _summed(self, values: Array) -> dict[str, float]:
        both = self._means(np.stack([values, self.circuit]))
        value = estimate(both[0])
        nothing = float("nan")
        share = Estimate(nothing, nothing, nothing, self.n)
        if self._clear:
            # Where a resample of the circuit does nothing, there is no share of it.
            share = estimate(both, lambda means: means[:, 0] / positive(means[:, 1]))
        return {
            "value": value.value, "low": value.low, "high": value.high, "share": share.value, "share_low": share.low,
            "share_high": share.high,
        }  # fmt: skip


def correlation(first: Array, second: Array, scenarios: NDArray[np.int64], *, seed: int = 0) -> Estimate:
    """Pearson correlation over texts with a 95% interval by resampling scenarios; NaN where one side does not vary.

    Resamples in which one side does not vary count beyond both ends (:func:`circuits.circuit.estimates.ends`).
    """
    names, place = np.unique(scenarios, return_inverse=True)
    n = len(names)
    sums = np.zeros((n, 6))
    np.add.at(sums, place, np.stack([np.ones_like(first), first, second, first**2, second**2, first * second], 1))

    def pearson(total: Array) -> Array:
        count, x, y, xx, yy, xy = np.moveaxis(total, -1, 0)
        spread = (xx / count - (x / count) ** 2) * (yy / count - (y / count) ** 2)
        scale = (xx / count) * (yy / count)
        # Equal values have a spread of rounding only.
        good = spread > 1e-18 * np.maximum(scale, 1e-300)
        covariance = xy / count - x * y / count**2
        result: Array = np.divide(
            covariance, np.sqrt(np.where(good, spread, 1)), out=np.full_like(xx, np.nan), where=good
        )
        return result

    value = float(pearson(sums.sum(0)[None])[0])
    if n < MIN_SCENARIOS or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), n)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return Estimate(value, *ends(pearson(weights @ sums)), n)


def pairs(
    benches: Mapping[Emotion, Bench],
    directions: Directions,
    circuits: Mapping[Emotion, Collection[Component]],
    state: State,
    *,
    toward: bool = True,
) -> pd.DataFrame:
    """By pair of emotions: the row's circuit, direction (from ``state`` on) and both ablated, the column's texts read.

    Columns: ``ablated``, ``read``, ``what`` (circuit, direction, both, mediated), ``value`` [logits], ``low``, ``high``, ``n``.

    Raises:
        DirectionError: directions of another model.
        MeasurementError: no emotion has both a circuit and a direction there.
    """
    directions.require(next(iter(benches.values())).model)
    onward = [s for s in directions.states if s.depth >= state.depth]
    having = [e for e in EMOTIONS if circuits.get(e) and any(directions.defined(s, e) for s in onward)]
    if not having:
        raise MeasurementError(f"no emotion has a circuit and a direction from {state} on; use an earlier state")
    rows: list[dict[str, Any]] = []
    for f, bench in benches.items():
        jobs = [Job()]
        for e in having:
            jobs += [
                Job(frozenset(circuits[e])), Job.projecting(directions, e, onward),
                Job.projecting(directions, e, onward, ablated=circuits[e]),
            ]  # fmt: skip
        values = steered(bench, jobs, toward=toward)[..., f.column]
        lost = values[0] - values[1:]
        scenarios = scenarios_of(bench)
        sizes = _Sizes(values[0], lost[0], lost[:0], scenarios, f.column)
        for number, e in enumerate(having):
            a, b, c = lost[3 * number : 3 * number + 3]
            for what, some in (("circuit", a), ("direction", b), ("both", c), ("mediated", a + b - c)):
                one = estimate(sizes._means(some[None])[0])
                rows.append({"ablated": str(e), "read": str(f), "what": what, **one.as_dict(), "unit": "logits"})
    return pd.DataFrame(rows)
