"""Resuming a clean run above a changed write, at the read-out token: the one operation all exact effects are made of.

A head, a neuron or a half-layer is ablated by changing what it adds to the stream; nothing below it changes, so the upper
blocks alone are run again, many changes side by side. Two ways lead there and give the same numbers:
:class:`~circuits.model.plainrun.PlainRun` and :class:`~circuits.model.replay.Replay`; :mod:`circuits.model.ways` chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from circuits.model.anatomy import Model, Tokens
from circuits.model.running import Recording
from circuits.model.sites import Half, Input, Kind
from circuits.model.steering import Edits

__all__ = ["Branches", "Change", "Instead", "Replaced", "Resumer", "Slopes", "Subsets", "Trace"]


@dataclass(frozen=True)
class Change:
    """What one half-layer gains in each of several alternatives (the axis ``chunk``).

    Attributes:
        amount: ``[chunk, prompt, pos, rank]``; pos has length one where only the read-out token changes.
        write: ``[chunk, rank, d_model]``, what one unit of each rank writes into the half-layer's *sum*: ``W_O`` of a head, one
            row of ``W_out`` for a neuron. None: ``amount`` itself is added to what the half-layer puts out, behind any norm.
    """

    layer: int
    half: Half
    amount: Float[Tensor, "chunk prompt pos rank"]
    write: Float[Tensor, "chunk rank d_model"] | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> Change:
        """The same elsewhere, or in another precision."""
        if self.amount.device == device and self.amount.dtype == dtype:
            return self
        write = None if self.write is None else self.write.to(device, dtype)
        return Change(self.layer, self.half, self.amount.to(device, dtype), write)

    @property
    def summed(self) -> bool:
        """Whether the change enters the half-layer's sum, before any norm behind it."""
        return self.write is not None

    @cached_property
    def full(self) -> Float[Tensor, "chunk prompt pos d_model"]:
        """The change written out."""
        if self.write is None:
            return self.amount
        if self.amount.shape[-1] == 1:
            return self.amount * self.write[:, None]
        chunk, n, pos, rank = self.amount.shape
        return torch.bmm(self.amount.reshape(chunk, n * pos, rank), self.write).view(chunk, n, pos, -1)

    def __len__(self) -> int:
        return int(self.amount.shape[0])


@dataclass(frozen=True)
class Subsets:
    """Sets of heads and neurons that are kept while all others are replaced, several of them (the axis ``chunk``).

    Attributes:
        heads: ``[chunk, layer, head]``, True where kept.
        neurons: ``[chunk, layer, neuron]``, True where kept.
    """

    heads: Bool[Tensor, "chunk layer head"]
    neurons: Bool[Tensor, "chunk layer neuron"]

    def __len__(self) -> int:
        return int(self.heads.shape[0])

    def on(self, device: torch.device) -> Subsets:
        """The same on a device."""
        return self if self.heads.device == device else Subsets(self.heads.to(device), self.neurons.to(device))

    def part(self, start: int, stop: int) -> Subsets:
        """Some of them."""
        return Subsets(self.heads[start:stop], self.neurons[start:stop])


@dataclass(frozen=True)
class Replaced:
    """What stands for every head and neuron that is not kept.

    Attributes:
        z: ``[prompt, pos, head, d_head]`` for each layer.
        post: ``[prompt, pos, neuron]`` for each layer.
        where: 1 where the replacement applies, ``[prompt, pos]``.
    """

    z: tuple[Tensor, ...]
    post: tuple[Tensor, ...]
    where: Float[Tensor, "prompt pos"]


@dataclass(frozen=True)
class Instead:
    """An activation put in the place of a layer's own: ``z``, ``post``, or a half-layer's output, at every token."""

    kind: Kind
    tensor: Tensor


@dataclass(frozen=True)
class Trace:
    """The writes of some upper layers in one run, on autograd's path to the final stream.

    Attributes:
        layer: the first layer traced; all lists begin there.
        z, post, attn_out, mlp_out: ``[prompt, pos, ..]`` for each layer. In the last layer ``pos`` may have length one, the
            read-out token: above the last attention no other reaches the answer, so all other gradients are zero.
        final: final stream at the read-out, ``[prompt, d_model]``.
    """

    layer: int
    z: tuple[Tensor, ...]
    post: tuple[Tensor, ...]
    attn_out: tuple[Tensor, ...]
    mlp_out: tuple[Tensor, ...]
    final: Float[Tensor, "prompt d_model"]

    @classmethod
    def of_lists(cls, layer: int, found: Mapping[Kind, Sequence[Tensor]], final: Tensor) -> Trace:
        """From what was found layer by layer."""
        z, post, attn_out, mlp_out = (tuple(found[kind]) for kind in (Kind.HEAD, Kind.NEURON, Kind.ATTN, Kind.MLP))
        return cls(layer, z, post, attn_out, mlp_out, final)

    def of(self, kind: Kind) -> tuple[Tensor, ...]:
        """The writes of one kind."""
        return {Kind.HEAD: self.z, Kind.NEURON: self.post, Kind.ATTN: self.attn_out, Kind.MLP: self.mlp_out}[kind]


class Slopes(ABC):
    """How one metric changes with what single inputs read."""

    @abstractmethod
    def at(self, inputs: Sequence[Input]) -> Float[Tensor, "input prompt pos d_model"]:
        """Gradients at the stream as read by each of some inputs of one layer and half, through this input alone.

        Norms in front are differentiated. Heads that share keys and values have a share each, which is what reaches the
        metric through the head's own scores (or its own mix); the shares sum to the gradient of the shared head.

        Raises:
            UnsupportedModelError: a head's part is named where the model is replayed.
        """


class Branches(ABC):
    """One run under autograd.

    Attributes:
        final: final stream at the read-out, ``[prompt, d_model]``.
    """

    final: Tensor

    @abstractmethod
    def pull(self, metric: Float[Tensor, ""], *, keep: bool) -> Slopes:
        """One backward from a sum over prompts of a function of ``final``; with ``keep`` another may follow."""


class Resumer(ABC):
    """One clean run, ready to be entered above any half-layer.

    Attributes:
        clean: final stream at the read-out, ``[prompt, d_model]``, without a change and by the same arithmetic as with one.
        notice: why the slower way was taken; empty otherwise.
        side_by_side: whether :meth:`after` may be called from several threads at once.
    """

    clean: Tensor
    notice: str = ""
    side_by_side: bool = False

    def __init__(self, model: Model, run: Recording) -> None:
        self.model = model
        self.run = run

    @property
    def tokens(self) -> Tokens:
        return self.run.tokens

    @property
    def top(self) -> int:
        """The last layer."""
        return self.model.n_layers - 1

    @abstractmethod
    def after(self, changes: Sequence[Change], *, at_readout: bool) -> Float[Tensor, "chunk prompt d_model"]:
        """Final stream at the read-out with each change alone; alternatives of all changes one after the other.

        Changes come in ascending order of layer, and with ``at_readout`` they concern the read-out token alone.
        """

    @abstractmethod
    def keeping(
        self, subsets: Subsets, replaced: Replaced, edits: Edits | None = None
    ) -> Float[Tensor, "chunk prompt d_model"]:
        """Final stream at the read-out with everything outside each subset replaced; embeddings and biases stay.

        ``edits``, one for each subset, change the stream itself on the way.
        """

    @abstractmethod
    def trace(
        self, stream: Float[Tensor, "prompt pos d_model"], *, layer: int = 0, instead: Instead | None = None
    ) -> Trace:
        """Run layers from ``layer`` on, entered with ``stream``, under autograd.

        ``stream`` or the tensor of ``instead`` (put into the first layer traced) should require gradients.
        """

    @abstractmethod
    def branches(
        self, stream: Float[Tensor, "prompt pos d_model"], *, layer: int = 0, instead: Instead | None = None
    ) -> Branches:
        """Run all layers from ``stream`` (the embedding) under autograd, ready to be asked for slopes at inputs.

        ``instead`` is put into ``layer``; what this layer reads there reaches nothing then and has slopes of zero.
        """

    @abstractmethod
    def reheard(self, place: Input, streams: Float[Tensor, "chunk prompt pos d_model"]) -> Change:
        """What a component's half-layer gains when this input alone reads other streams, the clean run's everywhere else.

        Of a head whose part is named, the other parts keep the clean stream, and so do heads that share its keys and values.
        The streams are those the half-layer reads: post-attention for an MLP, ``resid_pre`` otherwise.

        Raises:
            UnsupportedModelError: a head's part is named where the model is replayed.
        """

    def picked(
        self, states: Shaped[Tensor, "*chunk prompt pos d"], start: int = 0
    ) -> Shaped[Tensor, "*chunk prompt 1 d"]:
        """States at each prompt's read-out token, the axis ``pos`` kept with length one.

        ``start`` is the position the states begin at.
        """
        tokens = self.tokens.on(states.device)
        rows = self._rows if self._rows.device == states.device else self._rows.to(states.device)
        found: Tensor = states[..., rows, tokens.last - start, :]
        return found.unsqueeze(-2)

    @cached_property
    def _rows(self) -> Tensor:
        return torch.arange(len(self.tokens), device=self.tokens.last.device)
