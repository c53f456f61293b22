"""A circuit as a graph that rises through the half-layers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from circuits.circuit.graph import EMBED, Circuit, Node
from circuits.prompts.emotions import Emotion
from circuits.show.style import EMOTION_COLOURS, INK, OPPOSES, SMALL, SUPPORTS, styled

__all__ = ["circuit_graph"]

_MAX_NODES = 40
_RANKS = (6, 18, 30, math.inf)
"""Nodes of one row that stand in one, two, three, four ranks."""
_LIFT = 0.22


def circuit_graph(circuit: Circuit, n_layers: int, *, most: int = _MAX_NODES) -> go.Figure:
    """The circuit rising through the half-layers: embedding below, read-out above, a row for each half-layer.

    Shows the ``most`` strongest nodes and the edges among them; the title says how many were left out.
    """
    nodes = sorted(circuit.nodes, key=lambda n: -abs(n.effect))[:most]
    rows = [EMBED, *(f"L{layer} {half}" for layer in range(n_layers) for half in ("attn", "mlp")), str(circuit.emotion)]
    place = _places(nodes, rows, circuit.emotion)
    figure = go.Figure()
    shown = [e for e in circuit.edges if e.source in place and e.target in place]
    heaviest = max((abs(e.weight) for e in shown), default=1.0)
    # plotly has one width per trace: edges are drawn in a few classes of weight and sign.
    for sign, colour in ((1, SUPPORTS), (-1, OPPOSES)):
        for low, high, width, strength in ((0.5, 1.01, 3.0, 0.75), (0.2, 0.5, 1.6, 0.55), (0.0, 0.2, 0.8, 0.35)):
            lines = [e for e in shown if np.sign(e.weight) == sign and low <= abs(e.weight) / heaviest < high]
            if lines:
                x = [v for e in lines for v in (place[e.source][0], place[e.target][0], None)]
                y = [v for e in lines for v in (place[e.source][1], place[e.target][1], None)]
                line = {"width": width, "color": colour}
                figure.add_scatter(
                    x=x, y=y, mode="lines", line=line, opacity=strength, hoverinfo="skip", showlegend=False
                )
    _draw_nodes(figure, nodes, place)
    ends = [EMBED, str(circuit.emotion)]
    figure.add_scatter(
        x=[place[n][0] for n in ends], y=[place[n][1] for n in ends], mode="markers+text", text=ends,
        textposition=["bottom center", "top center"], showlegend=False, hoverinfo="text",
        marker={"size": 16, "symbol": "square", "color": [INK, EMOTION_COLOURS[circuit.emotion]]},
    )  # fmt: skip
    labels = ["tokens", *rows[1:-1], "read-out"]
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=labels, showgrid=True, zeroline=False, range=[-0.6, len(rows) - 0.3]
    )
    figure.update_xaxes(visible=False, range=[-1.15, 1.15])
    left = len(circuit.nodes) - len(nodes)
    title = f"{circuit.emotion}: {len(circuit.nodes)} components" + (
        f", the {len(nodes)} strongest shown" if left else ""
    )
    figure.update_layout(legend={"orientation": "h", "y": -0.04})
    return styled(figure, title, height=max(420, 62 * len(rows)))


def _places(nodes: list[Node], rows: list[str], e: Emotion) -> dict[str, tuple[float, float]]:
    """Nodes of a row spread over the width, strongest in the middle, wide rows in ranks so that labels keep apart."""
    place = {EMBED: (0.0, 0.0), str(e): (0.0, float(len(rows) - 1))}
    by_row: dict[str, list[Node]] = {}
    for node in nodes:
        by_row.setdefault(f"L{node.component.layer} {node.component.half}", []).append(node)
    for row, members in by_row.items():
        # Alternate outwards from the middle, so that the eye finds the strongest at once.
        order = members[1::2][::-1] + members[::2]
        x = np.linspace(-1, 1, len(order) + 2)[1:-1]
        ranks = next(count for count, most in enumerate(_RANKS, 1) if len(order) <= most)
        lifts = np.linspace(-_LIFT, _LIFT, ranks) if ranks > 1 else [0.0]
        for number, (node, across) in enumerate(zip(order, x, strict=True)):
            place[node.name] = (float(across), rows.index(row) + float(lifts[number % ranks]))
    return place


def _draw_nodes(figure: go.Figure, nodes: list[Node], place: Mapping[str, tuple[float, float]]) -> None:
    strongest = max((abs(n.effect) for n in nodes), default=1.0)
    for kind, symbol in (("head", "circle"), ("neuron", "diamond")):
        for verified in (True, False):
            members = [n for n in nodes if n.component.kind == kind and n.verified is verified]
            if not members:
                continue
            colours = [SUPPORTS if n.effect >= 0 else OPPOSES for n in members]
            figure.add_scatter(
                x=[place[n.name][0] for n in members],
                y=[place[n.name][1] for n in members],
                mode="markers+text",
                name=f"{kind}s, {'exact' if verified else 'estimated'}",
                text=[n.name for n in members],
                textposition="top center",
                textfont={"size": SMALL},
                hovertext=[_hover(n) for n in members],
                hoverinfo="text",
                marker={
                    "symbol": symbol if verified else f"{symbol}-open",
                    "size": [9 + 16 * abs(n.effect) / strongest for n in members],
                    "color": colours,
                    "opacity": 1,
                    "line": {"width": 1.5, "color": "white" if verified else SUPPORTS},
                },
            )


def _hover(node: Node) -> str:
    how = "exact" if node.verified else "first-order estimate"
    return (
        f"<b>{node.name}</b> ({how})<br>total effect {node.effect:+.3f} [{node.low:+.3f}, {node.high:+.3f}] logits"
        f"<br>direct effect {node.direct:+.3f} logits<br>q = {node.q:.3g}"
    )
