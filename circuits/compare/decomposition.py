"""A state's projection on a direction, taken apart into what every head and neuron writes (Elhage et al. 2021).

All is relative to the mean over the scenario's six texts: what all six share (token embedding, biases) says nothing about
which emotion it is, and a per-emotion offset would otherwise decide. Behind a post-norm a write is taken with the scale the
norm had in this run. The parts add up to the whole; every decomposition checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.reading import Writes, capture_writes
from circuits.model.sites import Component, Half, Kind, State
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import Emotion

__all__ = ["TOLERANCE", "Decomposition", "Parts"]

Array = NDArray[np.float64]

TOLERANCE = 1e-4
"""Relative error up to which parts count as adding up to the whole (float32 models)."""

_EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Parts:
    """One emotion's projection [residual units] at one state, on the emotion's own texts.

    Attributes:
        heads: ``[prompt, layer, head]``, zero behind the state.
        neurons: ``[prompt, layer, neuron]``, zero behind the state.
        rest: embedding and biases, ``[prompt]``: zero but for read-out tokens that differ and for post-norms.
        whole: the state's own projection, ``[prompt]``.
        scenarios: ``[prompt]``.
    """

    heads: Array
    neurons: Array
    rest: Array
    whole: Array
    scenarios: NDArray[np.int64]

    def of(self, components: Sequence[Component]) -> Array:
        """Sum over some heads and neurons, ``[prompt]``."""
        total = np.zeros(len(self.whole))
        for c in components:
            total += (self.heads if c.kind is Kind.HEAD else self.neurons)[:, c.layer, c.index]
        return total


@dataclass(frozen=True)
class Decomposition:
    """Writes of a prompt set minus their group's mean, in float64."""

    model: Model
    prompts: Prompts
    heads: torch.Tensor  # [prompt, layer, head, d_model]
    activations: torch.Tensor  # [prompt, layer, neuron]
    factors: torch.Tensor | None
    biases: torch.Tensor  # [prompt, layer, half, d_model]
    embed: torch.Tensor  # [prompt, d_model]
    states: torch.Tensor  # [prompt, state, d_model]
    sizes: (
        torch.Tensor
    )  # [half, layer], largest head write and neuron activation before centring, whose rounding remains

    @classmethod
    def of(cls, model: Model, prompts: Prompts) -> Decomposition:
        """Read every write at the read-out token.

        Raises:
            UnsupportedModelError: the model's neurons are experts'.
            MeasurementError: a text is too long, or an activation is NaN or infinite.
        """
        model.require_neurons()
        return cls._centred(model, prompts, capture_writes(model, prompts))

    @classmethod
    def _centred(cls, model: Model, prompts: Prompts, writes: Writes) -> Decomposition:
        # Behind a post-norm the write is activation times a factor of the prompt: only their product can be centred.
        plain = writes.factors is None
        return cls(
            model=model,
            prompts=prompts,
            heads=_centre(writes.heads, prompts),
            activations=_centre(writes.activations, prompts) if plain else writes.activations.cpu().double(),
            factors=None if writes.factors is None else writes.factors.cpu().double(),
            biases=_centre(writes.biases, prompts),
            embed=_centre(writes.embed, prompts),
            states=_centre(writes.states, prompts),
            sizes=torch.stack(
                [t.cpu().double().abs().flatten(2).amax((0, 2)) for t in (writes.heads, writes.activations)]
            ),
        )

    def rows(self, e: Emotion) -> torch.Tensor:
        """The emotion's own texts."""
        return torch.tensor(np.flatnonzero(self.prompts.emotions == e.column))

    def parts(self, vector: Array, e: Emotion, state: State) -> Parts:
        """Projection of every write up to ``state`` on ``vector`` [d_model], on the texts of ``e``.

        Raises:
            MeasurementError: the parts miss the state's projection by more than 1e-4 of it.
        """
        mine, v = self.rows(e), torch.tensor(vector, dtype=torch.float64)
        heads = (self.heads[mine] @ v).numpy()
        weights = torch.stack([self._weights(layer, v) for layer in range(self.model.n_layers)])
        if self.factors is None:
            neurons = (self.activations[mine] * weights).numpy()
        else:
            whole = [
                self.activations[:, layer] * ((self.factors[:, layer] * v) @ self._matrix(layer).T)
                for layer in range(self.model.n_layers)
            ]
            neurons = _centre(torch.stack(whole, 1), self.prompts)[mine].numpy()
        heads[:, state.layer + 1 :] = 0
        neurons[:, state.layer + (state.half is Half.MLP) :] = 0
        biases = self.biases[mine] @ v  # [prompt, layer, half]
        biases[:, state.layer + 1 :] = 0
        if state.half is Half.ATTN:
            biases[:, state.layer, 1] = 0
        rest = (self.embed[mine] @ v + biases.sum((1, 2))).numpy()
        place = self.model.states.index(state)
        total = (self.states[mine, place] @ v).numpy()
        error = float(np.abs(total - heads.sum((1, 2)) - neurons.sum((1, 2)) - rest).max())
        if not error <= TOLERANCE * max(1.0, float(np.abs(total).max())):
            raise MeasurementError(
                f"the writes of {self.model.name} miss the projection of {e} at {state} by {error:.2g} residual units "
                f"(projections reach {np.abs(total).max():.2g}); load the model in float32"
            )
        return Parts(heads, neurons, rest, total, self.prompts.scenarios[mine.numpy()])

    def cosine(self, c: Component, e: Emotion, vector: Array) -> float:
        """Cosine of a component's mean centred write on the texts of ``e`` with a unit vector; NaN where it writes nothing
        that differs by emotion."""
        mine, size = self.rows(e), float(self.sizes[list(Half).index(c.half), c.layer])
        if c.kind is Kind.HEAD:
            write = self.heads[mine, c.layer, c.index].mean(0)
        else:
            amount, weight = self.activations[:, c.layer, c.index], self._matrix(c.layer)[c.index]
            if self.factors is None:
                write = amount[mine].mean() * weight
            else:
                weight = self.factors[:, c.layer] * weight
                write = _centre(amount[:, None] * weight, self.prompts)[mine].mean(0)
            size *= float(weight.abs().max())
        found = write.numpy()
        length = float(np.linalg.norm(found))
        return float(found @ vector) / length if length > _EPS * size * np.sqrt(len(found)) else float("nan")

    def _matrix(self, layer: int) -> torch.Tensor:
        return self.model.W_out(layer).cpu().double()

    def _weights(self, layer: int, v: torch.Tensor) -> torch.Tensor:
        return self._matrix(layer) @ v


def _centre(tensor: torch.Tensor, prompts: Prompts) -> torch.Tensor:
    """``tensor`` [prompt, ...] in float64 minus the mean over each prompt's group."""
    groups = torch.tensor(prompts.groups)
    count = torch.bincount(groups).double()
    values = tensor.cpu().double()
    total = torch.zeros(len(count), *values.shape[1:], dtype=torch.float64).index_add_(0, groups, values)
    return values - (total / count.reshape(-1, *[1] * (values.dim() - 1)))[groups]
