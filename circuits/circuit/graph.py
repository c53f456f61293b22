"""A circuit: the nodes and edges chosen for one emotion, as a value and as a ``networkx.DiGraph``.

What was measured (:class:`~circuits.effects.table.Effects`) and what was chosen (:class:`Circuit`) are different types. Nodes
are heads, neurons and whole half-layers; ``embed`` is the source all text comes from, an emotion's name its read-out node.
Merged circuits (:mod:`circuits.circuit.algebra`) have several read-outs, and numbers by emotion on nodes and edges.

A graph may come from a stranger: everything is checked when it is read, and edges must run from an earlier half-layer to a
later one, so that no graph has a cycle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx

from circuits import jsontext
from circuits.circuit import attributes
from circuits.errors import RunError
from circuits.model.sites import Component
from circuits.prompts.emotions import Emotion

if TYPE_CHECKING:
    from circuits.model.anatomy import Model

__all__ = ["EDGE_KINDS", "EMBED", "FORMAT", "INPUTS", "Circuit", "Edge", "Measured", "Node", "Weighed"]

EMBED = "embed"
FORMAT = "emotion-circuits/1"

EDGE_KINDS: Mapping[str, str] = {
    "direct": "the exact direct effect, into a read-out",
    "gradient": "first-order score of the direct path",
    "exact": "exact path patching",
    "conditional": "exact path patching in a model that lacks another node of the circuit, where the edge shows",
    "foreign": "a score another tool gave",
}
INPUTS = ("", "q", "k", "v")
"""Where an edge enters a head; the empty text is the head as a whole (and all that is no head)."""


class Measured(NamedTuple):
    """A node's effect on one emotion [logits]; see :class:`Node`."""

    effect: float
    low: float
    high: float
    q: float
    verified: bool
    direct: float


class Weighed(NamedTuple):
    """An edge's weight for one emotion [logits]; see :class:`Edge`."""

    weight: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class Node:
    """One chosen component and the effect it was chosen for, re-measured on the ``test`` split.

    ``effect`` [logits] with its 95% interval (NaN where there is none); ``verified`` is True when it is exact, False when
    first-order.

    Attributes:
        effects: what it does to other emotions.
        emotions: in a merged circuit, the emotions it was chosen for, in Ekman's order; the fields above speak of the first,
            ``effects`` of the others. Empty: the circuit's own emotion.
    """

    component: Component
    effect: float
    low: float
    high: float
    q: float
    verified: bool
    direct: float
    effects: Mapping[Emotion, Measured] = field(default_factory=dict, hash=False)
    emotions: tuple[Emotion, ...] = ()

    @property
    def name(self) -> str:
        return self.component.name

    @property
    def own(self) -> Measured:
        """The numbers for the first of its emotions."""
        return Measured(self.effect, self.low, self.high, self.q, self.verified, self.direct)


@dataclass(frozen=True)
class Edge:
    """A direct edge with its weight [logits] and 95% interval.

    ``kind`` is one of :data:`EDGE_KINDS`.

    Attributes:
        input: the input of a head it enters, one of :data:`INPUTS`.
        weights: in a merged circuit, its weights for all but the first of ``emotions``.
        emotions: as for nodes.
    """

    source: str
    target: str
    weight: float
    low: float
    high: float
    kind: str
    input: str = ""
    weights: Mapping[Emotion, Weighed] = field(default_factory=dict, hash=False)
    emotions: tuple[Emotion, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it this edge: source, target, input."""
        return self.source, self.target, self.input

    @property
    def own(self) -> Weighed:
        """The numbers for the first of its emotions."""
        return Weighed(self.weight, self.low, self.high, self.kind)


@dataclass(frozen=True)
class Circuit:
    """The circuit of one emotion, or several merged.

    Attributes:
        judgement: what the judge found (faithfulness, random circuits, ...), JSON values with their n and unit.
        readouts: further emotions, in a merged circuit; ``emotion`` is then the first of all.
    """

    emotion: Emotion
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    judgement: Mapping[str, Any] = field(default_factory=dict)
    readouts: tuple[Emotion, ...] = ()

    @property
    def components(self) -> tuple[Component, ...]:
        return tuple(node.component for node in self.nodes)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(node.name for node in self.nodes)

    @property
    def emotions(self) -> tuple[Emotion, ...]:
        """Its own emotion and, when merged, the others."""
        return (self.emotion, *self.readouts)

    def require_in(self, model: Model) -> None:
        """Raise ComponentError, naming the first component that ``model`` lacks, unless it has them all."""
        for component in self.components:
            model.require(component)

    def to_networkx(self) -> nx.DiGraph:
        """A directed graph with typed attributes; ``graph`` holds the emotion, the judgement's plain numbers, and all of it as
        JSON text. :meth:`from_networkx` gives an equal circuit back, edges strongest first.

        Node attributes: ``role`` (source, component, readout), ``kind``, ``layer``, ``half``, ``index``, ``effect``, ``low``,
        ``high``, ``q``, ``direct`` [logits], ``verified``; for further emotions ``effect_fear``, ``low_fear`` ...
        Edge attributes: ``weight``, ``low``, ``high`` [logits], ``kind``; ``input`` when it enters one input of a head. Edges
        into several inputs of one head are one edge here: ``inputs`` lists them, ``weight`` is their sum, and ``weight_q``,
        ``low_q`` ... are theirs.
        """
        plain = {k: v for k, v in self.judgement.items() if isinstance(v, str | int | float | bool)}
        text = json.dumps(jsontext.plain(self.judgement), allow_nan=False)
        graph = nx.DiGraph()
        graph.graph |= {"unit": "logits", **plain, "emotion": str(self.emotion), "judgement": text}
        graph.add_node(EMBED, role="source", kind="embed", layer=-1, half="embed")
        for node in self.nodes:
            graph.add_node(node.name, **attributes.of_node(node))
        deepest = max((c.layer for c in self.components), default=0)
        for e in self.emotions:
            graph.add_node(str(e), role="readout", kind="readout", layer=deepest + 1, half="readout")
        parts: dict[tuple[str, str], list[Edge]] = {}
        for edge in self.edges:
            parts.setdefault((edge.source, edge.target), []).append(edge)
        for (source, target), some in parts.items():
            graph.add_edge(source, target, **attributes.of_edges(some))
        return graph

    @classmethod
    def from_networkx(cls, graph: nx.Graph) -> Circuit:
        """Inverse of :meth:`to_networkx`; a missing number of an interval is NaN.

        Raises:
            RunError: the graph is no circuit; the first thing wrong is named.
        """
        if not graph.is_directed() or graph.is_multigraph():
            raise RunError(f"a {type(graph).__name__} is no circuit; expected a networkx.DiGraph")
        attributes.require_size(graph.number_of_nodes(), graph.number_of_edges())
        nodes, edges = list(graph.nodes(data=True)), list(graph.edges(data=True))
        return attributes.circuit(dict(graph.graph), nodes, edges, sparse=True)

    def to_json(self) -> dict[str, Any]:
        """Node-link JSON (networkx layout) with the whole judgement under ``judgement``."""
        data: dict[str, Any] = nx.node_link_data(self.to_networkx(), edges="edges")
        del data["graph"]["judgement"]  # not twice
        data["format"] = FORMAT
        data["judgement"] = dict(self.judgement)
        return data

    @classmethod
    def from_json(cls, data: object) -> Circuit:
        """Inverse of :meth:`to_json`.

        Raises:
            RunError: the value is not such a graph; the first thing wrong is named.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise RunError(f"not a circuit of this package: expected format {FORMAT!r}")
        try:
            if not isinstance(data["judgement"], dict):
                raise RunError(f"judgement is a {type(data['judgement']).__name__}; expected an object")
            attributes.require_size(len(data["nodes"]), len(data["edges"]))
            graph = {"emotion": data["graph"]["emotion"], "judgement": data["judgement"]}
            nodes = [(item["id"], item) for item in data["nodes"]]
            edges = [(item["source"], item["target"], item) for item in data["edges"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise attributes.malformed(error) from None
        return attributes.circuit(graph, nodes, edges)
