"""Parts of a model, run in plain blocks: what is not kept is replaced, embeddings and biases stay.

What is saved, exactly:

* Below the first layer in which a set lacks something lies the clean run.
* Where all but a few neurons of a layer are replaced, only those few are computed; what the others write is known.
* Two sets that agree up to a half-layer have the same run up to there. A search asks for hundreds of sets that differ in one
  component, random circuits often have the same heads in the first layer, and before the first ablated half-layer attention is
  one for all: streams of sets asked for shortly before are kept (:data:`MEMORY` bytes a model) and go on from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.anatomy import Model
from circuits.model.ascent import Ascent
from circuits.model.machine import Recent
from circuits.model.plain import PlainBlock, affine
from circuits.model.resuming import Replaced, Subsets
from circuits.model.steering import Edits

if TYPE_CHECKING:
    from circuits.model.plainrun import PlainRun

__all__ = ["MEMORY", "Partial", "Silent"]

MEMORY = 64 * 2**20
"""Bytes of streams of earlier sets that are kept for a model."""

_FEW = 0.4
"""Share of a layer's neurons up to which those kept are computed alone."""

Key = tuple[int, int, str, bytes, bytes]


class Silent:
    """What does not depend on the sets: above all what the neurons of each layer write when all are replaced.

    Where the replacement spares a token, all its neurons are their own, and nothing is gained.
    """

    _count = itertools.count()

    def __init__(self, replaced: Replaced, mask: Tensor) -> None:
        self.number = next(self._count)
        self.replaced = replaced
        self.everywhere = bool(((replaced.where.to(mask.device) != 0) | (mask == 0)).all())
        self._sums: dict[int, Tensor] = {}

    def few(self, kept: Tensor) -> Tensor | None:
        """The neurons that any of the sets ``[chunk, neuron]`` keeps, if they are few."""
        if not self.everywhere:
            return None
        index = kept.any(0).nonzero()[:, 0]
        return index if len(index) <= _FEW * kept.shape[1] else None

    def at(self, layer: int, block: PlainBlock, post: Tensor) -> Tensor:
        """Their sum in a layer, all replaced."""
        if layer not in self._sums:
            self._sums[layer] = block.mlp_sum(post)
        return self._sums[layer]


@dataclass(frozen=True)
class Partial:
    """Some sets on one clean run, side by side."""

    clean: PlainRun
    subsets: Subsets
    silent: Silent
    edits: Edits | None = None

    def final(self) -> Float[Tensor, "chunk prompt d_model"]:
        """The final stream at the read-out."""
        if self._start > self.clean.top:
            return self.clean.clean.expand(len(self.subsets), *self.clean.clean.shape)
        return self._left(self.clean.top)[:, :, 0]

    # -- up, each half-layer from the one below; the first thing asked is whether it is known ---------------------------

    def _entered(self, layer: int) -> tuple[Tensor, Tensor]:
        """The stream entering a layer where it is read out, and what the layer's heads mix of it there."""
        return self._known(layer, "mixed", lambda: self._mixed(layer))

    def _mixed(self, layer: int) -> tuple[Tensor, Tensor]:
        block = self.clean.blocks[layer]
        first = layer == self._start
        stream = self.clean.run.pre[layer][None].to(block.dtype) if first else self._left(layer - 1)
        stream = stream.to(block.device)
        if layer == self.clean.top:
            return Ascent(self.clean, at_readout=False).last_heads(stream)
        return stream, block.mixed(stream, self.clean.around[layer])

    def _halfway(self, layer: int) -> tuple[Tensor, Tensor]:
        """The post-attention stream, and what the MLP reads."""
        return self._known(layer, "halfway", lambda: self._attended(layer))

    def _attended(self, layer: int) -> tuple[Tensor, Tensor]:
        block = self.clean.blocks[layer]
        own, z = self._entered(layer)
        kept = self.subsets.on(block.device).heads[:, layer, None, None]
        still = self._still(layer)
        z = torch.where((kept | still)[..., None], z, self._there(layer, self.silent.replaced.z[layer]))
        mid = own + block.behind(True, block.summed(z))
        if self.edits is not None:
            mid = self.edits.at(2 * layer, mid, self._pick(layer))
        return mid, mid if block.sequential else own

    def _fired(self, layer: int) -> tuple[Tensor, Tensor]:
        """The post-attention stream, and all neurons."""
        mid, heard = self._halfway(layer)
        return mid, self.clean.blocks[layer].activations(heard)

    def _left(self, layer: int) -> Tensor:
        """The stream behind a layer."""
        block, silent = self.clean.blocks[layer], self.silent
        kept = self.subsets.on(block.device).neurons[:, layer]
        neurons, post = kept[:, None, None], self._there(layer, silent.replaced.post[layer])
        index = silent.few(kept)
        if index is None:
            mid, fired = self._known(layer, "fired", lambda: self._fired(layer))
            total = block.mlp_sum(torch.where(neurons | self._still(layer), fired, post))
        else:
            mid, heard = self._halfway(layer)
            total = silent.at(layer, block, post)
            if len(index):
                new = post[..., index]
                gained = torch.where(neurons[..., index], block.some_activations(heard, index) - new, 0)
                total = total + affine(gained, block.down[0][index], None)
        stream = mid + block.behind(False, total)
        return stream if self.edits is None else self.edits.at(2 * layer + 1, stream, self._pick(layer))

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _known(self, layer: int, what: str, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Two tensors of one layer, that depend on what is kept below it, and behind attention on its heads too."""
        if self._memory is None or layer == self.clean.top:  # at the read-out alone they are small work
            return make()
        heads, neurons = self._masks
        behind = layer + (what != "mixed")
        key = self.silent.number, layer, what, heads[: behind * self._n_heads], neurons[: layer * self._n_neurons]
        return self._memory.get(key, make)

    @cached_property
    def _memory(self) -> Recent[Key, tuple[Tensor, Tensor]] | None:
        # Several sets side by side are few texts, of which there is little to save; under autograd a graph would be kept.
        if len(self.subsets) > 1 or self.edits is not None or torch.is_grad_enabled():
            return None
        if self.clean.model not in _MEMORIES:
            _MEMORIES[self.clean.model] = Recent(MEMORY, _bytes)
        return _MEMORIES[self.clean.model]

    @cached_property
    def _masks(self) -> tuple[bytes, bytes]:
        heads, neurons = (mask[0].cpu().numpy().tobytes() for mask in (self.subsets.heads, self.subsets.neurons))
        return heads, neurons

    @property
    def _n_heads(self) -> int:
        return int(self.subsets.heads.shape[2])

    @property
    def _n_neurons(self) -> int:
        return int(self.subsets.neurons.shape[2])

    # -- where ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _start(self) -> int:
        """The first layer in which a set lacks something or the stream is edited; the number of layers where there is none."""
        changed = ~(self.subsets.heads.all(2).all(0) & self.subsets.neurons.all(2).all(0))
        if self.edits is not None:
            touched = (self.edits.read != 0).any(2).any(0) | (self.edits.add != 0).any(2).any(0)
            changed = changed | touched.view(-1, 2).any(1).to(changed.device)
        found = changed.nonzero()
        return int(found[0, 0]) if len(found) else len(changed)

    def _still(self, layer: int) -> Tensor:
        """Where nothing is replaced."""
        stay = self.silent.replaced.where[..., None] == 0
        return self._there(layer, stay.to(self.clean.blocks[layer].device))

    def _there(self, layer: int, tensor: Tensor) -> Tensor:
        """``[prompt, pos, ..]`` where the layer is computed: at the read-out alone in the last."""
        return self.clean.picked_all(tensor) if layer == self.clean.top else tensor

    def _pick(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        return self.clean.picked_all if layer == self.clean.top else None


_MEMORIES: WeakKeyDictionary[Model, Recent[Key, tuple[Tensor, Tensor]]] = WeakKeyDictionary()


def _bytes(tensors: tuple[Tensor, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
