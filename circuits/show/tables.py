"""The report's tables: every number with its interval and n, sortable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.circuit.graph import Circuit
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.show.page import Cell, datum, decimals, percents, table
from circuits.show.words import counts, decimal, percent, ranged

__all__ = ["judged", "nodes", "reliability", "shared", "split_half", "summary"]

_MOST = 60
"""Nodes listed of a circuit; all are in its files."""

_NONE = Cell("–")


def summary(circuits: Mapping[Emotion, Circuit]) -> str:
    """One row an emotion: size, faithfulness, random circuits, other ablations, accuracy."""
    rows: list[list[str | Cell]] = []
    for e, c in circuits.items():
        j = c.judgement
        last = [percents(j["accuracy"]), decimals(j["accuracy_n"], 0)]
        if "faithfulness" not in j:
            rows.append([str(e), decimals(0, 0), *[_NONE] * 5, *last])
            continue
        rows.append([
            str(e), decimals(j["size"], 0), percents(j["faithfulness"], j["faithfulness_low"], j["faithfulness_high"]),
            percents(j["random_mean"], more=f"largest {percent(max(j['random']))}"),
            *(_beside_random(j.get("ablations", {}).get(kind)) for kind in ("mean", "zero")), decimals(j["n"], 0), *last,
        ])  # fmt: skip
    head = ["emotion", "components", "faithfulness [95%]", "random circuits", "with data-set mean", "with zeros", "n scenarios",
            "six-way accuracy", "n texts"]  # fmt: skip
    judged = [c.judgement for c in circuits.values() if c.nodes]
    drawn = counts(j["random_n"] for j in judged) if judged else "none"
    others = [k["random_n"] for j in judged for k in j.get("ablations", {}).values() if "random_n" in k]
    note = (
        "Faithfulness: share of what the model adds for the emotion that the circuit alone keeps. Random circuits of the same "
        f"shape: mean and largest of {drawn}. With data-set mean, with zeros: what is outside the circuit replaced another way"
        + (f"; random circuits: mean and 97.5% of {counts(others)}." if others else ".")
    )
    return table(head, rows, "The six circuits", note)


def _beside_random(found: Mapping[str, Any] | None) -> Cell:
    """A faithfulness under another ablation, beside random circuits; a dash where there is none."""
    if found is None or "value" not in found:
        return _NONE
    random = f"random {percent(found['random_mean'])}, 97.5%: {percent(found['random_high'])}"
    return percents(found["value"], found["low"], found["high"], random)


def judged(circuits: Mapping[Emotion, Circuit]) -> str:
    """Complement, stability, language, and, where they were measured, completeness and minimality."""
    rows: list[list[str | Cell]] = []
    for e, c in circuits.items():
        j = c.judgement
        if "complement" not in j:
            continue
        rest, stable, language = j["complement"], j.get("stability"), j.get("language")
        complete, minimal = j.get("completeness"), j.get("minimality")
        rows.append([
            str(e), percents(rest["value"], rest["low"], rest["high"], f"n = {rest['n']}"),
            _NONE if stable is None else Cell(
                f"{decimal(stable['mean'])} [{decimal(stable['low'])}, {decimal(stable['high'])}]", stable["mean"],
                f"{stable['n']} resamples of {stable['scenarios']}",
            ),
            _NONE if stable is None else Cell(f"{decimal(stable['chance'])} / {decimal(stable['ceiling'])}", stable["chance"]),
            _NONE if language is None else _cost(language),
            _NONE if complete is None else Cell(
                _ranged(complete["mean"]), complete["mean"]["value"],
                f"worst {_ranged(complete['worst'])}; random {decimal(complete['random_mean'])}",
            ),
            _NONE if minimal is None else Cell(f"{len(minimal['idle'])} of {len(minimal['largest'])}", len(minimal["idle"])),
        ])  # fmt: skip
    if not rows:
        return ""
    head = ["emotion", "left without the circuit", "stability of the ranking (Jaccard)", "chance / split-half ceiling",
            "perplexity without it, times clean", "incompleteness", "idle members"]  # fmt: skip
    note = (
        "Left without: faithfulness of everything but the circuit, 0% if nothing stands in for it. Stability: resamples of the "
        "select scenarios, the same number of strongest components each, mean and middle 95%. Incompleteness: distance of "
        "circuit and model with parts of the circuit ablated, as a share of m(M) − m(∅)."
    )
    return table(head, rows, "Is it all, is it steady, what does it cost?", note)


def _cost(language: Mapping[str, Any]) -> Cell:
    ratio = language["ratio"]
    return Cell(
        _ranged(ratio),
        ratio["value"],
        f"random {decimal(ratio['random_mean'])} [{decimal(ratio['random_low'])}, {decimal(ratio['random_high'])}]; "
        f"n = {language['texts']} texts, {ratio['random_n']} random circuits",
    )


def _ranged(found: Mapping[str, Any]) -> str:
    return ranged(found["value"], found["low"], found["high"])


def shared(together: Mapping[str, Any]) -> str:
    """How much more a circuit costs its own emotion than others, and what circuits share; as HTML."""
    own = together["specificity"]["own_beyond_others"]
    rows: list[list[str | Cell]] = [
        [str(e), Cell(_ranged(found), found["value"]), decimals(found["n"], 0)] for e, found in own.items()
    ]
    note = (
        "What ablating a circuit costs its own emotion beyond the mean of the others, as a share of what the model adds there. "
        "1: its own emotion goes and no other, 0: all go alike."
    )
    text = table(["emotion", "own beyond others [95%]", "n scenarios"], rows, "Own emotion beyond the others", note)
    overlap = together.get("overlap")
    if overlap is None:
        return text
    pairs = [v["value"] for v in overlap["jaccard"].values()]
    chance = [v["chance"] for v in overlap["jaccard"].values()]
    core = ", ".join(overlap["core"]) or "none"
    return text + (
        f"<p>In all {overlap['n']} circuits: {datum(core, 600)} ({len(overlap['core'])}; random circuits of the same shapes "
        f"share {overlap['chance_core']:.1f}, p = {overlap['p_core']:.2g}). Jaccard of two circuits {min(pairs):.2f} to "
        f"{max(pairs):.2f}, by chance {min(chance):.2f} to {max(chance):.2f}.</p>"
    )


def nodes(circuit: Circuit) -> str:
    """The strongest nodes of a circuit with intervals."""
    strongest = sorted(circuit.nodes, key=lambda n: -abs(n.effect))[:_MOST]
    rows: list[list[str | Cell]] = [
        [
            n.name, decimals(n.effect, 3, signed=True), _between(n.low, n.high), decimals(n.direct, 3, signed=True),
            Cell("–") if n.q != n.q else Cell(f"{n.q:.2g}", n.q), "exact" if n.verified else "estimated",
        ]
        for n in strongest
    ]  # fmt: skip
    more = len(circuit.nodes) - len(strongest)
    note = f"n = {circuit.judgement['n']} scenarios. q: false discovery rate at which it counts, on select."
    if more:
        note += f" {more} more in circuits/{circuit.emotion}.json and .graphml."
    head = ["component", "total effect [logits]", "95% interval", "direct effect [logits]", "q", "measured"]
    return table(head, rows, f"Nodes of {circuit.emotion}", note)


def _between(low: float, high: float) -> str:
    """An interval; a dash where there are too few scenarios for one."""
    return "–" if low != low or high != high else f"[{low:+.3f}, {high:+.3f}]"


def split_half(estimator: str, cosines: NDArray[Any], norms: NDArray[Any], states: Sequence[str], n: int) -> str:
    """Split-half cosine of every direction, a row a state; a dash where there is no direction.

    ``cosines``, ``norms``: ``[emotion, state]``.
    """
    missing = np.where(norms > 0, cosines, np.nan)
    rows: list[list[str | Cell]] = [
        [state, *(decimals(missing[e.column, place]) for e in EMOTIONS)] for place, state in enumerate(states)
    ]
    note = f"Mean cosine between directions from two halves of the scenarios, n = {n} of the fit split."
    return table(["state", *map(str, EMOTIONS)], rows, f"Split-half cosine of the directions, {estimator}", note)


def reliability(found: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    """Split-half reliability of every score vector; a dash where there are too few scenarios for one."""
    rows: list[list[str | Cell]] = [
        [what, e, *map(decimals, values)] for what, by_emotion in found.items() for e, values in by_emotion.items()
    ]
    note = (
        "Correlation of two halves of the scenarios on all components' effects, with the 95% range over 200 splits, and what "
        "two sets of all scenarios would show (Spearman–Brown), select and test split."
    )
    return table(["effects", "emotion", "halves", "2.5%", "97.5%", "whole"], rows, "Split-half reliability", note)
