"""The whole walk: what it leaves behind, that it resumes, and that a report needs nobody else's server."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS
from markup import Elements

from circuits import walk
from circuits.circuit import choosing
from circuits.circuit.edges import exact_edges
from circuits.circuit.evaluation import Bench
from circuits.circuit.stability import stability
from circuits.compare import together
from circuits.compare.table import COLUMNS as COMPARISON_COLUMNS
from circuits.effects import task as task_module
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions, member
from circuits.effects.measure import measure
from circuits.effects.table import COLUMNS
from circuits.errors import AnswerError, MeasurementError, PromptError, RunError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.planted import Planted, planted
from circuits.model.sites import parse
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run, open_run
from circuits.runs.shards import Shards
from circuits.settings import Settings
from circuits.show.words import visible
from circuits.walk import discover, run_key

ModelOf = Callable[[str], Model]
QUICK = Settings(verify=2, random_circuits=2)


def prompts_of(scenarios: int = 18, name: str = "tiny") -> Prompts:
    return Prompts.of(tiny_rows(scenarios), name=name, answers=ANSWERS)


@dataclass
class Walked:
    run: Run
    model: Model
    prompts: Prompts
    watched: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def walked(model_of: ModelOf, tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """A walk through a random model: whatever is found, everything must be there."""
    model, prompts, watched = model_of("llama"), prompts_of(), []
    directory = tmp_path_factory.mktemp("walk") / "run"
    run = discover(model, prompts, QUICK, directory, watch=lambda *step: watched.append(step))
    return Walked(run, model, prompts, watched)


@pytest.fixture(scope="module")
def truth() -> Planted:
    """With noise on its weights, so that no two splits give the same numbers."""
    return planted("chain", noise=0.02)


@pytest.fixture(scope="module")
def found(truth: Planted, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A walk through a model whose six circuits are known, and found."""
    return discover(truth.model, truth.prompts, QUICK, tmp_path_factory.mktemp("walk") / "planted")


# -- what a run consists of --------------------------------------------------------------------------------------------


def test_every_file_is_there_and_the_run_opens(walked: Walked) -> None:
    directory = walked.run.directory
    there = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    expected = {
        "effects.parquet",
        "effects.safetensors",
        "directions.safetensors",
        "comparison.parquet",
        "report.html",
        "same_effect.parquet",
        "half_layers.parquet",
        "doses.parquet",
        "half_layer_rates.parquet",
    }
    expected |= {f"circuits/{e}.{suffix}" for e in EMOTIONS for suffix in ("json", "graphml")} | {
        "prompts.jsonl",
        "answers.json",
    }
    assert there == expected | {"manifest.json", ".lock"}
    assert walked.run.fresh
    opened = open_run(directory)
    assert set(opened.manifest["files"]) == expected
    assert opened.manifest == walked.run.manifest


def test_the_manifest_says_what_was_measured_on_what(walked: Walked) -> None:
    manifest = walked.run.manifest
    assert manifest["key"] == run_key(walked.model, walked.prompts, QUICK)
    assert manifest["settings"] == QUICK.as_dict()
    assert manifest["model"]["name"] == walked.model.name
    assert manifest["model"]["fingerprint"] == walked.model.fingerprint
    assert (manifest["model"]["layers"], manifest["model"]["heads"], manifest["model"]["neurons"]) == (3, 4, 24)
    assert 0 <= manifest["model"]["worst_law"] < 1e-4
    assert manifest["prompts"]["fingerprint"] == walked.prompts.fingerprint
    assert manifest["prompts"]["scenarios"] == {"fit": 6, "select": 6, "test": 6}
    assert manifest["prompts"]["rows"] == 108
    assert set(manifest["answers"]) == set(EMOTIONS)
    assert set(manifest["versions"]) == {"emotion-circuits", "transformer_lens", "transformers", "torch", "numpy"}
    assert all(seconds >= 0 for seconds in manifest["seconds"].values())
    undecided = [e for e in EMOTIONS if not walked.run.circuit(e).nodes]
    for e in undecided:
        assert any(notice.startswith(f"{e}: no circuit") for notice in manifest["notices"])


def test_the_effects_table_has_the_documented_columns_and_every_component(walked: Walked) -> None:
    table = walked.run.effects.table
    assert tuple(table.columns) == COLUMNS
    counts = table.groupby(["kind", "method"]).size().to_dict()
    verified = counts.pop(("neuron", "exact"))
    assert verified == 6 * walked.run.manifest["screen"]["verified"]
    assert 6 * QUICK.verify <= verified
    assert counts == {
        ("attn", "exact"): 3 * 6, ("mlp", "exact"): 3 * 6, ("head", "exact"): 12 * 6, ("head", "direct"): 12 * 6,
        ("neuron", "gradient"): 72 * 6, ("neuron", "direct"): 72 * 6,
    }  # fmt: skip
    assert not table.duplicated(["component", "emotion", "method"]).any()
    assert set(table["n"]) == {6}
    assert np.isfinite(table["effect"]).all()


def test_a_found_circuit_is_judged_in_every_way_that_a_quick_walk_takes(found: Run) -> None:
    circuit = found.circuit(Emotion.FEAR)
    j = circuit.judgement
    assert j["method"] == "conditional"
    assert 0 < j["forwards"] <= j["forwards_bound"]
    assert len(j["curve"]["faithfulness"]) == 10
    assert j["curve"]["faithfulness"][-1]["value"] == pytest.approx(1)  # everything kept
    assert j["curve"]["cpr"]["n"] == j["n"]
    # What is left is noise of the distractors: the true circuit itself keeps about 84%.
    assert j["complement"]["value"] == pytest.approx(1 - j["faithfulness"], abs=0.05)
    assert j["stability"]["n"] == 200
    assert j["stability"]["chance"] < j["stability"]["mean"] <= 1
    assert set(j["ablations"]) == {"mean", "zero"}
    assert "completeness" not in j
    assert "--thorough" in found.manifest["judge"]["skipped"]
    assert {edge.kind for edge in circuit.edges} <= {"exact", "direct"}
    assert all(set(node.effects) == set(EMOTIONS) - {Emotion.FEAR} for node in circuit.nodes)


def test_the_choice_is_made_on_select_and_every_figure_is_of_test(found: Run, truth: Planted) -> None:
    """Measured again from the model; the other split gives other numbers, so that a mistaken split shows."""
    e = Emotion.FEAR
    circuit = found.circuit(e)
    j, nodes = circuit.judgement, circuit.components
    everything = {*truth.model.heads, *truth.model.neurons}

    def figures(split: str) -> dict[str, Any]:
        part = truth.prompts.split(split)
        bench = Bench.every(Plan.of(truth.model, part, Ablation.MEAN_SCENARIO))[e]
        mean = Bench.every(Plan.of(truth.model, part, Ablation.MEAN))[e]
        effects = measure(truth.model, part, nodes, method="exact")
        return {
            "faithfulness": bench.faithfulness(nodes).value,
            "whole": bench.whole.mean(),
            "complement": bench.faithfulness(everything - set(nodes)).value,
            "mean": mean.faithfulness(nodes).value,
            "effects": {c.name: effects.by_scenario(e)[:, i].mean() for i, c in enumerate(nodes)},
            "edges": {(edge.source, edge.target): edge.weight for edge in exact_edges(bench, nodes)},
            "loss": (bench.whole - bench.metric(everything - set(nodes))).mean(),
        }

    test, select = figures("test"), figures("select")
    said = {
        "faithfulness": j["faithfulness"],
        "whole": j["metric_whole"],
        "complement": j["complement"]["value"],
        "mean": j["ablations"]["mean"]["value"],
        "loss": found.manifest["judge"]["specificity"]["loss"][f"{e}:{e}"]["value"],
    }
    for name, value in said.items():
        assert value == pytest.approx(test[name], abs=1e-4), name
    assert all(test[name] != pytest.approx(select[name], abs=1e-3) for name in said)
    assert j["faithfulness_select_in_sample"] == pytest.approx(select["faithfulness"], abs=1e-4)
    assert {node.name: node.effect for node in circuit.nodes} == pytest.approx(test["effects"], abs=1e-4)
    weights = {(edge.source, edge.target): edge.weight for edge in circuit.edges}
    assert weights
    assert weights == pytest.approx({key: test["edges"][key] for key in weights}, abs=1e-4)
    assert weights != pytest.approx({key: select["edges"][key] for key in weights}, abs=1e-3)
    assert test["effects"] != pytest.approx(select["effects"], abs=1e-3)
    steady = stability(
        measure(truth.model, truth.prompts.split("select"), [*truth.model.heads, *truth.model.neurons], method="exact"), e,
        size=len(nodes), seed=QUICK.seed,
    )  # fmt: skip
    assert j["stability"]["often"].keys() == {c.name for c in steady.often}
    assert j["stability"]["scenarios"] == truth.prompts.split("select").n_scenarios


def test_what_is_shared_and_whose_a_circuit_is_stands_in_the_manifest(found: Run) -> None:
    together = found.manifest["judge"]
    loss = together["specificity"]["loss"]
    assert len(loss) == 36
    assert min(one["low"] for one in loss.values()) > 1  # the head in every circuit serves all six
    assert together["overlap"]["core"] == [sorted(found.circuit(Emotion.ANGER).names)[0]]
    assert together["overlap"]["n"] == 6
    page = found.report.read_text()
    for title in ("Whose circuit is it?", "Faithfulness as circuits grow", "Is it all, is it steady"):
        assert title in page


def test_a_thorough_walk_measures_the_rest_and_skips_nothing(
    truth: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = together.dose_response
    monkeypatch.setattr(
        together, "dose_response", lambda *a, **k: replace(real(*a, **k), notes=("someone was left out",))
    )
    settings = Settings(verify=2, random_circuits=2, thorough=True, patience=3, method="conditional")
    run = discover(truth.model, truth.prompts, settings, tmp_path / "thorough")
    j = run.circuit(Emotion.FEAR).judgement
    assert j["completeness"]["worst"]["value"] >= j["completeness"]["mean"]["value"]
    assert set(j["minimality"]["largest"]) == {node.name for node in run.circuit(Emotion.FEAR).nodes}
    assert "skipped" not in run.manifest["judge"]
    assert "idle members" in run.report.read_text()
    assert run.manifest["compared"]["skipped"] == ""
    assert "someone was left out" in run.manifest["compared"]["notices"]
    assert "someone was left out" in run.report.read_text()
    doses = run.doses
    assert set(doses["emotion"]) == set(map(str, EMOTIONS))
    fear = doses[(doses["emotion"] == "fear") & (doses["dose"] == 0.4)].set_index(["what", "texts", "read"])
    # The planted read-out reads the direction itself: added, it moves others' texts to fear, and random ones do not.
    assert fear.loc[("direction", "others", "fear"), "low"] > 1
    assert abs(fear.loc[("random direction", "others", "fear"), "value"]) < 1
    # The five others of a planted chain have their own neurons.
    assert fear.loc[("direction", "others", "selectivity"), "low"] > 0
    assert "adding its direction" in run.report.read_text()


def test_what_was_found_for_an_emotion_survives_a_kill(
    truth: Planted, found: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the fourth emotion is searched: the three before are not searched again, and all is the same."""
    searched: list[str] = []
    real = exact_edges

    def counted(bench: Bench, *rest: Any) -> Any:
        if len(searched) == 3 and str(bench.emotion) not in searched:
            searched.append("killed")
            raise KeyboardInterrupt
        searched.append(str(bench.emotion))
        return real(bench, *rest)

    monkeypatch.setattr(choosing, "exact_edges", counted)
    with pytest.raises(KeyboardInterrupt):
        discover(truth.model, truth.prompts, QUICK, tmp_path / "killed")
    run = discover(truth.model, truth.prompts, QUICK, tmp_path / "killed")
    assert searched == [*map(str, EMOTIONS[:3]), "killed", *map(str, EMOTIONS[3:])]
    assert all(run.circuit(e) == found.circuit(e) for e in EMOTIONS)


def test_another_method_can_be_asked_for(truth: Planted, tmp_path: Path) -> None:
    run = discover(truth.model, truth.prompts, replace(QUICK, method="edge_pruning"), tmp_path / "run")
    assert run.circuit(Emotion.ANGER).judgement["method"] == "edge_pruning"


def test_an_unknown_method_or_patience_without_a_search_is_refused_before_anything_is_made(
    truth: Planted, tmp_path: Path
) -> None:
    for settings, message in (
        (Settings(method="guess"), "method is 'guess'; expected one of conditional, top_n"),
        (Settings(method="atp", patience=3), "patience is 3, but atp does not search"),
    ):
        with pytest.raises(SettingsError, match=message):
            discover(truth.model, truth.prompts, settings, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_stored_values_are_those_of_the_table(walked: Walked) -> None:
    effects, prompts = walked.run.effects, walked.prompts.split("select", "test")
    assert effects.prompt_ids == prompts.ids
    assert len(effects.components) == 6 + 12 + 72
    test = np.isin(prompts.ids, walked.prompts.split("test").ids)
    table = effects.table[effects.table["method"].isin(["exact", "gradient"])]
    for name in ("L0.attn", "L0H1", "L2H3"):
        row = effects.values[effects.components.index(name)]
        for e in EMOTIONS:
            mean = row[test & (prompts.emotions == e.column), e.column].mean()
            stored = table[(table["component"] == name) & (table["emotion"] == str(e))]["effect"].item()
            np.testing.assert_allclose(mean, stored, atol=1e-5)


@pytest.mark.parametrize("which", ["walked", "found"])
def test_heads_neurons_and_the_rest_write_the_whole_direction(which: str, request: pytest.FixtureRequest) -> None:
    thing = request.getfixturevalue(which)
    table = (thing.run if which == "walked" else thing).comparison.table
    assert tuple(table.columns) == COMPARISON_COLUMNS
    parts = table[table["item"].isin(["heads", "neurons", "rest"])]
    sums = parts.groupby(["emotion", "state"])[["share"]].agg(["sum", "size"])["share"]
    assert len(sums) == 6 * 2 * 3
    assert set(sums["size"]) == {3}
    np.testing.assert_allclose(sums["sum"], 1, atol=1e-3)


def test_circuit_and_direction_are_compared_on_test(found: Run, truth: Planted) -> None:
    """In a chain nearly all of the circuit's effect goes through the direction that it writes."""
    table, n = found.same_effect.table, len({r.scenario for r in truth.prompts.split("test").rows})
    assert set(table["n"]) == {n}
    last, middle = truth.model.states[-1], truth.model.states[truth.model.n_layers - 1]
    for e in EMOTIONS:
        whole = found.same_effect.at(e, "circuit", last, onward=False)["value"]
        assert whole == pytest.approx(-float(_without(found, truth, e)), abs=1e-3)
        assert found.same_effect.at(e, "mediated", middle)["share_low"] > 0.8
        assert found.same_effect.at(e, "random direction", last, onward=False)["share"] < 0.6
    halves = found.half_layers
    assert set(halves["quantity"]) >= {"rotation", "gain", "written", "effect", "share"}
    assert set(halves["n"]) == {n}
    assert {"attention most", "hidden"} <= set(found.half_layer_rates["rate"])
    page = found.report.read_text(encoding="utf-8")
    assert f"Circuit and direction of {EMOTIONS[0]}" in page
    assert "of the circuit's effect in common" in page.replace("&#x27;", "'")
    assert "What one reading per layer would get wrong" in page
    assert "ask for them with --thorough" in found.manifest["compared"]["skipped"]
    assert found.doses.empty
    assert "adding its direction" not in found.report.read_text()


def _without(found: Run, truth: Planted, e: Emotion) -> float:
    """Change of the metric without the circuit, measured again."""
    bench = Bench.every(Plan.of(truth.model, truth.prompts.split("test"), Ablation.MEAN_SCENARIO))[e]
    rest = {*truth.model.heads, *truth.model.neurons} - set(found.circuit(str(e)).components)
    return float((bench.metric(rest) - bench.whole).mean())


def test_directions_are_stored_for_every_estimator(walked: Walked) -> None:
    arrays, about = walked.run.directions
    assert {name.split(".")[0] for name in arrays} == {"contrast", "grand_mean", "probe"}
    assert about["split"] == "fit"
    assert about["states"] == [s.name for s in walked.model.states]
    for name in ("contrast", "grand_mean", "probe"):
        assert arrays[f"{name}.vectors"].shape == (6, 6, 16)
        assert arrays[f"{name}.norms"].shape == arrays[f"{name}.split_half"].shape == (6, 6)


def test_the_prompts_travel_with_the_run(walked: Walked) -> None:
    lines = (walked.run.directory / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == list(walked.prompts.texts)


def test_progress_never_runs_backwards_or_past_its_end(walked: Walked) -> None:
    by_step: dict[str, list[tuple[int, int]]] = {}
    for what, done, total in walked.watched:
        by_step.setdefault(what, []).append((done, total))
    assert {"directions", "heads, exact", "judging circuits", "writing"} <= set(by_step)
    for steps in by_step.values():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert all(0 <= done <= total for done, total in steps)
        assert len({total for _, total in steps}) == 1


def test_a_planted_circuit_is_found_and_told(truth: Planted, found: Run) -> None:
    page = Elements(found.report.read_text(encoding="utf-8"))
    for e in EMOTIONS:
        circuit = found.circuit(e)
        assert circuit.names == truth.by_emotion[e].nodes
        assert {(edge.source, edge.target) for edge in circuit.edges} == truth.by_emotion[e].edges
        assert circuit.judgement["reached"]
        assert circuit.judgement["faithfulness"] > 0.8
        assert max(circuit.judgement["random"]) < 0.5
        assert all(parse(name).name in page.text for name in circuit.names)
    assert f"{EMOTIONS[0]}: 1 heads and 1 neurons keep" in page.text


# -- running it again --------------------------------------------------------------------------------------------------


def no_measuring(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("something was measured")


def test_a_finished_run_is_returned_without_measuring(walked: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "measure", no_measuring)
    monkeypatch.setattr(walk, "_Walk", no_measuring)
    before = {p: p.read_bytes() for p in walked.run.directory.rglob("*") if p.is_file()}
    renamed = prompts_of(name="another name")
    for prompts in (walked.prompts, renamed):
        again = discover(walked.model, prompts, QUICK, str(walked.run.directory))
        assert not again.fresh
        assert again.manifest == walked.run.manifest
    assert before == {p: p.read_bytes() for p in walked.run.directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("change", ["seed", "settings", "prompts", "answers", "model"])
def test_a_run_of_anything_else_in_the_same_directory_is_refused(
    change: str, walked: Walked, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "measure", no_measuring)
    model, prompts, settings = walked.model, walked.prompts, QUICK
    if change == "seed":
        settings = Settings(verify=2, random_circuits=2, seed=1)
    elif change == "settings":
        settings = Settings(verify=2, random_circuits=2, ablation=Ablation.MEAN)
    elif change == "prompts":
        prompts = prompts_of(15)
    elif change == "answers":
        prompts = prompts.with_answers({**ANSWERS, "fear": ["surprised"], "surprise": ["afraid"]})
    else:
        model = model_of("gpt2")
    with pytest.raises(RunError, match="holds a run of another model, prompt set, setting or version; choose another"):
        discover(model, prompts, settings, walked.run.directory)
    open_run(walked.run.directory)


def test_an_altered_run_is_not_returned(found: Run, truth: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found.report.read_bytes()
    monkeypatch.setattr(walk, "measure", no_measuring)
    try:
        found.report.write_bytes(whole + b" ")
        with pytest.raises(RunError, match=r"report\.html was altered after the run"):
            discover(truth.model, truth.prompts, QUICK, found.directory)
    finally:
        found.report.write_bytes(whole)


class Interrupted(BaseException):
    """As Ctrl-C."""


@contextmanager
def shards_until(most: int) -> Iterator[list[str]]:
    """Several shards a step; their names, in the order in which they are made, and an interrupt at the one after ``most``."""
    put, names = Shards.put, list[str]()

    def counted(self: Shards, key: Any, tensors: Any) -> None:
        if len(names) >= most:
            raise Interrupted
        put(self, key, tensors)
        names.append(self.path(key).name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_module, "_SHARD", {"cpu": 10**5})
        patch.setattr(Shards, "put", counted)
        yield names


@pytest.fixture(scope="module")
def uninterrupted(walked: Walked, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """A walk in many shards, and their names."""
    with shards_until(10**9) as names:
        return discover(walked.model, walked.prompts, QUICK, tmp_path_factory.mktemp("walk") / "whole"), names


@pytest.mark.parametrize("limit", [0, pytest.param(3, marks=pytest.mark.exhaustive), 11])
def test_an_interrupted_walk_resumes_with_what_it_had(
    limit: int, walked: Walked, uninterrupted: tuple[Run, list[str]], tmp_path: Path
) -> None:
    whole, everything = uninterrupted
    assert len(set(everything)) == len(everything) > 20
    with shards_until(limit) as first, pytest.raises(Interrupted):
        discover(walked.model, walked.prompts, QUICK, tmp_path / "run")
    with pytest.raises(RunError, match="is half written; run circuits discover with the same settings to finish it"):
        open_run(tmp_path / "run")
    assert first == everything[:limit]
    with shards_until(10**9) as then:
        again = discover(walked.model, walked.prompts, QUICK, tmp_path / "run")
    assert again.fresh
    # Nothing was made twice, nothing left out, and not a bit differs.
    assert first + then == everything
    for name in ("effects.safetensors", "effects.parquet", "comparison.parquet", "prompts.jsonl", "directions.safetensors",
                 *(f"circuits/{e}.json" for e in EMOTIONS)):  # fmt: skip
        assert (again.directory / name).read_bytes() == (whole.directory / name).read_bytes()


def test_the_default_place_is_named_after_model_prompts_and_key(
    walked: Walked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = copy.copy(walked.model)
    model.name = "/some/where/My Model_2"
    place = Path("runs") / f"my-model-2-odd-{run_key(model, walked.prompts, QUICK)[:8]}"
    place.parent.mkdir()
    place.write_bytes(b"")  # so that nothing is computed
    with pytest.raises(RunError, match=f"the output directory '{place}' is a file"):
        discover(model, prompts_of(name="../ODD/"), QUICK)
    model.name = "///"
    with pytest.raises(RunError, match="no directory name can be made of '///'; give one with --out"):
        discover(model, walked.prompts, QUICK)


# -- what cannot be walked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["fit", "select", "test"])
def test_an_empty_split_is_an_error_before_anything_is_written(split: str, model_of: ModelOf, tmp_path: Path) -> None:
    other = "fit" if split != "fit" else "test"
    rows = [{**row, "split": other if row["split"] == split else row["split"]} for row in tiny_rows(6)]
    with pytest.raises(PromptError, match=f"prompt set 'tiny' has no rows in split {split}"):
        discover(model_of("llama"), Prompts.of(rows, name="tiny", answers=ANSWERS), QUICK, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["fit", "select", "test"])
def test_texts_too_long_fail_before_anything_is_measured(
    split: str, model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "measure", no_measuring)
    rows = tiny_rows(6)
    row = next(row for row in rows if row["split"] == split)
    row["text"] = "Tom " * 40 + "felt"
    with pytest.raises(MeasurementError, match=rf"'{row['id']}' has 4\d tokens; .* reads at most 32"):
        discover(model_of("llama"), Prompts.of(rows, answers=ANSWERS), QUICK, tmp_path / "run")


def test_words_without_a_token_fail_before_anything_is_measured(
    model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "measure", no_measuring)
    unknown = {**ANSWERS, "fear": ["dread"], "anger": ["wrath"]}
    with pytest.raises(AnswerError, match="anger has no answer token left of its words wrath"):
        discover(model_of("llama"), prompts_of(6).with_answers(unknown), QUICK, tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"verify": -1}, "verify is -1; expected a whole number from 0 to"),
        ({"target": 0.0}, r"target is 0\.0; expected a number from 0\.01 to 2"),
        ({"target": float("nan")}, "target is nan; expected a number"),
        ({"alpha": 1.5}, r"alpha is 1\.5; expected a number from 0\.0 to 1\.0"),
        ({"edge_share": -0.1}, r"edge_share is -0\.1; expected a number from 0\.0 to 1\.0"),
        ({"random_circuits": 0}, "random_circuits is 0; expected a whole number from 1"),
        ({"seed": True}, "seed is True; expected a whole number"),
        ({"seed": 2**32}, "seed is 4294967296; expected a whole number from 0 to 4294967295"),
    ],
)
def test_settings_outside_their_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        Settings(**values)


def test_a_choice_is_given_by_its_name() -> None:
    assert member(Ablation, "zero") is Ablation.ZERO
    with pytest.raises(SettingsError, match="ablation is 'noise'; expected one of zero, mean, mean_scenario, resample"):
        member(Ablation, "noise")
    with pytest.raises(SettingsError, match="positions is 'first'; expected one of all, readout"):
        member(Positions, "first")


# -- the report --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["walked", "found"])
def test_the_report_loads_nothing_from_anywhere(which: str, request: pytest.FixtureRequest) -> None:
    thing = request.getfixturevalue(which)
    page = Elements((thing.run if which == "walked" else thing).report.read_text(encoding="utf-8"))
    tags = {tag for tag, _, _ in page.attributes}
    assert not tags & {"link", "iframe", "img", "object", "embed", "base", "form", "audio", "video"}
    outward = [(t, n, v) for t, n, v in page.attributes if n in ("src", "href", "srcset", "action", "data")]
    assert [(t, n, v) for t, n, v in outward if not str(v).startswith("#")] == []
    assert [n for _, n, _ in page.attributes if n.startswith("on")] == []
    assert len([v for t, n, v in page.attributes if (t, n) == ("script", "data-figure")]) >= 3
    assert "Methods" in page.text


HOSTILE = "x[red]\x1b[31m</title></script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;:bomb:"


def test_hostile_names_are_shown_not_run(
    model_of: ModelOf, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from circuits.show.terminal import show_run

    model = copy.copy(model_of("llama"))
    model.name = f"model{HOSTILE}"
    answers = {**ANSWERS, "fear": ["afraid", f"word{HOSTILE}"], "anger": ["angry", "other"]}
    rows = [{**row, "id": f"{row['id']}{HOSTILE}", "scenario": f"{row['scenario']}{HOSTILE}"} for row in tiny_rows(6)]
    prompts = Prompts.of(rows, name=f"prompts{HOSTILE}", answers=answers)
    run = discover(model, prompts, Settings(verify=0, random_circuits=1), tmp_path / "run")
    page = Elements(run.report.read_text(encoding="utf-8"))
    assert not any("alert(1)" in script for script in page.scripts)
    assert not any(tag == "img" for tag, _, _ in page.attributes)
    for name in (model.name, prompts.name):
        assert visible(name) in page.text
    assert any(repr(f"word{HOSTILE}") in notice for notice in run.manifest["notices"])
    assert visible(repr(f"word{HOSTILE}")) in page.text
    show_run(run, Console(highlight=False, emoji=False, width=1000, force_terminal=False))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    for name in ("model", "prompts"):
        assert f"{name}{HOSTILE}".replace("\x1b", "\\x1b") in shown


@pytest.mark.parametrize(
    ("path", "value"),
    [(("model",), None), (("model", "layers"), "4"), (("prompts", "scenarios"), []), (("seconds",), {"heads": "long"}),
     (("notices",), "none")],
)  # fmt: skip
def test_a_manifest_of_wrong_types_is_refused(found: Run, tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    other = tmp_path / "copy"
    shutil.copytree(found.directory, other)
    manifest = json.loads((other / "manifest.json").read_text())
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=path[-1]):
        open_run(other)


def test_a_judgement_without_numbers_is_refused(found: Run, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    shutil.copytree(found.directory, other)
    file = other / "circuits" / "anger.json"
    circuit = json.loads(file.read_text())
    del circuit["judgement"]["random_p"]
    file.write_text(json.dumps(circuit))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["files"]["circuits/anger.json"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="random_p"):
        open_run(other).circuit("anger")
