"""Self-repair: what the components behind an ablated one give back, exactly (McGrath et al. 2023; Rushing & Nanda 2024).

Of one ablated component c, on a prompt, with x the clean and x' the ablated final stream at the read-out, C the final norm's
centring, s(x) its scale and U the six answer columns:

* total [logits]: ``m(x) - m(x')``, everything behind c recomputed;
* direct [logits]: ``s(x) C(w_c - w'_c) U``, the write of c alone removed, with the norm's scale *frozen* at the clean run;
* renormalised [logits]: the same write removed and the norm's scale *recomputed*, in closed form (``method="direct"``);
* repair = direct - total [logits]: positive where the model loses less than c wrote. It is a sum of two parts:
  ``direct - renormalised``, what re-normalising alone gives back, and ``renormalised - total``, what the components
  behind c give back (negative where c works *through* them: then they carry its effect, they do not repair it).

The frozen-scale form is linear, so the total is taken apart without a remainder:
``total = direct + sum over d behind c of change_d + norm``, where ``change_d = s(x) C(w_d - w'_d) U`` is what the direct effect
of d loses (negative: d writes more for the emotion than before) and ``norm = (s(x) - s(x')) C(x') U``. A test holds this.

Changes name those who *write* the repair. A backup head that acts through later neurons writes nothing itself; it is found
by its :meth:`reactions <Aftermath.reactions>`: ``m(c gone) - m(c gone, d held at its clean activation)``.

A single ablation shows nothing of two components that stand in for each other at once; see :mod:`circuits.circuit.conditional`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.effects.batch import Plan
from circuits.effects.keeping import metric_keeping
from circuits.effects.kinds import Positions
from circuits.effects.own import OwnTexts, own_texts
from circuits.errors import ComponentError, MeasurementError, UnsupportedModelError
from circuits.model.anatomy import Model, Tokens
from circuits.model.readout import Readout
from circuits.model.resuming import Instead, Replaced, Resumer, Subsets, Trace
from circuits.model.running import record
from circuits.model.sites import Component, Kind
from circuits.model.ways import resumer
from circuits.prompts.emotions import Emotion

__all__ = ["Aftermath", "Repair"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Repair:
    """One ablated component on the texts of one emotion, in logits of that emotion; see the module for the terms.

    Attributes:
        total, direct, renormalised, norm: ``[prompt]``.
        units: every head and neuron behind the component.
        changes: what the direct effect of each unit loses, ``[unit, prompt]``; minus this is what it gives back.
    """

    component: Component
    total: Array
    direct: Array
    renormalised: Array
    norm: Array
    units: tuple[Component, ...]
    changes: Array

    @property
    def repair(self) -> Array:
        """``direct - total``, ``[prompt]``."""
        result: Array = self.direct - self.total
        return result

    @property
    def remainder(self) -> Array:
        """What the parts leave of the total, ``[prompt]``: rounding, if the law holds."""
        result: Array = self.total - self.direct - self.changes.sum(0) - self.norm
        return result


class Aftermath:
    """Texts of one emotion on which single ablations are followed through everything behind them.

    Attributes:
        scenarios: scenario number of every prompt, in the order of all arrays given.

    Raises:
        MeasurementError: there are no texts.
        UnsupportedModelError: a mixture of experts; norms behind half-layers or a soft cap, which are not linear in the writes.
    """

    def __init__(self, model: Model, readout: Readout, e: Emotion, texts: Sequence[OwnTexts]) -> None:
        if not texts:
            raise MeasurementError(f"there are no prompts of {e}; expected at least one to ablate on")
        model.require_neurons()
        if model.capabilities.post_norms or readout.capped:
            what = "norms behind its half-layers" if model.capabilities.post_norms else "a soft cap on its logits"
            raise UnsupportedModelError(
                f"{model.name} has {what}: an effect is then no sum over writes; expected a model without (GPT-2, Llama)"
            )
        self.model, self.readout, self.emotion = model, readout, e
        self._texts = tuple(texts)
        self.scenarios: NDArray[np.int64] = np.concatenate([piece.scenarios for piece in texts])

    @classmethod
    def every(cls, plan: Plan, positions: Positions = Positions.ALL) -> dict[Emotion, Aftermath]:
        """For each emotion, from one pass over the plan's prompts."""
        return {e: cls(plan.model, plan.readout, e, texts) for e, texts in own_texts(plan, positions).items()}

    def behind(self, component: Component) -> tuple[Component, ...]:
        """Heads and neurons that read what the component writes.

        Raises:
            ComponentError: no head or neuron, or none of this model.
        """
        self.model.require(component)
        if component.kind not in (Kind.HEAD, Kind.NEURON):
            raise ComponentError(f"{component} is a half-layer; expected a head or a neuron to ablate")
        at_once = component.kind is Kind.HEAD and self.model.capabilities.sequential
        heads = [c for c in self.model.heads if c.layer > component.layer]
        neurons = [c for c in self.model.neurons if c.layer > component.layer - at_once]
        return (*heads, *neurons)

    def by_scenario(self, values: Array) -> Array:
        """``[..., prompt]`` to the means of scenarios, ``[..., scenario]``."""
        found, place = np.unique(self.scenarios, return_inverse=True)
        result: Array = values @ np.eye(len(found))[place] / np.bincount(place)
        return result

    @torch.no_grad()
    def of(self, component: Component) -> Repair:
        """Ablate one head or neuron and follow it.

        Raises:
            ComponentError: see :meth:`behind`.
            MeasurementError: the ablated run is NaN or infinite.
        """
        units = self.behind(component)
        parts = [self._parts(component, units, *each) for each in self._runs]
        joined = [np.concatenate(some, axis=-1) for some in zip(*parts, strict=True)]
        if not all(np.isfinite(some).all() for some in joined):
            raise MeasurementError(
                f"ablating {component} gives NaN or infinite logits of {self.emotion}; measure in float32"
            )
        total, direct, renormalised, norm, changes = joined
        return Repair(component, total, direct, renormalised, norm, units, changes)

    @torch.no_grad()
    def reactions(self, component: Component, units: Sequence[Component]) -> Array:
        """What the reaction of each unit to the component's loss is worth [logits], ``[unit, prompt]``.

        ``m(c ablated) - m(c ablated, d held at its clean activation)``: positive where d compensates, by itself or through
        what reads it; negative where d carries the loss on. Exact, one forward each.

        Raises:
            ComponentError: see :meth:`behind`; a unit is not behind the component.
        """
        allowed = set(self.behind(component))
        for unit in units:
            if unit not in allowed:
                raise ComponentError(
                    f"{unit} does not lie behind {component}; expected one of the {len(allowed)} that do"
                )
        model, column = self.model, self.emotion.column
        heads = torch.ones(1 + len(units), model.n_layers, model.n_heads, dtype=torch.bool)
        neurons = torch.ones(1 + len(units), model.n_layers, model.d_mlp, dtype=torch.bool)
        for number, unit in enumerate((component, *units)):
            for one in (component, unit):
                (heads if one.kind is Kind.HEAD else neurons)[number, one.layer, one.index] = False
        subsets = Subsets(heads.to(model.device), neurons.to(model.device))
        parts = []
        for piece, resume, _ in self._runs:
            # Held units are "replaced" by what they are in the clean run, the component by its own replacement.
            z, post = list(resume.run.streams.z), list(resume.run.streams.post)
            place = z if component.kind is Kind.HEAD else post
            place[component.layer] = _without(piece, resume, component)
            replaced = Replaced(tuple(z), tuple(post), piece.where)
            metrics = metric_keeping(resume, self.readout, replaced, subsets)[..., column]
            parts.append(_array(metrics[:1] - metrics[1:]))
        result: Array = np.concatenate(parts, axis=-1)
        return result

    @cached_property
    @torch.no_grad()
    def _runs(self) -> tuple[tuple[OwnTexts, Resumer, Trace], ...]:
        def each() -> Iterator[tuple[OwnTexts, Resumer, Trace]]:
            for piece in self._texts:
                resume = resumer(self.model, record(self.model, piece.tokens))
                # The clean run by the same arithmetic as the ablated one, so that differences are of the runs alone.
                yield piece, resume, _detached(resume.trace(resume.run.pre[0]))

        return tuple(each())

    @cached_property
    def _columns(self) -> dict[Kind, list[Tensor]]:
        """What a unit of each rank of a head ``[head, d_head]``, and of a neuron ``[neuron]``, adds at a scale of one."""
        layers, column = range(self.model.n_layers), self.emotion.column
        return {
            Kind.HEAD: [self.readout.columns(self.model.W_O(layer))[..., column] for layer in layers],
            Kind.NEURON: [self.readout.columns(self.model.W_out(layer))[..., column] for layer in layers],
        }

    def _parts(
        self, c: Component, units: tuple[Component, ...], piece: OwnTexts, resume: Resumer, clean: Trace
    ) -> tuple[Array, Array, Array, Array, Array]:
        readout, column, tokens = self.readout, self.emotion.column, piece.tokens
        instead = Instead(c.kind, _without(piece, resume, c))
        gone = _detached(resume.trace(resume.run.pre[c.layer], layer=c.layer, instead=instead))
        scale, new_scale = readout.scale(clean.final), readout.scale(gone.final)
        lost: dict[tuple[Kind, int], Array] = {}
        for layer in range(c.layer, self.model.n_layers):
            for kind in (Kind.HEAD, Kind.NEURON):
                before = _at_readout(tokens, clean.of(kind)[layer])
                after = _at_readout(tokens, gone.of(kind)[layer - c.layer])
                each = (before - after).to(scale) * self._columns[kind][layer].to(scale)
                lost[kind, layer] = _array((each.sum(-1) if kind is Kind.HEAD else each) * scale)
        own = _at_readout(tokens, clean.of(c.kind)[c.layer] - gone.of(c.kind)[0])[:, c.index]
        write = self.model.W_O(c.layer)[c.index] if c.kind is Kind.HEAD else self.model.W_out(c.layer)[c.index, None]
        alone = clean.final - own.reshape(len(own), -1) @ write
        whole = readout(clean.final)[:, column]
        norm = readout.columns(gone.final)[:, column] * (scale - new_scale)[:, 0]
        changes = np.stack([lost[u.kind, u.layer][:, u.index] for u in units]) if units else np.zeros((0, len(own)))
        return (
            _array(whole - readout(gone.final)[:, column]),
            lost[c.kind, c.layer][:, c.index],
            _array(whole - readout(alone)[:, column]),
            _array(norm),
            changes,
        )


def _without(piece: OwnTexts, resume: Resumer, c: Component) -> Tensor:
    """The clean activations of the component's kind and layer with its own replaced, ``[prompt, pos, ..]``."""
    replaced = piece.z if c.kind is Kind.HEAD else piece.post
    found = resume.run.streams.of(c.kind)[c.layer].clone()
    where = piece.where.bool()
    found[:, :, c.index][where] = replaced[c.layer][:, :, c.index][where]
    return found


def _at_readout(tokens: Tokens, tensor: Tensor) -> Tensor:
    """``[prompt, pos, ..]`` at the read-out; the last layer of a trace may hold that token alone."""
    return tensor[:, 0] if tensor.shape[1] == 1 else tokens.on(tensor.device).at_readout(tensor)


def _detached(trace: Trace) -> Trace:
    lists = {kind: [t.detach() for t in trace.of(kind)] for kind in Kind}
    return Trace.of_lists(trace.layer, lists, trace.final.detach())


def _array(tensor: Tensor) -> Array:
    result: Array = tensor.detach().to("cpu", torch.float64).numpy()
    return result
