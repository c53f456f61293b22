"""Half-layers, directions and states, as figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from circuits.errors import RunError
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.show.style import DIVERGING, EMOTION_COLOURS, INK, OPPOSES, PALE, SMALL, SUPPORTS, error, styled
from circuits.show.words import counts

__all__ = ["below", "components", "cosines", "onset", "sublayers", "writers"]


def below(figure: go.Figure, y: float) -> float:
    """Where a legend stands under the axis: lower where the names of many places are turned upright in a narrow window."""
    places = {x for trace in figure.data if trace.x is not None for x in trace.x}
    return y if len(places) <= 12 else -0.45


def sublayers(table: pd.DataFrame) -> go.Figure:
    """Exact total effect of every half-layer on every emotion [logits]."""
    rows = table[table["kind"].isin(["attn", "mlp"])]
    order = list(dict.fromkeys(rows["component"]))
    grid = rows.pivot(index="component", columns="emotion", values="effect").loc[order, [str(e) for e in EMOTIONS]]
    bound = float(np.abs(grid.to_numpy()).max()) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(), x=list(grid.columns), y=order, zmin=-bound, zmax=bound, colorscale=DIVERGING,
            textfont={"color": INK},
            texttemplate="%{z:.2f}",
            colorbar={"title": {"text": "logits", "font": {"size": 14}}},
            hovertemplate="%{y}, %{x}: %{z:+.3f} logits<extra></extra>",
        )
    )  # fmt: skip
    return styled(figure, "Total effect of each half-layer (exact)", height=max(320, 40 * len(order) + 120))


def components(table: pd.DataFrame, e: Emotion, *, most: int = 20) -> go.Figure:
    """The strongest heads and neurons, exact before estimated: each component once, by the better of its measurements."""
    rows = table[(table["emotion"] == str(e)) & table["kind"].isin(["head", "neuron"]) & (table["method"] != "direct")]
    if rows.empty:
        raise RunError(f"the table has no total effect of a head or neuron on {e}; measure some")
    exact = rows[rows["method"] == "exact"]
    once = pd.concat([exact, rows[~rows["component"].isin(exact["component"])]]).drop_duplicates("component")
    best = once.reindex(once["effect"].abs().sort_values(ascending=False).index)[:most]
    figure = go.Figure()
    for kind, symbol in (("head", "circle"), ("neuron", "diamond")):
        for firm in (True, False):
            some = best[(best["kind"] == kind) & ((best["method"] == "exact") == firm)]
            if some.empty:
                continue
            figure.add_scatter(
                x=some["effect"], y=some["component"], mode="markers", name=f"{kind}s, {'exact' if firm else 'estimated'}",
                error_x=error(some["effect"], some["low"], some["high"], thickness=1.2, color=INK),
                marker={"symbol": symbol if firm else f"{symbol}-open", "size": 10,
                        "color": [SUPPORTS if v >= 0 else OPPOSES for v in some["effect"]]},
            )  # fmt: skip
    figure.update_yaxes(categoryorder="array", categoryarray=list(best["component"])[::-1])
    figure.update_xaxes(title="total effect [logits]; positive supports the emotion", zeroline=True, zerolinecolor=INK)
    figure.update_layout(legend={"orientation": "h", "y": -0.16})
    title = f"{e}: the {len(best)} strongest of {len(once):,} heads and neurons (n = {counts(best['n'])} scenarios)"
    return styled(figure, title, height=180 + 24 * len(best))


def cosines(vectors: NDArray[np.floating[Any]], states: list[str], wanted: list[str]) -> go.Figure:
    """Cosines between the six directions [emotion, state, d_model] at some states; -0.2 is what six centred vectors have."""
    figure = make_subplots(rows=1, cols=len(wanted), subplot_titles=wanted, shared_yaxes=True, horizontal_spacing=0.02)
    names = [str(e) for e in EMOTIONS]
    for column, state in enumerate(wanted, 1):
        v = vectors[:, states.index(state)]
        # A direction that does not exist there has no cosine, rather than 0.
        v = np.where(np.linalg.norm(v, axis=1, keepdims=True) > 0, v, np.nan)
        heat = go.Heatmap(
            z=v @ v.T, x=names, y=names, zmin=-1, zmax=1, colorscale=DIVERGING, text=_short(v @ v.T), texttemplate="%{text}",
            textfont={"size": SMALL, "color": INK},
            showscale=column == len(wanted),
        )  # fmt: skip
        figure.add_trace(heat, row=1, col=column)
    figure.update_yaxes(autorange="reversed")
    return styled(figure, "Cosines between the six directions (chance for centred vectors: -0.2)", height=360)


def _short(values: NDArray[np.floating[Any]]) -> list[list[str]]:
    """Two places without the leading zero, so that a cell holds them; 1 and -1 are rounded to one digit."""
    return [["" if x != x else f"{x:.2f}".replace("0.", ".").replace("1.00", "1") for x in row] for row in values]


def writers(table: pd.DataFrame, e: Emotion) -> go.Figure:
    """Who writes the direction at each state: shares of its emotion-centred projection, with intervals."""
    rows = table[(table["emotion"] == str(e)) & (table["role"] == "part")]
    figure = go.Figure()
    colours = {
        "heads": "#56B4E9",
        "neurons": "#009E73",
        "rest": PALE,
        "circuit": INK,
        "random circuits": INK,
    }
    for item, colour in colours.items():
        part = rows[rows["item"] == item]
        if part.empty:
            continue
        ends = error(part["share"], part["low"], part["high"], thickness=1)
        if item in ("circuit", "random circuits"):
            dash = "solid" if item == "circuit" else "dot"
            figure.add_scatter(
                x=part["state"],
                y=part["share"],
                error_y=ends,
                name=item,
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 3 if item == "circuit" else 1.5},
            )
        else:
            figure.add_bar(x=part["state"], y=part["share"], name=item, marker={"color": colour}, error_y=ends)
    figure.update_layout(barmode="relative", legend={"orientation": "h", "y": below(figure, -0.15)})
    figure.update_yaxes(title="share of the projection")
    return styled(figure, f"{e}: who writes its direction, state by state")


def onset(
    auroc: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64],
    threshold: NDArray[np.float64], states: list[str], title: str,
) -> go.Figure:  # fmt: skip
    """Held-out AUROC by state and emotion with 95% intervals; dotted: the largest of the six max-statistic thresholds (95%)."""
    figure = go.Figure()
    for e in EMOTIONS:
        row = e.column
        ends = error(auroc[row], low[row], high[row], thickness=1)
        figure.add_scatter(
            x=states, y=auroc[row], error_y=ends, name=str(e), mode="lines+markers", line={"color": EMOTION_COLOURS[e]}
        )
    figure.add_hline(y=float(threshold.max()), line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_yaxes(
        title="AUROC, one emotion against the rest", range=[min(0.3, float(np.nanmin(low)) - 0.03), 1.02]
    )
    return styled(figure, title)
