"""Figures of the half-layer study: what attention and MLP of each layer do to one emotion, and who would have been blamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.errors import RunError
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.show.style import EMOTION_COLOURS, INK, PALE, error, styled
from circuits.show.words import counts

__all__ = ["half_layers", "misattribution"]

_HEADS, _NEURONS = "#56B4E9", "#009E73"
_HALVES = {"attn": _HEADS, "mlp": _NEURONS}
_NAMES = {"attn": "attention", "mlp": "MLP"}


def half_layers(table: pd.DataFrame, e: Emotion, writers: pd.DataFrame | None = None) -> go.Figure:
    """One emotion, half-layer by half-layer, in four rows with 95% intervals.

    Rotation of the direction (degrees, corrected for noise; grey: the angle between two halves of the scenarios); held-out
    AUROC after the half-layer (dotted: the largest a permuted labelling reaches in 95%); share of the state's projection
    written by heads, neurons and the rest, with the circuit's; share of the causal effect.

    Args:
        table: of :class:`circuits.compare.halves.HalfLayers`.
        writers: of :class:`circuits.compare.table.Comparison`; without it the third row is what each half-layer itself writes
            on the direction [residual units].
    """
    rows = table[table["emotion"] == str(e)]
    virtual = rows["position"].str.contains("virtual").any()
    titles = [
        "rotation of the direction [degrees] (hollow: no interval, not told from noise)",
        "held-out decodability after it [AUROC]",
        "projection at the state behind it, share written by"
        if writers is not None
        else "written on it [residual units]",
        "share of causal effect (of all half-layers' absolute effects)",
    ]
    figure = make_subplots(rows=4, cols=1, shared_xaxes=True, vertical_spacing=0.05, subplot_titles=titles)
    _bars(figure, rows, "rotation", 1)
    floor = _of(rows, "noise floor")
    figure.add_scatter(
        x=floor["half_layer"], y=floor["value"], mode="markers", name="two halves of the scenarios",
        marker={"symbol": "line-ew-open", "size": 14, "color": PALE, "line": {"width": 2, "color": PALE}}, row=1, col=1,
    )  # fmt: skip
    decoded = _of(rows, "decodability")
    figure.add_scatter(
        x=decoded["half_layer"], y=decoded["value"], error_y=_error(decoded), mode="lines+markers", name="AUROC",
        line={"color": EMOTION_COLOURS[e]}, row=2, col=1,
    )  # fmt: skip
    null = _of(rows, "null maximum")
    figure.add_scatter(
        x=null["half_layer"], y=null["value"], mode="lines", name="null maximum (95%)",
        line={"color": INK, "width": 1, "dash": "dot"}, row=2, col=1,
    )  # fmt: skip
    if writers is None:
        _bars(figure, rows, "written", 3)
    else:
        _written(figure, rows, writers[(writers["emotion"] == str(e)) & (writers["role"] == "part")], e)
    _bars(figure, rows, "share", 4)
    order = list(dict.fromkeys(rows["half_layer"]))
    figure.update_xaxes(categoryorder="array", categoryarray=order)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_yaxes(range=[0.3, 1.03], row=2, col=1)
    note = "; mid of parallel blocks is virtual" if virtual else ""
    title = f"{e}: what each half-layer does (n = {counts(rows['n'])} scenarios{note})"
    figure.update_layout(barmode="relative", legend={"orientation": "h", "y": -0.06})
    return styled(figure, title, height=880)


def misattribution(rates: pd.DataFrame) -> go.Figure:
    """In how many of the layers that change an emotion attention did most of it, so that "the MLP did it" is wrong; 95%
    intervals, and the number of layers below each pair of bars."""
    figure = go.Figure()
    names = ["all", *(str(e) for e in EMOTIONS)]
    most = rates[rates["rate"] == "attention most"]
    cells = {(str(row["emotion"]), str(row["measure"])): row["cells"] for row in most.to_dict("records")}
    measures = ("projection", "decodability")
    missing = [f"{measure} of {name}" for name in names for measure in measures if (name, measure) not in cells]
    if missing:
        raise RunError(
            f"the table of rates has no row of {missing[0]}; expected one of each measure and emotion, and of all"
        )
    of = {name: [f"{cells[name, measure]:.0f}" for measure in measures] for name in names}
    places = [f"{name}<br>of {' and '.join(dict.fromkeys(of[name]))}" for name in names]
    for measure, colour in (("projection", _HEADS), ("decodability", "#E69F00")):
        rows = (
            rates[(rates["measure"] == measure) & (rates["rate"] == "attention most")].set_index("emotion").loc[names]
        )
        figure.add_bar(
            x=places, y=rows["value"], error_y=_error(rows), name=measure, marker={"color": colour},
        )  # fmt: skip
    figure.update_yaxes(title="share of layers", range=[0, 1.05], tickformat=".0%")
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": -0.2})
    n = counts(rates["n"])
    return styled(
        figure, f"Layers in which attention did most of what one reading shows (n = {n} scenarios)", height=420
    )


def _of(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    return rows[rows["quantity"] == quantity]


def _error(rows: pd.DataFrame) -> Mapping[str, Any]:
    return error(rows["value"], rows["low"], rows["high"], thickness=1, color=INK)


def _bars(figure: go.Figure, rows: pd.DataFrame, quantity: str, row: int) -> None:
    """One quantity, attention and MLP in their colours; hollow where a value has no interval, which makes it no result."""
    every = _of(rows, quantity)
    for half, colour in _HALVES.items():
        for firm in (True, False):
            part = every[(every["half"] == half) & (every["low"].notna() == firm)]
            figure.add_bar(
                x=part["half_layer"], y=part["value"], error_y=_error(part) if firm else None, name=_NAMES[half],
                legendgroup=half, showlegend=row == 1 and firm, row=row, col=1,
                marker={"color": colour if firm else "#FFFFFF", "line": {"color": colour, "width": 1.5}},
            )  # fmt: skip


def _written(figure: go.Figure, rows: pd.DataFrame, parts: pd.DataFrame, e: Emotion) -> None:
    """Who wrote the projection at the state behind each half-layer; the circuit's share as a line over it."""
    behind = dict(zip(rows["state"], rows["half_layer"], strict=True))
    for item, colour in (("heads", _HEADS), ("neurons", _NEURONS), ("rest", PALE), ("circuit", INK)):
        some = parts[(parts["item"] == item) & parts["state"].isin(list(behind))].rename(columns={"share": "value"})
        if some.empty:
            continue
        x = some["state"].map(behind)
        if item == "circuit":
            figure.add_scatter(
                x=x, y=some["value"], error_y=_error(some), mode="lines+markers", name="the circuit",
                line={"color": colour, "width": 3}, row=3, col=1,
            )  # fmt: skip
        else:
            figure.add_bar(x=x, y=some["value"], name=f"by {item}", marker={"color": colour}, opacity=0.7, row=3, col=1)
