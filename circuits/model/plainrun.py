"""A clean run in plain blocks, resumed for a fraction of a replay's work.

What is saved, exactly and for every change:

* Nothing between two matrix products but the arithmetic itself: no hooks, one product for query, key and value.
* A head or a neuron changes a stream in few directions. The linear map behind the next norm then needs no product of full size:
  ``norm(x + a w) W = s' · (C(x) γ W + a · C(w) γ W) + β W`` with ``s'`` the new scale and ``C`` the centring, where the first
  summand belongs to the clean run and ``C(w) γ W`` to the component.
* The last block is computed at the read-out token only. Its queries are few, so keys and values are never formed:
  ``⟨q, W_K x⟩ = ⟨W_Kᵀ q, x⟩`` and ``Σ p_t W_V x_t = W_V Σ p_t x_t`` (keys are formed where they are turned or normalised).
* Where every change spares the first token (its mean over a scenario is itself where all texts begin alike), so does every
  stream above it: later tokens look at the clean run's key and value there.
* Changes at the read-out token leave all other tokens as they were: each block runs there alone, over the clean run's keys and
  values, and alternatives that entered at different layers go up together.

This module holds what belongs to the clean run; :mod:`circuits.model.ascent` is the way up, :mod:`circuits.model.partial` that
of sets of components with everything else replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from circuits.model.anatomy import Model
from circuits.model.ascent import Ascent, Kept
from circuits.model.branches import PlainBranches, change_of, heard
from circuits.model.extraction import CLOSE, NoFit, deviation, surroundings
from circuits.model.machine import Recent, precise
from circuits.model.partial import Partial, Silent
from circuits.model.plain import PlainBlock, Surroundings
from circuits.model.resuming import Change, Instead, Replaced, Resumer, Subsets, Trace
from circuits.model.running import Recording
from circuits.model.sites import Half, Input, Kind
from circuits.model.steering import Edits

__all__ = ["PlainRun"]

_LARGE = 8
"""Maps of whole clean streams that are kept: those of the layers where changes enter just now."""


class PlainRun(Resumer):
    """A clean run in plain blocks.

    Nothing but caches of the clean run's own values is written while changes go up, so several threads may send some.

    Raises:
        NoFit: the blocks do not reproduce it.
    """

    side_by_side = True

    def __init__(self, model: Model, run: Recording, blocks: tuple[PlainBlock, ...]) -> None:
        super().__init__(model, run)
        self.blocks = blocks
        self.around = [surroundings(run, layer, block.rotation).to(block.dtype) for layer, block in enumerate(blocks)]
        self._small: dict[tuple[int, str], Tensor] = {}
        self._kept: dict[int, Kept] = {}
        self._last: Silent | None = None
        self._large: Recent[tuple[int, str, int], Tensor] = Recent(_LARGE)
        self._heard: Recent[Input, tuple[Tensor, ...]] = Recent(_LARGE)
        with precise(model.device):
            self.clean = Ascent(self, at_readout=False).from_below(run.pre[0][None])[0]
        wanted = self.picked(run.final)[:, 0]
        error = deviation(self.clean.to(wanted), wanted)
        if error > CLOSE[blocks[0].dtype] * model.n_layers**0.5:
            raise NoFit(f"plain blocks give another final stream on this batch (relative difference {error:.1g})")

    def after(self, changes: Sequence[Change], *, at_readout: bool) -> Tensor:
        return Ascent(self, at_readout=at_readout, start=self._first_changed(changes)).climb(changes)

    def keeping(self, subsets: Subsets, replaced: Replaced, edits: Edits | None = None) -> Tensor:
        # What does not depend on the sets is kept for the replacement asked for last.
        if self._last is None or self._last.replaced is not replaced:
            self._last = Silent(replaced, self.tokens.mask)
        return Partial(self, subsets, self._last, edits).final()

    @torch.enable_grad()
    def trace(self, stream: Tensor, *, layer: int = 0, instead: Instead | None = None) -> Trace:
        found: dict[Kind, list[Tensor]] = {kind: [] for kind in Kind}

        def passed(here: int, kind: Kind, tensor: Tensor) -> Tensor:
            """The tensor, or what stands for it; chunks are one."""
            if instead is not None and here == layer and kind is instead.kind:
                tensor = instead.tensor if here < self.top else self.picked_all(instead.tensor)
                found[kind].append(instead.tensor)
            else:
                # Axes in front are taken off and put on again, so that the tensor kept lies on the path.
                tensor = tensor[0]
                found[kind].append(tensor)
            return tensor[None]

        rows = stream[None]
        with precise(self.model.device):
            for here in range(layer, self.top + 1):
                block = self.blocks[here]
                rows = rows.to(block.device)
                if here < self.top:
                    own, z = rows, block.mixed(rows, self.around[here])
                else:
                    own, z = Ascent(self, at_readout=False).last_heads(rows)
                z = passed(here, Kind.HEAD, z)
                attn_out = passed(here, Kind.ATTN, block.behind(True, block.summed(z)))
                mid = own + attn_out
                post = passed(here, Kind.NEURON, block.activations(mid if block.sequential else own))
                rows = mid + passed(here, Kind.MLP, block.behind(False, block.mlp_sum(post)))
        return Trace.of_lists(layer, found, rows[0, :, 0])

    def branches(self, stream: Tensor, *, layer: int = 0, instead: Instead | None = None) -> PlainBranches:
        with precise(self.model.device):
            given = None if instead is None else (layer, instead)
            return PlainBranches(self.blocks, self.around, stream, self.picked, given)

    def reheard(self, place: Input, streams: Tensor) -> Change:
        layer = place.component.layer
        block = self.blocks[layer]
        after = place.component.half is Half.MLP and block.sequential
        own = (self.run.mid if after else self.run.pre)[layer][None].to(block.dtype)
        # By the same arithmetic, so that no change gives none.
        clean = self._heard.get(place, lambda: heard(block, self.around[layer], place, own))
        return change_of(block, place, heard(block, self.around[layer], place, streams.to(own), clean)[0] - clean[0])

    def picked_all(self, tensor: Tensor) -> Tensor:
        """``[prompt, pos, ..]`` at the read-out: ``[prompt, 1, ..]``."""
        return self.picked(tensor.flatten(2)).view(len(tensor), 1, *tensor.shape[2:])

    def _first_changed(self, changes: Sequence[Change]) -> int:
        """1 where all changes spare the first token, 0 elsewhere."""
        if int(self.tokens.last.min()) < 1:
            return 0
        return int(not any(bool(change.amount[:, :, 0].any()) for change in changes))

    @cached_property
    def readouts(self) -> list[Surroundings]:
        """Surroundings of every block with the read-out token as the only query."""
        return [around.at_readout() for around in self.around]

    def keys_values(self, layer: int) -> Kept:
        """Keys and values of every token but the read-out's."""
        if layer not in self._kept:
            block, around = self.blocks[layer], self.around[layer]
            k, v = block.qkv(block.read(self.run.pre[layer][None]), 1, 3)
            self._kept[layer] = Kept.of(block.keys(k, around)[0], block.values(v)[0], self.readouts[layer])
        return self._kept[layer]

    def first_keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first token, ``[1, prompt, 1, kv_head, d_head]``."""
        block, around = self.blocks[layer], self.around[layer]
        k, v = block.qkv(block.read(self.run.pre[layer][None, :, :1]), 1, 3)
        cos, sin = (None if t is None else t[:, :1] for t in (around.cos, around.sin))
        return block.keys(k, Surroundings(around.mask, cos, sin, around.last)), block.values(v)

    def state(self, layer: int, name: str, start: int | None) -> Tensor:
        """``pre``, ``mid``, ``attn_out`` or ``mlp_out`` of a layer from token ``start`` on; None: at the read-out token.

        ``pre`` of the layer above the last is the final stream.
        """
        streams = self.run.streams
        states = {"pre": self.run.pre, "mid": self.run.mid, "attn_out": streams.attn_out, "mlp_out": streams.mlp_out}
        if start is not None:
            return states[name][layer][:, start:]
        return self.at_readout(layer, name, lambda: self.picked(states[name][layer]))

    def at_readout(self, layer: int, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Something small that is made once."""
        if (layer, name) not in self._small:
            self._small[layer, name] = make()
        return self._small[layer, name]

    def everywhere(self, layer: int, name: str, start: int, make: Callable[[], Tensor]) -> Tensor:
        """Something large that is kept while changes enter near its layer."""
        return self._large.get((layer, name, start), make)
