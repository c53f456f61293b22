"""One direction, several mechanisms? Two sets of contexts of one emotion, held against each other (SCIENCE section 7.4).

1. Does the emotion have a direction in both (on ``fit``), and at which state first? There the two directions are compared:
   later states inherit what the answer needs to be alike.
2. Scenarios of ``test`` are matched on their projection, so that no difference is one of strength.
3. Each context's circuit is found on its own ``select`` split. Nodes are in A's circuit only, in B's only, or shared;
   *writers* lie before the state, *readers* behind it.
4. Cross-ablation on ``test``: each of these sets is ablated in both contexts. Losses are shares of the context's
   ``m(M) - m(∅)``. The *interaction* of writers is ``½ [(A-only in A - A-only in B) + (B-only in B - B-only in A)]``: 1 where
   each context has writers of its own that it cannot do without, 0 where it has none; likewise of readers.

The verdict follows from intervals alone. Directions are *the same* where the interval of their cosine lies above
:data:`SAME`, *different* where it lies below :data:`DIFFERENT`. Writers (readers) *differ* where the interval of their
interaction lies above ``smallest``; they are *the same* where it lies below, and ablating all of them costs both contexts at
least half. Whatever else is not decidable with this data, and the result says why and what would decide it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.circuit.estimates import Estimate
from circuits.compare.contexts import Deviations, Matching, cosine, exists, matched
from circuits.compare.crossing import Crossing, Side
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects
from circuits.errors import DirectionError, MeasurementError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.reading import capture
from circuits.model.sites import Component, State
from circuits.prompts.datasets import Prompts, Split
from circuits.prompts.emotions import Emotion, emotion
from circuits.settings import Settings

__all__ = ["DIFFERENT", "SAME", "Mechanisms", "Verdict", "several_mechanisms"]

Array = NDArray[np.float64]
Set = frozenset[Component]

SAME, DIFFERENT = 0.8, 0.5
"""Cosines above and below which directions are the same and different."""

_SURE = 0.01
"""Largest p of having no direction at which a context has one: where noise is taken for a direction it has no cosine."""

_ENOUGH = 0.5
"""Share of the metric that all writers (readers) together must carry to be called the same."""


class Verdict(StrEnum):
    """What two contexts have in common."""

    SAME_CIRCUIT = "same direction, same circuit"
    DIFFERENT_CIRCUITS = "same direction, different circuits"
    DIFFERENT_READERS = "same writers, different readers"
    DIFFERENT_DIRECTIONS = "different directions"
    NOT_DECIDABLE = "not decidable with this data"


@dataclass(frozen=True)
class Mechanisms:
    """The verdict and its evidence.

    Attributes:
        reason: why the verdict is what it is, in words; of one that is not decidable also what would decide it.
        state: where directions are compared and writers end; None where there is no direction in both.
        cosine: of the two contexts' directions there, corrected for noise.
        matching: of the ``test`` scenarios.
        circuits: each context's circuit, found on its ``select`` split.
        cross: losses as shares of the context's ``m(M) - m(∅)``; columns ``role`` (writers, readers), ``nodes`` (a_only,
            b_only, shared, all), ``size``, ``context``, ``value``, ``low``, ``high``, ``n``.
        interaction: of writers and of readers.
        power: the smallest interaction (share of ``m(M) - m(∅)``) this data finds in 80% of cases, by role.
        profile: contributions of every writer to the direction in both contexts [residual units].
        apart: how far these profiles fall apart (:func:`circuits.compare.contexts.profiles_apart`).
        edges: from shared writers to readers and the read-out, exact weights [logits] in both contexts.
    """

    emotion: Emotion
    verdict: Verdict
    reason: str
    state: State | None = None
    cosine: Estimate | None = None
    matching: Matching | None = None
    circuits: dict[str, tuple[Component, ...]] = field(default_factory=dict)
    cross: pd.DataFrame = field(default_factory=pd.DataFrame)
    interaction: dict[str, Estimate] = field(default_factory=dict)
    power: dict[str, float] = field(default_factory=dict)
    profile: pd.DataFrame = field(default_factory=pd.DataFrame)
    apart: dict[str, Any] = field(default_factory=dict)
    edges: pd.DataFrame = field(default_factory=pd.DataFrame)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        return {
            "emotion": str(self.emotion), "verdict": str(self.verdict), "reason": self.reason,
            "state": None if self.state is None else self.state.name,
            "cosine": None if self.cosine is None else self.cosine.as_dict(),
            "matching": None if self.matching is None else self.matching.as_dict(),
            "circuits": {name: [c.name for c in some] for name, some in self.circuits.items()},
            "cross": self.cross.to_dict("records"), "interaction": {k: v.as_dict() for k, v in self.interaction.items()},
            "power": self.power, "profile": self.profile.to_dict("records"), "apart": self.apart,
            "edges": self.edges.to_dict("records"),
        }  # fmt: skip


def several_mechanisms(
    model: Model,
    prompts_a: Prompts,
    prompts_b: Prompts,
    emotion_name: Emotion | str,
    *,
    state: State | None = None,
    settings: Settings | None = None,
    smallest: float = 0.25,
    effects: tuple[Effects, Effects] | None = None,
    watch: Callable[[str, int, int], None] | None = None,
) -> Mechanisms:
    """Is one emotion, in two sets of contexts, one direction and one circuit?

    Args:
        prompts_a, prompts_b: complete scenarios of all six emotions, each with the splits ``fit``, ``select`` and ``test``.
        state: where directions are compared; without it the first at which both contexts have one.
        settings: ablation, method, target and the like; defaults as for :func:`circuits.discover`.
        effects: exact effects of every head and neuron on each context's ``select`` prompts, where they are at hand; they serve
            all six emotions. Measured here without them.
        smallest: interaction, as a share of ``m(M) - m(∅)``, up to which writers (readers) count as the same.

    Raises:
        PromptError: a set lacks the emotion or a split.
        MeasurementError: a scenario lacks an emotion, fewer than five scenarios in ``fit`` or ``test``, or the projections
            cannot be matched.
        DirectionError: the model has no such state.
        SettingsError: ``smallest`` is not between 0 and 1.
    """
    e = emotion(str(emotion_name))
    settings = settings or Settings()
    if not 0 < smallest < 1:
        raise SettingsError(f"smallest is {smallest}; expected a share between 0 and 1, such as 0.25")
    watch = watch or (lambda what, done, total: None)
    sides = [Side.of(name, model, prompts, e, settings) for name, prompts in (("A", prompts_a), ("B", prompts_b))]
    watch("directions", 0, 4)
    fitted = [Deviations.of(capture(model, side.part(Split.FIT)), e) for side in sides]
    there = np.maximum(*(exists(some) for some in fitted))
    if state is None:
        first = np.flatnonzero(there < _SURE)
        if not len(first):
            reason = f"{e} has no direction in both contexts at any state (smallest larger p {there.min():.2g})"
            return Mechanisms(
                e, Verdict.NOT_DECIDABLE, f"{reason}; more scenarios, or a model that knows the emotion, would"
            )
        place = int(first[0])
        state = model.states[place]
    else:
        if state not in model.states:
            raise DirectionError(f"{model.name} has no state {state}; expected {model.states[0]} to {model.states[-1]}")
        place = model.states.index(state)
        if there[place] >= _SURE:
            reason = f"{e} has no direction in both contexts at {state} (larger p {there[place]:.2g}); a later state may decide"
            return Mechanisms(e, Verdict.NOT_DECIDABLE, reason, state)
    alike = cosine(fitted[0], fitted[1], place)
    vector = sum(some.mean[place] / np.linalg.norm(some.mean[place]) for some in fitted)
    vector = np.asarray(vector / np.linalg.norm(vector))
    watch("matching", 1, 4)
    held = [Deviations.of(capture(model, side.part(Split.TEST)), e) for side in sides]
    for side, some in zip(sides, held, strict=True):
        if len(some) < MIN_SCENARIOS:
            raise MeasurementError(
                f"context {side.name} has {len(some)} scenarios in 'test'; expected at least {MIN_SCENARIOS} for an interval"
            )
    matching = matched(*(some.values[:, place] @ vector for some in held))
    watch("circuits of both contexts", 2, 4)
    base = {"state": state, "cosine": alike, "matching": matching}
    try:
        known = effects or (None, None)
        circuits = {side.name: side.circuit(best) for side, best in zip(sides, known, strict=True)}
    except MeasurementError as error:
        return Mechanisms(e, Verdict.NOT_DECIDABLE, f"{error}", **base)  # type: ignore[arg-type]
    watch("cross-ablation", 3, 4)
    rows = [[pair[number] for pair in matching.pairs] for number in range(2)]
    crossing = Crossing(sides, rows, circuits, state)
    try:
        cross, interaction, power = crossing.measured()
    except MeasurementError as error:
        return Mechanisms(e, Verdict.NOT_DECIDABLE, f"{error}", circuits=circuits, **base)  # type: ignore[arg-type]
    verdict, reason = _verdict(alike, interaction, cross, power, smallest, len(matching))
    profile, apart = crossing.profile(model, vector)
    watch("cross-ablation", 4, 4)
    return Mechanisms(
        e,
        verdict,
        reason,
        state,
        alike,
        matching,
        circuits,
        cross,
        interaction,
        power,
        profile,
        apart,
        crossing.edges(),
    )


def _verdict(
    alike: Estimate,
    interaction: dict[str, Estimate],
    cross: pd.DataFrame,
    power: dict[str, float],
    smallest: float,
    n: int,
) -> tuple[Verdict, str]:
    """From intervals alone."""
    at = f"cosine {alike.value:.2f} [{alike.low:.2f}, {alike.high:.2f}]"
    if alike.high < DIFFERENT:
        return Verdict.DIFFERENT_DIRECTIONS, f"the two directions are different: {at}, below {DIFFERENT}"
    if not alike.low > SAME:
        return Verdict.NOT_DECIDABLE, (
            f"the directions are neither the same nor different: {at}, and it takes an interval above {SAME} or below "
            f"{DIFFERENT}; more scenarios decide it if the cosine itself lies outside"
        )
    found = {role: _role(role, interaction, cross, power, smallest, n) for role in ("writers", "readers")}
    words = f"the directions are the same ({at}); " + "; ".join(text for _, text in found.values())
    differ = {role: judged for role, (judged, _) in found.items()}
    if differ["writers"] is True:
        return Verdict.DIFFERENT_CIRCUITS, words
    if differ["writers"] is None:
        return Verdict.NOT_DECIDABLE, words
    if differ["readers"] is True:
        return Verdict.DIFFERENT_READERS, words
    return (Verdict.NOT_DECIDABLE if differ["readers"] is None else Verdict.SAME_CIRCUIT), words


def _role(
    role: str,
    interaction: dict[str, Estimate],
    cross: pd.DataFrame,
    power: dict[str, float],
    smallest: float,
    n: int,
) -> tuple[bool | None, str]:
    """Whether writers (readers) differ; None where it cannot be said."""
    if role not in interaction:
        return None, f"no {role} were found"
    one = interaction[role]
    text = f"interaction of {role} {one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
    if one.low > smallest:
        return True, f"{role} differ: {text}"
    rows = cross[(cross["role"] == role) & (cross["nodes"] == "all")]
    least = float(rows["low"].min())
    able = power[role] <= smallest
    if one.high < smallest and least > _ENOUGH and able:
        return False, f"{role} are the same: {text}, and without them both contexts lose at least {least:.0%}"
    if not able:
        needed = int(np.ceil(n * (power[role] / smallest) ** 2))
        return None, (
            f"{role} cannot be told: {text}; {n} matched scenarios find an interaction of {power[role]:.2f} at the smallest, "
            f"about {needed} would find {smallest}"
        )
    if least <= _ENOUGH:
        return None, f"{role} cannot be told: {text}, but without them a context may lose no more than {least:.0%}"
    return None, f"{role} cannot be told: {text}, on both sides of {smallest}"
