"""Two contexts' circuits, crossed: what ablating the nodes of one costs the other, and what shared writers are read by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.circuit.discovery import Case
from circuits.circuit.edges import exact_edges
from circuits.circuit.estimates import DRAWS, Estimate, ends, positive
from circuits.circuit.evaluation import Bench
from circuits.circuit.methods import method
from circuits.compare.contexts import profile_table, profiles_apart
from circuits.compare.decomposition import Decomposition
from circuits.effects.ablation import require_complete
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.statistics import scenario_means
from circuits.effects.table import Effects
from circuits.errors import MeasurementError, PromptError
from circuits.model.anatomy import Model
from circuits.model.sites import Component, State
from circuits.prompts.datasets import Prompts, Split
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.settings import Settings

__all__ = ["Crossing", "Side"]

Array = NDArray[np.float64]
Set = frozenset[Component]

_POWER = 2.8
"""Standard errors between nothing and what is found in 80% of samples by a two-sided test at 5%: 1.96 + 0.84."""


@dataclass(frozen=True)
class Side:
    """One set of contexts."""

    name: str
    model: Model
    prompts: Prompts
    e: Emotion
    settings: Settings
    bench: Bench

    @classmethod
    def of(cls, name: str, model: Model, prompts: Prompts, e: Emotion, settings: Settings) -> Side:
        if not (prompts.emotions == e.column).any():
            found = ", ".join(str(f) for f in EMOTIONS if (prompts.emotions == f.column).any())
            raise PromptError(f"context {name} ({prompts.name!r}) has no text of {e}; it has {found}")
        require_complete(prompts)
        for split in Split:
            prompts.split(split)
        plan = Plan.of(model, prompts.split(Split.TEST), Ablation(settings.ablation))
        return cls(name, model, prompts, e, settings, Bench.every(plan, Positions(settings.positions))[e])

    def part(self, split: Split) -> Prompts:
        return self.prompts.split(split)

    def circuit(self, best: Effects | None = None) -> tuple[Component, ...]:
        """Found on ``select``, from single effects at hand or measured.

        Raises:
            MeasurementError: there is none.
        """
        s = self.settings
        plan = Plan.of(self.model, self.part(Split.SELECT), Ablation(s.ablation))
        case = Case.every(plan, Positions(s.positions), best=best)[self.e]
        found = method(s.method, patience=s.patience)(case, target=s.target, alpha=s.alpha, seed=s.seed)
        if not found.chosen:
            raise MeasurementError(f"{self.e} has no circuit in context {self.name}: {found.undefined}")
        return found.chosen


class _Loss(NamedTuple):
    """What ablating some nodes costs both contexts [logits], by matched scenario."""

    a: Array
    b: Array


@dataclass
class Crossing:
    sides: list[Side]
    rows: list[list[int]]
    circuits: dict[str, tuple[Component, ...]]
    state: State

    def nodes(self, role: str) -> dict[str, Set]:
        """Writers or readers by whose they are."""
        a, b = (self._of(self.circuits[side.name], role) for side in self.sides)
        return {"a_only": a - b, "b_only": b - a, "shared": a & b, "all": a | b}

    def _of(self, some: Collection[Component], role: str) -> Set:
        writes = role == "writers"
        return frozenset(c for c in some if (State(c.layer, c.half).depth <= self.state.depth) == writes)

    def measured(self) -> tuple[pd.DataFrame, dict[str, Estimate], dict[str, float]]:
        table: list[dict[str, Any]] = []
        interaction, power = {}, {}
        for role in ("writers", "readers"):
            sets = self.nodes(role)
            losses = {name: self._loss(some) for name, some in sets.items()}
            for name, loss in losses.items():
                for context, values, gap in zip("AB", loss, self.gaps, strict=True):
                    one = _shares((values, gap))
                    table.append(
                        {"role": role, "nodes": name, "size": len(sets[name]), "context": context, **one.as_dict()}
                    )
            if sets["all"]:
                own, foreign = losses["a_only"], losses["b_only"]
                a, b = self.gaps
                interaction[role] = _shares(((own.a - foreign.a) / 2, a), ((foreign.b - own.b) / 2, b))
                # Where both found the same nodes, what could have been seen is a difference in what these do.
                spread = (
                    interaction[role]
                    if sets["a_only"] or sets["b_only"]
                    else _shares((losses["all"].a, a), (-losses["all"].b, b))
                )
                if np.isnan([spread.low, interaction[role].low]).any():
                    raise MeasurementError(
                        f"in too many resamples of the {len(a)} matched scenarios the model adds nothing for {self.sides[0].e} "
                        "in a context, so nothing is a share of it; it takes more scenarios, or a model that tells them apart"
                    )
                power[role] = _POWER * (spread.high - spread.low) / (2 * 1.96)
        return pd.DataFrame(table), interaction, power

    @cached_property
    def gaps(self) -> tuple[Array, ...]:
        """What each context's whole model adds [logits], by matched scenario.

        Raises:
            MeasurementError: it adds nothing there are shares of (both values are named).
        """
        for side in self.sides:
            side.bench.ratio(side.bench.empty)
        return tuple(
            (side.bench.whole - side.bench.empty)[rows] for side, rows in zip(self.sides, self.rows, strict=True)
        )

    def _loss(self, some: Set) -> _Loss:
        found = []
        for side, rows in zip(self.sides, self.rows, strict=True):
            bench = side.bench
            everything = frozenset((*bench.model.heads, *bench.model.neurons))
            lost = bench.whole - bench.metric(everything - some) if some else np.zeros(bench.n)
            found.append(lost[rows])
        return _Loss(*found)

    def profile(self, model: Model, vector: Array) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Contributions of the writers to the direction, by matched scenario."""
        writers = sorted(self.nodes("writers")["all"])
        both = []
        for side, rows in zip(self.sides, self.rows, strict=True):
            test = side.part(Split.TEST)
            parts = Decomposition.of(model, test).parts(vector, side.e, self.state)
            values = np.stack([parts.of([c]) for c in writers], 1) if writers else np.zeros((len(parts.whole), 0))
            both.append(scenario_means(values, parts.scenarios)[rows])
        return profile_table([c.name for c in writers], *both), profiles_apart(*both)

    def edges(self) -> pd.DataFrame:
        """Exact weights of the edges out of shared writers, in both contexts."""
        shared, readers = self.nodes("writers")["shared"], self.nodes("readers")["all"]
        columns = ["source", "target", "context", "weight", "low", "high", "unit"]
        if not shared or not readers:
            return pd.DataFrame(columns=columns)
        rows = [
            {"source": edge.source, "target": edge.target, "context": side.name, "weight": edge.weight, "low": edge.low,
             "high": edge.high, "unit": "logits"}
            for side in self.sides
            for edge in exact_edges(side.bench, tuple(sorted(shared | readers)))
            if edge.source in {c.name for c in shared} and edge.target not in {c.name for c in shared}
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)


def _shares(*parts: tuple[Array, Array]) -> Estimate:
    """Sum of shares, each a mean loss over a mean gap; each set of scenarios is resampled by itself, losses with their gaps."""
    rng = np.random.default_rng(0)
    value, drawn = 0.0, np.zeros(DRAWS)
    for lost, gap in parts:
        n = len(lost)
        value += float(lost.mean() / gap.mean())
        weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
        drawn += weights @ lost / positive(weights @ gap)
    return Estimate(value, *ends(drawn), len(parts[0][0]))
