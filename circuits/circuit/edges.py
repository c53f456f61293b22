"""Edges of a chosen circuit: which direct paths among its nodes matter, with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from circuits.circuit.evaluation import Bench
from circuits.circuit.graph import Edge
from circuits.effects.paths import edge_scores
from circuits.effects.statistics import MIN_SCENARIOS, bootstrap
from circuits.model.sites import Component

__all__ = ["find_edges", "kept_edges"]


def find_edges(bench: Bench, nodes: tuple[Component, ...], *, share: float) -> tuple[Edge, ...]:
    """Edges among ``embed``, ``nodes`` and the read-out, measured on the bench's texts.

    ``share`` is the smallest score kept, relative to the strongest one: first-order scores shrink where attention saturates, so
    a bound in logits would cut the early layers off. An interval that includes zero is never kept.
    """
    if not nodes:
        return ()
    scores = edge_scores(bench.model, bench.readout, bench.texts, nodes, bench.emotion)
    scenarios = np.concatenate([piece.scenarios for piece in bench.texts])
    return kept_edges(scores, scenarios, str(bench.emotion), share=share)


def kept_edges(
    scores: Mapping[tuple[str, str], np.ndarray], scenarios: np.ndarray, readout: str, *, share: float
) -> tuple[Edge, ...]:
    """Edges whose mean score reaches ``share`` of the strongest, interval on one side of zero, strongest first.

    With too few scenarios for an interval the size alone decides, and the interval is given as NaN.
    """
    names = list(scores)
    _, place = np.unique(scenarios, return_inverse=True)
    count = np.bincount(place)
    values = np.zeros((len(count), len(names)))
    np.add.at(values, place, np.stack([scores[name] for name in names], 1).astype(np.float64))
    values /= count[:, None]
    mean = values.mean(0)
    kept = (np.abs(mean) >= share * np.abs(mean).max()) & (mean != 0)
    low, high = np.full(len(names), np.nan), np.full(len(names), np.nan)
    if len(count) >= MIN_SCENARIOS and kept.any():
        index = np.flatnonzero(kept)
        low[index], high[index] = bootstrap(values[:, index])
        kept &= (low > 0) | (high < 0)
    edges = [
        Edge(
            *names[i], float(mean[i]), float(low[i]), float(high[i]), "direct" if names[i][1] == readout else "gradient"
        )
        for i in np.flatnonzero(kept)
    ]
    return tuple(sorted(edges, key=lambda edge: (-abs(edge.weight), edge.source, edge.target)))
