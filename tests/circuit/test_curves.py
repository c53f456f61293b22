"""Curves, completeness and minimality by plain loops, and by hand where the circuit is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.completeness import completeness, drawn_sets, minimality
from circuits.circuit.curves import BUDGETS, areas, by_ablation, curve, sizes_of
from circuits.circuit.estimates import beside, beside_random, ends, estimate, gap_of, randoms, require_circuit
from circuits.circuit.evaluation import Bench
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation
from circuits.errors import ComponentError, MeasurementError, SettingsError
from circuits.model.planted import Planted, planted
from circuits.model.sites import Component, Half, head, neuron, sublayer
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

E0 = EMOTIONS[1]


@pytest.fixture(scope="module")
def chain() -> Planted:
    return planted("chain", seed=0)


@pytest.fixture(scope="module")
def bench(chain) -> Bench:
    return Bench.every(Plan.of(chain.model, chain.prompts.split("test"), Ablation.MEAN_SCENARIO))[E0]


@pytest.fixture(scope="module")
def truth(chain) -> tuple[Component, ...]:
    """The head, then the neuron."""
    both = [c for c in (*chain.model.heads, *chain.model.neurons) if c.name in chain.by_emotion[E0].nodes]
    assert len(both) == 2
    return tuple(both)


@pytest.fixture(scope="module", params=[("gpt2", "fear"), ("llama", "sadness")], ids=str)
def wild(request, model_of) -> Bench:
    """A random model that tells the emotion from nothing at all, by chance."""
    family, e = request.param
    prompts = Prompts.of(tiny_rows(5), name="five", answers=ANSWERS)
    return Bench.every(Plan.of(model_of(family), prompts, Ablation.ZERO))[Emotion(e)]


def everything_of(bench: Bench) -> tuple[Component, ...]:
    return (*bench.model.heads, *bench.model.neurons)


def shuffled(bench: Bench, seed: int = 0) -> list[Component]:
    everything = everything_of(bench)
    return [everything[i] for i in np.random.default_rng(seed).permutation(len(everything))]


# -- intervals -------------------------------------------------------------------------------------------------------


def test_an_estimate_is_the_mean_with_a_bootstrap_interval():
    values = np.random.default_rng(0).normal(3, 1, 40)
    found = estimate(values)
    assert (found.value, found.n) == (pytest.approx(values.mean()), 40)
    rng = np.random.default_rng(5)
    means = [values[rng.integers(0, 40, 40)].mean() for _ in range(4000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.05)
    assert found.as_dict() == {"value": found.value, "low": found.low, "high": found.high, "n": 40}


def test_few_scenarios_have_no_interval_and_a_statistic_that_breaks_has_none_either():
    assert np.isnan(estimate(np.ones(4)).low)
    broken = estimate(np.array([1.0, -1, 1, -1, 1, 1]), lambda means: np.where(means > 0, means, np.nan))
    assert broken.value == pytest.approx(1 / 3)
    assert np.isnan(broken.high)


def test_draws_without_a_value_count_beyond_both_ends_up_to_one_in_forty():
    draws = np.random.default_rng(1).permutation(np.arange(2000.0))
    assert ends(draws) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    draws[:20] = np.nan
    some = np.sort(draws[20:])
    # Of 2,000 in order the ends lie between the 50th and 51st from either side; 20 of these have no value.
    low, high = ends(draws)
    assert some[29] <= low <= some[30]
    assert some[-31] <= high <= some[-30]
    draws[:49] = np.nan
    assert np.isfinite(ends(draws)).all()
    draws[:50] = np.nan
    assert np.isnan(ends(draws)).all()
    assert np.isnan(ends(np.full(2000, np.nan))).all()
    # What is infinite is no value either.
    draws[:50] = np.arange(50)
    draws[:20] = np.inf
    few = draws.copy()
    few[:20] = np.nan
    assert ends(draws) == ends(few)


def test_p_counts_the_circuit_itself():
    found = estimate(np.full(6, 2.0))
    assert beside(found, [1.0, 2.0, 3.0]).p == pytest.approx(3 / 4)
    assert beside(found, [1.0, 2.0, 3.0], larger=False).p == pytest.approx(3 / 4)
    assert beside(found, [1.0] * 99).p == pytest.approx(1 / 100)
    assert beside(found, [1.0, 3.0]).as_dict()["random_mean"] == 2


# -- curves ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 2), min_size=10, max_size=10))
def test_areas_are_sums_of_trapezoids(values):
    cpr = cmd = 0.0
    for i in range(9):
        width = BUDGETS[i + 1] - BUDGETS[i]
        cpr += width * (values[i] + values[i + 1]) / 2
        cmd += width * (abs(1 - values[i]) + abs(1 - values[i + 1])) / 2
    found = areas(BUDGETS, np.array([values]))
    assert (found[0][0], found[1][0]) == (pytest.approx(cpr, abs=1e-12), pytest.approx(cmd, abs=1e-12))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 5000))
def test_sizes_are_shares_rounded_up(count):
    sizes = sizes_of(BUDGETS, count)
    assert sizes[-1] == count
    for budget, size in zip(BUDGETS, sizes, strict=True):
        assert 1 <= size <= count
        assert size - 1 < budget * count + 1e-6
        assert size >= budget * count - 1e-6


def test_a_curve_is_each_tops_faithfulness(wild):
    order = shuffled(wild)
    found = curve(wild, order)
    assert found.sizes == sizes_of(BUDGETS, len(order))
    values = [wild.faithfulness(order[:size]) for size in found.sizes]
    np.testing.assert_allclose([f.value for f in found.faithfulness], [f.value for f in values], atol=1e-5)
    assert found.faithfulness[-1].value == pytest.approx(1, abs=1e-5)
    cpr, cmd = areas(BUDGETS, np.array([f.value for f in values]))
    assert (found.cpr.value, found.cmd.value) == (pytest.approx(cpr, abs=1e-5), pytest.approx(cmd, abs=1e-5))
    assert found.as_dict()["area"] == "trapezoid over the budget axis"


def test_the_best_ranking_of_a_chain_has_nearly_all_the_area(bench, truth):
    rest = [c for c in shuffled(bench) if c not in truth]
    best, worst = curve(bench, [*truth, *rest]), curve(bench, [*rest, *truth])
    # From 5 of 84 components on both are in; shadows of the other neurons bring the last sixth.
    assert best.faithfulness[0].value < 0.1 < 0.7 < best.faithfulness[5].value
    assert 0.85 < best.cpr.value < 1
    assert best.cmd.value < 0.15
    assert best.cpr.low < best.cpr.value < best.cpr.high
    assert worst.cpr.value < 0.5 < worst.cmd.value
    assert best.cpr.n == bench.n


def test_budgets_beyond_the_model_and_unfit_rankings_are_errors(bench, truth):
    order = shuffled(bench)
    with pytest.raises(SettingsError, match=r"a budget of 1.5 asks for 126 of 84 heads and neurons"):
        curve(bench, order, budgets=(0.5, 1.5))
    for budgets in ((0.0, 1.0), (0.5, 0.2), ()):
        with pytest.raises(SettingsError, match="expected"):
            curve(bench, order, budgets=budgets)
    with pytest.raises(MeasurementError, match="the ranking has 2 components; a budget of 1 needs 84"):
        curve(bench, truth)
    with pytest.raises(MeasurementError, match="twice"):
        curve(bench, [truth[0], truth[0], *order])
    with pytest.raises(ComponentError, match="has no component L7H0"):
        curve(bench, [head(7, 0), *order])


def test_ablations_side_by_side_say_where_they_are_undefined(chain, bench, truth):
    test = chain.prompts.split("test")
    benches = {a: Bench.every(Plan.of(chain.model, test, a))[E0] for a in (Ablation.MEAN, Ablation.ZERO)}
    benches[Ablation.MEAN_SCENARIO] = bench
    broken = Bench.every(Plan.of(chain.model, test, Ablation.RESAMPLE))[E0]
    broken.whole = broken.empty
    found = by_ablation(truth, {**benches, Ablation.RESAMPLE: broken}, count=10)
    assert list(found) == [*benches, Ablation.RESAMPLE]
    assert "undefined" in found[Ablation.RESAMPLE]
    for ablation, one in benches.items():
        assert found[ablation].found.value == pytest.approx(one.faithfulness(truth).value, abs=1e-6)
    assert found[Ablation.ZERO].found.value == pytest.approx(1, abs=0.1)  # no shadows there


# -- random circuits -------------------------------------------------------------------------------------------------


def test_a_circuit_stands_beside_random_ones_of_its_shape(bench, truth):
    found = beside_random(bench, truth, count=30, seed=3)
    wanted = [bench.faithfulness(some).value for some in randoms(bench.model, truth, count=30, seed=3)]
    np.testing.assert_allclose(found.random, wanted, atol=1e-5)
    assert found.found.value == pytest.approx(bench.faithfulness(truth).value, abs=1e-6)
    assert found.p <= 2 / 31
    for some in randoms(bench.model, truth, count=5):
        assert Counter((c.kind, c.layer) for c in some) == Counter((c.kind, c.layer) for c in truth)
    with pytest.raises(SettingsError, match="number of random circuits is 0"):
        beside_random(bench, truth, count=0)


@pytest.mark.parametrize("judge", [beside_random, completeness, minimality])
def test_unfit_circuits_are_errors(judge, bench):
    with pytest.raises(MeasurementError, match="the circuit is empty"):
        judge(bench, ())
    with pytest.raises(ComponentError, match="has no component L0N99"):
        judge(bench, [neuron(0, 99)])
    with pytest.raises(MeasurementError, match="half-layer"):
        judge(bench, [sublayer(0, Half.MLP)])


def test_an_undefined_ratio_is_an_error_with_both_values(bench, truth, monkeypatch):
    monkeypatch.setattr(bench, "whole", bench.empty)
    for judge in (
        gap_of,
        lambda b: completeness(b, truth),
        lambda b: minimality(b, truth),
        lambda b: curve(b, shuffled(b)),
    ):
        with pytest.raises(MeasurementError, match=r"the whole model has .* logits and the empty circuit"):
            judge(bench)


def test_members_come_once_and_in_stream_order(bench):
    assert require_circuit(bench.model, [neuron(1, 2), head(0, 1), neuron(1, 2)]) == (head(0, 1), neuron(1, 2))


# -- completeness ----------------------------------------------------------------------------------------------------


def beyond(wild: Bench) -> list[Component]:
    """Components that together do more than the model: what works against it is left out."""
    everything = everything_of(wild)
    ablated = wild.metrics([set(everything) - {c} for c in everything]).mean(1)
    members = [c for c, value in zip(everything, ablated, strict=True) if value < wild.whole.mean()]
    assert wild.faithfulness(members).value > 1.05
    return members


@pytest.mark.parametrize("overshoots", [False, True])
def test_completeness_is_the_distance_without_each_set(wild, overshoots):
    members = beyond(wild) if overshoots else sorted(shuffled(wild, 1)[:6])
    found = completeness(wild, members, samples=5, count=2, each=2, seed=4)
    gap = (wild.whole - wild.empty).mean()
    everything = set(everything_of(wild))
    wanted = []
    for without in found.sets:
        apart = wild.metric(everything - without) - wild.metric(set(members) - without)
        wanted.append(abs(apart.mean()) / gap)
    np.testing.assert_allclose(found.gaps, wanted, atol=1e-5)
    assert found.sets[0] == frozenset()
    assert set(found.sets[1 : 1 + len(members)]) == {frozenset({c}) for c in members}
    assert found.mean.value == pytest.approx(np.mean(wanted), abs=1e-5)
    assert found.worst.value == pytest.approx(max(wanted), abs=1e-5)
    assert found.gaps[found.sets.index(found.worst_set)] == max(found.gaps)
    # Without anything removed the distance is what is missing to the whole.
    assert found.gaps[0] == pytest.approx(abs(1 - wild.faithfulness(members).value), abs=1e-5)
    assert found.as_dict()["sets"] == len(found.sets)


def test_a_whole_chain_is_complete_and_half_of_it_is_not(bench, truth):
    whole = completeness(bench, truth, samples=4, count=4, each=1)
    assert whole.worst.value < 0.25
    assert np.mean(whole.random_worst) > 0.5
    half = completeness(bench, truth[:1], samples=1, count=1, each=1)
    assert half.worst_set == frozenset()
    assert half.worst.value > 0.7
    with pytest.raises(SettingsError, match="samples is -1"):
        completeness(bench, truth, samples=-1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.integers(0, 30), st.integers(0, 100))
def test_sampled_sets_are_parts_of_the_circuit(size, count, seed):
    members = [neuron(0, i) for i in range(size)]
    sets = drawn_sets(members, count, np.random.default_rng(seed))
    assert len(sets) == count
    assert all(some and some <= set(members) for some in sets)


# -- minimality ------------------------------------------------------------------------------------------------------


def test_minimality_is_the_largest_change_over_sets(wild):
    members = sorted(shuffled(wild, 2)[:4])
    found = minimality(wild, members, samples=3, count=3, seed=1)
    gap = (wild.whole - wild.empty).mean()
    for c in members:
        left = set(members) - found.given[c]
        change = abs((wild.metric(left) - wild.metric(left - {c})).mean()) / gap
        assert found.largest[c].value == pytest.approx(change, abs=1e-5)
        alone = abs((wild.metric(members) - wild.metric(set(members) - {c})).mean()) / gap
        assert found.largest[c].value >= alone - 1e-6
        assert c not in found.given[c]
    assert len(found.random) == 3


def test_members_of_a_chain_matter_and_a_freeloader_does_not(chain, bench, truth):
    idle = next(c for c in chain.model.heads if c.name not in chain.nodes | chain.noise and c.layer == 1)
    found = minimality(bench, (*truth, idle), samples=4, count=20)
    assert min(found.largest[c].value for c in truth) > 0.7
    assert found.largest[idle].value < 0.01
    assert set(found.idle(level=1.0)) == {idle}
    assert found.as_dict()["random_n"] == 20
    assert found.largest[truth[0]].low > 0.5


def test_judging_changes_nothing(bench, truth):
    before, whole, empty = bench.metric(truth), bench.whole.copy(), bench.empty.copy()
    circuit = list(truth)
    completeness(bench, circuit, samples=2, count=2, each=1)
    minimality(bench, circuit, samples=2, count=2)
    assert circuit == list(truth)
    np.testing.assert_array_equal(bench.metric(truth), before)
    np.testing.assert_array_equal(bench.whole, whole)
    np.testing.assert_array_equal(bench.empty, empty)
