"""A drawn run is a run: it opens, everything that shows runs shows it, hostile or not."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from bench import hostile
from bench.bigrun import Shape, big_run
from rich.console import Console

import circuits
from circuits.circuit.formats import from_node_link
from circuits.errors import SettingsError
from circuits.prompts.emotions import EMOTIONS
from circuits.runs.directory import Run, open_run
from circuits.runs.exporting import export
from circuits.show import beside, dosed, figures, halves, terminal, words

SMALL = Shape(nodes=12, edges=60, layers=3, heads=2, neurons=20, scenarios=5, width=8, verified=9)


@pytest.fixture(scope="module", params=[False, True], ids=["mild", "hostile"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return open_run(big_run(folder, SMALL, hostile=request.param).directory)


def test_it_is_as_large_as_asked(run: Run) -> None:
    for e in EMOTIONS:
        circuit = run.circuit(e)
        assert (len(circuit.nodes), len(circuit.edges)) == (12, 60)
        table = run.effects.table
        mine = table[(table["emotion"] == str(e)) & (table["method"] != "direct")].set_index("component")
        for node in circuit.nodes:
            assert node.effect in set(mine.loc[[node.name], "effect"])
    assert run.effects.values.shape == (6 + 6 + 60, 2 * 5 * 6, 6)
    rows = [json.loads(line) for line in (run.directory / "prompts.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows if row["split"] != "fit"] == list(run.effects.prompt_ids)


def test_everything_that_shows_runs_shows_it(run: Run) -> None:
    circuits = {e: run.circuit(e) for e in EMOTIONS}
    for figure in (
        figures.faithfulness(circuits), figures.curves(circuits), figures.sublayers(run.effects.table),
        figures.specificity(run.manifest["judge"]["specificity"]), halves.misattribution(run.half_layer_rates),
    ):  # fmt: skip
        figure.to_json()
    for e, circuit in circuits.items():
        figures.circuit_graph(circuit, 3).to_json()
        figures.writers(run.comparison.table, e).to_json()
        halves.half_layers(run.half_layers, e, run.comparison.table).to_json()
        beside.effects(run.same_effect.table, e).to_json()
        assert "in common" in beside.effects_in_words(run.same_effect.table, e)
        figures.doses(run, e).to_json()
        assert f"added along {e}'s direction" in dosed.doses_in_words(run.doses, e)
        assert "unseen scenarios" in words.in_words(circuit)
    assert "screened by gradient" in words.screened(run.manifest["screen"])
    stream = io.StringIO()
    terminal.show_run(run, Console(file=stream, width=200, force_terminal=False))
    assert "\x1b" not in stream.getvalue()


def test_it_is_exported(run: Run, tmp_path: Path) -> None:
    for kind in ("json", "csv", "mib"):
        written = export(run, kind, tmp_path / kind)
        assert len(written) == (12 if kind == "csv" else 6)
        if kind == "json":
            assert [from_node_link(path.read_bytes()) for path in written] == [run.circuit(e) for e in EMOTIONS]
        if kind == "csv":
            rows = [len(pd.read_csv(path)) for path in written if path.stem.endswith("-edges")]
            assert rows == [len(run.circuit(e).edges) for e in EMOTIONS]


def test_a_hostile_run_is_hostile_where_a_run_carries_text(tmp_path: Path) -> None:
    run = big_run(tmp_path / "run", SMALL, hostile=True)
    manifest = json.dumps(run.manifest, ensure_ascii=False)
    prompts = (run.directory / "prompts.jsonl").read_text("utf-8")
    for text in hostile.TEXTS:
        said = json.dumps(text, ensure_ascii=False)[1:-1]
        assert said in manifest
        assert said in prompts
    assert "window.hostile" in str(run.manifest["model"]["name"]) + str(run.manifest["prompts"]["name"])
    assert run.half_layers["reason"].str.contains("window.hostile").any()


def test_equal_seeds_give_equal_runs(tmp_path: Path) -> None:
    one, other, third = (big_run(tmp_path / str(i), SMALL, seed=seed).manifest for i, seed in enumerate((0, 0, 1)))
    assert one == other
    assert one["files"] != third["files"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [(Shape(nodes=80, edges=200, layers=3, heads=2, neurons=20, scenarios=5), "nodes is 80; expected at most 66"),
     (Shape(nodes=12, edges=10_000, layers=3, heads=2, neurons=20, scenarios=5), "edges is 10000; expected 24 to"),
     (Shape(nodes=12, edges=3, layers=3, heads=2, neurons=20, scenarios=5), "edges is 3; expected 24 to")],
)  # fmt: skip
def test_a_circuit_that_cannot_be_is_refused(shape: Shape, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        big_run(tmp_path / "run", shape)


@pytest.mark.slow
def test_the_benchmark_of_the_explorer_says_what_it_measured(tmp_path: Path) -> None:
    script = Path(circuits.__file__).parents[1] / "experiments" / "explorer_benchmark.py"
    words = [sys.executable, str(script), "--small", "--no-browser", "--repetitions", "2", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=True)
    found = json.loads((tmp_path / "explorer.json").read_text())
    assert found["run"]["nodes"] == 12
    for name in ("opening", "opening, nothing cached"):
        assert found[name]["open"]["n"] == 2
        assert 0.05 < found[name]["open"]["low"] <= found[name]["first tables"]["low"] < 100
        assert 20e6 < found[name]["peak"]["median"] < 500e6
    assert found["page"] == {"not measured": "it was not asked for"}
    assert (tmp_path / "explorer.md").read_text() in done.stdout
    assert "< 500 MB" in done.stdout
