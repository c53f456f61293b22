"""How figures look: colours, letters, margins; the same in a notebook, in the report and in pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from circuits.prompts.emotions import Emotion

__all__ = ["DIVERGING", "EMOTION_COLOURS", "INK", "OPPOSES", "PALE", "SMALL", "SUPPORTS", "error", "styled"]

EMOTION_COLOURS: Mapping[Emotion, str] = {
    Emotion.ANGER: "#D55E00",
    Emotion.DISGUST: "#009E73",
    Emotion.FEAR: "#CC79A7",
    Emotion.HAPPINESS: "#E69F00",
    Emotion.SADNESS: "#0072B2",
    Emotion.SURPRISE: "#56B4E9",
}
"""Told apart with the common colour-vision deficiencies (Okabe & Ito 2008)."""

SUPPORTS, OPPOSES = "#0072B2", "#D55E00"
DIVERGING = ((0.0, "#EE8A50"), (0.5, "#FFFFFF"), (1.0, "#5FB0E5"))
"""Of heat maps: orange opposes, blue supports, and dark letters can be read on all of it (contrast above 6)."""
INK, PALE = "#222222", "#BBBBBB"
SMALL = 12
"""Pixels of the letters at marks and in cells, the smallest there are; axes and legends have 14."""


def error(value: Any, low: Any, high: Any, **look: Any) -> dict[str, Any]:
    """Error bars of plotly from values and the two ends of their intervals."""
    return {"type": "data", "array": high - value, "arrayminus": value - low, **look}


def styled(figure: go.Figure, title: str, height: int = 420) -> go.Figure:
    """Letters, margins and title of every figure; the same figure is given back."""
    figure.update_layout(
        title={"text": title, "x": 0.01, "xanchor": "left", "y": 0.985, "yanchor": "top", "font": {"size": 16}},
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 14, "color": INK},
        margin={"l": 70, "r": 20, "t": 64, "b": 50},
        height=height,
    )
    figure.update_xaxes(automargin=True, title_font_size=14)
    figure.update_yaxes(automargin=True, title_font_size=14)
    figure.update_annotations(font_size=14)
    return figure
