"""Circuits as sets: union, intersection, difference, complement, and one emotion's part of a merged circuit.

Nodes are the same if they are the same component, edges if they join the same nodes by the same input. Where two circuits
measured the same thing for the same emotion, the first one's numbers are kept. Circuits of different emotions give a
merged circuit that carries the numbers of each, so ``restricted(union(a, b), b.emotion)`` is ``b`` again. What was found about
a circuit as a whole (faithfulness, random circuits) does not hold for another: results have no judgement, only a note of where
they come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from circuits.circuit.attributes import strongest_first
from circuits.circuit.graph import EMBED, Circuit, Edge, Measured, Node, Weighed
from circuits.errors import PromptError
from circuits.model.sites import Component
from circuits.prompts.emotions import EMOTIONS, Emotion, emotion

if TYPE_CHECKING:
    from circuits.model.anatomy import Model

__all__ = ["complement", "difference", "intersection", "part", "restricted", "union"]

Numbers = dict[Emotion, Measured]
Nodes = dict[Component, tuple[Numbers, Numbers]]
"""By the emotions a node was chosen for, and by others it was measured on."""
Edges = dict[tuple[str, str, str], dict[Emotion, Weighed]]


def union(first: Circuit, second: Circuit) -> Circuit:
    """All nodes and edges of either."""
    return _combined("union", first, second, lambda a, b: [*a, *(key for key in b if key not in a)])


def intersection(first: Circuit, second: Circuit) -> Circuit:
    """Nodes and edges of both; of two emotions, the machinery they share, with the numbers for each."""
    return _combined("intersection", first, second, lambda a, b: [key for key in a if key in b])


def difference(first: Circuit, second: Circuit) -> Circuit:
    """The first without the nodes and edges of the second; edges that lose an end go as well."""
    nodes, edges = _parts(first)
    gone, loose = _parts(second)
    return _circuit(
        {c: numbers for c, numbers in nodes.items() if c not in gone},
        {key: numbers for key, numbers in edges.items() if key not in loose},
        first.emotions,
        _note("difference", first, second),
    )


def complement(circuit: Circuit, universe: Model | Iterable[Component]) -> Circuit:
    """Every component of ``universe`` (for a model: all heads and neurons) that is not in the circuit, without edges.

    A whole half-layer in the circuit covers its heads or neurons. The nodes have no effects: nobody measured them.
    """
    everything = universe if isinstance(universe, Iterable) else (*universe.heads, *_neurons(universe))
    chosen = set(circuit.components)
    covered = {(c.layer, c.half) for c in chosen if c.index < 0}
    nan = math.nan
    rest = dict.fromkeys(c for c in everything if c not in chosen and (c.layer, c.half) not in covered)
    # One of several merged circuits' emotions is as good as another: the nodes are in none of them.
    nodes = tuple(Node(c, nan, nan, nan, nan, False, nan) for c in rest)
    return Circuit(circuit.emotion, nodes, (), {"derived": f"complement of {circuit.emotion}, not judged"})


def _neurons(model: Model) -> tuple[Component, ...]:
    return model.neurons if model.capabilities.neurons else ()


def restricted(circuit: Circuit, name: str) -> Circuit:
    """The part of a merged circuit that belongs to one emotion, with its numbers.

    Raises:
        PromptError: it has no such emotion.
    """
    e = emotion(name)
    if e not in circuit.emotions:
        raise PromptError(f"this circuit has no read-out {e}; it has {', '.join(circuit.emotions)}")
    if not circuit.readouts:
        return circuit
    nodes, edges = _parts(circuit)
    only = {c: ({e: chosen[e]}, noted) for c, (chosen, noted) in nodes.items() if e in chosen}
    links = {key: {e: numbers[e]} for key, numbers in edges.items() if e in numbers}
    return _circuit(only, links, (e,), {})


def part(
    circuit: Circuit, components: Collection[str], edges: Collection[tuple[str, str, str]] | None = None
) -> Circuit:
    """The nodes of these names with the edges among them, the embedding and the read-outs; of the edges only those of these
    keys, where keys are given."""
    nodes = tuple(n for n in circuit.nodes if n.name in components)
    ends = {EMBED, *map(str, circuit.emotions), *(n.name for n in nodes)}
    kept = tuple(
        d for d in circuit.edges if d.source in ends and d.target in ends and (edges is None or d.key in edges)
    )
    note = {"derived": f"a part of {'+'.join(circuit.emotions)}, not judged"}
    return Circuit(circuit.emotion, nodes, kept, note, circuit.readouts)


def _combined(
    name: str, first: Circuit, second: Circuit, pick: Callable[[Mapping[Any, Any], Mapping[Any, Any]], list[Any]]
) -> Circuit:
    (nodes, edges), (others, links) = _parts(first), _parts(second)
    return _circuit(
        {c: _joined(nodes.get(c, ({}, {})), others.get(c, ({}, {}))) for c in pick(nodes, others)},
        {key: {**links.get(key, {}), **edges.get(key, {})} for key in pick(edges, links)},
        (*first.emotions, *second.emotions),
        _note(name, first, second),
    )


def _joined(first: tuple[Numbers, Numbers], second: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers]:
    return {**second[0], **first[0]}, {**second[1], **first[1]}


def _note(name: str, first: Circuit, second: Circuit) -> dict[str, Any]:
    return {"derived": f"{name} of {'+'.join(first.emotions)} and {'+'.join(second.emotions)}, not judged"}


def _parts(circuit: Circuit) -> tuple[Nodes, Edges]:
    """Numbers by the emotions nodes and edges were chosen for."""
    nodes: Nodes = {}
    for node in circuit.nodes:
        chosen = node.emotions or (circuit.emotion,)
        noted = {e: numbers for e, numbers in node.effects.items() if e not in chosen}
        nodes[node.component] = {chosen[0]: node.own, **{e: node.effects[e] for e in chosen[1:]}}, noted
    edges: Edges = {}
    for edge in circuit.edges:
        chosen = edge.emotions or (circuit.emotion,)
        edges[edge.key] = {chosen[0]: edge.own, **{e: edge.weights[e] for e in chosen[1:]}}
    return nodes, edges


def _circuit(nodes: Nodes, edges: Edges, emotions: Iterable[Emotion], judgement: Mapping[str, Any]) -> Circuit:
    """The circuit of these parts; edges without both ends are left out."""
    there = tuple(e for e in EMOTIONS if e in set(emotions))
    ends = {EMBED, *map(str, there), *(c.name for c in nodes)}
    found, links = [], []
    for c, (numbers, noted) in nodes.items():
        chosen = tuple(e for e in there if e in numbers)
        own, rest = numbers[chosen[0]], {**noted, **numbers}
        ordered = {e: rest[e] for e in EMOTIONS if e in rest and e != chosen[0]}
        found.append(Node(c, **own._asdict(), effects=ordered, emotions=chosen if len(there) > 1 else ()))
    for (source, target, way), weights in edges.items():
        if source in ends and target in ends:
            chosen = tuple(e for e in there if e in weights)
            heaviest, others = weights[chosen[0]], {e: weights[e] for e in chosen[1:]}
            kept = chosen if len(there) > 1 else ()
            links.append(Edge(source, target, **heaviest._asdict(), input=way, weights=others, emotions=kept))
    return Circuit(there[0], tuple(found), strongest_first(links), dict(judgement), there[1:])
