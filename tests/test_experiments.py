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
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from conftest import tiny_rows
from families import ANSWERS
from ledger.causal import explained, few_neurons, holding, of_verdicts, top_neurons
from ledger.others import closest_pair, onset, repaired
from ledger.study import Study
from typer.testing import CliRunner

import circuits
from circuits.circuit.estimates import Estimate
from circuits.compare.claims import Standing
from circuits.compare.mechanisms import Mechanisms, Verdict
from circuits.directions.decoding import Decodability
from circuits.errors import DirectionError, PromptError, SettingsError
from circuits.model.planted import planted
from circuits.model.sites import Kind
from circuits.prompts.datasets import Prompts, read_prompts
from circuits.prompts.emotions import EMOTIONS
from circuits.runs.ledger import read_claims
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


overlap, repair, transfer = loaded("overlap"), loaded("repair"), loaded("transfer")
claims, verdicts = loaded("claims"), loaded("verdicts")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Prompts], None]:
    """Scripts then load this model and these prompts, whatever they ask for, and search them quickly."""
    settings = circuits.Settings(verify=2, random_circuits=2)

    def use(model: Any, prompts: Prompts) -> None:
        monkeypatch.setattr(circuits, "load", lambda _name: model)
        monkeypatch.setattr(circuits, "read_prompts", lambda _name: prompts)
        monkeypatch.setattr(circuits, "discover", partial(discover, settings=settings))

    return use


def test_help_shows_the_options() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "overlap.py", "--help"], capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1"},
    )  # fmt: skip
    for option in ("--model", "--prompts", "--out"):
        assert option in done.stdout
    assert "python experiments/overlap.py --model" in done.stdout


@pytest.mark.parametrize("name", ["repair", "transfer"])
def test_help_of_the_others_names_theirs(name: str) -> None:
    app = typer.Typer()
    app.command()({"repair": repair, "transfer": transfer}[name].main)
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160", "NO_COLOR": "1"}).output
    for option in ("--model", "--prompts", "--out"):
        assert option in said
    assert f"python experiments/{name}.py --model" in said


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="draws is 5 and random 1; expected at least 100 and 1"):
        overlap.main(draws=5, random=1)
    with pytest.raises(SettingsError, match="top is 0; expected at least one component"):
        repair.main(top=0)
    with pytest.raises(SettingsError, match="positions is 'first'"):
        repair.main(positions="first")
    with pytest.raises(SettingsError, match="draws is 5 and seed 0; expected at least 100 and 0"):
        transfer.main(Path("x.tsv"), draws=5)
    with pytest.raises(SettingsError, match="read is 'first'; expected one of last, mean"):
        transfer.main(Path("x.tsv"), read="first")
    with pytest.raises(PromptError, match=r"no labelled file 'nowhere\.tsv'"):
        transfer.main(Path("nowhere.tsv"))


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
    records = {one.key: one for one in read_claims(tmp_path / "run/figures")}
    assert set(records) == {f"repair-{kind}-{rank}" for kind in ("heads", "neurons") for rank in ("direct", "total")}
    one = records["repair-heads-total"]
    assert (one.verdict, one.estimate, one.high) == ("contradicted", head["repair"]["value"], head["repair"]["high"])
    assert one.n == head["repair"]["n"]
    assert (tmp_path / "run/figures" / one.figure).is_file()


def test_nothing_to_ablate_is_said(model_of) -> None:
    prompts = Prompts.of(tiny_rows(6), name="tiny", answers=ANSWERS)
    study = repair.Study(model_of("llama"), prompts, repair.Positions.ALL, {e: {} for e in EMOTIONS})
    study.measure(lambda *_: None)
    assert study.verdicts() == ["undecided: no component has an effect on any emotion, so there is nothing to ablate"]
    assert study.as_dict()["groups"] == {}
    (one,) = repaired({}, model="llama", prompts="tiny")
    assert one.verdict == "undecided"
    assert "no component has an effect" in one.reason


@pytest.mark.slow
def test_onset_and_geometry_end_in_records_that_are_read_with_all_others(
    on, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = planted("chain", seed=0, scenarios=36)
    on(truth.model, truth.prompts)
    monkeypatch.chdir(tmp_path)
    loaded("onset").main(permutations=40)
    loaded("geometry").main(draws=50)
    out = capsys.readouterr().out
    (place,) = tmp_path.glob("runs/*/figures")
    records = {one.key: one for one in read_claims(place)}
    assert set(records) == {"onset-within", "onset-within-other", "onset-across", "geometry-closest"}
    assert all((place / one.figure).is_file() for one in records.values())
    stored = json.loads((place / "onset.json").read_text())
    last = np.array(stored[f"within {truth.prompts.name}"]["auroc"])[:, -1]
    assert records["onset-within"].estimate in last
    assert records["onset-within"].verdict == "supported"  # a planted chain is read off at once
    assert "decodable from" in out


def test_the_closest_pair_is_picked_where_it_is_not_measured() -> None:
    """Six directions at random: the closest pair of one half is no closer than others on the other half."""
    rng = np.random.default_rng(0)
    common = {"model": "m", "prompts": "p"}
    noise = rng.normal(size=(40, 6, 2, 64))
    found = [
        closest_pair(some - some.mean(1, keepdims=True), 1, "L0.post", **common)[0]
        for some in (noise, noise + 9 * rng.normal(size=(1, 6, 1, 64)))
    ]
    assert [one.n for one in found] == [20, 20]
    assert found[0].verdict != "supported"
    assert abs(found[1].estimate + 0.2) < 0.3
    # Two emotions that share a direction are found, whichever they are.
    shared = rng.normal(size=64)
    alike = noise.copy()
    alike[:, [1, 4]] += 2 * shared
    (one,) = closest_pair(alike - alike.mean(1, keepdims=True), 0, "L0.mid", **common)
    assert "disgust–sadness" in one.statistic
    assert one.verdict == "supported"
    (few,) = closest_pair(alike[:8], 0, "L0.mid", **common)
    assert (few.verdict, few.estimate) == ("undecided", None)
    assert "10 would give an interval" in few.reason


def test_what_is_read_off_the_last_state_is_that_of_the_emotion_read_worst() -> None:
    states = circuits.load("embedded").states[:3]
    auroc = np.array([[0.5, 0.6, 0.9]] * 5 + [[0.5, 0.9, 0.7]])
    result = Decodability(states, auroc, auroc - 0.1, auroc + 0.1, np.full(6, 0.65), 30)
    sure = Decodability(states, auroc, auroc - 0.02, auroc + 0.02, np.full(6, 0.65), 30)
    words = {"within": "within a", "across": "from a to b"}
    first, second = onset({"within": result, "across": sure}, words, model="m")
    assert (first.key, first.estimate, first.bar, first.verdict) == ("onset-within", 0.7, 0.65, "undecided")
    assert (second.key, second.verdict, second.n, second.prompts) == ("onset-across", "supported", 30, "from a to b")


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


# -- transfer ----------------------------------------------------------------------------------------------------------


def labelled(path: Path, rows: Any, *, more: list[str] | None = None) -> Path:
    """A file of the rows' texts and labels, as others write them."""
    lines = [f"{row.text}\t{'joy' if row.emotion == 'happiness' else row.emotion}\ttrain" for row in rows]
    path.write_text("\n".join(["text\temotions\tsplit", *lines, *(more or [])]) + "\n", encoding="utf-8")
    return path


def test_transfer_of_a_planted_cue(on, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Directions from ``fit`` order other texts perfectly from the layer on in which the head has moved the cue."""
    truth = planted("chain", seed=0, scenarios=36)
    on(truth.model, truth.prompts)
    long = "the " * (truth.model.n_ctx + 1)
    more = [f"{long}theft feel\tanger\tx", "the theft feel\tanger,fear\tx", "the errand feel\tneutral\tx"]
    path = labelled(tmp_path / "others.tsv", truth.prompts.split("select", "test").rows, more=more)
    transfer.main(path, out=tmp_path / "run", draws=200)
    out = capsys.readouterr().out
    assert "others: 145 texts carry exactly one of the six (anger 25, disgust 24," in out
    assert "several labels: 1; text the model cannot read (too long): 1" in out
    contrast = out.split("contrast: ")[1].split("grand_mean: ")[0]
    assert contrast.count(": carries over: 1.00 [1.00, 1.00] at L") == 6
    found = json.loads((tmp_path / "run/results.json").read_text())
    table = pd.read_csv(tmp_path / "run/transfer.csv")
    assert set(table["estimator"]) == set(found["estimators"]) == {"contrast", "grand_mean", "probe"}
    assert len(table) == 3 * 6 * len(truth.model.states)
    assert (table["n"] == 12).all()
    assert (table.groupby(["estimator", "emotion"])["chosen"].sum() == 1).all()
    late = table["layer"] >= 1
    mine = table["estimator"] == "contrast"
    assert (table.loc[mine & late, "auroc"] > 0.99).all()
    assert (table.loc[mine & ~late, "auroc"] < 0.7).all()
    assert (table.loc[mine & table["chosen"], "layer"] >= 1).all()
    assert found["labelled"]["left_out"]["label neutral"] == 1
    assert found["settings"]["draws"] == 200
    records = {one.key: one for one in read_claims(tmp_path / "run")}
    assert {k.split("-")[1] for k in records} == set(table["estimator"])
    for row in table[table["chosen"]].to_dict("records"):
        one = records[f"transfer-{row['estimator']}-{row['emotion']}"]
        if row["auroc"] == row["auroc"]:
            assert (one.estimate, one.low, one.bar) == pytest.approx((row["auroc"], row["low"], row["surface_alone"]))
            assert one.n == row["n"] + row["n_rest"]
    assert "<!doctype html>" in (tmp_path / "run/transfer.html").read_text(encoding="utf-8")[:20].lower()
    # The texts are the file's owner's: none is written down.
    assert truth.prompts.texts[-1] not in "".join(
        (tmp_path / "run" / n).read_text() for n in ("results.json", "transfer.csv")
    )


def test_transfer_shows_nothing_where_labels_mean_nothing(
    on, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = planted("chain", seed=0, scenarios=36)
    without = truth.prompts.where(np.ones(len(truth.prompts), dtype=bool))
    rows = [{"id": r.id, "scenario": r.scenario, "emotion": str(r.emotion), "text": r.text, "split": str(r.split)}
            for r in without.rows]  # fmt: skip
    on(truth.model, Prompts.of(rows, name="planted"))
    some = truth.prompts.split("select", "test").rows
    labels = np.random.default_rng(0).permutation([r.emotion for r in some])
    path = tmp_path / "mixed.tsv"
    path.write_text("\n".join(["text\temotions", *(f"{r.text}\t{e}" for r, e in zip(some, labels, strict=True))])
                    .replace("happiness", "joy"))  # fmt: skip
    transfer.main(path, out=tmp_path / "run", draws=200, read="mean")
    out = capsys.readouterr().out
    assert "carries over" not in out
    assert out.count(": not shown: ") + out.count(": reversed: ") == 12
    assert "grand_mean is left out: grand_mean needs neutral texts" in out


def test_transfer_says_which_words_a_model_cannot_know(on, tmp_path: Path) -> None:
    rows = read_prompts("microstories")
    model = circuits.load("embedded", device="cpu")
    some = rows.where(rows.scenarios < 12)
    texts = [circuits.Prompts.of([{"id": str(i), "scenario": str(i % 20), "emotion": str(e), "text": f"{i} grumbles {e}"}
             for i, e in enumerate(list(EMOTIONS) * 20)]).rows]  # fmt: skip
    path = labelled(tmp_path / "x.tsv", texts[0])
    drawn = transfer.balanced(transfer.read_labelled(path), lambda text: True)
    study = transfer.Study(model, some, drawn, transfer.Read.LAST)
    study.estimate(lambda *_: None)
    study.order(lambda *_: None, 100, 0)
    (note,) = [n for n in study.notes if "whole words" in n]
    assert "(0 of 120 texts hold only words it knows)" in note
    # Each text is read as if alone, whatever it is read with.
    alone = circuits.model.reading.read_texts(model, drawn.texts[7:8], ["a"])
    ((last, _),) = list(alone)
    found = study._scores(lambda *_: None)["contrast"][7]
    np.testing.assert_allclose(found, np.einsum("sd,esd->se", last[0], study.directions["contrast"].vectors), atol=1e-4)
    bad = transfer.Study(model, read_prompts("situations"), drawn, transfer.Read.LAST)
    with pytest.raises(PromptError, match="embedded does not know the word 'At'"):
        bad.estimate(lambda *_: None)


def test_transfer_without_directions_is_refused(on, tmp_path: Path) -> None:
    nothing = planted("null", seed=0, scenarios=18)
    same = [{"id": f"{s}-{e}", "scenario": f"s{s}", "emotion": str(e), "text": f"the {w} feel", "split": "fit"}
            for s, w in enumerate(("window", "street")) for e in EMOTIONS]  # fmt: skip
    path = labelled(tmp_path / "x.tsv", nothing.prompts.rows)
    drawn = transfer.balanced(transfer.read_labelled(path), lambda text: True)
    study = transfer.Study(nothing.model, Prompts.of(same, name="same"), drawn, transfer.Read.LAST)
    with pytest.raises(DirectionError, match="no estimator finds directions in 'same': "):
        study.estimate(lambda *_: None)


# -- claims -----------------------------------------------------------------------------------------------------------


def test_claims_on_a_chain_get_the_verdicts_its_wiring_gives_them(on: Any, tmp_path: Path) -> None:
    """One head and one neuron an emotion: few neurons do it all, the circuit writes its direction and acts through it alone."""
    made = planted("chain", seed=0, scenarios=60)
    on(made.model, made.prompts)
    out = tmp_path / "run"
    claims.main(model="m", prompts="p", skip_overlap=True, out=out)
    records = {one["key"]: one for one in json.loads((out / "figures" / "claims.json").read_text())}
    assert set(records) == {
        "layer-0-within", "layer-0-across", "layer-0-absent", "closest-pairs", "apart", "turning", "few-neurons",
        "written-share", "same-effect", "explicit-implicit", "person",
    }  # fmt: skip
    for key in ("few-neurons", "same-effect", "written-share"):
        assert records[key]["verdict"] == "supported", records[key]
        assert records[key]["low"] > records[key]["estimate"] - 0.5
    # Both speak of all six, so it is the emotion they hold least for that counts.
    run = circuits.open_run(out)
    effects, parts = run.same_effect.table, run.comparison.table
    middle, last = made.model.states[made.model.n_layers - 1].name, made.model.states[-1].name
    common = effects[(effects["what"] == "mediated") & (effects["state"] == middle) & effects["onward"]]["share"]
    written = parts[(parts["item"] == "circuit") & (parts["state"] == last)]["share"]
    assert len(common) == len(written) == 6
    assert records["same-effect"]["estimate"] == pytest.approx(common.min())
    assert records["written-share"]["estimate"] == pytest.approx(written.min())
    # Directions of emotions that know nothing of each other lie alike: no pair is closer, none apart.
    for key in ("closest-pairs", "apart"):
        assert records[key]["verdict"] != "supported"
    assert {records[key]["prompts"] for key in ("written-share", "same-effect", "few-neurons")} == {
        f"{made.prompts.name}, test"
    }
    # There is no matched set of explicit texts here, and the ledger says so instead of leaving the claim out.
    assert records["layer-0-within"]["verdict"] == "undecided"
    assert "matched to" in records["layer-0-within"]["reason"]
    page = (out / "figures" / "claims.html").read_text()
    assert all(one["claim"].replace("'", "&#x27;") in page for one in records.values())


@pytest.mark.slow
def test_on_a_model_without_circuits_nothing_is_contradicted_about_them(on: Any, tmp_path: Path) -> None:
    """Nothing is written by no circuit, and a share of no loss is any number: neither speaks against what was claimed."""
    made = planted("null", seed=0, scenarios=36)
    on(made.model, made.prompts)
    run = circuits.discover(made.model, made.prompts, directory=tmp_path / "run")
    study = Study(made.model, made.prompts, run, lambda *_: None)
    assert holding(run) == []
    for one in (*few_neurons(study), *explained(study)):
        assert (one.verdict, one.estimate) == ("undecided", None), one
        assert "would decide" in one.reason


def test_an_emotion_whose_circuit_does_not_hold_has_no_part_in_the_verdict() -> None:
    judged = {"fear": (3, -0.5), "anger": (2, 0.6), "disgust": (0, None), "sadness": (1, None)}

    def circuit(e: str) -> Any:
        nodes, low = judged.get(str(e), (0, None))
        return SimpleNamespace(nodes=(None,) * nodes, judgement={"faithfulness_low": low})

    rows = [
        {"state": "L1.post", "role": "part", "item": "circuit", "emotion": e, "share": share, "low": share - 0.1,
         "high": share + 0.1, "n": 30}
        for e, share in (("anger", 0.7), ("fear", 0.1), ("disgust", 0.0), ("surprise", 0.0))
    ]  # fmt: skip
    empty = pd.DataFrame(columns=["what", "state", "onward", "out", "share", "emotion"])
    run = SimpleNamespace(
        circuit=circuit, comparison=SimpleNamespace(table=pd.DataFrame(rows)), same_effect=SimpleNamespace(table=empty)
    )
    model = SimpleNamespace(name="m", states=[SimpleNamespace(name="L1.post")], n_layers=1)
    study = SimpleNamespace(run=run, model=model, prompts=SimpleNamespace(name="p"), middle=0)
    assert holding(run) == ["anger"]
    first, second = explained(study)
    assert (first.verdict, first.estimate) == ("supported", 0.7)  # fear's 0.1 and the empty circuits' 0.0 do not count
    assert "1 of six have a circuit that holds" in first.statistic
    assert second.verdict == "undecided"


def test_the_few_neurons_are_chosen_on_select() -> None:
    rows = [{"id": f"{s}-{e}", "scenario": s, "emotion": str(e), "text": "a b", "split": s, "lexical": "implicit"}
            for s in ("fit", "select", "test") for e in EMOTIONS]  # fmt: skip
    prompts = Prompts.of(rows, name="three", answers=ANSWERS)
    names = ["L0H0", *(f"L0N{i}" for i in range(8)), *(f"L1N{i}" for i in range(8))]
    ids = [row.id for row in prompts.rows if row.split != "fit"]
    values = np.zeros((len(names), len(ids), 6), dtype=np.float32)
    values[0] = 9  # a head is no neuron
    for i in range(8):  # low numbers are strong on select, high ones on test
        for layer in range(2):
            values[1 + 8 * layer + i, ids.index("select-fear"), 2] = 8 - i
            values[1 + 8 * layer + i, ids.index("test-fear"), 2] = 10 + i
            values[1 + 8 * layer + i, ids.index("select-anger"), 2] = 50 * i
    effects = SimpleNamespace(prompt_ids=ids, components=names, values=values)
    study = SimpleNamespace(run=SimpleNamespace(effects=effects), prompts=prompts)
    found = {c.name for c in top_neurons(study, EMOTIONS[2])}
    assert str(EMOTIONS[2]) == "fear"
    assert found == {f"L{layer}N{i}" for layer in range(2) for i in range(4)}


def test_a_claim_that_cannot_be_tested_does_not_hide_the_others(on: Any, tmp_path: Path) -> None:
    made = planted("null", seed=0, scenarios=30)
    on(made.model, made.prompts)
    claims.main(model="m", prompts="p", skip_overlap=True, out=tmp_path / "run")
    records = json.loads((tmp_path / "run" / "figures" / "claims.json").read_text())
    by_key = {one["key"]: one for one in records}
    for key in ("written-share", "same-effect", "person"):
        assert by_key[key]["verdict"] == "undecided", by_key[key]
        assert by_key[key]["reason"]
    assert not [one for one in records if one["verdict"] == "supported"]


@pytest.mark.parametrize(
    ("others", "same", "standing", "why"),
    [
        (0, 6, Standing.SUPPORTED, ""),
        (0, 5, Standing.UNDECIDED, ""),
        (1, 5, Standing.UNDECIDED, "anger alone has evidence against it"),
        (2, 0, Standing.CONTRADICTED, ""),
        (6, 0, Standing.CONTRADICTED, ""),
    ],
)
def test_one_emotion_of_six_does_not_contradict_that_they_share_a_mechanism(
    others: int, same: int, standing: Standing, why: str
) -> None:
    kinds = [Verdict.DIFFERENT_CIRCUITS] * others + [Verdict.SAME_CIRCUIT] * same
    kinds += [Verdict.NOT_DECIDABLE] * (6 - len(kinds))
    found = {str(e): Mechanisms(e, kind, "so") for e, kind in zip(EMOTIONS, kinds, strict=True)}
    made = of_verdicts("k", "t", "s", found, "six", {"model": "m", "prompts": "p", "experiment": "claims"})
    assert made.verdict is standing
    assert made.estimate == pytest.approx(same / 6)
    assert made.reason.startswith(why)
    assert ("alone has evidence" in made.reason) == bool(why)
    assert "surprise: " in made.reason


def test_the_verdicts_table_counts_right_and_wrong_ones() -> None:
    cell = {"seed": 0, "emotion": "anger", "scenarios": 30, "seconds": 1.0, "reason": "r"}
    true = {kind: str(verdict) for kind, verdict in verdicts.TRUE.items()}
    cells = [{**cell, "kind": "chain", "verdict": true["chain"], "true": true["chain"], "seed": s} for s in range(19)]
    cells += [{**cell, "kind": "chain", "verdict": true["forked"], "true": true["chain"], "seed": 19}]
    cells += [{**cell, "kind": "null", "verdict": true["null"], "true": true["null"], "seed": s} for s in range(9)]
    cells += [{**cell, "kind": "null", "verdict": true["chain"], "true": true["null"], "seed": 9}]
    text = verdicts.markdown(cells)
    assert "19 of 20 (95% [75%, 100%])" in text
    assert "met: `chain` right in 95% (target 95%); met: wrong with evidence in 5%" in text
    assert "MISSED: `null` right in 90% (target 95%); MISSED: wrong with evidence in 10%" in text
    assert "`chain`, seed 19, anger: same writers, different readers: r" in text
    with pytest.raises(SettingsError, match="scenarios 3"):
        verdicts.main(scenarios=3)


def test_verdicts_are_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts.main(seeds=1, kinds="null", scenarios=24, jobs=1, out=tmp_path)
    first = (tmp_path / "verdicts.json").read_bytes()
    monkeypatch.setattr(verdicts, "judged", lambda *_: pytest.fail("made again"))
    verdicts.main(seeds=1, kinds="null", scenarios=24, jobs=1, out=tmp_path)
    assert (tmp_path / "verdicts.json").read_bytes() == first
    (tmp_path / "verdicts.json").write_text("[]")
    with pytest.raises(SettingsError, match="no file of this experiment"):
        verdicts.main(seeds=1, kinds="null", scenarios=24, jobs=1, out=tmp_path)
