"""What stands beside and below the graph: filters, work, the legend and the keys."""

from __future__ import annotations

from typing import Any

from dash import dcc, html

from circuits.prompts.emotions import EMOTIONS
from circuits.show.explore.desk import Desk
from circuits.show.figures import EMOTION_COLOURS

__all__ = ["CALM_EDGES", "filters", "legend", "swatch", "work"]

_KEYS = (
    ("/", "search"),
    ("arrows", "walk: up and down along the heaviest edge, left and right to the neighbour"),
    ("u d b", "light the paths up to the read-outs, down to the tokens, both"),
    ("Enter", "go to the panel of the component"),
    ("p h a", "pin, hide, show all"),
    ("z y", "undo, redo"),
    ("f + -", "fit, nearer, farther"),
    ("Esc", "let go"),
)


def swatch(colour: str) -> Any:
    """A patch of colour."""
    return html.Span(className="swatch", style={"background": colour})


def filters(desk: Desk, first: str) -> Any:
    """What is shown of the graph."""
    options = [
        {"label": html.Span([swatch(EMOTION_COLOURS[e]), f"{e} ({len(desk.circuits[e].nodes)})"]), "value": str(e)}
        for e in EMOTIONS
    ]
    randoms = [{"label": "none", "value": "none"}]
    count = max((len(some) for some in desk.nulls.values()), default=0)
    randoms += [{"label": f"number {i + 1}", "value": str(i)} for i in range(count)]
    return html.Div(
        [
            html.Fieldset([html.Legend("Emotions"), dcc.Checklist(options, [first], id="emotions")]),
            html.Fieldset(
                [
                    html.Legend("Colour"),
                    dcc.RadioItems(
                        [{"label": "by sign", "value": "sign"}, {"label": "by emotion", "value": "emotion"}],
                        "sign",
                        id="colour",
                    ),
                ]
            ),
            html.Fieldset(
                [
                    html.Legend("Components"),
                    dcc.Checklist(
                        [{"label": "heads", "value": "head"}, {"label": "neurons", "value": "neuron"}],
                        ["head", "neuron"],
                        id="kinds",
                    ),
                    dcc.Checklist(
                        [
                            {"label": "measured exactly only", "value": "verified"},
                            {"label": "shared by emotions only", "value": "shared"},
                        ],
                        [],
                        id="only",
                    ),
                ]
            ),
            html.Div(
                [
                    html.Label("Layers", htmlFor="from"),
                    dcc.Input(id="from", type="number", min=0, max=desk.layers - 1, step=1, value=0),
                    html.Label("to", htmlFor="to"),
                    dcc.Input(id="to", type="number", min=0, max=desk.layers - 1, step=1, value=desk.layers - 1),
                ],
                className="line",
            ),
            html.Label("Least effect, share of the largest", htmlFor="effect"),
            dcc.Input(id="effect", type="range", min=0, max=1, step=0.01, value=0),
            html.Label("Least edge, share of the largest", htmlFor="edge"),
            dcc.Input(id="edge", type="range", min=0, max=1, step=0.005, value=_calm(desk, first)),
            html.Fieldset(
                [
                    html.Legend("Random circuit beside it"),
                    dcc.RadioItems(randoms, "none", id="random", inline=True),
                    html.P(id="random-note", className="note"),
                ]
            ),
        ]
    )


CALM_EDGES = 400
"""Edges drawn at first; the rest waits behind the slider, and the count above the graph says so."""


def _calm(desk: Desk, first: str) -> float:
    """The threshold at which no more edges are drawn than an eye can follow."""
    weights = sorted(
        (abs(e.weight) for c in desk.circuits.values() if str(c.emotion) == first for e in c.edges), reverse=True
    )
    if len(weights) <= CALM_EDGES or not weights[0]:
        return 0.0
    return min(1.0, round(float(weights[CALM_EDGES] / weights[0]) + 0.0025, 3))


def work() -> Any:
    """Commands on the picked components, what the selection carries, saved views."""
    buttons = (
        ("pin", "Pin", "stays whatever the filters say (p)"),
        ("hide", "Hide", "take it out of sight (h)"),
        ("show-all", "Show all", "bring back what was hidden (a)"),
        ("undo", "Undo", "z"),
        ("redo", "Redo", "y"),
    )
    named = (
        ("label", "Label", "give the picked component this name"),
        ("group", "Group", "one box for all selected"),
        ("ungroup", "Ungroup", "take the box apart"),
    )

    def row(some: Any) -> list[Any]:
        return [
            html.Button(text, id=name, title=title, className="small", disabled=name in ("undo", "redo"))
            for name, text, title in some
        ]

    return html.Div(
        [
            html.H2("Work on it"),
            html.Div(row(buttons), className="bar"),
            html.Div(
                [
                    html.Label("Name", htmlFor="name"),
                    dcc.Input(id="name", type="text", maxLength=60, placeholder="for a label or a group"),
                    *row(named),
                ],
                className="bar",
            ),
            html.H3("How much does the selection carry?"),
            html.Div(id="selection-view", **{"aria-live": "polite"}),
            html.H3("Saved views"),
            html.Div(
                [
                    html.Label("Save as", htmlFor="view-name"),
                    dcc.Input(id="view-name", type="text", maxLength=60, placeholder="a name"),
                    html.Button("Save", id="save", className="small"),
                ],
                className="bar",
            ),
            html.Div(
                [
                    html.Label("Load", htmlFor="view-list"),
                    dcc.Input(id="view-list", type="text", list="views", maxLength=60, placeholder="a saved name"),
                    html.Datalist(id="views"),
                    html.Button("Load", id="load", className="small"),
                ],
                className="bar",
            ),
            html.P(id="view-told", className="note", role="status"),
        ],
        className="work",
    )


def legend() -> Any:
    """How to read the drawing, and the keys."""
    keys = html.Details(
        [
            html.Summary("Keys, when the graph has the focus"),
            html.Dl([part for key, what in _KEYS for part in (html.Dt(html.Kbd(key)), html.Dd(what))]),
        ]
    )
    return html.Div(
        [
            html.P(
                "Circle: head. Diamond: neuron. The pale disc ends at the far end of the 95% interval, the full one at the end "
                "near zero; no full disc: the interval holds zero. Dashed and empty: estimated, not measured. Several colours: "
                "shared by emotions. Edges: dotted where the interval holds zero, dashed where estimated or summed. Blue "
                "supports, orange opposes.",
                className="note",
            ),
            keys,
        ]
    )
