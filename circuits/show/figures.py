"""Figures of a run, as plotly figures for notebooks, the report and pictures.

Colours are distinguishable with the common colour-vision deficiencies (Okabe & Ito 2008). Solid marks are exact effects,
hollow ones first-order estimates. Points and bars carry their 95% intervals; heat maps show estimates alone, their
intervals are in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from circuits.circuit.graph import EMBED, Circuit, Node
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.show.words import counts, decimal

__all__ = [
    "EMOTION_COLOURS",
    "circuit_graph",
    "cosines",
    "curves",
    "faithfulness",
    "onset",
    "specificity",
    "sublayers",
    "writers",
]

EMOTION_COLOURS: Mapping[Emotion, str] = {
    Emotion.ANGER: "#D55E00",
    Emotion.DISGUST: "#009E73",
    Emotion.FEAR: "#CC79A7",
    Emotion.HAPPINESS: "#E69F00",
    Emotion.SADNESS: "#0072B2",
    Emotion.SURPRISE: "#56B4E9",
}

_SUPPORTS, _OPPOSES = "#0072B2", "#D55E00"
_INK, _PALE = "#222222", "#BBBBBB"
_MAX_NODES = 40


def _styled(figure: go.Figure, title: str, height: int = 420) -> go.Figure:
    figure.update_layout(
        title={"text": title, "x": 0.01, "xanchor": "left", "font": {"size": 15}},
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 12, "color": _INK},
        margin={"l": 70, "r": 20, "t": 60, "b": 50},
        height=height,
    )
    return figure


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
    for sign, colour in ((1, _SUPPORTS), (-1, _OPPOSES)):
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
        marker={"size": 16, "symbol": "square", "color": [_INK, EMOTION_COLOURS[circuit.emotion]]},
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
    return _styled(figure, title, height=max(420, 62 * len(rows)))


def _places(nodes: list[Node], rows: list[str], e: Emotion) -> dict[str, tuple[float, float]]:
    """Nodes of a row spread over the width, strongest in the middle, wide rows in two ranks so that labels keep apart."""
    place = {EMBED: (0.0, 0.0), str(e): (0.0, float(len(rows) - 1))}
    by_row: dict[str, list[Node]] = {}
    for node in nodes:
        by_row.setdefault(f"L{node.component.layer} {node.component.half}", []).append(node)
    for row, members in by_row.items():
        # Alternate outwards from the middle, so that the eye finds the strongest at once.
        order = members[1::2][::-1] + members[::2]
        x = np.linspace(-1, 1, len(order) + 2)[1:-1]
        for number, (node, across) in enumerate(zip(order, x, strict=True)):
            lift = 0.22 * (number % 2 * 2 - 1) if len(order) > 6 else 0.0
            place[node.name] = (float(across), rows.index(row) + lift)
    return place


def _draw_nodes(figure: go.Figure, nodes: list[Node], place: Mapping[str, tuple[float, float]]) -> None:
    strongest = max((abs(n.effect) for n in nodes), default=1.0)
    for kind, symbol in (("head", "circle"), ("neuron", "diamond")):
        for verified in (True, False):
            members = [n for n in nodes if n.component.kind == kind and n.verified is verified]
            if not members:
                continue
            colours = [_SUPPORTS if n.effect >= 0 else _OPPOSES for n in members]
            figure.add_scatter(
                x=[place[n.name][0] for n in members],
                y=[place[n.name][1] for n in members],
                mode="markers+text",
                name=f"{kind}s, {'exact' if verified else 'estimated'}",
                text=[n.name for n in members],
                textposition="top center",
                textfont={"size": 9},
                hovertext=[_hover(n) for n in members],
                hoverinfo="text",
                marker={
                    "symbol": symbol if verified else f"{symbol}-open",
                    "size": [9 + 16 * abs(n.effect) / strongest for n in members],
                    "color": colours,
                    "line": {"width": 1.5, "color": "white" if verified else _SUPPORTS},
                },
            )


def _hover(node: Node) -> str:
    how = "exact" if node.verified else "first-order estimate"
    return (
        f"<b>{node.name}</b> ({how})<br>total effect {node.effect:+.3f} [{node.low:+.3f}, {node.high:+.3f}] logits"
        f"<br>direct effect {node.direct:+.3f} logits<br>q = {node.q:.3g}"
    )


def faithfulness(circuits: Mapping[Emotion, Circuit]) -> go.Figure:
    """Each circuit's faithfulness on ``test`` with its interval, above the random circuits of the same shape."""
    figure = go.Figure()
    judged = {e: c.judgement for e, c in circuits.items() if "faithfulness" in c.judgement}
    for e, j in judged.items():
        figure.add_scatter(
            x=[str(e)] * len(j["random"]), y=j["random"], mode="markers", showlegend=False,
            marker={"color": _PALE, "size": 6}, hovertemplate="random circuit %{y:.2f}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[str(e) for e in judged],
        y=[j["faithfulness"] for j in judged.values()],
        error_y={
            "type": "data",
            "array": [j["faithfulness_high"] - j["faithfulness"] for j in judged.values()],
            "arrayminus": [j["faithfulness"] - j["faithfulness_low"] for j in judged.values()],
        },
        mode="markers",
        name="circuit",
        marker={"size": 12, "color": [EMOTION_COLOURS[e] for e in judged]},
        hovertext=[f"{e}: {j['size']} components, n = {j['n']} scenarios" for e, j in judged.items()],
        showlegend=False,
    )
    figure.add_hline(y=1, line={"color": _INK, "width": 1, "dash": "dot"})
    figure.update_yaxes(title="faithfulness (1 = whole model)", rangemode="tozero")
    missing = [str(e) for e in circuits if e not in judged]
    note = f" · none found: {', '.join(missing)}" if missing else ""
    n = f" (n = {counts(j['n'] for j in judged.values())} scenarios)" if judged else ""
    return _styled(figure, f"Faithfulness on test texts{n}; grey: random circuits of the same shape{note}")


def curves(circuits: Mapping[Emotion, Circuit]) -> go.Figure:
    """Faithfulness of the tops of each emotion's ranking, budget by budget, with intervals; CPR and CMD in the legend."""
    figure = go.Figure()
    for e, circuit in circuits.items():
        found = circuit.judgement.get("curve")
        if found is None:
            continue
        points = found["faithfulness"]
        value = np.array([p["value"] for p in points], dtype=float)
        low, high = (np.array([p[name] for p in points], dtype=float) for name in ("low", "high"))
        error = {"type": "data", "array": high - value, "arrayminus": value - low, "thickness": 1}
        figure.add_scatter(
            x=found["budgets"], y=value, error_y=error, mode="lines+markers", line={"color": EMOTION_COLOURS[e]},
            name=f"{e}: CPR {_ranged(found['cpr'])}, CMD {_ranged(found['cmd'])}", customdata=found["sizes"],
            hovertemplate=f"{e}, %{{customdata}} components: %{{y:.2f}}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=1, line={"color": _INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(
        type="log", title="share of all heads and neurons kept", tickvals=[0.001, 0.01, 0.1, 1],
        ticktext=["0.1%", "1%", "10%", "100%"],
    )  # fmt: skip
    figure.update_yaxes(title="faithfulness on test")
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "font": {"size": 10}})
    n = counts(c.judgement["curve"]["cpr"]["n"] for c in circuits.values() if "curve" in c.judgement)
    return _styled(
        figure, f"Faithfulness as circuits grow, the strongest components first (n = {n} scenarios)", height=520
    )


def specificity(found: Mapping[str, Any]) -> go.Figure:
    """What ablating each circuit (row) costs each emotion (column) [logits], beside random circuits of the row's shape."""
    names = [str(e) for e in EMOTIONS]
    rows = [a for a in names if f"{a}:{names[0]}" in found["loss"]]
    loss = np.array([[found["loss"][f"{a}:{b}"]["value"] for b in names] for a in rows], dtype=float)
    text = [[_cell(found["loss"][f"{a}:{b}"], found["random"][f"{a}:{b}"]) for b in names] for a in rows]
    bound = float(np.abs(loss).max()) or 1.0
    heat = go.Heatmap(
        z=loss, x=names, y=[f"{a} circuit" for a in rows], zmin=-bound, zmax=bound, colorscale="RdBu", text=text,
        texttemplate="%{text}", textfont={"size": 10}, colorbar={"title": "logits"}, hoverinfo="skip",
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_yaxes(autorange="reversed")
    n = counts(one["n"] for one in found["loss"].values())
    title = f"Logits lost without the row's circuit [95%, n = {n} scenarios]; r: mean of {found['random_n']} random circuits"
    return _styled(figure, title, height=130 + 62 * len(rows))


def _cell(found: Mapping[str, Any], random: Mapping[str, Any]) -> str:
    return (
        f"{found['value']:.1f}<br>[{decimal(found['low'], 1)}, {decimal(found['high'], 1)}]<br>r {random['mean']:.1f}"
    )


def _ranged(found: Mapping[str, Any]) -> str:
    return f"{decimal(found['value'])} [{decimal(found['low'])}, {decimal(found['high'])}]"


def sublayers(table: pd.DataFrame) -> go.Figure:
    """Exact total effect of every half-layer on every emotion [logits]."""
    rows = table[table["kind"].isin(["attn", "mlp"])]
    order = list(dict.fromkeys(rows["component"]))
    grid = rows.pivot(index="component", columns="emotion", values="effect").loc[order, [str(e) for e in EMOTIONS]]
    bound = float(np.abs(grid.to_numpy()).max()) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(), x=list(grid.columns), y=order, zmin=-bound, zmax=bound, colorscale="RdBu",
            texttemplate="%{z:.2f}", colorbar={"title": "logits"}, hovertemplate="%{y}, %{x}: %{z:+.3f} logits<extra></extra>",
        )
    )  # fmt: skip
    return _styled(figure, "Total effect of each half-layer (exact)", height=max(320, 40 * len(order) + 120))


def cosines(vectors: NDArray[np.floating[Any]], states: list[str], wanted: list[str]) -> go.Figure:
    """Cosines between the six directions [emotion, state, d_model] at some states; -0.2 is what six centred vectors have."""
    figure = make_subplots(rows=1, cols=len(wanted), subplot_titles=wanted, shared_yaxes=True, horizontal_spacing=0.02)
    names = [str(e) for e in EMOTIONS]
    for column, state in enumerate(wanted, 1):
        v = vectors[:, states.index(state)]
        # A direction that does not exist there has no cosine, rather than 0.
        v = np.where(np.linalg.norm(v, axis=1, keepdims=True) > 0, v, np.nan)
        heat = go.Heatmap(
            z=v @ v.T, x=names, y=names, zmin=-1, zmax=1, colorscale="RdBu", texttemplate="%{z:.2f}", textfont={"size": 8},
            showscale=column == len(wanted),
        )  # fmt: skip
        figure.add_trace(heat, row=1, col=column)
    figure.update_yaxes(autorange="reversed")
    return _styled(figure, "Cosines between the six directions (chance for centred vectors: -0.2)", height=360)


def writers(table: pd.DataFrame, e: Emotion) -> go.Figure:
    """Who writes the direction at each state: shares of its emotion-centred projection, with intervals."""
    rows = table[(table["emotion"] == str(e)) & (table["role"] == "part")]
    figure = go.Figure()
    colours = {
        "heads": "#56B4E9",
        "neurons": "#009E73",
        "rest": _PALE,
        "circuit": EMOTION_COLOURS[e],
        "random circuits": _INK,
    }
    for item, colour in colours.items():
        part = rows[rows["item"] == item]
        if part.empty:
            continue
        error = {
            "type": "data", "array": part["high"] - part["share"], "arrayminus": part["share"] - part["low"], "thickness": 1,
        }  # fmt: skip
        if item in ("circuit", "random circuits"):
            dash = "solid" if item == "circuit" else "dot"
            figure.add_scatter(
                x=part["state"],
                y=part["share"],
                error_y=error,
                name=item,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
            )
        else:
            figure.add_bar(x=part["state"], y=part["share"], name=item, marker={"color": colour}, error_y=error)
    figure.update_layout(barmode="relative", legend={"orientation": "h", "y": -0.15})
    figure.update_yaxes(title="share of the projection")
    return _styled(figure, f"{e}: who writes its direction, state by state")


def onset(
    auroc: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64],
    threshold: NDArray[np.float64], states: list[str], title: str,
) -> go.Figure:  # fmt: skip
    """Held-out AUROC by state and emotion with 95% intervals; dotted: the largest of the six max-statistic thresholds (95%)."""
    figure = go.Figure()
    for e in EMOTIONS:
        row = e.column
        error = {"type": "data", "array": high[row] - auroc[row], "arrayminus": auroc[row] - low[row], "thickness": 1}
        figure.add_scatter(
            x=states, y=auroc[row], error_y=error, name=str(e), mode="lines+markers", line={"color": EMOTION_COLOURS[e]}
        )
    figure.add_hline(y=float(threshold.max()), line={"color": _INK, "width": 1, "dash": "dot"})
    figure.update_yaxes(
        title="AUROC, one emotion against the rest", range=[min(0.3, float(np.nanmin(low)) - 0.03), 1.02]
    )
    return _styled(figure, title)
