"""Who writes the emotion direction? Exact decomposition of its projection over all writes (SCIENCE section 7.1).

The state at the read-out token is a sum of writes, so its projection on a direction is a sum of the writes' projections. All
are taken relative to the mean over the scenario's six texts: what all six share (token embedding, biases) says nothing about
which emotion it is, and a per-emotion offset would otherwise decide. The parts add up to the whole; :func:`writers` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from circuits.compare.table import COLUMNS, Comparison
from circuits.directions.vectors import Directions
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.errors import DirectionError, MeasurementError
from circuits.model.anatomy import Model
from circuits.model.reading import Writes, capture_writes
from circuits.model.sites import Component, Half, Kind, State
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["contributions", "writers"]

Array = NDArray[np.float64]

_DRAWS = 2000
_TOLERANCE = 1e-4


def writers(
    model: Model,
    prompts: Prompts,
    directions: Directions,
    circuits: Mapping[Emotion, Sequence[Component]],
    random: Mapping[Emotion, Sequence[Sequence[Component]]] | None = None,
) -> Comparison:
    """Decompose every emotion's projection at every state, on ``prompts`` (use the ``test`` split).

    Raises:
        DirectionError: the directions are of another model.
        MeasurementError: the parts do not add up to the projection within 1e-4 of it.
    """
    if directions.model != model.fingerprint:
        raise DirectionError("the directions were estimated on another model; estimate them on this one")
    centred = _Centred.of(capture_writes(model, prompts), prompts)
    rows: list[dict[str, object]] = []
    for e in EMOTIONS:
        own = tuple(circuits.get(e, ()))
        others = tuple(tuple(c) for c in (random or {}).get(e, ()))
        for place, state in enumerate(directions.states):
            if directions.defined(state, e):
                rows.extend(_state_rows(model, centred, directions.at(state, e), e, state, place, own, others))
    return Comparison(pd.DataFrame(rows, columns=list(COLUMNS)))


@dataclass(frozen=True)
class _Centred:
    """Writes minus their group's mean, in float64, with the group's scenario for resampling."""

    heads: torch.Tensor  # [prompt, layer, head, d_model]
    activations: torch.Tensor  # [prompt, layer, neuron]
    factors: torch.Tensor | None
    biases: torch.Tensor  # [prompt, layer, half, d_model]
    embed: torch.Tensor  # [prompt, d_model]
    states: torch.Tensor  # [prompt, state, d_model]
    prompts: Prompts

    @classmethod
    def of(cls, writes: Writes, prompts: Prompts) -> _Centred:
        return cls(
            heads=_centre(writes.heads, prompts),
            # Behind a post-norm the write is activation times a factor of the prompt: only their product can be centred.
            activations=_centre(writes.activations, prompts)
            if writes.factors is None
            else writes.activations.cpu().double(),
            factors=None if writes.factors is None else writes.factors.cpu().double(),
            biases=_centre(writes.biases, prompts),
            embed=_centre(writes.embed, prompts),
            states=_centre(writes.states, prompts),
            prompts=prompts,
        )


def _centre(tensor: torch.Tensor, prompts: Prompts) -> torch.Tensor:
    """``tensor`` [prompt, ...] in float64 minus the mean over each prompt's group."""
    groups = torch.tensor(prompts.groups)
    count = torch.bincount(groups).double()
    values = tensor.cpu().double()
    total = torch.zeros(len(count), *values.shape[1:], dtype=torch.float64).index_add_(0, groups, values)
    return values - (total / count.reshape(-1, *[1] * (values.dim() - 1)))[groups]


def _contributions(model: Model, centred: _Centred, vector: Array, mine: torch.Tensor) -> tuple[Array, Array]:
    """Projection of every head's and neuron's centred write on ``vector``: [prompt, layer, head], [prompt, layer, neuron]."""
    v = torch.tensor(vector, dtype=torch.float64)
    heads = centred.heads[mine] @ v
    weights = torch.stack([model.W_out(layer).cpu().double() for layer in range(model.n_layers)])
    if centred.factors is None:
        neurons = centred.activations[mine] * (weights @ v)
    else:
        whole = centred.activations * torch.einsum("lnm,plm->pln", weights, centred.factors * v)
        neurons = _centre(whole, centred.prompts)[mine]
    return heads.numpy(), neurons.numpy()


def contributions(
    model: Model, prompts: Prompts, vector: Array, e: Emotion, components: Sequence[Component]
) -> tuple[Array, NDArray[np.int64]]:
    """Projection [residual units] of each component's emotion-centred write on a unit vector, on the emotion's own texts.

    Returns:
        ``[text, component]``, and the scenario number of every text.
    """
    centred = _Centred.of(capture_writes(model, prompts), prompts)
    mine = torch.tensor(np.flatnonzero(prompts.emotions == e.column))
    heads, neurons = _contributions(model, centred, vector, mine)
    found = [(heads if c.kind is Kind.HEAD else neurons)[:, c.layer, c.index] for c in components]
    values = np.stack(found, 1) if found else np.zeros((len(mine), 0))
    return values, prompts.scenarios[mine.numpy()]


def _state_rows(
    model: Model,
    centred: _Centred,
    vector: Array,
    e: Emotion,
    state: State,
    place: int,
    own: tuple[Component, ...],
    others: tuple[tuple[Component, ...], ...],
) -> list[dict[str, object]]:
    mine = torch.tensor(np.flatnonzero(centred.prompts.emotions == e.column))
    heads, neurons = _contributions(model, centred, vector, mine)
    heads[:, state.layer + 1 :] = 0
    neurons[:, state.layer + (state.half is Half.MLP) :] = 0
    whole = (centred.states[mine, place] @ torch.tensor(vector, dtype=torch.float64)).numpy()

    def of(components: Sequence[Component]) -> Array:
        total = np.zeros(len(whole))
        for c in components:
            total += (heads if c.kind is Kind.HEAD else neurons)[:, c.layer, c.index]
        return total

    per_head, per_neuron = heads.sum((1, 2)), neurons.sum((1, 2))
    rest = _rest(centred, vector, mine, state)
    error = float(np.abs(whole - per_head - per_neuron - rest).max())
    if error > _TOLERANCE * max(1.0, float(np.abs(whole).max())):
        raise MeasurementError(
            f"the writes of {model.name} miss the projection of {e} at {state} by {error:.2g} residual units "
            f"(projections reach {np.abs(whole).max():.2g}); load the model in float32"
        )
    scenarios = centred.prompts.scenarios[mine.numpy()]
    sampler = _Ratio(whole, scenarios)
    base = {"emotion": str(e), "state": state.name, "layer": state.layer, "half": str(state.half)}
    base |= {"n": sampler.n, "unit": "residual"}
    rows = []
    for item, values in (("heads", per_head), ("neurons", per_neuron), ("rest", rest), ("circuit", of(own))):
        rows.append({**base, "item": item, "role": "part", "cosine": np.nan, **sampler.row(values)})
    if others:
        values = [of(c) for c in others]
        shares = np.array([sampler.share(v) for v in values])
        low, high = np.quantile(shares, [0.025, 0.975])
        mean = {"contribution": float(np.mean([v.mean() for v in values])), "share": float(shares.mean())}
        rows.append(
            {**base, "item": "random circuits", "role": "part", "cosine": np.nan, **mean, "low": low, "high": high}
        )
    for c in own:
        if State(c.layer, c.half).depth <= state.depth:
            cosine = _cosine(model, centred, c, mine, vector)
            rows.append({**base, "item": c.name, "role": "node", "cosine": cosine, **sampler.row(of((c,)))})
    return rows


def _rest(centred: _Centred, vector: Array, mine: torch.Tensor, state: State) -> Array:
    """Projection of embedding and biases: zero but for read-out tokens that differ and for post-norms."""
    v = torch.tensor(vector, dtype=torch.float64)
    biases = centred.biases[mine] @ v  # [prompt, layer, half]
    biases[:, state.layer + 1 :] = 0
    if state.half is Half.ATTN:
        biases[:, state.layer, 1] = 0
    result: Array = (centred.embed[mine] @ v + biases.sum((1, 2))).numpy()
    return result


class _Ratio:
    """Shares of a whole with a scenario bootstrap, the same resamples for every part."""

    def __init__(self, whole: Array, scenarios: NDArray[np.int64]) -> None:
        found, self._place = np.unique(scenarios, return_inverse=True)
        self._count = np.bincount(self._place)
        self.n = len(found)
        self._whole = self._mean(whole)
        self._rows = np.random.default_rng(0).multinomial(self.n, np.full(self.n, 1 / self.n), size=_DRAWS) / self.n
        self._draws = self._rows @ self._whole

    def _mean(self, values: Array) -> Array:
        total = np.zeros(self.n)
        np.add.at(total, self._place, values)
        result: Array = total / self._count
        return result

    def share(self, part: Array) -> float:
        total = self._whole.mean()
        return float(self._mean(part).mean() / total) if total != 0 else float("nan")

    def row(self, part: Array) -> dict[str, float]:
        values = self._mean(part)
        low = high = float("nan")
        # Where the whole may be nothing a share has no interval; the contribution beside it stays meaningful.
        if self.n >= MIN_SCENARIOS and (self._draws > 0).all():
            low, high = (float(x) for x in np.quantile((self._rows @ values) / self._draws, [0.025, 0.975]))
        return {"contribution": float(values.mean()), "share": self.share(part), "low": low, "high": high}


def _cosine(model: Model, centred: _Centred, c: Component, mine: torch.Tensor, vector: Array) -> float:
    """Cosine of the node's mean centred write with the direction; 0 for a node that does not write here at all."""
    if c.kind is Kind.HEAD:
        write = centred.heads[mine, c.layer, c.index].mean(0).numpy()
    else:
        amount = centred.activations[:, c.layer, c.index]
        weight = model.W_out(c.layer)[c.index].cpu().double()
        if centred.factors is not None:
            whole = amount[:, None] * centred.factors[:, c.layer] * weight
            write = _centre(whole, centred.prompts)[mine].mean(0).numpy()
        else:
            write = (amount[mine].mean() * weight).numpy()
    length = float(np.linalg.norm(write))
    return float(write @ vector) / length if length > 0 else 0.0
