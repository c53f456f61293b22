"""How many heads and neurons make 50, 80 and 95% of the projection on a direction?

The fewest that reach a share are the largest contributions in order: no other set of as many adds up to more. Picked and
added up on the same texts this flatters: chance favours what is picked. So the count that is reported is held out. Components
are ordered on one half of the scenarios and added up on the other, both ways, and the count is where the sum of both curves
reaches the share. The count on the texts themselves stands beside it as the least possible, in-sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from circuits.compare.decomposition import Decomposition
from circuits.compare.writers import NO_DIRECTION
from circuits.directions.vectors import Directions
from circuits.effects.statistics import MIN_SCENARIOS, scenario_means
from circuits.errors import SettingsError
from circuits.model.sites import State
from circuits.prompts.emotions import EMOTIONS

__all__ = ["COLUMNS", "Count", "concentration", "fewest", "held_out"]

Array = NDArray[np.float64]

COLUMNS = (
    "estimator", "emotion", "state", "layer", "half", "target", "count", "low", "high", "in_sample", "available", "unit", "n",
    "reason",
)  # fmt: skip

_DRAWS = 1000
_FIRST = 64


@dataclass(frozen=True)
class Count:
    """How many components reach a share: held out, with its 95% interval (NaN where it is not reached)."""

    value: float
    low: float
    high: float


def fewest(contributions: Float[NDArray[np.float64], " component"], whole: float, target: float) -> float:
    """The size of the smallest set whose contributions add up to ``target`` of ``whole`` (positive); NaN where none does."""
    reached = np.cumsum(np.sort(contributions)[::-1]) >= target * whole
    return float(np.argmax(reached)) + 1 if reached.any() else float("nan")


def held_out(
    values: Float[NDArray[np.float64], "scenario component"],
    whole: Float[NDArray[np.float64], " scenario"],
    targets: Sequence[float],
    *,
    seed: int = 0,
) -> tuple[Count, ...]:
    """Counts with the order made on the other half of the scenarios; one :class:`Count` for each target.

    The interval resamples scenarios and leaves the two orders as they are. It is NaN below five scenarios, or where a resample
    never reaches the share or has a whole that is not positive.

    Args:
        values: contributions [residual units].
        whole: the projection they are shares of.
    """
    n, count = values.shape
    rng = np.random.default_rng(seed)
    first = rng.permutation(n) < n // 2
    counts = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS)])
    orders = [np.argsort(-values[~half].mean(0), kind="stable") for half in (first, ~first)]
    sizes = counts @ whole
    found = np.full((len(targets), len(counts)), np.nan)
    width = min(_FIRST, count)
    while True:
        curve = sum(
            counts[:, half] @ np.cumsum(values[half][:, order[:width]], axis=1)
            for half, order in zip((first, ~first), orders, strict=True)
        )
        for i, target in enumerate(targets):
            reached = curve >= (target * sizes)[:, None]
            found[i] = np.where(reached.any(1), reached.argmax(1) + 1.0, np.nan)
        if width == count or not np.isnan(found).any():
            break
        width = min(
            4 * width, count
        )  # most shares are reached early: the rest of the curve is made where it is asked for
    result = []
    for row in found:
        low = high = float("nan")
        if n >= MIN_SCENARIOS and not np.isnan(row[1:]).any() and (sizes > 0).all():
            low, high = (float(x) for x in np.quantile(row[1:], [0.025, 0.975]))
        result.append(Count(float(row[0]), low, high))
    return tuple(result)


def concentration(
    writes: Decomposition,
    directions: Directions,
    *,
    states: Sequence[State] | None = None,
    targets: Sequence[float] = (0.5, 0.8, 0.95),
    seed: int = 0,
) -> pd.DataFrame:
    """How many components make each share of the projection, columns :data:`COLUMNS`; one row per emotion, state and target.

    Shares are of the whole emotion-centred projection, what embedding and biases write included. ``available`` are the heads
    and neurons at or before the state. Numbers that do not exist are NaN and ``reason`` says why.

    Args:
        states: where; all states of the directions by default.

    Raises:
        DirectionError: the directions are of another model, site or width.
        SettingsError: a target outside (0, 1].
    """
    directions.require(writes.model)
    bad = [target for target in targets if not 0 < target <= 1]
    if bad:
        raise SettingsError(f"target is {bad[0]}; expected a share above 0 and up to 1")
    rows: list[dict[str, object]] = []
    for e in EMOTIONS:
        for state in directions.states if states is None else states:
            layers = state.layer + 1
            available = layers * writes.model.n_heads + (layers - (state.name.endswith("mid"))) * writes.model.d_mlp
            base = {"estimator": directions.estimator, "emotion": str(e), "state": state.name, "layer": state.layer}
            base |= {"half": str(state.half), "available": available, "unit": "components"}
            if not directions.defined(state, e):
                nothing = {"n": writes.prompts.n_scenarios, "reason": NO_DIRECTION}
                rows.extend({**base, "target": target, **nothing} for target in targets)
                continue
            parts = writes.parts(directions.at(state, e), e, state)
            each = [kind[:, :layers].reshape(len(parts.whole), -1) for kind in (parts.heads, parts.neurons)]
            values, whole = (
                scenario_means(np.concatenate(each, 1), parts.scenarios),
                scenario_means(parts.whole[:, None], parts.scenarios)[:, 0],
            )
            base |= {"n": len(whole)}
            found = held_out(values, whole, targets, seed=seed)
            for target, one in zip(targets, found, strict=True):
                row, reason = {**base, "target": target}, ""
                if whole.mean() <= 0:
                    reason = "the projection is not positive: it has no shares"
                else:
                    row |= {"count": one.value, "low": one.low, "high": one.high}
                    row["in_sample"] = fewest(values.mean(0), float(whole.mean()), target)
                    if np.isnan(one.value):
                        reason = "not reached on other scenarios than the order was made on"
                    elif np.isnan(one.low):
                        reason = (
                            f"fewer than {MIN_SCENARIOS} scenarios: no interval"
                            if len(whole) < MIN_SCENARIOS
                            else "not reached in every resample: no interval"
                        )
                rows.append({**row, "reason": reason})
    return pd.DataFrame(rows, columns=list(COLUMNS))
