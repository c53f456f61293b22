"""The allocation by hand, by properties, and against a slow one that gives seats one by one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.compare.wang.allocation import Allocation, allocate, top
from circuits.errors import SettingsError
from circuits.model.sites import head, neuron


def of(heads, neurons, k, available=(100, 1000), **options) -> Allocation:
    return allocate(np.array([heads, neurons], dtype=float).T, k, available, **options)


def test_the_worked_example():
    # All neurons, so that 20 of them are divided: 2 each, then 10.5 : 3.5 : 0 of 14 with at most 6 more in a layer.
    found = of((0, 0, 0), (3, 1, 0), 20, neuron_share=1.0, floors=(0, 2))
    assert found == Allocation((0, 0, 0), (8, 8, 4))


def test_by_hand_with_remainders():
    # 100 nodes: 70 neurons, 30 heads in 4 layers; floors 16 and 8 leave 54 and 22.
    # Neurons 54 * (.5, .25, .125, .125) = 27, 13.5, 6.75, 6.75, at most 28 - 4 = 24: 24 are taken, 30 * (.5, .25, .25) =
    # 15, 7.5, 7.5; the one left goes to the lower of the equal remainders. Heads 22 * (0, 0, 1/4, 3/4), at most 12 - 2 = 10:
    # 16.5 is above, then all 12 for the third is above; the last 2 go to the two without influence.
    found = of((-5, 0, 1, 3), (4, 2, 1, 1), 100)
    assert found.neurons == (28, 19, 12, 11)
    assert found.heads == (3, 3, 12, 12)
    assert found.size == 100


def test_the_papers_size():
    found = of(np.ones(28), np.ones(28), 560, available=(24, 8192))
    assert found.heads == (6,) * 28
    assert found.neurons == (14,) * 28


@st.composite
def cases(draw):
    layers = draw(st.integers(3, 8))
    numbers = st.floats(-5, 5, allow_nan=False, width=32)
    influence = draw(st.lists(st.tuples(numbers, numbers), min_size=layers, max_size=layers))
    available = draw(st.integers(2, 12)), draw(st.integers(4, 60))
    return np.array(influence), draw(st.integers(1, 300)), available


@given(cases())
def test_it_adds_up_keeps_floors_and_caps_and_follows_influence(case):
    influence, k, available = case
    layers = len(influence)
    totals = (k - round(0.7 * k), round(0.7 * k))
    rooms = [min(there, 2 * total // 5) for there, total in zip(available, totals, strict=True)]
    fits = all(
        floor * layers <= total <= room * layers and floor <= room
        for floor, total, room in zip((2, 4), totals, rooms, strict=True)
    )
    if not fits:
        with pytest.raises(SettingsError):
            allocate(influence, k, available, even=True)
        return
    found = allocate(influence, k, available, even=True)
    assert found.size == k
    for half, counts in enumerate((found.heads, found.neurons)):
        assert sum(counts) == totals[half]
        assert min(counts) >= (2, 4)[half]
        assert max(counts) <= rooms[half]
        for i in range(layers):
            for j in range(layers):
                if influence[i, half] > influence[j, half] and influence[i, half] > 0:
                    assert counts[i] >= counts[j]
    scaled = allocate(influence * 4, k, available, even=True)  # a power of two: exact
    assert scaled == found


@given(st.lists(st.integers(0, 20), min_size=3, max_size=6), st.integers(12, 80))
def test_it_is_the_largest_remainder_rule_where_no_cap_binds(weights, seats):
    """Hare quotas by hand: whole parts first, then one each to the largest fractions."""
    if not any(weights):
        return
    found = of((0,) * len(weights), weights, seats, neuron_share=1.0, floors=(0, 0), cap=1.0, available=(0, 1000))
    quotas = [Fraction(seats * w, sum(weights)) for w in weights]
    wanted = [int(q) for q in quotas]
    order = sorted(range(len(weights)), key=lambda i: (-(quotas[i] - int(quotas[i])), i))
    for i in order[: seats - sum(wanted)]:
        wanted[i] += 1
    assert found.neurons == tuple(wanted)


@pytest.mark.parametrize(
    ("k", "available", "said"),
    [
        (20, (8, 100), "of which 6 are heads; expected at least 8, 2 in each of 4 layers"),
        (100, (4, 100), "the model has 4 in each of 4 layers"),
        (100, (1, 100), "the model has 1 in each"),
        (400, (60, 50), "280 are neurons; the model has 50"),
    ],
)
def test_what_does_not_fit_is_said(k, available, said):
    with pytest.raises(SettingsError, match=said):
        of((1, 1, 1, 1), (1, 1, 1, 1), k, available)


def test_two_layers_cannot_hold_all_under_a_cap_of_two_fifths():
    with pytest.raises(SettingsError, match="do not fit in 2 layers of at most"):
        of((1, 1), (1, 1), 50)
    assert of((1, 3), (1, 3), 50, cap=0.6).heads == (6, 9)


def test_wrong_arguments_are_said():
    with pytest.raises(SettingsError, match="influence of layer 1's MLP is nan"):
        of((1, 1, 1), (1, float("nan"), 1), 60)
    with pytest.raises(SettingsError, match="has shape"):
        allocate(np.ones((3, 3)), 60, (10, 10))
    with pytest.raises(SettingsError, match="cap 0"):
        of((1, 1, 1), (1, 1, 1), 60, cap=0.0)
    with pytest.raises(SettingsError, match="floors is"):
        of((1, 1, 1), (1, 1, 1), 60, floors=(-1, 4))
    with pytest.raises(SettingsError, match="no layer's MLP has a positive influence"):
        of((1, 1, 1), (0, -1, 0), 60)
    assert of((1, 1, 1), (0, -1, 0), 60, even=True).even == ("neurons",)


def test_the_top_of_every_layer():
    heads = np.array([[1.0, 3, 2], [-1, -2, -3]])
    neurons = np.array([[0.0, 5, 5, -1], [7, 0, 0, 0]])
    found = top(Allocation((2, 1), (1, 2)), heads, neurons)
    assert found == {head(0, 1), head(0, 2), head(1, 0), neuron(0, 1), neuron(1, 0), neuron(1, 1)}
    with pytest.raises(SettingsError, match="heads of layer 1 have NaN"):
        top(Allocation((2, 1), (1, 2)), np.where(heads == -2, np.nan, heads), neurons)
    with pytest.raises(SettingsError, match="expected 2 layers of 5"):
        top(Allocation((2, 1), (1, 5)), heads, neurons)
