"""A circuit in other people's formats, and back: node-link JSON, GraphML, GEXF, tables, MIB's circuit JSON.

Pure functions on texts; nothing here touches a disk. All but MIB's format hold everything a circuit has (the two tables do
without its judgement), and reading what was written gives an equal circuit. NaN, a number that does not exist, is ``null`` in
JSON, left out in XML and empty in tables; a NaN inside the judgement becomes ``null`` everywhere.

Whatever is read may come from a stranger: sizes are bounded before anything is built, DTDs refused, every attribute checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from circuits import jsontext
from circuits.circuit import attributes, xmlgraphs
from circuits.circuit.graph import FORMAT, Circuit
from circuits.errors import RunError

__all__ = [
    "LARGEST", "READERS", "from_gexf", "from_graphml", "from_node_link", "from_tables", "parsed", "to_gexf", "to_graphml",
    "to_node_link", "to_tables",
]  # fmt: skip

LARGEST = 128 * 2**20
"""Bytes of the largest file that is read."""
_MOST_VALUES = 4 * (attributes.MOST_NODES + attributes.MOST_EDGES) // 3


def parsed(data: bytes | str) -> Any:
    """The JSON value of a text, refused by its size before it is parsed.

    Raises:
        RunError: too large, no UTF-8, or no strict JSON.
    """
    raw = _sized(data)
    values = raw.count(b"{") + raw.count(b"[")
    if values > _MOST_VALUES or raw.count(b",") > 20 * _MOST_VALUES:
        raise RunError(
            f"a graph file holds {values:,} objects; expected at most {_MOST_VALUES:,}: keep the part that matters"
        )
    try:
        return jsontext.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise RunError(f"not readable JSON: {str(error)[:100]}; export the graph again") from None


def _sized(data: bytes | str) -> bytes:
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(raw) > LARGEST:
        raise RunError(f"a graph file has {len(raw):,} bytes; expected at most {LARGEST:,}: keep the part that matters")
    return raw


# -- the project's own -------------------------------------------------------------------------------------------------


def to_node_link(circuit: Circuit) -> str:
    """Node-link JSON, as in a run directory."""
    return json.dumps(jsontext.plain(circuit.to_json()), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def from_node_link(data: bytes | str) -> Circuit:
    """Raises RunError for anything but what :func:`to_node_link` writes."""
    return Circuit.from_json(parsed(data))


def to_graphml(circuit: Circuit) -> str:
    """GraphML for Gephi, Cytoscape and yEd."""
    return xmlgraphs.graphml_text(circuit.to_networkx())


def from_graphml(data: bytes | str) -> Circuit:
    """A circuit from GraphML, also as ``networkx`` or a graph program wrote it, if it kept the attributes.

    Raises:
        RunError: the first thing wrong.
    """
    return _checked(xmlgraphs.read_graphml(_sized(data)))


def to_gexf(circuit: Circuit) -> str:
    """GEXF for Gephi; emotion and judgement travel in its description, as JSON."""
    about = {"format": FORMAT, "emotion": str(circuit.emotion), "judgement": circuit.judgement}
    return xmlgraphs.gexf_text(circuit.to_networkx(), json.dumps(jsontext.plain(about), allow_nan=False))


def from_gexf(data: bytes | str) -> Circuit:
    """A circuit from GEXF; see :func:`from_graphml`."""
    found = xmlgraphs.read_gexf(_sized(data))
    description = found.graph.pop("description", "")
    if FORMAT in description:
        about = parsed(description)
        if isinstance(about, dict) and about.get("format") == FORMAT:
            found.graph |= {k: about[k] for k in ("emotion", "judgement") if k in about}
    return _checked(found)


def _checked(found: xmlgraphs.Found) -> Circuit:
    return attributes.circuit(found.graph, found.nodes, found.edges, sparse=True)


READERS: Mapping[str, Callable[[bytes | str], Circuit]] = {
    ".json": from_node_link, ".graphml": from_graphml, ".gexf": from_gexf,
}  # fmt: skip
"""By the end of a file's name."""

# -- tables ------------------------------------------------------------------------------------------------------------

_NODES = ("role", "kind", "layer", "half", "index", "effect", "low", "high", "q", "direct", "verified")
_EDGES = ("weight", "low", "high", "kind")
_NULLABLE = {"layer": "Int64", "index": "Int64", "verified": "boolean"}


def to_tables(circuit: Circuit) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables, one row a node (``node``, its attributes) and one row an edge (``source``, ``target``, its attributes).

    The judgement is not in them; give it to :func:`from_tables` again.
    """
    graph = circuit.to_networkx()
    nodes = pd.DataFrame.from_records(
        [{"node": name, **item} for name, item in graph.nodes(data=True)],
        columns=_columns(graph.nodes, ("node", *_NODES)),
    )
    edges = pd.DataFrame.from_records(
        [{"source": s, "target": t, **item} for s, t, item in graph.edges(data=True)],
        columns=_columns(graph.edges, ("source", "target", *_EDGES)),
    )
    types = {
        c: kind for c in nodes.columns for start, kind in _NULLABLE.items() if c == start or c.startswith(f"{start}_")
    }
    return nodes.astype(types), edges


def _columns(items: Any, first: tuple[str, ...]) -> list[str]:
    found = dict.fromkeys(first)
    for *_, item in items(data=True):
        found |= dict.fromkeys(item)
    return list(found)


def from_tables(nodes: pd.DataFrame, edges: pd.DataFrame, judgement: Mapping[str, Any] | None = None) -> Circuit:
    """Inverse of :func:`to_tables`, also after a CSV file.

    Raises:
        RunError: a column is missing, or the first thing wrong.
    """
    for table, wanted in ((nodes, ("node", "role")), (edges, ("source", "target"))):
        for column in wanted:
            if column not in table.columns:
                raise RunError(
                    f"a table of a circuit lacks the column {column!r}; it has {', '.join(map(str, table.columns))}"
                )
    attributes.require_size(len(nodes), len(edges))
    rows = [(row.pop("node", ""), row) for row in _rows(nodes)]
    links = [(row.pop("source", ""), row.pop("target", ""), row) for row in _rows(edges)]
    return attributes.circuit({"judgement": dict(judgement or {})}, rows, links, sparse=True)


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, without what is missing."""
    result = []
    for row in table.to_dict("records"):
        plain = {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        result.append({k: v for k, v in plain.items() if not (v is None or v is pd.NA or v != v)})
    return result
