"""Edges of a chosen circuit: which direct paths among its nodes matter, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from circuits.circuit.evaluation import Bench
from circuits.circuit.graph import Edge
from circuits.effects.losses import EMBED, READOUT, Losses, precedes, receivers_in, senders_in
from circuits.effects.patching import patched_edges
from circuits.effects.paths import edge_scores
from circuits.effects.statistics import MIN_SCENARIOS, bootstrap
from circuits.model.sites import Component

__all__ = ["choose_edges", "exact_edges", "kept_edges", "report_edges"]


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
    if chosen is None:
        ends = senders_in(model, [EMBED, *nodes]), receivers_in(model, [*nodes, READOUT])
        some = [(s, r) for s, r in product(*ends) if precedes(model, s, r) and (s, r) != (EMBED, READOUT)]
    else:
        some = [(edge.source, READOUT if edge.target == readout else edge.target) for edge in chosen]
    if not some:
        return ()
    pieces = []
    for texts in bench.texts:
        losses = Losses.of_texts(model, bench.readout, texts)
        pieces.append(patched_edges(losses, some)[..., bench.emotion.column].cpu().numpy())
    weights = np.concatenate(pieces, 1)
    names = [(str(s), readout if r == READOUT else str(r)) for s, r in some]
    scenarios = np.concatenate([piece.scenarios for piece in bench.texts])
    return kept_edges(dict(zip(names, weights, strict=True)), scenarios, readout, share=None, kind="exact")


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
