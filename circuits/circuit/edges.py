"""Edges of a chosen circuit: which direct paths among its nodes matter, with intervals."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from circuits.circuit.evaluation import Bench
from circuits.circuit.graph import Edge
from circuits.effects.losses import EMBED, READOUT, Losses, Receiver, Sender, precedes, receivers_in, senders_in
from circuits.effects.patching import patched_edges
from circuits.effects.statistics import MIN_SCENARIOS, bootstrap
from circuits.effects.worlds import patched_in_world
from circuits.model.anatomy import Model
from circuits.model.sites import Component, Input

__all__ = [
    "conditional_edges",
    "edges_in_world",
    "exact_edges",
    "matters",
    "possible_edges",
    "strong",
    "weighed",
]


_ROUNDING = 1e-5
"""Share of the strongest weight below which one is float32 rounding."""


def exact_edges(bench: Bench, nodes: tuple[Component, ...], chosen: Sequence[Edge] | None = None) -> tuple[Edge, ...]:
    """Exact weights of edges on the bench's texts, by path patching, with intervals, strongest first.

    Those of ``chosen``, or without it every possible edge among ``embed``, ``nodes`` and the read-out: about half the square
    of the nodes, each a resumed run.

    Raises:
        MeasurementError: a weight is NaN or infinite, or memory does not suffice.
    """
    model, readout = bench.model, str(bench.emotion)
    some: Sequence[tuple[Sender, Receiver]]
    if chosen is None:
        some = possible_edges(model, nodes)
    else:
        some = [(edge.source, READOUT if edge.target == readout else edge.target) for edge in chosen]
    if not some:
        return ()
    pieces = []
    for texts in bench.texts:
        losses = Losses.of_texts(model, bench.readout, texts)
        pieces.append(patched_edges(losses, some)[..., bench.emotion.column].cpu().numpy())
    weights = np.concatenate(pieces, 1)
    names = [_name(s, r, readout) for s, r in some]
    scenarios = np.concatenate([piece.scenarios for piece in bench.texts])
    return weighed(dict(zip(names, weights, strict=True)), scenarios, readout, kind="exact")


def possible_edges(model: Model, nodes: Iterable[Component]) -> list[tuple[Sender, Receiver]]:
    """Every direct path among ``embed``, ``nodes`` and the read-out, but the one from ``embed`` to the read-out, which passes
    no node.

    Raises:
        ComponentError: the model lacks a component, or one is listed twice.
    """
    members = tuple(nodes)
    ends = senders_in(model, [EMBED, *members]), receivers_in(model, [*members, READOUT])
    return [(s, r) for s, r in product(*ends) if precedes(model, s, r) and (s, r) != (EMBED, READOUT)]


def conditional_edges(
    bench: Bench, nodes: tuple[Component, ...], *, share: float, worlds: Collection[Component] | None = None
) -> tuple[Edge, ...]:
    """Exact weights of all edges among ``embed``, ``nodes`` and the read-out, where each of them shows, strongest first.

    An edge that matters in the whole model (:func:`strong`) has its weight there. One that
    does not is measured again in every world that lacks one other node of ``worlds`` (all of ``nodes`` without it), and has
    its weight of largest size there; its kind is ``conditional``. So an edge of a redundant or a backup path has a weight,
    which path patching in the whole model does not give it: what it does there is repaired.

    The largest of several measured weights is too large by chance, the more the smaller it is; measure again on other texts
    what is to be reported as a number. Forwards: one an edge, and one an edge and world for those that do not show in the
    whole model.

    Raises:
        ComponentError: the model lacks a component.
        MeasurementError: a weight is NaN or infinite, or memory does not suffice.
    """
    whole = exact_edges(bench, nodes)
    if not whole:
        return ()
    readout, model = str(bench.emotion), bench.model
    found = {(edge.source, edge.target): edge for edge in whole}
    shown = {(edge.source, edge.target) for edge in strong(whole, share)}
    hidden = [(s, r) for s, r in possible_edges(model, nodes) if _name(s, r, readout) not in shown]
    for gone in nodes if worlds is None else worlds:
        some = [(s, r) for s, r in hidden if gone not in (s, r.component if isinstance(r, Input) else r)]
        for edge in edges_in_world(bench, [gone], some):
            if abs(edge.weight) > abs(found[edge.source, edge.target].weight):
                found[edge.source, edge.target] = edge
    return tuple(sorted(found.values(), key=lambda edge: (-abs(edge.weight), edge.source, edge.target)))


def edges_in_world(
    bench: Bench, gone: Collection[Component], some: Sequence[tuple[Sender, Receiver]]
) -> tuple[Edge, ...]:
    """Exact weights of edges in the model that lacks some nodes, with intervals, strongest first, of kind ``conditional``.

    Raises:
        ComponentError: an end is itself missing, or the sender cannot reach the receiver directly.
        MeasurementError: a weight is NaN or infinite, or memory does not suffice.
    """
    if not some:
        return ()
    pieces = [patched_in_world(bench.model, bench.readout, piece, gone, some) for piece in bench.texts]
    weights = np.concatenate([piece[..., bench.emotion.column].cpu().numpy() for piece in pieces], 1)
    readout = str(bench.emotion)
    scores = dict(zip([_name(s, r, readout) for s, r in some], weights, strict=True))
    scenarios = np.concatenate([piece.scenarios for piece in bench.texts])
    return tuple(replace(edge, kind="conditional") for edge in weighed(scores, scenarios, readout))


def matters(edge: Edge, least: float) -> bool:
    """Whether a weight is at least so large, and its interval (where there is one) on one side of zero."""
    sure = np.isnan(edge.low) or edge.low > 0 or edge.high < 0
    return bool(edge.weight != 0 and abs(edge.weight) >= least and sure)


def strong(edges: Sequence[Edge], share: float) -> tuple[Edge, ...]:
    """Edges of at least this share of the strongest into the same receiver, and the strongest that each sender has.

    Not of the strongest of all: what the first heads make of the embedding is a hundred times what a neuron hears. Of both only
    those with an interval (where there is one) on one side of zero, and above rounding: differences of nothing have one too.
    """
    least = _ROUNDING * max((abs(edge.weight) for edge in edges), default=0.0)
    edges = [edge for edge in edges if abs(edge.weight) >= least]
    into: dict[str, float] = {}
    best: dict[str, Edge] = {}
    for edge in edges:
        into[edge.target] = max(into.get(edge.target, 0.0), abs(edge.weight))
        if matters(edge, 0.0) and abs(edge.weight) > abs(best.get(edge.source, _NOTHING).weight):
            best[edge.source] = edge
    return tuple(e for e in edges if matters(e, share * into[e.target]) or best.get(e.source) is e)


_NOTHING = Edge("", "", 0.0, 0.0, 0.0, "")


def _name(sender: Sender, receiver: Receiver, readout: str) -> tuple[str, str]:
    return str(sender), readout if receiver == READOUT else str(receiver)


def weighed(
    scores: Mapping[tuple[str, str], np.ndarray], scenarios: np.ndarray, readout: str, *, kind: str = "gradient"
) -> tuple[Edge, ...]:
    """Edges with their mean score over scenarios and its interval, strongest first.

    With too few scenarios the interval is given as NaN; intervals are not adjusted for the number of edges. ``kind`` says how
    edges that end below the read-out were measured.
    """
    names = list(scores)
    _, place = np.unique(scenarios, return_inverse=True)
    count = np.bincount(place)
    values = np.zeros((len(count), len(names)))
    np.add.at(values, place, np.stack([scores[name] for name in names], 1).astype(np.float64))
    values /= count[:, None]
    mean = values.mean(0)
    low, high = bootstrap(values) if len(count) >= MIN_SCENARIOS else np.full((2, len(names)), np.nan)
    edges = [
        Edge(*name, float(mean[i]), float(low[i]), float(high[i]), "direct" if name[1] == readout else kind)
        for i, name in enumerate(names)
    ]
    return tuple(sorted(edges, key=lambda edge: (-abs(edge.weight), edge.source, edge.target)))
