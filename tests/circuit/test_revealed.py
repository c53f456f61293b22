"""Edges of nodes that no path passes: found where the nodes show, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import circuits
from circuits.circuit.choosing import Choice, _chosen, _read, _written
from circuits.circuit.discovery import Case
from circuits.circuit.edges import conditional_edges, edges_in_world, exact_edges, strong
from circuits.circuit.methods import method
from circuits.circuit.revealed import off_path, remeasured, revealed
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation
from circuits.effects.losses import EMBED, READOUT
from circuits.errors import ComponentError
from circuits.model.planted import Planted, planted
from circuits.model.sites import Input, Kind, head, parse
from circuits.prompts.emotions import EMOTIONS
from circuits.settings import Settings

E = EMOTIONS[0]


def case_of(made: Planted, split: str = "select") -> Case:
    return Case.every(Plan.of(made.model, made.prompts.split(split), Ablation.MEAN_SCENARIO))[E]


def choice_of(made: Planted, *, thorough: bool = False) -> Choice:
    return _chosen(method("conditional"), case_of(made), Settings(thorough=thorough), None)


@pytest.mark.parametrize(("kind", "thorough"), [("redundant", False), ("backup", False), ("backup", True)])
def test_a_redundant_and_a_backup_path_have_their_edges(kind: str, thorough: bool) -> None:
    made = planted(kind, seed=1)
    truth = made.by_emotion[E]
    choice = choice_of(made, thorough=thorough)
    plain = {(edge.source, edge.target) for edge in choice.edges}
    more = {(one.edge.source, one.edge.target) for one in choice.revealed}
    assert {c.name for c in choice.found.chosen} == truth.nodes
    assert off_path(choice.edges, choice.found.chosen, str(E))  # without them a node hangs in the air
    assert plain < truth.edges
    assert not plain & more
    assert plain | more == truth.edges
    assert off_path([*choice.edges, *(one.edge for one in choice.revealed)], choice.found.chosen, str(E)) == ()
    # Their weights are those of the worlds that are named, and the interval lies on one side.
    every = {(x.source, x.target): x for x in conditional_edges(case_of(made).bench, choice.found.chosen, share=0.05)}
    for one in choice.revealed:
        assert one.edge.kind == "conditional"
        assert one.edge.low > 0 or one.edge.high < 0
        assert one.without
        assert not {one.edge.source, one.edge.target} & {c.name for c in one.without}
        assert abs(one.edge.weight) <= abs(every[one.edge.source, one.edge.target].weight) + 1e-4


def test_where_every_node_is_on_a_path_nothing_more_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planted("chain", seed=0)
    bench = case_of(made).bench
    nodes = tuple(sorted(parse(name) for name in made.by_emotion[E].nodes))
    shown = strong(exact_edges(bench, nodes), 0.05)
    monkeypatch.setattr(type(bench), "metrics", lambda *_: pytest.fail("something was run"))
    assert revealed(bench, nodes, shown, share=0.05) == ()


def test_a_node_that_does_nothing_anywhere_gets_no_edges() -> None:
    made = planted("chain", seed=0)
    bench = case_of(made).bench
    nodes = tuple(sorted(parse(name) for name in made.by_emotion[E].nodes))
    idle = next(c for c in made.model.heads if c not in nodes)
    shown = tuple(x for x in strong(exact_edges(bench, nodes), 0.05) if idle.name not in (x.source, x.target))
    assert off_path(shown, (*nodes, idle), str(E)) == (idle,)
    assert not [
        one
        for one in revealed(bench, (*nodes, idle), shown, share=0.05)
        if abs(one.edge.weight) > 0.05 * max(abs(x.weight) for x in shown)
    ]


def test_they_are_measured_again_on_the_other_split_in_the_same_world() -> None:
    made = planted("redundant", seed=0, noise=0.02)  # without noise both splits give the same
    choice, test = choice_of(made), case_of(made, "test").bench
    assert choice.revealed
    found = remeasured(test, choice.revealed)
    assert {(x.edge.source, x.edge.target, x.without) for x in found} == {
        (x.edge.source, x.edge.target, x.without) for x in choice.revealed
    }
    before = {(x.edge.source, x.edge.target): x.edge.weight for x in choice.revealed}
    assert any(x.edge.weight != pytest.approx(before[x.edge.source, x.edge.target], abs=1e-3) for x in found)
    for x in found:
        end = READOUT if x.edge.target == str(E) else Input(parse(x.edge.target))
        (alone,) = edges_in_world(test, x.without, [(EMBED if x.edge.source == EMBED else parse(x.edge.source), end)])
        assert x.edge.weight == pytest.approx(alone.weight, abs=1e-5)
    assert remeasured(test, ()) == ()


def test_the_choice_is_kept_whole() -> None:
    choice = choice_of(planted("backup", seed=0))
    assert choice.revealed
    assert choice.found.worlds
    read = _read(_written(choice))
    assert read.revealed == choice.revealed
    assert read.found.worlds == choice.found.worlds
    assert read.found.as_dict() == choice.found.as_dict()


def test_a_component_the_model_lacks_is_named() -> None:
    bench = case_of(planted("chain", seed=0)).bench
    with pytest.raises(ComponentError, match="L9H0"):
        revealed(bench, (head(0, 0), head(9, 0)), (), share=0.05)


@pytest.mark.slow
def test_a_run_reports_them_on_test_and_they_survive_its_files(tmp_path: Path) -> None:
    made = planted("redundant", seed=0)
    settings = Settings(verify=8, audit=8, random_circuits=5)
    run = circuits.discover(made.model, made.prompts, settings, tmp_path / "run")
    circuit = run.circuit(E)
    assert {(edge.source, edge.target) for edge in circuit.edges} == made.by_emotion[E].edges
    conditional = [edge for edge in circuit.edges if edge.kind == "conditional"]
    said = {(x["source"], x["target"]): x["without"] for x in circuit.judgement["revealed"]}
    assert said.keys() == {(edge.source, edge.target) for edge in conditional}
    # Each head shows without the other, with the sign it has there: it supports the emotion.
    heads = {c.name for c in circuit.components if c.kind is Kind.HEAD}
    assert all(len(without) == 1 and set(without) < heads for without in said.values())
    assert all(edge.low > 0 for edge in conditional)
    assert list(circuit.edges) == sorted(circuit.edges, key=lambda edge: -abs(edge.weight))
    assert circuits.read_circuit(run.directory / "circuits" / f"{E}.graphml") == circuit
    skipped = run.manifest["judge"]["skipped"]
    assert "components found in place of others" in skipped
    assert "--thorough" in skipped
    assert replace(circuit, edges=()) != circuit
