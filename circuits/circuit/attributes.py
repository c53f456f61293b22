"""The attributes nodes and edges of a circuit have as a graph, and the way back, which trusts nothing.

Every format goes through these two directions: a circuit becomes flat attributes of plain types (text, number, truth value),
and a graph's attributes become a circuit after each was checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from circuits import jsontext
from circuits.errors import CircuitsError, ComponentError, PromptError, RunError
from circuits.model.sites import Component, Kind, parse
from circuits.prompts.emotions import EMOTIONS, Emotion, emotion

if TYPE_CHECKING:
    from circuits.circuit.graph import Circuit, Edge, Node

__all__ = ["MOST_EDGES", "MOST_NODES", "circuit", "malformed", "of_edges", "of_node", "require_size", "strongest_first"]

MOST_NODES = 100_000
MOST_EDGES = 2_000_000

Attributes = Mapping[str, Any]

_INTERVAL = ("low", "high")
_PLAIN = (str, bool, int, float)


def require_size(nodes: int, edges: int) -> None:
    """Raise RunError for more than a circuit can sensibly have, before anything is built."""
    for count, most, what in ((nodes, MOST_NODES, "nodes"), (edges, MOST_EDGES, "edges")):
        if count > most:
            raise RunError(f"a graph has {count:,} {what}; expected at most {most:,}: keep the part that matters")


def malformed(error: Exception) -> RunError:
    """For what is missing or of the wrong type."""
    return RunError(f"a circuit file is malformed: {type(error).__name__} {error}")


# -- from a circuit ----------------------------------------------------------------------------------------------------


def of_node(node: Node) -> dict[str, Any]:
    """A component's attributes; numbers for further emotions carry the emotion's name."""
    c = node.component
    result: dict[str, Any] = {
        "role": "component", "kind": str(c.kind), "layer": c.layer, "half": str(c.half), "index": c.index,
        "effect": node.effect, "low": node.low, "high": node.high, "q": node.q, "direct": node.direct,
        "verified": node.verified,
    }  # fmt: skip
    for e, numbers in node.effects.items():
        result |= {f"{key}_{e}": value for key, value in numbers._asdict().items()}
    return result | _listed(node.emotions)


def of_edges(parts: Sequence[Edge]) -> dict[str, Any]:
    """Attributes of the edges from one node to another: one, or one for each input of a head."""
    if len(parts) == 1:
        return _of_edge(parts[0]) | ({"input": parts[0].input} if parts[0].input else {})
    result = {"weight": sum(edge.weight for edge in parts), "inputs": " ".join(edge.input or "all" for edge in parts)}
    for edge in parts:
        result |= {f"{key}_{edge.input or 'all'}": value for key, value in _of_edge(edge).items()}
    return result


def _of_edge(edge: Edge) -> dict[str, Any]:
    result: dict[str, Any] = edge.own._asdict()
    for e, numbers in edge.weights.items():
        result |= {f"{key}_{e}": value for key, value in numbers._asdict().items()}
    return result | _listed(edge.emotions)


def _listed(emotions: Sequence[Emotion]) -> dict[str, str]:
    return {"emotions": " ".join(emotions)} if emotions else {}


# -- to a circuit ------------------------------------------------------------------------------------------------------


def circuit(
    graph: Attributes,
    nodes: Sequence[tuple[Any, Attributes]],
    edges: Sequence[tuple[Any, Any, Attributes]],
    *,
    sparse: bool = False,
) -> Circuit:
    """The circuit of a graph's attributes, nodes (name, attributes) and edges (source, target, attributes).

    ``sparse``: a number that does not exist may be left out, as in formats without ``null``.

    Raises:
        RunError: the first thing wrong: what it is, what was expected.
    """
    try:
        return _circuit(graph, nodes, edges, sparse)
    except (PromptError, ComponentError) as error:
        raise RunError(str(error)) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise malformed(error) from None


def _circuit(
    graph: Attributes,
    nodes: Sequence[tuple[Any, Attributes]],
    edges: Sequence[tuple[Any, Any, Attributes]],
    sparse: bool,
) -> Circuit:
    from circuits.circuit.graph import EMBED, Circuit

    readouts: list[Emotion] = []
    components: dict[str, Node] = {}
    sources = 0
    for name, item in nodes:
        role = item["role"]
        if role == "component":
            node = _node(name, item, sparse)
            if name in components:
                raise RunError(f"a circuit file lists a node twice, {name!r}; expected each component once")
            components[name] = node
        elif role == "readout":
            readouts.append(emotion(name))
        elif role == "source" and name == EMBED:
            sources += 1
        else:
            raise RunError(
                f"the node {_short(name)} has the unknown role {_short(role)}; expected component, readout, or "
                f"source for {EMBED!r}"
            )
    if sources > 1 or len(set(readouts)) < len(readouts):
        raise RunError(f"a circuit file lists a node twice; expected {EMBED!r} and each read-out once")
    # Formats without attributes of the graph still have its read-outs.
    own = emotion(graph["emotion"]) if "emotion" in graph or not readouts else _ordered(set(readouts))[0]
    emotions = _ordered({own, *readouts})
    if emotions[0] is not own:
        raise RunError(
            f"a merged circuit calls itself {own}; expected the first of its emotions in the usual order, {emotions[0]}"
        )
    for node in components.values():
        _require_emotions(node.emotions, node.effects, emotions, node.name)
    depths = {EMBED: -1.0, **{str(e): math.inf for e in emotions}}
    depths |= {name: _depth(node.component) for name, node in components.items()}
    found: list[Edge] = []
    pairs: set[tuple[str, str]] = set()
    for source, target, item in edges:
        parts = _edges(source, target, item, sparse)
        _require_ends(source, target, depths)
        if (source, target) in pairs:
            raise RunError(f"the edge {source} -> {target} is listed twice; expected each edge once")
        pairs.add((source, target))
        for edge in parts:
            if edge.input and components[target].component.kind is not Kind.HEAD:
                raise RunError(f"the edge {source} -> {target} enters input {edge.input!r}; only heads have inputs")
            _require_emotions(edge.emotions, edge.weights, emotions, f"{source} -> {target}")
        found += parts
    return Circuit(own, tuple(components.values()), strongest_first(found), _judgement(graph), emotions[1:])


def strongest_first(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """The order of a circuit's edges, which a graph does not keep."""
    return tuple(sorted(edges, key=lambda edge: (-abs(edge.weight), *edge.key)))


def _node(name: str, item: Attributes, sparse: bool) -> Node:
    from circuits.circuit.graph import Measured, Node

    c = parse(name)
    if c.name != name:
        raise RunError(f"the node {name!r} is misspelt; expected {c.name!r}")
    for key, value in (("kind", str(c.kind)), ("layer", c.layer), ("half", str(c.half)), ("index", c.index)):
        if key in item and item[key] != value:
            raise RunError(f"the node {name} has the {key} {_short(item[key])}; expected {value!r}")
    if "kind" not in item:
        raise KeyError("kind")

    def numbers(end: str) -> dict[str, Any]:
        verified = item[f"verified{end}"]
        if not isinstance(verified, bool):
            raise RunError(f"verified{end} of {name} is {_short(verified)}; expected true or false")
        keys = ("effect", "low", "high", "q", "direct")
        return {"verified": verified, **{key: _number(item, f"{key}{end}", sparse) for key in keys}}

    effects = {e: Measured(**numbers(f"_{e}")) for e in EMOTIONS if f"verified_{e}" in item}
    return Node(component=c, **numbers(""), effects=effects, emotions=_emotions(item, ""))


def _edges(source: object, target: object, item: Attributes, sparse: bool) -> list[Edge]:
    from circuits.circuit.graph import EDGE_KINDS, INPUTS, Edge, Weighed

    def numbers(end: str) -> dict[str, Any]:
        kind = item[f"kind{end}"]
        if not isinstance(kind, str) or kind not in EDGE_KINDS:
            raise RunError(
                f"the edge {source} -> {target} is of the unknown kind {_short(kind)}; expected one of "
                f"{', '.join(EDGE_KINDS)}"
            )
        weight = _number(item, f"weight{end}", True)
        if math.isnan(weight):
            raise RunError(f"the edge {source} -> {target} has no weight{end}; expected a number")
        return {"weight": weight, "kind": kind, **{key: _number(item, f"{key}{end}", sparse) for key in _INTERVAL}}

    def edge(way: str, end: str) -> Edge:
        weights = {e: Weighed(**numbers(f"_{e}{end}")) for e in EMOTIONS if f"kind_{e}{end}" in item}
        return Edge(str(source), str(target), **numbers(end), input=way, weights=weights, emotions=_emotions(item, end))

    if "inputs" not in item:
        way = item.get("input", "")
        if way not in INPUTS:
            raise RunError(f"an edge enters the unknown input {_short(way)}; expected q, k, v or none")
        return [edge(way, "")]
    ways = item["inputs"].split()
    if len(ways) < 2 or len(set(ways)) < len(ways) or not set(ways) <= {"all", *INPUTS[1:]}:
        raise RunError(
            f"an edge enters the inputs {_short(item['inputs'])}; expected several of all, q, k, v, each once"
        )
    return [edge("" if way == "all" else way, f"_{way}") for way in ways]


def _require_ends(source: object, target: object, depths: Mapping[str, float]) -> None:
    for end in (source, target):
        if end not in depths:
            raise RunError(f"an edge names the node {end!r}, which the circuit does not have")
    if not depths[str(source)] < depths[str(target)]:
        raise RunError(
            f"the edge {source} -> {target} runs backwards or within a half-layer, as in a cycle; expected it to lead from "
            "an earlier half-layer to a later one"
        )


def _depth(c: Component) -> float:
    """Half-layers below it."""
    return 2.0 * c.layer + (c.half == "mlp")


def _emotions(item: Attributes, end: str) -> tuple[Emotion, ...]:
    return tuple(emotion(name) for name in item.get(f"emotions{end}", "").split())


def _ordered(emotions: set[Emotion]) -> tuple[Emotion, ...]:
    return tuple(e for e in EMOTIONS if e in emotions)


def _require_emotions(
    chosen: tuple[Emotion, ...], numbers: Mapping[Emotion, Any], emotions: tuple[Emotion, ...], where: str
) -> None:
    """A merged graph must say which emotion each number is for."""
    if not chosen and len(emotions) > 1:
        raise RunError(f"{where} does not say which of {', '.join(emotions)} it belongs to; expected 'emotions'")
    if any(a.column >= b.column for a, b in pairwise(chosen)) or not set(chosen) <= set(emotions):
        raise RunError(
            f"{where} belongs to {' '.join(chosen)!r}; expected some of {', '.join(emotions)}, in this order"
        )
    own = chosen[0] if chosen else emotions[0]
    if own in numbers or not set(chosen[1:]) <= set(numbers):
        raise RunError(f"{where} needs its plain numbers for {own}, and suffixed ones for its other emotions")


def _judgement(graph: Attributes) -> dict[str, Any]:
    if "judgement" not in graph:
        return {k: v for k, v in graph.items() if isinstance(v, _PLAIN) and k not in ("emotion", "unit")}
    found = graph["judgement"]
    if isinstance(found, str):
        try:
            found = jsontext.loads(found)
        except (ValueError, CircuitsError) as error:
            raise RunError(f"the judgement of a circuit is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise RunError(f"judgement is a {type(found).__name__}; expected an object")
    return found


def _short(value: object) -> str:
    """How a message shows what is wrong: as Python writes it, not all of something long."""
    return repr(value if not isinstance(value, str | list | tuple) else value[:50])[:60]


def _number(item: Attributes, key: str, sparse: bool) -> float:
    """A number; ``null`` stands for "not given" (too few scenarios for an interval)."""
    value = item.get(key) if sparse else item[key]
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RunError(f"{key} is {_short(value)}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        raise RunError(f"{key} is too large for a number") from None
    if math.isinf(number):
        raise RunError(f"{key} is infinite; expected a number")
    return number
