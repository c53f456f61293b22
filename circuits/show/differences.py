"""What differs between two runs: in the terminal, and as figures on a page."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from circuits.circuit.differences import Differences, NodeChange, stability_low
from circuits.circuit.graph import Measured, Node
from circuits.runs.sides import Compared
from circuits.show.page import page
from circuits.show.style import SMALL, styled
from circuits.show.words import visible

__all__ = ["difference_figure", "differences_page", "show_differences"]

_TOP = 4
_MOST = 60
_KEPT, _GAINED, _LOST = (
    "#0072B2",
    "#009E73",
    "#D55E00",
)  # Okabe & Ito: told apart with common colour-vision deficiencies
_Row = tuple[str, Measured | None, Measured | None]
"""A node's name, its numbers before and after."""

_ACROSS, _UP = 0.2, 0.07
"""How close two names may lie, as shares of the largest end of an interval on either axis."""


def _text(value: object) -> str:
    return escape(visible(value))


def show_differences(compared: Compared, console: Console) -> None:
    """One row an emotion: how much of the circuits is common, what is only in one, whose effects changed most."""
    console.print(f"[bold]{_text(compared.new.name)}[/] beside [bold]{_text(compared.golden.name)}[/]", soft_wrap=True)
    for notice in compared.notices:
        console.print(f"[yellow]note[/] {_text(notice)}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("emotion", "Jaccard", "noise", "nodes", "edges"):
        table.add_column(head, no_wrap=True)
    for head in ("gained", "lost", "changes most [logits]"):
        table.add_column(head)
    for e, d in compared.found.items():
        low = stability_low(compared.golden.circuits[e])
        changes = sorted((k for k in d.kept if k.change), key=lambda k: -abs(k.change))[:_TOP]
        table.add_row(
            str(e), f"{d.jaccard:.2f}", "–" if low is None else f"{low:.2f}",
            f"+{len(d.gained)} −{len(d.lost)} ={len(d.kept)}",
            f"+{len(d.edges_gained)} −{len(d.edges_lost)} ={len(d.edges_kept)}",
            _strongest(d.gained), _strongest(d.lost), ", ".join(_change(k) for k in changes) or "none",
        )  # fmt: skip
    console.print(table)
    console.print(
        "+ gained: only in the first; − lost: only in the second; = kept. noise: lower 2.5% bound of the second circuit's "
        "Jaccard under resampling, where its run measured it; * intervals have no value in common",
        soft_wrap=True,
    )


def _strongest(nodes: Sequence[Node]) -> str:
    best = sorted(nodes, key=lambda n: (-abs(n.effect), n.component))
    return ", ".join(n.name for n in best[:_TOP]) + (f" and {len(best) - _TOP} more" if len(best) > _TOP else "")


def _change(k: NodeChange) -> str:
    return f"{k.name} {k.before.effect:+.2f} → {k.after.effect:+.2f}{'*' if k.apart else ''}"


def difference_figure(found: Differences) -> go.Figure:
    """Effects before (across) and after (up) with 95% intervals: kept nodes near the diagonal, gained and lost on the axes."""
    figure = go.Figure()
    kept = sorted(found.kept, key=lambda k: -max(abs(k.before.effect), abs(k.after.effect)))[:_MOST]
    gained = sorted(found.gained, key=lambda n: -abs(n.effect))[:_MOST]
    lost = sorted(found.lost, key=lambda n: -abs(n.effect))[:_MOST]
    groups: tuple[tuple[str, str, str, list[_Row]], ...] = (
        ("kept", _KEPT, "circle", [(k.name, k.before, k.after) for k in kept]),
        ("gained", _GAINED, "triangle-up", [(n.name, None, n.own) for n in gained]),
        ("lost", _LOST, "triangle-down", [(n.name, n.own, None) for n in lost]),
    )
    named = _named([rows for *_, rows in groups])
    for name, colour, symbol, rows in groups:
        if not rows:
            continue
        sides = [[row[1] for row in rows], [row[2] for row in rows]]
        x, y = ([0.0 if m is None else m.effect for m in side] for side in sides)
        errors = [
            {
                "type": "data", "thickness": 1, "width": 0,
                "array": [0.0 if m is None else m.high - m.effect for m in side],
                "arrayminus": [0.0 if m is None else m.effect - m.low for m in side],
            }
            for side in sides
        ]  # fmt: skip
        figure.add_scatter(
            x=x, y=y, error_x=errors[0], error_y=errors[1], mode="markers+text", name=f"{name} ({len(rows)})",
            text=[row[0] if row[0] in named else "" for row in rows], hovertext=[row[0] for row in rows],
            textposition="top center", textfont={"size": SMALL},
            marker={"color": colour, "symbol": symbol, "size": 9},
            hovertemplate="%{hovertext}: %{x:+.3f} → %{y:+.3f}<extra></extra>",
        )  # fmt: skip
    values = [v for trace in figure.data for v in (*trace.x, *trace.y)] or [0.0, 1.0]
    ends = [min(values), max(values)]
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"dash": "dot", "color": "#888888"}, name="no change")
    figure.update_xaxes(title="effect in the second [logits]")
    figure.update_yaxes(title="effect in the first [logits]")
    left = len(found.kept) + len(found.gained) + len(found.lost) - len(kept) - len(gained) - len(lost)
    more = f"; {left} weaker nodes not shown" if left else ""
    figure.update_layout(legend={"orientation": "h", "y": -0.16})
    return styled(figure, f"{found.emotion}: Jaccard {found.jaccard:.2f}{more}", height=560)


def _named(groups: Sequence[Sequence[_Row]]) -> frozenset[str]:
    """Whose names are written: the strongest first, and none on top of another; all of them say theirs when pointed at."""
    rows = [row for some in groups for row in some]
    places = {name: tuple(0.0 if m is None else m.effect for m in pair) for name, *pair in rows}
    spans = [1.0, 1.0]
    for axis in (0, 1):
        ends = [abs(end) for _, *pair in rows if (m := pair[axis]) is not None for end in (m.effect, m.low, m.high)]
        spans[axis] = max((end for end in ends if end == end), default=1.0) or 1.0
    kept: list[str] = []
    for name in sorted(places, key=lambda name: -max(map(abs, places[name]))):
        x, y = places[name]
        if all(abs(x - places[k][0]) > _ACROSS * spans[0] or abs(y - places[k][1]) > _UP * spans[1] for k in kept):
            kept.append(name)
    return frozenset(kept)


def differences_page(compared: Compared) -> str:
    """A self-contained page, a figure for each emotion that has any node."""
    drawn = [difference_figure(d) for d in compared.found.values() if d.gained or d.lost or d.kept]
    return page(f"{compared.new.name} beside {compared.golden.name}", drawn)
