"""Runs and circuits held against each other: what differs, what moved, what must be said about it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from test_directory import ABOUT, JUDGEMENT, made

from circuits.circuit import formats, mib
from circuits.circuit.graph import Circuit, Edge, Measured, Node
from circuits.errors import CircuitsError, RunError, SettingsError
from circuits.model.sites import parse
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run, open_run
from circuits.runs.exporting import FORMATS, export
from circuits.runs.sides import Side, compare, side
from circuits.show.differences import _named, differences_page, show_differences
from circuits.testing import assert_same_circuits


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(tmp_path_factory.mktemp("sides") / "golden")


def changed(run: Run, edit: Callable[[dict[str, Any]], object], **circuits: Circuit) -> Side:
    """A run's side with another manifest or other circuits."""
    manifest = copy.deepcopy(dict(run.manifest))
    edit(manifest)
    whole = side(run)
    return Side("changed", {**whole.circuits, **{Emotion(k): v for k, v in circuits.items()}}, manifest)


def node(name: str, effect: float = 0.5) -> Node:
    return Node(parse(name), effect, effect - 0.1, effect + 0.1, 0.01, True, 0.0)


LINK = Edge("embed", "L0H1", 1.0, 0.5, 1.5, "gradient")
FEAR = Circuit(Emotion.FEAR, (node("L0H1", 5.0), node("L1H0")), (LINK,), JUDGEMENT)


def test_a_run_does_not_differ_from_itself(golden: Run) -> None:
    found = compare(side(golden), side(golden.directory))
    assert list(found.found) == list(EMOTIONS)
    assert found.notices == ()
    assert all(d.same for d in found.found.values())
    assert found.moved(1.0, 0.0) == ()
    assert_same_circuits(golden, str(golden.directory))
    assert_same_circuits(golden, golden.directory, min_jaccard=1.0, max_effect_change=0.0)


def test_a_run_is_held_against_one_circuit_in_a_file(golden: Run, tmp_path: Path) -> None:
    (tmp_path / "fear.graphml").write_text(formats.to_graphml(FEAR))
    found = compare(side(golden), side(tmp_path / "fear.graphml"))
    assert list(found.found) == [Emotion.FEAR]
    assert [n.name for n in found.found[Emotion.FEAR].gained] == ["L1N2"]
    assert [n.name for n in found.found[Emotion.FEAR].lost] == ["L1H0"]
    with pytest.raises(AssertionError, match=r"^fear: the circuits differ$"):
        assert_same_circuits(golden, tmp_path / "fear.graphml")
    reasons = (
        r"fear: Jaccard of nodes 0\.33, below 0\.8 \(1 gained, 1 lost, 1 kept\)\nfear: the effect of L0H1 went from"
    )
    with pytest.raises(AssertionError, match=reasons):
        assert_same_circuits(golden, FEAR, min_jaccard=0.8, max_effect_change=0.1)
    assert_same_circuits(golden, FEAR, min_jaccard=0.3)
    stable = replace(FEAR, judgement={**JUDGEMENT, "stability": {"mean": 0.5, "low": 0.3, "high": 1.0, "n": 100}})
    assert_same_circuits(golden, stable, min_jaccard=0.8)


def test_what_else_differs_is_said(golden: Run) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["model"] = {"name": "other", "layers": 1, "heads": 2, "neurons": 3}
        manifest["prompts"]["name"] = "others"
        manifest["settings"] = {"seed": 1}

    found = compare(changed(golden, edit, fear=FEAR), side(golden))
    assert found.notices == (
        "different models: other and m; components are matched by layer and number, which means something only if one model "
        "comes from the other",
        "different prompt sets: others and p",
        "different setting seed: 1 and None",
        "left out, because one of the models has no such place: L1H0, L1N2",
    )
    assert found.found[Emotion.FEAR].jaccard == 1.0
    assert found.found[Emotion.FEAR].aside == ("L1H0", "L1N2")


def test_sides_that_share_no_emotion_are_refused(golden: Run) -> None:
    with pytest.raises(
        RunError, match="a circuit has anger and a circuit has fear; expected an emotion that both have"
    ):
        compare(side(Circuit(Emotion.ANGER, (), ())), side(FEAR))
    with pytest.raises(SettingsError, match=r"min_jaccard is 2\.0; expected a number from 0 to 1"):
        assert_same_circuits(golden, golden, min_jaccard=2.0)


@pytest.mark.parametrize(("name", "message"), [
    ("nowhere", "no run directory"), ("nowhere.json", "cannot be read: No such file or directory"),
    ("x" * 5000 + ".json", "cannot be read"),
    ("bad.json", r"bad\.json: not readable JSON"), ("", "is no run directory"),
])  # fmt: skip
def test_a_side_that_is_none_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RunError, match=message):
        side(tmp_path / name)


# -- shown -------------------------------------------------------------------------------------------------------------


def test_differences_are_printed_and_drawn(golden: Run) -> None:
    compared = compare(changed(golden, lambda m: m["model"].update(name="<b>[red]\x1b"), fear=FEAR), side(golden))
    console = Console(width=160, record=True, highlight=False, file=None, quiet=False)
    with console.capture() as text:
        show_differences(compared, console)
    shown = text.get()
    assert "different models: <b>[red]\\x1b and m" in shown
    row = next(line for line in shown.splitlines() if line.strip().startswith("fear"))
    assert row.split()[:9] == ["fear", "0.33", "–", "+1", "−1", "=1", "+0", "−1", "=1"]
    assert "L0H1 +0.50 → +5.00*" in row
    html = differences_page(compared)
    assert html.count("data-figure=figure-") >= len(EMOTIONS)
    assert "fear: Jaccard 0.33" in html
    empty = Circuit(Emotion.FEAR, (), ())
    assert 'class="plotly-graph-div' not in differences_page(compare(side(empty), side(empty)))


# -- exported ----------------------------------------------------------------------------------------------------------


def test_every_format_is_exported_and_read_back(golden: Run, tmp_path: Path) -> None:
    for kind in FORMATS:
        paths = export(golden, kind, tmp_path / kind)
        assert len(paths) == (12 if kind == "csv" else 6)
        assert {p.name for p in (tmp_path / kind).iterdir()} == {p.name for p in paths}
    whole = golden.circuit("fear")
    read = {
        "json": formats.from_node_link((tmp_path / "json/fear.json").read_bytes()),
        "graphml": formats.from_graphml((tmp_path / "graphml/fear.graphml").read_bytes()),
        "gexf": formats.from_gexf((tmp_path / "gexf/fear.gexf").read_bytes()),
        "mib": mib.from_mib((tmp_path / "mib/fear.mib.json").read_bytes()),
        "csv": formats.from_tables(
            *(pd.read_csv(tmp_path / f"csv/fear-{name}.csv") for name in ("nodes", "edges")),
            whole.judgement,
        ),
    }
    for kind, circuit in read.items():
        assert repr(circuit) == repr(whole), kind
    cfg = json.loads((tmp_path / "mib/fear.mib.json").read_text())["cfg"]
    assert cfg == {"n_layers": ABOUT["model"]["layers"], "n_heads": 2, "parallel_attn_mlp": False}
    assert formats.from_graphml((golden.directory / "circuits/fear.graphml").read_bytes()).names == whole.names


def test_an_export_that_cannot_be_is_refused(golden: Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="format is 'dot'; expected one of json, graphml, gexf, mib, csv"):
        export(golden, "dot", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitsError, match="cannot write"):
        export(golden, "json", tmp_path / "file")
    assert np.isnan(golden.circuit("fear").nodes[1].low)
    assert open_run(golden.directory).manifest == golden.manifest


def test_names_in_the_figure_keep_apart_and_all_are_told_when_pointed_at() -> None:
    def measured(effect: float) -> Measured:
        return Measured(effect, effect - 0.1, effect + 0.1, 0.01, True, 0.0)

    rows = [(f"L0H{i}", measured(i / 100), measured(i / 100)) for i in range(20)] + [("L1H0", measured(4.0), None)]
    named = _named([rows])
    assert {"L1H0", "L0H19"} <= named  # the strongest, and the strongest of the crowd
    assert "L0H18" not in named
    assert _named([]) == frozenset()
