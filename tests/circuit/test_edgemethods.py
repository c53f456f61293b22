"""Methods that choose edges: what they recover of planted circuits, what they cannot, and what they cost."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS

from circuits.circuit.discovery import Case, Found
from circuits.circuit.edgemethods import EdgePruning, TopEdges, scoring_price, shortest_top
from circuits.circuit.edgesets import EdgeBench, edges_among, nodes_of, trimmed
from circuits.circuit.methods import METHODS
from circuits.effects.batch import Plan
from circuits.effects.edges import Along
from circuits.effects.kinds import Ablation, Method
from circuits.effects.paths import edge_scores
from circuits.errors import UnsupportedModelError
from circuits.model.planted import Planted, planted
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

EDGES = ("edge_pruning", "eap", "eap_ig_inputs", "eap_ig_activations")
BASELINES = EDGES[1:]
RECOVERED = ("chain", "shared_head", "composite", "forked", "two_directions")
SLOW = pytest.mark.slow


def cases_of(made: Planted) -> dict:
    return Case.every(Plan.of(made.model, made.prompts.split("select"), Ablation.MEAN_SCENARIO))


@cache
def made_with_cases(kind: str, seed: int) -> tuple[Planted, dict]:
    """Built once for all methods: they only look at a case."""
    made = planted(kind, seed=seed)
    return made, cases_of(made)


@pytest.fixture(scope="module")
def chain() -> Planted:
    return planted("chain", seed=2)


@pytest.fixture(scope="module")
def cases(chain) -> dict:
    return cases_of(chain)


def sets(found: Found) -> tuple[set[str], set[tuple[str, str]]]:
    return {c.name for c in found.chosen}, set(found.edges)


@pytest.mark.parametrize("kind", ["chain", *(pytest.param(kind, marks=SLOW) for kind in RECOVERED[1:])])
def test_edge_pruning_recovers_every_node_and_edge_and_no_other(kind):
    made, cases = made_with_cases(kind, 3)
    for e, case in cases.items():
        found = METHODS["edge_pruning"](case, target=0.8)
        assert sets(found) == (made.by_emotion[e].nodes, made.by_emotion[e].edges), e
        assert found.reached
        assert found.complement < 0.2
        assert found.notice == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("kind", ["chain", "shared_head"])
def test_baselines_recover_what_breaks_at_any_link(kind, name):
    made, cases = made_with_cases(kind, 3)
    for e in EMOTIONS[:2]:
        assert sets(METHODS[name](cases[e], target=0.8)) == (made.by_emotion[e].nodes, made.by_emotion[e].edges), e


@pytest.mark.parametrize("name", ["edge_pruning", *(pytest.param(name, marks=SLOW) for name in BASELINES)])
@pytest.mark.parametrize("kind", ["redundant", "backup", "inhibitor"])
def test_what_the_target_can_spare_is_not_recovered(kind, name):
    """The docstrings say so: of two that stand in for each other one goes; of brakes those the target does not need."""
    made, cases = made_with_cases(kind, 0)
    e = EMOTIONS[0]
    found, truth = METHODS[name](cases[e], target=0.8), made.by_emotion[e]
    assert found.reached
    nodes, edges = sets(found)
    assert truth.nodes - nodes
    assert truth.edges - edges
    if kind == "redundant" and name == "edge_pruning":
        heads = {node for node in truth.nodes if "H" in node}
        assert len(heads - nodes) == 1
        assert nodes == truth.nodes - (heads - nodes)
        assert "does not reach the target" in found.notice
    if kind == "backup":
        assert found.complement > 0.8  # what was left out stands in: the judge sees it


@pytest.mark.parametrize("name", EDGES[:3])
def test_a_model_without_a_circuit_has_none(name):
    _, cases = made_with_cases("null", 1)
    for e in EMOTIONS[:2]:
        found = METHODS[name](cases[e], target=0.8)
        assert (found.chosen, found.edges) == ((), ())
        assert found.undefined


@pytest.mark.parametrize("name", EDGES)
def test_a_finding_says_what_was_run(name, chain, cases):
    case = cases[EMOTIONS[4]]
    bound = METHODS[name].bound(case)
    found = METHODS[name](case, target=0.8)
    assert 0 < found.forwards <= found.bound == bound
    bench, e = EdgeBench(case.bench), str(case.emotion)
    assert trimmed(found.edges, e) == set(found.edges)
    assert set(nodes_of(found.edges, e)) == set(found.chosen)
    assert found.faithfulness == pytest.approx(bench.faithfulness(found.edges).value, abs=1e-6)
    rest = case.bench.faithfulness(set(case.components) - set(found.chosen)).value
    assert found.complement == pytest.approx(rest, abs=1e-6)
    assert found.as_dict()["edges"] == [list(edge) for edge in found.edges]
    assert set(found.edges) <= set(found.edge_scores)
    sizes = [abs(found.edge_scores[edge]) for edge in found.edges]
    assert sizes == sorted(sizes, reverse=True)
    assert len(found.scores) == len(found.ranked) == len(case.components)


@pytest.mark.parametrize(
    ("name", "how"),
    [("eap", {}), ("eap_ig_inputs", {"steps": 5}), ("eap_ig_activations", {"steps": 5, "along": Along.ACTIVATIONS})],
)
def test_baselines_score_all_edges_among_all_components(name, how, cases):
    case = cases[EMOTIONS[0]]
    found, bench = METHODS[name](case, target=0.8), case.bench
    assert set(found.edge_scores) == set(edges_among(bench.model, case.components, str(case.emotion)))
    scores = edge_scores(bench.model, bench.readout, bench.texts, case.components, case.emotion, **how)
    scenarios = np.concatenate([piece.scenarios for piece in bench.texts])
    for edge in found.edges:
        wanted = np.mean([scores[edge][scenarios == s].mean() for s in np.unique(scenarios)])
        assert found.edge_scores[edge] == pytest.approx(float(wanted), abs=1e-5)
    top = sorted(found.edge_scores, key=lambda edge: -abs(found.edge_scores[edge]))
    last = max(top.index(edge) for edge in found.edges)
    assert trimmed(top[: last + 1], str(case.emotion)) == set(found.edges)
    assert EdgeBench(bench).faithfulness(top[:last]).value < 0.8


def test_along_activations_outgoing_edges_sum_to_the_nodes_own_integral(cases):
    """To first order, as for plain scores: the edge into the read-out is exact in edge scores."""
    case = cases[EMOTIONS[1]]
    found = METHODS["eap_ig_activations"](case, target=0.8)
    wanted = case.measured.of(Method.IG_ACTIVATIONS).by_scenario(case.emotion).mean(0)
    own = dict(zip(found.ranked, found.scores, strict=True))
    sums = np.array([own[c] for c in case.components])
    assert np.corrcoef(sums, wanted)[0, 1] > 0.99


def test_a_short_patience_and_few_candidates_are_noticed(cases):
    case = cases[EMOTIONS[0]]
    hasty = EdgePruning(patience=0)(case, target=0.8)
    assert "pruning stopped at 0 forwards" in hasty.notice
    assert hasty.reached
    assert len(hasty.edges) > 3
    few = EdgePruning(nodes=1)(case, target=0.8)
    assert "edges among the 1 largest" in few.notice
    assert not few.reached
    small = TopEdges("eap", most=20)
    found = small(case, target=0.8)
    assert found.notice == "edges among 20 of 84 components: heads first, neurons by first order"
    # Those without edges come last, by what chose the twenty: a curve needs a place for every component.
    first = case.measured.of(Method.GRADIENT)
    size = dict(zip(first.components, np.abs(first.by_scenario(case.emotion).mean(0)), strict=True))
    scored, rest = found.ranked[:20], found.ranked[20:]
    assert {c for edge in found.edge_scores for c in edge} - {"embed", str(case.emotion)} <= {
        name for c in scored for name in (c.name, *(f"{c.name}<{part}>" for part in "qkv"))
    }
    assert sorted(found.ranked) == sorted(case.components)
    assert [size[c] for c in rest] == sorted((size[c] for c in rest), reverse=True)
    assert found.forwards <= found.bound


@pytest.mark.parametrize(
    ("kind", "most"),
    [("chain", 2), ("shared_head", 3), ("inhibitor", 5), ("forked", 4), ("redundant", 20), ("null", 1)],
)
def test_the_bound_of_pruning_holds_and_is_near_where_single_effects_are_known(kind, most):
    """Where what matters alone does not suffice (``redundant``) only patience bounds it; then a thousand forwards are said."""
    cases, method = cases_of(planted(kind, seed=0)), EdgePruning()  # of its own: nothing is at hand yet
    first = cases[EMOTIONS[0]]
    unknown = method.bound(first)
    assert unknown > method.patience + first.effects_forwards > method.patience
    first.measured.of(Method.EXACT)
    for e in EMOTIONS[:3]:
        bound, found = method.bound(cases[e]), method(cases[e], target=0.8)
        assert found.bound == bound <= unknown
        assert found.forwards <= bound <= most * found.forwards
    # Another target is another question.
    assert method(first, target=0.99).forwards <= method.bound(first, target=0.99)
    # What the candidates do not reach is pruned from, as far as patience goes.
    assert method.bound(first, target=5.0) > method.patience or kind == "null"


def test_a_target_out_of_reach_keeps_all_edges(cases):
    case = cases[EMOTIONS[0]]
    scores = dict.fromkeys(edges_among(case.bench.model, case.components[:6], str(case.emotion)), 1.0)
    assert shortest_top(EdgeBench(case.bench), scores, target=5.0) == set(scores)
    found = METHODS["eap"](case, target=5.0)
    assert not found.reached
    assert math.isfinite(found.faithfulness)


def test_scoring_is_priced_by_paths_midpoints_and_pairs(cases):
    bench = cases[EMOTIONS[0]].bench
    one, five = (scoring_price(bench, 84, steps=steps) for steps in (0, 5))
    assert five - 2 == pytest.approx(5 * (one - 2))
    assert scoring_price(bench, 84, steps=5, along=Along.ACTIVATIONS) > five + 5 * 2 * 6
    assert scoring_price(bench, 2) == pytest.approx(4, abs=0.1)


def test_a_replayed_model_is_refused(model_of):
    prompts = Prompts.of(tiny_rows(6), name="six", answers=ANSWERS)
    case = Case.every(Plan.of(model_of("bloom"), prompts, Ablation.MEAN_SCENARIO))[EMOTIONS[0]]
    with pytest.raises(UnsupportedModelError, match="cannot be run edge by edge"):
        METHODS["eap"](case, target=0.8)
