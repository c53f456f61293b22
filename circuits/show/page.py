"""One self-contained HTML page: works from a mail attachment, without a network, on a phone, on paper.

Two scripts run, plotly and ``page.js``, and the page's own policy (CSP) names them by their SHA-256: whatever else gets in as
a script is not run. Figures travel as JSON, which is never run. Text that comes from data is escaped, control characters and
marks that turn the reading direction are spelled out, and what is very long is cut with its length said.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from circuits.show.words import decimal, percent, shortened, visible

__all__ = ["Cell", "Page", "datum", "decimals", "page", "percents", "quoted", "table"]

_LONGEST = 600
"""Characters of one text in a figure."""

_MARKUP = re.compile(r"<(?!/?(?:b|i|sup|sub|br|extra)\s*/?>)")
"""A ``<`` that does not open what our own figures write; plotly would read links and styles as well."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, the number it is sorted by, and what stands below in a line of its own."""

    text: str
    value: int | float | None = None
    more: str = ""


def decimals(value: Any, places: int = 2, *, signed: bool = False) -> Cell:
    """A number; a missing one is a dash and sorts last."""
    text = decimal(value, places)
    known = value is not None and value == value
    return Cell(f"+{text}" if signed and known and value >= 0 else text, float(value) if known else None)


def percents(value: Any, low: Any = None, high: Any = None, more: str = "") -> Cell:
    """A share, with its interval in brackets where there is one, and what else is to be said."""
    missing = value is None or value != value
    between = "" if low is None or high is None else f" [{percent(low)}, {percent(high)}]"
    return Cell("–") if missing else Cell(f"{percent(value)}{between}", float(value), more)


def datum(text: object, most: int = 200) -> str:
    """Text from data as HTML: escaped, spelled out, of bearable length, and without a say in the order of what surrounds it."""
    return f"<bdi>{escape(shortened(text, most))}</bdi>"


def table(head: Sequence[str], rows: Sequence[Sequence[str | Cell]], title: str, note: str = "") -> str:
    """A table as HTML, sortable by the buttons in its head; cells may hold text from data.

    Args:
        title, note: its caption, plain text; the note says what the columns mean, with n and unit.
    """
    top = "".join(f"<th scope=col><button type=button>{_said(h)}</button></th>" for h in head)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    more = f"<br>{_said(note)}" if note else ""
    label = f"aria-label={quoted(title)}"
    return (
        f"<p class=title><b>{_said(title)}</b>{more}</p><div class=wide role=group {label}><table {label}>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _said(text: str) -> str:
    """Text of ours that may hold a name from data."""
    return escape(visible(text))


def quoted(text: object) -> str:
    """Text from data as the value of an attribute."""
    return f'"{escape(shortened(text))}"'


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{datum(cell)}</td>"
    value = "" if cell.value is None or cell.value != cell.value else f"{cell.value:.12g}"
    below = f"<span class=below>{datum(cell.more)}</span>" if cell.more else ""
    return f'<td data-value="{value}">{datum(cell.text)}{below}</td>'


class Page:
    """A page that is being written, part below part."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []
        self._figures = 0
        self._contents: list[tuple[str, str]] = []

    def add(self, html: str) -> None:
        """Something that is HTML already."""
        self._parts.append(html)

    def section(self, title: str, anchor: str) -> None:
        """A heading that the table of contents leads to."""
        self._contents.append((title, anchor))
        self._parts.append(f"<h2 id={quoted(anchor)}>{_said(title)}</h2>")

    def figure(self, figure: go.Figure, note: str = "") -> None:
        """A figure; its title becomes the caption, which can be read, searched and broken into lines."""
        drawn: dict[str, Any] = _tame(json.loads(json.dumps(figure.to_plotly_json(), cls=PlotlyJSONEncoder)))
        layout = drawn["layout"]
        title = str((layout.pop("title", None) or {}).get("text", "")).replace("<br>", " ")
        layout["margin"] = {**layout.get("margin", {}), "t": 34}
        layout["autosize"] = True
        layout.pop("width", None)
        height = layout.setdefault("height", 450)
        name = f"figure-{self._figures}"
        self._figures += 1
        # "<" cannot occur, so that nothing ends the script element before its end.
        text = json.dumps({"data": drawn["data"], "layout": layout}, separators=(",", ":")).replace("<", "\\u003c")
        more = f"<br>{_said(note)}" if note else ""
        caption = f"<figcaption id={name}-title><b>{_plain(title)}</b>{more}</figcaption>" if title or note else ""
        label = f"aria-labelledby={name}-title" if caption else "aria-label=figure"
        self._parts.append(
            f"<figure {label}>{caption}<div class=wide role=group {label}>"
            f"<div class=drawn id={name} style='height:{height}px'>"
            f"<p class=note>This figure needs JavaScript to be drawn.</p></div></div></figure>"
            f"<script type=application/json data-figure={name}>{text}</script>"
        )

    def html(self) -> str:
        """The page as text, with its table of contents below the heading."""
        scripts = [*([get_plotlyjs()] if self._figures else []), _asset("page.js")]
        hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
        policy = (
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'none'; "
            "base-uri 'none'; form-action 'none'"
        )
        title = escape(shortened(self.title))
        head = (
            f'<meta charset=utf-8><meta http-equiv=Content-Security-Policy content="{policy}">'
            '<meta name=viewport content="width=device-width, initial-scale=1"><meta name=referrer content=no-referrer>'
            f"<title>{title}</title><style>{_asset('page.css')}</style>"
        )
        links = "".join(f"<li><a href={quoted('#' + a)}>{_said(t)}</a></li>" for t, a in self._contents)
        contents = f"<nav aria-label=Contents><p>Contents</p><ol>{links}</ol></nav>" if len(self._contents) > 1 else ""
        body = f"<main><h1>{datum(self.title)}</h1>{contents}{chr(10).join(self._parts)}</main>"
        run = "".join(f"<script>{script}</script>" for script in scripts)
        return f"<!doctype html><html lang=en><head>{head}</head><body>{body}{run}</body></html>\n"


def page(title: str, parts: Sequence[go.Figure | str]) -> str:
    """A self-contained page of figures, and of text that is HTML already, for experiments."""
    result = Page(title)
    for part in parts:
        if isinstance(part, str):
            result.add(part)
        else:
            result.figure(part)
    return result.html()


@functools.cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _plain(title: str) -> str:
    """A figure's title as HTML; the ``<`` that was tamed for plotly is one again, escaped once."""
    return escape(title.replace("&lt;", "<"))


def _tame(value: Any) -> Any:
    """Every text of a figure without foreign markup, control characters and excess; packed numbers stay as they are."""
    if isinstance(value, dict):
        return value if "bdata" in value else {key: _tame(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_tame(inner) for inner in value]
    return _MARKUP.sub("&lt;", shortened(value, _LONGEST)) if isinstance(value, str) else value
