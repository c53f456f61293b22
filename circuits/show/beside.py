"""Circuit and direction side by side: one emotion's effects as bars, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.prompts.emotions import Emotion
from circuits.show.style import error, styled
from circuits.show.words import decimal, percent

__all__ = ["COLOURS", "effects", "effects_in_words"]

COLOURS = {
    "circuit": "#0072B2", "direction": "#D55E00", "both": "#222222", "mediated": "#009E73", "random direction": "#CCCCCC",
    "random circuits": "#999999",
}  # fmt: skip
_NAMES = {
    "circuit": "circuit ablated (a)",
    "direction": "direction taken out (b)",
    "both": "both (c)",
    "mediated": "in common (a + b − c)",
    "random direction": "random directions, as much taken out",
    "random circuits": "random circuits of the same shape",
}


def effects(table: pd.DataFrame, e: Emotion) -> go.Figure:
    """Losses of one emotion when circuit, direction, both or random ones are taken away, with 95% intervals.

    ``table``: of :class:`circuits.compare.table.SameEffect`.
    """
    rows = _levelled(table, e)
    places = rows["state"] + rows["onward"].map({True: " and later", False: " alone"})
    figure = go.Figure()
    for what, colour in COLOURS.items():
        here = rows["what"] == what
        some = rows[here]
        if some.empty:
            continue
        figure.add_bar(
            x=places[here], y=some["value"], name=_NAMES[what], marker={"color": colour},
            error_y=error(some["value"], some["low"], some["high"], thickness=1.2, color="#555555"),
        )  # fmt: skip
    n = int(rows["n"].max())
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": -0.28})
    figure.update_yaxes(title="loss of the logit difference [logits]")
    figure.update_xaxes(title="where the direction is taken out")
    title = f"{e}: is ablating the circuit the same as taking the direction out? (n = {n} scenarios)"
    return styled(figure, title, height=520)


def effects_in_words(table: pd.DataFrame, e: Emotion) -> str:
    """The share both ablations have in common, and how alike they are text by text; empty where nothing was measured."""
    rows = _levelled(table, e)
    onward = rows[rows["onward"]]
    if onward.empty or onward[onward["what"] == "mediated"]["share"].isna().all():
        return ""
    by = {str(row["what"]): row for row in onward.to_dict("records")}
    both, alike, random = by["mediated"], by["correlation"], by["random direction"]
    text = (
        f"Taken out from {both['state']} on, {e}'s direction and its circuit have {percent(both['share'])} "
        f"[{percent(both['share_low'])}, {percent(both['share_high'])}] of the circuit's effect in common; as much taken out "
        f"along random directions costs {_ranged(random, by['circuit'])} of it"
    )
    if "random circuits" in by:
        text += f", and ablating random circuits of the same shape {_ranged(by['random circuits'], by['circuit'])}"
    if alike["value"] == alike["value"]:
        text += f". Text by text the two losses correlate by {decimal(alike['value'])} "
        text += f"[{decimal(alike['low'])}, {decimal(alike['high'])}]"
    return text + "."


def _ranged(random: Mapping[Any, Any], circuit: Mapping[Any, Any]) -> str:
    """A mean over random draws as a share of the circuit's effect, with the middle 95% of the draws."""
    low, high = (percent(random[end] / circuit["value"]) for end in ("low", "high"))
    return f"{percent(random['share'])} ({low} to {high})"


def _levelled(table: pd.DataFrame, e: Emotion) -> pd.DataFrame:
    return table[(table["emotion"] == str(e)) & (table["out"] == "levelled")]
