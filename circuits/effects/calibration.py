"""How fast this machine is at this work, measured for one second, and what a measurement will take.

A block of the model's own shape is run on a chunk of the size a sweep uses, on as many cores; operations counted as
:mod:`circuits.effects.price` counts them. Nothing is measured on the texts themselves, so a price can be named for a model
that is not there: the shape is enough.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from circuits.effects.chunks import bytes_each, in_chunks, ready
from circuits.effects.kinds import Positions
from circuits.effects.price import READY, Dims, Texts
from circuits.model.machine import keep_memory, precise
from circuits.model.norms import Norm
from circuits.model.plain import Linears, PlainBlock, Rotation, Shape, Surroundings
from circuits.model.sites import Component, Half, head, neuron, sublayer
from circuits.prompts.emotions import EMOTIONS

__all__ = ["Item", "calibrated", "price_list"]

_SECONDS = 1.0
_ROUND = 4
"""Chunks a core between two looks at the clock: alone, a core waits for the others."""
_SIZE = 4
"""Bytes of a float32."""


def calibrated(dims: Dims, texts: Texts, device: torch.device, *, seconds: float = _SECONDS) -> float:
    """Operations a second, measured for about ``seconds`` with random weights of the model's shape."""
    keep_memory()
    n, width = texts.batches[len(texts.batches) // 2]
    block = _random_block(dims, device)
    mask = torch.zeros(n, 1, width, width, device=device)
    around = Surroundings(mask, None, None, torch.full((n,), width - 1, device=device))
    stream = torch.randn(1, n, width, dims.d_model, device=device)

    @torch.no_grad()
    def work(start: int, stop: int) -> Tensor:
        return block(stream, around)

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    done, elapsed = 0, 0.0
    with precise(device):
        work(0, 1)  # memory and kernels are there
        start = time.perf_counter()
        while elapsed < seconds:
            for _ in in_chunks(_ROUND * threads, 1, work, threads=threads):
                pass
            ready(device)
            done += _ROUND * threads
            elapsed = time.perf_counter() - start
    return done * n * width * dims.block(width) / elapsed


def _random_block(dims: Dims, device: torch.device) -> PlainBlock:
    def weight(rows: int, columns: int) -> tuple[Tensor, None]:
        return torch.randn(rows, columns, device=device) / rows**0.5, None

    shape = Shape(dims.heads, dims.kv_heads, dims.d_head)
    wide, narrow = dims.heads * dims.d_head, dims.kv_heads * dims.d_head
    norm = Norm(torch.ones(dims.d_model, device=device), None, 1e-5, centred=False)
    return PlainBlock(
        shape=shape, sequential=True, norm_attn=norm, norm_mlp=norm, post_attn=None, post_mlp=None, norm_q=None, norm_k=None,
        flat_qk=False, qkv=Linears([weight(dims.d_model, n) for n in (wide, narrow, narrow)], fused=True),
        out=weight(wide, dims.d_model), rotation=Rotation.NONE, scale=dims.d_head**-0.5, cap=None,
        up=Linears([weight(dims.d_model, dims.d_mlp) for _ in range(1 + dims.gated)]), activation=F.silu,
        down=weight(dims.d_mlp, dims.d_model),
    )  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One line of a price list.

    Attributes:
        components: how many are measured.
        forwards: cost in forwards over the texts, unembedding left out.
        naive: what one hooked forward a component would cost, in forwards.
        operations: floating-point operations.
        seconds: expected time on this machine.
        memory: bytes at the peak, weights included, estimated from above.
    """

    what: str
    components: int
    forwards: float
    naive: int
    operations: int
    seconds: float
    memory: int


def price_list(dims: Dims, texts: Texts, rate: float, positions: Positions, *, chunk: int) -> list[Item]:
    """What each method costs on all components of each kind.

    Args:
        rate: operations a second (:func:`calibrated`).
        chunk: ablations side by side on all cores together.
    """
    forward = dims.forward(texts)
    ready_price = READY * forward
    most = max(n * w for n, w in texts.batches)
    weights = _SIZE * (dims.parameters + 2 * dims.vocab * dims.d_model)
    held = weights + dims.activations(most, _SIZE)
    changed = most if positions is Positions.ALL else max(n for n, _ in texts.batches)
    beside = chunk * bytes_each(dims.d_model, dims.d_mlp, changed, _SIZE)

    def item(what: str, count: int, operations: int, naive: int, memory: int) -> Item:
        whole = operations + ready_price
        return Item(what, count, whole / forward, naive, whole, whole / rate, memory)

    def exact(what: str, components: Sequence[Component]) -> Item:
        return item(
            what, len(components), sum(dims.sweep(components, texts, positions)), len(components), held + beside
        )

    layers = range(dims.layers)
    count = dims.layers * (dims.heads + dims.d_mlp + 2)
    graph = dims.activations(most, _SIZE) * 2
    return [
        exact("half-layers, exact", [sublayer(layer, half) for layer in layers for half in Half]),
        exact("heads, exact", [head(layer, i) for layer in layers for i in range(dims.heads)]),
        exact("neurons, exact", [neuron(layer, i) for layer in layers for i in range(dims.d_mlp)]),
        item("all, gradient", count, dims.gradient(texts, len(EMOTIONS)), count, held + graph),
        item("direct effects", count - 2 * dims.layers, dims.direct(count, texts), count, held),
    ]
