"""Stability by loops over resamples; chance levels by exact counting."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.stability import chance_jaccard, jaccard, stability
from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.table import Effects
from circuits.errors import MeasurementError, SettingsError
from circuits.model.sites import Half, head, neuron, sublayer
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

BOARD = (sublayer(0, Half.MLP), *(head(0, i) for i in range(4)), *(neuron(1, i) for i in range(8)))
E0 = EMOTIONS[0]


def effects_of(means: list[float], *, noise: float, n: int = 12, seed: int = 0) -> Effects:
    """Effects of 12 heads and neurons (and a half-layer that must not count) with these means on anger."""
    prompts = Prompts.of(tiny_rows(n), name="n", answers=ANSWERS)
    values = np.zeros((len(BOARD), len(prompts), 6), np.float32)
    rows = np.flatnonzero(prompts.emotions == 0)
    rng = np.random.default_rng(seed)
    values[:, rows, 0] = np.array([99.0, *means])[:, None] + noise * rng.normal(size=(len(BOARD), n))
    return Effects(
        components=BOARD, prompts=prompts, values=values, clean=np.ones((len(prompts), 6), np.float32),
        methods=(Method.EXACT,) * len(BOARD), ablation=Ablation.MEAN_SCENARIO, positions=Positions.ALL,
        answers=dict.fromkeys(EMOTIONS, (0,)),
    )  # fmt: skip


STEADY = [5.0, 4, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_jaccard_is_shared_over_all(a, b):
    one, other = ([neuron(0, i) for i in some] for some in (a, b))
    assert jaccard(one, other) == (len(a & b) / len(a | b) if a | b else 1)


@pytest.mark.parametrize(("first", "second"), [((1, 2), (1, 2)), ((2, 0), (2, 3)), ((3, 1), (0, 4)), ((4, 0), (4, 0))])
def test_chance_is_the_mean_over_all_pairs_of_like_sets(first, second):
    heads, neurons = [head(0, i) for i in range(4)], [neuron(1, i) for i in range(5)]

    def every(shape):
        return [{*a, *b} for a in combinations(heads, shape[0]) for b in combinations(neurons, shape[1])]

    exact = np.mean([jaccard(a, b) for a in every(first) for b in every(second)])
    found = chance_jaccard(every(first)[0], every(second)[0], (*heads, *neurons))
    assert found == pytest.approx(exact, abs=0.02)


def test_chance_is_the_same_number_in_every_process():
    # Sets are walked through in another order each time a process starts; draws must not be.
    board = [head(layer, i) for layer in range(20) for i in range(6)]
    rng = np.random.default_rng(0)
    shared = sum(rng.hypergeometric(2, 4, 3, 2000) for _ in range(20))
    found = chance_jaccard([c for c in board if c.index < 2], [c for c in board if c.index > 2], board)
    assert found == np.mean(shared / (20 * 5 - shared))
    sizes = [1 + layer % 5 for layer in range(20)]
    rng = np.random.default_rng(0)
    shared = sum(rng.hypergeometric(size, 6 - size, size, 2000) for size in sizes)
    some = [c for c in board if c.index < sizes[c.layer]]
    assert chance_jaccard(some, some, board[::-1]) == np.mean(shared / (2 * sum(sizes) - shared))


def test_chance_of_more_than_there_is_is_an_error():
    with pytest.raises(MeasurementError, match="more heads of layer 0 than the 1 available"):
        chance_jaccard([head(0, 0), head(0, 1)], [], [head(0, 0)])
    assert chance_jaccard([], [], []) == 1


def test_what_is_steady_is_stable_and_what_is_noise_is_near_chance():
    steady = stability(effects_of(STEADY, noise=0.1), E0, size=4)
    assert (steady.mean, steady.low, steady.high, steady.ceiling) == (1, 1, 1, 1)
    assert steady.often == dict.fromkeys([head(0, 0), head(0, 1), head(0, 2), neuron(1, 1)], 1.0)
    assert 0.1 < steady.chance < 0.6
    loose = stability(effects_of([0.0] * 12, noise=1.0), E0, size=4)
    assert loose.ceiling < 0.5
    assert loose.mean < 0.9
    assert list(steady.as_dict())[:6] == ["mean", "low", "high", "n", "chance", "ceiling"]
    assert (steady.n, steady.size, steady.scenarios) == (200, 4, 12)


@pytest.mark.parametrize("cut", [{"size": 3}, {"threshold": 0.4}])
def test_it_is_the_mean_over_resampled_choices(cut):
    effects = effects_of([1.0, 0.9, 0.8, 0.5, 0.3, 0.2, 0, 0, 0, 0, 0, 0], noise=1.0)
    found = stability(effects, E0, **cut, resamples=3000)
    rows = np.flatnonzero(effects.prompts.emotions == 0)
    values = effects.values[1:, rows, 0].T.astype(float)

    def choose(some):
        means = values[some].mean(0)
        if "size" in cut:
            return set(np.argsort(-means)[:3].tolist())
        return set(np.flatnonzero(means >= 0.4).tolist())

    rng, whole = np.random.default_rng(9), choose(np.arange(12))
    draws = [choose(rng.integers(0, 12, 12)) for _ in range(3000)]
    wanted = [len(whole & some) / len(whole | some) for some in draws]
    assert found.size == len(whole)
    assert found.mean == pytest.approx(np.mean(wanted), abs=0.02)
    for c, share in found.often.items():
        assert share == pytest.approx(np.mean([BOARD[1:].index(c) in some for some in draws]), abs=0.04)
    assert found.low <= found.mean <= found.high


def test_equal_effects_fall_in_stream_order():
    tied = stability(effects_of([1.0] * 12, noise=0.0), E0, size=3)
    assert tied.mean == 1
    assert set(tied.often) == {head(0, 0), head(0, 1), head(0, 2)}


def test_the_same_seed_gives_the_same_numbers():
    effects = effects_of([0.3] * 12, noise=1.0)
    assert stability(effects, E0, size=4, seed=3) == stability(effects, E0, size=4, seed=3)
    assert stability(effects, E0, size=4, seed=3) != stability(effects, E0, size=4, seed=4)


def test_unfit_questions_are_errors():
    effects = effects_of(STEADY, noise=0.1)
    for cut in ({}, {"size": 2, "threshold": 1.0}):
        with pytest.raises(SettingsError, match="expected one of them"):
            stability(effects, E0, **cut)
    for size in (0, 13):
        with pytest.raises(SettingsError, match=f"size is {size}; expected 1 to 12"):
            stability(effects, E0, size=size)
    with pytest.raises(SettingsError, match="resamples is 1"):
        stability(effects, E0, size=2, resamples=1)
    with pytest.raises(MeasurementError, match="no component of anger reaches 50 logits"):
        stability(effects, E0, threshold=50.0)
    with pytest.raises(MeasurementError, match="4 scenarios of anger"):
        stability(effects_of(STEADY, noise=0.1, n=4), E0, size=2)
    assert np.isnan(stability(effects_of(STEADY, noise=0.1, n=9), E0, size=2).ceiling)
