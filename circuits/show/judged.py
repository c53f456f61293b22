"""What the judge found, as figures: faithfulness beside random circuits, curves, and whose circuit it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuits.circuit.graph import Circuit
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.show.style import DIVERGING, EMOTION_COLOURS, INK, PALE, SMALL, error, styled
from circuits.show.words import counts, decimal, ranged

__all__ = ["curves", "faithfulness", "specificity"]


def faithfulness(circuits: Mapping[Emotion, Circuit]) -> go.Figure:
    """Each circuit's faithfulness on ``test`` with its interval, above the random circuits of the same shape."""
    figure = go.Figure()
    judged = {e: c.judgement for e, c in circuits.items() if "faithfulness" in c.judgement}
    for e, j in judged.items():
        figure.add_scatter(
            x=[str(e)] * len(j["random"]), y=j["random"], mode="markers", showlegend=False,
            marker={"color": PALE, "size": 6}, hovertemplate="random circuit %{y:.2f}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[str(e) for e in judged],
        y=[j["faithfulness"] for j in judged.values()],
        error_y={
            "type": "data",
            "array": [j["faithfulness_high"] - j["faithfulness"] for j in judged.values()],
            "arrayminus": [j["faithfulness"] - j["faithfulness_low"] for j in judged.values()],
            "color": INK,
        },
        mode="markers",
        name="circuit",
        marker={"size": 12, "color": [EMOTION_COLOURS[e] for e in judged]},
        hovertext=[f"{e}: {j['size']} components, n = {j['n']} scenarios" for e, j in judged.items()],
        showlegend=False,
    )
    figure.add_hline(y=1, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_yaxes(title="faithfulness (1 = whole model)", rangemode="tozero")
    missing = [str(e) for e in circuits if e not in judged]
    note = f" · none found: {', '.join(missing)}" if missing else ""
    n = f" (n = {counts(j['n'] for j in judged.values())} scenarios)" if judged else ""
    return styled(figure, f"Faithfulness on test texts{n}; grey: random circuits of the same shape{note}")


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
        ends = error(value, low, high, thickness=1)
        figure.add_scatter(
            x=found["budgets"], y=value, error_y=ends, mode="lines+markers", line={"color": EMOTION_COLOURS[e]},
            name=f"{e}: CPR {_ranged(found['cpr'])}, CMD {_ranged(found['cmd'])}", customdata=found["sizes"],
            hovertemplate=f"{e}, %{{customdata}} components: %{{y:.2f}}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=1, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(
        type="log", title="share of all heads and neurons kept", tickvals=[0.001, 0.01, 0.1, 1],
        ticktext=["0.1%", "1%", "10%", "100%"],
    )  # fmt: skip
    figure.update_yaxes(title="faithfulness on test")
    figure.update_layout(legend={"orientation": "h", "y": -0.22})
    n = counts(c.judgement["curve"]["cpr"]["n"] for c in circuits.values() if "curve" in c.judgement)
    return styled(
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
        z=loss, x=names, y=rows, zmin=-bound, zmax=bound, colorscale=DIVERGING, text=text,
        texttemplate="%{text}", textfont={"size": SMALL, "color": INK}, showscale=False, hoverinfo="skip",
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_yaxes(autorange="reversed", title="circuit ablated")
    figure.update_xaxes(title="emotion read", side="bottom")
    n = counts(one["n"] for one in found["loss"].values())
    title = f"Logits lost without the row's circuit [95%, n = {n} scenarios]; r: mean of {found['random_n']} random circuits"
    return styled(figure, title, height=130 + 62 * len(rows))


def _cell(found: Mapping[str, Any], random: Mapping[str, Any]) -> str:
    return (
        f"{found['value']:.1f}<br>[{decimal(found['low'], 1)}, {decimal(found['high'], 1)}]<br>r {random['mean']:.1f}"
    )


def _ranged(found: Mapping[str, Any]) -> str:
    return ranged(found["value"], found["low"], found["high"])
