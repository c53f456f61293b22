"""Direct effects, exactly and in closed form: the write is removed from the final stream, which is re-normalised and
re-read; everything else stays as it was (direct logit attribution with the final norm recomputed, not frozen).

No position but the read-out matters: other tokens reach the answer only through later attention, which is frozen here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.gradient import Place, Scores
from circuits.model.anatomy import Model
from circuits.model.readout import Readout, Writes
from circuits.model.sites import Half, Kind

__all__ = ["Direct"]

_TOGETHER = 64 * 2**20


class Direct:
    """Direct effects on any batch; what does not depend on the texts is worked out once.

    Layers whose output weights are small enough to be copied side by side go together.
    """

    def __init__(self, model: Model, readout: Readout, places: Sequence[Place]) -> None:
        self.readout = readout
        self._places = list(places)
        self._neurons: list[tuple[list[int], Writes]] = []
        self._heads: list[tuple[list[int], Tensor]] = []
        of = {kind: [layer for k, layer in places if k is kind] for kind in Kind}
        for layers in _grouped(of[Kind.NEURON], model.d_mlp * model.d_model * 4):
            weights = [model.W_out(layer).to(readout.device) for layer in layers]
            self._neurons.append((layers, readout.prepared(weights[0] if len(layers) == 1 else torch.cat(weights))))
        for layers in _grouped(of[Kind.HEAD], model.n_heads * model.d_head * model.d_model * 4):
            self._heads.append((layers, torch.cat([model.W_O(layer).to(readout.device) for layer in layers])))

    @torch.no_grad()
    def effects(self, batch: Batch) -> Scores:
        """Direct effects [logits] of all components of the places."""
        stream = batch.tokens.at_readout(batch.run.final)
        found: Scores = {}
        for layers, writes in self._neurons:
            if batch.run.post_norm:
                found |= {(Kind.NEURON, layer): self._behind_norm(batch, stream, layer) for layer in layers}
            else:
                amounts = torch.cat([_change(batch, Kind.NEURON, layer) for layer in layers], 1)
                found |= _split(Kind.NEURON, layers, self.readout.loss(stream, amounts, writes).permute(2, 0, 1))
        for layers, weights in self._heads:
            change = torch.cat([_change(batch, Kind.HEAD, layer) for layer in layers], 1)
            written = torch.einsum("bhd,hdm->bhm", change, weights)
            if batch.run.post_norm:
                factors = [batch.factor(layer, Half.ATTN) for layer in layers]
                each = torch.stack([f for f in factors if f is not None], 1)
                written = written * each.repeat_interleave(batch.model.n_heads, 1)
            found |= _split(Kind.HEAD, layers, self._removed(stream, written))
        for kind, layer in self._places:
            if kind in (Kind.ATTN, Kind.MLP):
                found[kind, layer] = self._removed(stream, _change(batch, kind, layer)[:, None])
        return found

    def _removed(
        self, stream: Tensor, written: Float[Tensor, "prompt component d_model"]
    ) -> Float[Tensor, "component prompt emotion"]:
        return (self.readout(stream)[:, None] - self.readout(stream[:, None] - written)).transpose(0, 1)

    def _behind_norm(self, batch: Batch, stream: Tensor, layer: int) -> Float[Tensor, "neuron prompt emotion"]:
        """Behind a post-norm a neuron's write points elsewhere on every prompt, so each prompt has its own write vectors."""
        weights, change = batch.model.W_out(layer), _change(batch, Kind.NEURON, layer)
        factor = batch.factor(layer, Half.MLP)
        assert factor is not None
        rows = [
            self.readout.loss(stream[i : i + 1], change[i : i + 1], self.readout.prepared(weights * factor[i]))
            for i in range(len(stream))
        ]
        return torch.cat(rows).permute(2, 0, 1)


def _split(kind: Kind, layers: list[int], effects: Tensor) -> Scores:
    """Effects of several layers' components, layer by layer."""
    return {(kind, layer): part for layer, part in zip(layers, effects.chunk(len(layers)), strict=True)}


def _change(batch: Batch, kind: Kind, layer: int) -> Float[Tensor, "prompt ..."]:
    """Clean minus replaced activation at the read-out."""
    clean, replaced = (batch.tokens.at_readout(t.of(kind)[layer]) for t in (batch.run.streams, batch.replaced))
    return (clean - replaced).to(batch.clean.device)


def _grouped(layers: list[int], size: int) -> list[list[int]]:
    """Layers in groups whose weights of ``size`` bytes each make at most 64 MiB."""
    count = max(1, _TOGETHER // max(1, size))
    return [layers[i : i + count] for i in range(0, len(layers), count)]
