"""A block in plain tensors: what a decoder layer computes, written once for the common shapes.

Sequential or parallel halves, LayerNorm or RMSNorm, norms before or behind the halves, grouped queries, query and key norms,
rotary embeddings of any width and pairing, capped scores, plain or gated MLP: one function each, without a hook between the
matrix products. Replaying a block this way is two to three times faster than through the bridge's hooked modules, and the
last block can be computed at one token.

Nothing here knows a family by name: :mod:`circuits.model.extraction` fits these parts to a model by comparing with what the
model's own blocks compute, and :mod:`circuits.model.resuming` compares again on every batch that is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from circuits.model.norms import Norm

__all__ = ["ACTIVATIONS", "Linears", "PlainBlock", "Rotation", "Shape", "Surroundings", "affine", "rotated", "tables"]

_FUSED_BYTES = 64 * 2**20


def _gelu_tanh(x: Tensor) -> Tensor:
    """``x σ(2u)`` with ``u = √(2/π) (x + .044715 x³)``: GELU's tanh form by the logistic function, a third of the time."""
    slope = 2 * 0.7978845608028654
    factor = torch.addcmul(x.new_tensor(slope), x, x, value=slope * 0.044715)
    return F.silu(x * factor) / factor if _recorded(x) else F.silu(x.mul_(factor), inplace=True).div_(factor)


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=not _recorded(x))


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=not _recorded(x))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _recorded(x: Tensor) -> bool:
    """Whether autograd needs ``x`` itself."""
    return torch.is_grad_enabled() and x.requires_grad


ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (_silu, _gelu_tanh, F.gelu, _relu, _quick_gelu, _squared_relu)
"""Nonlinearities a block is fitted with; they may overwrite what they are given."""


class Linears:
    """Several linear maps of the same input; with ``fused`` one matrix product if they are small enough to be copied.

    Attributes:
        parts: weight ``[d_model, out]`` and bias of every map; of the copy, where there is one.
        pieces: the same as the matrix products that are made.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor | None]], *, fused: bool = False) -> None:
        self.parts = tuple(parts)
        self._ends = (0, *accumulate(weight.shape[1] for weight, _ in self.parts))
        first = self.parts[0][0]
        self._fused = fused and self._ends[-1] * first.shape[0] * first.element_size() <= _FUSED_BYTES
        self.pieces = (self._together(),) if self._fused else self.parts
        if self._fused:
            # Whoever asks for one map reads the copy as well: were some to read the weights themselves, a clean run could be
            # reproduced from what was written to them since, and its changes answered from what was not.
            (weight, bias), ends = self.pieces[0], list(zip(self._ends, self._ends[1:], strict=False))
            self.parts = tuple((weight[:, a:b], None if bias is None else bias[a:b]) for a, b in ends)

    def _together(self) -> tuple[Tensor, Tensor | None]:
        weight = torch.cat([weight for weight, _ in self.parts], 1)
        if all(bias is None for _, bias in self.parts):
            return weight, None
        return weight, torch.cat([w.new_zeros(w.shape[1]) if b is None else b.reshape(-1) for w, b in self.parts])

    def __call__(self, x: Tensor, start: int = 0, stop: int | None = None) -> tuple[Tensor, ...]:
        """The outputs of maps ``start`` to ``stop``."""
        stop = len(self.parts) if stop is None else stop
        if not self._fused:
            return tuple(affine(x, weight, bias) for weight, bias in self.parts[start:stop])
        weight, bias = self.pieces[0]
        a, b = self._ends[start], self._ends[stop]
        return self._split(affine(x, weight[:, a:b], None if bias is None else bias[a:b]), start, stop)

    def apart(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Outputs of all :attr:`pieces`, map by map."""
        return self._split(outputs[0], 0, len(self.parts)) if self._fused else tuple(outputs)

    def _split(self, whole: Tensor, start: int, stop: int) -> tuple[Tensor, ...]:
        if stop - start == 1:
            return (whole,)
        return torch.split(whole, [self._ends[i + 1] - self._ends[i] for i in range(start, stop)], -1)

    def to(self, dtype: torch.dtype) -> Linears:
        """The same maps in another precision."""
        return Linears([(w.to(dtype), None if b is None else b.to(dtype)) for w, b in self.parts], fused=self._fused)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W + b`` over the last axis, one matrix product whatever axes come before."""
    flat = x.reshape(-1, x.shape[-1])
    result = flat @ weight if bias is None else torch.addmm(bias.reshape(-1), flat, weight)
    return result.view(*x.shape[:-1], weight.shape[1])


class Rotation(StrEnum):
    """How rotary tables turn queries and keys."""

    NONE = "none"
    """Not at all: learned positions, or a layer without them."""
    HALVES = "halves"
    """Dimension i turns with i + r/2 (Llama, GPT-NeoX)."""
    PAIRS = "pairs"
    """Neighbours turn together, tables as given (Cohere)."""
    PAIRS_RELAID = "pairs_relaid"
    """Neighbours turn together, tables laid out by halves (GLM)."""
    PAIRS_SPREAD = "pairs_spread"
    """Neighbours turn together, sine before cosine, one column a pair (GPT-J)."""


def tables(rotation: Rotation, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [row, pos, 1, r] of the tables a block was called with."""
    cos, sin = first, second
    if rotation is Rotation.PAIRS_RELAID:
        half = cos.shape[-1] // 2
        cos, sin = (t[..., :half].repeat_interleave(2, -1) for t in (cos, sin))
    elif rotation is Rotation.PAIRS_SPREAD:
        cos, sin = (t.repeat_interleave(2, -1) for t in (second, first))
    return cos[:, :, None], sin[:, :, None]


def rotated(x: Tensor, rotation: Rotation, cos: Tensor, sin: Tensor) -> Tensor:
    """``x`` [.., pos, head, d_head] turned by the tables in its first r dimensions."""
    r = cos.shape[-1]
    turned, rest = (x, None) if r == x.shape[-1] else (x[..., :r], x[..., r:])
    result = turned * cos
    first, second = (
        (slice(r // 2), slice(r // 2, None)) if rotation is Rotation.HALVES else (slice(0, None, 2), slice(1, None, 2))
    )
    result[..., first].addcmul_(turned[..., second], sin[..., first], value=-1)
    result[..., second].addcmul_(turned[..., first], sin[..., second])
    return result if rest is None else torch.cat((result, rest), -1)


@dataclass(frozen=True)
class Surroundings:
    """What a block of one clean run was called with.

    Attributes:
        mask: added to attention scores, ``[prompt, 1, pos, pos]``.
        cos, sin: rotary tables ``[1 or prompt, pos, 1, r]``; None without rotation.
        last: read-out position of each prompt.
    """

    mask: Tensor
    cos: Tensor | None
    sin: Tensor | None
    last: Tensor

    def to(self, dtype: torch.dtype) -> Surroundings:
        """The same in another precision."""
        cos, sin = (None if t is None else t.to(dtype) for t in (self.cos, self.sin))
        return Surroundings(self.mask.clamp_min(torch.finfo(dtype).min).to(dtype), cos, sin, self.last)

    def queried_from(self, start: int) -> Surroundings:
        """The same with queries from position ``start`` on; keys keep every position."""
        if start == 0:
            return self
        cos, sin = (None if t is None else t[:, start:] for t in (self.cos, self.sin))
        return Surroundings(self.mask[:, :, start:], cos, sin, self.last)

    def at_readout(self) -> Surroundings:
        """The same for the read-out token as the only query; keys keep every position."""
        rows = torch.arange(len(self.last), device=self.last.device)
        mask = self.mask.expand(len(rows), *self.mask.shape[1:])[rows, :, self.last][:, :, None]
        return Surroundings(mask, _picked(self.cos, rows, self.last), _picked(self.sin, rows, self.last), self.last)


def _picked(table: Tensor | None, rows: Tensor, last: Tensor) -> Tensor | None:
    return None if table is None else table.expand(len(rows), *table.shape[1:])[rows, last][:, None]


@dataclass(frozen=True)
class Shape:
    """Heads, key-value heads and head width."""

    heads: int
    kv_heads: int
    d_head: int

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class PlainBlock:
    """One decoder layer. Tensors have leading axes ``chunk`` (alternatives side by side) and ``prompt``."""

    shape: Shape
    sequential: bool
    norm_attn: Norm | None
    norm_mlp: Norm | None
    post_attn: Norm | None
    post_mlp: Norm | None
    norm_q: Norm | None
    norm_k: Norm | None
    flat_qk: bool
    """Query and key norms run over all heads at once."""
    qkv: Linears
    out: tuple[Tensor, Tensor | None]
    rotation: Rotation
    scale: float
    cap: float | None
    up: Linears
    """Gate and value of a gated MLP, or the one map of a plain one."""
    activation: Callable[[Tensor], Tensor]
    down: tuple[Tensor, Tensor | None]

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.down[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.down[0].dtype

    # -- attention -------------------------------------------------------------------------------------------------

    def read(self, stream: Tensor) -> Tensor:
        """What attention reads of the stream."""
        return stream if self.norm_attn is None else self.norm_attn(stream)

    def queries(self, q: Tensor, around: Surroundings) -> Float[Tensor, "chunk prompt pos head d_head"]:
        """Turned queries from their projection, not yet scaled."""
        return self._placed(q, self.norm_q, around, self.shape.heads)

    def keys(self, k: Tensor, around: Surroundings) -> Float[Tensor, "chunk prompt pos kv_head d_head"]:
        """Turned keys from their projection."""
        return self._placed(k, self.norm_k, around, self.shape.kv_heads)

    def values(self, v: Tensor) -> Float[Tensor, "chunk prompt pos kv_head d_head"]:
        return v.view(*v.shape[:-1], self.shape.kv_heads, self.shape.d_head)

    def _placed(self, x: Tensor, norm: Norm | None, around: Surroundings, heads: int) -> Tensor:
        if norm is not None and self.flat_qk:
            x = norm(x)
        x = x.view(*x.shape[:-1], heads, self.shape.d_head)
        if norm is not None and not self.flat_qk:
            x = norm(x)
        if around.cos is None or around.sin is None:
            return x
        return rotated(x, self.rotation, around.cos, around.sin)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, first: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "chunk prompt query head d_head"]:
        """Value mixes ``z`` of queries over keys; ``mask`` [prompt, 1, query, pos].

        ``first`` are keys and values ``[1, prompt, 1, kv_head, d_head]`` standing before all others.
        """
        shape, (chunk, n, n_q) = self.shape, q.shape[:3]
        rows = chunk * n * shape.kv_heads
        grouped = q.view(chunk, n, n_q, shape.kv_heads, shape.group, shape.d_head).permute(0, 1, 3, 4, 2, 5)
        grouped = grouped.reshape(rows, shape.group * n_q, shape.d_head)
        keys, values = k.permute(0, 1, 3, 4, 2), v.transpose(2, 3)
        if first is not None:
            before = first[0].permute(0, 1, 3, 4, 2), first[1].transpose(2, 3)
            keys = torch.cat([before[0].expand(chunk, *before[0].shape[1:]), keys], 4)
            values = torch.cat([before[1].expand(chunk, *before[1].shape[1:]), values], 3)
        keys, values = keys.reshape(rows, shape.d_head, -1), values.reshape(rows, -1, shape.d_head)
        scores = self.scores(grouped, keys).view(chunk, n, shape.heads, n_q, -1)
        pattern = self.pattern(scores, mask).view(rows, shape.group * n_q, -1)
        z = torch.bmm(pattern, values)
        z = z.view(chunk, n, shape.kv_heads, shape.group, n_q, shape.d_head).permute(0, 1, 4, 2, 3, 5)
        return z.reshape(chunk, n, n_q, shape.heads, shape.d_head)

    def scores(self, queries: Float[Tensor, "row query d"], keys: Float[Tensor, "row d pos"]) -> Tensor:
        """Scaled scores ``[row, query, pos]``."""
        return torch.baddbmm(queries.new_empty(1, 1, 1), queries, keys, beta=0, alpha=self.scale)

    def pattern(self, scores: Float[Tensor, "chunk prompt head query pos"], mask: Tensor) -> Tensor:
        """Attention pattern of raw scores, which are overwritten; softmax in float32 at least."""
        if self.cap is not None:
            scores = self.cap * torch.tanh(scores / self.cap)
        scores = scores.add_(mask)
        if scores.dtype in (torch.bfloat16, torch.float16):
            return scores.float().softmax(-1).to(scores.dtype)
        return scores.softmax(-1)

    def mixed(self, stream: Float[Tensor, "chunk prompt pos d_model"], around: Surroundings) -> Tensor:
        """``z`` of every head at every position, ``[chunk, prompt, pos, head, d_head]``."""
        q, k, v = self.qkv(self.read(stream))
        return self.attend(self.queries(q, around), self.keys(k, around), self.values(v), around.mask)

    def summed(self, z: Tensor) -> Tensor:
        """Sum of the heads' writes and ``b_O``, before any norm behind it, ``[.., d_model]``."""
        return affine(z.flatten(-2), *self.out)

    # -- MLP -------------------------------------------------------------------------------------------------------

    def before(self, stream: Tensor) -> tuple[Tensor, ...]:
        """What neurons hear of the stream the MLP reads: post-attention, or ``resid_pre`` in parallel blocks."""
        return self.up(stream if self.norm_mlp is None else self.norm_mlp(stream))

    def fired(self, inner: tuple[Tensor, ...]) -> Tensor:
        """Neurons, after the gate, ``[.., neuron]``."""
        fired = self.activation(inner[0])
        if len(inner) == 1:
            return fired
        return fired * inner[1] if _recorded(fired) else fired.mul_(inner[1])

    def activations(self, stream: Tensor) -> Tensor:
        """Neurons of the stream the MLP reads."""
        return self.fired(self.before(stream))

    def some_activations(self, stream: Tensor, index: Tensor) -> Tensor:
        """The same of some neurons only, ``[.., index]``."""
        heard = stream if self.norm_mlp is None else self.norm_mlp(stream)
        parts = (
            (weight[:, index], None if bias is None else bias.reshape(-1)[index]) for weight, bias in self.up.parts
        )
        return self.fired(tuple(affine(heard, *part) for part in parts))

    def mlp_sum(self, activations: Tensor) -> Tensor:
        """Sum of the neurons' writes and ``b_out``, before any norm behind it."""
        return affine(activations, *self.down)

    # -- both ------------------------------------------------------------------------------------------------------

    def behind(self, attention: bool, total: Tensor) -> Tensor:
        """A half-layer's sum as it enters the stream: through the norm behind it, where there is one."""
        norm = self.post_attn if attention else self.post_mlp
        return total if norm is None else norm(total)

    def onward(self, stream: Tensor, attn_out: Tensor) -> Tensor:
        """``resid_post`` from ``resid_pre`` and what attention writes."""
        mid = stream + attn_out
        return mid + self.behind(False, self.mlp_sum(self.activations(mid if self.sequential else stream)))

    def __call__(self, stream: Float[Tensor, "chunk prompt pos d_model"], around: Surroundings) -> Tensor:
        """The whole block."""
        return self.onward(stream, self.behind(True, self.summed(self.mixed(stream, around))))

    def to(self, dtype: torch.dtype) -> PlainBlock:
        """The same block in another precision."""
        norms = {
            name: norm if (norm := getattr(self, name)) is None else norm.to(dtype=dtype)
            for name in ("norm_attn", "norm_mlp", "post_attn", "post_mlp", "norm_q", "norm_k")
        }
        pairs = {
            name: (pair[0].to(dtype), None if pair[1] is None else pair[1].to(dtype))
            for name, pair in (("out", self.out), ("down", self.down))
        }
        return PlainBlock(**{**self.__dict__, **norms, **pairs, "qkv": self.qkv.to(dtype), "up": self.up.to(dtype)})
