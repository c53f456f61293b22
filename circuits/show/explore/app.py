"""The explorer as a Dash app: what happens when something is asked.

Drawing, filters, paths, keys and undo live in the browser (``assets``) and need no round trip; what needs the run or the model
is asked here. Every answer is an answer: what fails for a reason a reader can act on is shown in its place, in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update

from circuits.circuit.algebra import part, union
from circuits.circuit.formats import to_graphml, to_node_link
from circuits.circuit.graph import Circuit
from circuits.errors import CircuitsError, RunError
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs import views as saved
from circuits.runs.exporting import as_csv
from circuits.runs.ledger import read_claims
from circuits.show.explore import panel, views
from circuits.show.explore.desk import Desk
from circuits.show.explore.guard import guard
from circuits.show.explore.page import page
from circuits.show.explore.scene import key, scene
from circuits.show.words import counts, percent, visible

__all__ = ["make_app"]

SELECTIONS = 20
"""Random selections a working selection is held against: the fewest that can tell it from chance at 5%."""


def make_app(desk: Desk) -> Dash:
    """The app of one run, guarded; :func:`circuits.show.explore.serving.serve` puts it on the loopback address."""
    app = Dash(
        "circuits.show.explore",
        title="Emotion circuits",
        update_title="",
        suppress_callback_exceptions=True,
        serve_locally=True,
        assets_folder="assets",
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.index_string = _INDEX
    app.layout = lambda: page(desk)
    _graph(app, desk)
    _panel(app, desk)
    _tabs(app, desk)
    _what_if(app, desk)
    _saving(app, desk)
    _export(app, desk)
    guard(app.server, hosts=(), scripts=app.csp_hashes())
    return app


_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
<body data-tab="graph">{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def _kindly(desk: Desk) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What fails with one of our errors is shown in the place of the answer; a removed run is named as such."""

    def wrap(answer: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(answer)
        def kind(*values: Any) -> Any:
            try:
                desk.require_run()
                return answer(*values)
            except CircuitsError as error:
                return html.P(visible(error), className="warn", role="alert")

        return kind

    return wrap


def _emotions(names: object) -> list[Emotion]:
    """What a page sent, as emotions; what is none is left out."""
    known = {str(e): e for e in EMOTIONS}
    given = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
    return [known[n] for n in dict.fromkeys(given) if n in known]


def _names(value: object) -> list[str]:
    """What a page sent, as names of components; bounded."""
    return [str(n)[:40] for n in value[:20_000]] if isinstance(value, list) else []


def _graph(app: Dash, desk: Desk) -> None:
    @app.callback(Output("scene", "data"), Input("emotions", "value"))
    def drawn(emotions: object) -> Any:
        return scene(desk.circuits, _emotions(emotions), desk.layout, desk.nulls)

    app.clientside_callback(
        ClientsideFunction("explorer", "apply"),
        Output("drawn", "data"),
        Input("scene", "data"),
        Input("emotions", "value"),
        *(Input(name, "value") for name in ("colour", "kinds", "from", "to", "effect", "edge", "only", "random")),
        State("fixed", "data"),
    )

    @app.callback(Output("random-note", "children"), Input("random", "value"), Input("emotions", "value"))
    def random_note(number: object, emotions: object) -> Any:
        if number == "none":
            return "Drawn from the random circuits each was judged beside."
        some = {e: r for e in _emotions(emotions) for i, r in enumerate(desk.nulls[e]) if str(i) == number}
        if not some:
            return "None was drawn for these emotions."
        n = counts(desk.circuits[e].judgement["n"] for e in some)
        said = ", ".join(f"{e} {percent(r.faithfulness)}" for e, r in some.items())
        return f"Faithfulness of this one on test, n = {n} scenarios, one draw, so no interval: {said}"

    @app.callback(Output("selection-view", "children"), Input("selection", "data"), Input("model-state", "children"))
    @_kindly(desk)
    def judged(selection: Any, _state: Any) -> Any:
        if desk.live is None:
            return html.P(f"Needs the model; {visible(desk.state)}.", className="note")
        if not isinstance(selection, dict):
            return no_update
        names, wanted = _names(selection.get("names")), _emotions(selection.get("emotions"))
        if not names or not wanted:
            return html.P("Nothing is selected or shown.", className="note")
        found = {str(e): desk.live.selection(e, names, count=SELECTIONS).as_dict() for e in wanted}
        return views.selection_view(found, len(names), bool(selection.get("all")))

    @app.callback(Output("model-state", "children"), Output("clock", "disabled"), Input("clock", "n_intervals"))
    def awake(_ticks: object) -> Any:
        return visible(desk.state), not desk.state.endswith("loading")


def _panel(app: Dash, desk: Desk) -> None:
    @app.callback(
        Output("node-view", "children"),
        Input("picked", "data"),
        Input("emotions", "value"),
        Input("model-state", "children"),
    )
    @_kindly(desk)
    def shown(picked: Any, emotions: Any, _state: Any) -> Any:
        return panel.node_panel(desk, None if picked is None else str(picked), [str(e) for e in _emotions(emotions)])

    @app.callback(Output("look-view", "children"), Input("look-id", "value"), State("picked", "data"))
    @_kindly(desk)
    def looked(prompt: Any, picked: Any) -> Any:
        return no_update if not prompt or not picked else panel.tokens_view(desk, str(prompt), str(picked))


def _tabs(app: Dash, desk: Desk) -> None:
    @app.callback(
        Output("vector-view", "children"),
        Input("tab", "data"),
        Input("vector-emotion", "value"),
        State("picked", "data"),
        State("emotions", "value"),
    )
    @_kindly(desk)
    def vector(tab: Any, emotion: Any, picked: Any, shown: Any) -> Any:
        if tab != "vector":
            return no_update
        chosen = _emotions([emotion]) or _emotions(shown)
        return views.vector_view(desk, str(chosen[0]) if chosen else None, None if picked is None else str(picked))

    @app.callback(
        Output("picked", "data", allow_duplicate=True), Input("vector-nodes", "clickData"), prevent_initial_call=True
    )
    def linked(click: Any) -> Any:
        try:
            return str(click["points"][0]["customdata"])[:40]
        except (KeyError, IndexError, TypeError):
            return no_update

    app.clientside_callback(
        ClientsideFunction("explorer", "follow"),
        Output("followed", "data"),
        Input("picked", "data"),
        prevent_initial_call=True,
    )

    @app.callback(Output("judge-view", "children"), Input("tab", "data"))
    @_kindly(desk)
    def judge(tab: Any) -> Any:
        if tab != "judge":
            return no_update
        return [*views.judge_view(desk), *views.ledger_view(read_claims(desk.run.directory))]

    @app.callback(
        Output("compare-view", "children"),
        Input("tab", "data"),
        Input("compare-run", "n_clicks"),
        Input("compare-emotion", "value"),
        State("compare-with", "value"),
        State("emotions", "value"),
    )
    @_kindly(desk)
    def compared(tab: Any, _clicks: Any, emotion: Any, name: Any, shown: Any) -> Any:
        if tab != "compare":
            return no_update
        chosen = _emotions([emotion]) or _emotions(shown)
        return views.compare_view(desk, str(name)[:200] if name else None, str(chosen[0]) if chosen else None)


def _what_if(app: Dash, desk: Desk) -> None:
    @app.callback(Output("ids", "children"), Input("tab", "data"))
    @_kindly(desk)
    def ids(tab: Any) -> Any:
        if tab != "whatif":
            return no_update
        return [
            html.Option(value=i, label=visible(t["text"])[:80]) for i, t in desk.texts.items() if t["split"] == "test"
        ][:600]

    @app.callback(
        Output("whatif-parts", "options"),
        Output("whatif-parts", "value"),
        Input("whatif-take", "n_clicks"),
        Input("whatif-one", "n_clicks"),
        State("selection", "data"),
        State("picked", "data"),
        prevent_initial_call=True,
    )
    def taken(_all: Any, _one: Any, selection: Any, picked: Any) -> Any:
        names = (
            [str(picked)[:40]]
            if ctx.triggered_id == "whatif-one" and picked
            else _names((selection or {}).get("names"))[:200]
        )
        return [{"label": n, "value": n} for n in names], names

    @app.callback(
        Output("whatif-view", "children"),
        Input("whatif-run", "n_clicks"),
        State("whatif-id", "value"),
        State("whatif-text", "value"),
        State("whatif-parts", "value"),
        State("whatif-factor", "value"),
        Input("model-state", "children"),
    )
    @_kindly(desk)
    def run(clicks: Any, prompt: Any, text: Any, parts: Any, factor: Any, _state: Any) -> Any:
        if desk.live is None:
            return html.P(f"Needs the model; {visible(desk.state)}.", className="note")
        if not clicks:
            return html.P("Choose a prompt or type a text, take components from the graph, and run.", className="note")
        if not isinstance(factor, int | float):
            return html.P("The factor is no number; expected 0 to ablate, 1 to leave, 2 to double.", className="warn")
        typed = str(text).strip() if text else ""
        if not typed and not prompt:
            return html.P("There is no text yet: choose a prompt of the run or type one.", className="warn")
        if not typed and str(prompt) not in desk.texts:
            return html.P(
                f"The run has no prompt {visible(prompt)[:80]!r}; choose one of the list, or type a text below it.",
                className="warn",
            )
        factors = {name: float(factor) for name in _names(parts)}
        if not factors:
            return html.P("No component is ticked: take the selection of the graph first.", className="warn")
        return views.what_if_view(desk.live.what_if(typed or str(prompt), factors).as_dict())


def _saving(app: Dash, desk: Desk) -> None:
    app.clientside_callback(
        ClientsideFunction("explorer", "state"),
        Output("state", "data"),
        Input("save", "n_clicks"),
        State("work", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("explorer", "restore"),
        Output("restored", "data"),
        Input("loaded", "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("view-told", "children"),
        Output("views", "children"),
        Output("loaded", "data"),
        Input("state", "data"),
        Input("load", "n_clicks"),
        State("view-name", "value"),
        State("view-list", "value"),
    )
    def stored(state: Any, _load: Any, name: Any, wanted: Any) -> Any:
        told, loaded = "", no_update
        try:
            desk.require_run()
            if ctx.triggered_id == "state" and state:
                saved.save_view(desk.run, str(name or "").strip(), state)
                told = f"saved as {visible(name)}"
            elif ctx.triggered_id == "load":
                loaded = dict(saved.load_view(desk.run, str(wanted or "").strip()).state)
                told = f"loaded {visible(wanted)}"
        except CircuitsError as error:
            told = visible(error)
        try:
            known = saved.list_views(desk.run)
        except CircuitsError:
            known = ()
        return told, [html.Option(value=n) for n in known], loaded


def _export(app: Dash, desk: Desk) -> None:
    kinds = ("graphml", "json", "nodes", "edges")

    @app.callback(
        Output("download", "data"),
        Output("export-told", "children"),
        *(Input(f"as-{k}", "n_clicks") for k in kinds),
        State("selection", "data"),
        prevent_initial_call=True,
    )
    def given(*values: Any) -> Any:
        kind = str(ctx.triggered_id or "")[3:]
        selection = values[-1]
        try:
            desk.require_run()
            seen = seen_circuit(desk.circuits, selection)
        except CircuitsError as error:
            return no_update, visible(error)
        if kind == "graphml":
            text, name = to_graphml(seen), "circuit.graphml"
        elif kind == "json":
            text, name = to_node_link(seen), "circuit.json"
        else:
            text, name = as_csv(seen)[kind], f"circuit-{kind}.csv"
        return dcc.send_string(text, name), f"{len(seen.nodes)} components, {len(seen.edges)} edges"


def seen_circuit(circuits: Mapping[Emotion, Circuit], selection: Any) -> Circuit:
    """The part of the circuits that the page shows, as one circuit; several emotions merged.

    Raises:
        RunError: nothing is shown.
    """
    if not isinstance(selection, dict):
        raise RunError("nothing is shown yet; open the graph first")
    wanted, names = _emotions(selection.get("emotions")), set(_names(selection.get("names")))
    some = [circuits[e] for e in wanted if circuits[e].nodes]
    if not some or not names:
        raise RunError("nothing is shown; choose an emotion that has a circuit")
    merged = some[0]
    for one in some[1:]:
        merged = union(merged, one)
    edges = selection.get("edges")
    keys = {key(d): d.key for d in merged.edges}
    shown = {keys[k] for k in map(str, edges) if k in keys} if isinstance(edges, list) else None
    return part(merged, names, shown)
