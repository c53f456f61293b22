"""A stranger's run full of text that wants to be code: shown as text, in every view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bench.bigrun import Shape, big_run

from browser.conftest import served
from circuits.runs.directory import Run
from circuits.show.explore.app import make_app
from circuits.show.explore.desk import Desk

pytestmark = [pytest.mark.slow]

ACTS = "[onerror], [onload], [onclick], [onmouseover], [onfocus], iframe, object, embed"


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    shape = Shape(nodes=12, edges=30, layers=2, heads=2, neurons=16, scenarios=6, width=8, verified=8)
    return big_run(tmp_path_factory.mktemp("hostile") / "run", shape, hostile=True)


@pytest.fixture(scope="module")
def address(hostile_run: Run) -> Iterator[str]:
    with served(make_app(Desk(hostile_run, None, "<script>alert('absent')</script>"))) as found:
        yield found


@pytest.mark.parametrize("tab", ["graph", "vector", "whatif", "judge", "compare", "export"])
def test_text_from_a_run_stays_text(browser_page: Any, address: str, hostile_run: Run, tab: str) -> None:
    page = browser_page
    dialogs: list[str] = []
    page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
    name = hostile_run.circuit("fear").nodes[0].name
    page.goto(f"{address}?emotions=fear&node={name}&tab={tab}")
    page.wait_for_selector("#graph[data-ready='1']", state="attached")
    page.wait_for_selector("#node-view h2", state="attached")
    page.wait_for_timeout(700)
    assert not dialogs
    assert page.evaluate("window.hostile") is None
    html = page.content()
    assert "<script>alert" not in html
    assert page.evaluate(f"document.querySelectorAll({ACTS!r}).length") == 0
    shown = page.evaluate("document.body.innerText")
    assert not any(mark in shown for mark in "\u202e\u2066\u2067\u202d\u200f"), (
        "a mark that turns text around is shown as such"
    )
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), "too wide"


QUERIES = (
    "node=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", "emotions=%3Cscript%3E", "layers=..%2F..%2Fetc&edge=NaN&effect=-1",
    "tab=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", "node=" + "L" * 5000,
)  # fmt: skip


def test_names_in_the_address_are_text(browser_page: Any, address: str) -> None:
    page = browser_page
    for query in QUERIES:
        page.goto(f"{address}?{query}")
        page.wait_for_selector("#graph[data-ready='1']", state="attached")
        page.wait_for_timeout(300)
        assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
