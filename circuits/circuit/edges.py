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
from circuits.effects.paths import edge_scores
from circuits.effects.statistics import MIN_SCENARIOS, bootstrap
from circuits.effects.worlds import patched_in_world
from circuits.model.anatomy import Model
from circuits.model.sites import Component, Input

__all__ = [
    "choose_edges",
    "conditional_edges",
    "exact_edges",
    "kept_edges",
    "matters",
    "possible_edges",
    "report_edges",
]


def choose_edges(bench: Bench, nodes: tuple[Component, ...], *, share: float) -> tuple[Edge, ...]:
    """Edges among ``embed``, ``nodes`` and the read-out that matter on the bench's texts (those of ``select``).

    ``share`` is the smallest score kept, relative to the strongest one: first-order scores shrink where attention saturates, so
    a bound in logits would cut the early layers off. An interval that includes zero is never kept.
    """
    if not nodes:
        return ()
    return kept_edges(*_scores(bench, nodes), str(bench.emotion), share=share)


def report_edges(bench: Bench, nodes: tuple[Component, ...], chosen: tuple[Edge, ...]) -> tuple[Edge, ...]:
    """The chosen edges measured again on the bench's texts (those of ``test``), whatever comes out, strongest first."""
    if not chosen:
        return ()
    scores, scenarios = _scores(bench, nodes)
    wanted = {(edge.source, edge.target): scores[edge.source, edge.target] for edge in chosen}
    return kept_edges(wanted, scenarios, str(bench.emotion), share=None)


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
    return kept_edges(dict(zip(names, weights, strict=True)), scenarios, readout, share=None, kind="exact")


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

    An edge that matters in the whole model (``share`` and interval as in :func:`kept_edges`) has its weight there. One that
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
    strongest = max(abs(edge.weight) for edge in whole)
    found = {(edge.source, edge.target): edge for edge in whole}
    shown = {name for name, edge in found.items() if matters(edge, share * strongest)}
    hidden = [(s, r) for s, r in possible_edges(model, nodes) if _name(s, r, readout) not in shown]
    scenarios = np.concatenate([piece.scenarios for piece in bench.texts])
    for gone in nodes if worlds is None else worlds:
        some = [(s, r) for s, r in hidden if gone not in (s, r.component if isinstance(r, Input) else r)]
        if not some:
            continue
        pieces = [patched_in_world(model, bench.readout, piece, [gone], some) for piece in bench.texts]
        weights = np.concatenate([piece[..., bench.emotion.column].cpu().numpy() for piece in pieces], 1)
        names = [_name(s, r, readout) for s, r in some]
        scores = dict(zip(names, weights, strict=True))
        for edge in kept_edges(scores, scenarios, readout, share=None, kind="conditional"):
            if abs(edge.weight) > abs(found[edge.source, edge.target].weight):
                found[edge.source, edge.target] = replace(edge, kind="conditional")
    return tuple(sorted(found.values(), key=lambda edge: (-abs(edge.weight), edge.source, edge.target)))


def matters(edge: Edge, least: float) -> bool:
    """Whether a weight is at least so large, and its interval (where there is one) on one side of zero."""
    sure = np.isnan(edge.low) or edge.low > 0 or edge.high < 0
    return bool(edge.weight != 0 and abs(edge.weight) >= least and sure)


def _name(sender: Sender, receiver: Receiver, readout: str) -> tuple[str, str]:
    return str(sender), readout if receiver == READOUT else str(receiver)


def _scores(bench: Bench, nodes: tuple[Component, ...]) -> tuple[Mapping[tuple[str, str], np.ndarray], np.ndarray]:
    scores = edge_scores(bench.model, bench.readout, bench.texts, nodes, bench.emotion)
    return scores, np.concatenate([piece.scenarios for piece in bench.texts])


def kept_edges(
    scores: Mapping[tuple[str, str], np.ndarray],
    scenarios: np.ndarray,
    readout: str,
    *,
    share: float | None,
    kind: str = "gradient",
) -> tuple[Edge, ...]:
    """Edges whose mean score reaches ``share`` of the strongest, interval on one side of zero, strongest first.

    With too few scenarios for an interval the size alone decides, and the interval is given as NaN. Without a ``share`` all are
    kept. The intervals are not adjusted for the number of edges. ``kind`` says how edges that end below the read-out were
    measured.
    """
    names = list(scores)
    _, place = np.unique(scenarios, return_inverse=True)
    count = np.bincount(place)
    values = np.zeros((len(count), len(names)))
    np.add.at(values, place, np.stack([scores[name] for name in names], 1).astype(np.float64))
    values /= count[:, None]
    mean = values.mean(0)
    everything = np.ones(len(names), dtype=bool)
    kept = everything if share is None else (np.abs(mean) >= share * np.abs(mean).max()) & (mean != 0)
    low, high = np.full(len(names), np.nan), np.full(len(names), np.nan)
    if len(count) >= MIN_SCENARIOS and kept.any():
        index = np.flatnonzero(kept)
        low[index], high[index] = bootstrap(values[:, index])
        if share is not None:
            kept &= (low > 0) | (high < 0)
    edges = [
        Edge(*names[i], float(mean[i]), float(low[i]), float(high[i]), "direct" if names[i][1] == readout else kind)
        for i in np.flatnonzero(kept)
    ]
    return tuple(sorted(edges, key=lambda edge: (-abs(edge.weight), edge.source, edge.target)))
