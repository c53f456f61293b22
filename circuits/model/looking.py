"""What one head looks at and when one neuron fires, token by token, on one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from circuits.errors import ComponentError, MeasurementError
from circuits.model.anatomy import Model, Tokens
from circuits.model.running import Hook, final_stream, hook_name, hooked
from circuits.model.sites import Component, Kind

__all__ = ["Look", "activations", "attention", "require_part"]

_CLOSE = 1e-3
"""Largest difference, relative to the largest value, at which a pattern still counts as the one the head mixes with."""


@dataclass(frozen=True, eq=False)
class Look:
    """One component on one text.

    Attributes:
        name: the head or neuron.
        prompt: id of the run's prompt; None for a typed text.
        tokens: the text's tokens as people read them.
        pattern: ``[query, key]``, shares of a head's attention; rows sum to one. None for a neuron.
        activations: ``[pos]``, what enters the output weights (after the gate). None for a head.
        seconds: what it took.
    """

    name: str
    text: str
    prompt: str | None
    tokens: list[str]
    pattern: NDArray[np.float64] | None
    activations: NDArray[np.float64] | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name, "text": self.text, "prompt": self.prompt, "tokens": list(self.tokens),
            "pattern": None if self.pattern is None else self.pattern.tolist(),
            "activations": None if self.activations is None else self.activations.tolist(), "seconds": self.seconds,
        }  # fmt: skip


def require_part(model: Model, component: Component) -> None:
    """Raise ComponentError unless this is one of the model's heads or neurons."""
    if component.kind not in (Kind.HEAD, Kind.NEURON):
        raise ComponentError(f"{component} is a half-layer; expected a head such as L2H3 or a neuron such as L4N117")
    model.require(component)


@torch.no_grad()
def attention(model: Model, tokens: Tokens, component: Component) -> Float[Tensor, "prompt query key"]:
    """The attention pattern of one head: how much of each key's value every query takes.

    Held against what the head really mixed: values times pattern must give ``z``.

    Raises:
        ComponentError: no head of this model.
        MeasurementError: the family shows no pattern, or one that its heads do not mix with.
    """
    require_part(model, component)
    if component.kind is not Kind.HEAD:
        raise ComponentError(f"{component} is no head; only heads have an attention pattern")
    layer = component.layer
    names = {what: f"blocks.{layer}.attn.hook_{what}" for what in ("pattern", "v", "z")}
    kept = _kept(model, tokens, tuple(names.values()))
    pattern, values, z = (kept.get(name) for name in names.values())
    if pattern is None or values is None or z is None or pattern.dim() != 4:
        raise MeasurementError(f"{model.name} shows no attention pattern in layer {layer}; look at its effects instead")
    mine = pattern[:, component.index]
    shared = values.reshape(*values.shape[:2], -1, model.d_head)
    value = shared[:, :, component.index * shared.shape[2] // model.n_heads]
    wanted = z[:, :, component.index]
    real = tokens.mask.bool().to(wanted.device)
    apart = ((mine.to(value) @ value) - wanted).abs()[real].max() / wanted.abs()[real].max().clamp_min(1e-30)
    sums = (mine.sum(-1) - 1).abs()[real].max()
    if not (float(apart) <= _CLOSE and float(sums) <= _CLOSE):  # False for NaN as well
        raise MeasurementError(
            f"{model.name}: the pattern of {component} does not give what the head mixes (relative difference "
            f"{float(apart):.1g}, row sums off by {float(sums):.1g}); its attention is of a form that is not shown"
        )
    return mine


@torch.no_grad()
def activations(model: Model, tokens: Tokens, component: Component) -> Float[Tensor, "prompt pos"]:
    """The activation of one neuron at every token: what enters its output weights, after the gate.

    Raises:
        ComponentError: no neuron of this model.
        UnsupportedModelError: a mixture of experts.
    """
    require_part(model, component)
    if component.kind is not Kind.NEURON:
        raise ComponentError(f"{component} is no neuron; look at a head's attention pattern")
    name = hook_name(component.layer, Kind.NEURON)
    return _kept(model, tokens, (name,))[name][..., component.index]


def _kept(model: Model, tokens: Tokens, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Activations of one run by hook name; those the family does not have are left out."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(tensor: Tensor) -> Tensor:
            found[name] = tensor.detach()
            return tensor

        return hook

    there = model.bridge.hook_dict
    with hooked(model, {name: keep(name) for name in names if name in there}):
        final_stream(model, tokens)
    return found
