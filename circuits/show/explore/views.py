"""The other views: circuit and vector, judge, compare, what if. Figures from the report's room, words around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import html

from circuits.compare.claims import Claim
from circuits.model.sites import Kind, parse
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import open_run
from circuits.runs.sides import compare, side
from circuits.show import figures
from circuits.show.beside import effects, effects_in_words
from circuits.show.differences import difference_figure
from circuits.show.explore.desk import Desk
from circuits.show.explore.panel import captioned
from circuits.show.figures import EMOTION_COLOURS
from circuits.show.halves import half_layers, misattribution
from circuits.show.vectors import below
from circuits.show.words import decimal, in_words, percent, visible

__all__ = [
    "compare_view",
    "judge_view",
    "ledger_view",
    "nodes_figure",
    "projections",
    "selection_view",
    "vector_view",
    "what_if_view",
]


def projections(table: pd.DataFrame) -> go.Figure:
    """The emotion-centred projection of the whole stream on each emotion's direction, state by state [residual units]."""
    figure = go.Figure()
    parts = table[(table["role"] == "part") & table["item"].isin(["heads", "neurons", "rest"])]
    for e in EMOTIONS:
        rows = parts[parts["emotion"] == str(e)]
        total = rows.groupby("state", sort=False)["contribution"].sum(min_count=1)
        figure.add_scatter(
            x=list(total.index),
            y=total.to_numpy(),
            mode="lines+markers",
            name=str(e),
            line={"color": EMOTION_COLOURS[e]},
            marker={"symbol": "circle-open"},
            hovertemplate=f"{e}, %{{x}}: %{{y:.3f}}<extra></extra>",
        )
    figure.update_yaxes(title="projection [residual units]")
    figure.update_layout(
        title={
            "text": "How far each emotion's texts lie along their direction (hollow: no interval kept)",
            "x": 0.01,
            "font": {"size": 15},
        },
        template="plotly_white",
        height=360,
        legend={"orientation": "h", "y": below(figure, -0.16)},
        font={"family": "system-ui, sans-serif", "color": "#222222"},
        margin={"l": 70, "r": 20, "t": 60, "b": 50},
    )
    return figure


def nodes_figure(table: pd.DataFrame, e: Emotion, picked: str | None = None) -> go.Figure:
    """The circuit's nodes on the half-layer they write in: share of the last state's projection each writes, with intervals."""
    nodes = table[(table["emotion"] == str(e)) & (table["role"] == "node")]
    figure = go.Figure()
    if len(nodes):
        last = nodes[nodes["state"] == nodes["state"].iloc[-1]]
        order = [
            f"L{layer} {half}"
            for layer in sorted({parse(c).layer for c in last["item"]})
            for half in ("attention", "MLP")
        ]
        for kind, symbol in ((Kind.HEAD, "circle"), (Kind.NEURON, "diamond")):
            some = last[[parse(c).kind is kind for c in last["item"]]]
            if not len(some):
                continue
            figure.add_scatter(
                x=[f"L{parse(c).layer} {'attention' if kind is Kind.HEAD else 'MLP'}" for c in some["item"]],
                y=some["share"],
                mode="markers",
                error_y={
                    "type": "data",
                    "array": some["high"] - some["share"],
                    "arrayminus": some["share"] - some["low"],
                    "thickness": 1,
                    "width": 2,
                },
                name=f"{kind}s",
                text=some["item"],
                customdata=list(some["item"]),
                marker={
                    "symbol": symbol,
                    "color": EMOTION_COLOURS[e],
                    "size": [16 if c == picked else 9 for c in some["item"]],
                    "line": {"width": [3 if c == picked else 0.5 for c in some["item"]], "color": "#222222"},
                },
                hovertemplate="%{text}: %{y:.1%}<extra>click to pick</extra>",
            )
        figure.update_xaxes(categoryorder="array", categoryarray=order)
        n = int(last["n"].max())
        title = (
            f"{e}: what each node writes on the direction at {last['state'].iloc[0]} (n = {n} scenarios); click to pick"
        )
    else:
        title = f"{e}: no circuit, so no nodes to mark"
    figure.update_yaxes(title="share of the projection", tickformat=".0%")
    figure.update_layout(
        title={"text": title, "x": 0.01, "font": {"size": 15}},
        template="plotly_white",
        height=380,
        legend={"orientation": "h", "y": below(figure, -0.18)},
        font={"family": "system-ui, sans-serif", "color": "#222222"},
        margin={"l": 70, "r": 20, "t": 60, "b": 50},
    )
    return figure


def vector_view(desk: Desk, name: str | None, picked: str | None) -> Any:
    """Layer by layer, both positions: projection, who writes it, rotation, same effect; the circuit's nodes on it."""
    e = Emotion(name) if name else next((e for e, c in desk.circuits.items() if c.nodes), EMOTIONS[0])
    run = desk.run
    table = run.comparison.table
    if not len(table):
        return html.P(
            "This run holds no comparison with directions: it found no circuit or no direction. Its notices: "
            + visible("; ".join(map(str, run.manifest["notices"])) or "none"),
            className="note",
        )
    parts: list[Any] = [captioned(projections(table))]
    if (table["emotion"] == str(e)).any():
        parts += [captioned(figures.writers(table, e)), captioned(nodes_figure(table, e, picked), "vector-nodes")]
    else:
        parts.append(html.P(f"The run compares no circuit of {e} with its direction.", className="note"))
    if (run.half_layers["emotion"] == str(e)).any():
        parts.append(captioned(half_layers(run.half_layers, e, table)))
    if (run.same_effect.table["emotion"] == str(e)).any():
        parts += [captioned(effects(run.same_effect.table, e)), html.P(effects_in_words(run.same_effect.table, e))]
    if len(run.half_layer_rates):
        parts.append(captioned(misattribution(run.half_layer_rates)))
    return parts


def judge_view(desk: Desk) -> Any:
    """Faithfulness with random circuits, curves, specificity, stability, and what reading needs to know."""
    circuits, together = desk.circuits, desk.run.manifest["judge"]
    parts: list[Any] = [html.H2("In plain words"), html.Ul([html.Li(visible(in_words(c))) for c in circuits.values()])]
    notices = desk.run.manifest["notices"]
    if notices:
        parts.append(html.Div([html.P(visible(n), className="warn") for n in notices]))
    if any("faithfulness" in c.judgement for c in circuits.values()):
        parts.append(captioned(figures.faithfulness(circuits)))
    if any("curve" in c.judgement for c in circuits.values()):
        parts.append(captioned(figures.curves(circuits)))
    if "specificity" in together:
        parts.append(captioned(figures.specificity(together["specificity"])))
    rows = []
    for e, c in circuits.items():
        found = c.judgement.get("stability")
        if found is not None:
            rows.append(
                html.Tr(
                    [
                        html.Th(str(e), scope="row"),
                        html.Td(f"{decimal(found['mean'])} [{decimal(found['low'])}, {decimal(found['high'])}]"),
                        html.Td(decimal(found["chance"])),
                        html.Td(decimal(found["ceiling"])),
                        html.Td(str(found["n"])),
                    ]
                )
            )
    if rows:
        head = html.Tr(
            [
                html.Th(t, scope="col")
                for t in ("emotion", "Jaccard under resampling", "by chance", "split-half ceiling", "resamples")
            ]
        )
        parts += [
            html.H2("Is it steady?"),
            html.Div(html.Table([html.Thead(head), html.Tbody(rows)]), className="wide"),
        ]
    if "skipped" in together:
        parts.append(html.P(f"Not measured, to save time: {visible(together['skipped'])}.", className="note"))
    return parts


def ledger_view(claims: Sequence[Claim]) -> list[Any]:
    """The claims put to the test on this run, as its directory keeps them."""
    title = html.H2("Claims put to the test")
    if not claims:
        return [title, html.P("None was tested on this run yet; make claims does.", className="note")]
    head = html.Tr([html.Th(t, scope="col") for t in ("claim", "verdict", "estimate [95%]", "unit", "n")])
    rows = [
        html.Tr(
            [
                html.Th(visible(c.claim), scope="row"),
                html.Td(str(c.verdict)),
                html.Td(_interval(c)),
                html.Td(visible(c.unit)),
                html.Td(str(c.n)),
            ]
        )
        for c in claims
    ]
    return [title, html.Div(html.Table([html.Thead(head), html.Tbody(rows)], className="claims"), className="wide")]


def _interval(c: Claim) -> str:
    value, low, high = ("–" if x is None else f"{x:.3g}" for x in (c.estimate, c.low, c.high))
    return f"{value} [{low}, {high}]"


def compare_view(desk: Desk, name: str | None, wanted: str | None) -> Any:
    """Two runs side by side: the other's circuit, what is kept, gained and lost."""
    if not name:
        others = desk.siblings()
        return html.P(
            "Name another run of the same folder."
            if others
            else "There is no other run in the same folder. Make one, with other "
            "settings or prompts: circuits discover --out " + visible(desk.run.directory.parent / "another"),
            className="note",
        )
    other = open_run(desk.beside(name))
    found = compare(side(desk.run), side(other))
    e = Emotion(wanted) if wanted else next(iter(found.found))
    parts: list[Any] = [html.P(visible(n), className="warn") for n in found.notices]
    head = html.Tr(
        [
            html.Th(t, scope="col")
            for t in (
                "emotion",
                "faithfulness here [95%]",
                "there [95%]",
                "nodes only here",
                "only there",
                "in both",
                "Jaccard",
            )
        ]
    )
    rows = []
    for one, d in found.found.items():
        sides = [_faithful(s.circuits[one].judgement) for s in (found.new, found.golden)]
        rows.append(
            html.Tr(
                [
                    html.Th(str(one), scope="row"),
                    html.Td(sides[0]),
                    html.Td(sides[1]),
                    html.Td(str(len(d.gained))),
                    html.Td(str(len(d.lost))),
                    html.Td(str(len(d.kept))),
                    html.Td(decimal(d.jaccard)),
                ]
            )
        )
    parts += [html.Div(html.Table([html.Thead(head), html.Tbody(rows)]), className="wide")]
    if e in found.found:
        d = found.found[e]
        if d.gained or d.lost or d.kept:
            sizes = [int(r.manifest["model"]["layers"]) for r in (desk.run, other)]
            drawn = [figures.circuit_graph(r.circuit(e), n) for r, n in zip((desk.run, other), sizes, strict=True)]
            for figure, side_name in zip(drawn, (desk.run.directory.name, name), strict=True):
                figure.update_layout(title={"text": f"{visible(side_name)[:60]}, {figure.layout.title.text}"})
            only = [("only here", d.gained), ("only there", d.lost)]
            parts.append(html.Div([captioned(f) for f in drawn], className="pair"))
            parts += [html.P(f"{what}: {', '.join(n.name for n in some) or 'none'}") for what, some in only]
            parts.append(captioned(difference_figure(d)))
        else:
            parts.append(html.P(f"Neither run found a circuit of {e}.", className="note"))
    return parts


def _faithful(j: Mapping[str, Any]) -> str:
    if "faithfulness" not in j:
        return "no circuit"
    return f"{percent(j['faithfulness'])} [{percent(j['faithfulness_low'])}, {percent(j['faithfulness_high'])}]"


def selection_view(found: Mapping[str, Mapping[str, Any]], count: int, all_shown: bool) -> Any:
    """Faithfulness of the working selection beside random selections, emotion by emotion."""
    rows = []
    for e, one in found.items():
        rows.append(
            html.Tr(
                [
                    html.Th(e, scope="row"),
                    html.Td(f"{percent(one['value'])} [{percent(one['low'])}, {percent(one['high'])}]"),
                    html.Td(f"{percent(one['random_mean'])} (at most {percent(max(one['random']))})"),
                ]
            )
        )
    first = next(iter(found.values()))
    seconds = sum(one["seconds"] for one in found.values())
    forwards = sum(one["forwards"] for one in found.values())
    head = html.Tr([html.Th(t, scope="col") for t in ("", "faithfulness [95%]", "random, same layers")])
    what = "All that is shown" if all_shown else "The selected"
    return [
        html.P(f"{what}: {count} components, alone, everything else ablated."),
        html.Table([html.Thead(head), html.Tbody(rows)]),
        html.P(
            f"test texts, n = {first['n']} scenarios, {len(first['random'])} random selections; "
            f"{forwards:g} forwards, {seconds:.2f} s",
            className="note",
        ),
    ]


def what_if_view(found: Mapping[str, Any]) -> Any:
    """Six logit differences and the next words, before and after."""
    names = [str(e) for e in EMOTIONS]
    before, after = ([found[when][e] for e in names] for when in ("before", "after"))
    figure = go.Figure()
    figure.add_bar(y=names, x=before, name="as it is", orientation="h", marker={"color": "#BBBBBB"})
    figure.add_bar(
        y=names, x=after, name="changed", orientation="h", marker={"color": [EMOTION_COLOURS[e] for e in EMOTIONS]}
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="logit difference of the emotion's words")
    figure.update_layout(
        title={"text": "Six emotions, one text", "x": 0.01, "font": {"size": 15}},
        template="plotly_white",
        height=340,
        barmode="group",
        legend={"orientation": "h", "y": -0.25},
        margin={"l": 80, "r": 20, "t": 50, "b": 50},
    )
    head = html.Tr([html.Th(t, scope="col") for t in ("next word", "as it is", "changed")])
    rows = [
        html.Tr(
            [
                html.Th(html.Code(visible(w["word"])[:40]), scope="row"),
                html.Td(f"{100 * w['before']:.2f}%"),
                html.Td(f"{100 * w['after']:.2f}%"),
            ]
        )
        for w in found["words"]
    ]
    unknown = found.get("unknown") or []
    parts: list[Any] = []
    if unknown:
        parts.append(
            html.P(
                "The model does not know: "
                + visible(", ".join(map(str, unknown)))[:500]
                + ". It reads them as unknown.",
                className="warn",
            )
        )
    parts += [
        html.Div(
            [captioned(figure), html.Div(html.Table([html.Thead(head), html.Tbody(rows)]), className="wide")],
            className="pair",
        ),
        html.P(
            f"Replacement values: {visible(found['replacement'])}. One text, so no interval: the panel has effects "
            "over all texts. "
            f"Cost: {found['forwards']:g} forwards, {found['seconds']:.2f} s.",
            className="note",
        ),
    ]
    return parts
