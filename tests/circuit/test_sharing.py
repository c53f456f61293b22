"""Likeness between chance and ceiling, and losses as shares, against values made by hand and planted circuits."""

from __future__ import annotations

import numpy as np
import pytest

from circuits.circuit.estimates import ends
from circuits.circuit.evaluation import Bench
from circuits.circuit.sharing import Losses, likeness, likeness_apart, shared_by
from circuits.circuit.stability import chance_jaccard
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation
from circuits.effects.measure import measure
from circuits.errors import MeasurementError, SettingsError
from circuits.model.planted import Planted, planted
from circuits.model.sites import Component, Kind, head, neuron
from circuits.prompts.emotions import EMOTIONS

A, B, C = EMOTIONS[:3]


def strong(members: dict, components: list[Component], scenarios: int, noise: float, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        e: np.array([float(c in some) for c in components]) + noise * rng.normal(size=(scenarios, len(components)))
        for e, some in members.items()
    }


HEADS = [head(layer, i) for layer in range(3) for i in range(8)]


def test_without_noise_between_is_the_jaccard_and_the_ceiling_one():
    members = {A: HEADS[:4], B: HEADS[2:6], C: HEADS[20:24]}
    found = likeness(strong(members, HEADS, 12, 0), HEADS, dict.fromkeys(members, 4), splits=3, draws=20)
    assert found.between.value == pytest.approx((2 / 6) / 3)
    assert found.ceiling.value == 1
    assert set(found.ceilings.values()) == {1.0}
    chance = np.mean([chance_jaccard(members[a], members[b], HEADS) for a, b in ((A, B), (A, C), (B, C))])
    own = np.mean([chance_jaccard(some, some, HEADS) for some in members.values()])
    assert found.chance == pytest.approx(chance, abs=0.02)
    assert found.ceiling_chance == pytest.approx(own, abs=0.02)
    assert found.share.value == pytest.approx((1 / 9 - chance) / (1 - own), abs=0.03)
    assert found.n == 12
    assert found.as_dict()["normalised"]["value"] == found.share.value


def test_equal_emotions_are_at_the_ceiling_and_random_ones_at_chance():
    # As noisy as it gets: the ceiling itself is far below one.
    rng = np.random.default_rng(3)
    strength = rng.normal(size=len(HEADS))
    equal = {e: strength + 3 * rng.normal(size=(40, len(HEADS))) for e in EMOTIONS}
    apart = {e: rng.normal(size=len(HEADS)) + 3 * rng.normal(size=(40, len(HEADS))) for e in EMOTIONS}
    sizes = dict.fromkeys(EMOTIONS, 6)
    same, other = (likeness(values, HEADS, sizes, draws=300) for values in (equal, apart))
    assert same.ceiling.value < 0.8
    assert same.share.value == pytest.approx(1, abs=0.25)
    assert same.share.low <= 1 <= same.share.high
    assert other.share.low <= 0 <= other.share.high
    assert likeness_apart(same, other).sign == 1
    assert likeness_apart(other, same).sign == -1
    assert likeness_apart(other, other).sign == 0


def test_no_room_between_chance_and_ceiling_is_no_number():
    some = [head(0, i) for i in range(4)]
    found = likeness(strong({A: some, B: some}, some, 12, 1), some, {A: 4, B: 4}, splits=2, draws=5)
    assert np.isnan(found.share.value)
    assert found.share.sign == 0


def test_what_cannot_be_compared_is_refused():
    values = strong({A: HEADS[:2], B: HEADS[:2]}, HEADS, 12, 0)
    with pytest.raises(MeasurementError, match="1 emotions have components of this kind"):
        likeness(values, HEADS, {A: 2, B: 0})
    with pytest.raises(MeasurementError, match=r"\[9, 12\] scenarios; expected as many for each"):
        likeness({**values, B: values[B][:9]}, HEADS, {A: 2, B: 2})
    with pytest.raises(MeasurementError, match="10 at least"):
        likeness({e: v[:9] for e, v in values.items()}, HEADS, {A: 2, B: 2})
    with pytest.raises(SettingsError, match="a size is 25; expected at most 24"):
        likeness(values, HEADS, {A: 25, B: 2})
    with pytest.raises(SettingsError, match="splits is 0"):
        likeness(values, HEADS, {A: 2, B: 2}, splits=0)


@pytest.fixture(scope="module")
def shared() -> Planted:
    return planted("shared_head", seed=1, scenarios=15)


def test_planted_heads_are_shared_by_pairs_and_neurons_by_no_one(shared):
    sizes = dict.fromkeys(EMOTIONS, 1)
    found = {}
    for kind, components in ((Kind.HEAD, shared.model.heads), (Kind.NEURON, shared.model.neurons)):
        effects = measure(shared.model, shared.prompts, components)
        values = {e: effects.by_scenario(e) for e in EMOTIONS}
        found[kind] = likeness(values, components, sizes, draws=100)
    assert found[Kind.HEAD].between.value == pytest.approx(3 / 15)
    assert found[Kind.NEURON].between.value == 0
    assert found[Kind.HEAD].ceiling.value == found[Kind.NEURON].ceiling.value == 1
    # With four heads in a layer random heads coincide as often: one pair in four against three in fifteen.
    assert found[Kind.HEAD].chance > 0.2
    assert found[Kind.HEAD].share.value < 0
    assert found[Kind.NEURON].chance < 0.05


def test_losses_are_shares_of_each_tasks_gap(shared):
    plan = Plan.of(shared.model, shared.prompts.split("test"), Ablation.MEAN_SCENARIO)
    benches = {str(e): bench for e, bench in Bench.every(plan).items()}
    everything = (*shared.model.heads, *shared.model.neurons)
    circuits = {e: {c for c in everything if c.name in shared.by_emotion[e].nodes} for e in EMOTIONS}
    in_two = shared_by(circuits, 2)
    assert {c.kind for c in in_two} == {Kind.HEAD}
    assert len(in_two) == 3
    assert shared_by(circuits, 1) == frozenset().union(*circuits.values())
    losses = Losses(benches)
    lost = losses.lost([in_two, circuits[A]])
    bench = benches[str(A)]
    np.testing.assert_allclose(lost[1, 0], bench.whole - bench.metric(set(everything) - circuits[A]), atol=1e-6)
    wanted = np.mean([lost[0, i].mean() / (b.whole - b.empty).mean() for i, b in enumerate(benches.values())])
    found = losses.share(lost[0], losses.mean_of(list(benches)))
    assert found.value == pytest.approx(wanted)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(1, abs=0.1)  # every emotion goes through such a head
    own = losses.contrast(lost[[1, 0]], [{str(A): 1.0}, {str(A): -1.0}])
    assert own.value == pytest.approx((lost[1, 0] - lost[0, 0]).mean() / (bench.whole - bench.empty).mean() / 2)
    assert losses.n == bench.n
    shares = [lost[1, i].mean() / (b.whole - b.empty).mean() for i, b in enumerate(benches.values())]
    ratio = losses.ratio(lost[1], {str(B): 1.0}, {str(A): 1.0})
    assert ratio.value == pytest.approx(shares[1] / shares[0])
    assert ratio.low <= ratio.value <= ratio.high
    assert np.isnan(losses.ratio(np.zeros_like(lost[1]), {str(B): 1.0}, {str(A): 1.0}).value)


def test_resamples_without_a_gap_count_beyond_both_ends():
    losses = object.__new__(Losses)  # of numbers, without a model
    gap, lost = np.array([1.0, 1.2, 0.3, -0.5, 0.9, 0.7]), np.array([0.8, 0.9, 0.4, 0.5, 0.7, 0.6])
    vars(losses).update(tasks={"one": None, "two": None}, n=6, _gaps=np.stack([gap, np.ones(6)]))
    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=2000) / 6
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(weights @ gap > 0, (weights @ lost) / (weights @ gap), np.nan)
        ratios = (weights @ lost) / shares
    assert 0 < np.isnan(shares).sum() < 50
    both = np.stack([lost, lost])
    found = losses.share(both, {"one": 1.0})
    assert (found.low, found.high) == pytest.approx(ends(shares))
    assert found.high > np.nanquantile(shares, 0.975)
    found = losses.ratio(both, {"two": 1.0}, {"one": 1.0})
    assert (found.low, found.high) == pytest.approx(ends(ratios))


def test_tasks_the_model_cannot_do_are_left_out_by_name(shared, monkeypatch):
    plan = Plan.of(shared.model, shared.prompts.split("test"), Ablation.MEAN_SCENARIO)
    benches = {str(e): bench for e, bench in Bench.every(plan).items()}
    monkeypatch.setattr(benches["fear"], "whole", benches["fear"].empty)
    losses = Losses(benches)
    assert "fear" not in losses.tasks
    assert "faithfulness of fear is undefined" in losses.undefined["fear"]
    assert losses.mean_of(["fear", "anger"]) == {"anger": 1.0}
    with pytest.raises(MeasurementError, match="no task is left to read: faithfulness of fear"):
        Losses({"fear": benches["fear"]})


def test_neurons_come_in_too():
    assert shared_by({A: [neuron(0, 1), head(0, 0)], B: [neuron(0, 1)]}, 2) == {neuron(0, 1)}
