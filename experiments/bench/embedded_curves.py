"""Methods on the embedded model, whose circuits nobody knows: how faithful are the tops of their rankings?

The ranking is made on ``select``, the curve on ``test``. What is kept are the metrics of every scenario at every budget, so
that two methods are compared on the same resamples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import circuits
from bench.planted import Store, alone
from bench.reach import fingerprint
from circuits.circuit.curves import BUDGETS, areas, curve, sizes_of
from circuits.circuit.discovery import Case
from circuits.circuit.estimates import Estimate, estimate
from circuits.circuit.evaluation import Bench
from circuits.circuit.methods import METHODS
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation
from circuits.prompts.emotions import Emotion
from circuits.settings import Settings

__all__ = ["apart", "made_with", "measured", "of_cell"]

Array = NDArray[np.float64]


def made_with(name: str) -> str:
    """Fingerprint of a method's curves."""
    model = circuits.load("embedded")
    own = [type(METHODS[name]).__module__, __name__, "bench.planted", "circuits.circuit.curves", "circuits.model.door"]
    prompts = circuits.read_prompts("microstories")
    return fingerprint(
        own, name, repr(METHODS[name]), Settings().target, BUDGETS, model.fingerprint, prompts.fingerprint
    )


def measured(wanted: Sequence[tuple[str, Emotion]]) -> Iterator[dict[str, Any]]:
    """A cell for each method and emotion, one after the other."""
    model, prompts = circuits.load("embedded"), circuits.read_prompts("microstories")
    plan = Plan.of(model, prompts.split("select"), Ablation.MEAN_SCENARIO)
    cases, store = Case.every(plan), Store()
    benches = Bench.every(Plan.of(model, prompts.split("test"), Ablation.MEAN_SCENARIO))
    for name, e in wanted:
        start = time.perf_counter()
        case, bench = alone(cases, store)[e], benches[e]
        found = METHODS[name](case, target=Settings().target, alpha=Settings().alpha, seed=0)
        sizes = sizes_of(BUDGETS, len(case.components))
        metrics = bench.metrics([found.ranked[:size] for size in sizes])
        chosen = bench.faithfulness(found.chosen).value if found.chosen else float("nan")
        both = curve(bench, found.ranked)
        yield {
            "method": name, "emotion": str(e), "made_with": made_with(name), "seconds": round(time.perf_counter() - start, 2),
            "size": len(found.chosen), "faithfulness_select": found.faithfulness, "faithfulness_test": chosen,
            "complement_select": found.complement, "forwards": found.forwards, "bound": found.bound, "notice": found.notice,
            "cpr": both.cpr.as_dict(), "cmd": both.cmd.as_dict(), "faithfulness": [p.value for p in both.faithfulness],
            "metrics": metrics.tolist(), "empty": bench.empty.tolist(), "whole": bench.whole.tolist(),
        }  # fmt: skip


def of_cell(cell: Mapping[str, Any]) -> Array:
    """Metrics ``[budget, scenario]`` with the empty and the whole model's below."""
    return np.array([*cell["metrics"], cell["empty"], cell["whole"]])


def apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Estimate, Estimate]:
    """CPR and CMD of one cell less those of another of the same emotion, on the same resamples of scenarios."""
    values = np.concatenate([of_cell(first), of_cell(second)])
    half = len(values) // 2

    def curves(means: Array) -> Array:
        gap = means[:, -1:] - means[:, -2:-1]
        result: Array = (means[:, :-2] - means[:, -2:-1]) / gap
        return result

    def difference(which: int) -> Estimate:
        return estimate(
            values, lambda m: areas(BUDGETS, curves(m[:, :half]))[which] - areas(BUDGETS, curves(m[:, half:]))[which]
        )

    return difference(0), difference(1)
