"""What adding a direction and driving a circuit as hard does: a figure of one emotion, and the same in words."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.prompts.emotions import Emotion
from circuits.show.beside import COLOURS
from circuits.show.style import error, styled
from circuits.show.words import counts, decimal, ranged

__all__ = ["doses", "doses_in_words"]

_LINES = (
    ("direction", "others", "direction added, texts of the other five", "solid", "circle"),
    ("direction", "own", "direction added, the emotion's own texts", "dot", "square"),
    ("circuit", "own", "circuit driven as hard, the emotion's own texts", "dot", "square"),
    ("random direction", "others", "random directions, texts of the other five", "solid", "x"),
)
_INK = COLOURS | {"random direction": COLOURS["random circuits"]}  # a line wants more ink than a bar
_NEUTRAL = {
    "direction": "direction added, neutral texts",
    "circuit": "circuit driven by the same factor, neutral texts",
}


def doses(table: pd.DataFrame, e: Emotion) -> go.Figure:
    """Change of the emotion's logit difference, of its lead over the other five, and of perplexity on neutral texts, by dose.

    ``table``: of :class:`circuits.compare.dose.Doses`. 95% intervals over scenarios (or neutral texts); of random
    directions the middle 95% of the draws.
    """
    mine = table[table["emotion"] == str(e)]
    texts = mine[mine["texts"] == "neutral"]["n"]
    language = f"Perplexity on {counts(texts)} neutral texts, as a multiple" if len(texts) else "No neutral texts"
    figure = make_subplots(
        rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.09,
        subplot_titles=(f"Change of {e}'s logit difference", "That less the most that another emotion changes by", language),
    )  # fmt: skip
    for row, read in enumerate((str(e), "selectivity", "perplexity"), start=1):
        for what, own, name, dash, symbol in _LINES:
            neutral = read == "perplexity"
            if neutral and own == "own" and what == "direction":
                continue  # neutral texts are no emotion's: there is one line of each thing done
            some = mine[
                (mine["what"] == what) & (mine["texts"] == ("neutral" if neutral else own)) & (mine["read"] == read)
            ]
            if some.empty:
                continue
            drawn = f"{counts(some['n'])} {name} (bars: 95% of them)" if what.startswith("random") else name
            figure.add_scatter(
                x=some["dose"], y=some["value"], name=_NEUTRAL[what] if neutral else drawn, legendgroup=name,
                showlegend=row == 1, row=row, col=1, mode="lines+markers",
                line={"color": _INK[what], "dash": "solid" if neutral else dash}, marker={"symbol": symbol, "size": 8},
                error_y=error(some["value"], some["low"], some["high"], thickness=1.2),
            )  # fmt: skip
    for row, unit in ((1, "logits"), (2, "logits"), (3, "times the clean model's")):
        figure.update_yaxes(title=f"[{unit}]", row=row, col=1)
    figure.update_yaxes(type="log", dtick="D2", row=3, col=1)
    figure.update_xaxes(title="dose [share of the stream's norm]", row=3, col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.1})
    title = f"{e}: adding its direction, and driving its circuit as hard (n = {_scenarios(mine)} scenarios)"
    return styled(figure, title, height=860)


def _scenarios(mine: pd.DataFrame) -> str:
    return counts(mine[(mine["texts"] != "neutral") & (mine["what"] != "random direction")]["n"])


def doses_in_words(table: pd.DataFrame, e: Emotion) -> str:
    """The largest dose in a sentence; empty where nothing was measured."""
    mine = table[table["emotion"] == str(e)]
    if mine.empty:
        return ""
    most = mine["dose"].max()

    def at(what: str, texts: str, read: str) -> str:
        some = mine[(mine["what"] == what) & (mine["texts"] == texts) & (mine["read"] == read) & (mine["dose"] == most)]
        return ranged(*some.iloc[0][["value", "low", "high"]]) if len(some) else ""

    added, driven = at("direction", "others", str(e)), at("circuit", "own", str(e))
    parts = []
    if added:
        language = at("direction", "neutral", "perplexity")
        parts.append(
            f"with {decimal(most)} of the stream's norm added along {e}'s direction, texts of the other five move by {added} "
            f"logits towards {e}"
            + (f" and perplexity on neutral texts is {language} times the clean model's" if language else "")
        )
    if driven:
        language = at("circuit", "neutral", "perplexity")
        parts.append(
            f"with the circuit driven as hard, {e}'s own texts move by {driven} logits"
            + (
                f" and, by the same factor on neutral texts, perplexity is {language} times the clean model's"
                if language
                else ""
            )
        )
    if not parts:
        return ""
    text = "; ".join(parts)
    neutral = mine[mine["texts"] == "neutral"]["n"]
    n = f"n = {_scenarios(mine)} scenarios" + (f", {counts(neutral)} neutral texts" if len(neutral) else "")
    return f"{text[:1].upper()}{text[1:]} ({n})."
