"""Pruning to a target on set functions: nothing needed goes, nothing spare stays, and the runs are counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.pruning import prune_to_target
from circuits.errors import SettingsError


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.data())
def test_what_is_needed_stays_and_all_else_goes(count, data):
    """All of the needed items or nothing: whatever the scores say, exactly they are left."""
    needed = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=min(6, count)))
    scores = {i: data.draw(st.floats(-1, 1)) for i in range(count)}
    asked: list[frozenset[int]] = []

    def faithful(kept: frozenset[int]) -> float:
        asked.append(kept)
        return float(needed <= kept)

    found = prune_to_target(scores, faithful, target=0.8)
    assert set(found.kept) == needed
    assert found.reached
    assert found.faithfulness == 1
    assert found.runs == len(asked) <= 2 + 2 * len(needed) * (count.bit_length() + 1)
    sizes = [abs(scores[i]) for i in found.kept]
    assert sizes == sorted(sizes, reverse=True)


def test_a_sum_keeps_its_strongest_parts():
    scores = dict(zip("abcdef", (0.5, 0.3, 0.1, 0.05, 0.03, 0.02), strict=True))
    found = prune_to_target(scores, lambda kept: sum(scores[name] for name in kept), target=0.8 - 1e-9)
    assert found.kept == ("a", "b")
    assert found.faithfulness == pytest.approx(0.8)


def test_either_of_two_keeps_the_stronger_alone():
    found = prune_to_target({"a": 0.1, "b": -0.2, "c": 0.3}, lambda kept: float(bool(kept & {"a", "b"})), target=1.0)
    assert found.kept == ("b",)


def test_out_of_reach_keeps_everything_and_says_so():
    found = prune_to_target({"a": 1.0, "b": 2.0}, lambda kept: 0.5, target=0.8)
    assert (found.kept, found.reached, found.runs, found.faithfulness) == (("b", "a"), False, 1, 0.5)


def test_runs_are_bounded_and_nothing_to_prune_is_an_error():
    found = prune_to_target({i: float(i) for i in range(30)}, lambda kept: float({3, 17} <= kept), target=1.0, most=4)
    assert found.runs == 4
    assert {3, 17} <= set(found.kept)
    for scores, most in (({}, 5), ({"a": 1.0}, 0)):
        with pytest.raises(SettingsError, match="expected at least one of both"):
            prune_to_target(scores, lambda kept: 1.0, target=0.8, most=most)
