"""Which edges are kept, and what a choice looks like when it comes back from a shard."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from circuits.circuit import choosing
from circuits.circuit.choosing import Choice, _screened, choose
from circuits.circuit.discovery import Case
from circuits.circuit.edges import exact_edges, strong
from circuits.circuit.graph import Edge
from circuits.circuit.methods import METHODS
from circuits.effects.ablation import Ablation
from circuits.effects.batch import Plan
from circuits.effects.kinds import Method
from circuits.effects.measure import measure
from circuits.model.planted import Planted, planted
from circuits.model.sites import parse
from circuits.prompts.emotions import EMOTIONS
from circuits.settings import Settings

E = EMOTIONS[0]


def edge(source: str, target: str, weight: float, sure: bool = True) -> Edge:
    half = 0.1 * abs(weight) if sure else 2 * abs(weight)
    return Edge(source, target, weight, weight - half, weight + half, "exact")


def test_edges_are_kept_by_their_receiver_and_every_sender_keeps_its_best() -> None:
    edges = [
        edge("embed", "L0H0", 8.0), edge("embed", "L1N1", 0.001), edge("L0H0", "L1N1", -0.04), edge("L0H0", "fear", 0.02),
        edge("L0H1", "fear", 0.01), edge("L1N1", "fear", 1.0), edge("L0H2", "fear", 0.9, sure=False), edge("L0H3", "fear", 0.0),
    ]  # fmt: skip
    kept = {(e.source, e.target) for e in strong(edges, 0.05)}
    assert kept == {
        ("embed", "L0H0"),
        ("L0H0", "L1N1"),  # far below the strongest of all, but all that this neuron hears
        ("L1N1", "fear"),
        ("L0H1", "fear"),  # weak, and the best it has
    }
    assert strong([], 0.05) == ()


class Kept(dict[str, Any]):
    """A store in memory."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(repr(sorted(key.items(), key=str)), default)

    def put(self, key: Any, tensors: Any) -> None:
        self[repr(sorted(key.items(), key=str))] = tensors


@pytest.fixture(scope="module")
def truth() -> Planted:
    return planted("chain")


@pytest.mark.parametrize("method", ["conditional", "edge_pruning"])
def test_what_was_kept_comes_back_as_it_was(truth: Planted, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part = truth.prompts.split("select")
    effects = measure(truth.model, part, (*truth.model.heads, *truth.model.neurons), method=Method.EXACT)
    plan, settings, store = Plan.of(truth.model, part, Ablation.MEAN_SCENARIO), Settings(method=method), Kept()
    first = choose(plan, effects, settings, lambda *step: None, store=store)
    assert len(store) == len(EMOTIONS)
    choose(plan, effects, Settings(method=method, target=0.7), lambda *step: None, store=store)
    assert len(store) == 2 * len(EMOTIONS)  # another question is another shard
    monkeypatch.setattr(choosing, "exact_edges", lambda *rest: pytest.fail("measured again"))
    again = choose(plan, effects, settings, lambda *step: None, store=store)
    for e in EMOTIONS:
        assert set(first[e].found.chosen) == {parse(name) for name in truth.by_emotion[e].nodes}
        assert_equal(first[e], again[e])


def assert_equal(a: Choice, b: Choice) -> None:
    assert a.edges == b.edges
    for name, value in vars(a.found).items():
        other = getattr(b.found, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other)
        else:
            assert value == other or (math.isnan(value) and math.isnan(other)), name


def test_of_a_large_circuit_the_edges_that_first_order_points_to_are_measured(
    truth: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case.every(Plan.of(truth.model, truth.prompts.split("select"), Ablation.MEAN_SCENARIO))[E]
    true = truth.by_emotion[E]
    idle = [c for c in (*truth.model.heads, *truth.model.neurons) if c.name not in true.nodes][::5]
    nodes = tuple(sorted([*map(parse, true.nodes), *idle]))
    assert _screened(case.bench, nodes) == (None, "")
    everything = exact_edges(case.bench, nodes)
    most = len(everything) // 3
    monkeypatch.setattr(choosing, "MOST_EDGES", most)
    some, said = _screened(case.bench, nodes)
    assert some is not None
    assert len(some) == most
    assert said.startswith(
        f"of {len(everything)} edges that are possible among its {len(nodes)} nodes the {most} strongest"
    )
    # None of the true ones is lost, and what hears anything at all is still reached.
    assert true.edges <= {(one.source, one.target) for one in some}
    assert {one.target for one in everything if abs(one.weight) > 1e-3} <= {one.target for one in some}
    measured = {(one.source, one.target): one for one in exact_edges(case.bench, nodes, some)}
    known = {(one.source, one.target): one for one in everything}
    assert all(one.weight == pytest.approx(known[name].weight, abs=1e-5) for name, one in measured.items())


def test_the_choice_says_that_edges_were_screened(truth: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.every(Plan.of(truth.model, truth.prompts.split("select"), Ablation.MEAN_SCENARIO))[E]
    whole = choosing._chosen(METHODS["top_n"], case, Settings(), None)
    assert "edges" not in whole.found.notice
    monkeypatch.setattr(choosing, "MOST_EDGES", 4)
    fewer = choosing._chosen(METHODS["top_n"], case, Settings(), None)
    assert "the 4 strongest by first order were measured" in fewer.found.notice
    assert len(fewer.edges) <= 4
    assert set(fewer.edges) <= set(whole.edges)
    assert fewer.found.chosen == whole.found.chosen
