"""The panel of one component: what it causes, what it writes and reads, where it acts, what it looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import dcc, html

from circuits.circuit.graph import EMBED, Edge
from circuits.errors import CircuitsError
from circuits.model.sites import Kind, parse
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.show.explore.desk import Desk
from circuits.show.explore.parts import captioned, compact, note, table, warning
from circuits.show.style import EMOTION_COLOURS, error
from circuits.show.words import counts, decimal, shortened

__all__ = ["acting", "effects_figure", "node_panel", "spread_figure", "tokens_view"]

_METHODS = {
    "exact": ("circle", "#222222"),
    "gradient": ("circle-open", "#0072B2"),
    "direct": ("diamond-open", "#D55E00"),
}
_TOP_EDGES, _TOP_TEXTS = 8, 4


def node_panel(desk: Desk, name: str | None, shown: Sequence[str]) -> Any:
    """Everything the run knows of a component; kind words where it knows nothing."""
    if not name:
        return html.P(
            "Pick a component in the graph: click it, or search for it. Its effects, edges and texts appear here.",
            className="note",
        )
    if str(name).startswith("group:"):
        return html.P("A group. Ungroup it to see the panel of its members.", className="note")
    if name == EMBED:
        return [
            html.H2("tokens"),
            html.P(
                "The embedding: where all text enters. It is never ablated here; edges from it say who reads it directly."
            ),
            *_edges(desk, name, shown),
        ]
    if name in {str(e) for e in EMOTIONS}:
        return [html.H2(f"read-out of {name}"), html.P(_readout(desk, Emotion(name))), *_edges(desk, name, shown)]
    try:
        component = parse(str(name)[:40])
        _require(desk, component.layer, component.kind, component.index, str(name)[:40])
        rows = desk.effects_of(component.name)
    except CircuitsError as why:
        return warning(why)
    home = [e for e in EMOTIONS if any(n.component == component for n in desk.circuits[e].nodes)]
    own = next((e for e in home if str(e) in shown), home[0] if home else _largest(rows))
    where = f"in the circuits of {', '.join(home)}" if home else "in no circuit of this run"
    kind = {"head": "attention head", "neuron": "MLP neuron"}.get(str(component.kind), "half-layer")
    parts: list[Any] = [html.H2(component.name), html.P(f"{kind} of layer {component.layer}, {where}.")]
    if len(rows):
        parts += [captioned(effects_figure(rows, component.name)), _table(rows)]
    else:
        parts.append(html.P("The run measured no effect of it.", className="note"))
    parts += _cosines(desk, component.name)
    parts += _edges(desk, component.name, shown)
    if component.kind in (Kind.HEAD, Kind.NEURON) and own is not None:
        parts += _texts(desk, component.name, own)
        parts += _words(desk, component.name, own)
    return parts


def _require(desk: Desk, layer: int, kind: Kind, index: int, name: str) -> None:
    model = desk.run.manifest["model"]
    count = {Kind.HEAD: model["heads"], Kind.NEURON: model["neurons"]}.get(kind, 0)
    if layer >= desk.layers or (index >= 0 and index >= count):
        raise CircuitsError(
            f"{name} is not in this model: it has layers 0 to {desk.layers - 1}, {model['heads']} heads and {model['neurons']} "
            "neurons a layer"
        )


def _readout(desk: Desk, e: Emotion) -> str:
    answers = desk.run.manifest.get("answers", {}).get(str(e))
    words = f" Answer tokens: {len(answers)}." if isinstance(answers, list) else ""
    return f"The logit of {e}'s words minus the mean of the other emotions' words, at the last position.{words}"


def _largest(rows: pd.DataFrame) -> Emotion | None:
    if not len(rows):
        return None
    best = rows.reindex(rows["effect"].abs().sort_values(ascending=False).index).iloc[0]
    return Emotion(best["emotion"])


def effects_figure(rows: pd.DataFrame, name: str) -> go.Figure:
    """Effects of one component on the six emotions by every method, with 95% intervals [logits]."""
    figure = go.Figure()
    names = [str(e) for e in EMOTIONS]
    methods = [m for m in _METHODS if (rows["method"] == m).any()]
    for number, method in enumerate(methods):
        symbol, colour = _METHODS[method]
        some = rows[rows["method"] == method].set_index("emotion").reindex(names)
        shift = (number - (len(methods) - 1) / 2) * 0.24
        figure.add_scatter(
            x=some["effect"],
            y=[i + shift for i in range(len(names))],
            mode="markers",
            name=method,
            error_x=error(some["effect"], some["low"], some["high"], thickness=1.2, width=2),
            marker={"symbol": symbol, "color": colour, "size": 8},
            hovertemplate=f"{method}, %{{customdata}}: %{{x:+.3f}} logits<extra></extra>",
            customdata=names,
        )
    figure.add_vline(x=0, line={"color": "#999999", "width": 1})
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed")
    n = int(rows["n"].max())
    return compact(figure, f"Effect of {name} [logits], 95%, n = {n} scenarios", 290)


def _table(rows: pd.DataFrame) -> Any:
    three = partial(decimal, places=3)
    body = [
        [
            r["emotion"],
            r["method"],
            f"{r['effect']:+.3f} [{three(r['low'])}, {three(r['high'])}]",
            decimal(r["q"], 4),
            str(r["n"]),
        ]
        for r in rows.to_dict("records")
    ]
    head = ("emotion", "method", "effect [95%], logits", "q", "n scenarios")
    return html.Details([html.Summary("The numbers"), table(head, body)])


def _cosines(desk: Desk, name: str) -> list[Any]:
    """Cosine of what it writes with each direction, at the state behind it and at the last one."""
    every = desk.run.comparison.table
    rows = every[(every["item"] == name) & (every["role"] == "node")]
    if not len(rows):
        return []
    last = rows[rows["state"] == rows["state"].iloc[-1]].set_index("emotion")
    body = [
        [e, decimal(r["cosine"]), f"{_tenth(r['share'])}% [{_tenth(r['low'])}, {_tenth(r['high'])}]"]
        for e, r in last.iterrows()
    ]
    return [
        html.H3("What it writes, against the directions"),
        table(("direction", "cosine", "share written [95%]"), body),
        note(
            f"At {rows['state'].iloc[-1]}, n = {rows['n'].iloc[-1]} scenarios; only emotions whose circuit holds it. The "
            "cosine is given without an interval."
        ),
    ]


def _tenth(share: float) -> str:
    """Percent with one decimal; what rounds to nothing has no sign."""
    return decimal(round(100 * share, 1) + 0.0, 1)


def _edges(desk: Desk, name: str, shown: Sequence[str]) -> list[Any]:
    into: list[tuple[Emotion, Edge]] = []
    out: list[tuple[Emotion, Edge]] = []
    for e in EMOTIONS:
        if str(e) in shown or not shown:
            for edge in desk.circuits[e].edges:
                if edge.target == name:
                    into.append((e, edge))
                if edge.source == name:
                    out.append((e, edge))
    parts: list[Any] = []
    for title, some, end in (("Reads from", into, "source"), ("Is read by", out, "target")):
        if not some:
            continue
        best = sorted(some, key=lambda pair: -abs(pair[1].weight))
        items = [
            html.Li(
                [_link(getattr(d, end)), f" {d.weight:+.3f} [{decimal(d.low, 3)}, {decimal(d.high, 3)}] {e}{_about(d)}"]
            )
            for e, d in best[:_TOP_EDGES]
        ]
        more = f"{len(best) - _TOP_EDGES} weaker ones not listed." if len(best) > _TOP_EDGES else ""
        n = counts(desk.circuits[e].judgement["n"] for e, _ in best)
        parts += [
            html.H3(f"{title} [logits, 95%, n = {n} scenarios]"), html.Ul(items, className="edges"), note(more),
        ]  # fmt: skip
    return parts


def _link(name: str) -> Any:
    """A button that goes to a component in the graph."""
    return html.Button("tokens" if name == EMBED else name, className="link", **{"data-node": name})


def _about(edge: Edge) -> str:
    """Where an edge enters, and how it was measured where that is not the usual way."""
    where = f" <{edge.input}>" if edge.input else ""
    return where + ("" if edge.kind in ("exact", "direct") else f", {edge.kind}")


def acting(
    desk: Desk, name: str, e: Emotion
) -> tuple[list[tuple[Mapping[str, str], float]], list[tuple[Mapping[str, str], float]]]:
    """The test texts of an emotion on which a component does most and least for it."""
    pairs = desk.acting(name, e)
    top = min(_TOP_TEXTS, len(pairs) // 2)
    return pairs[:top], pairs[len(pairs) - top :][::-1]


def spread_figure(desk: Desk, name: str) -> go.Figure:
    """Effect on each emotion, text by text: where the numbers come from."""
    figure = go.Figure()
    for e in EMOTIONS:
        values = [value for _, value in desk.acting(name, e)]
        figure.add_box(
            x=values,
            name=str(e),
            boxpoints="all",
            pointpos=0,
            jitter=0.5,
            line={"width": 1},
            fillcolor="rgba(0,0,0,0)",
            marker={"color": EMOTION_COLOURS[e], "size": 4},
            showlegend=False,
            hovertemplate="%{x:+.3f} logits<extra></extra>",
        )
    figure.update_yaxes(autorange="reversed")
    return compact(figure, "Text by text: effect on each emotion's own test texts [logits]", 270)


def _texts(desk: Desk, name: str, e: Emotion) -> list[Any]:
    try:
        most, least = acting(desk, name, e)
        figure = spread_figure(desk, name)
    except CircuitsError as why:
        return [warning(why)]
    if not most:
        return []

    def listed(some: Sequence[tuple[Mapping[str, str], float]]) -> Any:
        return html.Ul(
            [
                html.Li(
                    [
                        html.Code(f"{value:+.3f}"),
                        " ",
                        html.Span(shortened(text["text"], 400)),
                        html.Span(f" ({shortened(text['id'], 40)})", className="note"),
                    ]
                )
                for text, value in some
            ],
            className="texts",
        )

    ids = [text["id"] for text, _ in (*most, *least)]
    options = [
        {"label": f"{shortened(i, 40)}: {shortened(desk.texts[i]['text'], 60)}", "value": i} for i in dict.fromkeys(ids)
    ]
    return [
        html.H3(f"Where it acts, {e}'s test texts (one text each: no interval)"),
        html.H4("most [logits]"),
        listed(most),
        html.H4("least [logits]"),
        listed(least),
        captioned(figure),
        html.H3("What it looks at"),
        html.Fieldset([html.Legend("Prompt"), dcc.RadioItems(options, ids[0], id="look-id")], className="prompts"),
        html.Div(id="look-view"),
    ]


def _words(desk: Desk, name: str, e: Emotion) -> list[Any]:
    """Words its write promotes and suppresses; needs the model."""
    title = html.H3("Words its write promotes and suppresses")
    if desk.live is None:
        return [title, note(f"Needs the model; {desk.state}.")]
    try:
        lens = desk.live.lens(name, e).as_dict()
    except CircuitsError as why:
        return [title, note(why)]

    def listed(some: Sequence[Mapping[str, Any]]) -> Any:
        return html.Td(html.Ul([html.Li([html.Code(shortened(str(w["word"]), 30)), f" {_lens(w)}"]) for w in some]))

    heads = html.Tr([html.Th(t, scope="col") for t in ("promotes", "suppresses")])
    rows = html.Tr([listed(lens["promoted"]), listed(lens["suppressed"])])
    n = f", n = {lens['n']} scenarios" if lens["n"] else ""
    return [
        title,
        html.Table([html.Thead(heads), html.Tbody(rows)], className="words"),
        html.P(
            f"Logit lens [logits]: {shortened(lens['what'], 400)}{n}. A description of what it writes, not an effect.",
            className="note",
        ),
    ]


def _lens(word: Mapping[str, Any]) -> str:
    interval = "" if word["low"] is None else f" [{word['low']:+.2f}, {word['high']:+.2f}]"
    return f"{word['logit']:+.2f}{interval}"


def tokens_view(desk: Desk, prompt: str, name: str) -> Any:
    """For a head the attention over the tokens of a prompt, for a neuron its activations; needs the model."""
    if desk.live is None:
        return note(f"Needs the model; {desk.state}.")
    try:
        found = desk.live.look(prompt, name).as_dict()
    except CircuitsError as why:
        return note(why)
    tokens = [shortened(str(t), 24) for t in found["tokens"]]
    labels = [f"{i} {t}" for i, t in enumerate(tokens)]
    if found.get("pattern") is not None:
        heat = go.Heatmap(
            z=found["pattern"],
            x=labels,
            y=labels,
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
            hovertemplate="%{y} looks at %{x}: %{z:.2f}<extra></extra>",
        )
        figure = go.Figure(heat)
        figure.update_yaxes(autorange="reversed", tickfont={"size": 9}, automargin=True)
        figure.update_xaxes(tickfont={"size": 9}, tickangle=-60, automargin=True)
        return captioned(compact(figure, "Attention: row looks at column", max(300, 13 * len(tokens) + 120)))
    values = found["activations"]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=labels,
            orientation="h",
            marker={"color": ["#0072B2" if v >= 0 else "#D55E00" for v in values]},
            hovertemplate="%{y}: %{x:+.3f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", tickfont={"size": 9}, automargin=True)
    return captioned(compact(figure, "Activation at each token", max(260, 14 * len(tokens) + 70)))
