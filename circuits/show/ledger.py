"""The claims ledger as a page: verdicts first, every number with its interval, bar and null."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from circuits.compare.claims import Claim, Standing
from circuits.show.page import page

__all__ = ["intervals", "ledger_page", "ledger_table"]

_COLOURS = {Standing.SUPPORTED: "#0072B2", Standing.CONTRADICTED: "#D55E00", Standing.UNDECIDED: "#777777"}


def ledger_page(claims: Sequence[Claim], title: str) -> str:
    """A self-contained page."""
    counts = Counter(one.verdict for one in claims)
    summary = ", ".join(f"{counts[s]} {s}" for s in Standing)
    parts: list[str | go.Figure] = [
        f"<p>{len(claims)} claims: {summary}. A claim is <b>supported</b> where the whole 95% interval lies on its side of a "
        "bar that was set before, <b>contradicted</b> where it lies on the other, else <b>undecided</b>.</p>"
    ]
    if any(_distance(one) is not None for one in claims):
        parts.append(intervals(claims))
    parts += [_row(one) for one in claims]
    return page(title, parts)


def ledger_table(claims: Sequence[Claim]) -> str:
    """The same as a table in Markdown."""
    lines = ["| claim | verdict | estimate | statistic and bar | null | why |", "|---|---|---|---|---|---|"]
    for one in claims:
        cells = (
            f"{one.claim} ({one.source})",
            str(one.verdict),
            _number(one),
            one.statistic,
            one.null or "–",
            one.reason,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _number(one: Claim) -> str:
    if one.estimate is None:
        return "no number"
    interval = "" if one.low is None or one.high is None else f" [{one.low:.3g}, {one.high:.3g}]"
    return f"{one.estimate:.3g}{interval} {one.unit}, n = {one.n}"


def _row(one: Claim) -> str:
    number = escape(_number(one))
    null = f"<br>Null: {escape(one.null)}." if one.null else ""
    colour = _COLOURS[one.verdict]
    figure = f" Figure: {escape(one.figure)}." if one.figure else ""
    return (
        f'<h2 id="{escape(one.key)}">{escape(one.claim)}</h2><p><b style="color:{colour}">{one.verdict}</b>: {number}. '
        f"{escape(one.reason)}.</p><p class=note>{escape(one.statistic)}.{null}<br>Said by {escape(one.source)}; tested on "
        f"{escape(one.model)}, {escape(one.prompts)}, by <code>{escape(one.experiment)}</code>.{figure}</p>"
    )


def intervals(claims: Sequence[Claim]) -> go.Figure:
    """How far every estimate lies on the claimed side of its bar, in half-widths of its own interval: decided beyond 1 or -1.

    Units differ from claim to claim; this is what they have in common.
    """
    figure = go.Figure()
    for verdict, colour in _COLOURS.items():
        rows = [(one, x) for one in claims if one.verdict is verdict and (x := _distance(one)) is not None]
        if not rows:
            continue
        shown = [max(-_FAR, min(_FAR, x)) for _, x in rows]
        figure.add_scatter(
            x=shown, y=[one.key for one, _ in rows], mode="markers", name=str(verdict),
            marker={"color": colour, "size": 11, "symbol": [_symbol(x) for _, x in rows]},
            error_x={"type": "constant", "value": 1, "color": colour, "thickness": 1.5},
            hovertext=[f"{escape(one.claim)}<br>{escape(_number(one))}, bar {one.bar:.3g}" for one, _ in rows],
        )  # fmt: skip
    figure.add_vrect(x0=-1, x1=1, fillcolor="#EEEEEE", line_width=0, layer="below")
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(
        title="against the claim ← distance from the bar, in half-widths of the interval → for it (arrows: further)",
        zeroline=True, zerolinecolor="#222222", range=[-_FAR - 1.5, _FAR + 1.5],
    )  # fmt: skip
    figure.update_layout(
        template="plotly_white", height=150 + 32 * len(claims), margin={"l": 20, "r": 20, "t": 40, "b": 60},
        font={"family": "system-ui, sans-serif", "size": 14}, legend={"orientation": "h", "y": 1.1},
    )  # fmt: skip
    return figure


_FAR = 12.0
"""Half-widths beyond which a mark is an arrow at the edge."""


def _symbol(x: float) -> str:
    if abs(x) <= _FAR:
        return "circle"
    return "triangle-right" if x > 0 else "triangle-left"


def _distance(one: Claim) -> float | None:
    """Half-widths of the interval between estimate and bar, positive on the claimed side; None where there is none."""
    if one.estimate is None or one.low is None or one.high is None or one.bar is None or one.high <= one.low:
        return None
    return (one.estimate - one.bar) / ((one.high - one.low) / 2) * (1 if one.side == "above" else -1)
