"""Texts that a page, a terminal or a file may take for more than texts; each, if it runs, sets ``window.hostile``."""

from __future__ import annotations

__all__ = ["LONG", "TEXTS", "text"]

LONG = "w" * 10_000
"""A token without a place to break a line."""

TEXTS = (
    "</script><script>window.hostile=1</script>",
    "<img src=x onerror=window.hostile=1>",
    "<svg/onload=window.hostile=1>",
    "\"><b onmouseover='window.hostile=1' style='position:fixed;inset:0'>over</b>",
    "' autofocus onfocus=window.hostile=1 x='",
    "<iframe srcdoc='<script>parent.hostile=1</script>'></iframe>",
    "<a href='javascript:window.hostile=1'>here</a>",
    "[here](javascript:window.hostile=1) ![](http://elsewhere.example/x.png)",
    "<style>*{display:none}</style>",
    "<base href='http://elsewhere.example/'><link rel=stylesheet href=//elsewhere.example/x.css>",
    "{{constructor.constructor('window.hostile=1')()}} ${window.hostile=1}",
    "<!--<script>window.hostile=1//-->",
    "]]><!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>&y;",
    "\u202egnorw si siht\u202c and \u2066this\u2069, \u200bnothing\u200b",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "nul\x00, bell\x07, new\nline, return\rback, tab\t",
    "=HYPERLINK(\"http://elsewhere.example\",\"here\")",
    "__proto__",
    "../../../../etc/passwd",
    "\U0001f600\u0301" * 40,
    LONG,
)  # fmt: skip


def text(number: int, mild: str) -> str:
    """``mild`` with one of the hostile texts behind it, each in turn."""
    return f"{mild} {TEXTS[number % len(TEXTS)]}"
