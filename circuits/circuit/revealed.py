"""Edges of nodes that seem to do nothing: measured in the model that lacks what stands in for them.

Path patching in the whole model gives next to no weight to the edges of a redundant or a backup path: what they do there is
repaired (:mod:`circuits.effects.worlds`). A circuit can then hold a node that no path from ``embed`` to the read-out passes.
For each such node this looks for the other node of the circuit that stands in for it, and measures its edges without that.
The search already knows a world for what it found in place of something else; those can be asked for as well.

Forwards: two for each pair of such a node and another one of the circuit, and one for each of its edges.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from circuits.circuit.edges import edges_in_world, possible_edges, strong
from circuits.circuit.edgesets import nodes_of
from circuits.circuit.evaluation import Bench
from circuits.circuit.graph import Edge
from circuits.effects.losses import READOUT, Receiver, Sender, receivers_in, senders_in
from circuits.model.sites import Component, Input

__all__ = ["Revealed", "off_path", "remeasured", "revealed"]

World = frozenset[Component]

_CLEAR = 0.05
"""Share of ``m(M) - m(∅)`` from which on an effect is one; as in the search."""


@dataclass(frozen=True)
class Revealed:
    """An edge of kind ``conditional`` and the nodes without which it has its weight."""

    edge: Edge
    without: tuple[Component, ...]

    def as_dict(self) -> dict[str, object]:
        """Ends and world by name, for judgements; the weight is the edge's."""
        return {"source": self.edge.source, "target": self.edge.target, "without": [c.name for c in self.without]}


def off_path(edges: Iterable[Edge], nodes: Iterable[Component], readout: str) -> tuple[Component, ...]:
    """The nodes that no path from ``embed`` to the read-out passes."""
    passed = set(nodes_of(((edge.source, edge.target) for edge in edges), readout))
    return tuple(c for c in nodes if c not in passed)


def revealed(
    bench: Bench,
    nodes: Sequence[Component],
    shown: Sequence[Edge],
    *,
    share: float,
    worlds: Mapping[Component, Collection[Component]] | None = None,
) -> tuple[Revealed, ...]:
    """Edges of nodes off every path, and of those in ``worlds``, where they show; strongest first, none of ``shown``.

    Args:
        nodes: the circuit.
        shown: its edges that matter in the whole model.
        share: smallest weight kept, as a share of the strongest into the same node (:func:`circuits.circuit.edges.strong`).
        worlds: nodes known to show without some others; looked into as they are.

    Raises:
        ComponentError: the model lacks a component.
        MeasurementError: a weight is NaN or infinite, or memory does not suffice.
    """
    readout = str(bench.emotion)
    for component in nodes:
        bench.model.require(component)
    known = {c: frozenset(gone) for c, gone in (worlds or {}).items() if c in nodes}
    asked = {**known, **_worlds(bench, nodes, off_path(shown, nodes, readout))}
    names = {(edge.source, edge.target) for edge in shown}
    found: dict[tuple[str, str], Revealed] = {}
    for gone in dict.fromkeys(asked.values()):
        mine = {c for c, without in asked.items() if without == gone}
        some = [
            (s, r) for s, r in possible_edges(bench.model, [c for c in nodes if c not in gone])
            if mine & {s, _component(r)} and _named(s, r, readout) not in names
        ]  # fmt: skip
        edges = edges_in_world(bench, gone, some)
        for edge in strong([*shown, *edges], share):
            before = found.get((edge.source, edge.target))
            if edge.kind == "conditional" and (before is None or abs(edge.weight) > abs(before.edge.weight)):
                found[edge.source, edge.target] = Revealed(edge, tuple(sorted(gone)))
    return _ordered(found.values())


def remeasured(bench: Bench, some: Sequence[Revealed]) -> tuple[Revealed, ...]:
    """The same edges in the same worlds on another bench: chosen on ``select``, to be reported on ``test``."""
    model, readout = bench.model, str(bench.emotion)
    found = []
    for without in dict.fromkeys(one.without for one in some):
        mine = [one.edge for one in some if one.without == without]
        sources = [senders_in(model, [edge.source])[0] for edge in mine]
        targets = [receivers_in(model, [READOUT if edge.target == readout else edge.target])[0] for edge in mine]
        found += [
            Revealed(edge, without)
            for edge in edges_in_world(bench, without, list(zip(sources, targets, strict=True)))
        ]  # fmt: skip
    return _ordered(found)


def _worlds(bench: Bench, nodes: Sequence[Component], lost: Sequence[Component]) -> dict[Component, World]:
    """For each lost node another one without which it does something, more than in the whole model.

    Of those without which it clearly supports the emotion the one that the model misses least: that is what stands in for it,
    and not what it is held back by. Where there is none, the one without which it supports it most; where it does so nowhere,
    the one without which it works against it most, which comes last because a node also seems to do that where what it feeds
    is gone and its rival is not.
    """
    model = bench.model
    everything = frozenset((*model.heads, *(model.neurons if model.capabilities.neurons else ())))
    result = {}
    for c in lost:
        gone: list[World] = [frozenset(), *(frozenset({other}) for other in nodes if other != c)]
        metrics = bench.metrics(
            [everything - without - extra for without in gone for extra in (frozenset[Component](), {c})]
        )
        without, both = metrics[::2].mean(1), metrics[1::2].mean(1)
        for effect in (without - both, both - without):
            clear = np.flatnonzero(effect >= max(_CLEAR * float((bench.whole - bench.empty).mean()), abs(effect[0])))
            if effect.max() > abs(effect[0]):  # 0 is the whole model
                missed = [i for i in clear if i]
                best = min(missed, key=lambda i: abs(without[i] - without[0])) if missed else int(effect.argmax())
                result[c] = gone[best]
                break
    return result


def _component(receiver: Receiver) -> Component | str:
    return receiver.component if isinstance(receiver, Input) else receiver


def _named(sender: Sender, receiver: Receiver, readout: str) -> tuple[str, str]:
    return str(sender), readout if receiver == READOUT else str(receiver)


def _ordered(some: Iterable[Revealed]) -> tuple[Revealed, ...]:
    return tuple(sorted(some, key=lambda one: (-abs(one.edge.weight), one.edge.source, one.edge.target)))
