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
_RANKS = (6, 14, 24, 34, math.inf)
"""Nodes of one row that stand in one, two, three ... ranks: names of eight letters then keep apart on a page 680 wide."""
_RANK = 0.45
"""Distance of two ranks, as a share of that of two rows."""


def circuit_graph(circuit: Circuit, n_layers: int, *, most: int = _MAX_NODES) -> go.Figure:
    """The circuit rising through the half-layers: embedding below, read-out above, a row for each half-layer.

    Shows the ``most`` strongest nodes and the edges among them; the title says how many were left out.
    """
    nodes = sorted(circuit.nodes, key=lambda n: -abs(n.effect))[:most]
    names = [
        EMBED,
        *(f"L{layer} {half}" for layer in range(n_layers) for half in ("attn", "mlp")),
        str(circuit.emotion),
    ]
    rows = _rows(nodes, names)
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
    top = rows[names[-1]]
    figure.update_yaxes(
        tickvals=list(rows.values()), ticktext=["tokens", *names[1:-1], "read-out"], showgrid=True, zeroline=False,
        range=[-0.6, top + 0.7],
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[-1.15, 1.15])
    left = len(circuit.nodes) - len(nodes)
    title = f"{circuit.emotion}: {len(circuit.nodes)} components" + (
        f", the {len(nodes)} strongest shown" if left else ""
    )
    figure.update_layout(legend={"orientation": "h", "y": -0.04})
    return styled(figure, title, height=max(420, 62 * round(top + 1)))


def _by_row(nodes: list[Node]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in nodes:
        found.setdefault(f"L{node.component.layer} {node.component.half}", []).append(node)
    return found


def _ranks(members: list[Node]) -> int:
    return next(count for count, most in enumerate(_RANKS, 1) if len(members) <= most)


def _rows(nodes: list[Node], names: list[str]) -> dict[str, float]:
    """Height of every row's middle; a row of several ranks takes the room they need."""
    crowded = _by_row(nodes)
    rows, edge = {}, -0.5
    for name in names:
        room = 1 + _RANK * (_ranks(crowded.get(name, [])) - 1)
        rows[name] = edge + room / 2
        edge += room
    return rows


def _places(nodes: list[Node], rows: Mapping[str, float], e: Emotion) -> dict[str, tuple[float, float]]:
    """Nodes of a row spread over the width, strongest in the middle, many of them in ranks so that labels keep apart."""
    place = {EMBED: (0.0, rows[EMBED]), str(e): (0.0, rows[str(e)])}
    for row, members in _by_row(nodes).items():
        # Alternate outwards from the middle, so that the eye finds the strongest at once.
        order = members[1::2][::-1] + members[::2]
        x = np.linspace(-1, 1, len(order) + 2)[1:-1]
        ranks = _ranks(members)
        for number, (node, across) in enumerate(zip(order, x, strict=True)):
            place[node.name] = (float(across), rows[row] + _RANK * (number % ranks - (ranks - 1) / 2))
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
