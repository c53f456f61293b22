"""Total effects, exactly: the component is replaced and everything downstream recomputed.

Nothing below the ablated half-layer changes, so the run is resumed there from the clean stream: whole MLP outputs and
single neurons are one addition to the block's clean output (a neuron's change is rank one: ``Δa · W_out[n]``), heads and
whole attention outputs need their own block once more; then only upper blocks are run.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.kinds import Positions
from circuits.model.running import Hook, hook_name, hooked
from circuits.model.sites import Component, Kind

__all__ = ["ablated_metric", "total_effect"]


@torch.no_grad()
def total_effect(batch: Batch, component: Component, positions: Positions) -> Float[Tensor, "prompt emotion"]:
    """``metric(clean) - metric(component ablated)`` [logits] on every prompt of the batch."""
    return batch.clean - ablated_metric(batch, component, positions)


@torch.no_grad()
def ablated_metric(batch: Batch, component: Component, positions: Positions) -> Float[Tensor, "prompt emotion"]:
    """The metric with one component replaced."""
    layer, kind = component.layer, component.kind
    where = batch.where(positions)
    clean, replaced = batch.run.streams.of(kind)[layer], batch.replaced.of(kind)[layer]
    if kind is Kind.MLP:
        stream = batch.run.pre[layer + 1] + where[..., None] * (replaced - clean)
    elif kind is Kind.NEURON and not batch.run.post_norm:
        change = where * (replaced[..., component.index] - clean[..., component.index])
        stream = batch.run.pre[layer + 1] + change[..., None] * batch.model.W_out(layer)[component.index]
    else:
        edit = _edit(component, where, replaced)
        with hooked(batch.model, {hook_name(layer, kind): edit}):
            stream = batch.run.through(batch.model, layer)
    final = batch.run.resume(batch.model, layer + 1, stream)
    return batch.readout(batch.tokens.at_readout(final))


def _edit(component: Component, where: Tensor, replaced: Tensor) -> Hook:
    """The activation with this component's part replaced where ``where`` is 1."""

    def edit(tensor: Tensor) -> Tensor:
        if component.kind is Kind.ATTN:
            return torch.where(where[..., None] > 0, replaced, tensor)
        result = tensor.clone()
        if component.kind is Kind.HEAD:
            part = torch.where(where[..., None] > 0, replaced[:, :, component.index], tensor[:, :, component.index])
            result[:, :, component.index] = part
        else:
            part = torch.where(where > 0, replaced[..., component.index], tensor[..., component.index])
            result[..., component.index] = part
        return result

    return edit
