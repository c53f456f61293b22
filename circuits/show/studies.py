"""Figures of the experiments on sharing and on self-repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.circuit.estimates import Estimate
from circuits.prompts.emotions import Emotion
from circuits.show.style import EMOTION_COLOURS

__all__ = ["compensators", "likenesses", "pairs", "repair_parts", "repairs", "shared_losses"]

_INK, _GREY, _PALE = "#222222", "#777777", "#CCCCCC"
_BLUE, _ORANGE = "#0072B2", "#D55E00"


def _bars(found: Sequence[Estimate]) -> dict[str, Any]:
    """Error bars; none where there is no interval."""
    return {
        "type": "data", "array": [one.high - one.value for one in found],
        "arrayminus": [one.value - one.low for one in found], "thickness": 1.2, "color": _INK,
    }  # fmt: skip


def _styled(figure: go.Figure, title: str, *, height: int, top: int = 70) -> go.Figure:
    figure.update_layout(
        title={"text": title, "x": 0.01, "xanchor": "left", "y": 0.985, "yanchor": "top", "font": {"size": 15}},
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 14, "color": _INK},
        margin={"l": 70, "r": 20, "t": top, "b": 60},
        height=height,
    )
    return figure


def likenesses(kinds: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Mean Jaccard of two emotions across halves, between chance and ceiling, for each kind of component.

    ``kinds``: by name the figures of :meth:`circuits.circuit.sharing.Likeness.as_dict`.
    """
    figure = go.Figure()
    names = list(kinds)
    rows = {
        "chance (random, same layers)": ([kinds[k]["chance"] for k in names], None, _PALE),
        "two emotions": ([kinds[k]["between"]["value"] for k in names], [kinds[k]["between"] for k in names], _BLUE),
        "one emotion with itself (ceiling)": (
            [kinds[k]["ceiling"]["value"] for k in names], [kinds[k]["ceiling"] for k in names], _GREY,
        ),
    }  # fmt: skip
    for name, (values, intervals, colour) in rows.items():
        error = None if intervals is None else _bars([Estimate(**some) for some in intervals])
        figure.add_bar(x=names, y=values, error_y=error, name=name, marker={"color": colour})
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": -0.12})
    figure.update_yaxes(title="Jaccard across halves", range=[0, 1.02])
    return _styled(figure, "How alike are the circuits of two emotions?", height=400)


def pairs(table: pd.DataFrame, kinds: Sequence[str]) -> go.Figure:
    """Jaccard of every two circuits with its chance level and its ceiling; columns as in ``overlap.csv``."""
    figure = make_subplots(
        rows=1, cols=len(kinds), subplot_titles=list(kinds), shared_yaxes=True, horizontal_spacing=0.03
    )
    for column, kind in enumerate(kinds, 1):
        part = table[table["kind"] == kind]
        names = [f"{a} – {b}" for a, b in zip(part["first"], part["second"], strict=True)]
        marks = (("chance", "line-ns-open", _PALE), ("jaccard", "circle", _BLUE), ("ceiling", "line-ns-open", _INK))
        for what, symbol, colour in marks:
            figure.add_scatter(
                x=part[what], y=names, mode="markers", name=what, legendgroup=what, showlegend=column == 1,
                marker={"symbol": symbol, "color": colour, "size": 11, "line": {"width": 2, "color": colour}},
                row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(range=[-0.03, 1.05], title="Jaccard", row=1, col=column)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(legend={"orientation": "h", "y": -0.14})
    return _styled(figure, "Every two circuits, beside chance and ceiling", height=520, top=80)


def shared_losses(rows: Mapping[str, Mapping[str, Any]], control: str) -> go.Figure:
    """What ablating each set costs emotions and the control, as shares of their own gaps, beside random sets.

    ``rows``: by set ``emotions``, ``control`` (each an estimate and a ``random`` mean); a missing control is left out.
    """
    figure = go.Figure()
    names = list(rows)
    for who, colour in (("emotions", _BLUE), ("control", _ORANGE)):
        some = [name for name in names if who in rows[name]]
        if not some:
            continue
        found = [rows[name][who] for name in some]
        estimates = [Estimate(**{k: one[k] for k in ("value", "low", "high", "n")}) for one in found]
        label = "the six emotions, mean" if who == "emotions" else control
        figure.add_bar(
            x=some, y=[one.value for one in estimates], error_y=_bars(estimates), name=label, marker={"color": colour},
            offsetgroup=who,
        )  # fmt: skip
        figure.add_bar(
            x=some, y=[one["random"] for one in found], name=f"{label}: random sets of the same layers", offsetgroup=f"{who} r",
            marker={"color": colour}, opacity=0.3,
        )  # fmt: skip
    figure.add_hline(y=1, line={"color": _INK, "width": 1, "dash": "dot"})
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": -0.16})
    figure.update_yaxes(title="loss, share of the task's own gap", tickformat=".0%")
    return _styled(figure, "Ablating what is shared: emotions and a task without emotions", height=460)


def repair_parts(groups: Mapping[str, Mapping[str, Estimate]]) -> go.Figure:
    """By group of ablated components: what was written, what the loss costs, and who gives the difference back."""
    figure = go.Figure()
    labels = {
        "direct": ("direct effect (scale frozen)", _GREY), "total": ("total effect", _INK),
        "by_norm": ("given back by re-normalising alone", _BLUE),
        "by_components": ("given back by later components (below 0: passed on)", _ORANGE),
    }  # fmt: skip
    names = [name.replace(" with the largest ", "<br>by ").removesuffix(" effect") for name in groups]
    for what, (label, colour) in labels.items():
        found = [one[what] for one in groups.values()]
        error = _bars(found) | ({"color": _PALE} if colour == _INK else {})
        figure.add_bar(x=names, y=[one.value for one in found], error_y=error, name=label, marker={"color": colour})
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": -0.16})
    figure.update_yaxes(title="mean [logits]")
    return _styled(figure, "What the loss of a top component costs, and what is given back", height=440)


def repairs(table: pd.DataFrame) -> go.Figure:
    """Direct (frozen scale) against total effect of every ablated component; below the diagonal the model repairs."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=["heads", "neurons"], horizontal_spacing=0.08)
    for column, kind in enumerate(("head", "neuron"), 1):
        part = table[table["kind"] == kind]
        if part.empty:
            continue
        both = pd.concat([part["direct"], part["total"]])
        ends = [float(both.min()), float(both.max())]
        figure.add_scatter(
            x=ends, y=ends, mode="lines", line={"color": _PALE, "dash": "dot"}, showlegend=column == 1,
            name="total = direct (nothing given back, nothing passed on)", hoverinfo="skip", row=1, col=column,
        )  # fmt: skip
        for e, colour in EMOTION_COLOURS.items():
            rows = part[part["emotion"] == str(e)]
            x, y = (
                {
                    "type": "data",
                    "array": rows[f"{w}_high"] - rows[w],
                    "arrayminus": rows[w] - rows[f"{w}_low"],
                    "thickness": 1,
                }
                for w in ("direct", "total")
            )
            figure.add_scatter(
                x=rows["direct"], y=rows["total"], error_x=x, error_y=y, mode="markers", name=str(e), legendgroup=str(e),
                showlegend=column == 1, marker={"color": colour, "size": 9}, row=1, col=column,
                hovertext=[f"{c}: repair {r:+.3f} logits" for c, r in zip(rows["component"], rows["repair"], strict=True)],
            )  # fmt: skip
        figure.update_xaxes(title="direct effect, scale frozen [logits]", row=1, col=column)
        figure.update_yaxes(title="total effect [logits]", row=1, col=column)
    figure.update_layout(legend={"orientation": "h", "y": -0.18})
    return _styled(figure, "One by one: below the line a component is repaired, above it passes on", height=520, top=80)


def compensators(table: pd.DataFrame, *, most: int = 12) -> go.Figure:
    """The strongest compensators: what the reaction of one component to the loss of another is worth, with intervals."""
    best = table.reindex(table["reaction"].sort_values(ascending=False).index)[:most]
    names = [f"{e}: {c} → {u}" for e, c, u in zip(best["emotion"], best["component"], best["unit"], strict=True)]
    error = {
        "type": "data", "array": best["reaction_high"] - best["reaction"],
        "arrayminus": best["reaction"] - best["reaction_low"], "thickness": 1.2, "color": _INK,
    }  # fmt: skip
    figure = go.Figure()
    figure.add_bar(
        y=names, x=best["reaction"], error_x=error, orientation="h", name="its reaction, all told",
        marker={"color": [EMOTION_COLOURS[Emotion(e)] for e in best["emotion"]]}, showlegend=False,
    )  # fmt: skip
    figure.add_scatter(
        y=names, x=best["given_back"], mode="markers", name="what this component itself writes back",
        marker={"symbol": "diamond", "color": _INK, "size": 9},
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title="logits given back", automargin=True)
    figure.update_layout(legend={"orientation": "h", "y": -0.22})
    title = "Who compensates: ablated component → what the reaction of another is worth"
    return _styled(figure, title, height=max(320, 28 * len(best) + 150))
