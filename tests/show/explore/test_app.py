"""What the page answers when it is asked, without a browser; and what opens it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bench.bigrun import Shape, big_run

from circuits.circuit.algebra import part, union
from circuits.errors import RunError, SettingsError
from circuits.exploring import explore, explorer
from circuits.prompts.emotions import Emotion
from circuits.runs.directory import Run, open_run
from circuits.runs.newest import newest_run
from circuits.show.explore.app import make_app, seen_circuit
from circuits.show.explore.desk import Desk
from circuits.show.explore.panel import node_panel
from circuits.show.explore.scene import key

SHAPE = Shape(nodes=20, edges=60, layers=2, heads=4, neurons=32, scenarios=6, width=8, verified=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return big_run(tmp_path_factory.mktemp("app") / "run", SHAPE)


@pytest.fixture(scope="module")
def desk(run: Run) -> Desk:
    return Desk(run, None, "drawn")


def words(children: Any) -> str:
    """All text of a tree of components."""
    if children is None:
        return ""
    if isinstance(children, list | tuple):
        return " ".join(map(words, children))
    if hasattr(children, "children"):
        return words(children.children)
    return str(children) if isinstance(children, str | int | float) else ""


def test_the_panel_of_what_is_not_there_is_kind(desk: Desk) -> None:
    assert "Pick a component" in words(node_panel(desk, None, []))
    assert "unknown component 'nonsense'" in words(node_panel(desk, "nonsense", []))
    assert "L7H0 is not in this model: it has layers 0 to 1, 4 heads and 32 neurons a layer" in words(
        node_panel(desk, "L7H0", [])
    )
    assert "L0N99 is not in this model" in words(node_panel(desk, "L0N99", []))
    assert "A group" in words(node_panel(desk, "group:1", []))
    assert "read-out of fear" in words(node_panel(desk, "fear", ["fear"]))
    assert "where all text enters" in words(node_panel(desk, "embed", ["fear"]))


def test_the_panel_of_a_component_in_no_circuit(desk: Desk) -> None:
    members = {n.name for c in desk.circuits.values() for n in c.nodes}
    name = next(n for n in (f"L0N{i}" for i in range(32)) if n not in members)
    assert "in no circuit of this run" in words(node_panel(desk, name, ["fear"]))


def test_what_acts_is_ranked_on_the_emotions_own_test_texts(desk: Desk) -> None:
    name = desk.circuits[Emotion.FEAR].nodes[0].name
    pairs = desk.acting(name, Emotion.FEAR)
    assert [v for _, v in pairs] == sorted((v for _, v in pairs), reverse=True)
    assert {(t["emotion"], t["split"]) for t, _ in pairs} == {("fear", "test")}
    place = desk.run.effects.components.index(name)
    values = desk.run.effects.values[place][:, Emotion.FEAR.column]
    by_id = dict(zip(desk.run.effects.prompt_ids, values, strict=True))
    assert all(by_id[t["id"]] == pytest.approx(v) for t, v in pairs)


def test_a_removed_run_is_named(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.directory, tmp_path / "gone")
    desk = Desk(open_run(tmp_path / "gone"))
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(RunError, match="was removed or moved"):
        desk.require_run()


def test_only_runs_beside_this_one_are_compared(run: Run, desk: Desk) -> None:
    for name in ("../run", "/etc", "..", "", "x" * 500, "run"):
        with pytest.raises(RunError, match="no run"):
            desk.beside(name)


def test_a_model_that_cannot_be_had_is_said(run: Run) -> None:
    def wake(_: Run) -> Any:
        raise RunError("the model is elsewhere")

    desk = Desk(run, wake)
    desk.wait(10.0)
    assert desk.live is None
    assert desk.state == "model not at hand: the model is elsewhere"


def test_a_strangers_model_is_not_fetched_unasked(run: Run) -> None:
    _, desk = explorer(run)
    desk.wait(120.0)
    assert desk.live is None
    assert "--model" in desk.state


def test_what_is_seen_is_the_part_of_the_union(desk: Desk) -> None:
    fear, anger = desk.circuits[Emotion.FEAR], desk.circuits[Emotion.ANGER]
    names = [n.name for n in (*fear.nodes[:5], *anger.nodes[:5])]
    both = union(fear, anger)
    seen = seen_circuit(desk.circuits, {"names": names, "emotions": ["fear", "anger"], "edges": None})
    assert {n.name for n in seen.nodes} == set(names)
    assert set(seen.edges) == set(part(both, names).edges)
    some = [key(d) for d in seen.edges][:3]
    fewer = seen_circuit(desk.circuits, {"names": names, "emotions": ["fear", "anger"], "edges": some})
    assert [key(d) for d in fewer.edges] == some
    for nothing in (None, {}, {"names": [], "emotions": ["fear"]}, {"names": names, "emotions": ["joy"]}, {"names": 3}):
        with pytest.raises(RunError, match="nothing is shown"):
            seen_circuit(desk.circuits, nothing)


def test_a_part_keeps_edges_among_what_is_left(desk: Desk) -> None:
    fear = desk.circuits[Emotion.FEAR]
    names = {n.name for n in fear.nodes[:6]}
    found = part(fear, names)
    ends = {*names, "embed", "fear"}
    assert {d.key for d in found.edges} == {d.key for d in fear.edges if d.source in ends and d.target in ends}
    assert "faithfulness" not in found.judgement


@pytest.fixture(scope="module")
def client(desk: Desk) -> Any:
    return make_app(desk).server.test_client()


def test_the_page_and_its_layout_are_served(client: Any) -> None:
    assert client.get("/", headers={"Host": "127.0.0.1"}).status_code == 200
    assert client.get("/_dash-layout", headers={"Host": "127.0.0.1"}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert (
        client.get("/_dash-layout", headers={"Host": "127.0.0.1", "Origin": "http://evil.example"}).status_code == 403
    )


def asked(client: Any, output: str, inputs: list[dict[str, Any]], state: list[dict[str, Any]]) -> Any:
    """What a callback answers to a browser's request."""
    body = {"output": output, "outputs": {"id": output.split(".")[0], "property": output.split(".")[1]}, "inputs": inputs,
            "state": state, "changedPropIds": [f"{inputs[0]['id']}.{inputs[0]['property']}"]}  # fmt: skip
    headers = {"Host": "127.0.0.1", "Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    return client.post(
        "/_dash-update-component", data=json.dumps(body), content_type="application/json", headers=headers
    )


@pytest.mark.parametrize("value", [None, 3, "fear", ["joy"], [["fear"]], [{"a": 1}], {"x": 1}, ["fear"] * 1000])
def test_emotions_that_are_none_draw_nothing(client: Any, value: object) -> None:
    answer = asked(client, "scene.data", [{"id": "emotions", "property": "value", "value": value}], [])
    assert answer.status_code == 200
    found = answer.get_json()["response"]["scene"]["data"]
    assert found["emotions"] == (["fear"] if value == ["fear"] * 1000 else [])


def test_no_run_yet_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="no finished run in 'runs' yet; make one with: circuits discover"):
        explore(browser=False)


def test_the_newest_finished_run_is_taken(run: Run, tmp_path: Path) -> None:
    import os

    for age, name in ((100, "old"), (50, "new"), (10, "half")):
        shutil.copytree(run.directory, tmp_path / name)
        manifest = tmp_path / name / "manifest.json"
        if name == "half":
            manifest.write_text(manifest.read_text().replace('"finished"', '"running"', 1))
        stamp = 1_700_000_000 - age
        os.utime(manifest, (stamp, stamp))
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "manifest.json").write_text("{")
    assert newest_run(tmp_path).name == "new"


def test_a_half_written_run_is_refused_in_words(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.directory, tmp_path / "half")
    manifest = tmp_path / "half" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"', 1))
    with pytest.raises(RunError, match="half written"):
        explore(tmp_path / "half", browser=False)


def test_without_dash_the_way_to_it_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [m for m in sys.modules if m.startswith("circuits.show.explore.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dash", None)
    with pytest.raises(SettingsError, match=r"emotion-circuits\[explore\]"):
        explorer(run, live=False)
