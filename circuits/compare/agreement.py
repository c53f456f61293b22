"""Where estimators of one emotion's direction disagree, and whether it matters for who is said to write it.

Two estimators are held against each other at every state: the cosine of their vectors beside its ceiling, the shares of the
projection that the same circuit writes under either (exact, same texts, same resamples), and the spaces their six vectors span.
Six centred vectors sum to nothing once their lengths are put back, so a set spans five dimensions at most; the rank is counted,
never assumed, and spaces are compared by orthonormal bases of that rank, so that nothing is divided by what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from circuits import jsontext
from circuits.circuit.estimates import ends
from circuits.compare.concentration import concentration
from circuits.compare.decomposition import Decomposition
from circuits.compare.shares import Shares
from circuits.compare.writers import NO_DIRECTION, decomposed
from circuits.directions.vectors import Directions
from circuits.errors import DirectionError
from circuits.model.sites import Component, State
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["COSINE_COLUMNS", "SHARE_COLUMNS", "SPACE_COLUMNS", "Agreement", "agreement", "basis"]

Array = NDArray[np.float64]

COSINE_COLUMNS = ("first", "second", "emotion", "state", "layer", "half", "cosine", "ceiling", "unit", "n", "reason")
SHARE_COLUMNS = (
    "first", "second", "emotion", "state", "layer", "half", "first_share", "second_share", "difference", "low", "high",
    "differ", "unit", "n", "reason",
)  # fmt: skip
SPACE_COLUMNS = (
    "first", "second", "state", "layer", "half", "first_rank", "second_rank", "overlap", "chance", "unit", "n", "reason",
)  # fmt: skip

_RANK = 1e-5


@dataclass(frozen=True)
class Agreement:
    """What estimators say of the same emotions in the same model.

    Attributes:
        writers: as :class:`circuits.compare.table.Comparison`, one more column in front: ``estimator``.
        counts: how many components make 50, 80 and 95% (:func:`circuits.compare.concentration.concentration`).
        cosines: of two estimators' vectors, columns :data:`COSINE_COLUMNS`. ``ceiling`` is what two equal directions as
            reliable as these would show: the root of the product of their reliabilities, split-half cosines stepped up to all
            scenarios (Spearman-Brown). A cosine has no interval here: probes are not fitted a thousand times. ``n`` are the
            scenarios directions were made on.
        shares: of the projection written by the emotion's circuit under each, and their difference with a paired 95% interval
            over ``n`` scenarios; ``differ`` where it excludes zero.
        spaces: spanned by the six vectors of each: ranks, and the mean squared cosine of the angles between the spaces (1 where
            one holds the other), beside its chance level.
    """

    writers: pd.DataFrame
    counts: pd.DataFrame
    cosines: pd.DataFrame
    shares: pd.DataFrame
    spaces: pd.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; numbers that do not exist are None."""
        tables = {name: getattr(self, name) for name in ("writers", "counts", "cosines", "shares", "spaces")}
        return {name: jsontext.plain(table.to_dict("records")) for name, table in tables.items()}


def agreement(
    writes: Decomposition,
    estimated: Sequence[Directions],
    circuits: Mapping[Emotion, Sequence[Component]],
    *,
    states: Sequence[State] | None = None,
) -> Agreement:
    """Compare estimators, every two of them, on the texts of ``writes``.

    Args:
        writes: the decomposition on texts that directions were not made on (the ``test`` split).
        estimated: directions of one model at the same states, each by another estimator.
        states: where components are counted; the last state by default, as counting is the dearest part.

    Raises:
        DirectionError: fewer than two, one estimator twice, or directions of another model, other texts or other states.
    """
    names = [d.estimator for d in estimated]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise DirectionError(f"estimators are {', '.join(names) or 'none'}; expected two or more, each once")
    for one in estimated:
        one.require(writes.model)
        if one.states != estimated[0].states or one.prompts != estimated[0].prompts:
            raise DirectionError(
                f"{one.estimator} and {names[0]} directions are of other texts or states; estimate both on the same prompts"
            )
    where = estimated[0].states[-1:] if states is None else states
    tables = []
    for one in estimated:
        table = decomposed(writes, one, circuits).table
        table.insert(0, "estimator", one.estimator)
        tables.append(table)
    pairs = list(combinations(estimated, 2))
    own = {one.estimator: _own(writes, one, circuits) for one in estimated}
    return Agreement(
        writers=pd.concat(tables, ignore_index=True),
        counts=pd.concat([concentration(writes, one, states=where) for one in estimated], ignore_index=True),
        cosines=pd.DataFrame([r for a, b in pairs for r in _cosines(a, b)], columns=list(COSINE_COLUMNS)),
        shares=pd.DataFrame(
            [r for a, b in pairs for r in _shares(a, b, *(own[d.estimator] for d in (a, b)))],
            columns=list(SHARE_COLUMNS),
        ),
        spaces=pd.DataFrame([r for a, b in pairs for r in _spaces(a, b)], columns=list(SPACE_COLUMNS)),
    )


def basis(vectors: Float[NDArray[np.float64], "emotion d_model"]) -> Float[NDArray[np.float64], "rank d_model"]:
    """Orthonormal vectors that span the same space; as many as the rank, what is below 1e-5 of the largest being rounding."""
    _, singular, axes = np.linalg.svd(vectors, full_matrices=False)
    found: Array = axes[singular > _RANK * singular.max(initial=0)]
    return found


def _place(a: Directions, b: Directions, state: State) -> dict[str, object]:
    return {
        "first": a.estimator, "second": b.estimator, "state": state.name, "layer": state.layer, "half": str(state.half),
        "reason": "",
    }  # fmt: skip


def _missing(a: Directions, b: Directions, state: State, e: Emotion) -> str:
    """Why two directions cannot be compared, or nothing."""
    gone = [d.estimator for d in (a, b) if not d.defined(state, e)]
    return f"{NO_DIRECTION} ({' and '.join(gone)})" if gone else ""


def _cosines(a: Directions, b: Directions) -> list[dict[str, object]]:
    rows = []
    for e in EMOTIONS:
        for place, state in enumerate(a.states):
            row = {**_place(a, b, state), "emotion": str(e), "unit": "cosine", "n": min(a.n, b.n)}
            row["reason"] = _missing(a, b, state, e)
            if not row["reason"]:
                row["cosine"] = float(a.at(state, e) @ b.at(state, e))
                half = np.array([d.split_half[e.column, place] for d in (a, b)])
                # Halves that point apart leave no reliability to speak of.
                if (half > 0).all():
                    row["ceiling"] = float(np.sqrt(np.prod(2 * half / (1 + half))))
                else:
                    row["reason"] = "too few scenarios, or halves too unlike, for a ceiling"
            rows.append(row)
    return rows


Own = Mapping[tuple[Emotion, State], tuple[float, Array, int]]
"""By emotion and state: the circuit's share of the projection, the same on resampled scenarios, and the scenarios."""


def _own(writes: Decomposition, one: Directions, circuits: Mapping[Emotion, Sequence[Component]]) -> Own:
    found = {}
    for e in EMOTIONS:
        members = tuple(circuits.get(e, ()))
        for state in one.states if members else ():
            if one.defined(state, e):
                parts = writes.parts(one.at(state, e), e, state)
                sampler, values = Shares(parts.whole, parts.scenarios), parts.of(members)
                found[e, state] = (sampler.share(values), sampler.drawn(values), sampler.n)
    return found


def _shares(a: Directions, b: Directions, first: Own, second: Own) -> list[dict[str, object]]:
    rows = []
    for e in EMOTIONS:
        for state in a.states:
            row = {**_place(a, b, state), "emotion": str(e), "unit": "share of the projection", "differ": False, "n": 0}
            row["reason"] = _missing(a, b, state, e)
            if not row["reason"] and (e, state) not in first:
                row["reason"] = "no circuit"
            if not row["reason"]:
                (one, draws, n), (other, others, _) = first[e, state], second[e, state]
                row |= {"n": n, "first_share": one, "second_share": other, "difference": one - other}
                low, high = ends(draws - others)
                if np.isnan(low):
                    row["reason"] = "too few scenarios, or a projection not told from zero: no interval"
                else:
                    row |= {"low": low, "high": high, "differ": low > 0 or high < 0}
            rows.append(row)
    return rows


def _spaces(a: Directions, b: Directions) -> list[dict[str, object]]:
    rows = []
    for state in a.states:
        one, other = (basis(_vectors(d, state)) for d in (a, b))
        row = {**_place(a, b, state), "unit": "mean squared cosine", "n": min(a.n, b.n)}
        row |= {"first_rank": len(one), "second_rank": len(other)}
        if len(one) and len(other):
            row["overlap"] = float(((one @ other.T) ** 2).sum() / min(len(one), len(other)))
            row["chance"] = max(len(one), len(other)) / one.shape[1]
        else:
            row["reason"] = NO_DIRECTION
        rows.append(row)
    return rows


def _vectors(directions: Directions, state: State) -> Array:
    """The defined directions at a state, ``[emotion, d_model]``."""
    found: Array = directions.vectors[[directions.defined(state, e) for e in EMOTIONS], directions.states.index(state)]
    return found
