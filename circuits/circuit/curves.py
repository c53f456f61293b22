"""Faithfulness as circuits grow: the ten budgets of MIB, the two areas, and several kinds of ablation side by side.

As in MIB (Mueller et al. 2025) both areas are taken by the trapezoid rule over the budget axis itself, not its
logarithm, from the smallest budget to the largest: CPR is the area under the curve (more is better; .999 for a curve
that is 1 throughout), CMD the area of ``|1 - faithfulness|`` between the same ends (less is better). MIB counts
edges; here a budget is a share of the model's heads and neurons, rounded up. To be measured on ``test``, along a
ranking made on ``select``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.circuit.estimates import Beside, Estimate, beside_random, estimate, gap_of, positive
from circuits.circuit.evaluation import Bench
from circuits.effects.kinds import Ablation
from circuits.errors import MeasurementError, SettingsError
from circuits.model.sites import Component

__all__ = ["BUDGETS", "Curve", "areas", "by_ablation", "curve", "sizes_of"]

Array = NDArray[np.float64]

BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Curve:
    """Faithfulness at each budget, with both areas.

    Attributes:
        sizes: components at each budget.
    """

    budgets: tuple[float, ...]
    sizes: tuple[int, ...]
    faithfulness: tuple[Estimate, ...]
    cpr: Estimate
    cmd: Estimate

    def as_dict(self) -> dict[str, Any]:
        return {
            "budgets": list(self.budgets), "sizes": list(self.sizes),
            "faithfulness": [one.as_dict() for one in self.faithfulness],
            "cpr": self.cpr.as_dict(), "cmd": self.cmd.as_dict(), "area": "trapezoid over the budget axis",
        }  # fmt: skip


def sizes_of(budgets: Sequence[float], count: int) -> tuple[int, ...]:
    """Components at each budget: its share of ``count``, rounded up, at least one.

    Raises:
        SettingsError: a budget is not above 0, more than there is, or not above the one before.
    """
    for i, budget in enumerate(budgets):
        if not 0 < budget <= 1:
            raise SettingsError(
                f"a budget of {budget:g} asks for {budget * count:.0f} of {count} heads and neurons; expected 0 < budget <= 1"
            )
        if i and budget <= budgets[i - 1]:
            raise SettingsError(f"the budget {budget:g} follows {budgets[i - 1]:g}; expected ascending budgets")
    if not budgets:
        raise SettingsError("there are no budgets; expected at least one")
    # A share such as 0.05 · 60 must not become 4 by rounding.
    return tuple(max(1, int(np.ceil(budget * count - 1e-9))) for budget in budgets)


def areas(budgets: Sequence[float], faithfulness: Array) -> tuple[Array, Array]:
    """CPR and CMD of curves ``[..., budget]``."""
    x = np.asarray(budgets, dtype=np.float64)
    middles = (faithfulness[..., 1:] + faithfulness[..., :-1]) / 2
    apart = np.abs(1 - faithfulness)
    return np.asarray(middles @ np.diff(x)), np.asarray((apart[..., 1:] + apart[..., :-1]) / 2 @ np.diff(x))


def curve(bench: Bench, ranked: Sequence[Component], *, budgets: Sequence[float] = BUDGETS) -> Curve:
    """Faithfulness of the tops of a ranking.

    Raises:
        SettingsError: see :func:`sizes_of`.
        MeasurementError: the ranking repeats a component, is too short for the largest budget, or the ratio is undefined.
        ComponentError: the model lacks a component.
    """
    model = bench.model
    count = len(model.heads) + (len(model.neurons) if model.capabilities.neurons else 0)
    sizes = sizes_of(budgets, count)
    order = tuple(ranked)
    for component in order:
        model.require(component)
    if len(set(order)) < len(order):
        repeated = next(c for i, c in enumerate(order) if c in order[:i])
        raise MeasurementError(f"the ranking lists {repeated} twice; expected each component once")
    if len(order) < sizes[-1]:
        raise MeasurementError(
            f"the ranking has {len(order)} components; a budget of {budgets[-1]:g} needs {sizes[-1]}"
        )
    gap_of(bench)
    metrics = bench.metrics([order[:size] for size in sizes])
    points = [Estimate.of(bench.ratio(row)) for row in metrics]
    everything = np.stack([*metrics, bench.empty, bench.whole])

    def ratio(means: Array) -> Array:
        below = means[:, -1] - means[:, -2]
        found = (means[:, :-2] - means[:, -2:-1]) / positive(below)[:, None]
        result: Array = found
        return result

    cpr = estimate(everything, lambda means: areas(budgets, ratio(means))[0])
    cmd = estimate(everything, lambda means: areas(budgets, ratio(means))[1])
    return Curve(tuple(float(b) for b in budgets), sizes, tuple(points), cpr, cmd)


def by_ablation(
    circuit: Collection[Component], benches: Mapping[Ablation, Bench], *, count: int = 100, seed: int = 0
) -> dict[Ablation, Beside | str]:
    """Faithfulness beside random circuits under several kinds of ablation; why there is none, where it is undefined.

    They ask different questions: ``mean_scenario`` keeps what the six emotions share, ``mean`` and ``zero`` do not.

    Raises:
        MeasurementError: the circuit is empty.
        ComponentError: the model lacks a component.
    """
    result: dict[Ablation, Beside | str] = {}
    for ablation, bench in benches.items():
        try:
            gap_of(bench)
        except MeasurementError as error:
            result[ablation] = str(error)
            continue
        result[ablation] = beside_random(bench, circuit, count=count, seed=seed)
    return result
