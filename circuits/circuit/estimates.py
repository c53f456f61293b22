"""A number with its interval, and what all judges ask for before they measure.

Judges are pure: they read benches and return values. The scenario is the unit of resampling; the same 2,000 resamples
serve every figure of a bench, so that curves and areas belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from circuits.circuit.matched import matched_random
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.errors import MeasurementError, SettingsError
from circuits.model.sites import Component, Kind

if TYPE_CHECKING:
    from circuits.circuit.evaluation import Bench, Faithfulness
    from circuits.model.anatomy import Model

__all__ = [
    "DRAWS",
    "Beside",
    "Estimate",
    "beside",
    "beside_random",
    "ends",
    "estimate",
    "gap_of",
    "positive",
    "randoms",
    "require_circuit",
]

Array = NDArray[np.float64]

DRAWS = 2000
"""Bootstrap resamples."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval (NaN below five scenarios); ``n`` counts scenarios, or texts where it says so."""

    value: float
    low: float
    high: float
    n: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of zero, else 0; 0 where there is no interval."""
        return int(self.low > 0) - int(self.high < 0)

    @classmethod
    def of(cls, found: Faithfulness) -> Estimate:
        """A faithfulness without the metrics behind it."""
        return cls(found.value, found.low, found.high, found.n)

    def as_dict(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def positive(values: Array) -> Array:
    """What there can be shares of: NaN where that is nothing or less."""
    return np.where(values > 0, values, np.nan)


def ends(drawn: Array) -> tuple[float, float]:
    """95% percentile interval of bootstrap draws.

    A draw without a finite value (a share of nothing, a correlation with what does not vary) may be anything, so it counts
    beyond both ends; where such draws reach an end, in 2.5% of them or more, there is no interval (NaN).
    """
    some = drawn[np.isfinite(drawn)]
    beyond = np.full(len(drawn) - len(some), np.inf)
    if len(beyond) >= 0.025 * (len(drawn) - 1):
        return float("nan"), float("nan")
    low, high = np.concatenate([-beyond, some]), np.concatenate([some, beyond])
    return float(np.quantile(low, 0.025)), float(np.quantile(high, 0.975))


def estimate(values: Array, statistic: Callable[[Array], Array] | None = None, *, seed: int = 0) -> Estimate:
    """Percentile bootstrap over the last axis (scenarios) of a statistic of means, by default the mean itself.

    ``statistic`` maps means ``[draw, ...]`` to one number a draw, NaN where there is none (:func:`ends`); ``values`` are
    ``[..., scenario]``.
    """
    n = values.shape[-1]

    def of(means: Array) -> Array:
        return means if statistic is None else statistic(means)

    value = float(of(values.mean(-1)[None])[0])
    if n < MIN_SCENARIOS:
        return Estimate(value, float("nan"), float("nan"), n)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
    drawn = of(np.moveaxis(values @ weights.T, -1, 0))
    return Estimate(value, *ends(drawn), n)


def require_circuit(model: Model, circuit: Collection[Component]) -> tuple[Component, ...]:
    """The circuit's members in stream order.

    Raises:
        MeasurementError: there are none.
        ComponentError: the model lacks one, or one is no head or neuron.
    """
    members = tuple(sorted(set(circuit)))
    if not members:
        raise MeasurementError("the circuit is empty; expected at least one head or neuron to judge")
    for component in members:
        model.require(component)
        if component.kind not in (Kind.HEAD, Kind.NEURON):
            raise MeasurementError(f"{component} is a half-layer; a circuit is made of heads and neurons")
    return members


def randoms(
    model: Model, circuit: Collection[Component], *, count: int = 100, seed: int = 0
) -> list[frozenset[Component]]:
    """Random circuits with the circuit's number of heads and neurons in every layer.

    Raises:
        SettingsError: fewer than one.
    """
    if count < 1:
        raise SettingsError(
            f"the number of random circuits is {count}; expected at least 1 (100 for a null worth the name)"
        )
    rng = np.random.default_rng(seed)
    return [frozenset(matched_random(model, circuit, rng)) for _ in range(count)]


def gap_of(bench: Bench) -> float:
    """``m(M) - m(∅)`` [logits], the unit shares are given in.

    Raises:
        MeasurementError: it is not clearly above zero; both values are named.
    """
    bench.ratio(bench.empty)
    return float((bench.whole - bench.empty).mean())


@dataclass(frozen=True)
class Beside:
    """A figure of a circuit beside the same figure of matched random circuits.

    ``p``: share of random circuits that do at least as well, the circuit itself counted in.
    """

    found: Estimate
    random: tuple[float, ...]
    p: float

    @property
    def random_interval(self) -> tuple[float, float]:
        """The middle 95% of the random circuits."""
        low, high = np.quantile(self.random, [0.025, 0.975])
        return float(low), float(high)

    def as_dict(self) -> dict[str, Any]:
        low, high = self.random_interval
        return {
            **self.found.as_dict(), "random_mean": float(np.mean(self.random)), "random_low": low, "random_high": high,
            "random_n": len(self.random), "p": self.p,
        }  # fmt: skip


def beside(found: Estimate, random: Sequence[float], *, larger: bool = True) -> Beside:
    """With the p of a one-sided comparison; ``larger``: whether a larger figure is the better one."""
    others = np.asarray(random, dtype=np.float64)
    reached = int((others >= found.value).sum() if larger else (others <= found.value).sum())
    return Beside(found, tuple(float(x) for x in others), (1 + reached) / (1 + len(others)))


def beside_random(bench: Bench, circuit: Collection[Component], *, count: int = 100, seed: int = 0) -> Beside:
    """Faithfulness beside that of matched random circuits.

    Raises:
        MeasurementError, ComponentError: see :func:`require_circuit` and :func:`gap_of`.
    """
    members = require_circuit(bench.model, circuit)
    gap_of(bench)
    mine, *others = bench.metrics([members, *randoms(bench.model, members, count=count, seed=seed)])
    return beside(Estimate.of(bench.ratio(mine)), [bench.ratio(one).value for one in others])
