"""Circuits as regression tests: an assertion for pytest that guards a fine-tune, a quantisation or a library upgrade.

from circuits.testing import assert_same_circuits

def test_the_circuits_have_not_moved():
    assert_same_circuits("runs/new", "runs/golden", min_jaccard=0.8, max_effect_change=0.1)
"""

from __future__ import annotations

import os

from circuits.circuit.graph import Circuit
from circuits.runs.directory import Run
from circuits.runs.sides import compare, side

__all__ = ["assert_same_circuits"]


def assert_same_circuits(
    new: Circuit | Run | str | os.PathLike[str],
    golden: Circuit | Run | str | os.PathLike[str],
    *,
    min_jaccard: float | None = None,
    max_effect_change: float | None = None,
) -> None:
    """Fail when a circuit has moved beyond its own resampling noise; see :func:`circuits.circuit.differences.moved`.

    Each side is a circuit, a run, a run directory, or a circuit's file (.json, .graphml, .gexf); the emotions both have are
    compared. Without a bound the circuits must be equal to the last digit.

    Raises:
        AssertionError: what moved, a line each.
        RunError: a side cannot be read, or they share no emotion.
        SettingsError: a bound outside its range.
    """
    compared = compare(side(new), side(golden))
    if min_jaccard is None and max_effect_change is None:
        reasons = tuple(f"{e}: the circuits differ" for e, d in compared.found.items() if not d.same)
    else:
        reasons = compared.moved(min_jaccard, max_effect_change)
    if reasons:
        raise AssertionError("\n".join((*reasons, *compared.notices)))
