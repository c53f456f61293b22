"""The way up: alternatives enter a clean run at their layers and go up through plain blocks, side by side.

See :mod:`circuits.model.plainrun` for what is saved on the way and why it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.norms import Norm
from circuits.model.plain import Linears, PlainBlock, Surroundings, affine
from circuits.model.resuming import Change
from circuits.model.sites import Half

if TYPE_CHECKING:
    from circuits.model.plainrun import PlainRun

__all__ = ["Ascent", "Kept"]


@dataclass(frozen=True)
class _Part:
    """Alternatives entering a block or an MLP.

    ``change`` is their difference from the clean run's stream there, where it has few directions.
    """

    stream: Float[Tensor, "chunk prompt pos d_model"]
    change: Change | None = None


@dataclass(frozen=True)
class Ascent:
    """One way up.

    Attributes:
        at_readout: only the read-out token changes, so blocks run there alone.
        start: first token that changes; those before it keep the clean run's streams.
    """

    clean: PlainRun
    at_readout: bool
    start: int = 0

    def climb(self, changes: Sequence[Change]) -> Float[Tensor, "chunk prompt d_model"]:
        """The final stream at the read-out of all alternatives, in order."""
        parts: list[_Part] = []
        for layer in range(changes[0].layer, self.clean.top + 1):
            block = self.clean.blocks[layer]
            here = [self._cut(change.to(block.device, block.dtype)) for change in changes if change.layer == layer]
            parts = self._layer(layer, [_moved(part, block.device) for part in parts], here)
        return _joined(parts)[:, :, 0]

    def from_below(self, stream: Float[Tensor, "chunk prompt pos d_model"]) -> Float[Tensor, "chunk prompt d_model"]:
        """The final stream at the read-out of what enters the first layer."""
        parts = [_Part(stream)]
        for layer in range(self.clean.top + 1):
            parts = self._layer(layer, [_moved(part, self.clean.blocks[layer].device) for part in parts], [])
        return _joined(parts)[:, :, 0]

    def _alone(self, layer: int) -> bool:
        """Whether only the read-out token is computed: above the last attention no other reaches the answer."""
        return self.at_readout or layer == self.clean.top

    def _state(self, layer: int, name: str, where: int) -> Tensor:
        """A clean state of ``layer`` at the positions that are computed in layer ``where``."""
        return self.clean.state(layer, name, None if self._alone(where) else self.start)

    def _cut(self, change: Change) -> Change:
        if change.amount.shape[2] == 1:
            return change
        alone = self._alone(change.layer)
        amount = self.clean.picked(change.amount) if alone else change.amount[:, :, self.start :]
        return Change(change.layer, change.half, amount, change.write)

    def _layer(self, layer: int, below: list[_Part], changes: list[Change]) -> list[_Part]:
        """One layer: what came up runs through it, and what changes here joins: after attention, or after the MLP."""
        block = self.clean.blocks[layer]
        early = [self._entered(change) for change in changes if change.half is Half.ATTN]
        late = [self._entered(change) for change in changes if change.half is Half.MLP]
        if not block.sequential:
            return [*([_Part(self._parallel(layer, below))] if below else []), *early, *late]
        halfway = early
        if below:
            own, attn_out = self._attention(layer, below)
            halfway = [_Part(own + attn_out), *early]
        if not halfway:
            return late
        mid = _joined(halfway)
        heard = self._mapped("up", layer, halfway)
        return [_Part(mid + block.behind(False, block.mlp_sum(block.fired(heard)))), *late]

    def _parallel(self, layer: int, below: list[_Part]) -> Tensor:
        block = self.clean.blocks[layer]
        own, attn_out = self._attention(layer, below)
        # The MLP reads the stream itself, which may still differ in few directions only.
        cut = self._alone(layer) and not self.at_readout
        heard = block.before(own) if cut else self._mapped("in", layer, below)
        return own + attn_out + block.behind(False, block.mlp_sum(block.fired(heard)))

    def _attention(self, layer: int, below: list[_Part]) -> tuple[Tensor, Tensor]:
        """The stream where it goes on, and what attention adds to it there."""
        if self._alone(layer) and not self.at_readout:
            return self._last_attention(below)
        block = self.clean.blocks[layer]
        q, k, v = self._mapped("qkv", layer, below)
        if self.at_readout:
            last = self.clean.readouts[layer]
            own = block.keys(k, last), block.values(v)
            z = _attend_kept(block, block.queries(q, last), own, self.clean.keys_values(layer))
        else:
            around = self.clean.around[layer].queried_from(self.start)
            first = self.clean.first_keys_values(layer) if self.start else None
            z = block.attend(block.queries(q, around), block.keys(k, around), block.values(v), around.mask, first)
        return _joined(below), block.behind(True, block.summed(z))

    def _last_attention(self, below: list[_Part]) -> tuple[Tensor, Tensor]:
        block = self.clean.blocks[self.clean.top]
        own, z = self.last_heads(_joined(below))
        return own, block.behind(True, block.summed(z))

    def last_heads(self, stream: Float[Tensor, "chunk prompt pos d_model"]) -> tuple[Tensor, Tensor]:
        """The stream at the read-out token, and what the last layer's heads mix there, from streams at every token."""
        clean, layer = self.clean, self.clean.top
        block, around, last = clean.blocks[layer], clean.around[layer], clean.readouts[layer]
        x = block.read(stream)
        if self.start:
            first = block.read(clean.run.pre[layer][None, :, : self.start])
            x = torch.cat([first.expand(len(x), *first.shape[1:]), x], 2)
        (asking,) = block.qkv(clean.picked(x), 0, 1)
        q = block.queries(asking, last)
        turned = block.norm_k is not None or around.cos is not None
        scores = _scores_by_keys(block, q, x, around) if turned else _scores(block, q, x)
        z = _mixed_late(block, block.pattern(scores, last.mask), x)
        return clean.picked(stream, self.start), z

    def _entered(self, change: Change) -> _Part:
        """The stream after the change's half-layer."""
        layer, attention = change.layer, change.half is Half.ATTN
        block, streams = self.clean.blocks[layer], self.clean.run.streams
        norm = block.post_attn if attention else block.post_mlp
        thin: Change | None = change if self._thin(change) else None
        added = change.full
        if change.summed and norm is not None:
            total = block.summed(streams.z[layer]) if attention else block.mlp_sum(streams.post[layer])
            total = self.clean.picked(total) if self._alone(layer) else total[:, self.start :]
            out = self._state(layer, "attn_out" if attention else "mlp_out", layer)
            added, thin = norm(total + added) - out, None
        half = attention and block.sequential
        after = self._state(layer, "mid", layer) if half else self._state(layer + 1, "pre", layer)
        return _Part(after + added, thin)

    def _thin(self, change: Change) -> bool:
        """Whether mapping the change's directions is less work than mapping its stream: ``rank`` rows against its tokens."""
        if change.write is None:
            return False
        _, n, pos, rank = change.amount.shape
        return rank < n * pos * (1 - rank / self.clean.model.d_model)

    # -- few directions --------------------------------------------------------------------------------------------

    def _mapped(self, what: str, layer: int, parts: list[_Part]) -> tuple[Tensor, ...]:
        """The linear maps behind a norm: ``qkv`` of what enters a layer, ``in`` for a parallel MLP there, ``up`` halfway."""
        block = self.clean.blocks[layer]
        norm = block.norm_attn if what == "qkv" else block.norm_mlp
        maps = block.qkv if what == "qkv" else block.up
        found = [
            maps(part.stream if norm is None else norm(part.stream))
            if part.change is None
            else self._mapped_change(what, layer, norm, maps, part.stream, part.change)
            for part in parts
        ]
        return found[0] if len(found) == 1 else tuple(torch.cat(both) for both in zip(*found, strict=True))

    def _mapped_change(
        self, what: str, layer: int, norm: Norm | None, maps: Linears, stream: Tensor, change: Change
    ) -> tuple[Tensor, ...]:
        """All maps of a clean stream with a change of low rank in it."""
        assert change.write is not None
        directions, amount = _shaped(norm, change.write), change.amount
        scale = None if norm is None else norm.scale(norm.centre(stream))
        if scale is not None:
            amount = amount * scale
        outputs = []
        for number, (weight, bias) in enumerate(maps.pieces):
            constant = bias
            if norm is not None and norm.bias is not None:
                constant = norm.bias @ weight if bias is None else norm.bias @ weight + bias
            clean = self._clean_map(f"{what}{number}", layer, norm, weight)
            outputs.append(_accumulated(clean, scale, constant, amount, affine(directions, weight, None)))
        return maps.apart(outputs)

    def _clean_map(self, what: str, layer: int, norm: Norm | None, weight: Tensor) -> Float[Tensor, "prompt pos out"]:
        """``C(x) γ W`` of the clean run."""

        def make() -> Tensor:
            name = "mid" if what.startswith("up") else "pre"
            return affine(_shaped(norm, self._state(layer, name, layer)), weight, None)

        if self._alone(layer):
            return self.clean.at_readout(layer, what, make)
        return self.clean.everywhere(layer, what, self.start, make)


def _moved(part: _Part, device: torch.device) -> _Part:
    """The same where the next layer lies."""
    if part.stream.device == device:
        return part
    change = None if part.change is None else part.change.to(device, part.stream.dtype)
    return _Part(part.stream.to(device), change)


def _joined(parts: list[_Part]) -> Tensor:
    return parts[0].stream if len(parts) == 1 else torch.cat([part.stream for part in parts])


def _shaped(norm: Norm | None, x: Tensor) -> Tensor:
    """``C(x) γ``: what a norm does to ``x`` but for scale and bias."""
    if norm is None:
        return x
    x = norm.centre(x)
    return x if norm.weight is None else x * norm.weight


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
class Kept:
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
    def of(cls, keys: Tensor, values: Tensor, around: Surroundings) -> Kept:
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
    block: PlainBlock, q: Tensor, own: tuple[Tensor, Tensor], kept: Kept
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
