"""Circuits in the JSON of MIB's circuit track (Mueller et al. 2025) and of EAP-IG (Hanna et al. 2024), and back.

Its nodes are ``input``, heads ``a5.h3``, whole MLPs ``m5`` and ``logits``; its edges ``a0.h0->m2`` and, into one of a head's
three inputs, ``a0.h0->a3.h1<q>``; each with a score and whether it is in the circuit. What it cannot say, and what we write:

* neurons: a layer's neurons become its ``m5``, their edges' scores added (first-order scores add up), without a score of its
  own (effects of single ablations do not); ``neurons`` in the metadata counts them;
* an edge into a head as a whole becomes three, a third of its score each: their sum is known, their parts are not;
* intervals, kinds of edges, effects by emotion, the judgement: in the metadata, under a key that other tools ignore, lies the
  circuit itself. As long as the rest of the file agrees with it, reading gives that circuit back. Where another tool has
  changed the file, the file counts: heads, whole MLPs and scores, edges of the kind ``foreign``.

What is not in the circuit is dropped on reading, scores included. Masks over residual dimensions (``neurons`` there) are
refused.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from circuits import jsontext
from circuits.circuit import attributes
from circuits.circuit.formats import parsed
from circuits.circuit.graph import EMBED, INPUTS, Circuit
from circuits.errors import RunError
from circuits.model.sites import Component, Half, Kind, head, sublayer

__all__ = ["METADATA", "from_mib", "to_mib"]

METADATA = "emotion-circuits"

_NODE = re.compile(r"m(\d{1,5})|a(\d{1,5})\.h(\d{1,7})")
_EDGE = re.compile(r"([^<>-]{1,30})->([^<>-]{1,30})(?:<([qkv])>)?")


def to_mib(circuit: Circuit, cfg: Mapping[str, Any] | None = None) -> str:
    """The circuit as MIB's JSON; ``cfg`` holds ``n_layers``, ``n_heads``, ``d_model``, ``parallel_attn_mlp`` of the model.

    Without it the ``cfg`` the circuit came with is used, or sizes that just hold it (and no ``d_model``).

    Raises:
        RunError: several read-outs, or a whole attention half-layer: MIB has no names for them.
    """
    value = _graph(circuit, cfg)
    counts = Counter(f"m{c.layer}" for c in circuit.components if c.kind is Kind.NEURON)
    value[METADATA] = {"neurons": dict(counts), "circuit": circuit.to_json()}
    return json.dumps(jsontext.plain(value), indent=1, allow_nan=False) + "\n"


def _graph(circuit: Circuit, cfg: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The part MIB knows."""
    if circuit.readouts:
        raise RunError(
            f"MIB has one read-out; this circuit has {', '.join(circuit.emotions)}: restrict it to one first"
        )
    names = {EMBED: "input", str(circuit.emotion): "logits", **{n.name: _name(n.component) for n in circuit.nodes}}
    inputs = {names[edge.source] for edge in circuit.edges}
    nodes: dict[str, dict[str, Any]] = {"input": {"in_graph": "input" in inputs}}
    whole = {
        n.name: n.effect for n in circuit.nodes if n.component.kind is not Kind.NEURON and not math.isnan(n.effect)
    }
    for name, there in names.items():
        if there not in ("input", "logits"):
            item = nodes.setdefault(there, {"in_graph": True})
            if name in whole:
                item["score"] = whole[name]
    nodes["logits"] = {"in_graph": True}
    scores: dict[str, float] = {}
    for edge in circuit.edges:
        target = names[edge.target]
        entries = (
            [f"<{edge.input}>"] if edge.input else [f"<{way}>" for way in INPUTS[1:]] if target[0] == "a" else [""]
        )
        for entry in entries:
            name = f"{names[edge.source]}->{target}{entry}"
            scores[name] = scores.get(name, 0.0) + edge.weight / len(entries)
    edges = {name: {"score": score, "in_graph": True} for name, score in scores.items()}
    return {"cfg": dict(cfg or _cfg(circuit)), "nodes": nodes, "edges": edges}


def _name(c: Component) -> str:
    if c.kind is Kind.ATTN:
        raise RunError(f"MIB has no node for {c}, a whole attention half-layer; expected single heads")
    return f"a{c.layer}.h{c.index}" if c.kind is Kind.HEAD else f"m{c.layer}"


def _cfg(circuit: Circuit) -> dict[str, Any]:
    came = circuit.judgement.get("mib")
    if isinstance(came, Mapping) and isinstance(came.get("cfg"), Mapping):
        return dict(came["cfg"])
    heads = (c.index for c in circuit.components if c.kind is Kind.HEAD)
    layers = max((c.layer for c in circuit.components), default=0) + 1
    return {"n_layers": layers, "n_heads": max(heads, default=0) + 1, "parallel_attn_mlp": False}


def from_mib(data: bytes | str, emotion: str | None = None) -> Circuit:
    """The circuit in a MIB file; ``emotion`` says for which one it was found, where the file does not.

    Raises:
        RunError: no such file, foreign names, a size ``cfg`` does not allow, no emotion given.
    """
    value = parsed(data)
    try:
        if not isinstance(value, dict) or not {"nodes", "edges"} <= value.keys():
            raise RunError("not a MIB circuit; expected an object with cfg, nodes and edges")
        attributes.require_size(len(value["nodes"]), len(value["edges"]))
        ours = value.get(METADATA)
        if isinstance(ours, dict):
            circuit = Circuit.from_json(ours["circuit"])
            if emotion is not None and emotion != circuit.emotion:
                raise RunError(
                    f"this file holds the circuit of {circuit.emotion}, not of {emotion!r}; leave the emotion out"
                )
            if _kept(value) == _kept(_graph(circuit)):
                return circuit
            emotion = str(circuit.emotion)
        if emotion is None:
            raise RunError("a MIB file does not say which emotion it is for; give one")
        return _foreign(value, emotion)
    except (KeyError, TypeError, AttributeError) as error:
        raise attributes.malformed(error) from None


def _kept(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is in the circuit: node scores and edge scores."""
    nodes = {}
    for name, item in value["nodes"].items():
        # Early files have a truth value alone.
        item = {"in_graph": item} if isinstance(item, bool) else item
        if _flag(item, name) and name != "logits":
            if item.get("neurons") is not None and not all(item["neurons"]):
                raise RunError(
                    f"the node {name[:50]!r} is kept in part, which a circuit cannot say; expected no 'neurons'"
                )
            nodes[name] = item.get("score")
    return nodes, {name: item["score"] for name, item in value["edges"].items() if _flag(item, name)}


def _flag(item: Mapping[str, Any], name: str) -> bool:
    if not isinstance(item["in_graph"], bool):
        raise RunError(f"in_graph of {name[:50]!r} is {item['in_graph']!r}; expected true or false")
    return bool(item["in_graph"])


def _foreign(value: Mapping[str, Any], emotion: str) -> Circuit:
    cfg = value.get("cfg") or {}
    kept, scored = _kept(value)
    names = {"input": EMBED, "logits": emotion}
    nodes: list[tuple[Any, dict[str, Any]]] = [(EMBED, {"role": "source"}), (emotion, {"role": "readout"})]
    for name, score in kept.items():
        if name != "input":
            c = _component(name, cfg)
            names[name] = c.name
            nodes.append((c.name, {"role": "component", "kind": str(c.kind), "effect": score, "verified": False}))
    edges: dict[tuple[str, str], dict[str, Any]] = {}
    for name, score in scored.items():
        match = _EDGE.fullmatch(name)
        if match is None or not {match[1], match[2]} <= names.keys():
            missing = "a name such as a0.h0->m2 or a0.h0->a3.h1<q>" if match is None else "both its ends in the circuit"
            raise RunError(f"the edge {name[:50]!r} is in the circuit; expected {missing}")
        if (match[2][0] == "a") != (match[3] is not None):
            raise RunError(
                f"the edge {name[:50]!r} must name an input <q>, <k> or <v> if it leads into a head, and only then"
            )
        way = f"_{match[3]}" if match[3] else ""
        item = edges.setdefault((names[match[1]], names[match[2]]), {})
        item |= {f"weight{way}": score, f"kind{way}": "foreign"}
        if match[3]:
            item["inputs"] = f"{item.get('inputs', '')} {match[3]}".strip()
    for item in edges.values():
        if len(item.get("inputs", "q k").split()) == 1:
            way = item["input"] = item.pop("inputs")
            item |= {key: item.pop(f"{key}_{way}") for key in ("weight", "kind")}
    links = [(source, target, item) for (source, target), item in edges.items()]
    judgement = {"mib": {"cfg": cfg}} if cfg else {}
    return attributes.circuit({"emotion": emotion, "judgement": judgement}, nodes, links, sparse=True)


def _component(name: str, cfg: Mapping[str, Any]) -> Component:
    match = _NODE.fullmatch(name)
    if match is None:
        raise RunError(f"the node {name[:50]!r} has no name of MIB's; expected input, logits, m5 or a5.h3")
    mlp, layer, index = match.groups()
    c = sublayer(int(mlp), Half.MLP) if mlp is not None else head(int(layer), int(index))
    if _name(c) != name or c.layer >= cfg.get("n_layers", math.inf) or c.index >= cfg.get("n_heads", math.inf):
        raise RunError(
            f"the node {name!r} does not fit this file's model; expected layers below {cfg.get('n_layers')}, heads below "
            f"{cfg.get('n_heads')}, no leading zeros"
        )
    return c
