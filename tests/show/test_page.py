"""The page every report and experiment is written on: nothing is run but its two scripts, and nothing comes from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import plotly.graph_objects as go
import pytest
from markup import Elements

from circuits.show.page import Cell, Page, datum, decimals, page, percents, table
from circuits.show.tables import reliability
from circuits.show.words import shortened, visible

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
TURNED = "\u202egnp.exe\u202c\u2066\u200f\u200b\ufeff\x07"


def drawn(*figures: go.Figure) -> Elements:
    return Elements(page("A page", list(figures)))


def test_the_policy_names_each_script_by_its_hash_and_allows_nothing_else() -> None:
    found = drawn(go.Figure().add_scatter(y=[1, 2]))
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'none'"
    assert "unsafe" not in rules["script-src"]
    run = [(s, a) for (tag, a), s in zip([t for t in found.tags if t[0] == "script"], found.scripts, strict=True)
           if a.get("type") != "application/json"]  # fmt: skip
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for (s, _) in run]
    assert rules["script-src"].split() == [f"'sha256-{h}'" for h in hashes]
    assert len(hashes) == 2
    assert len(Elements(page("none", ["<p>no figure</p>"])).scripts) == 1  # plotly only where it is needed


def test_the_policy_comes_before_anything_it_must_rule() -> None:
    head = page("t", [go.Figure()])
    assert head.index("Content-Security-Policy") < head.index("<title>") < head.index("<script")


def test_text_in_a_figure_cannot_leave_it_nor_become_a_link() -> None:
    figure = go.Figure().add_scatter(
        x=[1], y=[EVIL], text=['<a href="https://x.example">go</a><b>ours</b><br>'], name=TURNED
    )
    figure.update_layout(title=EVIL)
    found = drawn(figure)
    data = json.loads(found.scripts[0])
    trace = data["data"][0]
    assert trace["text"] == ['&lt;a href="https://x.example">go&lt;/a><b>ours</b><br>']
    assert "\\u202egnp.exe\\u202c" in trace["name"]
    assert trace["name"].isprintable()
    assert "<script" not in found.scripts[0]
    assert not {"img", "a"} & {tag for tag, _ in found.tags}
    assert EVIL in found.text  # the title, as text


def test_packed_numbers_are_left_alone_and_long_texts_are_not() -> None:
    values = list(range(2000))
    data = json.loads(drawn(go.Figure().add_scatter(y=values, name="x" * 10_000)).scripts[0])
    trace = data["data"][0]
    packed = trace["y"]
    if isinstance(packed, dict):
        import numpy as np

        packed = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"]).tolist()
    assert packed == values
    assert trace["name"].endswith("… (10,000 characters)")
    assert len(trace["name"]) < 650


@pytest.mark.parametrize("text", [EVIL, TURNED, '"><svg onload=alert(1)>', "' onmouseover='alert(1)"])
def test_text_from_data_is_escaped_wherever_it_stands(text: str) -> None:
    result = Page(text)
    result.section(text, text)
    result.section("second", "second")
    result.add(datum(text))
    result.add(table([text], [[text], [Cell(text, 1.0, text)]], text, text))
    found = Elements(result.html())
    assert {name for _, a in found.tags for name in a if name.startswith("on")} == set()
    assert {tag for tag, _ in found.tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "nav", "p", "ol", "li", "a", "bdi", "b", "br",
        "div", "table", "thead", "tbody", "tr", "th", "td", "button", "span", "script",
    }  # fmt: skip
    assert [s for s in found.scripts if "alert(1)" in s] == []
    assert found.text.count(visible(text)) >= 5


def test_marks_that_turn_the_reading_direction_are_spelled_out() -> None:
    every = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    assert visible(every) == "".join(f"\\u{ord(c):04x}" for c in every)
    assert visible("日本 é ا") == "日本 é ا"
    assert shortened("ab\n" * 100, 4) == "ab\\na… (300 characters)"
    assert shortened("short") == "short"


def test_a_number_carries_what_it_is_sorted_by() -> None:
    html = table(["name", "share"], [["a", percents(0.794, 0.771, 0.81)], ["b", percents(None)]], "T")
    assert re.findall(r'data-value="([^"]*)"', html) == ["0.794", ""]
    assert "79% [77%, 81%]" in html
    assert (decimals(0.5, 3, signed=True).text, decimals(-0.5, 3, signed=True).text) == ("+0.500", "-0.500")
    assert decimals(float("nan")) == Cell("–")
    assert 'data-value=""' in table(["x"], [[Cell("?", float("nan"))]], "T")
    assert percents(0.5, more="n = 3") == Cell("50%", 0.5, "n = 3")


def test_reliability_of_too_few_scenarios_is_a_dash() -> None:
    found = Elements(reliability({"heads, exact": {"fear": [0.5, 0.25, 0.75, None]}}))
    assert "heads, exactfear0.500.250.75–" in found.text.replace(" ", "").replace("\n", "").replace(
        "heads,exact", "heads, exact"
    )


def test_a_caption_is_the_figures_title_and_contents_lead_to_sections() -> None:
    result = Page("P")
    for name in ("one", "two"):
        result.section(name.title(), name)
    result.figure(go.Figure(layout={"title": {"text": "Share &lt; 1<br>of all"}, "width": 300}), "a note")
    found = Elements(result.html())
    assert [a["href"] for tag, a in found.tags if tag == "a"] == ["#one", "#two"]
    assert {a.get("id") for tag, a in found.tags if tag == "h2"} == {"one", "two"}
    assert "Share < 1 of alla note" in found.text
    layout = json.loads(found.scripts[0])["layout"]
    assert "title" not in layout
    assert "width" not in layout
