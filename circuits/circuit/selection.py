"""Choosing a circuit: the smallest top of a ranked list that reaches a target faithfulness on the ``select`` split.

Components that support the emotion (positive effect, q of the sign-flip test below ``alpha`` on ``select``; whether they act on
this emotion in particular is not asked, since a circuit needs what emotions share) are ranked by effect; the list's length
is found by bisection. Greedy by single effects: on redundant components (either of two suffices) a single ablation
shows nothing, so this method cannot find them; it recovers chains and shared heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuits.circuit.evaluation import Bench
from circuits.effects.table import Effects
from circuits.model.sites import Component, Kind
from circuits.prompts.emotions import Emotion

__all__ = ["Selection", "candidates", "select"]


@dataclass(frozen=True)
class Selection:
    """What was chosen, how faithful it is in-sample on ``select``, and whether the target was reached."""

    components: tuple[Component, ...]
    faithfulness: float
    reached: bool
    candidates: int


def candidates(effects: Effects, e: Emotion, *, alpha: float = 0.05) -> tuple[Component, ...]:
    """Heads and neurons that support ``e``, strongest first: effect above rounding error and q < ``alpha``."""
    summary = effects.summary(e)
    usable = [
        i
        for i, c in enumerate(effects.components)
        if c.kind in (Kind.HEAD, Kind.NEURON) and summary.mean[i] > effects.resolution and summary.q_sign[i] < alpha
    ]
    usable.sort(key=lambda i: (-summary.mean[i], effects.components[i]))
    return tuple(effects.components[i] for i in usable)


def select(bench: Bench, ranked: tuple[Component, ...], *, target: float) -> Selection:
    """The shortest top of ``ranked`` whose faithfulness on the bench reaches ``target``; all of it when none does.

    Bisection assumes that longer lists are more faithful. The result reaches the target as measured;
    where the assumption fails a shorter list might as well.
    """
    if not ranked:
        return Selection((), 0.0, False, 0)
    known: dict[int, float] = {}

    def value(size: int) -> float:
        if size not in known:
            known[size] = bench.faithfulness(ranked[:size]).value
        return known[size]

    low, high = 0, len(ranked)
    if value(high) < target:
        return Selection(ranked, known[high], False, len(ranked))
    while high - low > 1:
        middle = (low + high) // 2
        if value(middle) >= target:
            high = middle
        else:
            low = middle
    return Selection(ranked[:high], float(np.float64(value(high))), True, len(ranked))
