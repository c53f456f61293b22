"""Choosing every emotion's circuit on ``select``: nodes by one of the methods of discovery, edges by exact path patching."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from circuits import jsontext
from circuits.circuit.discovery import Case, Discovery, Found
from circuits.circuit.edges import exact_edges, strong, weighed
from circuits.circuit.evaluation import Bench
from circuits.circuit.graph import Edge
from circuits.circuit.methods import method
from circuits.circuit.revealed import Revealed, revealed
from circuits.effects.batch import Plan
from circuits.effects.kinds import Positions
from circuits.effects.measure import Store
from circuits.effects.paths import edge_scores
from circuits.effects.table import Effects
from circuits.model.sites import Component, parse
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.settings import Settings

__all__ = ["Choice", "Watch", "choose"]

Watch = Callable[[str, int, int], None]

MOST_EDGES = 1_000
"""Edges of one circuit that are measured exactly."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for an emotion, all measured on ``select``.

    Attributes:
        edges: that matter in the whole model.
        revealed: those of nodes that no path of ``edges`` passes, where they show.
    """

    found: Found
    edges: tuple[Edge, ...]
    revealed: tuple[Revealed, ...] = ()


def choose(
    plan: Plan, effects: Effects, settings: Settings, watch: Watch, *, store: Store | None = None
) -> dict[Emotion, Choice]:
    """The circuit of every emotion, in-sample.

    With a ``store`` what was found for an emotion is kept there, under the settings and the effects it was found from.

    Args:
        plan: the walk through ``select``.
        effects: the best measurement of every head and neuron on its prompts.
    """
    how = method(settings.method, patience=settings.patience)
    result = {}
    for e, case in Case.every(plan, Positions(settings.positions), best=effects).items():
        watch("finding circuits", e.column, len(EMOTIONS))
        result[e] = _chosen(how, case, settings, store)
    watch("finding circuits", len(EMOTIONS), len(EMOTIONS))
    return result


def _chosen(how: Discovery, case: Case, settings: Settings, store: Store | None) -> Choice:
    key = {
        "what": "a circuit", "emotion": str(case.emotion), "settings": settings.as_dict(),
        "model": case.bench.model.fingerprint, "effects": _content(case.effects), "prompts": case.effects.prompts.fingerprint,
    }  # fmt: skip
    kept = store.get(key) if store is not None else None
    if kept is not None:
        return _read(bytes(kept["json"]).decode())
    found = how(case, target=settings.target, alpha=settings.alpha, seed=settings.seed)
    some, screened = _screened(case.bench, found.chosen)
    edges = strong(exact_edges(case.bench, found.chosen, some), settings.edge_share)
    more: tuple[Revealed, ...] = ()
    if found.chosen and not screened:
        worlds = found.worlds if settings.thorough else None
        more = revealed(case.bench, found.chosen, edges, share=settings.edge_share, worlds=worlds)
    if screened:
        found = replace(found, notice="; ".join(filter(None, (found.notice, screened))))
    choice = Choice(found, edges, more)
    if store is not None:
        store.put(key, {"json": np.frombuffer(_written(choice).encode(), dtype=np.uint8)})
    return choice


def _screened(bench: Bench, nodes: tuple[Component, ...]) -> tuple[tuple[Edge, ...] | None, str]:
    """The edges that are measured exactly, None for all of them, and what is to be said where it is not all.

    Edges grow with the square of the nodes, a resumed run each. Of a large circuit those are measured that first-order scores,
    which take one forward and one backward together, find strongest among those into the same node.
    """
    possible = len(nodes) * (len(nodes) + 3) // 2
    if possible <= MOST_EDGES:
        return None, ""
    scores = edge_scores(bench.model, bench.readout, bench.texts, nodes, bench.emotion)
    if len(scores) <= MOST_EDGES:  # nodes of one half-layer have no edges among them
        return None, ""
    scenarios = np.concatenate([piece.scenarios for piece in bench.texts])
    found = weighed(scores, scenarios, str(bench.emotion))
    into: dict[str, float] = {}
    for edge in found:
        into[edge.target] = max(into.get(edge.target, 0.0), abs(edge.weight))
    order = sorted(found, key=lambda edge: -abs(edge.weight) / (into[edge.target] or 1.0))
    said = (
        f"of {len(scores):,} edges that are possible among its {len(nodes)} nodes the {MOST_EDGES:,} strongest by first order "
        "were measured, and nodes off every path of those were not looked into"
    )
    return tuple(order[:MOST_EDGES]), said


def _content(effects: Effects) -> str:
    """What the search sees of the effects, as a fingerprint."""
    parts: list[Any] = [[c.name for c in effects.components], [str(m) for m in effects.methods]]
    return jsontext.fingerprint([*parts, hashlib.sha256(effects.values.tobytes()).hexdigest()])


_FIGURES = ("faithfulness", "complement", "bound", "forwards")


def _written(choice: Choice) -> str:
    found = choice.found
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    values |= {key: [c.name for c in values[key]] for key in ("ranked", "chosen")}
    values["edge_scores"] = [[*edge, score] for edge, score in found.edge_scores.items()]
    values["worlds"] = [[c.name, [other.name for other in gone]] for c, gone in found.worlds.items()]
    edges = [_plain(edge) for edge in choice.edges]
    more = [[*_plain(one.edge), [c.name for c in one.without]] for one in choice.revealed]
    return jsontext.canonical(jsontext.plain({"found": values, "edges": edges, "revealed": more}))


def _plain(edge: Edge) -> list[Any]:
    return [edge.source, edge.target, edge.weight, edge.low, edge.high, edge.kind]


def _read(text: str) -> Choice:
    value = jsontext.loads(text)
    found = value["found"]
    found |= {key: tuple(parse(name) for name in found[key]) for key in ("ranked", "chosen")}
    found |= {key: _number(found[key]) for key in _FIGURES}
    found["scores"] = np.array([_number(x) for x in found["scores"]])
    found["edges"] = tuple((source, target) for source, target in found["edges"])
    found["edge_scores"] = {(source, target): score for source, target, score in found["edge_scores"]}
    found["worlds"] = {parse(name): tuple(map(parse, gone)) for name, gone in found["worlds"]}
    more = tuple(Revealed(_edge(*edge), tuple(map(parse, gone))) for *edge, gone in value["revealed"])
    return Choice(Found(**found), tuple(_edge(*edge) for edge in value["edges"]), more)


def _edge(source: str, target: str, weight: float | None, low: float | None, high: float | None, kind: str) -> Edge:
    return Edge(source, target, _number(weight), _number(low), _number(high), kind)


def _number(value: float | None) -> float:
    """A number that does not exist was written as none."""
    return float("nan") if value is None else float(value)
