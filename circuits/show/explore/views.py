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
from circuits.show.dosed import doses_in_words
from circuits.show.explore.desk import Desk
from circuits.show.explore.parts import captioned, note, table, warning
from circuits.show.halves import half_layers, misattribution
from circuits.show.style import EMOTION_COLOURS, error, styled
from circuits.show.vectors import below
from circuits.show.words import counts, decimal, in_words, percent, ranged, shortened, visible

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
    figure.update_yaxes(title="projection [residual units]", rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "y": below(figure, -0.16)})
    title = "How far each emotion's texts lie along their direction, state by state (hollow: no interval kept)"
    return styled(figure, title, 360)


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
                error_y=error(some["share"], some["low"], some["high"], thickness=1, width=2),
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
    figure.update_layout(legend={"orientation": "h", "y": below(figure, -0.18)})
    return styled(figure, title, 380)


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
        parts.append(note(f"The run compares no circuit of {e} with its direction."))
    if (run.half_layers["emotion"] == str(e)).any():
        parts.append(captioned(half_layers(run.half_layers, e, table)))
    if (run.same_effect.table["emotion"] == str(e)).any():
        parts += [captioned(effects(run.same_effect.table, e)), html.P(effects_in_words(run.same_effect.table, e))]
    if (run.doses["emotion"] == str(e)).any():
        parts += [captioned(figures.doses(run.doses, e)), html.P(doses_in_words(run.doses, e))]
    if len(run.half_layer_rates):
        parts.append(captioned(misattribution(run.half_layer_rates)))
    return parts


def judge_view(desk: Desk) -> Any:
    """Faithfulness with random circuits, curves, specificity, stability, and what reading needs to know."""
    circuits, together = desk.circuits, desk.run.manifest["judge"]
    parts: list[Any] = [html.H2("In plain words"), html.Ul([html.Li(visible(in_words(c))) for c in circuits.values()])]
    notices = desk.run.manifest["notices"]
    if notices:
        parts.append(html.Div([warning(n) for n in notices]))
    if any("faithfulness" in c.judgement for c in circuits.values()):
        parts.append(captioned(figures.faithfulness(circuits)))
    if any("curve" in c.judgement for c in circuits.values()):
        parts.append(captioned(figures.curves(circuits)))
    if "specificity" in together:
        parts.append(captioned(figures.specificity(together["specificity"])))
    stable = {e: c.judgement["stability"] for e, c in circuits.items() if c.judgement.get("stability") is not None}
    if stable:
        head = ("emotion", "Jaccard under resampling", "by chance", "split-half ceiling", "resamples", "n scenarios")
        rows = [
            [
                str(e),
                ranged(s["mean"], s["low"], s["high"]),
                decimal(s["chance"]),
                decimal(s["ceiling"]),
                s["n"],
                s["scenarios"],
            ]
            for e, s in stable.items()
        ]
        parts += [html.H2("Is it steady?"), table(head, rows)]
    if "skipped" in together:
        parts.append(note(f"Not measured, to save time: {visible(together['skipped'])}."))
    return parts


def ledger_view(claims: Sequence[Claim]) -> list[Any]:
    """The claims put to the test on this run, as its directory keeps them."""
    title = html.H2("Claims put to the test")
    if not claims:
        return [title, note("None was tested on this run yet; make claims does.")]
    head = ("claim", "verdict", "estimate [95%]", "unit", "n")
    rows = [[visible(c.claim), str(c.verdict), _interval(c), visible(c.unit), c.n] for c in claims]
    return [title, table(head, rows, "claims")]


def _interval(c: Claim) -> str:
    return ranged(c.estimate, c.low, c.high, lambda x: "–" if x is None else f"{x:.3g}")


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
    parts: list[Any] = [warning(n) for n in found.notices]
    head = (
        "emotion",
        "faithfulness here [95%]",
        "there [95%]",
        "n scenarios",
        "nodes only here",
        "only there",
        "in both",
        "Jaccard",
    )
    rows = []
    for one, d in found.found.items():
        judged = [s.circuits[one].judgement for s in (found.new, found.golden)]
        n = [j["n"] for j in judged if "n" in j]
        rows.append([
            str(one), *map(_faithful, judged), counts(n) if n else "–", len(d.gained), len(d.lost), len(d.kept),
            decimal(d.jaccard),
        ])  # fmt: skip
    parts.append(table(head, rows))
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
            parts.append(note(f"Neither run found a circuit of {e}."))
    return parts


def _faithful(j: Mapping[str, Any]) -> str:
    if "faithfulness" not in j:
        return "no circuit"
    return ranged(j["faithfulness"], j["faithfulness_low"], j["faithfulness_high"], percent)


def selection_view(found: Mapping[str, Mapping[str, Any]], count: int, all_shown: bool) -> Any:
    """Faithfulness of the working selection beside random selections, emotion by emotion."""
    rows = [
        [
            e, ranged(one["value"], one["low"], one["high"], percent),
            f"{percent(one['random_mean'])} (at most {percent(max(one['random']))})",
        ]
        for e, one in found.items()
    ]  # fmt: skip
    first = next(iter(found.values()))
    seconds = sum(one["seconds"] for one in found.values())
    forwards = sum(one["forwards"] for one in found.values())
    what = "All that is shown" if all_shown else "The selected"
    return [
        html.P(f"{what}: {count} components, alone, everything else ablated."),
        table(("", "faithfulness [95%]", "random, same layers"), rows),
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
    figure.update_xaxes(title="logit difference of the emotion's words [logits]")
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": -0.25})
    styled(figure, "Six emotions, one text (no interval)", 340)
    rows = [
        [html.Code(shortened(w["word"], 40)), f"{100 * w['before']:.2f}%", f"{100 * w['after']:.2f}%"]
        for w in found["words"]
    ]
    unknown = found.get("unknown") or []
    parts: list[Any] = []
    if unknown:
        parts.append(
            warning(
                f"The model does not know: {shortened(', '.join(map(str, unknown)), 500)}. It reads them as unknown."
            )
        )
    return [
        *parts,
        html.Div([captioned(figure), table(("next word", "as it is", "changed"), rows)], className="pair"),
        note(
            f"Replacement values: {found['replacement']}. n = 1 text, so no interval: the panel has effects over all texts. "
            f"Cost: {found['forwards']:g} forwards, {found['seconds']:.2f} s."
        ),
    ]
