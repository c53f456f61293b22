"""Wang's local measures: what one neuron or one head does to the emotion's projection in its own layer.

Both are closed forms of one forward (Wang et al. 2025, arXiv 2510.11328, local components):

* a neuron's contribution ``a_n (W_downᵀ v)_n``, v the emotion's direction after the MLP (:func:`neuron_contributions`);
* a head's importance, the drop of ⟨post-attention state, v⟩ at the same layer and token when the head is zeroed, v the
  direction after attention (:func:`head_importance`). The paper runs the model once per head; nothing between the head and
  the state it reads depends on another run, so one forward holds all heads.

Directions are those of :func:`circuits.directions.estimators.contrast`, which compares the six emotions inside each
scenario *and* valence. Neither measure knows what the upper layers make of a write: hold them beside total effects
(:func:`circuits.compare.wang.circuit.wang_circuit`).

Three traits of the paper's form are choices here. *Space*: the paper estimates v in the stream and reads the state behind
the norm in front of the MLP, two spaces of different gains (:class:`Space`). *Centring*: a raw contribution is mostly what
a text has in common with the other five of its group; ``centred`` takes the group's mean away. *Sign*: a positive number
moves the state towards the emotion, and signs are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from circuits.circuit.estimates import Estimate, estimate
from circuits.directions.estimators import contrast
from circuits.directions.vectors import Directions
from circuits.errors import ComponentError, DirectionError, MeasurementError
from circuits.model.anatomy import Model
from circuits.model.hearing import heard
from circuits.model.reading import Readings, capture_writes
from circuits.model.sites import Component, Half, Kind, State
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import Emotion

__all__ = ["NormedDirections", "Scores", "Space", "head_importance", "neuron_contributions", "normed_directions"]

Array = NDArray[np.float64]


class Space(StrEnum):
    """Where a head's importance takes the direction from, and where it reads the state."""

    PAPER = "paper"
    """Direction from the stream, state behind the MLP's input norm: what the paper's code computes."""
    STREAM = "stream"
    """Both in the stream, before the norm: the drop is ⟨the head's write, v⟩, exactly what it adds."""
    NORMED = "normed"
    """Both behind the norm; the direction is estimated there."""


@dataclass(frozen=True)
class NormedDirections:
    """Unit contrast directions behind the norm in front of each MLP.

    Attributes:
        vectors: ``[emotion, layer, d_model]``; zero where undefined.
        norms: length before scaling, ``[emotion, layer]``, in the norm's own units; 0 where the emotion does not differ.
        virtual: the states are ``resid_pre + attn_out`` of parallel blocks, which the model never computes.
        model, prompts: fingerprints of what they were estimated from.
    """

    vectors: Array
    norms: Array
    virtual: bool
    model: str
    prompts: str


@dataclass(frozen=True)
class Scores:
    """A local measure of every head or every neuron on the texts of one emotion.

    Attributes:
        kind: ``head`` or ``neuron``.
        values: ``[prompt, layer, index]``; NaN in layers where the emotion has no direction.
        prompts: the emotion's own texts, the axis ``prompt``.
        unit: of the values: residual units, or normed units behind the MLP's input norm.
        space: of heads; neurons write into the stream and are read there.
        centred: the mean of the text's group is taken away.
        virtual: read in a state that the model never computes (parallel blocks).
    """

    emotion: Emotion
    kind: Kind
    values: Array
    prompts: Prompts
    unit: str
    space: Space
    centred: bool
    virtual: bool

    @property
    def by_scenario(self) -> Array:
        """Mean over each scenario's texts, ``[scenario, layer, index]``."""
        scenarios, place = np.unique(self.prompts.scenarios, return_inverse=True)
        total = np.zeros((len(scenarios), *self.values.shape[1:]))
        np.add.at(total, place, self.values)
        return total / np.bincount(place)[:, None, None]

    def mean(self) -> Array:
        """Mean over scenarios, ``[layer, index]``: the paper's ranking."""
        means: Array = self.by_scenario.mean(0)
        return means

    def estimate(self, component: Component) -> Estimate:
        """One component's mean with its 95% interval over scenarios.

        Raises:
            ComponentError: a component of another kind or none of the model's.
            DirectionError: the emotion has no direction in its layer.
        """
        layers, count = self.values.shape[1:]
        inside = 0 <= component.layer < layers and 0 <= component.index < count
        if component.kind is not self.kind or not inside:
            raise ComponentError(
                f"no score of {component}; expected a {self.kind} of {layers} layers with {count} each"
            )
        values = self.by_scenario[:, component.layer, component.index]
        if np.isnan(values).any():
            raise DirectionError(f"{self.emotion} has no direction in layer {component.layer}; use a later layer")
        return estimate(values)


def neuron_contributions(
    model: Model, prompts: Prompts, directions: Directions, e: Emotion, *, centred: bool = False
) -> Scores:
    """``c_n = a_n (W_downᵀ v)_n`` [residual units] of every neuron at the read-out token, on the texts of ``e``.

    ``a_n`` is the neuron behind its gate, v the unit direction of ``e`` at the layer's post-MLP state. Behind a post-norm
    (Gemma-2/3, OLMo-2; not in the paper) the write is taken as it enters the stream, the norm's scale frozen to the run.

    Args:
        prompts: with ``centred`` all texts of their groups; otherwise those of ``e`` suffice.
        centred: take away the mean over the text's group (scenario and valence): what says nothing about the emotion.

    Raises:
        DirectionError: directions of another model, or none of ``e`` at any post-MLP state.
        MeasurementError: no text of ``e``, or a group without one of the six emotions where ``centred``.
        UnsupportedModelError: a mixture of experts.
    """
    model.require_neurons()
    vectors, defined = _at(model, directions, e, Half.MLP)
    wanted = _wanted(prompts, e, centred)
    values = np.empty((len(wanted), model.n_layers, model.d_mlp))
    for rows in _batches(len(wanted)):
        mask = np.zeros(len(wanted), dtype=bool)
        mask[rows] = True
        writes = capture_writes(model, wanted.where(mask))
        for layer in range(model.n_layers):
            weight, v = model.W_out(layer).double().cpu(), torch.tensor(vectors[layer])
            a = writes.activations[:, layer].double().cpu()
            if writes.factors is None:
                values[rows, layer] = (a * (weight @ v)).numpy()
            else:
                values[rows, layer] = (a * ((writes.factors[:, layer].double().cpu() * v) @ weight.T)).numpy()
    return _scores(e, Kind.NEURON, values, wanted, defined, "residual", Space.STREAM, centred=centred, virtual=False)


def head_importance(
    model: Model,
    prompts: Prompts,
    directions: Directions | NormedDirections,
    e: Emotion,
    *,
    space: Space = Space.PAPER,
    centred: bool = False,
) -> Scores:
    """``⟨s, v⟩ - ⟨s without the head, v⟩`` of every head at the read-out token of its own layer, on the texts of ``e``.

    s is the post-attention state, behind the MLP's input norm but for ``Space.STREAM``; s without the head has every norm
    computed anew. One forward a batch for all heads. Equal to zeroing the heads one by one (the paper's way), to rounding.

    Args:
        directions: of the stream for ``Space.PAPER`` and ``STREAM``, of :func:`normed_directions` for ``NORMED``.
        centred: see :func:`neuron_contributions`.

    Raises:
        DirectionError: directions of another model or of the wrong space, or none of ``e`` at any post-attention state.
        MeasurementError: no text of ``e``, or a group without one of the six emotions where ``centred``.
        UnsupportedModelError: the MLP's input norm is not a plain layer or RMS norm.
    """
    if isinstance(directions, NormedDirections) is not (space is Space.NORMED):
        wanted_kind = "normed_directions" if space is Space.NORMED else "estimate_directions"
        raise DirectionError(
            f"the space is {space}; expected directions of {wanted_kind}, estimated where they are used"
        )
    if isinstance(directions, NormedDirections):
        _require_own(model, directions.model)
        vectors, defined = directions.vectors[e.column], directions.norms[e.column] > 0
        _require_some(defined, e, "behind the norm in front of any MLP")
    else:
        vectors, defined = _at(model, directions, e, Half.ATTN)
    wanted = _wanted(prompts, e, centred)
    values = np.empty((len(wanted), model.n_layers, model.n_heads))
    virtual = not model.capabilities.sequential
    for state in heard(model, wanted):
        v = torch.tensor(vectors[state.layer], device=state.stream.device)
        stream, normed = state.without()
        whole, gone = (state.stream, stream) if space is Space.STREAM else (state.normed, normed)
        values[slice(*state.rows), state.layer] = ((whole[:, None] - gone) @ v).cpu().numpy()
    unit = "residual" if space is Space.STREAM else "normed"
    return _scores(e, Kind.HEAD, values, wanted, defined, unit, space, centred=centred, virtual=virtual)


def normed_directions(model: Model, prompts: Prompts) -> NormedDirections:
    """Contrast directions of all emotions, estimated behind the norm in front of each MLP; use the ``fit`` split.

    Raises:
        DirectionError: no complete group.
        UnsupportedModelError: the MLP's input norm is not a plain layer or RMS norm.
    """
    values = np.empty((len(prompts), model.n_layers, model.d_model))
    for state in heard(model, prompts):
        values[slice(*state.rows), state.layer] = state.normed.cpu().numpy()
    raw = contrast(Readings(prompts, values, values, None, 0))
    norms = np.linalg.norm(raw, axis=-1)
    # What is rounding of the stream is no direction.
    floor = np.finfo(np.float32).eps * np.abs(values).max(axis=(0, 2)) * np.sqrt(model.d_model)
    norms = np.where(norms > floor, norms, 0)
    unit = np.where(norms[..., None] > 0, raw / np.where(norms > 0, norms, 1)[..., None], 0)
    return NormedDirections(unit, norms, not model.capabilities.sequential, model.fingerprint, prompts.fingerprint)


def _batches(count: int, size: int = 64) -> Iterator[NDArray[np.int64]]:
    for first in range(0, count, size):
        yield np.arange(first, min(first + size, count))


def _at(model: Model, directions: Directions, e: Emotion, half: Half) -> tuple[Array, NDArray[np.bool_]]:
    """The emotion's directions after one half of every layer, ``[layer, d_model]``, and where they exist."""
    _require_own(model, directions.model)
    places = [State(layer, half) for layer in range(model.n_layers)]
    defined = np.array([directions.defined(state, e) for state in places])
    _require_some(defined, e, f"at any state such as {places[-1]}")
    index = [directions.states.index(state) for state in places]
    vectors: Array = directions.vectors[e.column, index]
    return vectors, defined


def _require_own(model: Model, fingerprint: str) -> None:
    if fingerprint != model.fingerprint:
        raise DirectionError("the directions were estimated on another model; estimate them on this one")


def _require_some(defined: NDArray[np.bool_], e: Emotion, where: str) -> None:
    if not defined.any():
        raise DirectionError(
            f"{e} has no direction {where}: its texts do not differ from the others'; check the prompts"
        )


def _wanted(prompts: Prompts, e: Emotion, centred: bool) -> Prompts:
    """The texts that have to be run: the emotion's own, and their groups' where these are taken away."""
    mine = prompts.emotions == e.column
    if not mine.any():
        raise MeasurementError(f"{prompts.name!r} has no text of {e}; expected at least one")
    if not centred:
        return prompts.where(mine)
    groups = set(prompts.groups[mine].tolist())
    for group in groups:
        found = {p.emotion for p, g in zip(prompts.rows, prompts.groups, strict=True) if g == group}
        if len(found) < 6:
            name = next(p.scenario for p, g in zip(prompts.rows, prompts.groups, strict=True) if g == group)
            raise MeasurementError(
                f"scenario {name!r} of {prompts.name!r} has texts of {len(found)} emotions; expected all six to centre on"
            )
    return prompts.where(np.isin(prompts.groups, list(groups)))


def _scores(
    e: Emotion, kind: Kind, values: Array, ran: Prompts, defined: NDArray[np.bool_], unit: str, space: Space, *,
    centred: bool, virtual: bool,
) -> Scores:  # fmt: skip
    """Centred where asked for, on the emotion's own texts, NaN where there is no direction."""
    if centred:
        # Each emotion counts once, however many texts it has: as in the contrast direction.
        groups, six = ran.groups, 6
        place = groups * six + ran.emotions
        total = np.zeros((int(groups.max() + 1) * six, *values.shape[1:]))
        np.add.at(total, place, values)
        count = np.bincount(place, minlength=len(total))
        means = (total / count[:, None, None]).reshape(-1, six, *values.shape[1:]).mean(1)
        values = values - means[groups]
    mine = ran.emotions == e.column
    values = values[mine].copy()
    values[:, ~defined] = np.nan
    return Scores(e, kind, values, ran.where(mine), unit, space, centred, virtual)
