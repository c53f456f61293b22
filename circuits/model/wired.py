"""A run in which only some edges are kept: every reader has a stream of its own.

Each node of a circuit (a head, read through its queries, keys and values together, or a neuron) and the read-out reads
a stream to which a sender adds its own activation in this run where the edge between the two is kept, and its
replacement where it is not; all that is no node adds its replacement. Behind a post-norm the sum of a half-layer *as
this reader sees it* is normalised anew, so that with all edges kept the run is the one in which the nodes are kept
(:meth:`circuits.model.resuming.Resumer.keeping`). Where no ablation applies (padding, or tokens in front of the
read-out) every stream is the clean one.

The stream with everything replaced is summed up once; a run then goes from half-layer to half-layer through the nodes
alone. Work grows with readers times senders, not with the size of the model.

Reference: Conmy et al. 2023 (ACDC), there with a corrupt run in the place of replacement values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.model.branches import heard
from circuits.model.plain import PlainBlock
from circuits.model.plainrun import PlainRun
from circuits.model.resuming import Replaced
from circuits.model.sites import Component, Half, Input, Kind

__all__ = ["Wired", "Wiring"]

_FLOATS = 4_000_000
"""Numbers of readers' streams that are written out at a time."""


@dataclass(frozen=True)
class Wiring:
    """Several sets of edges (the axis ``chunk``) among the same nodes.

    Attributes:
        nodes: heads and neurons, those of lower half-layers first.
        kept: True where an edge is kept, from the embedding (row 0) and every node to every node and the read-out (last).
    """

    nodes: tuple[Component, ...]
    kept: Bool[Tensor, "chunk sender reader"]

    def __len__(self) -> int:
        return int(self.kept.shape[0])

    def places(self, layer: int, half: Half) -> list[int]:
        """Which nodes lie in a half-layer."""
        return [i for i, c in enumerate(self.nodes) if c.layer == layer and c.half is half]


@dataclass(frozen=True)
class _Source:
    """What the nodes of one half-layer did in this run.

    Attributes:
        places: numbers of the nodes.
        amounts: own minus replaced activations, ``[chunk, prompt, pos, node · rank]``.
        writes: ``[node · rank, d_model]``, before any norm behind.
    """

    layer: int
    half: Half
    places: list[int]
    amounts: Tensor
    writes: Tensor


class Wired:
    """A clean run in plain blocks with what stands for every write, ready to be run with any set of edges."""

    @torch.no_grad()
    def __init__(self, plain: PlainRun, replaced: Replaced, embed: Float[Tensor, "prompt pos d_model"]) -> None:
        self.plain = plain
        self.blocks = plain.blocks
        run, self.where = plain.run, replaced.where == 1
        # Outside of ``where`` nothing is replaced, and nothing there depends on what is: the clean run is the replacement.
        self._new = {
            kind: tuple(
                torch.where(_wide(self.where, own), new, own)
                for new, own in zip(news, run.streams.of(kind), strict=True)
            )
            for kind, news in ((Kind.HEAD, replaced.z), (Kind.NEURON, replaced.post))
        }
        self._way = torch.where(_wide(self.where, run.embed), run.embed - embed, torch.zeros_like(embed))
        self._sums: dict[tuple[int, Half], Tensor] = {}
        self._base: dict[tuple[int, Half], Tensor] = {}
        stream = run.embed
        for layer, block in enumerate(self.blocks):
            stream = stream.to(block.device)
            self._base[layer, Half.ATTN] = stream
            self._sums[layer, Half.ATTN] = block.summed(self._new[Kind.HEAD][layer])
            mid = stream + block.behind(True, self._sums[layer, Half.ATTN])
            self._base[layer, Half.MLP] = mid if block.sequential else stream
            self._sums[layer, Half.MLP] = block.mlp_sum(self._new[Kind.NEURON][layer])
            stream = mid + block.behind(False, self._sums[layer, Half.MLP])
        self._final = stream

    @torch.no_grad()
    def final(self, wiring: Wiring) -> Float[Tensor, "chunk prompt d_model"]:
        """Final stream at the read-out with each set of edges."""
        sources: list[_Source] = []
        top = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            before = list(sources)
            for half in Half:
                places = wiring.places(layer, half)
                if places:
                    # In parallel blocks the MLP does not hear its own layer's heads.
                    audible = sources if half is Half.MLP and block.sequential else before
                    own = self._own(wiring, audible, layer, half, places, late=layer == top and half is Half.MLP)
                    sources.append(self._source(wiring, layer, half, places, own))
        streams = self._heard(wiring, sources, self._final, [len(wiring.nodes)], late=True)
        return streams[:, 0, :, 0]

    def _own(
        self, wiring: Wiring, sources: list[_Source], layer: int, half: Half, places: list[int], *, late: bool
    ) -> Float[Tensor, "chunk prompt pos rank"]:
        """Activations of the nodes of a half-layer, one after the other; ``late``: at the read-out token alone."""
        base = self._base[layer, half]
        size = max(1, _FLOATS // (len(wiring) * base.numel()))
        found = []
        for start in range(0, len(places), size):
            some = places[start : start + size]
            streams = self._heard(wiring, sources, base, some, late=late)
            nodes = [wiring.nodes[i] for i in some]
            if half is Half.ATTN:
                around = self.plain.around[layer]
                found += [heard(self.blocks[layer], around, Input(c), streams[:, i])[0] for i, c in enumerate(nodes)]
            else:
                found.append(_fired(self.blocks[layer], nodes, streams))
        return torch.cat(found, -1)

    def _heard(
        self, wiring: Wiring, sources: list[_Source], base: Tensor, readers: list[int], *, late: bool
    ) -> Float[Tensor, "chunk reader prompt pos d_model"]:
        """The streams some readers of one place read."""
        device = base.device
        kept = wiring.kept.to(device)[:, :, readers].transpose(1, 2)  # [chunk, reader, sender]
        lost = (~kept[:, :, 0, None, None, None]).to(base.dtype) * self._at(self._way.to(device), late)
        streams = self._at(base, late) - lost
        for source in sources:
            gates = kept[:, :, [1 + i for i in source.places]]
            if not gates.any():
                continue
            rank = source.amounts.shape[-1] // len(source.places)
            gates = gates.repeat_interleave(rank, -1)[:, :, None, None]
            amounts = source.amounts
            if late and amounts.shape[2] > 1:
                amounts = self.plain.picked(amounts)
            gained = (amounts.to(device)[:, None] * gates) @ source.writes.to(device)
            streams += self._behind(source, gained, late)
        return streams

    def _behind(self, source: _Source, gained: Tensor, late: bool) -> Tensor:
        """What a half-layer's gain is in the stream."""
        block, attention = self.blocks[source.layer], source.half is Half.ATTN
        if (block.post_attn if attention else block.post_mlp) is None:
            return gained
        total = self._at(self._sums[source.layer, source.half], late)
        gained = gained.to(total.device)
        return (block.behind(attention, total + gained) - block.behind(attention, total)).to(gained.device)

    def _source(self, wiring: Wiring, layer: int, half: Half, places: list[int], own: Tensor) -> _Source:
        block, index = self.blocks[layer], [wiring.nodes[i].index for i in places]
        late = own.shape[2] == 1
        if half is Half.ATTN:
            new = self._new[Kind.HEAD][layer][:, :, index].flatten(2)
            writes = block.out[0].view(block.shape.heads, block.shape.d_head, -1)[index].flatten(0, 1)
        else:
            new = self._new[Kind.NEURON][layer][:, :, index]
            writes = block.down[0][index]
        where = self._at(self.where[..., None], late).to(own.device)
        return _Source(layer, half, places, (own - self._at(new, late)) * where, writes)

    def _at(self, tensor: Tensor, late: bool) -> Tensor:
        """The tensor ``[prompt, pos, ..]``, at the read-out token alone where ``late``."""
        return self.plain.picked(tensor) if late else tensor


def _fired(
    block: PlainBlock, nodes: list[Component], streams: Float[Tensor, "chunk reader prompt pos d_model"]
) -> Float[Tensor, "chunk prompt pos reader"]:
    """Each neuron when it reads its own stream."""
    x = streams if block.norm_mlp is None else block.norm_mlp(streams)
    index = [c.index for c in nodes]
    inner = []
    for weight, bias in block.up.parts:
        found = torch.einsum("crpqd,dr->cpqr", x, weight[:, index])
        inner.append(found if bias is None else found + bias.reshape(-1)[index])
    return block.fired(tuple(inner))


def _wide(where: Tensor, like: Tensor) -> Tensor:
    return where.to(like.device).reshape(*where.shape, *[1] * (like.dim() - 2))
