"""What single inputs of a run in plain blocks mean to a metric: slopes at the stream as each input alone reads it.

The model is run once as it is. Keeping a copy of the stream for every input that reads it would cost several
forwards; instead one backward gives the gradients at the projections (each query head's own queries, keys and
values, and what neurons hear), and the way from there to the stream is a matrix and a norm, whose derivative is
written out (:meth:`Norm.pulled`). Gradients are taken in front of rotations and of the norms of single queries and
keys. A norm over all heads' queries at once (OLMo-2) is pulled through head by head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.norms import Norm
from circuits.model.plain import PlainBlock, Shape, Surroundings, affine
from circuits.model.resuming import Branches, Change, Instead, Slopes
from circuits.model.sites import Half, Input, Kind, Part

__all__ = ["PlainBranches", "change_of", "heard"]


@dataclass(frozen=True)
class _Layer:
    """One layer of a run: the streams its halves read (detached), and its projections on autograd's path.

    Attributes:
        heads: queries, keys and values of every query head, ``[prompt, pos, head, d_head]``.
        flat: queries and keys in front of a norm over all heads at once, detached; empty without one.
    """

    read: Float[Tensor, "prompt pos d_model"]
    heard_from: Float[Tensor, "prompt pos d_model"]
    heads: tuple[Tensor, Tensor, Tensor]
    heard: tuple[Tensor, ...]
    flat: tuple[Tensor, ...]


class PlainBranches(Branches):
    """A run in plain blocks under autograd, entered with ``stream``; ``instead`` is put into the layer it comes with."""

    @torch.enable_grad()
    def __init__(
        self,
        blocks: Sequence[PlainBlock],
        around: Sequence[Surroundings],
        stream: Float[Tensor, "prompt pos d_model"],
        picked: Callable[[Tensor], Tensor],
        instead: tuple[int, Instead] | None = None,
    ) -> None:
        self.blocks = blocks
        self.instead = instead
        self.layers: list[_Layer] = []
        rows = stream.detach().requires_grad_(True)[None]
        for layer, (block, here) in enumerate(zip(blocks, around, strict=True)):
            rows = self._through(block, here, rows.to(block.device), layer)
        self.final = picked(rows)[0, :, 0]

    def _through(self, block: PlainBlock, around: Surroundings, rows: Tensor, layer: int) -> Tensor:
        def passed(kind: Kind, own: Tensor) -> Tensor:
            given = self.instead is not None and self.instead[0] == layer and self.instead[1].kind is kind
            return self.instead[1].tensor[None] if self.instead is not None and given else own

        shape = block.shape
        q, k, v = block.qkv(block.read(rows))
        flat: tuple[Tensor, ...] = ()
        each = replace(block, shape=Shape(shape.heads, shape.heads, shape.d_head))
        if block.flat_qk:
            assert block.norm_q is not None
            assert block.norm_k is not None
            flat = q[0].detach(), k[0].detach()
            q, k = block.norm_q(q), block.norm_k(k)
            each = replace(each, norm_q=None, norm_k=None, flat_qk=False)
        # Axes in front are taken off and put on again, so that the tensors kept lie on the path.
        heads = (
            _by_head(q, shape.heads, 1)[0], _by_head(k, shape.kv_heads, shape.group)[0],
            _by_head(v, shape.kv_heads, shape.group)[0],
        )  # fmt: skip
        q, k, v = (t[None].flatten(-2) for t in heads)
        z = each.attend(each.queries(q, around), each.keys(k, around), each.values(v), around.mask)
        mid = rows + passed(Kind.ATTN, block.behind(True, block.summed(passed(Kind.HEAD, z))))
        source = mid if block.sequential else rows
        heard = tuple(t[0] for t in block.before(source))
        self.layers.append(_Layer(rows[0].detach(), source[0].detach(), heads, heard, flat))
        post = passed(Kind.NEURON, block.fired(tuple(t[None] for t in heard)))
        return mid + passed(Kind.MLP, block.behind(False, block.mlp_sum(post)))

    def pull(self, metric: Tensor, *, keep: bool) -> PlainSlopes:
        tensors = [tensor for layer in self.layers for tensor in (*layer.heads, *layer.heard)]
        # What reads in front of a given activation reaches nothing; anything else unused would be an error.
        given = self.instead is not None
        return PlainSlopes(self, torch.autograd.grad(metric, tensors, retain_graph=keep, materialize_grads=given))


class PlainSlopes(Slopes):
    """Slopes of one metric; ``gradients`` are those at each layer's projections, in order."""

    def __init__(self, run: PlainBranches, gradients: Sequence[Tensor]) -> None:
        self._run = run
        self._width = len(gradients) // len(run.layers)
        self._gradients = gradients

    @torch.no_grad()
    def at(self, inputs: Sequence[Input]) -> Tensor:
        component = inputs[0].component
        block, layer = self._run.blocks[component.layer], self._run.layers[component.layer]
        start = component.layer * self._width
        gradients = self._gradients[start : start + self._width]
        if component.half is Half.ATTN:
            found, norm, stream = self._heads(block, layer, gradients[:3], inputs), block.norm_attn, layer.read
        else:
            found, norm, stream = self._neurons(block, gradients[3:], inputs), block.norm_mlp, layer.heard_from
        return found if norm is None else norm.pulled(stream, found)

    def _heads(self, block: PlainBlock, layer: _Layer, gradients: Sequence[Tensor], inputs: Sequence[Input]) -> Tensor:
        """Gradients at what the norm puts out."""
        found = layer.read.new_zeros(len(inputs), *layer.read.shape)
        for number, part in enumerate(Part):
            places = [i for i, one in enumerate(inputs) if one.part in (part, None)]
            if not places:
                continue
            heads = [inputs[i].component.index for i in places]
            gradient = gradients[number][:, :, heads].permute(2, 0, 1, 3)
            norm = (block.norm_q, block.norm_k, None)[number] if block.flat_qk else None
            value = _projected(block, number, norm, heads, gradient, layer.flat)
            if len(places) == len(inputs):
                found += value
            else:
                found[places] += value
        return found

    def _neurons(self, block: PlainBlock, gradients: Sequence[Tensor], inputs: Sequence[Input]) -> Tensor:
        maps = [weight for weight, _ in block.up.parts]
        pairs = list(zip(gradients, maps, strict=True))
        if inputs[0].component.kind is Kind.MLP:
            return torch.stack(
                [sum((g @ weight.T for g, weight in pairs), start=pairs[0][0].new_zeros(()))] * len(inputs)
            )
        index = [one.component.index for one in inputs]
        # One product for all neurons: gate and value of each are a map of rank two (or one).
        amounts = torch.stack([g[..., index].permute(2, 0, 1) for g, _ in pairs], -1)
        rows = torch.stack([weight[:, index].T for _, weight in pairs], 1)
        return torch.bmm(amounts.flatten(1, 2), rows).view(*amounts.shape[:3], -1)


def _by_head(x: Tensor, heads: int, group: int) -> Float[Tensor, "chunk prompt pos head d_head"]:
    """Projections head by head, each shared one once for every head that uses it."""
    x = x.view(*x.shape[:-1], heads, -1)
    return x if group == 1 else x.repeat_interleave(group, -2)


def _projected(
    block: PlainBlock,
    number: int,
    norm: Norm | None,
    heads: Sequence[int],
    gradient: Float[Tensor, "input prompt pos d_head"],
    flat: tuple[Tensor, ...],
) -> Float[Tensor, "input prompt pos d_model"]:
    """Gradients of single heads' queries (0), keys (1) or values (2), at what is projected."""
    weight = block.qkv.parts[number][0]
    own = list(heads) if number == 0 else [h // block.shape.group for h in heads]
    if norm is not None:
        # Every head's projection sets the scale of all: the gradient of one head reaches back through all of them.
        wide = gradient.new_zeros(*gradient.shape[:3], weight.shape[1] // block.shape.d_head, block.shape.d_head)
        wide[torch.arange(len(own)), :, :, own] = gradient
        return norm.pulled(flat[number], wide.flatten(-2)) @ weight.T
    maps = weight.reshape(weight.shape[0], -1, block.shape.d_head).permute(1, 2, 0)[own]
    return torch.bmm(gradient.flatten(1, 2), maps).view(*gradient.shape[:3], -1)


def heard(
    block: PlainBlock,
    around: Surroundings,
    place: Input,
    streams: Float[Tensor, "chunk prompt pos d_model"],
    clean: tuple[Tensor, ...] = (),
) -> tuple[Tensor, ...]:
    """A component's activation ``[chunk, prompt, pos, rank]`` when this input reads ``streams``; of a head also its q, k and v.

    ``clean`` is the same of the clean run; parts of a head other than the one that is named are taken from there.
    """
    component, shape = place.component, block.shape
    if component.kind is Kind.MLP:
        return (block.behind(False, block.mlp_sum(block.activations(streams))),)
    if component.kind is Kind.NEURON:
        x = streams if block.norm_mlp is None else block.norm_mlp(streams)
        columns = slice(component.index, component.index + 1)
        return (block.fired(tuple(_affine(x, weight, bias, columns) for weight, bias in block.up.parts)),)
    x = block.read(streams)
    q, k, v = (
        clean[1 + number].expand(len(x), -1, -1, -1, -1)
        if clean and place.part not in (part, None)
        else _asked(block, around, component.index, number, x)
        for number, part in enumerate(Part)
    )
    alone = replace(block, shape=Shape(1, 1, shape.d_head))
    return alone.attend(q, k, v, around.mask)[..., 0, :], q, k, v


def change_of(block: PlainBlock, place: Input, gain: Float[Tensor, "chunk prompt pos rank"]) -> Change:
    """What a half-layer gains when a component's activation does."""
    component, chunk = place.component, len(gain)
    if component.kind is Kind.MLP:
        return Change(component.layer, Half.MLP, gain)
    if component.kind is Kind.NEURON:
        write = block.down[0][None, component.index, None]
    else:
        write = block.out[0].reshape(block.shape.heads, block.shape.d_head, -1)[None, component.index]
    return Change(component.layer, component.half, gain, write.expand(chunk, -1, -1))


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None, columns: slice) -> Tensor:
    """Some columns of a map."""
    return affine(x, weight[:, columns], None if bias is None else bias.reshape(-1)[columns])


def _asked(block: PlainBlock, around: Surroundings, head: int, number: int, x: Tensor) -> Tensor:
    """One head's queries (0), keys (1) or values (2) of what its half reads: ``[chunk, prompt, pos, 1, d_head]``."""
    shape = block.shape
    own = head if number == 0 else head // shape.group
    weight, bias = block.qkv.parts[number]
    columns = slice(own * shape.d_head, (own + 1) * shape.d_head)
    norm = (block.norm_q, block.norm_k, None)[number]
    if block.flat_qk and norm is not None:
        asked, norm = norm(_affine(x, weight, bias, slice(None)))[..., columns], None
    else:
        asked = _affine(x, weight, bias, columns)
    one = replace(block, shape=Shape(1, 1, shape.d_head), norm_q=norm, norm_k=norm, flat_qk=False)
    if number == 2:
        return one.values(asked)
    return one.queries(asked, around) if number == 0 else one.keys(asked, around)
