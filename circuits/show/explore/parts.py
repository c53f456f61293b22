"""Pieces that views are made of: tables, remarks, figures under their titles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html

from circuits.show.page import tamed
from circuits.show.style import styled
from circuits.show.words import visible

__all__ = ["captioned", "compact", "note", "table", "warning"]

_CONFIG = {"displaylogo": False, "responsive": True, "displayModeBar": False}


def note(text: object) -> Any:
    """A remark; text from data in it is spelled out."""
    return html.P(visible(text), className="note")


def warning(text: object) -> Any:
    """What a reader must not overlook."""
    return html.P(visible(text), className="warn")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], look: str = "") -> Any:
    """A table in a box of its own that scrolls; the first cell of a row names it."""
    top = html.Tr([html.Th(text, scope="col") for text in head])
    body = [html.Tr([html.Th(first, scope="row"), *map(html.Td, rest)]) for first, *rest in rows]
    return html.Div(html.Table([html.Thead(top), html.Tbody(body)], className=look), className="wide")


def captioned(figure: go.Figure, name: str | None = None) -> Any:
    """A figure under its title; text of data in it is no markup."""
    drawn, title = tamed(figure)
    more = {} if name is None else {"id": name}
    height = f"{drawn['layout']['height']}px"
    graph = dcc.Graph(figure=drawn, config=_CONFIG, responsive=True, style={"height": height}, **more)
    return html.Figure([html.Figcaption(title), html.Div(graph, className="figure")])


def compact(figure: go.Figure, title: str, height: int) -> go.Figure:
    """The look of figures in a narrow panel."""
    styled(figure, title, height)
    figure.update_layout(
        font_size=12, margin={"l": 64, "r": 10, "t": 34, "b": 34}, legend={"orientation": "h", "y": -0.18}
    )
    return figure
