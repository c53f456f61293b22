"""The page as a tree of Dash components: what stands where. What it does is in :mod:`circuits.show.explore.app`."""

from __future__ import annotations

from typing import Any

import dash_cytoscape as cyto
from dash import dcc, html

from circuits.prompts.emotions import EMOTIONS
from circuits.show.explore.desk import Desk
from circuits.show.figures import EMOTION_COLOURS
from circuits.show.words import visible

__all__ = ["TABS", "page"]

TABS = {
    "graph": "Graph",
    "vector": "Circuit and vector",
    "whatif": "What if",
    "judge": "Judge",
    "compare": "Compare",
    "export": "Export",
}

_KEYS = (
    ("/", "search"), ("arrows", "walk: up and down along the heaviest edge, left and right to the neighbour"),
    ("u d b", "light the paths up to the read-outs, down to the tokens, both"), ("Enter", "go to the panel of the component"),
    ("p h a", "pin, hide, show all"), ("z y", "undo, redo"), ("f + -", "fit, nearer, farther"), ("Esc", "let go"),
)  # fmt: skip


def page(desk: Desk) -> Any:
    """The whole page of one run."""
    model, prompts = desk.run.manifest["model"], desk.run.manifest["prompts"]
    tabs = [
        html.Button(label, id=f"tab-{name}", role="tab", tabIndex=0 if name == "graph" else -1,
                    **{"aria-selected": str(name == "graph").lower(), "aria-controls": f"panel-{name}"})
        for name, label in TABS.items()
    ]  # fmt: skip
    bodies = {
        "graph": _graph(desk),
        "vector": [_chooser("vector-emotion", "Emotion"), _late("vector-view")],
        "whatif": _what_if(),
        "judge": [_late("judge-view")],
        "compare": [_compare(desk), _late("compare-view")],
        "export": _export(),
    }
    panels = [
        html.Section(body, id=f"panel-{name}", role="tabpanel", className="panel", hidden=name != "graph",
                     **{"aria-labelledby": f"tab-{name}"})
        for name, body in bodies.items()
    ]  # fmt: skip
    return html.Div(
        [
            html.Header(
                [
                    html.H1(f"Emotion circuits of {_short(model['name'])}"),
                    html.P(
                        f"{desk.layers} layers, {model['heads']} heads and {model['neurons']} neurons a layer; prompts "
                        f"{_short(prompts['name'])}; run {_short(desk.run.directory.name)}",
                        className="note",
                    ),
                    html.P(desk.state, id="model-state", className="note", **{"aria-live": "polite"}),
                ]
            ),
            html.Div(tabs, role="tablist", className="tabs", **{"aria-label": "Views"}),
            html.Main(panels),
            *(dcc.Store(id=name) for name in ("scene", "picked", "selection", "work", "tab", "drawn", "state", "loaded")),
            dcc.Store(id="fixed", data={"layout": desk.layout.as_dict(), "layers": desk.layers}),
            dcc.Interval(id="clock", interval=1500, disabled=not desk.state.endswith("loading")),
            dcc.Download(id="download"),
        ],
        className="page",
    )


def _short(text: object) -> str:
    """Text of a run, with what steers a terminal or a line of text spelled out, and not without end."""
    text = visible(text)
    return text if len(text) <= 120 else text[:117] + "…"


def _late(name: str) -> Any:
    """A place filled when its tab is opened."""
    return dcc.Loading(html.Div(id=name), type="dot", delay_show=300)


def _graph(desk: Desk) -> Any:
    first = next((e for e, c in desk.circuits.items() if c.nodes), EMOTIONS[0])
    canvas = html.Div(
        [
            html.Div(
                cyto.Cytoscape(
                    id="graph", elements=[], layout={"name": "preset", "fit": False}, stylesheet=[], minZoom=0.05, maxZoom=4,
                    style={"width": "100%", "height": "100%"}, responsive=False, wheelSensitivity=1,
                ),
                id="canvas-inner",
            ),
            html.Div(id="tip", hidden=True),
        ],
        id="canvas",
    )  # fmt: skip
    bar = html.Div(
        [
            html.Label("Find", htmlFor="search"),
            dcc.Input(id="search", type="search", placeholder="L2H3, L4N117", list="names", debounce=True, maxLength=40),
            html.Datalist([html.Option(value=n) for n in sorted(desk.layout.places)][:2000], id="names"),
            *(html.Button(text, id=name, title=title, className="small") for name, text, title in (
                ("fit", "Fit", "the whole graph (f)"), ("up", "Paths up", "from here to the read-outs (u)"),
                ("down", "Paths down", "from here back to the tokens (d)"), ("both", "Both", "all paths through here (b)"))),
        ],
        className="bar",
    )  # fmt: skip
    return html.Div(
        [
            html.Div([_filters(desk, str(first)), _work()], className="side", id="filters"),
            html.Div([bar, html.P(id="counts", className="note", **{"aria-live": "polite"}), html.P(id="note", className="warn", role="status"), canvas,
                      _legend(), html.P(id="told", className="unseen", **{"aria-live": "polite"})], className="middle"),
            html.Div(html.Div(id="node-view"), id="node-panel", className="side", tabIndex=-1, role="region", **{"aria-label": "The picked component"}),
        ],
        className="columns",
    )  # fmt: skip


def _swatch(colour: str) -> Any:
    return html.Span(className="swatch", style={"background": colour})


def _filters(desk: Desk, first: str) -> Any:
    options = [
        {"label": html.Span([_swatch(EMOTION_COLOURS[e]), f"{e} ({len(desk.circuits[e].nodes)})"]), "value": str(e)}
        for e in EMOTIONS
    ]
    randoms = [{"label": "none", "value": "none"}]
    count = max((len(some) for some in desk.nulls.values()), default=0)
    randoms += [{"label": f"number {i + 1}", "value": str(i)} for i in range(count)]
    return html.Div(
        [
            html.Fieldset([html.Legend("Emotions"), dcc.Checklist(options, [first], id="emotions")]),
            html.Fieldset([html.Legend("Colour"), dcc.RadioItems(
                [{"label": "by sign", "value": "sign"}, {"label": "by emotion", "value": "emotion"}], "sign", id="colour")]),
            html.Fieldset([html.Legend("Components"), dcc.Checklist(
                [{"label": "heads", "value": "head"}, {"label": "neurons", "value": "neuron"}], ["head", "neuron"], id="kinds"),
                dcc.Checklist([{"label": "measured exactly only", "value": "verified"},
                               {"label": "shared by emotions only", "value": "shared"}], [], id="only")]),
            html.Div([html.Label("Layers", htmlFor="from"), dcc.Input(id="from", type="number", min=0, max=desk.layers - 1, step=1, value=0),
                      html.Label("to", htmlFor="to"), dcc.Input(id="to", type="number", min=0, max=desk.layers - 1, step=1, value=desk.layers - 1)], className="line"),
            html.Label("Least effect, share of the largest", htmlFor="effect"),
            dcc.Input(id="effect", type="range", min=0, max=1, step=0.01, value=0),
            html.Label("Least edge, share of the largest", htmlFor="edge"),
            dcc.Input(id="edge", type="range", min=0, max=1, step=0.005, value=_calm(desk, first)),
            html.Fieldset([html.Legend("Random circuit beside it"), dcc.RadioItems(randoms, "none", id="random", inline=True),
                           html.P(id="random-note", className="note")]),
        ]
    )  # fmt: skip


CALM_EDGES = 400
"""Edges drawn at first; the rest waits behind the slider, and the count above the graph says so."""


def _calm(desk: Desk, first: str) -> float:
    """The threshold at which no more edges are drawn than an eye can follow."""
    weights = sorted((abs(e.weight) for c in desk.circuits.values() if str(c.emotion) == first for e in c.edges), reverse=True)
    if len(weights) <= CALM_EDGES or not weights[0]:
        return 0.0
    return min(1.0, round(float(weights[CALM_EDGES] / weights[0]) + 0.0025, 3))


def _work() -> Any:
    buttons = (
        ("pin", "Pin", "stays whatever the filters say (p)"), ("hide", "Hide", "take it out of sight (h)"),
        ("show-all", "Show all", "bring back what was hidden (a)"), ("undo", "Undo", "z"), ("redo", "Redo", "y"),
    )  # fmt: skip
    named = (("label", "Label", "give the picked component this name"), ("group", "Group", "one box for all selected"),
             ("ungroup", "Ungroup", "take the box apart"))  # fmt: skip

    def row(some: Any) -> list[Any]:
        return [
            html.Button(text, id=name, title=title, className="small", disabled=name in ("undo", "redo"))
            for name, text, title in some
        ]

    return html.Div(
        [
            html.H2("Work on it"),
            html.Div(row(buttons), className="bar"),
            html.Div([html.Label("Name", htmlFor="name"), dcc.Input(id="name", type="text", maxLength=60, placeholder="for a label or a group"), *row(named)], className="bar"),
            html.H3("How much does the selection carry?"),
            html.Div(id="selection-view", **{"aria-live": "polite"}),
            html.H3("Saved views"),
            html.Div([html.Label("Save as", htmlFor="view-name"), dcc.Input(id="view-name", type="text", maxLength=60, placeholder="a name"),
                      html.Button("Save", id="save", className="small")], className="bar"),
            html.Div([html.Label("Load", htmlFor="view-list"), dcc.Input(id="view-list", type="text", list="views", maxLength=60, placeholder="a saved name"),
                      html.Datalist(id="views"), html.Button("Load", id="load", className="small")], className="bar"),
            html.P(id="view-told", className="note", role="status"),
        ],
        className="work",
    )  # fmt: skip


def _legend() -> Any:
    keys = html.Details(
        [html.Summary("Keys, when the graph has the focus"), html.Dl([part for key, what in _KEYS for part in (html.Dt(html.Kbd(key)), html.Dd(what))])]
    )
    return html.Div(
        [
            html.P(
                "Circle: head. Diamond: neuron. The pale disc ends at the far end of the 95% interval, the full one at the end near "
                "zero; no full disc: the interval holds zero. Dashed and empty: estimated, not measured. Several colours: shared by "
                "emotions. Edges: dotted where the interval holds zero, dashed where estimated or summed. Blue supports, orange opposes.",
                className="note",
            ),
            keys,
        ]
    )


def _chooser(name: str, label: str) -> Any:
    options = [{"label": html.Span([_swatch(EMOTION_COLOURS[e]), str(e)]), "value": str(e)} for e in EMOTIONS]
    return html.Fieldset([html.Legend(label), dcc.RadioItems(options, None, id=name, inline=True)], className="inline")


def _what_if() -> Any:
    return html.Div(
        [
            html.P("Change components and see what the model would say. A factor multiplies how far a component is from its replacement "
                   "value: 0 ablates it, 1 leaves it, 2 doubles it."),
            html.Div([html.Label("Prompt of the run", htmlFor="whatif-id"), dcc.Input(id="whatif-id", type="text", list="ids", maxLength=200, placeholder="its id"),
                      html.Datalist(id="ids")], className="line"),
            html.Div([html.Label("or your own text", htmlFor="whatif-text"), dcc.Textarea(id="whatif-text", maxLength=5000, rows=3)], className="line tall"),
            html.Fieldset([html.Legend("Components"), html.Div([html.Button("Take the selection of the graph", id="whatif-take", className="small"),
                           html.Button("Take the picked one", id="whatif-one", className="small")], className="bar"),
                           dcc.Checklist([], [], id="whatif-parts", className="ticks")]),
            html.Div([html.Label("Factor", htmlFor="whatif-factor"), dcc.Input(id="whatif-factor", type="number", min=-10, max=10, step=0.25, value=0),
                      html.Button("Run", id="whatif-run", className="main")], className="line"),
            dcc.Loading(html.Div(id="whatif-view", **{"aria-live": "polite"}), type="dot", delay_show=300),
        ]
    )  # fmt: skip


def _compare(desk: Desk) -> Any:
    return html.Div(
        [
            html.Div([html.Label("Another run in the same folder", htmlFor="compare-with"),
                      dcc.Input(id="compare-with", type="text", list="others", maxLength=200, placeholder="its name", debounce=True),
                      html.Datalist([html.Option(value=name) for name in desk.siblings()], id="others"),
                      html.Button("Compare", id="compare-run", className="main")], className="line"),
            _chooser("compare-emotion", "Emotion"),
        ]
    )  # fmt: skip


def _export() -> Any:
    return html.Div(
        [
            html.H2("What is seen in the graph"),
            html.Div([html.Button("SVG", id="svg"), html.Button("PNG", id="png")], className="bar"),
            html.H2("As data, the components and edges shown"),
            html.Div([html.Button("GraphML", id="as-graphml"), html.Button("JSON", id="as-json"), html.Button("CSV, components", id="as-nodes"),
                      html.Button("CSV, edges", id="as-edges")], className="bar"),
            html.P("With several emotions on, the file holds their union: every number by emotion.", className="note"),
            html.P(id="export-told", className="note", role="status"),
        ]
    )  # fmt: skip
