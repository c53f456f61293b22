"""Cross-ablation of two contexts, as a figure."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.errors import MeasurementError
from circuits.prompts.emotions import Emotion
from circuits.show.style import INK, OPPOSES, SUPPORTS, error, styled
from circuits.show.words import counts

__all__ = ["mechanisms"]

_NAMES = {"a_only": "A only", "b_only": "B only", "shared": "both", "all": "all"}
_CONTEXTS = {"A": SUPPORTS, "B": OPPOSES}


def mechanisms(cross: pd.DataFrame, e: Emotion, verdict: str) -> go.Figure:
    """Writers on the left, readers on the right; bars in the colour of the context in which the nodes are ablated.

    ``cross``: of :class:`circuits.compare.mechanisms.Mechanisms`.
    """
    if cross.empty:
        raise MeasurementError(f"nothing was cross-ablated: {verdict}; its reason says what would decide it")
    roles = [role for role in ("writers", "readers") if (cross["role"] == role).any()]
    figure = make_subplots(rows=1, cols=len(roles), subplot_titles=roles, shared_yaxes=True, horizontal_spacing=0.04)
    for column, role in enumerate(roles, 1):
        for context, colour in _CONTEXTS.items():
            rows = cross[(cross["role"] == role) & (cross["context"] == context)]
            names = [f"{_NAMES[n]}<br>({size})" for n, size in zip(rows["nodes"], rows["size"], strict=True)]
            figure.add_bar(
                x=names, y=rows["value"], name=f"context {context}", legendgroup=context, showlegend=column == 1,
                marker={"color": colour}, row=1, col=column,
                error_y=error(rows["value"], rows["low"], rows["high"], thickness=1.2, color=INK),
            )  # fmt: skip
    figure.update_xaxes(tickangle=0, title="nodes ablated, by whose circuit they are in (how many)")
    figure.update_yaxes(title="loss, share of m(M) − m(∅)", tickformat=".0%", col=1)
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": -0.3})
    return styled(figure, f"{e} in two contexts: {verdict} (n = {counts(cross['n'])} scenarios)", height=430)
