"""The views beside the graph, on runs that have everything, and on runs that have nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench.bigrun import Shape, big_run

from circuits.compare.claims import Claim, Standing
from circuits.compare.table import Comparison
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run, open_run
from circuits.show.explore import views
from circuits.show.explore.desk import Desk
from circuits.show.explore.page import page
from circuits.show.explore.panel import effects_figure, node_panel, spread_figure
from circuits.show.explore.scene import scene

ONE_LAYER = Shape(nodes=14, edges=30, layers=1, heads=4, neurons=32, scenarios=6, width=8, verified=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return big_run(tmp_path_factory.mktemp("views") / "run", ONE_LAYER)


@pytest.fixture
def desk(run: Run) -> Desk:
    return Desk(open_run(run.directory), None, "drawn")


def parts(children: Any) -> list[Any]:
    """Every component of a tree, and every text."""
    if isinstance(children, list | tuple):
        return [p for c in children for p in parts(c)]
    inner = getattr(children, "children", None)
    return [children] if inner is None else [children, *parts(inner)]


def words(children: Any) -> str:
    return " ".join(str(p) for p in parts(children) if isinstance(p, str | int | float))


def drawn(children: Any) -> list[Any]:
    return [p.figure for p in parts(children) if hasattr(p, "figure")]


def without_circuits(desk: Desk) -> Desk:
    """A model that tells no emotion apart."""
    none = {"undefined": "the model does not tell it apart", "accuracy": 0.17, "accuracy_n": 36, "reached": False}
    desk.circuits = {e: replace(c, nodes=(), edges=(), judgement=none) for e, c in desk.circuits.items()}
    return desk


def test_a_model_of_one_layer_has_every_view(desk: Desk) -> None:
    assert desk.layout.rows[0][0] == "tokens"
    assert len(desk.layout.rows) == 4
    assert len(drawn(views.vector_view(desk, "fear", None))) >= 5
    assert len(drawn(views.judge_view(desk))) >= 2
    assert "Emotion circuits of" in words(page(desk))


def test_titles_stand_above_figures_as_text(desk: Desk) -> None:
    shown = views.vector_view(desk, "fear", None)
    assert all("title" not in figure["layout"] for figure in drawn(shown))
    assert "fear: who writes its direction" in words(shown)


def test_no_circuit_at_all_is_said_in_every_view(desk: Desk) -> None:
    empty = without_circuits(desk)
    assert {n["kind"] for n in scene(empty.circuits, list(EMOTIONS), empty.layout, empty.nulls)["nodes"]} == {
        "embed", "readout",
    }  # fmt: skip
    said = words(views.judge_view(empty))
    assert "fear: nothing found. the model does not tell it apart" in said
    assert "in no circuit of this run" in words(node_panel(empty, "L0H1", ["fear"]))
    assert "fear: no circuit" in words(
        views.nodes_figure(empty.run.comparison.table.iloc[:0], Emotion.FEAR).layout.title.text
    )
    assert words(page(empty))


def test_a_run_without_a_comparison_says_so(desk: Desk) -> None:
    table = desk.run.comparison.table
    desk.run.__dict__["comparison"] = Comparison(table.iloc[:0])
    assert "holds no comparison with directions" in words(views.vector_view(desk, "fear", None))
    some = table[table["emotion"] != "fear"]
    desk.run.__dict__["comparison"] = Comparison(some)
    assert "compares no circuit of fear with its direction" in words(views.vector_view(desk, "fear", None))


def test_the_picked_node_is_marked_where_the_circuit_meets_the_direction(desk: Desk) -> None:
    name = desk.circuits[Emotion.FEAR].nodes[0].name
    figure = views.nodes_figure(desk.run.comparison.table, Emotion.FEAR, name)
    sizes = {c: s for trace in figure.data for c, s in zip(trace.customdata, trace.marker.size, strict=True)}
    assert [c for c, s in sizes.items() if s == max(sizes.values())] == [name]
    table = desk.run.comparison.table
    rows = table[(table["emotion"] == "fear") & (table["role"] == "node")]
    last = rows[rows["state"] == rows["state"].iloc[-1]].set_index("item")
    shares = {c: y for trace in figure.data for c, y in zip(trace.customdata, trace.y, strict=True)}
    assert shares == pytest.approx(dict(last["share"]))


def test_figures_of_the_panel_show_what_the_run_holds(desk: Desk) -> None:
    name = desk.circuits[Emotion.FEAR].nodes[0].name
    rows = desk.effects_of(name)
    figure = effects_figure(rows, name)
    for trace in figure.data:
        expected = rows[rows["method"] == trace.name].set_index("emotion")["effect"]
        assert dict(zip(trace.customdata, trace.x, strict=True)) == pytest.approx(dict(expected))
    boxes = spread_figure(desk, name)
    assert [len(b.x) for b in boxes.data] == [len(desk.acting(name, e)) for e in EMOTIONS]


def test_projections_add_up_what_the_parts_write(desk: Desk) -> None:
    table = desk.run.comparison.table
    figure = views.projections(table)
    rows = table[(table["emotion"] == "fear") & table["item"].isin(["heads", "neurons", "rest"])]
    expected = rows.groupby("state", sort=False)["contribution"].sum()
    fear = next(t for t in figure.data if t.name == "fear")
    assert dict(zip(fear.x, fear.y, strict=True)) == pytest.approx(dict(expected))


def test_claims_are_listed_with_their_verdicts() -> None:
    one = Claim(
        "k", "emotion is decodable", "somebody", "m", "p", "AUROC", 0.8, 0.7, 0.9, "AUROC", 36, 0.5, "above", "",
        Standing.SUPPORTED, "r", "", "onset",
    )  # fmt: skip
    said = words(views.ledger_view([one]))
    assert "emotion is decodable" in said
    assert "supported" in said
    assert "0.8 [0.7, 0.9]" in said
    assert "None was tested" in words(views.ledger_view([]))


def test_runs_are_compared_side_by_side(run: Run, desk: Desk, tmp_path: Path) -> None:
    shutil.copytree(run.directory, tmp_path / "here")
    other = big_run(tmp_path / "there", ONE_LAYER, seed=3)
    two = Desk(open_run(tmp_path / "here"))
    assert "Name another run" in words(views.compare_view(two, None, None))
    found = words(views.compare_view(two, "there", "fear"))
    mine, theirs = ({n.name for n in r.circuit("fear").nodes} for r in (run, other))
    for name in mine ^ theirs:
        assert name in found
    assert "There is no other run" in words(views.compare_view(desk, None, None)) or desk.siblings()


def test_the_cost_and_the_randoms_of_a_selection_are_said() -> None:
    one = {
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "random": [0.1, 0.2],
        "random_mean": 0.15,
        "n": 36,
        "seconds": 0.3,
        "forwards": 3,
    }
    said = words(views.selection_view({"fear": one}, 7, True))
    assert "50% [40%, 60%]" in said
    assert "15% (at most 20%)" in said
    assert "7 components" in said
    assert "n = 36 scenarios, 2 random selections; 3 forwards, 0.30 s" in said
