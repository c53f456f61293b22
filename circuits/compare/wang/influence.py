"""Wang's sublayer influence: how far a push along the emotion's direction at one half-layer's output is felt at the end.

At each half-layer s and the read-out token, ``α σ_s v_s`` is added to what s puts out (behind any post-norm), and the run
goes on; v_s is the emotion's unit direction in the state after s and σ_s the mean root mean square of that state over the
texts. The influence is the change of a target per unit of the push, averaged over α:
``I_s = mean_α (target(pushed) - target(clean)) / (α σ_s)`` (Wang et al. 2025, arXiv 2510.11328, and the authors' code;
α in .1, .3, .5, .7). :func:`sublayer_influence` computes it by resumed runs.

As α goes to 0 this is the derivative of the target along v_s, and one backward pass has it for all half-layers
(:func:`influence_slope`). Finite α then tells how far the model bends on the way.

Targets (:class:`Target`): the emotion's logit difference, or the paper's projection of the normed final state on a
reference direction of middle-to-late layers. The latter compares a direction of the stream with a state behind the final
norm, two spaces of different gains, and cannot see whether the answer moves: prefer the logits. The paper also turns each
v_s towards the reference where their product is negative (``aligned``), which hides an emotion that is written with the
other sign; without it signs are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, floor, isfinite

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from circuits.circuit.estimates import Estimate, estimate
from circuits.directions.vectors import Directions
from circuits.errors import ComponentError, DirectionError, MeasurementError, SettingsError
from circuits.model.anatomy import Model, Tokens
from circuits.model.machine import precise
from circuits.model.readout import Readout
from circuits.model.resuming import Change, Resumer
from circuits.model.running import Recording, record
from circuits.model.sites import Component, State
from circuits.model.ways import resumer
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import Emotion

__all__ = ["ALPHAS", "Influence", "Target", "influence_slope", "reference", "sublayer_influence", "typical_sizes"]

Array = NDArray[np.float64]

ALPHAS = (0.1, 0.3, 0.5, 0.7)
"""The paper's sizes of the push, in units of σ."""

_BATCH = 64
_STABLE = (21, 26, 28)
"""The paper's reference layers, 21 to 25 of 28."""


class Target(StrEnum):
    """What a push is felt in."""

    LOGITS = "logits"
    """The emotion's logit difference [logits]: the answer."""
    PROJECTION = "projection"
    """The final state behind its norm, projected on :func:`reference` (the paper's)."""


@dataclass(frozen=True)
class Influence:
    """Influence of every half-layer on the texts of one emotion.

    Attributes:
        sublayers: the axis ``sublayer``, in stream order.
        values: change of the target per residual unit of push, ``[prompt, sublayer]``; the mean over ``alphas``. NaN where
            the emotion has no direction.
        by_alpha: the same for each α, ``[alpha, prompt, sublayer]``; of a slope the one at α = 0.
        alphas: sizes of the push in units of ``sigmas``; (0,) marks a slope.
        sigmas: mean root mean square of the state after each half-layer [residual units].
        prompts: the emotion's own texts.
        unit: logits (or normed units) per residual unit.
    """

    emotion: Emotion
    sublayers: tuple[Component, ...]
    values: Array
    by_alpha: Array
    alphas: tuple[float, ...]
    sigmas: Array
    prompts: Prompts
    target: Target
    aligned: bool

    @property
    def unit(self) -> str:
        return f"{'logits' if self.target is Target.LOGITS else 'normed units'} per residual unit"

    @property
    def by_scenario(self) -> Array:
        """Mean over each scenario's texts, ``[scenario, sublayer]``."""
        scenarios, place = np.unique(self.prompts.scenarios, return_inverse=True)
        total = np.zeros((len(scenarios), self.values.shape[1]))
        np.add.at(total, place, self.values)
        return total / np.bincount(place)[:, None]

    def mean(self) -> Array:
        """Mean over scenarios, ``[layer, half]``, attention first: what :func:`.allocation.allocate` takes."""
        means: Array = self.by_scenario.mean(0).reshape(-1, 2)
        return means

    def estimate(self, sublayer: Component) -> Estimate:
        """One half-layer's influence with its 95% interval over scenarios.

        Raises:
            ComponentError: not a half-layer of this model.
            DirectionError: the emotion has no direction there.
        """
        if sublayer not in self.sublayers:
            raise ComponentError(f"no influence of {sublayer}; expected a half-layer such as {self.sublayers[-1]}")
        values = self.by_scenario[:, self.sublayers.index(sublayer)]
        if np.isnan(values).any():
            raise DirectionError(f"{self.emotion} has no direction after {sublayer}; use a later half-layer")
        return estimate(values)


def sublayer_influence(
    model: Model,
    prompts: Prompts,
    directions: Directions,
    e: Emotion,
    *,
    alphas: Sequence[float] = ALPHAS,
    target: Target = Target.LOGITS,
    aligned: bool = False,
) -> Influence:
    """Influence of all half-layers by pushes of finite size, one resumed run per half-layer and α, on the texts of ``e``.

    Args:
        prompts: all texts, for the answer words and σ; pushed are those of ``e``. (The paper pushes the same scenarios asked
            for no emotion; in our sets the text itself carries ``e``, so the answer may be nearer to its ceiling.)
        alphas: sizes of the push in units of σ; negative ones push away.
        aligned: turn each direction towards :func:`reference`, as the paper does.

    Raises:
        SettingsError: no α, or one that is zero or not finite.
        DirectionError: directions of another model, or none of ``e`` anywhere.
        MeasurementError: no text of ``e``, or a change that is NaN or infinite.
        AnswerError: an emotion has no answer token.
    """
    sizes = tuple(float(a) for a in alphas)
    if not sizes or any(a == 0 or not isfinite(a) for a in sizes):
        raise SettingsError(f"alphas is {sizes}; expected at least one finite size other than 0, as in {ALPHAS}")
    work = _Work(model, prompts, directions, e, target, aligned)
    found = np.full((len(sizes), len(work.own), len(work.vectors)), np.nan)
    for rows, run, _ in work.runs():
        resume = resumer(model, run)
        with precise(model.device), torch.no_grad():
            clean = work.metric(resume.clean)
            for place in np.flatnonzero(work.defined):
                doses = torch.tensor(sizes, dtype=torch.float64) * float(work.sigmas[place])
                after = resume.after([work.push(int(place), doses, len(rows))], at_readout=True)
                change = (work.metric(after) - clean).double().cpu() / doses[:, None]
                found[:, rows, place] = change.numpy()
    return work.influence(found, sizes)


def influence_slope(
    model: Model,
    prompts: Prompts,
    directions: Directions,
    e: Emotion,
    *,
    target: Target = Target.LOGITS,
    aligned: bool = False,
) -> Influence:
    """The limit of :func:`sublayer_influence` for α to 0, all half-layers from one backward: ``⟨∂target/∂output, v_s⟩``.

    Arguments and errors as there.
    """
    work = _Work(model, prompts, directions, e, target, aligned)
    found = np.full((1, len(work.own), len(work.vectors)), np.nan)
    for rows, run, tokens in work.runs():
        resume: Resumer = resumer(model, run)
        trace = resume.trace(run.pre[0].detach().clone().requires_grad_())
        outputs = [out for pair in zip(trace.attn_out, trace.mlp_out, strict=True) for out in pair]
        with torch.enable_grad(), precise(model.device):
            gradients = torch.autograd.grad(work.metric(trace.final).sum(), outputs)
        for place in np.flatnonzero(work.defined):
            gradient = gradients[place]
            # In the last layer only the read-out token may have been traced.
            whole = gradient.shape[1] == tokens.ids.shape[1]
            here = tokens.on(gradient.device).at_readout(gradient) if whole else gradient[:, 0]
            found[0, rows, place] = here.double().cpu().numpy() @ work.vectors[place]
    return work.influence(found, (0.0,))


def typical_sizes(model: Model, prompts: Prompts) -> Array:
    """σ [residual units] of every state in stream order: the mean over texts of the state's root mean square, ``[state]``.

    At the read-out token, as in the authors' code: ``mean_p sqrt(mean_d h_{p,d}²)``.
    """
    total = np.zeros(2 * model.n_layers)
    for _, run, tokens in _runs(model, prompts):
        for place, state in enumerate(_states(run)):
            values = tokens.on(state.device).at_readout(state).double()
            total[place] += float(values.pow(2).mean(-1).sqrt().sum())
    return total / len(prompts)


def reference(directions: Directions, e: Emotion) -> Array:
    """The paper's ``v_ref``: unit mean of the directions of both half-layers in layers 21 to 25 of 28, ``[d_model]``.

    Of another depth the layers at the same relative depth, at least one. Directions are turned towards the first before
    the mean is taken, as in the paper.

    Raises:
        DirectionError: the emotion has no direction there.
    """
    layers = 1 + max(state.layer for state in directions.states)
    first = floor(layers * _STABLE[0] / _STABLE[2])
    behind = max(first + 1, ceil(layers * _STABLE[1] / _STABLE[2]))
    some = [directions.at(s, e) for s in directions.states if first <= s.layer < behind and directions.defined(s, e)]
    if not some:
        raise DirectionError(f"{e} has no direction in layers {first} to {behind - 1}; estimate them on other prompts")
    total = np.sum([v if v @ some[0] >= 0 else -v for v in some], axis=0)
    unit: Array = total / np.linalg.norm(total)
    return unit


class _Work:
    """What both forms of influence share: directions, sizes, texts, the target."""

    def __init__(
        self, model: Model, prompts: Prompts, directions: Directions, e: Emotion, target: Target, aligned: bool
    ) -> None:
        if directions.model != model.fingerprint:
            raise DirectionError("the directions were estimated on another model; estimate them on this one")
        mine = prompts.emotions == e.column
        if not mine.any():
            raise MeasurementError(f"{prompts.name!r} has no text of {e}; expected at least one")
        states: tuple[State, ...] = model.states
        self.defined = np.array([directions.defined(state, e) for state in states])
        if not self.defined.any():
            raise DirectionError(f"{e} has no direction at any state such as {states[-1]}; check the prompts")
        self.model, self.emotion, self.target, self.aligned = model, e, target, aligned
        self.vectors: Array = directions.vectors[e.column, [directions.states.index(state) for state in states]]
        if aligned:
            towards = reference(directions, e)
            self.vectors = np.where((self.vectors @ towards < 0)[:, None], -self.vectors, self.vectors)
        self.own = prompts.where(mine)
        self.sigmas = typical_sizes(model, prompts)
        self.metric = self._metric(Readout.of(model, prompts.answers), directions)

    def _metric(self, readout: Readout, directions: Directions) -> Callable[[Tensor], Float[Tensor, "*batch"]]:
        if self.target is Target.LOGITS:
            return lambda final: readout(final)[..., self.emotion.column]
        towards = torch.tensor(reference(directions, self.emotion), device=readout.device, dtype=self.model.dtype)
        return lambda final: readout.norm(final.to(towards)) @ towards

    def runs(self) -> Iterator[tuple[NDArray[np.int64], Recording, Tokens]]:
        return _runs(self.model, self.own)

    def push(self, place: int, doses: Tensor, count: int) -> Change:
        """The push at one half-layer's output, one alternative for each dose."""
        state = self.model.states[place]
        device = self.model.W_O(state.layer).device
        whole = (doses[:, None] * torch.tensor(self.vectors[place])).to(device, self.model.dtype)
        amount = whole[:, None, None].expand(len(doses), count, 1, -1).contiguous()
        return Change(state.layer, state.half, amount)

    def influence(self, found: Array, alphas: tuple[float, ...]) -> Influence:
        bad = np.argwhere(~np.isfinite(found[:, :, self.defined]))
        if len(bad):
            raise MeasurementError(
                f"a push along {self.emotion} on prompt {self.own.ids[bad[0][1]]!r} changes the target by NaN or infinity; "
                "measure in float32 or drop the prompt"
            )
        return Influence(
            emotion=self.emotion, sublayers=self.model.sublayers, values=found.mean(0), by_alpha=found, alphas=alphas,
            sigmas=self.sigmas, prompts=self.own, target=self.target, aligned=self.aligned,
        )  # fmt: skip


def _runs(model: Model, prompts: Prompts) -> Iterator[tuple[NDArray[np.int64], Recording, Tokens]]:
    for first in range(0, len(prompts), _BATCH):
        tokens = model.encode(prompts.texts[first : first + _BATCH], prompts.ids[first : first + _BATCH])
        yield np.arange(first, first + len(tokens)), record(model, tokens), tokens


def _states(run: Recording) -> list[Tensor]:
    return [state for mid, post in zip(run.mid, run.pre[1:], strict=True) for state in (mid, post)]
