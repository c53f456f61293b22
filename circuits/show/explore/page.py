"""The page as a tree of Dash components: what stands where. What it does is in :mod:`circuits.show.explore.app`."""

from __future__ import annotations

from typing import Any

import dash_cytoscape as cyto
from dash import dcc, html

from circuits.prompts.emotions import EMOTIONS
from circuits.show.explore.controls import filters, legend, swatch, work
from circuits.show.explore.desk import Desk
from circuits.show.figures import EMOTION_COLOURS
from circuits.show.words import shortened

__all__ = ["TABS", "page"]

TABS = {
    "graph": "Graph",
    "vector": "Circuit and vector",
    "whatif": "What if",
    "judge": "Judge",
    "compare": "Compare",
    "export": "Export",
}


def page(desk: Desk) -> Any:
    """The whole page of one run."""
    model, prompts = desk.run.manifest["model"], desk.run.manifest["prompts"]
    tabs = [
        html.Button(
            label,
            id=f"tab-{name}",
            role="tab",
            tabIndex=0 if name == "graph" else -1,
            **{"aria-selected": str(name == "graph").lower(), "aria-controls": f"panel-{name}"},
        )
        for name, label in TABS.items()
    ]
    bodies = {
        "graph": _graph(desk),
        "vector": [_chooser("vector-emotion", "Emotion"), _late("vector-view")],
        "whatif": _what_if(),
        "judge": [_late("judge-view")],
        "compare": [_compare(desk), _late("compare-view")],
        "export": _export(),
    }
    panels = [
        html.Section(
            body,
            id=f"panel-{name}",
            role="tabpanel",
            className="panel",
            hidden=name != "graph",
            **{"aria-labelledby": f"tab-{name}"},
        )
        for name, body in bodies.items()
    ]
    return html.Div(
        [
            html.Header(
                [
                    html.H1(f"Emotion circuits of {shortened(model['name'])}"),
                    html.P(
                        f"{desk.layers} layers, {model['heads']} heads and {model['neurons']} neurons a layer; prompts "
                        f"{shortened(prompts['name'])}; run {shortened(desk.run.directory.name)}",
                        className="note",
                    ),
                    html.P(desk.state, id="model-state", className="note", **{"aria-live": "polite"}),
                ]
            ),
            html.Div(tabs, role="tablist", className="tabs", **{"aria-label": "Views"}),
            html.Main(panels),
            *(
                dcc.Store(id=name)
                for name in (
                    "scene",
                    "picked",
                    "selection",
                    "work",
                    "tab",
                    "drawn",
                    "followed",
                    "restored",
                    "state",
                    "loaded",
                )
            ),
            dcc.Store(id="fixed", data={"layout": desk.layout.as_dict(), "layers": desk.layers}),
            dcc.Interval(id="clock", interval=1500, disabled=not desk.state.endswith("loading")),
            dcc.Download(id="download"),
        ],
        className="page",
    )


def _late(name: str) -> Any:
    """A place filled when its tab is opened."""
    return dcc.Loading(html.Div(id=name), type="dot", delay_show=300)


def _graph(desk: Desk) -> Any:
    first = next((e for e, c in desk.circuits.items() if c.nodes), EMOTIONS[0])
    canvas = html.Div(
        [
            html.Div(
                cyto.Cytoscape(
                    id="graph",
                    elements=[],
                    layout={"name": "preset", "fit": False},
                    stylesheet=[],
                    minZoom=0.05,
                    maxZoom=4,
                    style={"width": "100%", "height": "100%"},
                    responsive=False,
                    wheelSensitivity=1,
                ),
                id="canvas-inner",
            ),
            html.Div(id="tip", hidden=True),
        ],
        id="canvas",
        tabIndex=0,
        role="application",
        **{"aria-label": "The circuit as a graph; arrows walk along its edges; the list below names the keys"},
    )
    bar = html.Div(
        [
            html.Label("Find", htmlFor="search"),
            dcc.Input(
                id="search", type="search", placeholder="L2H3, L4N117", list="names", debounce=True, maxLength=40
            ),
            html.Datalist([html.Option(value=n) for n in sorted(desk.layout.places)][:2000], id="names"),
            *(
                html.Button(text, id=name, title=title, className="small")
                for name, text, title in (
                    ("fit", "Fit", "the whole graph (f)"),
                    ("up", "Paths up", "from here to the read-outs (u)"),
                    ("down", "Paths down", "from here back to the tokens (d)"),
                    ("both", "Both", "all paths through here (b)"),
                )
            ),
        ],
        className="bar",
    )
    return html.Div(
        [
            html.Div([filters(desk, str(first)), work()], className="side", id="filters"),
            html.Div(
                [
                    bar,
                    html.P(id="counts", className="note", **{"aria-live": "polite"}),
                    html.P(id="note", className="warn", role="status"),
                    canvas,
                    legend(),
                    html.P(id="told", className="unseen", **{"aria-live": "polite"}),
                ],
                className="middle",
            ),
            html.Div(
                html.Div(id="node-view"),
                id="node-panel",
                className="side",
                tabIndex=-1,
                role="region",
                **{"aria-label": "The picked component"},
            ),
        ],
        className="columns",
    )


def _chooser(name: str, label: str) -> Any:
    options = [{"label": "as in the graph", "value": ""}]
    options += [{"label": html.Span([swatch(EMOTION_COLOURS[e]), str(e)]), "value": str(e)} for e in EMOTIONS]
    return html.Fieldset([html.Legend(label), dcc.RadioItems(options, "", id=name, inline=True)], className="inline")


def _what_if() -> Any:
    return html.Div(
        [
            html.P(
                "Change components and see what the model would say. A factor multiplies how far a component is from its "
                "replacement value: 0 ablates it, 1 leaves it, 2 doubles it."
            ),
            html.Div(
                [
                    html.Label("Prompt of the run", htmlFor="whatif-id"),
                    dcc.Input(id="whatif-id", type="text", list="ids", maxLength=200, placeholder="its id"),
                    html.Datalist(id="ids"),
                ],
                className="line",
            ),
            html.Div(
                [
                    html.Label("or your own text", htmlFor="whatif-text"),
                    dcc.Textarea(id="whatif-text", maxLength=5000, rows=3),
                ],
                className="line tall",
            ),
            html.Fieldset(
                [
                    html.Legend("Components"),
                    html.Div(
                        [
                            html.Button("Take the selection of the graph", id="whatif-take", className="small"),
                            html.Button("Take the picked one", id="whatif-one", className="small"),
                        ],
                        className="bar",
                    ),
                    dcc.Checklist([], [], id="whatif-parts", className="ticks"),
                ]
            ),
            html.Div(
                [
                    html.Label("Factor", htmlFor="whatif-factor"),
                    dcc.Input(id="whatif-factor", type="number", min=-10, max=10, step=0.25, value=0),
                    html.Button("Run", id="whatif-run", className="main"),
                ],
                className="line",
            ),
            dcc.Loading(html.Div(id="whatif-view", **{"aria-live": "polite"}), type="dot", delay_show=300),
        ]
    )


def _compare(desk: Desk) -> Any:
    return html.Div(
        [
            html.Div(
                [
                    html.Label("Another run in the same folder", htmlFor="compare-with"),
                    dcc.Input(
                        id="compare-with",
                        type="text",
                        list="others",
                        maxLength=200,
                        placeholder="its name",
                        debounce=True,
                    ),
                    html.Datalist([html.Option(value=name) for name in desk.siblings()], id="others"),
                    html.Button("Compare", id="compare-run", className="main"),
                ],
                className="line",
            ),
            _chooser("compare-emotion", "Emotion"),
        ]
    )


def _export() -> Any:
    return html.Div(
        [
            html.H2("What is seen in the graph"),
            html.Div([html.Button("SVG", id="svg"), html.Button("PNG", id="png")], className="bar"),
            html.H2("As data, the components and edges shown"),
            html.Div(
                [
                    html.Button("GraphML", id="as-graphml"),
                    html.Button("JSON", id="as-json"),
                    html.Button("CSV, components", id="as-nodes"),
                    html.Button("CSV, edges", id="as-edges"),
                ],
                className="bar",
            ),
            html.P("With several emotions on, the file holds their union: every number by emotion.", className="note"),
            html.P(id="export-told", className="note", role="status"),
        ]
    )
