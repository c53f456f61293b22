"""A circuit: the nodes and edges chosen for one emotion, as a value and as a ``networkx.DiGraph``.

What was measured (:class:`~circuits.effects.table.Effects`) and what was chosen (:class:`Circuit`) are different types. Nodes
are heads and neurons; ``embed`` is the source all text comes from and the emotion's name is the read-out node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from circuits.errors import RunError
from circuits.model.sites import Component, parse
from circuits.prompts.emotions import Emotion, emotion

__all__ = ["EMBED", "Circuit", "Edge", "Node"]

EMBED = "embed"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Node:
    """One chosen component and the effect it was chosen for, re-measured on the ``test`` split.

    ``effect`` [logits] with its 95% interval; ``verified`` is True when it is exact, False when first-order.
    """

    component: Component
    effect: float
    low: float
    high: float
    q: float
    verified: bool
    direct: float

    @property
    def name(self) -> str:
        return self.component.name


@dataclass(frozen=True)
class Edge:
    """A direct edge with its first-order score [logits] and 95% interval; into a read-out it is the exact direct effect."""

    source: str
    target: str
    weight: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class Circuit:
    """The circuit of one emotion.

    Attributes:
        judgement: what the judge found (faithfulness, random circuits, ...), JSON values with their n and unit.
    """

    emotion: Emotion
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    judgement: Mapping[str, Any] = field(default_factory=dict)

    @property
    def components(self) -> tuple[Component, ...]:
        return tuple(node.component for node in self.nodes)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(node.name for node in self.nodes)

    def to_networkx(self) -> nx.DiGraph:
        """A directed graph with typed attributes; ``graph`` holds the emotion and the judgement's plain numbers.

        Node attributes: ``role`` (source, component, readout), ``kind``, ``layer``, ``half``, ``index``, ``effect``, ``low``,
        ``high``, ``q``, ``direct`` [logits], ``verified``. Edge attributes: ``weight``, ``low``, ``high`` [logits], ``kind``.
        """
        plain = {k: v for k, v in self.judgement.items() if isinstance(v, str | int | float | bool)}
        graph = nx.DiGraph(**{"unit": "logits", **plain, "emotion": str(self.emotion)})
        graph.add_node(EMBED, role="source", kind="embed", layer=-1, half="embed")
        for node in self.nodes:
            c = node.component
            graph.add_node(
                node.name, role="component", kind=str(c.kind), layer=c.layer, half=str(c.half), index=c.index,
                effect=node.effect, low=node.low, high=node.high, q=node.q, direct=node.direct, verified=node.verified,
            )  # fmt: skip
        deepest = max((c.layer for c in self.components), default=0)
        graph.add_node(str(self.emotion), role="readout", kind="readout", layer=deepest + 1, half="readout")
        for edge in self.edges:
            graph.add_edge(edge.source, edge.target, weight=edge.weight, low=edge.low, high=edge.high, kind=edge.kind)
        return graph

    def to_json(self) -> dict[str, Any]:
        """Node-link JSON (networkx layout) with the whole judgement under ``judgement``."""
        data: dict[str, Any] = nx.node_link_data(self.to_networkx(), edges="edges")
        data["format"] = "emotion-circuits/1"
        data["judgement"] = dict(self.judgement)
        return data

    @classmethod
    def from_json(cls, data: object) -> Circuit:
        """Inverse of :meth:`to_json`.

        Raises:
            RunError: the value is not such a graph; the first thing wrong is named.
        """
        try:
            if not isinstance(data, dict) or data.get("format") != "emotion-circuits/1":
                raise RunError("not a circuit of this package: expected format 'emotion-circuits/1'")
            e = emotion(data["graph"]["emotion"])
            nodes = tuple(_node(n) for n in data["nodes"] if n["role"] == "component")
            known = {node.name for node in nodes} | {EMBED, str(e)}
            edges = tuple(_edge(item, known) for item in data["edges"])
            if len({node.name for node in nodes}) < len(nodes):
                raise RunError("a circuit file lists a node twice; expected each component once")
            if not isinstance(data["judgement"], dict):
                raise RunError(f"judgement is a {type(data['judgement']).__name__}; expected an object")
            return cls(e, nodes, edges, data["judgement"])
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"a circuit file is malformed: {type(error).__name__} {error}") from None


def _node(item: Mapping[str, Any]) -> Node:
    numbers = {key: _number(item[key], key) for key in ("effect", "low", "high", "q", "direct")}
    return Node(component=parse(item["id"]), verified=bool(item["verified"]), **numbers)


def _edge(item: Mapping[str, Any], known: set[str]) -> Edge:
    for end in ("source", "target"):
        if item[end] not in known:
            raise RunError(f"an edge names the node {item[end]!r}, which the circuit does not have")
    numbers = {key: _number(item[key], key) for key in ("weight", "low", "high")}
    return Edge(source=item["source"], target=item["target"], kind=str(item["kind"]), **numbers)


def _number(value: object, key: str) -> float:
    """A number; ``null`` stands for "not given" (too few scenarios for an interval)."""
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RunError(f"{key} is {value!r}; expected a number")
    try:
        return float(value)
    except OverflowError:
        raise RunError(f"{key} is too large for a number") from None
