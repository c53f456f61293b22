"""Resuming in plain blocks: the same numbers as a replay, for a fraction of the work.

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
from circuits.model.machine import precise
from circuits.model.norms import Norm
from circuits.model.plain import Linears, PlainBlock, Surroundings, affine
from circuits.model.resuming import Change, Resumer
from circuits.model.running import Recording
from circuits.model.sites import Half

__all__ = ["PlainRun"]

@dataclass(frozen=True)
class _Part:
    """Alternatives entering a block or an MLP.

    ``change`` is their difference from the clean run's stream there, where it has few directions.
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
        self._kept: dict[int, _Kept] = {}
        self._known: dict[tuple[int, str, bool], Tensor] = {}
        self._start = 0
        with precise(model.device):
            self.clean = self._upward(run.pre[0][None])[0, :, 0]
        error = deviation(self.clean, self.picked(run.final)[:, 0])
        if error > CLOSE[model.dtype] * model.n_layers**0.5:
            raise NoFit(f"plain blocks give another final stream on this batch (relative difference {error:.1g})")

    def _upward(self, stream: Tensor) -> Tensor:
        """The final stream at the read-out from what enters the first layer."""
        for layer in range(self.top):
            stream = self.blocks[layer](stream, self._around[layer])
        block = self.blocks[self.top]
        own, out = self._last_attention([_Part(stream)])
        return block.onward(own, out)

    # -- the clean run ---------------------------------------------------------------------------------------------

    @cached_property
    def _readouts(self) -> list[Surroundings]:
        return [around.at_readout() for around in self._around]

    def _keys_values(self, layer: int) -> _Kept:
        if layer not in self._kept:
            block, around = self.blocks[layer], self._around[layer]
            k, v = block.qkv(block.read(self.run.pre[layer][None]), 1, 3)
            self._kept[layer] = _Kept.of(block.keys(k, around)[0], block.values(v)[0], self._readouts[layer])
        return self._kept[layer]

    def _first_keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first token in the clean run, ``[1, prompt, 1, kv_head, d_head]``."""
        block, around = self.blocks[layer], self._around[layer]
        k, v = block.qkv(block.read(self.run.pre[layer][None, :, :1]), 1, 3)
        tables = (None if t is None else t[:, :1] for t in (around.cos, around.sin))
        return block.keys(k, Surroundings(around.mask, *tables, around.last)), block.values(v)

    def _state(self, layer: int, name: str, alone: bool) -> Tensor:
        """A clean state: ``pre`` (and ``pre`` of the layer above the last), ``mid``, ``attn_out``, ``mlp_out``.

        At the read-out token, or from the first token that may change.
        """
        run = self.run
        states = {"pre": run.pre, "mid": run.mid, "attn_out": run.streams.attn_out, "mlp_out": run.streams.mlp_out}
        whole = states[name][layer]
        return self._remembered(layer, name, True, lambda: self.picked(whole)) if alone else whole[:, self._start :]

    def _remembered(self, layer: int, name: str, alone: bool, make: Callable[[], Tensor]) -> Tensor:
        """Small things of the clean run at the read-out are kept, large ones while changes enter at their layer."""
        key = (layer, name, alone)
        if key not in self._known:
            # Sweeps go upward: what lies below is not asked for again.
            for old in [k for k in self._known if not k[2] and k[0] < layer]:
                del self._known[old]
            self._known[key] = make()
        return self._known[key]

    # -- going up --------------------------------------------------------------------------------------------------

    def after(self, changes: Sequence[Change], *, at_readout: bool) -> Tensor:
        parts: list[_Part] = []
        self._begin(0 if at_readout else self._first_changed(changes))
        with precise(self.model.device):
            for layer in range(changes[0].layer, self.model.n_layers):
                # Above the last attention no other token reaches the answer.
                alone = at_readout or layer == self.top
                here = [self._cut(change, alone) for change in changes if change.layer == layer]
                parts = self._layer(layer, parts, here, alone=alone, at_readout=at_readout)
        return _joined(parts)[:, :, 0]

    def _first_changed(self, changes: Sequence[Change]) -> int:
        """1 where all changes spare the first token, 0 elsewhere."""
        if int(self.tokens.last.min()) < 1:
            return 0
        return int(not any(bool(change.amount[:, :, 0].any()) for change in changes))

    def _begin(self, start: int) -> None:
        if start != self._start:
            self._start = start
            self._known = {key: value for key, value in self._known.items() if key[2]}

    def _cut(self, change: Change, alone: bool) -> Change:
        if change.amount.shape[2] == 1:
            return change
        amount = self.picked(change.amount) if alone else change.amount[:, :, self._start :]
        return Change(change.layer, change.half, amount, change.write)

    def _layer(
        self, layer: int, below: list[_Part], changes: list[Change], *, alone: bool, at_readout: bool
    ) -> list[_Part]:
        """One layer: what came up runs through it, and what changes here joins: first after attention, then after the MLP."""
        block = self.blocks[layer]
        early = [self._entered(change, alone) for change in changes if change.half is Half.ATTN]
        late = [self._entered(change, alone) for change in changes if change.half is Half.MLP]
        if not block.sequential:
            return [*([_Part(self._parallel(layer, below, alone, at_readout))] if below else []), *early, *late]
        halfway = early
        if below:
            own, attn_out = self._attention(layer, below, alone, at_readout)
            halfway = [_Part(own + attn_out), *early]
        if not halfway:
            return late
        mid = _joined(halfway)
        heard = self._mapped("up", layer, halfway, alone)
        return [_Part(mid + block.behind(False, block.mlp_sum(block.fired(heard)))), *late]

    def _parallel(self, layer: int, below: list[_Part], alone: bool, at_readout: bool) -> Tensor:
        block = self.blocks[layer]
        own, attn_out = self._attention(layer, below, alone, at_readout)
        # The MLP reads the stream itself, which may still differ in few directions only.
        heard = block.before(own) if alone and not at_readout else self._mapped("in", layer, below, alone)
        return own + attn_out + block.behind(False, block.mlp_sum(block.fired(heard)))

    def _attention(self, layer: int, below: list[_Part], alone: bool, at_readout: bool) -> tuple[Tensor, Tensor]:
        """The stream where it goes on, and what attention adds to it there."""
        if alone and not at_readout:
            return self._last_attention(below)
        block, around = self.blocks[layer], self._around[layer]
        q, k, v = self._mapped("qkv", layer, below, alone)
        if at_readout:
            last = self._readouts[layer]
            own = block.keys(k, last), block.values(v)
            z = _attend_kept(block, block.queries(q, last), own, self._keys_values(layer))
        else:
            from_here = around.queried_from(self._start)
            first = self._first_keys_values(layer) if self._start else None
            q, k = block.queries(q, from_here), block.keys(k, from_here)
            z = block.attend(q, k, block.values(v), from_here.mask, first)
        return _joined(below), block.behind(True, block.summed(z))

    def _last_attention(self, below: list[_Part]) -> tuple[Tensor, Tensor]:
        """The last attention at the read-out token, from streams at every token."""
        layer = self.top
        block, around, last = self.blocks[layer], self._around[layer], self._readouts[layer]
        stream = _joined(below)
        x = block.read(stream)
        if self._start:
            first = block.read(self.run.pre[layer][None, :, : self._start])
            x = torch.cat([first.expand(len(x), *first.shape[1:]), x], 2)
        (asking,) = block.qkv(self.picked(x), 0, 1)
        q = block.queries(asking, last)
        turned = block.norm_k is not None or around.cos is not None
        scores = _scores_by_keys(block, q, x, around) if turned else _scores(block, q, x)
        z = _mixed_late(block, block.pattern(scores, last.mask), x)
        return self.picked(stream, self._start), block.behind(True, block.summed(z))

    def _entered(self, change: Change, alone: bool) -> _Part:
        """The stream after the change's half-layer."""
        layer, attention = change.layer, change.half is Half.ATTN
        block = self.blocks[layer]
        norm = block.post_attn if attention else block.post_mlp
        thin: Change | None = change if self._thin(change) else None
        added = change.full
        if change.summed and norm is not None:
            activation = (self.run.streams.z if attention else self.run.streams.post)[layer]
            total = block.summed(activation) if attention else block.mlp_sum(activation)
            total = self.picked(total) if alone else total[:, self._start :]
            out = self._state(layer, "attn_out" if attention else "mlp_out", alone)
            added, thin = norm(total + added) - out, None
        after = self._state(layer, "mid", alone) if attention and block.sequential else self._state(layer + 1, "pre", alone)
        return _Part(after + added, thin)

    def _thin(self, change: Change) -> bool:
        """Whether mapping the change's directions is less work than mapping its stream: ``rank`` rows against its tokens."""
        if change.write is None:
            return False
        _, n, pos, rank = change.amount.shape
        return rank < n * pos * (1 - rank / self.model.d_model)

    # -- few directions --------------------------------------------------------------------------------------------

    def _mapped(self, what: str, layer: int, parts: list[_Part], alone: bool) -> tuple[Tensor, ...]:
        """The linear maps behind a norm: ``qkv`` of what enters a layer, ``in`` for a parallel MLP there, ``up`` halfway."""
        block = self.blocks[layer]
        norm = block.norm_attn if what == "qkv" else block.norm_mlp
        maps = block.qkv if what == "qkv" else block.up
        found = [
            maps(part.stream if norm is None else norm(part.stream))
            if part.change is None
            else self._mapped_change(what, layer, norm, maps, part, alone)
            for part in parts
        ]
        return found[0] if len(found) == 1 else tuple(torch.cat(both) for both in zip(*found, strict=True))

    def _mapped_change(
        self, what: str, layer: int, norm: Norm | None, maps: Linears, part: _Part, alone: bool
    ) -> tuple[Tensor, ...]:
        """All maps of a clean stream with a change of low rank in it."""
        change = part.change
        assert change is not None
        assert change.write is not None
        name = "mid" if what == "up" else "pre"
        directions, amount = _shaped(norm, change.write), change.amount
        scale = None if norm is None else norm.scale(norm.centre(part.stream))
        if scale is not None:
            amount = amount * scale
        outputs = []
        for number, (weight, bias) in enumerate(maps.pieces):
            clean = self._remembered(
                layer, f"{what}{number}", alone,
                lambda weight=weight: affine(_shaped(norm, self._state(layer, name, alone)), weight, None),
            )  # fmt: skip
            constant = bias
            if norm is not None and norm.bias is not None:
                constant = norm.bias @ weight if bias is None else norm.bias @ weight + bias
            outputs.append(_accumulated(clean, scale, constant, amount, affine(directions, weight, None)))
        return maps.apart(outputs)


def _accumulated(
    clean: Float[Tensor, "prompt pos out"],
    scale: Float[Tensor, "chunk prompt pos 1"] | None,
    constant: Tensor | None,
    amount: Float[Tensor, "chunk prompt pos rank"],
    directions: Float[Tensor, "chunk rank out"],
) -> Float[Tensor, "chunk prompt pos out"]:
    """``scale · clean + constant + amount · directions`` in as few passes over memory as there are."""
    chunk, n, pos, rank = amount.shape
    if scale is None:
        scale = amount.new_ones(chunk, 1, 1, 1)
    result = clean * scale if constant is None else torch.addcmul(constant, clean, scale)
    if rank == 1:
        return result.addcmul_(amount, directions[:, None])
    result.view(chunk, n * pos, -1).baddbmm_(amount.reshape(chunk, n * pos, rank), directions)
    return result


def _joined(parts: list[_Part]) -> Tensor:
    return _cat([part.stream for part in parts])


def _cat(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


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
    by_head = q.view(chunk * n, shape.kv_heads, shape.group, shape.d_head) * block.scale
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
    return block.scores(q.reshape(rows, shape.group, shape.d_head), keys).view(chunk, n, shape.heads, 1, -1)


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


@dataclass(frozen=True)
class _Kept:
    """Keys and values of a clean run, the read-out token's own left out by the mask.

    Attributes:
        keys: ``[prompt · kv_head, d_head, pos]``.
        values: ``[prompt · kv_head, pos, d_head]``.
        mask: ``[prompt, 1, 1, pos + 1]``; the last column is the read-out token itself.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, around: Surroundings) -> _Kept:
        """From ``[prompt, pos, kv_head, d_head]`` and the surroundings at the read-out."""
        n = len(keys)
        rows = torch.arange(n, device=keys.device)
        mask = around.mask.expand(n, *around.mask.shape[1:]).clone()
        own = mask[rows, :, :, around.last][..., None]
        mask[rows, :, :, around.last] = torch.finfo(mask.dtype).min
        return cls(
            keys.permute(0, 2, 3, 1).flatten(0, 1).contiguous(),
            values.transpose(1, 2).flatten(0, 1).contiguous(),
            torch.cat([mask, own], -1),
        )


def _attend_kept(
    block: PlainBlock, q: Tensor, own: tuple[Tensor, Tensor], kept: _Kept
) -> Float[Tensor, "chunk prompt 1 head d_head"]:
    """Attention of changed read-out tokens over the clean run's keys and values, and over their own.

    All alternatives of a prompt share its keys, so they are one matrix product.
    """
    shape, (chunk, n) = block.shape, q.shape[:2]
    kv, group = shape.kv_heads, shape.group

    def by_prompt(tensor: Tensor, width: int) -> Tensor:
        """[chunk, prompt, 1, kv · width, d_head] to [prompt · kv, chunk · width, d_head]."""
        return tensor.reshape(chunk, n, kv, width, -1).permute(1, 2, 0, 3, 4).reshape(n * kv, chunk * width, -1)

    asked, own_k, own_v = by_prompt(q * block.scale, group), by_prompt(own[0], 1), by_prompt(own[1], 1)
    if group > 1:
        own_k, own_v = (t.repeat_interleave(group, 1) for t in (own_k, own_v))
    scores = torch.cat([torch.bmm(asked, kept.keys), (asked * own_k).sum(-1, keepdim=True)], -1)
    # The pattern's axes are [chunk, prompt, head, query, pos]; here queries of a prompt's alternatives lie side by side.
    pattern = block.pattern(scores.view(1, n, kv, chunk * group, -1), kept.mask).view(n * kv, chunk * group, -1)
    z = torch.addcmul(torch.bmm(pattern[..., :-1], kept.values), pattern[..., -1:], own_v)
    z = z.view(n, kv, chunk, group, shape.d_head).permute(2, 0, 1, 3, 4)
    return z.reshape(chunk, n, 1, shape.heads, shape.d_head)
