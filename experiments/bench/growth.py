"""How time grows with prompts, components and layers, next to what the operations say."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.shapes import random_prompts, shallow
from bench.timing import Spread, interleaved
from circuits.effects.batch import Plan
from circuits.effects.exact import Exact
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.price import Dims
from circuits.model.anatomy import Model
from circuits.model.sites import Component

__all__ = ["grown"]


def grown(repetitions: int) -> dict[str, Any]:
    """For each axis: sizes, seconds, operations, and the exponent of seconds in operations (1: in proportion)."""
    with tempfile.TemporaryDirectory() as folder:
        deep = {layers: shallow(Path(folder) / str(layers), layers) for layers in (2, 4, 8, 16)}
        model = deep[4]
        neurons = model.neurons
        rng = np.random.default_rng(0)
        some = {
            n: [neurons[i] for i in sorted(rng.choice(len(neurons), n, replace=False))] for n in (64, 128, 256, 512)
        }
        return {
            "prompts": _axis({6 * s: _work(model, s, model.heads) for s in (2, 4, 8, 16)}, repetitions),
            "components (neurons)": _axis({n: _work(model, 4, chosen) for n, chosen in some.items()}, repetitions),
            "layers (all heads of each)": _axis({n: _work(m, 4, m.heads) for n, m in deep.items()}, repetitions),
        }


def _work(
    model: Model, scenarios: int, components: tuple[Component, ...] | list[Component]
) -> tuple[Callable[[], Any], int]:
    plan = Plan.of(model, random_prompts(scenarios, 20), Ablation.MEAN_SCENARIO)
    exact = [Exact(batch, Positions.ALL) for batch in plan.batches()]
    operations = sum(Dims.of(model).sweep(components, plan.texts(), Positions.ALL))
    return lambda: [one.effects(components, lambda places, found: None) for one in exact], operations


def _axis(work: dict[int, tuple[Callable[[], Any], int]], repetitions: int) -> dict[str, Any]:
    seconds = interleaved({str(size): do for size, (do, _) in work.items()}, repetitions)
    medians = [Spread.of(seconds[str(size)]).median for size in work]
    operations = [o for _, o in work.values()]
    slope = float(np.polyfit(np.log(operations), np.log(medians), 1)[0])
    return {
        "size": list(work), "seconds": [Spread.of(seconds[str(size)]).as_json() for size in work],
        "operations": operations, "exponent": slope,
    }  # fmt: skip
