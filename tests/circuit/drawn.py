"""Random circuits, and when two are the same."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from circuits import jsontext
from circuits.circuit.algebra import union
from circuits.circuit.graph import EDGE_KINDS, EMBED, INPUTS, Circuit, Edge, Measured, Node
from circuits.model.sites import Component, Half, Kind, head, neuron, sublayer
from circuits.prompts.emotions import EMOTIONS, Emotion

numbers = st.floats(-1e6, 1e6)
intervals = numbers | st.just(math.nan)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
keys = st.text(max_size=4) | st.sampled_from(
    ["emotion", "judgement", "unit", "incoming_graph_data", "node_default", "label"]
)
judgements = st.dictionaries(keys, values, max_size=3)
heads = st.builds(head, st.integers(0, 3), st.integers(0, 3))
neurons = st.builds(neuron, st.integers(0, 3), st.integers(0, 9))
mlps = st.builds(sublayer, st.integers(0, 3), st.just(Half.MLP))
attns = st.builds(sublayer, st.integers(0, 3), st.just(Half.ATTN))
emotions = st.sampled_from(EMOTIONS)
components = heads | neurons | mlps | attns


def depth(c: Component) -> int:
    return 2 * c.layer + (c.half is Half.MLP)


@st.composite
def plain(draw: Any, of: Any = components, emotion: Any = emotions, noted: bool = False) -> Circuit:
    """A circuit of one emotion; ``noted``: with effects on others."""
    e: Emotion = draw(emotion)
    chosen = draw(st.lists(of, max_size=6, unique=True))
    nodes = []
    for c in chosen:
        others = (
            draw(st.lists(st.sampled_from([x for x in EMOTIONS if x is not e]), max_size=2, unique=True))
            if noted
            else []
        )
        effects = {
            x: Measured(*(draw(intervals) for _ in range(4)), draw(st.booleans()), draw(intervals))
            for x in sorted(others)
        }
        rest = [draw(intervals) for _ in range(3)]
        nodes.append(Node(c, draw(numbers), *rest, draw(st.booleans()), draw(intervals), effects))
    pairs = [(EMBED, str(e), "")]
    for c in chosen:
        ways = INPUTS if c.kind is Kind.HEAD else ("",)
        pairs += [(c.name, str(e), ""), *((EMBED, c.name, way) for way in ways)]
        pairs += [(b.name, c.name, way) for b in chosen for way in ways if depth(b) < depth(c)]
    edges = [
        Edge(
            *pair[:2], draw(numbers), draw(intervals), draw(intervals), draw(st.sampled_from(list(EDGE_KINDS))), pair[2]
        )
        for pair in draw(st.lists(st.sampled_from(pairs), max_size=8, unique=True))
    ]
    return Circuit(e, tuple(nodes), tuple(edges), draw(judgements))


@st.composite
def circuits(draw: Any) -> Circuit:
    """A circuit of one emotion or several merged."""
    first = draw(plain(noted=True))
    return union(first, draw(plain(noted=True))) if draw(st.booleans()) else first


def same(a: Circuit, b: Circuit, *, judgement: bool = True) -> bool:
    """Equal to the last bit; NaN equals NaN, the order of edges does not count."""
    texts = [repr((c.emotion, c.readouts, c.nodes, sorted(c.edges, key=lambda edge: edge.key))) for c in (a, b)]
    return texts[0] == texts[1] and (not judgement or jsontext.plain(a.judgement) == jsontext.plain(b.judgement))
