"""All that a walk compares: who writes the directions, whether circuit and direction do the same, and every half-layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from circuits.circuit.cost import Neutral
from circuits.circuit.evaluation import Bench
from circuits.compare.attribution import LAYER_COLUMNS
from circuits.compare.dose import dose_response
from circuits.compare.effect import same_effect
from circuits.compare.halves import HalfLayers, half_layers
from circuits.compare.table import DOSE_COLUMNS, EFFECT_COLUMNS, HALF_COLUMNS, RATE_COLUMNS, Comparison, SameEffect
from circuits.compare.writers import writers
from circuits.directions.vectors import Directions
from circuits.effects.batch import Plan
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects
from circuits.model.sites import Component
from circuits.prompts.emotions import Emotion

__all__ = ["Compared", "compare"]

_FEW, _MANY = 5, 20
_PERMUTATIONS = (50, 200)


@dataclass(frozen=True)
class Compared:
    """Circuit against direction, all on held-out scenarios."""

    writers: Comparison
    effects: SameEffect
    halves: HalfLayers
    doses: pd.DataFrame
    """:attr:`circuits.compare.dose.Doses.table`, without rows where it was not measured."""
    notes: tuple[str, ...]
    """What could not be compared, and why."""
    skipped: str
    """What was left out for time, and how to ask for it; empty where nothing was."""


def compare(
    test: Plan,
    benches: Mapping[Emotion, Bench],
    directions: Directions,
    circuits: Mapping[Emotion, Sequence[Component]],
    random: Mapping[Emotion, Sequence[Sequence[Component]]],
    sublayers: Effects,
    *,
    thorough: bool = False,
    watch: Callable[[str, int, int], None] | None = None,
) -> Compared:
    """Hold the circuits against the directions.

    Args:
        test: the walk through the held-out prompts.
        benches: on its prompts, made with ``states=True``.
        directions: estimated on other scenarios.
        circuits, random: by emotion, the circuit and matched random ones; an emotion without a circuit is left out.
        sublayers: exact effects of all half-layers, on (at least) these prompts.
        thorough: take the direction out at every state and both ways, beside more random directions; and the reverse: add it,
            and drive the circuit as hard.

    Raises:
        DirectionError, MeasurementError: see the parts.
    """
    watch = watch or (lambda what, done, total: None)
    model, prompts = test.model, test.prompts
    found = {e: tuple(some) for e, some in circuits.items() if some}
    steps = 2 + len(found) + thorough
    watch("circuit against direction", 0, steps)
    written = writers(model, prompts, directions, circuits, random)
    watch("circuit against direction", 1, steps)
    halves = _halves(test, sublayers, _PERMUTATIONS[thorough])
    tables = []
    middle, last = model.states[model.n_layers - 1], model.states[-1]
    chosen = None if thorough else [middle, last]
    for done, e in enumerate(found):
        watch("circuit against direction", 2 + done, steps)
        if not any(directions.defined(s, e) for s in chosen or directions.states):
            continue
        one = same_effect(
            benches[e], directions, found[e], list(random.get(e, ()))[: 20 if not thorough else None], states=chosen,
            onward=None if thorough else [middle], outs=("levelled", "projected") if thorough else ("levelled",),
            count=_MANY if thorough else _FEW,
        )  # fmt: skip
        tables.append(one.table)
    doses, notes = pd.DataFrame(columns=list(DOSE_COLUMNS)), halves.notices
    if thorough and any(directions.defined(middle, e) for e in found):
        watch("circuit against direction", steps - 1, steps)
        neutral = Neutral(model, prompts) if prompts.neutral else None
        given = dose_response(benches, directions, found, middle, neutral=neutral, emotions=tuple(found), count=_FEW)
        doses, notes = given.table, (*notes, *given.notes)
    elif thorough and found:
        notes = (*notes, f"no emotion that has a circuit has a direction at {middle}: there are no doses")
    watch("circuit against direction", steps, steps)
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(EFFECT_COLUMNS))
    skipped = (
        ""
        if thorough
        else (
            f"adding directions and driving circuits by doses, taking directions out at states other than {middle} and {last}, "
            f"taking them out whole, and {_MANY} random directions ({_FEW} were drawn): ask for them with --thorough"
        )
    )
    return Compared(written, SameEffect(table), halves, doses, notes, skipped)


def _halves(test: Plan, sublayers: Effects, permutations: int) -> HalfLayers:
    """The half-layers, or tables without rows and why, where there are too few scenarios for any interval."""
    model, prompts = test.model, test.prompts
    if prompts.n_scenarios < MIN_SCENARIOS:
        why = f"half-layers are not told apart: {prompts.n_scenarios} test scenarios; it takes {MIN_SCENARIOS} for an interval"
        table, layers, rates = (pd.DataFrame(columns=list(c)) for c in (HALF_COLUMNS, LAYER_COLUMNS, RATE_COLUMNS))
        return HalfLayers(table, layers, rates, model.capabilities.sequential, (why,))
    return half_layers(model, prompts, effects=sublayers, permutations=permutations)
