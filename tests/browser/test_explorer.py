"""The explorer as a user meets it, in headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import time
import xml.etree.ElementTree as ET  # what is read here was written here a moment ago
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.bigrun import Shape, big_run

import circuits
from browser.conftest import served
from circuits.circuit.formats import from_graphml, from_node_link
from circuits.live import Live
from circuits.model.planted import Planted
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run, open_run
from circuits.settings import Settings
from circuits.show.explore.app import make_app
from circuits.show.explore.desk import Desk
from circuits.show.words import percent

pytestmark = [pytest.mark.slow]

Open = Callable[..., Any]
SMALL = Shape(nodes=24, edges=70, layers=4, heads=4, neurons=32, scenarios=6, width=16, verified=20)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Circuits drawn at random, large enough to filter, with another run beside them."""
    folder = tmp_path_factory.mktemp("runs")
    big_run(folder / "other", SMALL, seed=1)
    return big_run(folder / "small", SMALL)


@pytest.fixture(scope="module")
def small_address(small_run: Run) -> Iterator[str]:
    """Where the explorer of the drawn run answers; its model does not exist."""
    with served(make_app(Desk(small_run, None, "a drawn run has no model"))) as found:
        yield found


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A planted model's run with the model at hand."""
    truth: Planted = circuits.planted("shared_head", noise=0.02)
    settings = Settings(verify=4, audit=0, random_circuits=20, patience=1)
    run = circuits.discover(truth.model, truth.prompts, settings, tmp_path_factory.mktemp("planted") / "run")
    desk = Desk(run, lambda run: Live.of(run, truth.model, truth.prompts))
    desk.wait(60.0)
    assert desk.state == "model at hand"
    return desk


@pytest.fixture(scope="module")
def living_address(living: Desk) -> Iterator[str]:
    """Where the explorer of the planted run answers."""
    with served(make_app(living)) as found:
        yield found


def opener(page: Any, address: str) -> Open:
    def go(query: str = "") -> Any:
        page.set_viewport_size({"width": 1400, "height": 900})
        page.goto(f"{address}?{query}" if query else address)
        page.wait_for_selector("#graph[data-ready='1']", state="attached")
        return page

    return go


@pytest.fixture
def opened(browser_page: Any, small_address: str) -> Open:
    """Open a view of the drawn run and wait until it stands; the page."""
    return opener(browser_page, small_address)


@pytest.fixture
def opened_live(browser_page: Any, living_address: str) -> Open:
    """The same of the planted run."""
    return opener(browser_page, living_address)


def until(page: Any, true: str, seconds: float = 10) -> None:
    """Wait until an expression is true; the page's policy forbids the driver's own way, which evaluates text in it."""
    end = time.monotonic() + seconds
    while not page.evaluate(true):
        assert time.monotonic() < end, f"not within {seconds} s: {true}"
        page.wait_for_timeout(30)


def shown(page: Any) -> set[str]:
    """Names of the components drawn."""
    names = page.evaluate(
        "explorer.cy().nodes().filter(n => !n.hasClass('row') && !n.hasClass('end') && !n.hasClass('random')).map(n => n.id())"
    )
    return set(names)


def select(page: Any, names: list[str]) -> None:
    """Select components as a box does. Nothing is handed back: the driver would copy the whole graph, for 15 seconds."""
    page.evaluate(f"{{ for (const id of {json.dumps(names)}) explorer.cy().$id(id).select(); null }}")


def until_shown(page: Any, names: set[str]) -> None:
    """Wait until just these components are drawn."""
    end = time.monotonic() + 10
    while shown(page) != names and time.monotonic() < end:
        page.wait_for_timeout(30)
    assert shown(page) == names


def drawn_again(page: Any, act: Callable[[], Any]) -> None:
    """Do something and wait until the graph has been drawn anew."""
    before = page.get_attribute("#graph", "data-drawn")
    act()
    until(page, f"document.getElementById('graph').dataset.drawn !== '{before}'")


def tick(page: Any, name: str, value: str) -> None:
    drawn_again(page, lambda: page.click(f"#{name} input[value='{value}']"))


def fill(page: Any, name: str, value: str) -> None:
    """A number or a slider."""
    script = """([id, value]) => { const el = document.getElementById(id);
        Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(el, value);
        el.dispatchEvent(new Event('input', { bubbles: true })); el.dispatchEvent(new Event('change', { bubbles: true })); }"""
    drawn_again(page, lambda: page.evaluate(script, [name, value]))


def text(page: Any, selector: str) -> str:
    return str(page.inner_text(selector))


def test_it_opens_with_the_first_emotion_and_says_what_is_drawn(opened: Open, small_run: Run) -> None:
    page = opened()
    first = next(e for e in EMOTIONS if small_run.circuit(e).nodes)
    circuit = small_run.circuit(first)
    assert shown(page) == {n.name for n in circuit.nodes}
    assert f"{len(circuit.nodes)} of {len(circuit.nodes)} components" in text(page, "#counts")
    assert f"{len(circuit.edges)} of {len(circuit.edges)} edges" in text(page, "#counts")
    assert page.evaluate("explorer.cy().edges().length") == len(circuit.edges)


def test_every_mark_shows_the_interval_and_how_it_was_measured(opened: Open, small_run: Run) -> None:
    page = opened("emotions=fear")
    nodes = {n.name: n for n in small_run.circuit("fear").nodes}
    drawn = page.evaluate("Object.fromEntries(explorer.cy().nodes('[pies]').map(n => [n.id(), n.data()]))")
    assert set(drawn) == set(nodes)
    for name, node in nodes.items():
        crosses = not node.low * node.high > 0
        assert (drawn[name]["core"] == "0%") == (crosses or not node.verified)
        assert (drawn[name]["line"] == "dashed") == (not node.verified)
        assert drawn[name]["colour"] == ("#0072B2" if node.effect >= 0 else "#D55E00")
    strongest = max(nodes.values(), key=lambda n: max(abs(n.low), abs(n.high)))
    assert drawn[strongest.name]["size"] == max(d["size"] for d in drawn.values())


def test_filters_leave_everything_at_its_place(opened: Open, small_run: Run) -> None:
    page = opened("emotions=fear")
    place = "Object.fromEntries(explorer.cy().nodes().map(n => [n.id(), [n.position('x'), n.position('y')]]))"
    before = page.evaluate(place)
    tick(page, "emotions", "anger")
    both = {n.name for e in ("fear", "anger") for n in small_run.circuit(e).nodes}
    until_shown(page, both)
    after = page.evaluate(place)
    assert all(after[name] == at for name, at in before.items())
    shared = {n.name for n in small_run.circuit("fear").nodes} & {n.name for n in small_run.circuit("anger").nodes}
    assert shared, "the test needs a component that both circuits have"
    slices = page.evaluate("Object.fromEntries(explorer.cy().nodes('[pies]').map(n => [n.id(), n.data('s2')]))")
    assert {name for name, share in slices.items() if share > 0} == shared
    tick(page, "only", "shared")
    until_shown(page, shared)
    tick(page, "only", "shared")
    tick(page, "kinds", "neuron")
    until_shown(page, {name for name in both if "H" in name})


def test_layers_effects_edges_and_exact_ones(opened: Open, small_run: Run) -> None:
    page = opened("emotions=fear")
    circuit = small_run.circuit("fear")
    fill(page, "to", "1")
    until_shown(page, {n.name for n in circuit.nodes if n.component.layer <= 1})
    fill(page, "to", "3")
    top = max(abs(n.effect) for n in circuit.nodes)
    fill(page, "effect", "0.2")
    until_shown(page, {n.name for n in circuit.nodes if abs(n.effect) >= 0.2 * top})
    fill(page, "effect", "0")
    heaviest = max(abs(d.weight) for d in circuit.edges)
    fill(page, "edge", "0.1")
    assert page.evaluate("explorer.cy().edges().length") == sum(abs(d.weight) >= 0.1 * heaviest for d in circuit.edges)
    tick(page, "only", "verified")
    until_shown(page, {n.name for n in circuit.nodes if n.verified})


def test_the_address_holds_the_view(opened: Open, small_run: Run) -> None:
    page = opened("emotions=fear")
    name = small_run.circuit("fear").nodes[0].name
    tick(page, "emotions", "anger")
    page.fill("#search", name)
    page.press("#search", "Enter")
    until(page, f"location.search.includes('node={name}')")
    query = page.evaluate("location.search.slice(1)")
    assert "emotions=anger%2Cfear" in query or "emotions=fear%2Canger" in query
    again = opened(query)
    until(again, f"explorer.picked === '{name}' && explorer.filters().emotions.length === 2")
    again.wait_for_selector(f"#node-view h2:has-text('{name}')")


def test_an_address_that_asks_for_nonsense_says_so(opened: Open) -> None:
    page = opened("emotions=fear,joy&node=L99H1")
    page.wait_for_selector("#node-view .warn")
    assert "L99H1 is not in this model" in text(page, "#node-view")
    page = opened("node=%3Cscript%3Ealert(1)%3C/script%3E")
    until(page, "document.getElementById('note').textContent.includes('is no component')")
    page = opened("emotions=joy")
    until(page, "document.getElementById('note').textContent.includes('joy')")


def test_the_panel_knows_what_the_run_knows(opened: Open, small_run: Run) -> None:
    node = max(small_run.circuit("fear").nodes, key=lambda n: abs(n.effect))
    page = opened(f"emotions=fear&node={node.name}")
    page.wait_for_selector("#look-view p")
    said = text(page, "#node-view")
    assert node.name in said
    assert "model not at hand" in said
    page.click("#node-view details summary")
    rows = small_run.effects.rows(node.name)
    one = rows[rows["emotion"] == "fear"].iloc[0]
    assert f"{one['effect']:+.3f} [{one['low']:.3f}, {one['high']:.3f}]" in text(page, "#node-view details")
    texts = Desk(small_run).acting(node.name, Emotion.FEAR)
    for prompt, value in (texts[0], texts[-1]):
        assert f"{value:+.3f}" in said
        assert prompt["text"][:30] in said
    edges = [d for d in small_run.circuit("fear").edges if node.name in (d.source, d.target)]
    heaviest = max(edges, key=lambda d: abs(d.weight))
    assert f"{heaviest.weight:+.3f} [{heaviest.low:.3f}, {heaviest.high:.3f}]" in said


def test_the_panel_shows_attention_activations_and_words(opened_live: Open, living: Desk) -> None:
    nodes = living.circuits[Emotion.FEAR].nodes
    for kind in ("head", "neuron"):
        name = next(n.name for n in nodes if n.component.kind == kind)
        page = opened_live(f"emotions=fear&node={name}")
        page.wait_for_selector(f"#look-view .{'heatmaplayer' if kind == 'head' else 'barlayer'}")
        page.wait_for_selector("#node-view .words")
        assert living.live is not None
        first = living.live.lens(name, "fear").promoted[0]
        assert f"{first.logit:+.2f}" in text(page, "#node-view .words")


def test_a_path_is_lit_from_a_node_to_its_read_out_and_back(opened: Open, small_run: Run) -> None:
    circuit = small_run.circuit("fear")
    name = next(n.name for n in circuit.nodes if n.component.layer == 0)
    page = opened(f"emotions=fear&node={name}")
    until(page, f"explorer.picked === '{name}'")
    page.click("#up")
    graph = circuit.to_networkx()
    import networkx as nx

    faint = set(page.evaluate("explorer.cy().nodes('.faint').map(n => n.id())"))
    bright = shown(page) - faint
    assert bright == ({name} | nx.descendants(graph, name)) & shown(page)
    page.click("#down")
    faint = set(page.evaluate("explorer.cy().nodes('.faint').map(n => n.id())"))
    assert shown(page) - faint == ({name} | nx.ancestors(graph, name)) & shown(page)
    page.click("#down")
    assert page.evaluate("explorer.cy().elements('.faint').length") == 0


def test_random_circuits_stand_beside_the_found_one(opened: Open, small_run: Run) -> None:
    page = opened("emotions=fear")
    tick(page, "random", "0")
    drawn = set(page.evaluate("explorer.cy().nodes('.random').map(n => n.id())"))
    desk = Desk(small_run)
    random = desk.nulls[Emotion.FEAR][0]
    assert drawn == {c.name for c in random.components} - {n.name for n in desk.circuits[Emotion.FEAR].nodes}
    n = desk.circuits[Emotion.FEAR].judgement["n"]
    for number in (0, 1):
        if number:
            tick(page, "random", str(number))
        said = f"n = {n} scenarios, one draw, so no interval: fear {percent(desk.nulls[Emotion.FEAR][number].faithfulness)}"
        until(page, f"document.getElementById('random-note').textContent.includes('{said}')")
    assert percent(desk.nulls[Emotion.FEAR][1].faithfulness) != percent(random.faithfulness)


def test_work_is_undone_and_done_again(opened: Open, small_run: Run) -> None:
    nodes = [n.name for n in small_run.circuit("fear").nodes]
    page = opened(f"emotions=fear&node={nodes[0]}")
    until(page, f"explorer.picked === '{nodes[0]}'")
    page.click("#hide")
    assert nodes[0] not in shown(page)
    page.click("#undo")
    assert nodes[0] in shown(page)
    page.click("#redo")
    assert nodes[0] not in shown(page)
    page.click("#show-all")
    assert nodes[0] in shown(page)
    page.evaluate(f"explorer.pick('{nodes[1]}')")
    page.click("#pin")
    fill(page, "effect", "1")
    assert nodes[1] in shown(page)
    fill(page, "effect", "0")
    select(page, nodes[2:4])
    page.fill("#name", "two of them")
    page.click("#group")
    assert {nodes[2], nodes[3]} & shown(page) == set()
    assert page.evaluate("explorer.cy().nodes('.group').map(n => n.data('label'))") == ["two of them (2)"]
    edges = small_run.circuit("fear").edges
    into = {d.source for d in edges if d.target in nodes[2:4] and d.source not in nodes[2:4]}
    assert set(page.evaluate("explorer.cy().nodes('.group').incomers('node').map(n => n.id())")) == into
    page.click("#undo")
    assert {nodes[2], nodes[3]} <= shown(page)


def test_the_selection_shows_what_it_carries(opened_live: Open, living: Desk) -> None:
    page = opened_live("emotions=fear")
    page.wait_for_selector("#selection-view table")
    names = [n.name for n in living.circuits[Emotion.FEAR].nodes]
    found = living.live.selection("fear", names)
    assert f"{100 * found.value:.0f}%" in text(page, "#selection-view")
    assert f"n = {found.n} scenarios" in text(page, "#selection-view")
    some = names[:2]
    select(page, some)
    until(page, "document.getElementById('selection-view').innerText.includes('The selected: 2 components')")
    assert f"{100 * living.live.selection('fear', some).value:.0f}%" in text(page, "#selection-view")


def test_a_view_is_saved_and_comes_back(opened: Open, small_run: Run) -> None:
    nodes = [n.name for n in small_run.circuit("fear").nodes]
    page = opened(f"emotions=fear&node={nodes[0]}")
    until(page, f"explorer.picked === '{nodes[0]}'")
    page.click("#hide")
    page.fill("#view-name", "no first")
    page.click("#save")
    until(page, "document.getElementById('view-told').textContent.includes('saved')")
    assert open_run(small_run.directory).manifest["key"] == small_run.manifest["key"]  # the run stays whole
    page = opened("emotions=anger")
    page.fill("#view-list", "no first")
    page.click("#load")
    until(page, "explorer.filters().emotions.join() === 'fear'")
    until(page, f"explorer.cy().$id('{nodes[1]}').length === 1")
    assert nodes[0] not in shown(page)
    page.fill("#view-list", "../../etc")
    page.click("#load")
    until(page, "document.getElementById('view-told').textContent.includes('..')")


def test_what_if_moves_the_six_emotions(opened_live: Open, living: Desk) -> None:
    page = opened_live("emotions=fear&tab=whatif")
    page.wait_for_selector("#whatif-view p")
    page.click("#whatif-run")
    until(page, "document.getElementById('whatif-view').innerText.includes('no text yet')")
    prompt = next(t["id"] for t in living.texts.values() if t["split"] == "test" and t["emotion"] == "fear")
    page.fill("#whatif-id", prompt)
    page.click("#whatif-run")
    until(page, "document.getElementById('whatif-view').innerText.includes('No component')")
    page.click("#whatif-take")
    page.wait_for_selector("#whatif-parts input")
    page.click("#whatif-run")
    page.wait_for_selector("#whatif-view table")
    names = [n.name for n in living.circuits[Emotion.FEAR].nodes]
    found = living.live.what_if(prompt, dict.fromkeys(names, 0.0))
    first = found.words[0]
    said = text(page, "#whatif-view")
    assert f"{100 * first.before:.2f}%" in said
    assert f"{100 * first.after:.2f}%" in said
    assert "forwards" in said
    page.fill("#whatif-text", "Tom qqzzx felt")
    page.click("#whatif-run")
    until(page, "document.getElementById('whatif-view').innerText.includes('qqzzx')")
    page.fill("#whatif-text", "Tom felt " * 520)
    page.click("#whatif-run")
    page.wait_for_selector("#whatif-view .warn[role=alert]")
    assert re.search(r"\d+ tokens|letters", text(page, "#whatif-view"))


def test_circuit_and_vector_are_linked_with_the_graph(opened: Open, small_run: Run) -> None:
    page = opened("emotions=fear&tab=vector")
    page.wait_for_selector("#vector-nodes .scatterlayer .point")
    points = page.locator("#vector-nodes .scatterlayer .point")
    points.last.scroll_into_view_if_needed()
    for _ in range(10):  # plotly listens only after its first drawing
        box = points.last.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2 - 3, box["y"] + box["height"] / 2)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(150)
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(400)
        if page.evaluate("explorer.picked"):
            break
    picked = page.evaluate("explorer.picked")
    assert picked in {n.name for n in small_run.circuit("fear").nodes}
    assert len(page.query_selector_all("#vector-view .js-plotly-plot")) >= 5
    # Which emotion it is about can be seen, and another one chosen.
    assert page.is_checked("#vector-emotion input[value='']")
    assert "fear: who writes" in text(page, "#vector-view")
    page.click("#vector-emotion input[value='anger']")
    until(page, "document.getElementById('vector-view').innerText.includes('anger: who writes')")


def test_the_judge_shows_random_circuits_and_intervals(opened: Open) -> None:
    page = opened("tab=judge")
    page.wait_for_selector("#judge-view .js-plotly-plot")
    said = text(page, "#judge-view")
    assert "random circuits" in said
    assert "Is it steady?" in said
    assert "None was tested on this run yet" in said


def test_two_runs_side_by_side(opened: Open, small_run: Run) -> None:
    page = opened("emotions=fear&tab=compare")
    page.wait_for_selector("#compare-view p")
    page.fill("#compare-with", "nowhere")
    page.click("#compare-run")
    until(page, "document.getElementById('compare-view').innerText.includes('nowhere')")
    page.fill("#compare-with", "other")
    page.click("#compare-run")
    page.wait_for_selector("#compare-view table")
    here, there = small_run.circuit("fear"), open_run(small_run.directory.parent / "other").circuit("fear")
    lost = {n.name for n in there.nodes} - {n.name for n in here.nodes}
    assert all(name in text(page, "#compare-view") for name in lost)


def test_what_is_seen_is_exported(opened: Open, small_run: Run, tmp_path: Path) -> None:
    page = opened("emotions=fear")
    fill(page, "to", "2")
    names = shown(page)
    page.wait_for_timeout(600)  # the page tells what it shows a moment after the last change
    edges = page.evaluate("explorer.cy().edges().length")
    page.click("#tab-export")
    kept = {}
    for button in ("as-graphml", "as-json", "as-nodes", "as-edges", "svg", "png"):
        with page.expect_download() as waiting:
            page.click(f"#{button}")
        kept[button] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(kept[button])
    for button, read in (("as-graphml", from_graphml), ("as-json", from_node_link)):
        circuit = read(kept[button].read_bytes())
        assert {n.name for n in circuit.nodes} == names
        assert len(circuit.edges) == edges
    assert len(kept["as-nodes"].read_text().splitlines()) == len(names) + 3  # a head, the embedding, the read-out
    assert len(kept["as-edges"].read_text().splitlines()) == edges + 1
    root = ET.parse(kept["svg"]).getroot()
    assert root.tag.endswith("svg")
    assert len([t for t in root.iter() if t.tag.endswith("line")]) == edges
    assert kept["png"].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_keyboard_is_enough(opened: Open, small_run: Run) -> None:
    page = opened("emotions=fear")
    page.focus("#tab-graph")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.body.dataset.tab") == "vector"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.evaluate("document.getElementById('canvas').focus()")
    page.keyboard.press("ArrowUp")
    first = page.evaluate("explorer.picked")
    assert first in {n.name for n in small_run.circuit("fear").nodes}
    page.keyboard.press("ArrowUp")
    circuit = small_run.circuit("fear")
    heaviest = max((d for d in circuit.edges if d.source == first), key=lambda d: abs(d.weight))
    assert page.evaluate("explorer.picked") == heaviest.target
    page.keyboard.press("ArrowDown")
    page.keyboard.press("u")
    assert page.evaluate("explorer.cy().elements('.path').length") > 0
    page.keyboard.press("Escape")
    assert page.evaluate("explorer.picked") is None
    page.keyboard.press("ArrowUp")
    page.keyboard.press("h")
    assert len(shown(page)) == len(circuit.nodes) - 1
    page.keyboard.press("z")
    assert len(shown(page)) == len(circuit.nodes)
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") in ("node-panel", "canvas")


@pytest.mark.parametrize("width", [700, 390])
def test_a_narrow_window_shows_all_of_it(opened: Open, width: int) -> None:
    page = opened("emotions=fear")
    page.set_viewport_size({"width": width, "height": 900})
    for name in ("graph", "vector", "whatif", "judge", "compare", "export"):
        page.click(f"#tab-{name}")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), name


def test_a_reload_in_the_middle_is_survived(opened: Open, small_run: Run) -> None:
    page = opened("emotions=fear&tab=judge")
    page.reload()
    page.wait_for_selector("#judge-view .js-plotly-plot")
    page.wait_for_selector("#graph[data-ready='1']", state="attached")
    assert page.evaluate("document.body.dataset.tab") == "judge"
    until_shown(page, {n.name for n in small_run.circuit("fear").nodes})


def test_a_run_that_is_removed_is_named(browser_page: Any, shot: Any, small_run: Run, tmp_path: Path) -> None:
    from circuits.exploring import explorer

    shutil.copytree(small_run.directory, tmp_path / "gone")
    app, _ = explorer(tmp_path / "gone", live=False)
    with served(app) as address:
        page = browser_page
        page.goto(f"{address}?emotions=fear")
        page.wait_for_selector("#graph[data-ready='1']", state="attached")
        assert "model not at hand" in text(page, "#model-state")
        shutil.rmtree(tmp_path / "gone")
        page.click("#tab-judge")
        page.wait_for_selector("#judge-view .warn")
        assert "was removed or moved" in text(page, "#judge-view")
        shot("removed")
        page.close()  # before its server: what it still asks for would be an error


@pytest.mark.parametrize("tab", ["graph", "vector", "whatif", "judge", "compare", "export"])
def test_no_serious_accessibility_fault(opened: Open, small_run: Run, tab: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    name = small_run.circuit("fear").nodes[0].name
    page = opened(f"emotions=fear&tab={tab}&node={name}")
    page.wait_for_timeout(1500)
    # The policy refuses scripts that are not the page's own; the checker is put in by the driver, beside it.
    found = axe.Axe().run(page)
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], [n["html"][:120] for n in v["nodes"]][:4]) for v in serious]
