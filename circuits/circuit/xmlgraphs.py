"""GraphML and GEXF, the two XML formats of graph programs, written plainly and read warily.

Written files open in Gephi, Cytoscape and yEd and are what ``networkx`` reads back with the same attributes. A number that does
not exist (no interval) is left out: XML's ``NaN`` is spelt differently from program to program. The reader is expat with a
handler for every way a document may name something outside of or beyond itself: a DTD is refused where it begins, before any
entity exists, and sizes are counted while reading, before anything is built.

GraphML: http://graphml.graphdrawing.org. GEXF 1.2: https://gexf.net.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import networkx as nx

from circuits.circuit.attributes import require_size
from circuits.errors import RunError

__all__ = ["Found", "gexf_text", "graphml_text", "read_gexf", "read_graphml"]

_DEEPEST = 50
_GRAPHML = "http://graphml.graphdrawing.org/xmlns"
_GEXF = "http://www.gexf.net/1.2draft"
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


@dataclass
class Found:
    """A graph as read, unchecked: its attributes, nodes (name, attributes), edges (source, target, attributes)."""

    graph: dict[str, Any] = field(default_factory=dict)
    nodes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    edges: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)


# -- writing -----------------------------------------------------------------------------------------------------------

_TYPES: dict[type, tuple[str, str]] = {
    bool: ("boolean", "boolean"), int: ("long", "long"), float: ("double", "double"), str: ("string", "string"),
}  # fmt: skip


def _written(attributes: dict[str, Any]) -> Iterator[tuple[str, type, str]]:
    """Name, type and text of every attribute a file can hold."""
    for name, value in attributes.items():
        if _FORBIDDEN.search(name):
            continue
        if isinstance(value, bool):
            yield name, bool, "true" if value else "false"
        elif isinstance(value, str) and not _FORBIDDEN.search(value):
            yield name, str, str(value)
        elif isinstance(value, int) and abs(value) < 2**63:
            yield name, int, repr(int(value))
        elif isinstance(value, float) and math.isfinite(value):
            yield name, float, repr(float(value))


def graphml_text(graph: nx.DiGraph) -> str:
    """GraphML with typed attributes; ``label`` holds a node's name once more, for programs that number nodes anew."""
    keys: dict[tuple[str, str, type], str] = {}

    def data(scope: str, attributes: dict[str, Any], indent: str) -> Iterator[str]:
        for name, kind, text in _written(attributes):
            key = keys.setdefault((scope, name, kind), f"d{len(keys)}")
            yield f'{indent}<data key="{key}">{escape(text)}</data>'

    body = ['  <graph edgedefault="directed">']
    for name, attributes in graph.nodes(data=True):
        body.append(f"    <node id={quoteattr(name)}>")
        body += [*data("node", {"label": name, **attributes}, "      "), "    </node>"]
    for source, target, attributes in graph.edges(data=True):
        body.append(f"    <edge source={quoteattr(source)} target={quoteattr(target)}>")
        body += [*data("edge", attributes, "      "), "    </edge>"]
    body += [*data("graph", graph.graph, "    "), "  </graph>", "</graphml>", ""]
    head = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<graphml xmlns="{_GRAPHML}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_GRAPHML} {_GRAPHML}/1.0/graphml.xsd">',
        *(f'  <key id="{key}" for="{scope}" attr.name={quoteattr(name)} attr.type="{_TYPES[kind][0]}"/>'
          for (scope, name, kind), key in keys.items()),
    ]  # fmt: skip
    return "\n".join(head + body)


def gexf_text(graph: nx.DiGraph, about: str) -> str:
    """GEXF 1.2; it has no attributes of the graph itself, so the text ``about`` travels as its description."""
    keys: dict[str, dict[tuple[str, type], str]] = {"node": {}, "edge": {}}

    def values(scope: str, attributes: dict[str, Any]) -> list[str]:
        known, found = keys[scope], []
        for name, kind, text in _written(attributes):
            key = known.setdefault((name, kind), str(len(known)))
            found.append(f'          <attvalue for="{key}" value={quoteattr(text)}/>')
        return ["        <attvalues>", *found, "        </attvalues>"] if found else []

    nodes, edges = [], []
    for name, attributes in graph.nodes(data=True):
        nodes.append(f"      <node id={quoteattr(name)} label={quoteattr(name)}>")
        nodes += [*values("node", attributes), "      </node>"]
    for number, (source, target, attributes) in enumerate(graph.edges(data=True)):
        rest = {k: v for k, v in attributes.items() if k != "weight"}
        edges.append(
            f'      <edge id="{number}" source={quoteattr(source)} target={quoteattr(target)} '
            f'weight="{float(attributes["weight"])!r}">'
        )
        edges += [*values("edge", rest), "      </edge>"]
    declared = []
    for scope, known in keys.items():
        declared.append(f'    <attributes class="{scope}" mode="static">')
        declared += [f'      <attribute id="{key}" title={quoteattr(name)} type="{_TYPES[kind][1]}"/>'
                     for (name, kind), key in known.items()]  # fmt: skip
        declared.append("    </attributes>")
    return "\n".join([
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<gexf xmlns="{_GEXF}" version="1.2">',
        f"  <meta>\n    <creator>emotion-circuits</creator>\n    <description>{escape(about)}</description>\n  </meta>",
        '  <graph defaultedgetype="directed" mode="static">',
        *declared, "    <nodes>", *nodes, "    </nodes>", "    <edges>", *edges, "    </edges>", "  </graph>", "</gexf>", "",
    ])  # fmt: skip


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass
class _Key:
    scope: str
    name: str
    type: str
    default: str | None = None


_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def _typed(text: str, kind: str, name: str) -> Any:
    try:
        if kind == "boolean":
            return _BOOLEANS[text.strip().lower()]
        if kind in ("int", "long", "integer"):
            return int(text)
        if kind in ("float", "double"):
            return float(text)
    except (KeyError, ValueError):
        raise RunError(f"the attribute {name[:50]!r} is {text[:50]!r}; expected a {kind}") from None
    return text


class _Reader:
    """What both formats share: the wary parser, declared attributes, the element being filled."""

    def __init__(self) -> None:
        self.found = Found()
        self.keys: dict[str, _Key] = {}
        self.labels: dict[str, str] = {}
        self.into: dict[str, Any] | None = None
        self.text: list[str] | None = None
        self.path: list[str] = []
        self.seen: set[str] = set()

    def start(self, tag: str, given: dict[str, str]) -> None:
        raise NotImplementedError

    def end(self, tag: str) -> None:
        raise NotImplementedError

    def node(self, given: dict[str, str]) -> dict[str, Any]:
        name = given["id"]
        if name in self.seen:
            raise RunError(f"the node {name[:50]!r} is listed twice; expected each node once")
        self.seen.add(name)
        item: dict[str, Any] = {}
        self.found.nodes.append((name, item))
        require_size(len(self.found.nodes), 0)
        return item

    def edge(self, given: dict[str, str]) -> dict[str, Any]:
        item: dict[str, Any] = {}
        self.found.edges.append((given["source"], given["target"], item))
        require_size(0, len(self.found.edges))
        return item

    def put(self, item: dict[str, Any], key: str, text: str) -> None:
        declared = self.keys.get(key)
        if declared is not None:
            item[declared.name] = _typed(text, declared.type, declared.name)

    def read(self, data: bytes) -> Found:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True

        def start(tag: str, given: dict[str, str]) -> None:
            self.path.append(tag.rpartition(" ")[2])
            if len(self.path) > _DEEPEST:
                raise RunError(f"an XML file is nested deeper than {_DEEPEST} elements; expected a plain graph")
            self.start(self.path[-1], given)

        def end(tag: str) -> None:
            self.end(self.path.pop())

        def characters(text: str) -> None:
            if self.text is not None:
                self.text.append(text)

        parser.StartElementHandler, parser.EndElementHandler = start, end
        parser.CharacterDataHandler = characters
        parser.StartDoctypeDeclHandler = _refuse("a document type (DOCTYPE)")
        parser.EntityDeclHandler = _refuse("an entity declaration")
        parser.ExternalEntityRefHandler = _refuse("a reference outside the file")
        parser.SkippedEntityHandler = _refuse("an unknown entity")
        try:
            parser.Parse(data, True)
        except KeyError as error:
            raise RunError(f"an element of the XML file lacks {error}; export the graph again") from None
        except (expat.ExpatError, ValueError, LookupError, TypeError) as error:
            raise RunError(f"not readable XML: {str(error)[:100]}; export the graph again") from None
        self._finish()
        return self.found

    def _finish(self) -> None:
        """Defaults, and names where a program has numbered the nodes anew."""
        for scope, items in (("node", [i for _, i in self.found.nodes]), ("edge", [i for *_, i in self.found.edges])):
            for key in self.keys.values():
                if key.scope in (scope, "all") and key.default is not None:
                    for item in items:
                        item.setdefault(key.name, _typed(key.default, key.type, key.name))
        labels = {
            **self.labels,
            **{name: i["label"] for name, i in self.found.nodes if isinstance(i.get("label"), str)},
        }
        self.found.nodes = [(labels.get(name, name), item) for name, item in self.found.nodes]
        self.found.edges = [(labels.get(s, s), labels.get(t, t), item) for s, t, item in self.found.edges]


def _refuse(what: str) -> Callable[..., Any]:
    def handler(*_: object) -> None:
        raise RunError(f"an XML file holds {what}; expected none: it could expand without end or read other files")

    return handler


class _GraphmlReader(_Reader):
    def start(self, tag: str, given: dict[str, str]) -> None:
        above = self.path[-2] if len(self.path) > 1 else ""
        if tag == "key" and above == "graphml":
            key = _Key(given.get("for", "all"), given.get("attr.name", ""), given.get("attr.type", "string"))
            if key.name:  # others are a program's own, such as yEd's graphics
                self.keys[given["id"]] = key
            self.current = given["id"]
        elif tag == "graph" and above == "graphml":
            if given.get("edgedefault") != "directed" or "graph" in self.seen_graphs:
                raise RunError("a GraphML file is not one directed graph; expected edgedefault='directed'")
            self.seen_graphs.add("graph")
            self.into = self.found.graph
        elif tag in ("graph", "hyperedge", "port"):
            raise RunError(f"a GraphML file holds a {tag} inside {above}; expected nodes and edges alone")
        elif tag == "node" and above == "graph":
            self.into = self.node(given)
        elif tag == "edge" and above == "graph":
            if given.get("directed", "true") != "true":
                raise RunError("a GraphML file holds an undirected edge; expected directed ones")
            self.into = self.edge(given)
        elif tag == "data" and above in ("graph", "node", "edge"):
            self.current, self.text = given["key"], []
        elif tag == "default" and above == "key":
            self.text = []

    def end(self, tag: str) -> None:
        above = self.path[-1] if self.path else ""
        if tag == "data" and self.text is not None and above in ("graph", "node", "edge") and self.into is not None:
            self.put(self.into, self.current, "".join(self.text))
            self.text = None
        elif tag == "default" and self.text is not None:
            if self.current in self.keys:
                self.keys[self.current].default = "".join(self.text)
            self.text = None
        elif tag in ("node", "edge") and above == "graph":
            self.into = self.found.graph

    def __init__(self) -> None:
        super().__init__()
        self.current = ""
        self.seen_graphs: set[str] = set()


class _GexfReader(_Reader):
    def __init__(self) -> None:
        super().__init__()
        self.scope = ""
        self.current = ""

    def start(self, tag: str, given: dict[str, str]) -> None:
        if tag == "graph" and given.get("defaultedgetype") != "directed":
            raise RunError("a GEXF file is not a directed graph; expected defaultedgetype='directed'")
        if tag == "attributes":
            self.scope = given["class"]
        elif tag == "attribute":
            self.current = f"{self.scope} {given['id']}"
            self.keys[self.current] = _Key(self.scope, given["title"], given.get("type", "string"))
        elif tag == "node":
            self.into, self.scope = self.node(given), "node"
            if "label" in given:
                self.labels[given["id"]] = given["label"]
        elif tag == "edge":
            if given.get("type", "directed") != "directed":
                raise RunError("a GEXF file holds an undirected edge; expected directed ones")
            self.into, self.scope = self.edge(given), "edge"
            if "weight" in given:
                self.into["weight"] = _typed(given["weight"], "double", "weight")
        elif tag == "attvalue" and self.into is not None:
            self.put(self.into, f"{self.scope} {given['for']}", given["value"])
        elif tag in ("description", "default"):
            self.text = []

    def end(self, tag: str) -> None:
        if tag == "description" and self.text is not None:
            self.found.graph["description"] = "".join(self.text)
        elif tag == "default" and self.text is not None and self.current in self.keys:
            self.keys[self.current].default = "".join(self.text)
        if tag in ("description", "default"):
            self.text = None


def read_graphml(data: bytes) -> Found:
    """Raises RunError for what is no directed GraphML graph, too large, or holds a DTD."""
    return _GraphmlReader().read(data)


def read_gexf(data: bytes) -> Found:
    """Raises RunError for what is no directed GEXF graph, too large, or holds a DTD."""
    return _GexfReader().read(data)
