"""Direct effects, exactly and in closed form: the write is removed from the final stream, which is re-normalised and
re-read; everything else stays as it was (direct logit attribution with the final norm recomputed, not frozen).

No position but the read-out matters: other tokens reach the answer only through later attention, which is frozen here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.model.sites import Half, Kind

__all__ = ["direct_effect"]


@torch.no_grad()
def direct_effect(batch: Batch, kind: Kind, layer: int) -> Float[Tensor, "component prompt emotion"]:
    """Direct effects [logits] of all components of one kind in one layer."""
    tokens, readout = batch.tokens, batch.readout
    stream = tokens.at_readout(batch.run.final)
    change = tokens.at_readout(batch.run.streams.of(kind)[layer] - batch.replaced.of(kind)[layer])
    if kind is Kind.NEURON:
        metric = _neurons(batch, layer, stream, change)
    else:
        if kind is Kind.HEAD:
            writes = torch.einsum("bhd,hdm->bhm", change, batch.model.W_O(layer))
            frozen = batch.factor(layer, Half.ATTN)
            if frozen is not None:
                writes = writes * frozen[:, None]
        else:
            writes = change[:, None]
        metric = readout(stream[:, None] - writes)
    return (batch.clean.detach()[:, None] - metric).transpose(0, 1)


def _neurons(batch: Batch, layer: int, stream: Tensor, change: Tensor) -> Float[Tensor, "prompt neuron emotion"]:
    weights = batch.model.W_out(layer)
    frozen = batch.factor(layer, Half.MLP)
    if frozen is None:
        return batch.readout.without(stream, change, weights)
    # Behind a post-norm a neuron's write points elsewhere on every prompt, so each prompt has its own write vectors.
    rows = [
        batch.readout.without(stream[i : i + 1], change[i : i + 1], weights * frozen[i]) for i in range(stream.shape[0])
    ]
    return torch.cat(rows)
