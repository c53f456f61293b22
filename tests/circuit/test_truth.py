"""The experiment that holds findings against the truth: its scores by hand, and the script from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import truth
from bench import planted as cells
from bench.reach import fingerprint, reached
from bench.recovery import auroc, clopper_pearson, mean_over_seeds, of_ranking, precision, recall
from bench.truth_table import Results, figure, markdown, targets

from circuits.circuit.discovery import Found
from circuits.circuit.methods import METHODS
from circuits.errors import SettingsError
from circuits.model.sites import head, neuron
from circuits.prompts.emotions import EMOTIONS


def test_precision_and_recall_by_hand():
    assert precision("ab", "abcd") == 1
    assert recall("ab", "abcd") == 0.5
    assert precision("abx", "ab") == pytest.approx(2 / 3)
    assert recall("xy", "ab") == 0
    assert np.isnan(precision("", "ab"))
    assert np.isnan(recall("a", ""))


@pytest.mark.parametrize(
    ("scores", "true", "wanted"),
    [
        ({"a": 3.0, "b": 2.0, "c": 1.0}, "ab", 1.0),
        ({"a": 3.0, "b": 2.0, "c": 1.0}, "cd", 0.0),
        ({"a": 3.0, "b": 2.0, "c": 1.0}, "ac", 0.75),  # a above b and d, c above d
        ({}, "ab", 0.5),
        ({"a": 1.0}, "ab", 0.75),  # a above both, b level with both
        ({"a": 1.0, "c": 1.0}, "ab", 0.5),  # a: level, above; b: below, level
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, "a", 0.5),
    ],
)
def test_the_area_counts_pairs_and_ties_half(scores, true, wanted):
    possible = "abcd"
    pairs = [(scores.get(t, 0.0), scores.get(o, 0.0)) for t in true for o in possible if o not in true]
    assert np.mean([(t > o) + 0.5 * (t == o) for t, o in pairs]) == pytest.approx(auroc(scores, true, possible))
    assert auroc(scores, true, possible) == pytest.approx(wanted)


def test_the_area_does_not_exist_without_both_sorts_and_hides_nothing():
    assert np.isnan(auroc({"a": 1.0}, "", "ab"))
    assert np.isnan(auroc({"a": 1.0}, "ab", "ab"))
    with pytest.raises(ValueError, match="x is not among the 2 possible items"):
        auroc({"a": 1.0}, "x", "ab")
    with pytest.raises(ValueError, match="z is not among"):
        auroc({"z": 1.0}, "a", "ab")


def test_places_of_a_ranking_are_what_counts_and_equal_scores_are_tied():
    # The circuit first, though what follows has larger scores.
    placed = of_ranking("abcd", [1.0, 1.0, 5.0, 0.0])
    assert placed["a"] == placed["b"] > placed["c"] > placed["d"] > 0
    assert auroc(placed, "ab", "abcde") == 1
    assert auroc(placed, "bc", "abcd") == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    with pytest.raises(ValueError, match="2 items are ranked and 1 scored"):
        of_ranking("ab", [1.0])


def test_intervals_of_rates_and_means():
    assert clopper_pearson(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert clopper_pearson(10, 10) == pytest.approx((0.6915, 1), abs=1e-4)
    mean, low, high = mean_over_seeds([1.0, float("nan"), 1.0, 0.0, 1.0, 0.5])
    assert mean == pytest.approx(0.7)
    assert 0 <= low < mean < high <= 1
    assert np.isnan(mean_over_seeds([0.2, 0.4])[1])
    assert np.isnan(mean_over_seeds([float("nan")])[0])


def test_a_fingerprint_knows_the_code_a_method_reaches_and_no_other():
    code = reached(("circuits.circuit.conditional",))
    assert {"circuits.circuit.slopes", "circuits.effects.statistics", "circuits.model.plainrun"} <= code
    assert not code & {"circuits.circuit.methods", "circuits.show.figures", "circuits.circuit.formats"}
    assert (
        fingerprint(["circuits.errors"], 1)
        == fingerprint(["circuits.errors"], 1)
        != fingerprint(["circuits.errors"], 2)
    )
    assert len({cells.made_with(name) for name in METHODS}) == len(METHODS)


def test_a_finding_that_scores_its_own_edges_is_scored_by_them():
    found = Found(
        "mine", (head(0, 0), neuron(0, 1)), np.array([2.0, 1.0]), (head(0, 0),), 0.9, 0.1, True, 5.0, 4.0,
        edges=(("embed", "L0H0"), ("L0H0", "anger")),
        edge_scores={("embed", "L0H0"): -2.0, ("L0H0", "anger"): 1.0, ("embed", "L0N1"): 0.0},
    )  # fmt: skip

    class Case:
        components = (head(0, 0), neuron(0, 1))
        emotion = EMOTIONS[0]

    possible = [("embed", "L0H0"), ("embed", "L0N1"), ("L0H0", "L0N1"), ("L0H0", "anger"), ("L0N1", "anger")]
    true = frozenset({("embed", "L0H0"), ("L0H0", "anger")})
    row = cells._row(METHODS["random"], Case(), found, frozenset({"L0H0"}), true, possible)
    assert row["exact"]
    assert row["edges_exact"]
    assert (row["edges_auroc"], row["edges_precision"], row["edges_recall"], row["edges_how"]) == (1, 1, 1, "own")
    wrong = cells._row(
        METHODS["random"], Case(), found, frozenset({"L0H0", "L0N1"}), true - {possible[0]} | {possible[4]}, possible
    )
    assert (wrong["exact"], wrong["missing"], wrong["extra"]) == (False, ["L0N1"], [])
    assert (wrong["edges_precision"], wrong["edges_recall"]) == (0.5, 0.5)
    # L0H0 to anger is below one and above two, L0N1 to anger below one and level with two.
    assert wrong["edges_auroc"] == pytest.approx((2 + 1) / 6)


def test_targets_are_said_as_they_are():
    def cell(method, kind, seed, exact, extra):
        six = range(6)
        return {
            "method": method, "kind": kind, "seed": seed, "exact": [exact] * 6, "size": [2] * 6, "missing": [[] for _ in six],
            "extra": [extra for _ in six], "edges_auroc": [0.99] * 6, "true_faithfulness": [0.79] * 6, "auroc": [1.0] * 6,
            "auroc_of_size": [1.0] * 6, "precision": [1.0] * 6, "recall": [1.0] * 6, "edges_exact": [exact] * 6,
            "edges_precision": [1.0] * 6, "edges_recall": [1.0] * 6, "forwards": [9.0] * 6, "bound": [10.0] * 6,
            "edges_forwards": [3.0] * 6, "seconds": 1.0,
        }  # fmt: skip

    rows = [cell("conditional", "backup", seed, seed > 0, ["L1N9"] if seed == 0 else []) for seed in range(6)]
    rows += [cell("single_ablation", "backup", seed, False, ["L1N9"]) for seed in range(6)]
    found = Results(("conditional", "single_ablation"), ("backup",), tuple(rows), ())
    said = "\n".join(targets(found))
    assert "MISSED: `backup`, every node and no other in all six circuits in 5 of 6 seeds" in said
    assert "`backup`, seed 0, anger: with L1N9; the true circuit keeps 79.00% on `select`, below the target" in said
    assert "met: `backup`, edge AUROC 0.9900" in said
    assert "met: `backup`, exact circuits, `conditional` less `single_ablation`: +0.833" in said
    assert "83% [50, 100] · 5" in markdown(found, 60.0)
    assert [trace.type for trace in figure(found).data] == ["heatmap"] * 3
    assert found.summary()[0]["seeds_exact"] == 5


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """The script's command in this process, without the picture (which starts a browser)."""

    def no_picture(*args, **kwargs):
        raise ValueError("no browser here")

    monkeypatch.setattr("plotly.graph_objects.Figure.to_image", no_picture)

    def call(kinds: str) -> tuple[str, str]:
        truth.main(
            seeds=1, kinds=kinds, methods="conditional,single_ablation", jobs=1, embedded=False, out=tmp_path
        )  # fmt: skip
        return capsys.readouterr()

    return call


@pytest.mark.slow
def test_the_script_runs_from_end_to_end_and_goes_on_where_it_was(run, tmp_path: Path):
    out, err = run("chain,null")
    assert "| `conditional` | 100% · 1 | 100% · 1 |" in out
    assert "met: `null`, something found in 0 of 6 emotions × seeds" in out
    assert "no truth.svg: no browser here" in err
    assert (tmp_path / "truth.md").read_text(encoding="utf-8") in out
    kept = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    assert {(c["method"], c["kind"], c["seed"]) for c in kept["cells"]} == {
        (m, k, 0) for m in ("conditional", "single_ablation") for k in ("chain", "null")
    }
    (own,) = (c for c in kept["cells"] if (c["method"], c["kind"]) == ("conditional", "chain"))
    assert own["exact"] == own["edges_exact"] == [True] * 6
    assert all(used <= bound for used, bound in zip(own["forwards"], own["bound"], strict=True))
    # A finished cell is left as it is; one made with other code is made again.
    marked = [c | {"seconds": 1234.5} for c in kept["cells"]]
    marked[0]["made_with"] = "other"
    (tmp_path / "truth.json").write_text(json.dumps(kept | {"cells": marked}), encoding="utf-8")
    _, err = run("chain,null")
    assert "1 cells were made with other code or versions and are discarded" in err
    again = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))["cells"]
    assert [c["seconds"] == 1234.5 for c in again] == [False, True, True, True]


def test_a_wrong_word_and_a_stranger_s_file_are_named(run, tmp_path: Path):
    with pytest.raises(SettingsError, match="no planted kind 'chains'; expected some of chain, shared_head"):
        run("chains")
    (tmp_path / "truth.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SettingsError, match="is no file of this experiment"):
        run("chain")
