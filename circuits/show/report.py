"""One self-contained HTML page of a run: works from a mail attachment, without a network.

The page carries plotly inside and shows every figure with its numbers. All text that comes from data (names, notices, prompts)
is escaped: a run may come from a stranger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.circuit.graph import Circuit
from circuits.compare.together import Compared
from circuits.directions.vectors import Directions
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.show import figures
from circuits.show.beside import effects, effects_in_words
from circuits.show.halves import half_layers, misattribution
from circuits.show.words import decimal, in_words, percent, screened

__all__ = ["page", "report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 13px; }
td, th { padding: 3px 9px; text-align: right; border-bottom: 1px solid #eee; }
td:first-child, th:first-child { text-align: left; } .wide { overflow-x: auto; } .note { color: #555; font-size: 13px; }
.notice { background: #fff7e0; padding: 6px 12px; margin: 6px 0; } code { background: #f4f4f4; padding: 1px 4px; }
@media print { .plotly-graph-div { break-inside: avoid; } }
"""

_TOP = 15


def report(
    manifest: Mapping[str, Any],
    circuits: Mapping[Emotion, Circuit],
    table: pd.DataFrame,
    compared: Compared,
    directions: Sequence[Directions],
) -> str:
    """The page as text."""
    comparison = compared.writers.table
    model, prompts = manifest["model"], manifest["prompts"]
    page = _Page()
    page.add(f"<h1>Emotion circuits of {escape(model['name'])}</h1>")
    page.add(
        f"<p class=note>{model['layers']} layers, {model['heads']} heads and {model['neurons']} neurons a layer; prompts "
        f"<b>{escape(prompts['name'])}</b> ({escape(prompts['lexical'])}), scenarios: "
        f"{', '.join(f'{k} {v}' for k, v in prompts['scenarios'].items())}. Numbers are from the test split; brackets are 95% "
        "intervals over scenarios; effects are in logits, positive supports the emotion.</p>"
    )
    for notice in manifest["notices"]:
        page.add(f"<p class=notice>{escape(str(notice))}</p>")
    page.add(
        "<h2>In plain words</h2><ul>" + "".join(f"<li>{escape(in_words(c))}</li>" for c in circuits.values()) + "</ul>"
    )
    page.add(_summary(circuits))
    page.figure(figures.faithfulness(circuits))
    together = manifest["judge"]
    if any("curve" in c.judgement for c in circuits.values()):
        page.figure(figures.curves(circuits))
    if "specificity" in together:
        page.add("<h2>Whose circuit is it?</h2>")
        page.figure(figures.specificity(together["specificity"]))
        page.add(_specific(together))
    page.add(_judged(circuits))
    if "skipped" in together:
        page.add(f"<p class=note>Not measured, to save time: {escape(together['skipped'])}.</p>")
    page.figure(figures.sublayers(table))
    for e, circuit in circuits.items():
        page.add(f"<h2 id={e}>{e}</h2>")
        if not circuit.nodes:
            page.add(f"<p>{escape(str(circuit.judgement.get('undefined', 'no circuit')))}</p>")
        else:
            page.figure(figures.circuit_graph(circuit, model["layers"]))
            page.add(_nodes(circuit))
        page.add(f"<h3>Circuit and direction of {e}</h3>")
        if (comparison["emotion"] == str(e)).any():
            page.figure(figures.writers(comparison, e))
        if (compared.halves.table["emotion"] == str(e)).any():
            page.figure(half_layers(compared.halves.table, e, comparison))
        if (compared.effects.table["emotion"] == str(e)).any():
            page.figure(effects(compared.effects.table, e))
            page.add(f"<p>{escape(effects_in_words(compared.effects.table, e))}</p>")
    page.add("<h2>What one reading per layer would get wrong</h2>")
    if len(compared.halves.rates):
        page.figure(misattribution(compared.halves.rates))
    for notice in compared.halves.notices:
        page.add(f"<p class=note>{escape(notice)}</p>")
    if compared.skipped:
        page.add(f"<p class=note>Not measured, to save time: {escape(compared.skipped)}.</p>")
    page.add("<h2>Linear directions</h2>")
    first = directions[0]
    states = [s.name for s in first.states]
    picks = list(dict.fromkeys((states[0], states[len(states) // 2], states[-1])))
    page.figure(figures.cosines(first.vectors, states, picks))
    page.add(_reliability(directions))
    page.add(_methods(manifest))
    return page.html(f"Emotion circuits of {model['name']}")


def page(title: str, parts: Sequence[go.Figure | str]) -> str:
    """A self-contained page of figures, and of text that is HTML already, for experiments."""
    result = _Page()
    result.add(f"<h1>{escape(title)}</h1>")
    for part in parts:
        if isinstance(part, str):
            result.add(part)
        else:
            result.figure(part)
    return result.html(title)


class _Page:
    def __init__(self) -> None:
        self._parts: list[str] = []
        self._figures = 0

    def add(self, html: str) -> None:
        self._parts.append(html)

    def figure(self, figure: go.Figure) -> None:
        # plotly itself travels once, with the first figure.
        html = figure.to_html(
            full_html=False, include_plotlyjs=self._figures == 0, div_id=f"figure-{self._figures}",
            config={"displaylogo": False, "responsive": True},
        )  # fmt: skip
        self._figures += 1
        self._parts.append(f"<div class=wide>{html}</div>")

    def html(self, title: str) -> str:
        head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
        body = "\n".join(self._parts)
        return f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{top}</tr>{body}</table></div>"


def _summary(circuits: Mapping[Emotion, Circuit]) -> str:
    rows = []
    for e, c in circuits.items():
        j = c.judgement
        if "faithfulness" not in j:
            rows.append([str(e), "0", "–", "–", "–", "–", "–", percent(j["accuracy"]), str(j["accuracy_n"])])
            continue
        rows.append(
            [
                str(e), str(j["size"]), f"{percent(j['faithfulness'])} [{percent(j['faithfulness_low'])}, "
                f"{percent(j['faithfulness_high'])}]", f"{percent(j['random_mean'])} (max {percent(max(j['random']))})",
                *(_beside_random(j.get("ablations", {}).get(kind)) for kind in ("mean", "zero")),
                str(j["n"]), percent(j["accuracy"]), str(j["accuracy_n"]),
            ]
        )  # fmt: skip
    head = ["emotion", "components", "faithfulness [95%]", "random circuits", "with data-set mean", "with zeros", "n scenarios",
            "six-way accuracy", "n texts"]  # fmt: skip
    return _table(head, rows)


def _beside_random(found: Mapping[str, Any] | None) -> str:
    """A faithfulness under another ablation, beside random circuits; a dash where there is none."""
    if found is None or "value" not in found:
        return "–"
    random = f"random {percent(found['random_mean'])} (97.5%: {percent(found['random_high'])}, n = {found['random_n']})"
    return f"{percent(found['value'])} [{percent(found['low'])}, {percent(found['high'])}], {random}"


def _judged(circuits: Mapping[Emotion, Circuit]) -> str:
    """Complement, stability, language, and, where they were measured, completeness and minimality."""
    rows = []
    for e, c in circuits.items():
        j = c.judgement
        if "complement" not in j:
            continue
        rest, stable, language = j["complement"], j.get("stability"), j.get("language")
        complete, minimal = j.get("completeness"), j.get("minimality")
        rows.append([
            str(e),
            f"{percent(rest['value'])} [{percent(rest['low'])}, {percent(rest['high'])}], n = {rest['n']}",
            "–" if stable is None else f"{decimal(stable['mean'])} [{decimal(stable['low'])}, {decimal(stable['high'])}], "
            f"{stable['n']} resamples of {stable['scenarios']}",
            "–" if stable is None else f"{decimal(stable['chance'])} / {decimal(stable['ceiling'])}",
            "–" if language is None else _cost(language),
            "–" if complete is None else f"{_ranged(complete['mean'])}, worst {_ranged(complete['worst'])}; "
            f"random {decimal(complete['random_mean'])}",
            "–" if minimal is None else f"{len(minimal['idle'])} of {len(minimal['largest'])}",
        ])  # fmt: skip
    if not rows:
        return ""
    head = ["emotion", "left without the circuit", "stability of the ranking (Jaccard)", "chance / split-half ceiling",
            "perplexity without it, times clean", "incompleteness", "idle members"]  # fmt: skip
    note = (
        "<p class=note>Left without: faithfulness of everything but the circuit, 0% if nothing stands in for it. Stability: "
        "resamples of the select scenarios, the same number of strongest components each, mean and middle 95%. "
        "Incompleteness: distance of circuit and model with parts of the circuit ablated, as a share of m(M) − m(∅).</p>"
    )
    return "<h2>Is it all, is it steady, what does it cost?</h2>" + _table(head, rows) + note


def _cost(language: Mapping[str, Any]) -> str:
    ratio = language["ratio"]
    return (
        f"{_ranged(ratio)}, n = {language['texts']} texts; {ratio['random_n']} random circuits "
        f"{decimal(ratio['random_mean'])} [{decimal(ratio['random_low'])}, {decimal(ratio['random_high'])}]"
    )


def _ranged(found: Mapping[str, Any]) -> str:
    return f"{decimal(found['value'])} [{decimal(found['low'])}, {decimal(found['high'])}]"


def _specific(together: Mapping[str, Any]) -> str:
    """How much more a circuit costs its own emotion than others, and what circuits share."""
    parts = []
    own = together["specificity"]["own_beyond_others"]
    rows = [[e, _ranged(found), str(found["n"])] for e, found in own.items()]
    parts.append(
        "<p>What ablating a circuit costs its own emotion beyond the mean of the others, as a share of what the model adds "
        "there (1: its own emotion goes and no other, 0: all go alike):</p>"
        + _table(["emotion", "own beyond others [95%]", "n scenarios"], rows)
    )
    shared = together.get("overlap")
    if shared is not None:
        pairs = [v["value"] for v in shared["jaccard"].values()]
        chance = [v["chance"] for v in shared["jaccard"].values()]
        core = ", ".join(shared["core"]) or "none"
        parts.append(
            f"<p>In all {shared['n']} circuits: {escape(core)} ({len(shared['core'])}; random circuits of the same shapes "
            f"share {shared['chance_core']:.1f}, p = {shared['p_core']:.2g}). Jaccard of two circuits {min(pairs):.2f} to "
            f"{max(pairs):.2f}, by chance {min(chance):.2f} to {max(chance):.2f}.</p>"
        )
    return "".join(parts)


def _nodes(circuit: Circuit) -> str:
    strongest = sorted(circuit.nodes, key=lambda n: -abs(n.effect))[:_TOP]
    rows = [
        [n.name, f"{n.effect:+.3f}", f"[{n.low:+.3f}, {n.high:+.3f}]", f"{n.direct:+.3f}", f"{n.q:.2g}",
         "exact" if n.verified else "estimated"]
        for n in strongest
    ]  # fmt: skip
    more = len(circuit.nodes) - len(strongest)
    rest = f"<p class=note>{more} more in circuits/{circuit.emotion}.json and .graphml.</p>" if more else ""
    n = circuit.judgement["n"]
    head = [
        "component",
        "total effect [logits]",
        f"95% interval, n = {n} scenarios",
        "direct effect [logits]",
        "q",
        "measured",
    ]
    return _table(head, rows) + rest


def _reliability(directions: Sequence[Directions]) -> str:
    rows = []
    for d in directions:
        for e in EMOTIONS:
            cells = [
                f"{c:.2f}" if n > 0 else "–" for c, n in zip(d.split_half[e.column], d.norms[e.column], strict=True)
            ]
            rows.append([f"{d.estimator}, {e}", *cells])
    note = f"<p>Split-half cosine of every direction, by state (n = {directions[0].n} scenarios of the fit split):</p>"
    return note + _table(["estimator, emotion", *(s.name for s in directions[0].states)], rows)


def _methods(manifest: Mapping[str, Any]) -> str:
    def lines(values: Mapping[str, Any]) -> str:
        return "".join(f"<li><code>{escape(str(k))}</code>: {escape(str(v))}</li>" for k, v in values.items())

    agreement = f"<p>{escape(screened(manifest['screen']))}</p>"
    reliability = [
        [what, e, *(f"{x:.2f}" for x in values)]
        for what, by_emotion in manifest["reliability"].items()
        for e, values in by_emotion.items()
    ]
    halves = (
        "<h3>Split-half reliability</h3><p>Correlation of two halves of the scenarios on all components' effects, with the 95% "
        "range over 200 splits, and what two sets of all scenarios would show (Spearman–Brown), select and test split.</p>"
        + _table(["effects", "emotion", "halves", "2.5%", "97.5%", "whole"], reliability)
    )
    return (
        "<h2>Methods</h2><p>Directions on the fit split, circuits chosen on select, every number above from test. Heads and "
        "half-layers are measured exactly. A circuit's faithfulness is (m(C) − m(∅)) / (m(M) − m(∅)), m the mean logit "
        "difference of the emotion over its texts, everything outside C ablated. Edges are measured exactly, by "
        f"path patching: what the receiver alone makes of the change.</p>{agreement}{halves}"
        f"<h3>Settings</h3><ul>{lines(manifest['settings'])}</ul>"
        f"<h3>Model and prompts</h3><ul>{lines(manifest['model'])}{lines(manifest['prompts'])}</ul>"
        f"<h3>Arithmetic</h3><ul>{lines(manifest['engine'])}</ul>"
        f"<h3>Versions</h3><ul>{lines(manifest['versions'])}</ul>"
        f"<h3>Seconds</h3><ul>{lines(manifest['seconds'])}</ul>"
        f"<h3>Answer tokens</h3><ul>{lines(manifest['answers'])}</ul>"
    )
