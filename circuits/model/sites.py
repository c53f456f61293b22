"""Names for the places of a transformer: components that write, and states where we read (SCIENCE section 1).

A block is two half-layers. *States* are the residual stream after attention (``resid_mid``) and after the MLP
(``resid_post``); *components* add to it: a half-layer as a whole (``L2.attn``, ``L2.mlp``), one attention head
(``L2H3``), one MLP neuron (``L4N117``). Only components can be circuit nodes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from circuits.errors import ComponentError

__all__ = [
    "Component", "Half", "Input", "Kind", "Part", "State", "head", "neuron", "parse", "parse_input", "states", "sublayer",
]  # fmt: skip


class Kind(StrEnum):
    """What sort of write a component is."""

    ATTN = "attn"
    """A whole attention half-layer: all heads and the output bias."""
    MLP = "mlp"
    """A whole MLP half-layer: all neurons and the output bias."""
    HEAD = "head"
    """One attention head, ablated at its value mix ``z`` before the output matrix."""
    NEURON = "neuron"
    """One scalar entering the MLP's output matrix (after the gate in gated MLPs)."""


class Half(StrEnum):
    """Which half of a block; also the two positions where the residual stream is read."""

    ATTN = "attn"
    """Post-attention: ``resid_mid``."""
    MLP = "mlp"
    """Post-MLP: ``resid_post``."""


_PATTERN = re.compile(r"L(\d{1,5})(?:\.(attn|mlp)|H(\d{1,7})|N(\d{1,7}))")


@dataclass(frozen=True, order=True)
class Component:
    """One write into the residual stream: ``L2.attn``, ``L2.mlp``, ``L2H3`` or ``L4N117``.

    ``index`` is the head or neuron number, -1 for a whole half-layer.
    """

    layer: int
    kind: Kind
    index: int = -1

    @property
    def name(self) -> str:
        if self.kind is Kind.HEAD:
            return f"L{self.layer}H{self.index}"
        if self.kind is Kind.NEURON:
            return f"L{self.layer}N{self.index}"
        return f"L{self.layer}.{self.kind}"

    @property
    def half(self) -> Half:
        """The half-layer this component writes in."""
        return Half.ATTN if self.kind in (Kind.ATTN, Kind.HEAD) else Half.MLP

    def __str__(self) -> str:
        return self.name


def head(layer: int, index: int) -> Component:
    """Attention head ``index`` of ``layer``."""
    return Component(layer, Kind.HEAD, index)


def neuron(layer: int, index: int) -> Component:
    """MLP neuron ``index`` of ``layer``."""
    return Component(layer, Kind.NEURON, index)


def sublayer(layer: int, half: Half) -> Component:
    """A whole half-layer."""
    return Component(layer, Kind.ATTN if half is Half.ATTN else Kind.MLP)


@lru_cache(maxsize=1 << 16)  # edges name their ends, and a search asks for the same ones over and over
def parse(name: str) -> Component:
    """The component with this name.

    Raises:
        ComponentError: the name is none of ``L2.attn``, ``L2.mlp``, ``L2H3``, ``L4N117``.
    """
    match = _PATTERN.fullmatch(name)
    if match is None:
        raise ComponentError(f"unknown component {name!r}; expected a name such as L2.attn, L2.mlp, L2H3 or L4N117")
    layer, half, head_index, neuron_index = match.groups()
    if half is not None:
        return Component(int(layer), Kind(half))
    if head_index is not None:
        return Component(int(layer), Kind.HEAD, int(head_index))
    return Component(int(layer), Kind.NEURON, int(neuron_index))


class Part(StrEnum):
    """What of a head reads the stream."""

    Q = "q"
    K = "k"
    V = "v"


@dataclass(frozen=True, order=True)
class Input:
    """Where a component reads the stream: ``L2.mlp``, ``L4N117``, ``L2H3`` (all of a head) or ``L2H3<q>`` (its queries alone).

    Whole attention half-layers read through their heads and have no input of their own.
    """

    component: Component
    part: Part | None = None

    def __post_init__(self) -> None:
        if self.component.kind is Kind.ATTN:
            raise ComponentError(f"{self.component} reads through its heads; name one of them, such as L2H3 or L2H3<q>")
        if self.part is not None and self.component.kind is not Kind.HEAD:
            raise ComponentError(f"{self.component} has no input <{self.part}>; only heads have q, k and v")

    @property
    def name(self) -> str:
        return self.component.name if self.part is None else f"{self.component.name}<{self.part}>"

    def __str__(self) -> str:
        return self.name


def parse_input(name: str) -> Input:
    """The input with this name.

    Raises:
        ComponentError: the name is none of ``L2.mlp``, ``L2H3``, ``L2H3<q>``, ``L4N117``.
    """
    stem, bracket, rest = name.partition("<")
    if bracket and rest not in ("q>", "k>", "v>"):
        raise ComponentError(f"unknown input {name!r}; expected a name such as L2.mlp, L2H3, L2H3<q> or L4N117")
    return Input(parse(stem), Part(rest[0]) if bracket else None)


@dataclass(frozen=True, order=True)
class State:
    """The residual stream after one half of one layer, where directions live and readings are taken."""

    layer: int
    half: Half

    @property
    def name(self) -> str:
        """``L2.mid`` (post-attention) or ``L2.post`` (post-MLP)."""
        return f"L{self.layer}.{'mid' if self.half is Half.ATTN else 'post'}"

    @property
    def depth(self) -> int:
        """Half-layers passed: 0 for ``L0.mid``, 1 for ``L0.post``, 2 for ``L1.mid`` ..."""
        return 2 * self.layer + (self.half is Half.MLP)

    def __str__(self) -> str:
        return self.name


def states(n_layers: int) -> tuple[State, ...]:
    """Both positions of every layer, in the order the stream passes them."""
    return tuple(State(layer, half) for layer in range(n_layers) for half in Half)
