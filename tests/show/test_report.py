"""The report: the same from a walk and from its run, safe with hostile names, and what makes the run again makes this run."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stored import Watched, chromium, stored
from typer.testing import CliRunner

import circuits.model.door
import circuits.walk
from circuits.cli import app
from circuits.model.planted import Planted
from circuits.model.sites import Component
from circuits.prompts.datasets import read_answers, read_prompts
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run, open_run
from circuits.show.page import Page, page
from circuits.show.repeat import command, requirements
from circuits.show.report import report_of
from circuits.walk import run_key

EVIL = "</script><script>window.hacked=1;alert(1)</script><img src=x onerror='window.hacked=1;alert(2)'>"
LINKS = "<a href='javascript:alert(3)'>one</a><a href='https://evil.example'>two</a>"
HOSTILE = f"{EVIL}{LINKS}\u202egnp\u202c\x1b[31m%{{x}}"
LONG = "A" * 10_000


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, Run]:
    return stored(tmp_path_factory)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_the_page_of_a_walk_is_the_page_of_its_run(walked: tuple[Planted, Run]) -> None:
    run = open_run(walked[1].directory)
    assert report_of(run) == run.report.read_text(encoding="utf-8")
    assert run.report.stat().st_size < 8 << 20


def test_the_order_is_words_graphs_curves_tables_methods(walked: tuple[Planted, Run]) -> None:
    text = walked[1].report.read_text(encoding="utf-8")
    places = [
        text.index(f'<h2 id="{name}">') for name in ("summary", "circuits", "judged", "directions", "tables", "methods")
    ]
    assert places == sorted(places)
    assert "<b>6 of 6</b> emotions have a circuit" in text
    assert text.index("emotions have a circuit") < text.index("data-figure=figure-0")


# -- how to repeat it --------------------------------------------------------------------------------------------------


def test_the_command_line_makes_this_very_run_again(
    walked: tuple[Planted, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in the run's directory it asks for the same model, prompts and settings: the run's key is the same."""
    truth, run = walked
    asked: dict[str, Any] = {}

    def load(name: str, **how: Any) -> Any:
        asked.update(name=name, **how)
        return truth.model

    def discover(model: Any, prompts: Any, settings: Any, out: Path, **_: Any) -> Run:
        asked.update(key=run_key(model, prompts, settings), out=out)
        return run

    monkeypatch.setattr(circuits.model.door, "load", load)
    monkeypatch.setattr(circuits.walk, "discover", discover)
    monkeypatch.chdir(run.directory)
    line = command(run.manifest)
    assert line in run.report.read_text(encoding="utf-8").replace("&#x27;", "'")
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    assert asked["key"] == run.manifest["key"]
    assert (asked["name"], asked["device"], asked["dtype"]) == (truth.model.name, "cpu", "float32")
    assert asked["out"] == Path("again")


def test_the_prompts_of_a_run_are_the_prompts(walked: tuple[Planted, Run]) -> None:
    truth, run = walked
    again = read_prompts(run.directory / "prompts.jsonl").with_answers(read_answers(run.directory / "answers.json"))
    assert again.fingerprint == truth.prompts.fingerprint
    assert again.lexical == truth.prompts.lexical
    assert run.manifest["prompts"]["shipped"] is False


def test_shipped_prompts_are_asked_for_by_name(walked: tuple[Planted, Run]) -> None:
    manifest = json.loads(json.dumps(walked[1].manifest))
    manifest["prompts"] |= {"name": "microstories", "shipped": True}
    manifest["model"]["name"] = "embedded"
    assert command(manifest).startswith("circuits discover --model embedded --prompts microstories --device cpu")
    del manifest["prompts"]["shipped"]  # of an earlier version
    assert "--prompts microstories" in command(manifest)
    assert "--alpha 0.04" in command(manifest)
    assert "--thorough" not in command(manifest)
    manifest["settings"] |= {"thorough": True, "patience": None}
    assert "--thorough" in command(manifest)
    assert "--patience" not in command(manifest)


def test_a_name_cannot_become_a_command(walked: tuple[Planted, Run]) -> None:
    manifest = json.loads(json.dumps(walked[1].manifest))
    manifest["model"]["name"] = "x; rm -rf ~ $(id) `id`\n'"
    manifest["versions"]["torch"] = "1; id"
    words = shlex.split(command(manifest))
    assert words[words.index("--model") + 1] == "x; rm -rf ~ $(id) `id`\\n'"
    assert "'torch==1; id'" in requirements(manifest)


def test_a_build_that_no_index_has_is_asked_for_by_its_version() -> None:
    text = requirements({"versions": {"emotion-circuits": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6"}})
    assert text == "# in a checkout of emotion-circuits 0.1.0\npip install . torch==2.13.0 numpy==2.4.6"


# -- in a browser ------------------------------------------------------------------------------------------------------


def hostile(run: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """The report of a run in which every name is an attack."""
    found = {e: run.circuit(e) for e in EMOTIONS}  # a file whose nodes are named otherwise is not read at all
    monkeypatch.setattr(Run, "circuit", lambda self, name: found[Emotion(name)])
    plain = Component.name.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Component, "name", property(lambda self: f"{plain(self)}{HOSTILE}"))
    manifest = json.loads(json.dumps(run.manifest))
    manifest["model"]["name"] = f"model{HOSTILE}{LONG}"
    manifest["prompts"] |= {"name": f"prompts{HOSTILE}{LONG}", "lexical": HOSTILE, "scenarios": {HOSTILE: HOSTILE}}
    manifest["notices"] = [f"notice{HOSTILE}{LONG}", EVIL]
    for name in ("settings", "versions", "machine", "engine"):
        manifest[name] = {**manifest[name], HOSTILE: HOSTILE}
    manifest["judge"]["overlap"]["core"] = [HOSTILE]
    manifest["judge"]["skipped"] = manifest["compared"]["skipped"] = HOSTILE
    manifest["compared"]["notices"] = [HOSTILE]
    manifest["reliability"][HOSTILE] = {HOSTILE: [0.1, 0.1, 0.1, 0.1]}
    changed = replace(run, manifest=manifest)
    tables = {"comparison": "state", "same_effect": "state", "half_layers": "half_layer"}
    for name, column in tables.items():
        whole = getattr(run, name)
        table = (whole if name == "half_layers" else whole.table).copy()
        table[column] = table[column] + HOSTILE + LONG
        changed.__dict__[name] = table if name == "half_layers" else replace(whole, table=table)
    arrays, about = run.directions
    changed.__dict__["directions"] = arrays, {**about, "states": [f"{s}{HOSTILE}" for s in about["states"]]}
    return report_of(changed)


def test_hostile_names_are_shown_and_never_run(
    walked: tuple[Planted, Run], browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hostile.html"
    file.write_text(hostile(walked[1], monkeypatch), encoding="utf-8")
    watched = Watched(browser.new_page(viewport={"width": 700, "height": 900}))
    opened = watched.open(file)
    assert (watched.dialogs, watched.errors, watched.requests) == ([], [], [])
    assert opened.evaluate("window.hacked") is None
    count = "s => document.querySelectorAll(s).length"
    assert opened.evaluate(count, "main img, svg a, a:not([href^='#']), iframe, object, embed, link, base, form") == 0
    assert opened.evaluate(count, "script") == int(opened.evaluate(count, "script[data-figure]")) + 2
    text = opened.inner_text("main")
    assert f"model{EVIL}" in text
    assert "\\u202egnp\\u202c\\x1b[31m" in text
    assert "characters)" in text
    assert not set(text) & set("\u202e\u202c\x1b")
    labels = " ".join(opened.locator("svg text").all_text_contents())
    assert "<img src=x" in labels  # the attack as letters
    assert not set(labels) & set("\u202e\u202c\x1b")
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opened.close()


def test_what_gets_in_as_a_script_all_the_same_is_refused_by_the_policy(browser: Any, tmp_path: Path) -> None:
    result = Page("P")
    result.add(
        "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><a href='javascript:hacked=1'>x</a>"
    )
    result.add("<img src='https://evil.example/x.png'><style>@import url(https://evil.example/x.css);</style>")
    file = tmp_path / "in.html"
    file.write_text(result.html(), encoding="utf-8")
    watched = Watched(browser.new_page())
    opened = watched.open(file)
    opened.click("text=x")
    assert opened.evaluate("window.hacked") is None
    assert set(watched.refused) == {*watched.requests, f"{tmp_path.as_uri()}/x"}
    assert len(watched.requests) == 2
    assert set(watched.refused.values()) == {"csp"}  # the browser never went to ask
    assert any("Content Security Policy" in error for error in watched.errors)
    opened.close()


def test_the_report_is_drawn_without_a_network_and_has_no_serious_fault_of_access(
    walked: tuple[Planted, Run], browser: Any
) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    script = next(Path(package.__file__).parent.rglob("axe.min.js")).read_text(encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 1400, "height": 900})
    watched = Watched(context.new_page())
    opened = watched.open(walked[1].report)
    assert (watched.errors, watched.requests) == ([], [])
    figures = opened.evaluate("document.querySelectorAll('script[data-figure]').length")
    assert opened.evaluate("document.querySelectorAll('.drawn .main-svg').length") >= figures > 20
    opened.evaluate(script)
    found = opened.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    context.close()


def test_a_table_is_sorted_by_click_and_by_keyboard(browser: Any, tmp_path: Path) -> None:
    from circuits.show.page import Cell, table

    rows = [
        ["L2N10", Cell("9%", 0.09)],
        ["L2N9", Cell("–")],
        ["L10N1", Cell("-3%", -0.03)],
        ["L2N1", Cell("100%", 1.0)],
    ]
    file = tmp_path / "table.html"
    file.write_text(page("T", [table(["name", "share"], rows, "T")]), encoding="utf-8")
    opened = Watched(browser.new_page()).open(file)

    def column(place: int) -> list[str]:
        return opened.locator(f"tbody td:nth-child({place})").all_inner_texts()

    opened.click("th:nth-child(2) button")
    assert column(2) == ["-3%", "9%", "100%", "–"]
    assert opened.get_attribute("th:nth-child(2)", "aria-sort") == "ascending"
    opened.keyboard.press("Enter")  # the button has the focus
    assert column(2) == ["100%", "9%", "-3%", "–"]
    assert opened.get_attribute("th:nth-child(2)", "aria-sort") == "descending"
    opened.keyboard.press("Shift+Tab")
    opened.keyboard.press("Space")
    assert column(1) == ["L2N1", "L2N9", "L2N10", "L10N1"]
    assert opened.get_attribute("th:nth-child(2)", "aria-sort") is None
    opened.close()


def test_on_a_phone_boxes_scroll_and_the_page_does_not(walked: tuple[Planted, Run], browser: Any) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    opened = Watched(context.new_page()).open(walked[1].report)
    assert opened.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    scrolled = opened.evaluate(
        "[...document.querySelectorAll('.wide')].filter(b => b.scrollWidth > b.clientWidth).length"
    )
    assert scrolled > 20
    assert opened.evaluate(
        "[...document.querySelectorAll('.wide')].every(b => (b.scrollWidth > b.clientWidth + 1) === (b.tabIndex === 0))"
    )
    small = opened.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(e => !e.closest('script') &&
        [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.getClientRects().length &&
        parseFloat(getComputedStyle(e).fontSize) < (e.closest('svg') ? 12 : 14)).map(e => e.outerHTML)"""
    )
    assert small == []
    place = opened.locator("#figure-0")
    place.scroll_into_view_if_needed()
    opened.evaluate("scrollTo(0, document.querySelector('#figure-0').getBoundingClientRect().top + scrollY - 100)")
    before = opened.evaluate("scrollY")
    touch = context.new_cdp_session(opened)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": 200, "y": 400}]})
    for y in range(390, 190, -20):
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": 200, "y": y}]})
        opened.wait_for_timeout(16)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    opened.wait_for_timeout(300)
    assert opened.evaluate("scrollY") > before + 50  # a finger on a figure moves the page, not the figure
    context.close()


def test_on_paper_figures_fit_and_what_cannot_be_pressed_is_gone(
    walked: tuple[Planted, Run], browser: Any, tmp_path: Path
) -> None:
    opened = Watched(browser.new_page(viewport={"width": 1400, "height": 900})).open(walked[1].report)
    height = "document.querySelector('#figure-0').getBoundingClientRect().height"
    before = opened.evaluate(height)
    opened.set_viewport_size({"width": 1000, "height": 700})  # plotly draws anew, and forgets the height it was given
    opened.wait_for_timeout(400)
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('beforeprint'))")
    widths = opened.evaluate("[...document.querySelectorAll('.main-svg')].map(s => s.getBoundingClientRect().width)")
    assert max(widths) == 690  # 186 mm, between the margins of A4
    assert opened.evaluate(height) == pytest.approx(0.75 * before, abs=1)
    for gone in ("nav", ".modebar-container"):
        assert not opened.locator(gone).first.is_visible()
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    opened.emulate_media(media="screen")
    assert opened.evaluate(height) == pytest.approx(before, abs=1)
    opened.pdf(path=tmp_path / "report.pdf", format="A4", prefer_css_page_size=True)
    assert (tmp_path / "report.pdf").stat().st_size > 100_000
    opened.close()


def test_a_damaged_run_is_an_error_not_a_page(walked: tuple[Planted, Run], tmp_path: Path) -> None:
    other = tmp_path / "copy"
    shutil.copytree(walked[1].directory, other)
    (other / "answers.json").unlink()
    from circuits.errors import RunError

    with pytest.raises(RunError, match=r"answers\.json is listed but missing"):
        open_run(other)
