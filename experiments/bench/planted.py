"""One planted model, six emotions, some methods: what each found beside what is there.

Nodes: the chosen circuit and the ranking of all components, against the true nodes. Edges: against the true edges, among all
direct paths of the model but the one from the embedding to the read-out; a path that has no score has zero. Where a
method scores edges itself (``Found.edges``, ``Found.edge_scores``) those count. The others' edges:

* the default search: exact path patching among the chosen nodes, in the whole model and in the worlds that lack one of them
  (:func:`circuits.circuit.edges.conditional_edges`);
* ``atp`` and ``ig_inputs``: first-order scores of all paths, integrated as the nodes' were; kept are those among the chosen;
* ``random``: every path among the chosen nodes, all alike: it knows nothing of them;
* every other: exact path patching among the chosen nodes in the whole model; first order where more than 40 were chosen.

Kept are the edges a walk keeps (:func:`circuits.circuit.edges.strong`). Forwards are those
of one emotion alone: nothing that another emotion or method measured is free.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bench.reach import fingerprint
from bench.recovery import auroc, of_ranking, precision, recall
from circuits.circuit.discovery import Case, Discovery, Found, Measured, Random, Ranked
from circuits.circuit.edges import conditional_edges, exact_edges, possible_edges, strong, weighed
from circuits.circuit.graph import Edge
from circuits.circuit.methods import DEFAULT, METHODS
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Method
from circuits.effects.losses import EMBED, READOUT
from circuits.effects.measure import STEPS
from circuits.effects.paths import edge_scores
from circuits.effects.table import Effects
from circuits.errors import MeasurementError
from circuits.model.planted import planted
from circuits.prompts.emotions import EMOTIONS
from circuits.settings import Settings

__all__ = ["Store", "alone", "made_with", "measured"]

Name = tuple[str, str]

TARGET, ALPHA, SHARE = Settings().target, Settings().alpha, Settings().edge_share
MANY = 40
"""Chosen nodes beyond which edges of methods without edges of their own are first order."""
STEPPED = {Method.GRADIENT: 0, Method.IG_INPUTS: STEPS}


def made_with(name: str) -> str:
    """Fingerprint of a method's cells: its code and parameters, the planted models, the scoring."""
    method = METHODS[name]
    own = [type(method).__module__, __name__, "bench.recovery", "circuits.model.planted"]
    return fingerprint(own, name, name == DEFAULT, repr(method), TARGET, ALPHA, SHARE, MANY, EMOTIONS)


@dataclass
class Store:
    """Estimates and their prices, made once for everybody."""

    effects: dict[Method, Effects] = field(default_factory=dict)
    prices: dict[Method, float] = field(default_factory=dict)


@dataclass
class _Alone(Measured):
    """Estimates from the store, paid for by each emotion and method as if nobody else had asked."""

    store: Store = field(default_factory=Store)

    def of(self, method: Method) -> Effects:
        if method not in self.known:
            if method not in self.store.effects:
                self.store.effects[method] = super().of(method)
            self.known[method] = self.store.effects[method]
        return self.known[method]

    def forwards(self, method: Method) -> float:
        if method in self.known:
            return 0.0
        if method not in self.store.prices:
            self.store.prices[method] = super().forwards(method)
        return self.store.prices[method]


def alone(cases: Mapping[Any, Case], store: Store) -> dict[Any, Case]:
    """The same cases with nothing measured yet."""
    return {
        e: Case(case.bench, _Alone(case.measured.plan, case.measured.positions, store=store))
        for e, case in cases.items()
    }


def measured(kind: str, seed: int, methods: Sequence[str]) -> list[dict[str, Any]]:
    """A cell for each method: lists over the six emotions."""
    torch.set_num_threads(1)
    made = planted(kind, seed=seed)
    plan = Plan.of(made.model, made.prompts.split("select"), Ablation.MEAN_SCENARIO)
    cases, store = Case.every(plan), Store()
    possible = [_names(edge, "") for edge in possible_edges(made.model, cases[EMOTIONS[0]].components)]
    wholes = {}
    cells = []
    for name in methods:
        start, rows = time.perf_counter(), []
        for e, case in alone(cases, store).items():
            truth = made.by_emotion[e]
            found = METHODS[name](case, target=TARGET, alpha=ALPHA, seed=seed)
            if e not in wholes:
                wholes[e] = _faithfulness(case, truth.nodes)
            ends = [(s, t or str(e)) for s, t in possible]
            rows.append(
                _row(METHODS[name], case, found, truth.nodes, truth.edges, ends) | {"true_faithfulness": wholes[e]}
            )
        cell = {"method": name, "kind": kind, "seed": seed, "made_with": made_with(name)}
        cell["seconds"] = round(time.perf_counter() - start, 2)
        cells.append(cell | {key: [row[key] for row in rows] for key in rows[0]})
    return cells


def _row(
    method: Discovery, case: Case, found: Found, nodes: frozenset[str], edges: frozenset[Name], possible: list[Name]
) -> dict[str, Any]:
    chosen = {c.name for c in found.chosen}
    ranking = of_ranking([c.name for c in found.ranked], found.scores.tolist())
    sizes = dict(zip(ranking, map(abs, found.scores.tolist()), strict=True))
    names = [c.name for c in case.components]
    scores, kept, how, runs = _edges(method, case, found)
    return {
        "exact": chosen == nodes, "size": len(chosen),
        "precision": precision(chosen, nodes), "recall": recall(chosen, nodes),
        "auroc": auroc(ranking, nodes, names), "auroc_of_size": auroc(sizes, nodes, names),
        "missing": sorted(nodes - chosen), "extra": sorted(chosen - nodes) if len(chosen) <= MANY else len(chosen - nodes),
        "edges_exact": kept == edges, "edges_precision": precision(kept, edges), "edges_recall": recall(kept, edges),
        "edges_auroc": auroc(scores, edges, possible), "edges_how": how, "edges_forwards": runs,
        "forwards": found.forwards, "bound": found.bound, "faithfulness": found.faithfulness,
        "complement": found.complement, "reached": found.reached, "notice": found.notice,
    }  # fmt: skip


def _edges(method: Discovery, case: Case, found: Found) -> tuple[dict[Name, float], set[Name], str, float]:
    """Size of every edge's score, edges kept, how they were measured, and the forwards that took (at most)."""
    own: Mapping[Name, float] = getattr(found, "edge_scores", {})
    if own or getattr(found, "edges", ()):
        edges: tuple[Name, ...] = getattr(found, "edges", ())
        return {name: abs(float(value)) for name, value in own.items()}, set(edges), "own", 0.0
    if isinstance(method, Ranked) and method.method in STEPPED:
        steps = STEPPED[method.method]
        return *_first_order(case, found, case.components, steps), "first order, all paths", 3.0 * max(1, steps)
    if not found.chosen:
        return {}, set(), "none", 0.0
    if isinstance(method, Random):
        names = {_names(edge, str(case.emotion)) for edge in possible_edges(case.bench.model, found.chosen)}
        return dict.fromkeys(names, 1.0), names, "all among the chosen", 0.0
    if len(found.chosen) > MANY:
        return *_first_order(case, found, found.chosen, 0), "first order, chosen nodes", 3.0
    if method.name == DEFAULT:
        edges_found, how = conditional_edges(case.bench, found.chosen, share=SHARE), "exact, in worlds"
    else:
        edges_found, how = exact_edges(case.bench, found.chosen), "exact"
    kept = {(edge.source, edge.target) for edge in strong(edges_found, SHARE)}
    scores = {(edge.source, edge.target): abs(edge.weight) for edge in edges_found}
    return scores, kept, how, _runs(edges_found, kept, len(found.chosen) if method.name == DEFAULT else 0)


def _runs(edges: Sequence[Edge], kept: set[Name], nodes: int) -> float:
    """Forwards of path patching: one an edge, and one an edge and world for those that do not show in the whole model."""
    hidden = sum(edge.kind == "conditional" or (edge.source, edge.target) not in kept for edge in edges) if nodes else 0
    return float(len(edges) + hidden * max(0, nodes - 1))


def _first_order(case: Case, found: Found, nodes: Sequence[Any], steps: int) -> tuple[dict[Name, float], set[Name]]:
    """Scores of all edges among some nodes; kept are the strong ones among the chosen."""
    bench, e = case.bench, case.emotion
    values = edge_scores(bench.model, bench.readout, bench.texts, nodes, e, steps=steps)
    chosen = {EMBED, str(e), *(c.name for c in found.chosen)}
    among = {name: value for name, value in values.items() if set(name) <= chosen} if found.chosen else {}
    scenarios = np.concatenate([piece.scenarios for piece in bench.texts])
    kept = strong(weighed(among, scenarios, str(e)), SHARE) if among else ()
    return {name: abs(float(v.mean())) for name, v in values.items()}, {(edge.source, edge.target) for edge in kept}


def _faithfulness(case: Case, nodes: frozenset[str]) -> float:
    """Of the true circuit on ``select``: below the target no method that keeps to it can find just these nodes."""
    try:
        return case.bench.faithfulness([c for c in case.components if c.name in nodes]).value if nodes else float("nan")
    except MeasurementError:
        return float("nan")


def _names(edge: tuple[Any, Any], readout: str) -> Name:
    return str(edge[0]), readout if edge[1] == READOUT else str(edge[1])
