"""A circuit survives every format; what is no circuit is refused by name, whatever the file says."""

from __future__ import annotations

import io
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx as nx
import pandas as pd
import pytest
from drawn import circuits, heads, mlps, numbers, plain, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuits.circuit import formats, mib
from circuits.circuit.graph import FORMAT, Circuit, Edge, Measured, Node, Weighed
from circuits.errors import CircuitsError, ComponentError, RunError
from circuits.model.planted import planted
from circuits.model.sites import parse
from circuits.prompts.emotions import Emotion
from circuits.runs.sides import read_circuit

NAN = math.nan
# Type checks at run time pick items at random, also while a circuit is drawn; what is drawn does not depend on them.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ALL = {
    "node-link": (formats.to_node_link, formats.from_node_link),
    "graphml": (formats.to_graphml, formats.from_graphml),
    "gexf": (formats.to_gexf, formats.from_gexf),
}


def example() -> Circuit:
    nodes = (
        Node(
            parse("L0H1"),
            0.5,
            0.25,
            0.75,
            0.01,
            True,
            0.125,
            {Emotion.SADNESS: Measured(0.1, NAN, NAN, NAN, False, 0.0)},
        ),
        Node(parse("L1N2"), -0.5, NAN, NAN, NAN, False, 0.0),
        Node(parse("L2H0"), 0.1, 0.0, 0.2, 0.04, True, 0.0),
        Node(parse("L2.mlp"), 0.2, 0.1, 0.3, 0.03, True, 0.1),
    )
    edges = (
        Edge("L1N2", "fear", -0.5, -1.0, 0.0, "direct"),
        Edge("embed", "L0H1", 0.25, NAN, NAN, "gradient"),
        Edge("L0H1", "L2H0", 0.2, 0.1, 0.3, "gradient", "q"),
        Edge("L0H1", "L2H0", 0.125, 0.1, 0.2, "exact", "v"),
    )
    return Circuit(Emotion.FEAR, nodes, edges, {"n": 6, "why": "a\x00b\r\n<&>]]>", "x": {"y": [None, 0.1]}})


# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@QUICK
@given(circuit=circuits())
def test_every_circuit_survives_a_file(kind: str, circuit: Circuit) -> None:
    write, read = ALL[kind]
    assert same(read(write(circuit)), circuit)
    assert same(read(write(circuit).encode("utf-8")), circuit)


@QUICK
@given(circuits())
def test_every_circuit_survives_networkx_and_tables(circuit: Circuit) -> None:
    assert same(Circuit.from_networkx(circuit.to_networkx()), circuit)
    nodes, edges = formats.to_tables(circuit)
    assert len(nodes) == len(circuit.nodes) + 1 + len(circuit.emotions)
    assert same(formats.from_tables(nodes, edges, circuit.judgement), circuit)
    texts = [io.StringIO(table.to_csv(index=False)) for table in (nodes, edges)]
    read = [pd.read_csv(text) for text in texts]
    assert same(formats.from_tables(read[0], read[1]), circuit, judgement=False)


@QUICK
@given(plain(of=heads | mlps))
def test_a_circuit_of_heads_and_half_layers_survives_mib(circuit: Circuit) -> None:
    assert same(mib.from_mib(mib.to_mib(circuit)), circuit)
    assert same(mib.from_mib(mib.to_mib(circuit), str(circuit.emotion)), circuit)


@pytest.mark.parametrize("kind", [*ALL, "mib"])
def test_an_empty_circuit_survives(kind: str) -> None:
    write, read = {**ALL, "mib": (mib.to_mib, mib.from_mib)}[kind]
    circuit = Circuit(Emotion.ANGER, (), (), {"undefined": "nothing", "reached": False})
    assert read(write(circuit)) == circuit
    assert formats.from_tables(*formats.to_tables(circuit), circuit.judgement) == circuit


def test_edges_come_back_strongest_first() -> None:
    read = formats.from_graphml(formats.to_graphml(example()))
    assert [abs(e.weight) for e in read.edges] == [0.5, 0.25, 0.2, 0.125]
    assert repr(read) == repr(example())


# -- other programs ----------------------------------------------------------------------------------------------------


def without_missing(attributes: dict[str, Any], *drop: str) -> dict[str, Any]:
    return {k: v for k, v in attributes.items() if v == v and k not in drop}


@pytest.mark.parametrize(("write", "read", "extra"), [
    (formats.to_graphml, nx.read_graphml, ("label",)), (formats.to_gexf, nx.read_gexf, ("label", "id")),
])  # fmt: skip
def test_networkx_reads_the_same_typed_attributes(
    write: Callable[[Circuit], str], read: Callable[..., nx.DiGraph], extra: tuple[str, ...]
) -> None:
    graph, found = example().to_networkx(), read(io.BytesIO(write(example()).encode()))
    assert type(found) is nx.DiGraph
    assert set(found.nodes) == set(graph.nodes)
    for name in graph:
        assert without_missing(found.nodes[name], *extra) == without_missing(graph.nodes[name])
    assert set(found.edges) == set(graph.edges)
    for edge in graph.edges:
        assert without_missing(found.edges[edge], *extra) == without_missing(graph.edges[edge])


@pytest.mark.parametrize(("write", "read"), [
    (nx.write_graphml, formats.from_graphml), (nx.write_gexf, formats.from_gexf),
])  # fmt: skip
def test_what_networkx_writes_is_read(write: Callable[..., None], read: Callable[[bytes], Circuit]) -> None:
    circuit = example()
    buffer = io.BytesIO()
    graph = circuit.to_networkx()
    del graph.graph["why"]  # networkx would write a byte XML cannot hold
    write(graph, buffer)
    # GEXF has no place for the judgement but a description, which networkx does not write.
    assert same(read(buffer.getvalue()), circuit, judgement=read is formats.from_graphml)


def test_node_link_json_is_networkx_s_own() -> None:
    data = json.loads(formats.to_node_link(example()))
    assert set(nx.node_link_graph(data, edges="edges").edges) == set(example().to_networkx().edges)
    assert data["format"] == FORMAT


def test_programs_that_number_nodes_anew_are_understood() -> None:
    text = formats.to_graphml(example())
    for number, name in enumerate(["embed", "L0H1", "L1N2", "L2H0", "L2.mlp", "fear"]):
        text = re.sub(f'(id|source|target)="{re.escape(name)}"', rf'\1="n{number}"', text)
    assert 'id="n1"' in text
    assert same(formats.from_graphml(text), example())


def test_graphml_keeps_the_rules_of_its_schema() -> None:
    ns = "{http://graphml.graphdrawing.org/xmlns}"
    root = ElementTree.fromstring(formats.to_graphml(example()).encode())
    assert root.tag == f"{ns}graphml"
    tags = [child.tag.removeprefix(ns) for child in root]
    assert tags == ["key"] * (len(tags) - 1) + ["graph"]
    keys = {key.get("id"): key for key in root.findall(f"{ns}key")}
    assert len(keys) == len(tags) - 1
    for key in keys.values():
        assert set(key.attrib) == {"id", "for", "attr.name", "attr.type"}
        assert key.get("for") in {"graph", "node", "edge"}
        assert key.get("attr.type") in {"boolean", "int", "long", "float", "double", "string"}
    named = [(key.get("for"), key.get("attr.name")) for key in keys.values()]
    assert len(set(named)) == len(named)
    graph = root[-1]
    assert graph.attrib == {"edgedefault": "directed"}
    ids = [node.get("id", "") for node in graph.findall(f"{ns}node")]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9._:-]+", name) for name in ids)  # xs:NMTOKEN
    for child in graph:
        scope = child.tag.removeprefix(ns)
        assert scope in {"node", "edge", "data"}
        if scope == "edge":
            assert {child.get("source"), child.get("target")} <= set(ids)
        for item in [child] if scope == "data" else child:
            assert item.tag == f"{ns}data"
            assert keys[item.get("key")].get("for") == ("graph" if scope == "data" else scope)
        seen = [item.get("key") for item in child]
        assert len(set(seen)) == len(seen)


# -- MIB ---------------------------------------------------------------------------------------------------------------

MIB = {
    "cfg": {"n_layers": 4, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8},
    "nodes": {"input": {"in_graph": True}, "a0.h0": {"in_graph": True, "score": 0.5}, "m2": {"in_graph": True},
              "a3.h1": {"in_graph": True}, "a1.h0": {"in_graph": False, "score": 0.1}, "logits": {"in_graph": True}},
    "edges": {"input->a0.h0<v>": {"score": 0.1, "in_graph": True}, "a0.h0->m2": {"score": -0.2, "in_graph": True},
              "a0.h0->a3.h1<q>": {"score": 0.3, "in_graph": True}, "a0.h0->a3.h1<k>": {"score": 0.0, "in_graph": True},
              "m2->logits": {"score": 1e-9, "in_graph": True}, "a0.h0->logits": {"score": 9.0, "in_graph": False}},
}  # fmt: skip


def test_a_mib_circuit_is_read_and_written_back() -> None:
    circuit = mib.from_mib(json.dumps(MIB), "fear")
    assert circuit.names == {"L0H0", "L2.mlp", "L3H1"}
    assert {(*e.key, e.weight, e.kind) for e in circuit.edges} == {
        ("embed", "L0H0", "v", 0.1, "foreign"), ("L0H0", "L2.mlp", "", -0.2, "foreign"),
        ("L0H0", "L3H1", "q", 0.3, "foreign"), ("L0H0", "L3H1", "k", 0.0, "foreign"),
        ("L2.mlp", "fear", "", 1e-9, "foreign"),
    }  # fmt: skip
    written = json.loads(mib.to_mib(circuit))
    assert written["cfg"] == MIB["cfg"]
    for part in ("nodes", "edges"):
        assert written[part] == {k: v for k, v in MIB[part].items() if v["in_graph"]}
    assert same(Circuit.from_networkx(circuit.to_networkx()), circuit)


MIB_NAMES = st.sampled_from(["input", "a0.h0", "a0.h1", "m0", "a1.h0", "m1", "a2.h1", "m2", "logits"])


@QUICK
@given(
    scored=st.dictionaries(
        st.sampled_from(["a0.h0", "a0.h1", "m0", "a1.h0", "m1", "a2.h1", "m2"]), numbers | st.none()
    ),
    drawn=st.dictionaries(st.tuples(MIB_NAMES, MIB_NAMES, st.sampled_from("qkv")), numbers, max_size=12),
)
def test_everything_mib_says_of_a_circuit_survives(
    scored: dict[str, float | None], drawn: dict[tuple[str, str, str], float]
) -> None:
    order = {name: i for i, names in enumerate(["input", "a0.h0 a0.h1", "m0", "a1.h0", "m1", "a2.h1", "m2", "logits"])
             for name in names.split()}  # fmt: skip
    there = {"input", "logits", *scored}
    edges = {
        f"{s}->{t}" + (f"<{way}>" if t[0] == "a" else ""): {"score": score, "in_graph": True}
        for (s, t, way), score in drawn.items()
        if {s, t} <= there and order[s] < order[t]
    }
    nodes = {k: {"in_graph": True} | ({} if v is None else {"score": v}) for k, v in scored.items()}
    nodes = {
        "input": {"in_graph": any(name.startswith("input") for name in edges)},
        **nodes,
        "logits": {"in_graph": True},
    }
    written = json.loads(
        mib.to_mib(mib.from_mib(json.dumps({"cfg": MIB["cfg"], "nodes": nodes, "edges": edges}), "anger"))
    )
    assert (written["nodes"], written["edges"], written["cfg"]) == (nodes, edges, MIB["cfg"])


def test_neurons_stand_together_in_mib_and_are_counted() -> None:
    nodes = tuple(Node(parse(name), 1.0, NAN, NAN, NAN, True, 0.0) for name in ("L0H0", "L1N3", "L1N5"))
    edges = (
        Edge("L0H0", "L1N3", 0.5, NAN, NAN, "gradient"),
        Edge("L0H0", "L1N5", 0.25, NAN, NAN, "gradient"),
        Edge("embed", "L0H0", 0.75, NAN, NAN, "gradient"),
    )
    circuit = Circuit(Emotion.FEAR, nodes, edges)
    written = json.loads(mib.to_mib(circuit, MIB["cfg"]))
    assert written["nodes"]["m1"] == {"in_graph": True}
    assert written["edges"]["a0.h0->m1"]["score"] == 0.75
    assert [written["edges"][f"input->a0.h0<{way}>"]["score"] for way in "qkv"] == [0.25] * 3
    assert written[mib.METADATA]["neurons"] == {"m1": 2}
    assert same(mib.from_mib(json.dumps(written)), circuit)
    # Another tool's change counts: what remains is what MIB can say.
    written["edges"]["a0.h0->m1"]["in_graph"] = False
    changed = mib.from_mib(json.dumps(written))
    assert changed.names == {"L0H0", "L1.mlp"}
    assert len(changed.edges) == 3


def test_mib_cannot_hold_whole_attention_or_several_emotions() -> None:
    whole = Circuit(Emotion.FEAR, (Node(parse("L0.attn"), 1.0, NAN, NAN, NAN, True, 0.0),), ())
    with pytest.raises(RunError, match=r"MIB has no node for L0\.attn, .*; expected single heads"):
        mib.to_mib(whole)
    merged = Circuit(Emotion.ANGER, (), (), {}, (Emotion.FEAR,))
    with pytest.raises(RunError, match="MIB has one read-out; this circuit has anger, fear: restrict it"):
        mib.to_mib(merged)


BAD_MIB: list[tuple[Callable[[Any], object], str]] = [
    (lambda d: d.pop("edges"), "not a MIB circuit; expected an object with cfg, nodes and edges"),
    (
        lambda d: d["nodes"].update({"blocks.0.mlp": True}),
        "'blocks.0.mlp' has no name of MIB's; expected input, logits, m5",
    ),
    (lambda d: d["nodes"].update({"m9": True}), "'m9' does not fit this file's model; expected layers below 4"),
    (lambda d: d["nodes"].update({"a0.h7": True}), "'a0.h7' does not fit"),
    (lambda d: d["nodes"].update({"m02": True}), "'m02' does not fit .* no leading zeros"),
    (lambda d: d["nodes"].update({"m2": {"in_graph": 1}}), "in_graph of 'm2' is 1; expected true or false"),
    (lambda d: d["nodes"]["m2"].update(neurons=[True, False]), "'m2' is kept in part, which a circuit cannot say"),
    (lambda d: d["edges"].update({"a0.h0=>m2": {"score": 1.0, "in_graph": True}}), "expected a name such as a0.h0->m2"),
    (
        lambda d: d["edges"].update({"m1->m2": {"score": 1.0, "in_graph": True}}),
        "expected both its ends in the circuit",
    ),
    (
        lambda d: d["edges"].update({"m2->a3.h1": {"score": 1.0, "in_graph": True}}),
        "must name an input <q>, <k> or <v>",
    ),
    (lambda d: d["edges"].update({"a3.h1->m2": {"score": 1.0, "in_graph": True}}), "runs backwards .* as in a cycle"),
    (lambda d: d["edges"]["a0.h0->m2"].update(score=None), "has no weight; expected a number"),
    (lambda d: d["edges"]["a0.h0->m2"].pop("score"), "malformed: KeyError 'score'"),
]


@pytest.mark.parametrize(("edit", "message"), BAD_MIB)
def test_a_foreign_mib_file_is_refused(edit: Callable[[Any], object], message: str) -> None:
    data = json.loads(json.dumps(MIB))
    edit(data)
    with pytest.raises(RunError, match=message):
        mib.from_mib(json.dumps(data), "fear")


def test_a_mib_file_needs_an_emotion() -> None:
    with pytest.raises(RunError, match="does not say which emotion it is for; give one"):
        mib.from_mib(json.dumps(MIB))
    with pytest.raises(RunError, match="unknown emotion 'joy'"):
        mib.from_mib(json.dumps(MIB), "joy")
    with pytest.raises(RunError, match="the circuit of anger, not of 'fear'; leave the emotion out"):
        mib.from_mib(mib.to_mib(Circuit(Emotion.ANGER, (), ())), "fear")


# -- what is refused ---------------------------------------------------------------------------------------------------


def node(name: str, **change: Any) -> dict[str, Any]:
    c = parse(name)
    item = {"id": name, "role": "component", "kind": str(c.kind), "layer": c.layer, "half": str(c.half), "index": c.index,
            "effect": 1.0, "low": None, "high": None, "q": None, "direct": 0.0, "verified": True}  # fmt: skip
    return item | change


def edge(source: str, target: str, **change: Any) -> dict[str, Any]:
    return {"source": source, "target": target, "weight": 1.0, "low": None, "high": None, "kind": "gradient"} | change


def graph(nodes: list[dict[str, Any]], edges: list[dict[str, Any]]) -> str:
    return json.dumps({"format": FORMAT, "graph": {"emotion": "fear"}, "nodes": nodes, "edges": edges, "judgement": {}})


A, B = node("L0H1"), node("L1N2")
REFUSED: list[tuple[list[dict[str, Any]], list[dict[str, Any]], str]] = [
    ([A, B], [edge("L0H1", "L1N2"), edge("L1N2", "L0H1")], "L1N2 -> L0H1 runs backwards or within a half-layer, as in a cycle"),
    ([A], [edge("L0H1", "L0H1")], "as in a cycle; expected it to lead from an earlier half-layer to a later one"),
    ([A], [edge("fear", "L0H1")], "as in a cycle"),
    ([A], [edge("embed", "L0H1"), edge("embed", "L0H1")], "embed -> L0H1 is listed twice; expected each edge once"),
    ([A], [edge("embed", "L0H1", kind="magic")], "unknown kind 'magic'; expected one of direct, gradient"),
    ([A], [edge("embed", "L0H1", weight=None)], "embed -> L0H1 has no weight; expected a number"),
    ([A], [edge("embed", "L0H1", low="x")], "low is 'x'; expected a number"),
    ([A, B], [edge("L0H1", "L1N2", input="q")], "enters input 'q'; only heads have inputs"),
    ([A], [edge("embed", "L0H1", input="z")], "unknown input 'z'; expected q, k, v or none"),
    ([A], [edge("embed", "L0H1", inputs="q q")], "the inputs 'q q'; expected several of all, q, k, v, each once"),
    ([node("L0H1", kind="neuron")], [], "L0H1 has the kind 'neuron'; expected 'head'"),
    ([node("L0H1", layer=3)], [], "L0H1 has the layer 3; expected 0"),
    ([node("L0H1", role="hub")], [], "unknown role 'hub'; expected component, readout, or source for 'embed'"),
    ([node("L0H1", id="L00H1")], [], "'L00H1' is misspelt; expected 'L0H1'"),
    ([node("L0H1", id="<script>")], [], "unknown component '<script>'; expected a name such as"),
    ([node("L0H1", verified=1)], [], "verified of L0H1 is 1; expected true or false"),
    ([node("L0H1", emotions="sadness")], [], "L0H1 belongs to 'sadness'; expected some of fear"),
    ([A, {"id": "sadness", "role": "readout"}], [], "L0H1 does not say which of fear, sadness it belongs to"),
    ([{"id": "anger", "role": "readout"}], [], "calls itself fear; expected the first of its emotions .*, anger"),
    ([{"id": "embed", "role": "source"}] * 2, [], "lists a node twice; expected 'embed' and each read-out once"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "edges", "message"), REFUSED)
def test_a_graph_that_is_no_circuit_is_refused(
    nodes: list[dict[str, Any]], edges: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        formats.from_node_link(graph(nodes, edges))


@pytest.mark.parametrize(("text", "message"), [
    (graph([A], [edge("embed", "L0H1")]).replace('"weight": 1.0', '"weight": 1e999'), "weight is infinite"),
    (graph([A], [edge("embed", "L0H1")]).replace('"weight": 1.0', '"weight": NaN'), "NaN is not a JSON number"),
    ('{"a":' * 10**6 + "1" + "}" * 10**6, "nested too deeply"),
    ('{"nodes": 1, "nodes": 2}', "the key 'nodes' occurs twice"),
    ("[]", "not a circuit of this package"), ("", "not readable JSON"), ("\ud800", "not readable JSON"),
])  # fmt: skip
def test_a_text_that_is_no_circuit_is_refused(text: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        formats.from_node_link(text)


def laughs(kind: str) -> str:
    declared = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "ha"}">' for i in range(9))
    return f'<?xml version="1.0"?><!DOCTYPE {kind} [{declared}]><{kind}>&e8;</{kind}>'


@pytest.mark.parametrize("kind", ["graphml", "gexf"])
@pytest.mark.parametrize(("text", "message"), [
    (laughs, r"holds a document type \(DOCTYPE\); expected none"),
    (lambda k: f'<!DOCTYPE {k} SYSTEM "file:///etc/passwd"><{k}/>', r"a document type \(DOCTYPE\)"),
    (lambda k: f"<{k}>&lol;</{k}>", "undefined entity"),
    (lambda k: "<a>" * 10**5, "nested deeper than 50 elements"),
    (lambda k: f"<{k}><graph><node/></graph></{k}>", "not one directed graph|not a directed graph"),
    (lambda k: f'<{k}><graph edgedefault="directed" defaultedgetype="directed"><node/></graph></{k}>', "lacks 'id'"),
    (lambda k: f'<?xml version="1.0" encoding="klingon"?><{k}/>', "not readable XML"),
    (lambda k: "", "not readable XML"),
    (lambda k: f"<{k}/>", "malformed: KeyError 'emotion'"),
])  # fmt: skip
def test_xml_that_is_no_plain_graph_is_refused(kind: str, text: Callable[[str], str], message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(RunError, match=message):
        ALL[kind][1](text(kind))
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(("old", "new", "message"), [
    ("</graph>", '<edge source="embed" target="L0H1"/></graph>', "malformed: KeyError 'kind'"),
    ("</graph>", '<node id="L0H1"/></graph>', "the node 'L0H1' is listed twice"),
    ("</graph>", "<hyperedge/></graph>", "holds a hyperedge inside graph"),
    ('edgedefault="directed"', 'edgedefault="undirected"', "is not one directed graph"),
    ('<edge source="embed"', '<edge directed="false" source="embed"', "holds an undirected edge"),
    (">0.25</data>", ">INF</data>", "is infinite; expected a number"),
    (">0.25</data>", ">much</data>", "is 'much'; expected a double"),
    (">gradient</data>", ">magic</data>", "unknown kind 'magic'"),
])  # fmt: skip
def test_a_spoilt_graphml_file_is_refused(old: str, new: str, message: str) -> None:
    text = formats.to_graphml(example())
    assert old in text
    with pytest.raises(RunError, match=message):
        formats.from_graphml(text.replace(old, new))


def test_a_million_nodes_are_refused_before_anything_is_built() -> None:
    many = 10**6
    xml = "".join(f'<node id="L0N{i}"/>' for i in range(many))
    files: list[tuple[Callable[[str], Circuit], str]] = [
        (formats.from_node_link,
         f'{{"format":"{FORMAT}","graph":{{}},"judgement":{{}},"edges":[],"nodes":[{"{}," * many}{{}}]}}'),
        (formats.from_node_link, "[" + "{}," * 4 * many + "{}]"),
        (lambda text: mib.from_mib(text, "fear"),
         f'{{"cfg":{{}},"edges":{{}},"nodes":{{{",".join(f"{chr(34)}m{i}{chr(34)}:true" for i in range(many))}}}}}'),
        (formats.from_graphml, f'<graphml><graph edgedefault="directed">{xml}</graph></graphml>'),
        (formats.from_gexf, f'<gexf><graph defaultedgetype="directed"><nodes>{xml}</nodes></graph></gexf>'),
    ]  # fmt: skip
    for read, text in files:
        start = time.perf_counter()
        with pytest.raises(RunError, match=r"a graph (file holds|has) [\d,]+ (objects|nodes); expected at most"):
            read(text)
        # Under a second; type checks at run time and busy machines make it many.
        assert time.perf_counter() - start < 60
    big = nx.empty_graph(100_001, create_using=nx.DiGraph)
    with pytest.raises(RunError, match="a graph has 100,001 nodes; expected at most 100,000"):
        Circuit.from_networkx(big)


def test_a_file_too_large_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LARGEST", 10)
    for _, read in ALL.values():
        with pytest.raises(RunError, match="a graph file has 11 bytes; expected at most 10"):
            read("x" * 11)


@pytest.mark.parametrize("graph", [nx.Graph(), nx.MultiDiGraph()])
def test_only_directed_graphs_without_parallel_edges_are_circuits(graph: nx.Graph) -> None:
    with pytest.raises(RunError, match=r"is no circuit; expected a networkx\.DiGraph"):
        Circuit.from_networkx(graph)


def test_a_table_without_its_columns_is_refused() -> None:
    nodes, edges = formats.to_tables(example())
    with pytest.raises(RunError, match="lacks the column 'role'; it has node"):
        formats.from_tables(nodes.drop(columns="role"), edges)
    with pytest.raises(RunError, match="has no weight"):
        formats.from_tables(
            nodes, edges.assign(weight=NAN).drop(columns=["inputs", *[c for c in edges if c[-2:] in ("_q", "_v")]])
        )


def test_a_circuit_names_what_a_model_lacks() -> None:
    model = planted("chain").model
    Circuit(Emotion.FEAR, (Node(parse("L0H0"), 1.0, NAN, NAN, NAN, True, 0.0),), ()).require_in(model)
    with pytest.raises(ComponentError, match="has no component L99H0; expected layers 0-"):
        Circuit(Emotion.FEAR, (Node(parse("L99H0"), 1.0, NAN, NAN, NAN, True, 0.0),), ()).require_in(model)


def test_merged_numbers_are_kept_by_emotion() -> None:
    merged = Circuit(
        Emotion.ANGER,
        (Node(parse("L0H1"), 1.0, 0.5, 1.5, 0.1, True, 0.0, {Emotion.FEAR: Measured(2.0, NAN, NAN, NAN, False, NAN)},
              (Emotion.ANGER, Emotion.FEAR)),),
        (Edge("embed", "L0H1", 1.0, NAN, NAN, "gradient", "k", {Emotion.FEAR: Weighed(-1.0, -2.0, 0.0, "exact")},
              (Emotion.ANGER, Emotion.FEAR)), Edge("embed", "fear", 0.5, NAN, NAN, "direct", "", {}, (Emotion.FEAR,))),
        {}, (Emotion.FEAR,),
    )  # fmt: skip
    attributes = merged.to_networkx().nodes["L0H1"]
    assert (attributes["effect"], attributes["effect_fear"], attributes["verified_fear"]) == (1.0, 2.0, False)
    assert merged.to_networkx().edges["embed", "L0H1"]["weight_fear"] == -1.0
    for write, read in ALL.values():
        assert same(read(write(merged)), merged)


# -- damage ------------------------------------------------------------------------------------------------------------

WHOLE = {kind: (write(example()).encode(), read) for kind, (write, read) in ALL.items()} | {
    "mib": (mib.to_mib(mib.from_mib(json.dumps(MIB), "fear")).encode(), mib.from_mib),
    "foreign": (json.dumps(MIB).encode(), lambda data: mib.from_mib(data, "fear")),
}
PATCHES = st.binary(max_size=4) | st.sampled_from(
    [b"-", b"9", b"<!DOCTYPE a>", b"&amp;", b"null", b"true", b'"', b"1e999", b"NaN", b"L1N2", b"fear", b"<edge/>", b"\xff\xfe",
     b"{}"]
)  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 6), PATCHES), min_size=1, max_size=3))
def test_a_damaged_file_is_a_circuit_or_a_named_error(kind: str, edits: list[tuple[float, int, bytes]]) -> None:
    whole, read = WHOLE[kind]
    data = bytearray(whole)
    for place, cut, patch in edits:
        start = int(place * len(data))
        data[start : start + cut] = patch
    try:
        circuit = read(bytes(data))
    except RunError as error:
        named = error
    else:
        named = None
    if named is not None:
        assert str(named)
        return
    assert same(formats.from_node_link(formats.to_node_link(circuit)), circuit)


def test_a_circuit_is_read_by_the_end_of_its_name(tmp_path: Path) -> None:
    for suffix, (write, _) in {".json": ALL["node-link"], ".graphml": ALL["graphml"], ".gexf": ALL["gexf"]}.items():
        (tmp_path / f"x{suffix}").write_text(write(example()))
        assert same(read_circuit(tmp_path / f"x{suffix}"), example())
    with pytest.raises(CircuitsError, match=r"ends in '\.xml'; expected one of \.json, \.graphml, \.gexf"):
        read_circuit("x.xml")
    with pytest.raises(CircuitsError, match="cannot be read: No such file"):
        read_circuit(tmp_path / "no.json")
