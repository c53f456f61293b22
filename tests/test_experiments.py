"""The experiment scripts on models whose circuits are known: what they write, and that their verdicts follow the numbers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_rows
from families import ANSWERS

import circuits
from circuits.circuit.estimates import Estimate
from circuits.errors import SettingsError
from circuits.model.planted import planted
from circuits.model.sites import Kind
from circuits.prompts.datasets import Prompts, read_prompts
from circuits.prompts.emotions import EMOTIONS
from circuits.walk import discover

SCRIPTS = Path(circuits.__file__).parents[1] / "experiments"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


overlap, repair = loaded("overlap"), loaded("repair")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Prompts], None]:
    """Scripts then load this model and these prompts, whatever they ask for, and search them quickly."""
    settings = circuits.Settings(verify=2, random_circuits=2)

    def use(model: Any, prompts: Prompts) -> None:
        monkeypatch.setattr(circuits, "load", lambda _name: model)
        monkeypatch.setattr(circuits, "read_prompts", lambda _name: prompts)
        monkeypatch.setattr(circuits, "discover", partial(discover, settings=settings))

    return use


@pytest.mark.parametrize("name", ["overlap", "repair"])
def test_help_shows_the_options(name: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", "--help"], capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1"},
    )  # fmt: skip
    for option in ("--model", "--prompts", "--out"):
        assert option in done.stdout
    assert f"python experiments/{name}.py --model" in done.stdout


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="draws is 5 and random 1; expected at least 100 and 1"):
        overlap.main(draws=5, random=1)
    with pytest.raises(SettingsError, match="top is 0; expected at least one component"):
        repair.main(top=0)
    with pytest.raises(SettingsError, match="positions is 'first'"):
        repair.main(positions="first")


# -- overlap -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_overlap_of_planted_circuits(on, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Heads serve pairs of emotions, neurons one; texts name nobody, so there is no control."""
    truth = planted("shared_head", seed=1, scenarios=30)
    on(truth.model, truth.prompts)
    overlap.main(out=tmp_path / "run", draws=100, random=2)
    out = capsys.readouterr().out
    assert "no control task: " in out
    assert "mostly about emotions: undecided: there is no control" in out
    place = tmp_path / "run" / "figures"
    found = json.loads((place / "overlap.json").read_text())
    table = pd.read_csv(place / "overlap.csv")
    assert "<!doctype html>" in (place / "overlap.html").read_text(encoding="utf-8")[:20].lower()
    shared = {
        frozenset((a, b)) for a, b, s in table.loc[table["kind"] == "heads", ["first", "second", "shared"]].values if s
    }
    wanted = {
        frozenset((str(a), str(b)))
        for a in EMOTIONS
        for b in EMOTIONS
        if a is not b and truth.by_emotion[a].nodes & truth.by_emotion[b].nodes
    }
    assert shared == wanted
    assert not table.loc[table["kind"] == "neurons", "shared"].any()
    heads = set(found["sets"]["heads in 2 or more"])
    assert heads == {c.name for c in truth.model.heads if c.name in truth.nodes}
    # A head of two emotions costs those two, not the other four; a neuron costs its own.
    assert found["belonging"]["heads of two"]["low"] > 0.7
    assert found["belonging"]["neurons of one"]["low"] > 0.5
    assert "heads of two: supported: +" in out


@pytest.mark.slow
def test_overlap_without_circuits_decides_nothing(on, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = planted("null", seed=0, scenarios=18)
    on(nothing.model, nothing.prompts)
    overlap.main(out=tmp_path / "run", draws=100, random=1)
    assert "undecided: 0 of the six emotions have a circuit, so there is nothing to compare" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/figures/overlap.json").read_text())["verdicts"]


@pytest.mark.slow
def test_losses_stand_beside_the_control() -> None:
    """On a few of the embedded model's own texts, with circuits picked by hand."""
    rows = read_prompts("microstories")
    some = set(list(dict.fromkeys(r.scenario for r in rows.split("test").rows))[:6])
    prompts = rows.where(np.array([row.scenario in some or row.split != "test" for row in rows.rows]))
    model = circuits.load("embedded")
    sets = {e: frozenset((*model.heads[:4], model.heads[4 + e.column], model.neurons[e.column])) for e in EMOTIONS}
    study = overlap.Study(model, prompts, sets, 100, 1, lambda *_: None)
    study.ablate()
    assert study.results["control"]["accuracy"]["value"] == 1
    entry = study.results["losses"]["heads in all"]
    assert set(study.results["sets"]["heads in all"]) == {"L0H0", "L0H1", "L0H2", "L0H3"}
    assert entry["random_common"] == 1  # a random set of all heads of a layer is that set
    assert entry["emotions_minus_random"]["value"] == pytest.approx(0, abs=1e-6)
    each = {name: found["value"] for name, found in entry["each"].items()}
    emotions, names = ([v for k, v in each.items() if k.startswith("name ") is which] for which in (False, True))
    assert len(emotions) == len(names) == 6
    assert entry["emotions"]["value"] == pytest.approx(np.mean(emotions))
    assert entry["control"]["value"] == pytest.approx(np.mean(names))
    assert entry["emotions_minus_control"]["value"] == pytest.approx(np.mean(emotions) - np.mean(names))
    assert entry["control_over_emotions"]["value"] == pytest.approx(np.mean(names) / np.mean(emotions))
    assert set(study.results["belonging"]) == {"heads of one", "neurons of one"}


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.4, "supported"), (0.6, 0.9, "contradicted"), (0.4, 0.6, "undecided")]
)
def test_the_verdict_follows_the_interval(low: float, high: float, word: str) -> None:
    entry = {"control_over_emotions": Estimate((low + high) / 2, low, high, 36).as_dict()}
    assert overlap.mostly(entry).startswith(f"{word}: the control loses ")
    nothing = {"control_over_emotions": Estimate(*[float("nan")] * 3, 36).as_dict()}
    assert overlap.mostly(nothing) == "undecided: the emotions lose nothing clear"


# -- repair ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_repair_names_the_planted_backup(on, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = planted("backup", seed=0, scenarios=18)
    on(truth.model, truth.prompts)
    members = sorted(c for c in truth.model.heads if c.name in truth.nodes)
    study = repair.Study(truth.model, truth.prompts, repair.Positions.ALL)
    # A single ablation shows nothing of the first head, so no ranking would choose it: it is asked for.
    for e in EMOTIONS:
        study.chosen[e] = {members[0]: ["total"]}
    after = study._texts("select")
    for e in EMOTIONS:
        study.picked[e, members[0]] = repair._compensators(after[e], after[e].of(members[0]))
    study.measure(lambda *_: None)
    confirmed = study.helpers[study.helpers["reaction_low"] > 1]
    for e in EMOTIONS:
        units = set(confirmed.loc[confirmed["emotion"] == str(e), "unit"])
        assert members[1].name in units
        assert len(units) == 2  # the backup head and the neuron it feeds
    assert study.remainder < 1e-4
    assert any(f"{members[1].name} reacts to the loss of {members[0].name}" in line for line in study.verdicts())
    repair.main(out=tmp_path / "run", top=2)
    capsys.readouterr()
    place = tmp_path / "run" / "figures"
    assert json.loads((place / "repair.json").read_text())["largest_remainder"] < 1e-4
    table = pd.read_csv(place / "repair.csv")
    assert {"repair", "by_norm", "by_components", "q", "n"} <= set(table.columns)
    np.testing.assert_allclose(table["repair"], table["by_norm"] + table["by_components"], atol=1e-6)
    np.testing.assert_allclose(table["repair"], table["heads"] + table["neurons"] + table["norm"], atol=1e-4)


@pytest.mark.slow
def test_in_a_chain_later_components_give_nothing_back(on, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = planted("chain", seed=0, scenarios=18)
    on(truth.model, truth.prompts)
    repair.main(out=tmp_path / "run", top=1)
    out = capsys.readouterr().out
    groups = json.loads((tmp_path / "run/figures/repair.json").read_text())["groups"]
    head = groups["heads with the largest total effect"]
    assert head["repair"]["high"] < 0
    assert head["repaired"] == 0
    assert "by later components: contradicted: -" in out
    assert "(they carry its effect on)" in out
    mover = next(c for c in truth.model.heads if c.name in truth.nodes)
    table = pd.read_csv(tmp_path / "run/figures/repair.csv")
    found = table[(table["component"] == mover.name) & (table["chosen_by"].str.contains("total"))]
    assert len(found) == 6
    np.testing.assert_allclose(found["direct"], 0, atol=1e-3)


def test_nothing_to_ablate_is_said(model_of) -> None:
    prompts = Prompts.of(tiny_rows(6), name="tiny", answers=ANSWERS)
    study = repair.Study(model_of("llama"), prompts, repair.Positions.ALL, {e: {} for e in EMOTIONS})
    study.measure(lambda *_: None)
    assert study.verdicts() == ["undecided: no component has an effect on any emotion, so there is nothing to ablate"]
    assert study.as_dict()["groups"] == {}


def test_the_norms_share_is_given_only_of_a_clear_repair() -> None:
    rng = np.random.default_rng(0)
    some = {"repair": 1 + 0.1 * rng.normal(size=20), "by_norm": 0.5 + 0.1 * rng.normal(size=20)}
    assert repair._norm_share(some).value == pytest.approx(some["by_norm"].mean() / some["repair"].mean())
    assert np.isnan(repair._norm_share({**some, "repair": some["repair"] - 1}).value)


def test_compensators_lie_behind_and_help(model_of) -> None:
    prompts = Prompts.of(tiny_rows(6), name="tiny", answers=ANSWERS)
    model = model_of("llama")
    study = repair.Study(model, prompts, repair.Positions.ALL)
    after = study._texts("select")[EMOTIONS[0]]
    component = model.heads[1]
    found = repair._compensators(after, after.of(component))
    assert len(found) <= repair.NAMED
    assert set(found) <= set(after.behind(component))
    assert all(after.reactions(component, [unit]).mean() > 0 for unit in found)
    last = next(c for c in reversed(model.neurons) if c.kind is Kind.NEURON)
    assert repair._compensators(after, after.of(last)) == []
