"""Methods with one signature: what they rank by, what they cost, and what they say when there is nothing."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from circuit.games import BOARD, played

from circuits.circuit.discovery import Case, Counted, Found, Measured, Random, outgoing
from circuits.circuit.methods import DEFAULT, METHODS
from circuits.circuit.selection import candidates, select
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Method
from circuits.effects.measure import measure
from circuits.effects.paths import EMBED, edge_scores
from circuits.effects.price import READY
from circuits.effects.table import Effects
from circuits.errors import ComponentError, MeasurementError
from circuits.model.planted import Planted, planted
from circuits.model.sites import neuron
from circuits.prompts.emotions import EMOTIONS

RANKED = {
    "top_n": Method.EXACT, "single_ablation": Method.EXACT, "atp": Method.GRADIENT, "ig_inputs": Method.IG_INPUTS,
    "ig_activations": Method.IG_ACTIVATIONS, "direct": Method.DIRECT,
}  # fmt: skip


@pytest.fixture(scope="module")
def chain() -> Planted:
    return planted("chain", seed=0)


@pytest.fixture(scope="module")
def plan(chain) -> Plan:
    return Plan.of(chain.model, chain.prompts.split("select"), Ablation.MEAN_SCENARIO)


@pytest.fixture(scope="module")
def cases(plan) -> dict:
    return Case.every(plan)


def test_all_methods_have_one_signature_and_their_own_name():
    assert DEFAULT in METHODS
    edges = {"edge_pruning", "eap", "eap_ig_inputs", "eap_ig_activations"}
    assert set(METHODS) == {*RANKED, *edges, "conditional", "random"}
    for name, method in METHODS.items():
        assert method.name == name
        assert list(inspect.signature(method).parameters) == ["case", "target", "alpha", "seed"]
        assert list(inspect.signature(method.bound).parameters) == ["case", "target", "alpha"]


@pytest.mark.parametrize("name", RANKED)
def test_a_ranked_method_ranks_by_its_estimate_and_takes_the_shortest_sufficient_top(name, chain, plan, cases):
    e = EMOTIONS[2]
    case = cases[e]
    found = METHODS[name](case, target=0.8)
    everything = (*chain.model.heads, *chain.model.neurons)
    effects = measure(chain.model, plan.prompts, everything, method=RANKED[name])
    mean = effects.by_scenario(e).mean(0)
    assert set(found.ranked) == set(everything)
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, [mean[everything.index(c)] for c in found.ranked], rtol=0, atol=1e-5)
    if name == "single_ablation":
        usable = tuple(c for c in found.ranked if mean[everything.index(c)] > effects.resolution)
    else:
        usable = candidates(effects, e)
    wanted = select(case.bench, usable, target=0.8)
    assert (found.chosen, found.reached) == (wanted.components, wanted.reached)
    assert found.faithfulness == pytest.approx(wanted.faithfulness, abs=1e-6)
    rest = case.bench.faithfulness(set(everything) - set(found.chosen)).value
    assert found.complement == pytest.approx(rest, abs=1e-6)


def test_thresholds_come_from_select_and_test_is_not_looked_at(chain, plan, cases):
    for case in cases.values():
        assert case.effects.prompts.ids == plan.prompts.ids
    both = measure(chain.model, chain.prompts.split("select", "test"), "heads")
    given = Case.every(plan, best=both)[EMOTIONS[0]]
    assert given.effects.prompts.ids == plan.prompts.ids
    assert given.effects.components == chain.model.heads
    assert given.effects_forwards == 0
    fit = measure(chain.model, chain.prompts.split("fit"), "heads")
    with pytest.raises(MeasurementError, match="was not measured"):
        Case.every(plan, best=fit)


def test_costs_are_said_before_and_counted_after_and_known_effects_are_free(plan):
    case = Case.every(plan)[EMOTIONS[1]]
    for name, method in METHODS.items():
        bound = method.bound(case)
        found = method(case, target=0.8)
        assert 0 < found.forwards <= found.bound == bound, name
        assert method.bound(case) <= bound
    again = METHODS["ig_activations"]
    assert again.bound(case) < 15
    # One forward, six backwards, and what getting ready costs.
    assert Measured(plan).forwards(Method.GRADIENT) == pytest.approx(7 + READY)
    assert Measured(plan).forwards(Method.EXACT) > 5


def test_measured_effects_are_shared_by_the_emotions(plan):
    cases = Case.every(plan)
    first = cases[EMOTIONS[0]].measured.of(Method.DIRECT)
    assert cases[EMOTIONS[5]].measured.of(Method.DIRECT) is first


def test_a_counted_bench_runs_each_set_once(cases):
    bench = Counted(cases[EMOTIONS[0]].bench)
    some = [bench.bench.model.heads[:2], bench.bench.model.heads[1::-1], ()]
    first = bench.metrics(some)
    assert bench.forwards == 1
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(first[2], bench.empty)
    bench.metrics(some)
    assert bench.forwards == 1
    assert bench.metrics([]).shape == (0, bench.n)
    np.testing.assert_allclose(first, bench.bench.metrics(some), rtol=0, atol=1e-6)
    with pytest.raises(ComponentError, match="has no component L9N0"):
        bench.metric([neuron(9, 0)])


def test_where_nothing_supports_the_emotion_there_is_no_circuit_and_a_reason():
    for name in ("top_n", "single_ablation"):
        found = METHODS[name](played(lambda i: 0.0, noise=0.0), target=0.8)
        assert (found.chosen, found.reached) == ((), False)
        assert found.undefined == "no head or neuron supports anger on the select split"
        assert found.as_dict()["undefined"] == found.undefined
    found = Random()(played(lambda i: 0.0, noise=0.0), target=0.8)
    assert "faithfulness of anger is undefined" in found.undefined
    assert np.isnan(found.faithfulness)


def test_a_target_out_of_reach_gives_all_that_supports():
    found = METHODS["top_n"](
        played(lambda i: 2.0 * i("L0H0") + 2.0 * (i("L0H1") or i("L0H2")), noise=0.05), target=0.95
    )
    assert [c.name for c in found.chosen][:1] == ["L0H0"]
    assert not found.reached
    assert found.faithfulness < 0.95


def test_a_finding_as_plain_values():
    found = Found("top_n", BOARD[:2], np.array([2.0, 1.0]), BOARD[:1], 0.9, 0.1, True, 10.0, 7.0)
    assert found.as_dict() == {
        "method": "top_n", "chosen": ["L0H0"], "size": 1, "faithfulness_select_in_sample": 0.9,
        "complement_select_in_sample": 0.1, "reached": True, "forwards_bound": 10.0, "forwards": 7.0,
    }  # fmt: skip


def test_outgoing_edges_sum_to_attribution_patching(chain, plan, cases):
    """EAP by nodes is AtP to first order: the edge into the read-out is exact in edge scores, so it is put back here."""
    e = EMOTIONS[3]
    case, everything = cases[e], (*chain.model.heads, *chain.model.neurons)
    scores = edge_scores(chain.model, plan.readout, case.bench.texts, everything, e)
    found = outgoing({edge: v for edge, v in scores.items() if edge[0] != EMBED}, everything)
    atp: Effects = case.measured.of(Method.GRADIENT)
    rows = np.concatenate([piece.rows for piece in case.bench.texts])
    wanted = atp.values[:, rows, e.column]
    assert found.shape == wanted.shape
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.999
    top = np.argsort(-np.abs(wanted.mean(1)))[:2]
    # The final norm bends what the read-out edge gives exactly; half of a strong effect is within its reach.
    np.testing.assert_allclose(found[top].mean(1), wanted[top].mean(1), rtol=0.25)


def test_a_component_without_edges_has_no_outgoing_score():
    scores = {("L0H0", "L1N0"): np.array([1.0, 2.0]), ("L0H0", "fear"): np.array([0.5, 0.5])}
    np.testing.assert_array_equal(outgoing(scores, (BOARD[0], BOARD[1])), [[1.5, 2.5], [0, 0]])
    assert outgoing({}, ()).shape == (0, 0)
