"""The whole of it on planted models, whose circuit is known, and against its parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS
from scipy.stats import spearmanr

import circuits
from circuits.circuit.stability import chance_jaccard, jaccard
from circuits.compare.wang.allocation import allocate, top
from circuits.compare.wang.circuit import FORMS, WangCircuit, wang_circuit
from circuits.compare.wang.contributions import Space, head_importance, neuron_contributions, normed_directions
from circuits.compare.wang.influence import Target, sublayer_influence
from circuits.directions.estimators import estimate_directions
from circuits.errors import ComponentError, MeasurementError, PromptError, SettingsError, UnsupportedModelError
from circuits.model.anatomy import Model
from circuits.model.sites import Kind
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import Emotion

FEAR = Emotion.FEAR
K = 26
"""Of three layers: 18 neurons and 8 heads, so that floors of 12 and 6 leave something to divide."""


@pytest.fixture(scope="module")
def planted() -> circuits.Planted:
    return circuits.planted("chain", size="small", seed=0)


@pytest.fixture(scope="module")
def found(planted: circuits.Planted) -> WangCircuit:
    return wang_circuit(planted.model, planted.prompts, "fear", k=K, draws=20)


def test_exact_effects_find_the_planted_circuit_first(planted, found):
    """A head at a low layer and one neuron: total effects put them first, whatever is allocated to layers."""
    truth = planted.by_emotion[FEAR].nodes
    table = found.table.set_index("component")
    strongest = table.sort_values("effect").index[::-1]
    assert set(strongest[:2]) == truth
    assert table.loc[list(truth), "total"].all()
    assert (table.loc[list(truth), "low"] > 1).all()
    # What is left is the shadow of the other emotions' neurons, 1/25 of the true effect.
    assert table.loc[strongest[2], "effect"] < 0.25


def test_every_set_is_what_its_parts_give(planted, found):
    fit, select = planted.prompts.split("fit"), planted.prompts.split("select")
    model = planted.model
    directions = estimate_directions(model, fit)
    for name, heads, neurons, influence in (
        (
            "paper",
            head_importance(model, select, directions, FEAR),
            neuron_contributions(model, select, directions, FEAR),
            sublayer_influence(model, select, directions, FEAR, target=Target.PROJECTION, aligned=True),
        ),
        (
            "mended",
            head_importance(model, select, normed_directions(model, fit), FEAR, space=Space.NORMED, centred=True),
            neuron_contributions(model, select, directions, FEAR, centred=True),
            sublayer_influence(model, select, directions, FEAR),
        ),
    ):
        allocation = allocate(influence.mean(), K, (4, 24))
        assert found.circuits[name] == top(allocation, heads.mean(), neurons.mean())
        assert found.allocations[name] == allocation
        assert len(found.circuits[name]) == K
    effects = circuits.measure(model, select, [*model.heads, *model.neurons])
    means = dict(zip(effects.components, effects.by_scenario(FEAR).mean(0), strict=True))
    for kind, count in ((Kind.HEAD, 8), (Kind.NEURON, 18)):
        order = sorted((c for c in means if c.kind is kind and means[c] > 1e-4), key=lambda c: -means[c])
        assert {c for c in found.circuits["total"] if c.kind is kind} == set(order[:count])


def test_overlaps_stand_beside_chance_and_ranks_are_spearmans(planted, found):
    everything = [*planted.model.heads, *planted.model.neurons]
    assert set(found.overlaps) == {("paper", "mended"), ("paper", "total"), ("mended", "total")}
    n = planted.prompts.split("select").n_scenarios
    for (a, b), overlap in found.overlaps.items():
        one, other = found.circuits[a], found.circuits[b]
        assert overlap.value == jaccard(one, other)
        assert overlap.chance == chance_jaccard(one, other, everything)
        assert (overlap.n, overlap.draws) == (n, 20)
        assert 0 <= overlap.low <= overlap.high <= 1
    scores = found.forms["mended"].neurons.mean()
    there = ~np.isnan(scores).any(1)
    means = found.effects.by_scenario(FEAR).mean(0)
    neurons = np.array([m for c, m in zip(found.effects.components, means, strict=True) if c.kind is Kind.NEURON])
    wanted = spearmanr(scores[there].ravel(), neurons.reshape(scores.shape)[there].ravel()).statistic
    assert found.ranks["mended", Kind.NEURON].value == pytest.approx(wanted)


def test_effects_at_hand_are_used(planted, found):
    select = planted.prompts.split("select")
    effects = circuits.measure(planted.model, select, [*planted.model.heads, *planted.model.neurons], method="gradient")
    again = wang_circuit(planted.model, planted.prompts, FEAR, k=K, draws=2, effects=effects)
    assert again.circuits["paper"] == found.circuits["paper"]
    mine = select.emotions == FEAR.column
    np.testing.assert_array_equal(again.effects.values, effects.values[:, mine])


def test_the_table_has_every_member_once(found):
    table = found.table
    members = frozenset().union(*found.circuits.values())
    assert list(table["component"]) == [c.name for c in sorted(members)]
    for name in FORMS:
        assert set(table[table[name]]["component"]) == {c.name for c in found.circuits[name]}
    assert set(table["unit"]) == {"logits"}
    assert set(table["emotion"]) == {"fear"}


def test_where_nothing_is_planted_little_is_agreed_on():
    planted = circuits.planted("null", size="small", seed=3)
    found = wang_circuit(planted.model, planted.prompts, FEAR, k=K, draws=5)
    for pair in (("paper", "total"), ("mended", "total")):
        assert found.overlaps[pair].value < found.overlaps[pair].chance + 0.2


def test_parallel_blocks_and_missing_directions_are_said(model_of: Callable[[str], Model]):
    prompts = Prompts.of(tiny_rows(9), name="nine", answers=ANSWERS)
    found = wang_circuit(model_of("neox"), prompts, FEAR, k=K, draws=3)
    assert any("a state the model never computes" in notice for notice in found.notices)
    for overlap in found.overlaps.values():  # three scenarios: no interval
        assert np.isnan(overlap.low)
        assert overlap.draws == 0


def test_what_cannot_be_done_is_said(planted, model_of: Callable[[str], Model]):
    model, prompts = planted.model, planted.prompts
    with pytest.raises(SettingsError, match="k is 10, of which 3 are heads; expected at least 6"):
        wang_circuit(model, prompts, FEAR, k=10)
    with pytest.raises(SettingsError, match="draws is 1"):
        wang_circuit(model, prompts, FEAR, k=K, draws=1)
    with pytest.raises(PromptError, match="unknown emotion 'joy'"):
        wang_circuit(model, prompts, "joy", k=K)
    few = circuits.measure(model, prompts.split("select"), "heads", method="direct")
    with pytest.raises(ComponentError, match="L0N0 was not measured"):
        wang_circuit(model, prompts, FEAR, k=K, effects=few)
    with pytest.raises(MeasurementError, match="is in both sets of texts"):
        wang_circuit(model, prompts, FEAR, k=K, fit=prompts)
    with pytest.raises(SettingsError, match="method is 'guess'"):
        wang_circuit(model, prompts, FEAR, k=K, neurons="guess")
    experts = Prompts.of(tiny_rows(6), name="six", answers=ANSWERS)
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        wang_circuit(model_of("mixtral"), experts, FEAR, k=K)
