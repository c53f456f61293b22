"""Who writes the emotion direction? Exact decomposition of its projection over all writes (SCIENCE section 7.1).

The state at the read-out token is a sum of writes, so its projection on a direction is a sum of the writes' projections, and
the parts add up to the whole (:mod:`.decomposition` checks it). The vectors may come from any estimator. Nothing is solved for
and no two directions share a projection, so it does not matter that six centred vectors span five dimensions at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from circuits.compare.decomposition import Decomposition
from circuits.compare.shares import Shares
from circuits.compare.table import COLUMNS, Comparison
from circuits.directions.vectors import Directions
from circuits.model.anatomy import Model
from circuits.model.sites import Component, State
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["NO_DIRECTION", "decomposed", "writers"]

NO_DIRECTION = "no direction: the state does not differ by emotion here"


def writers(
    model: Model,
    prompts: Prompts,
    directions: Directions,
    circuits: Mapping[Emotion, Sequence[Component]],
    random: Mapping[Emotion, Sequence[Sequence[Component]]] | None = None,
) -> Comparison:
    """Decompose every emotion's projection at every state, on ``prompts`` (use the ``test`` split).

    Raises:
        DirectionError: the directions are of another model, site or width.
        ComponentError: the model lacks a component.
        UnsupportedModelError: a mixture of experts.
        MeasurementError: the parts do not add up to the projection within 1e-4 of it.
    """
    directions.require(model)
    return decomposed(Decomposition.of(model, prompts), directions, circuits, random)


def decomposed(
    writes: Decomposition,
    directions: Directions,
    circuits: Mapping[Emotion, Sequence[Component]],
    random: Mapping[Emotion, Sequence[Sequence[Component]]] | None = None,
) -> Comparison:
    """The same from writes at hand, as when several estimators are compared."""
    directions.require(writes.model)
    rows: list[dict[str, object]] = []
    for e in EMOTIONS:
        own = tuple(circuits.get(e, ()))
        others = tuple(tuple(c) for c in (random or {}).get(e, ()))
        for c in (*own, *(c for some in others for c in some)):
            writes.model.require(c)
        for state in directions.states:
            base = {"emotion": str(e), "state": state.name, "layer": state.layer, "half": str(state.half)}
            base |= {"unit": "residual", "reason": ""}
            if directions.defined(state, e):
                rows.extend(_state_rows(writes, directions, e, state, base, own, others))
            else:
                base |= {"n": writes.prompts.n_scenarios, "role": "part", "reason": NO_DIRECTION}
                rows.extend({**base, "item": item} for item in ("heads", "neurons", "rest", "circuit"))
    return Comparison(pd.DataFrame(rows, columns=list(COLUMNS)))


def _state_rows(
    writes: Decomposition,
    directions: Directions,
    e: Emotion,
    state: State,
    base: Mapping[str, object],
    own: tuple[Component, ...],
    others: tuple[tuple[Component, ...], ...],
) -> list[dict[str, object]]:
    vector = directions.at(state, e)
    parts = writes.parts(vector, e, state)
    sampler = Shares(parts.whole, parts.scenarios)
    base = {**base, "n": sampler.n}
    items = {"heads": parts.heads.sum((1, 2)), "neurons": parts.neurons.sum((1, 2)), "rest": parts.rest}
    rows: list[dict[str, object]] = []
    for item, values in {**items, "circuit": parts.of(own)}.items():
        rows.append({**base, "item": item, "role": "part", "cosine": np.nan, **sampler.row(values)})
    if others:
        found = [parts.of(c) for c in others]
        shares = np.array([sampler.share(v) for v in found])
        low, high = np.quantile(shares, [0.025, 0.975])
        mean = {"contribution": float(np.mean([v.mean() for v in found])), "share": float(shares.mean())}
        rows.append(
            {**base, "item": "random circuits", "role": "part", "cosine": np.nan, **mean, "low": low, "high": high}
        )
    for c in own:
        if State(c.layer, c.half).depth <= state.depth:
            cosine = writes.cosine(c, e, vector)
            rows.append({**base, "item": c.name, "role": "node", "cosine": cosine, **sampler.row(parts.of((c,)))})
    return rows
