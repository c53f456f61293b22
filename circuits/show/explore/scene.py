"""What the page draws: nodes, edges and places, as plain values for the browser.

Places are computed once for all six circuits together and never move when filters change. Rows are half-layers: the embedding
below, the read-outs on top. Inside a row, components stand by the emotions they were chosen for, so that what belongs together
stands together and what is shared stands in the middle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.circuit.graph import EMBED, Circuit, Edge, Measured, Node
from circuits.circuit.matched import Sizes, matched_random
from circuits.model.sites import Component, Half, Kind
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["Layout", "Random", "key", "layout", "random_circuits", "scene"]

_ACROSS, _UP, _BETWEEN = 76.0, 46.0, 62.0
"""Distances on the page: between neighbours, between lines of a row, between rows."""
_WIDE = 1.05
"""Width over height that the drawing aims at."""
_ASIDE = 20.0
"""What is not in a circuit stands below the middle of its row."""
_LEAST, _MOST_LINES = 8, 12


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
        places: ``(x, y)`` by node name, y growing downwards.
        rows: name and y of every row, from the embedding up.
        width, height: of the whole drawing.
    """

    places: Mapping[str, tuple[float, float]]
    rows: tuple[tuple[str, float], ...]
    width: float
    height: float

    def as_dict(self) -> dict[str, Any]:
        return {"rows": [list(row) for row in self.rows], "width": self.width, "height": self.height}


def layout(circuits: Mapping[Emotion, Circuit], n_layers: int, sizes: Sizes, more: Iterable[Component] = ()) -> Layout:
    """Places for the components of all circuits; ``more`` may be shown behind them, by their number from left to right."""
    chosen: dict[Component, list[int]] = {}
    for e, circuit in circuits.items():
        for node in circuit.nodes:
            chosen.setdefault(node.component, []).append(e.column)
    halves = [(layer, half) for layer in range(n_layers) for half in Half]
    members: dict[tuple[int, Half], list[Component]] = {place: [] for place in halves}
    for component in chosen:
        members[component.layer, component.half].append(component)

    def along(c: Component) -> tuple[float, Component]:
        return float(np.mean(chosen[c])), c

    ordered = {place: sorted(some, key=along) for place, some in members.items()}
    longest = _per_line([len(some) for some in ordered.values()])
    width = max(longest, len(EMOTIONS)) * _ACROSS
    places: dict[str, tuple[float, float]] = {EMBED: (0.0, 0.0)}
    rows: list[tuple[str, float]] = [("tokens", 0.0)]
    # The ends of a large drawing, whose letters are large, need room.
    total = sum(_BETWEEN + (max(1, -(-len(some) // longest)) - 1) * _UP for some in ordered.values())
    room = max(0.0, 0.04 * total - _BETWEEN / 2)
    y = -room
    for (layer, half), some in ordered.items():
        lines = max(1, -(-len(some) // longest))
        y -= _BETWEEN
        columns = -(-len(some) // lines) if some else 0
        for i, component in enumerate(some):
            column, line = divmod(i, lines)
            # Lines of a row are shifted against each other, so that labels and edges keep apart.
            x = (column - (columns - 1) / 2 + (line / lines - (lines - 1) / (2 * lines))) * width / max(columns, 1)
            places[component.name] = (round(x, 1), round(y - line * _UP, 1))
        rows.append((f"L{layer} {'attention' if half is Half.ATTN else 'MLP'}", round(y - (lines - 1) * _UP / 2, 1)))
        y -= (lines - 1) * _UP
    middle = dict(zip(halves, (row[1] for row in rows[1:]), strict=True))
    for component in more:
        count = sizes.n_heads if component.kind is Kind.HEAD else sizes.d_mlp
        x = ((component.index + 0.5) / count - 0.5) * width
        places.setdefault(component.name, (round(x, 1), middle[component.layer, component.half] + _ASIDE))
    y -= _BETWEEN * 1.2 + room
    rows.append(("read-outs", round(y, 1)))
    for e in EMOTIONS:
        places[str(e)] = (round((e.column - (len(EMOTIONS) - 1) / 2) * width / len(EMOTIONS), 1), round(y, 1))
    return Layout(places, tuple(rows), width, -y)


def _per_line(counts: Sequence[int]) -> int:
    """How many stand side by side, so that the whole comes near the wanted shape."""
    best, off = _LEAST, np.inf
    for per_line in range(_LEAST, max(*counts, _LEAST) + 1):
        lines = [max(1, -(-count // per_line)) for count in counts]
        height = sum(_BETWEEN + (n - 1) * _UP for n in lines) + 2 * _BETWEEN
        miss = abs(np.log(per_line * _ACROSS / height / _WIDE))
        if miss < off and max(lines) <= _MOST_LINES * (1 + max(counts) // 100):
            best, off = per_line, float(miss)
    return best


def key(edge: Edge) -> str:
    """An edge's name on the page."""
    return f"{edge.source}→{edge.target}" + (f"<{edge.input}>" if edge.input else "")


@dataclass(frozen=True)
class Random:
    """A random circuit a found one was judged beside, and its faithfulness on ``test``."""

    components: tuple[Component, ...]
    faithfulness: float


def random_circuits(circuit: Circuit, sizes: Sizes, seed: int, count: int) -> tuple[Random, ...]:
    """The first of the very random circuits the judge drew for this one: same shape, same seed."""
    drawn = circuit.judgement.get("random", ())[:count]
    rng = np.random.default_rng(seed + circuit.emotion.column)
    return tuple(Random(matched_random(sizes, circuit.components, rng), float(f)) for f in drawn)


def scene(
    circuits: Mapping[Emotion, Circuit],
    wanted: Sequence[Emotion],
    found: Layout,
    nulls: Mapping[Emotion, Sequence[Random]],
) -> dict[str, Any]:
    """Nodes and edges of some emotions, every number by emotion: ``[effect, low, high, q, exact, direct, member]`` for nodes,
    ``[weight, low, high, kind]`` for edges; a missing number is None."""  # fmt: skip
    nodes: dict[str, dict[str, Any]] = {}
    edges: dict[str, dict[str, Any]] = {}

    def placed(name: str, kind: str, layer: int) -> dict[str, Any]:
        x, y = found.places[name]
        return nodes.setdefault(name, {"id": name, "kind": kind, "layer": layer, "x": x, "y": y, "by": {}, "null": []})

    if wanted:
        placed(EMBED, "embed", -1)
    for e in wanted:
        placed(str(e), "readout", 1 << 20)
        for node in circuits[e].nodes:
            values = placed(node.name, str(node.component.kind), node.component.layer)["by"]
            values.update(_effects(node, e, wanted, values))
        for edge in circuits[e].edges:
            one = edges.setdefault(
                key(edge),
                {"id": key(edge), "source": edge.source, "target": edge.target, "input": edge.input, "by": {}},
            )
            one["by"][str(e)] = _weight(edge)
        for number, random in enumerate(nulls.get(e, ())):
            for c in random.components:
                placed(c.name, str(c.kind), c.layer)["null"].append([str(e), number])
    return {"nodes": list(nodes.values()), "edges": list(edges.values()), "emotions": [str(e) for e in wanted]}


def _effects(node: Node, own: Emotion, wanted: Sequence[Emotion], known: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The node's numbers on every wanted emotion; what a circuit says of its own emotion goes before what others say."""
    result = {str(own): _numbers(node.own, member=True)}
    for e, other in node.effects.items():
        if e in wanted and str(e) not in known:
            result[str(e)] = _numbers(other, member=False)
    return result


def _numbers(found: Measured, *, member: bool) -> list[Any]:
    return [*(_number(x) for x in found[:4]), int(found.verified), _number(found.direct), int(member)]


def _weight(edge: Edge) -> list[Any]:
    return [*(_number(x) for x in (edge.weight, edge.low, edge.high)), edge.kind]


def _number(x: float) -> float | None:
    return None if x != x else float(f"{x:.5g}")
