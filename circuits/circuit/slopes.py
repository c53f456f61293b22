"""First-order effects in a model of which a part is already ablated: one forward and one backward for every head and
neuron.

Every component is given a gate g that mixes its own activation with its replacement, ``g · own + (1 - g) ·
replaced``. A set of components is kept by gates of one and zero, and the derivative of the metric by a gate is what
opening it adds, or closing it takes, to first order. At the clean model this is attribution patching (Nanda 2023); in
the middle of a search it screens what is worth an exact run (AtP* by Kramár et al. 2024 takes such conditional
gradients against cancellation).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.circuit.evaluation import Bench
from circuits.effects.keeping import subsets_of
from circuits.effects.own import OwnTexts
from circuits.model.running import Hook, final_stream, hook_name, hooked
from circuits.model.sites import Component, Kind

__all__ = ["slopes"]


def slopes(bench: Bench, kept: Collection[Component]) -> NDArray[np.float64]:
    """Derivative of the emotion's logit difference [logits] by every gate with ``kept`` open, ``[component, scenario]``.

    Components in the order of ``(*model.heads, *model.neurons)``.

    Raises:
        ComponentError: the model lacks a component.
    """
    model = bench.model
    subsets = subsets_of(model, [kept])
    parts = []
    for piece in bench.texts:
        count = len(piece.rows)
        dtype = piece.z[0].dtype
        heads = subsets.heads.to(dtype).repeat(count, 1, 1).requires_grad_(True)
        neurons = subsets.neurons.to(dtype).repeat(count, 1, 1).requires_grad_(True)
        with torch.enable_grad(), hooked(model, _gated(bench, piece, heads, neurons)):
            final = piece.tokens.at_readout(final_stream(model, piece.tokens))
            metric = bench.readout(final)[:, bench.emotion.column].sum()
            found = torch.autograd.grad(metric, [heads, neurons], allow_unused=True)
        parts.append(torch.cat([torch.zeros(count, 0) if g is None else g.flatten(1).cpu() for g in found], 1).T)
    return bench.by_scenario(torch.cat(parts, 1))


def _gated(bench: Bench, piece: OwnTexts, heads: Tensor, neurons: Tensor) -> dict[str, Hook]:
    """A hook for every place that writes; where no ablation applies the activation stays."""

    def mixing(gates: Tensor, replaced: Tensor) -> Hook:
        def hook(own: Tensor) -> Tensor:
            shape = (*piece.where.shape, *[1] * (own.dim() - 2))
            wide = gates[:, None] if own.dim() == 3 else gates[:, None, :, None]
            # Exactly its own value where the gate is one, so that an open gate is no edit.
            mixed = own + (1 - wide) * (replaced - own)
            return torch.where(piece.where.to(own).reshape(shape) == 1, mixed, own)

        return hook

    hooks: dict[str, Hook] = {}
    for layer in range(bench.model.n_layers):
        hooks[hook_name(layer, Kind.HEAD)] = mixing(heads[:, layer], piece.z[layer])
        if bench.model.capabilities.neurons:
            hooks[hook_name(layer, Kind.NEURON)] = mixing(neurons[:, layer], piece.post[layer])
    return hooks
