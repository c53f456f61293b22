"""Texts of one emotion with components ablated, the stream edited, or both: what circuit and direction are compared by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from circuits.circuit.evaluation import Bench
from circuits.directions.vectors import Directions
from circuits.effects.keeping import metric_keeping
from circuits.effects.statistics import scenario_means
from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.resuming import Replaced, Subsets
from circuits.model.sites import Component, Kind, State
from circuits.model.steering import Edits
from circuits.prompts.emotions import Emotion

__all__ = ["Job", "amplified", "by_scenario", "scenarios_of", "steered"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Job:
    """One way to run the texts: ``h' = h - ⟨h - reference, read⟩ · write + add`` at every state, and components ablated.

    Attributes:
        ablated: heads and neurons replaced by the bench's replacement values.
        read, write, add: ``[state, d_model]``; zero where nothing happens, None for nothing at all.
    """

    ablated: frozenset[Component] = frozenset()
    read: Float[np.ndarray, "state d_model"] | None = None
    write: Float[np.ndarray, "state d_model"] | None = None
    add: Float[np.ndarray, "state d_model"] | None = None

    @classmethod
    def projecting(
        cls,
        directions: Directions,
        e: Emotion,
        states: Sequence[State],
        *,
        ablated: Collection[Component] = (),
        along: Array | None = None,
    ) -> Job:
        """Take the emotion's direction out at these states, each its own; where it is undefined nothing happens.

        ``along`` [d_model]: take out as much along this unit vector instead, which should be orthogonal to the directions. At
        later states only what was written meanwhile is taken out, as it is of a direction that is gone.
        """
        read = np.zeros(directions.vectors.shape[1:])
        for state in states:
            if directions.defined(state, e):
                read[directions.states.index(state)] = directions.at(state, e)
        if along is None:
            return cls(frozenset(ablated), read, read)
        touched = np.flatnonzero(np.linalg.norm(read, axis=1))
        write = np.zeros_like(read)
        write[touched] = along
        # With v + u looked for and taken out along u, the projection on u becomes minus that on v, however often it is done.
        read[touched[1:]] += along
        return cls(frozenset(ablated), read, write)


def steered(bench: Bench, jobs: Sequence[Job], *, toward: bool = False) -> Float[np.ndarray, "job text emotion"]:
    """Six logit differences [logits] of every text under every job.

    ``toward``: what is taken out of the stream is replaced by the projection of the bench's replacement values (as the
    components of an ablated circuit are), instead of by nothing.

    Raises:
        MeasurementError: the bench keeps no states although ``toward`` asks for them, or a result is NaN or infinite.
    """
    model = bench.model
    n_states = 2 * model.n_layers
    stacked = [torch.zeros(len(jobs), n_states, model.d_model, dtype=model.dtype) for _ in range(3)]
    edited = False
    for number, job in enumerate(jobs):
        for tensor, given in zip(stacked, (job.read, job.write, job.add), strict=True):
            if given is not None:
                tensor[number] = torch.as_tensor(given)
                edited = True
    subsets = _all_but(model, [job.ablated for job in jobs])
    found = []
    for piece, resume in zip(bench.texts, bench.resumers, strict=True):
        if toward and piece.states is None:
            raise MeasurementError("the bench keeps no states; make it by Bench.every(plan, positions, states=True)")
        edits = None
        if edited:
            reference = piece.states if toward else None
            read, write, add = (t.to(model.device) for t in stacked)
            edits = Edits(read, write, add, reference, piece.where)
        found.append(metric_keeping(resume, bench.readout, piece.replaced, subsets, edits).double().cpu().numpy())
    return _finite(np.concatenate(found, 1), bench.emotion)


@torch.no_grad()
def amplified(
    bench: Bench, circuits: Sequence[Collection[Component]], factors: Sequence[float]
) -> Float[np.ndarray, "circuit text emotion"]:
    """The same with each circuit's components driven ``1 + factor`` times as far from their replacement values as they are.

    Their values are those of the clean run: what one amplified component does to another is not followed.

    Raises:
        MeasurementError: a result is NaN or infinite.
    """
    found = []
    for piece, resume in zip(bench.texts, bench.resumers, strict=True):
        rows = []
        for circuit, factor in zip(circuits, factors, strict=True):
            driven = Replaced(
                tuple(_driven(own, new, factor) for own, new in zip(resume.run.streams.z, piece.z, strict=True)),
                tuple(_driven(own, new, factor) for own, new in zip(resume.run.streams.post, piece.post, strict=True)),
                piece.where,
            )
            subsets = _all_but(bench.model, [frozenset(circuit)])
            rows.append(metric_keeping(resume, bench.readout, driven, subsets).double().cpu().numpy())
        found.append(np.concatenate(rows))
    return _finite(np.concatenate(found, 1), bench.emotion)


def scenarios_of(bench: Bench) -> NDArray[np.int64]:
    """Scenario number of every text, in the order of :func:`steered`."""
    return np.concatenate([piece.scenarios for piece in bench.texts])


def by_scenario(
    bench: Bench, values: Float[np.ndarray, "job text emotion"]
) -> Float[np.ndarray, "job scenario emotion"]:
    """Means over the texts of each scenario."""
    result: Array = np.moveaxis(scenario_means(np.moveaxis(values, 0, 1), scenarios_of(bench)), 0, 1)
    return result


def _driven(own: torch.Tensor, new: torch.Tensor, factor: float) -> torch.Tensor:
    return own + factor * (own - new)


def _all_but(model: Model, ablated: Sequence[Collection[Component]]) -> Subsets:
    """Everything kept but these; masks are made at once, as a set of all neurons for every job would be slow."""
    heads = torch.ones(len(ablated), model.n_layers, model.n_heads, dtype=torch.bool)
    neurons = torch.ones(len(ablated), model.n_layers, model.d_mlp, dtype=torch.bool)
    for number, members in enumerate(ablated):
        for c in members:
            model.require(c)
            (heads if c.kind is Kind.HEAD else neurons)[number, c.layer, c.index] = False
    return Subsets(heads.to(model.device), neurons.to(model.device))


def _finite(values: Array, e: Emotion) -> Array:
    if not np.isfinite(values).all():
        raise MeasurementError(f"an edited run of {e} gives NaN or infinite logits; measure in float32")
    return values
