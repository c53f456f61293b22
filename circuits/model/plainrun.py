"""Resuming in plain blocks: the same numbers as a replay, for a fraction of the work.

What is saved, exactly and for every change:

* Nothing between two matrix products but the arithmetic itself: no hooks, one product for query, key and value.
* A head or a neuron changes a stream in few directions. The linear map behind the next norm then needs no product of full size:
  ``norm(x + a w) W = s' · (C(x) γ W + a · C(w) γ W) + β W`` with ``s'`` the new scale and ``C`` the centring, where the first
  summand belongs to the clean run and ``C(w) γ W`` to the component.
* The last block is computed at the read-out token only. Its queries are few, so keys and values are never formed:
  ``⟨q, W_K x⟩ = ⟨W_Kᵀ q, x⟩`` and ``Σ p_t W_V x_t = W_V Σ p_t x_t`` (keys are formed where they are turned or normalised).
* Changes at the read-out token leave all other tokens as they were: each block runs there alone, over the clean run's keys and
  values, and alternatives that entered at different layers go up together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.anatomy import Model
from circuits.model.extraction import CLOSE, NoFit, deviation, surroundings
from circuits.model.norms import Norm
from circuits.model.plain import Linears, PlainBlock, Surroundings, affine
from circuits.model.resuming import Change, Resumer
from circuits.model.running import Recording
from circuits.model.sites import Half

__all__ = ["PlainRun"]

_LOW_RANK = 3
"""A change goes through a linear map by its rank where the rank is at most this part of ``d_model``."""


@dataclass(frozen=True)
class _Part:
    """Alternatives entering a block.

    ``change`` is their difference from the clean run's stream where it has few directions.
    """

    stream: Float[Tensor, "chunk prompt pos d_model"]
    change: Change | None = None


class PlainRun(Resumer):
    """A clean run in plain blocks.

    Raises:
        NoFit: the blocks do not reproduce it.
    """

    def __init__(self, model: Model, run: Recording, blocks: tuple[PlainBlock, ...]) -> None:
        super().__init__(model, run)
        self.blocks = blocks
        self._around = [surroundings(run, layer, block.rotation) for layer, block in enumerate(blocks)]
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._mapped: dict[tuple[int, str, bool], Tensor] = {}
        self.clean = self._upward(run.pre[0][None])[0, :, 0]
        error = deviation(self.clean, self.picked(run.final)[:, 0])
        if error > CLOSE[model.dtype] * model.n_layers**0.5:
            raise NoFit(f"plain blocks give another final stream on this batch (relative difference {error:.1g})")

    def _upward(self, stream: Tensor) -> Tensor:
        """The final stream at the read-out from what enters the first layer."""
        parts = [_Part(stream)]
        for layer in range(self.top):
            parts = [_Part(self.blocks[layer](parts[0].stream, self._around[layer]))]
        return self._last_block(parts)

    # -- the clean run ---------------------------------------------------------------------------------------------

    @cached_property
    def _readouts(self) -> list[Surroundings]:
        return [around.at_readout() for around in self._around]

    def _keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the clean run, ``[prompt · kv_head, pos, d_head]``."""
        if layer not in self._kept:
            block, around = self.blocks[layer], self._around[layer]
            k, v = block.qkv(block.read(self.run.pre[layer][None]), 1, 3)
            pair = block.keys(k, around), block.values(v)
            keys, values = (t[0].transpose(1, 2).flatten(0, 1) for t in pair)
            self._kept[layer] = keys.contiguous(), values.contiguous()
        return self._kept[layer]

    # -- going up --------------------------------------------------------------------------------------------------

    def after(self, changes: Sequence[Change], *, at_readout: bool) -> Tensor:
        parts: list[_Part] = []
        for layer in range(changes[0].layer, self.model.n_layers):
            top = layer == self.top
            if parts and at_readout:
                parts = [_Part(self._block_at_readout(layer, parts))]
            elif parts:
                parts = [_Part(self._last_block(parts) if top else self._block(layer, parts))]
            # Above the last attention no other token reaches the answer.
            here = [change for change in changes if change.layer == layer]
            parts += [self._entered(change, alone=at_readout or top, cut=top and not at_readout) for change in here]
        return torch.cat([part.stream for part in parts])[:, :, 0]

    def _entered(self, change: Change, *, alone: bool, cut: bool) -> _Part:
        """``resid_post`` of the layer with the change in it.

        ``alone`` says that only the read-out token is wanted, ``cut`` that the change was given at every token nevertheless.
        """
        layer, attention = change.layer, change.half is Half.ATTN
        block, run = self.blocks[layer], self.run
        if cut:
            change = Change(layer, change.half, self.picked(change.amount), change.write)
        at: Callable[[Tensor], Tensor] = self.picked if alone else _whole
        norm = block.post_attn if attention else block.post_mlp
        thin: Change | None = change if self._thin(change) else None
        added = change.full
        if change.summed and norm is not None:
            z_or_post = (run.streams.z if attention else run.streams.post)[layer]
            total = block.summed(z_or_post) if attention else block.mlp_sum(z_or_post)
            out = (run.streams.attn_out if attention else run.streams.mlp_out)[layer]
            added, thin = norm(at(total) + added) - at(out), None
        if not attention or not block.sequential:
            return _Part(at(run.pre[layer + 1]) + added, thin)
        mid = at(run.mid[layer]) + added
        heard = self._mapped_change("up", layer, thin, mid, alone) if thin is not None else block.before(mid)
        return _Part(mid + block.behind(False, block.mlp_sum(block.fired(heard))))

    def _thin(self, change: Change) -> bool:
        return change.write is not None and change.write.shape[1] * _LOW_RANK <= self.model.d_model

    def _block(self, layer: int, parts: list[_Part]) -> Tensor:
        """A block at every token."""
        block, around = self.blocks[layer], self._around[layer]
        q, k, v = self._projected(layer, parts, alone=False)
        z = block.attend(block.queries(q, around), block.keys(k, around), block.values(v), around.mask)
        return self._onward(layer, parts, block.behind(True, block.summed(z)), alone=False)

    def _onward(self, layer: int, parts: list[_Part], attn_out: Tensor, *, alone: bool) -> Tensor:
        block = self.blocks[layer]
        stream = torch.cat([part.stream for part in parts]) if len(parts) > 1 else parts[0].stream
        if block.sequential or all(part.change is None for part in parts):
            return block.onward(stream, attn_out)
        # A parallel MLP reads the stream itself, which still differs in few directions only.
        heard = [
            block.before(part.stream)
            if part.change is None
            else self._mapped_change("in", layer, part.change, part.stream, alone)
            for part in parts
        ]
        inner = tuple(torch.cat(both) for both in zip(*heard, strict=True))
        return stream + attn_out + block.behind(False, block.mlp_sum(block.fired(inner)))

    def _projected(self, layer: int, parts: list[_Part], *, alone: bool) -> tuple[Tensor, ...]:
        """Queries, keys and values, before they are turned."""
        block = self.blocks[layer]
        found = [
            block.qkv(block.read(part.stream))
            if part.change is None
            else self._mapped_change("qkv", layer, part.change, part.stream, alone)
            for part in parts
        ]
        return found[0] if len(found) == 1 else tuple(torch.cat(both) for both in zip(*found, strict=True))

    def _last_block(self, parts: list[_Part]) -> Float[Tensor, "chunk prompt 1 d_model"]:
        """The last block at the read-out token, from streams at every token."""
        layer = self.top
        block, around, last = self.blocks[layer], self._around[layer], self._readouts[layer]
        stream = torch.cat([part.stream for part in parts]) if len(parts) > 1 else parts[0].stream
        x = block.read(stream)
        (asking,) = block.qkv(self.picked(x), 0, 1)
        q = block.queries(asking, last)
        turned = block.norm_k is not None or around.cos is not None
        scores = _scores_by_keys(block, q, x, around) if turned else _scores(block, q, x)
        pattern = block.pattern(scores, last.mask)
        z = _mixed_late(block, pattern, x)
        return block.onward(self.picked(stream), block.behind(True, block.summed(z)))

    def _block_at_readout(self, layer: int, parts: list[_Part]) -> Float[Tensor, "chunk prompt 1 d_model"]:
        """One block at the read-out token, which alone was changed: other tokens' keys and values are the clean run's."""
        block, last = self.blocks[layer], self._readouts[layer]
        q, k, v = self._projected(layer, parts, alone=True)
        own = block.keys(k, last), block.values(v)
        z = _attend_kept(block, block.queries(q, last), own, self._keys_values(layer), last)
        return self._onward(layer, parts, block.behind(True, block.summed(z)), alone=True)

    # -- few directions --------------------------------------------------------------------------------------------

    def _mapped_change(self, what: str, layer: int, change: Change, stream: Tensor, alone: bool) -> tuple[Tensor, ...]:
        """The linear maps behind a norm, of a clean stream with a change of low rank in it.

        ``what``: ``qkv`` of the stream entering ``layer``, ``in`` for a parallel MLP there, ``up`` of the stream after attention.
        """
        block = self.blocks[layer]
        norm = block.norm_attn if what == "qkv" else block.norm_mlp
        maps: Linears = block.qkv if what == "qkv" else block.up
        weight, bias = maps.weight(), maps.bias()
        clean = self._clean_map(what, layer, norm, weight, alone)
        assert change.write is not None
        directions = _shaped(norm, change.write) @ weight  # [chunk, rank, out]
        chunk, n, pos, rank = change.amount.shape
        if rank == 1:
            raw = torch.addcmul(clean, change.amount, directions[:, None])
        else:
            flat = clean.expand(chunk, *clean.shape).reshape(chunk, n * pos, -1)
            raw = torch.baddbmm(flat, change.amount.reshape(chunk, n * pos, rank), directions).view(chunk, n, pos, -1)
        constant = bias
        if norm is not None:
            raw = raw.mul_(norm.scale(norm.centre(stream)))
            if norm.bias is not None:
                constant = norm.bias @ weight if bias is None else norm.bias @ weight + bias
        if constant is not None:
            raw = raw.add_(constant)
        return maps.split(raw)

    def _clean_map(self, what: str, layer: int, norm: Norm | None, weight: Tensor, alone: bool) -> Tensor:
        """``C(x) γ W`` of the clean run, ``[prompt, pos, out]``; kept while changes enter at this place."""
        key = (layer, what, alone)
        if key not in self._mapped:
            for old in [k for k in self._mapped if k[0] < layer]:
                del self._mapped[old]  # sweeps go upward: what lies below is not asked for again
            stream = self.run.mid[layer] if what == "up" else self.run.pre[layer]
            self._mapped[key] = affine(_shaped(norm, self.picked(stream) if alone else stream), weight, None)
        return self._mapped[key]


def _whole(states: Tensor) -> Tensor:
    return states


def _shaped(norm: Norm | None, x: Tensor) -> Tensor:
    """``C(x) γ``: what a norm does to ``x`` but for scale and bias."""
    if norm is None:
        return x
    x = norm.centre(x)
    return x if norm.weight is None else x * norm.weight


# -- attention without keys or values, or over kept ones ----------------------------------------------------------------


def _scores(block: PlainBlock, q: Tensor, x: Tensor) -> Float[Tensor, "chunk prompt head 1 pos"]:
    """``⟨q, W_K x_t + b_K⟩`` as ``⟨W_Kᵀ q, x_t⟩ + ⟨q, b_K⟩``."""
    shape, (chunk, n) = block.shape, q.shape[:2]
    weight, bias = block.qkv.parts[1]
    by_head = q.view(chunk * n, shape.kv_heads, shape.group, shape.d_head)
    weight = weight.view(-1, shape.kv_heads, shape.d_head)
    seeking = torch.einsum("rkgd,mkd->rkgm", by_head, weight).reshape(chunk * n, shape.heads, -1)
    scores = torch.bmm(seeking, x.flatten(0, 1).transpose(1, 2))
    if bias is not None:
        scores = scores + (by_head * bias.view(shape.kv_heads, 1, shape.d_head)).sum(-1).view(chunk * n, -1, 1)
    return scores.view(chunk, n, shape.heads, 1, -1)


def _scores_by_keys(block: PlainBlock, q: Tensor, x: Tensor, around: Surroundings) -> Tensor:
    shape, (chunk, n) = block.shape, q.shape[:2]
    (k,) = block.qkv(x, 1, 2)
    rows = chunk * n * shape.kv_heads
    keys = block.keys(k, around).permute(0, 1, 3, 4, 2).reshape(rows, shape.d_head, -1)
    return torch.bmm(q.reshape(rows, shape.group, shape.d_head), keys).view(chunk, n, shape.heads, 1, -1)


def _mixed_late(block: PlainBlock, pattern: Tensor, x: Tensor) -> Float[Tensor, "chunk prompt 1 head d_head"]:
    """``W_V Σ p_t x_t + b_V``: the mix is taken before the value map. A pattern sums to one, so the bias stays whole."""
    shape, (chunk, n) = block.shape, pattern.shape[:2]
    weight, bias = block.qkv.parts[2]
    mix = torch.bmm(pattern.view(chunk * n, shape.heads, -1), x.flatten(0, 1))
    mix = mix.view(chunk * n, shape.kv_heads, shape.group, -1)
    z = torch.einsum("rkgm,mkd->rkgd", mix, weight.view(-1, shape.kv_heads, shape.d_head))
    if bias is not None:
        z = z + bias.view(shape.kv_heads, 1, shape.d_head)
    return z.reshape(chunk, n, 1, shape.heads, shape.d_head)


def _attend_kept(
    block: PlainBlock, q: Tensor, own: tuple[Tensor, Tensor], kept: tuple[Tensor, Tensor], around: Surroundings
) -> Float[Tensor, "chunk prompt 1 head d_head"]:
    """Attention of changed read-out tokens over the clean run's keys and values, their own put in their place.

    All alternatives of a prompt share its keys, so they are one matrix product.
    """
    shape, (chunk, n) = block.shape, q.shape[:2]
    kv, group = shape.kv_heads, shape.group

    def by_prompt(tensor: Tensor, width: int) -> Tensor:
        """[chunk, prompt, 1, kv · width, d_head] to [prompt · kv, chunk · width, d_head]."""
        return tensor.reshape(chunk, n, kv, width, -1).permute(1, 2, 0, 3, 4).reshape(n * kv, chunk * width, -1)

    keys, values = kept
    asked, own_k, own_v = by_prompt(q, group), by_prompt(own[0], 1), by_prompt(own[1], 1)
    at = around.last.repeat_interleave(kv)
    rows = torch.arange(n * kv, device=at.device)
    scores = torch.bmm(asked, keys.transpose(1, 2))
    if group > 1:
        own_k, own_v = (t.repeat_interleave(group, 1) for t in (own_k, own_v))
    scores[rows, :, at] = (asked * own_k).sum(-1)
    # The pattern's axes are [chunk, prompt, head, query, pos]; here queries of a prompt's alternatives lie side by side.
    pattern = block.pattern(scores.view(1, n, kv, chunk * group, -1), around.mask).view(n * kv, chunk * group, -1)
    z = torch.bmm(pattern, values)
    z = z + pattern[rows, :, at][..., None] * (own_v - values[rows, at][:, None])
    z = z.view(n, kv, chunk, group, shape.d_head).permute(2, 0, 1, 3, 4)
    return z.reshape(chunk, n, 1, shape.heads, shape.d_head)
