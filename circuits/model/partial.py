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
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
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
Pair = tuple[Tensor, Tensor]


class Silent:
    """What does not depend on the sets: above all what the neurons of each layer write when all are replaced.

    Where the replacement spares a token, all its neurons are their own, and nothing is gained.
    """

    _count = itertools.count()

    def __init__(self, replaced: Replaced, mask: Tensor) -> None:
        self.number = next(self._count)
        self.replaced = replaced
        # Padding counts as replaced, since nothing reads it.
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
        layer, entered = self._highest()
        while layer < self.clean.top:
            stream = self._left(layer, entered)
            layer += 1
            entered = self._known(layer, "entered", self._mixed, layer, stream)
        return self._left(layer, entered)[:, :, 0]

    # -- up, each half-layer from the one below ------------------------------------------------------------------------

    def _highest(self) -> tuple[int, Pair]:
        """The highest layer of which is known what enters it, or the first that is run."""
        if self._memory is not None:
            for layer in range(self.clean.top - 1, self._start - 1, -1):
                found = self._memory.peek(self._key(layer, "entered"))
                if found is not None:
                    return layer, found
        stream = self.clean.run.pre[self._start][None].to(self.clean.blocks[0].dtype)
        return self._start, self._known(self._start, "entered", self._mixed, self._start, stream)

    def _mixed(self, layer: int, stream: Tensor) -> Pair:
        """The stream entering a layer where it is read out, and what the layer's heads mix of it there."""
        block = self.clean.blocks[layer]
        stream = stream.to(block.device)
        if layer == self.clean.top:
            return Ascent(self.clean, at_readout=False).last_heads(stream)
        return stream, block.mixed(stream, self.clean.around[layer])

    def _attended(self, layer: int, own: Tensor, z: Tensor) -> Pair:
        """The post-attention stream, and what the MLP reads."""
        block = self.clean.blocks[layer]
        kept = self._or_still(layer, self.subsets.on(block.device).heads[:, layer, None, None])
        z = torch.where(kept[..., None], z, self._there(layer, self.silent.replaced.z[layer]))
        mid = own + block.behind(True, block.summed(z))
        if self.edits is not None:
            mid = self.edits.at(2 * layer, mid, self._pick(layer))
        return mid, mid if block.sequential else own

    def _fired(self, layer: int, heard: Tensor) -> Pair:
        """What the MLP reads, and all neurons."""
        return heard, self.clean.blocks[layer].activations(heard)

    def _left(self, layer: int, entered: Pair) -> Tensor:
        """The stream behind a layer."""
        block, silent = self.clean.blocks[layer], self.silent
        kept = self.subsets.on(block.device).neurons[:, layer]
        neurons, post = kept[:, None, None], self._there(layer, silent.replaced.post[layer])
        mid, heard = self._known(layer, "attended", self._attended, layer, *entered)
        index = silent.few(kept)
        if index is None:
            _, fired = self._known(layer, "fired", self._fired, layer, heard)
            total = block.mlp_sum(torch.where(self._or_still(layer, neurons), fired, post))
        else:
            total = silent.at(layer, block, post)
            if len(index):
                new = post[..., index]
                gained = torch.where(neurons[..., index], block.some_activations(heard, index) - new, 0)
                total = total + affine(gained, block.down[0][index], None)
        stream = mid + block.behind(False, total)
        return stream if self.edits is None else self.edits.at(2 * layer + 1, stream, self._pick(layer))

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _known(self, layer: int, what: str, make: Callable[..., Pair], *given: Any) -> Pair:
        """Two tensors of one layer, remembered or made."""
        if self._memory is None or layer == self.clean.top:  # at the read-out alone they are small work
            return make(*given)
        return self._memory.get(self._key(layer, what), partial(make, *given))

    def _key(self, layer: int, what: str) -> Key:
        """What they depend on: all that is kept below, and behind attention the layer's heads."""
        heads, neurons = self._masks
        below = heads[:, : layer + (what != "entered")], neurons[:, :layer]
        return self.silent.number, layer, what, below[0].tobytes(), below[1].tobytes()

    @cached_property
    def _memory(self) -> Recent[Key, Pair] | None:
        # Several sets side by side are few texts, of which there is little to save; under autograd a graph would be kept.
        if len(self.subsets) > 1 or self.edits is not None or torch.is_grad_enabled():
            return None
        if self.clean.model not in _MEMORIES:
            _MEMORIES[self.clean.model] = Recent(MEMORY, _bytes)
        return _MEMORIES[self.clean.model]

    @cached_property
    def _masks(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """What is kept, ``[chunk, layer, ..]``; numpy's, as many small questions are asked of it."""
        return self.subsets.heads.cpu().numpy(), self.subsets.neurons.cpu().numpy()

    # -- where ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _start(self) -> int:
        """The first layer in which a set lacks something or the stream is edited; the number of layers where there is none."""
        heads, neurons = self._masks
        changed = np.asarray(~(heads.all((0, 2)) & neurons.all((0, 2))))
        if self.edits is not None:
            touched = (self.edits.read != 0).any(2).any(0) | (self.edits.add != 0).any(2).any(0)
            changed |= touched.view(-1, 2).any(1).cpu().numpy()
        return int(changed.argmax()) if changed.any() else changed.size

    def _or_still(self, layer: int, kept: Tensor) -> Tensor:
        """What is kept, or stands where nothing is replaced."""
        if self.silent.everywhere:
            return kept
        stay = self.silent.replaced.where[..., None] == 0
        return kept | self._there(layer, stay.to(kept.device))

    def _there(self, layer: int, tensor: Tensor) -> Tensor:
        """``[prompt, pos, ..]`` where the layer is computed: at the read-out alone in the last."""
        return self.clean.picked_all(tensor) if layer == self.clean.top else tensor

    def _pick(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        return self.clean.picked_all if layer == self.clean.top else None


_MEMORIES: WeakKeyDictionary[Model, Recent[Key, Pair]] = WeakKeyDictionary()


def _bytes(tensors: Pair) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
