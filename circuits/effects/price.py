"""What a measurement costs, in floating-point operations, before it is paid.

The counts are those of the plain way (:mod:`circuits.model.plainrun`), multiply and add being two operations; norms, softmax
and nonlinearities are left out (a tenth to a quarter of the time, less in larger models). *Forwards* are the same counts in
units of one forward pass over the same texts, unembedding left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from circuits.effects.kinds import Positions
from circuits.model.anatomy import Model
from circuits.model.plain import Rotation
from circuits.model.sites import Component, Kind
from circuits.model.sizes import Sizes
from circuits.model.ways import ways

__all__ = ["READY", "Dims", "Texts", "groups"]

READY = 3
"""What making a batch ready costs, in forwards: the recorded run, its replacement values, the check of the plain way."""


@dataclass(frozen=True)
class Texts:
    """How many texts there are and how long: padded tokens and longest text of every batch.

    Attributes:
        prompts: texts in each batch.
        width: tokens of the longest text in each batch, to which the others are padded.
    """

    prompts: NDArray[np.int64]
    width: NDArray[np.int64]

    @classmethod
    def alike(cls, prompts: int, width: int, *, budget: int | None = None) -> Texts:
        """Texts of one length, in batches of at most ``budget`` tokens (whole scenarios of six texts)."""
        most = prompts if budget is None else max(6, budget // width // 6 * 6)
        sizes = [min(most, prompts - start) for start in range(0, prompts, most)]
        return cls(np.array(sizes), np.array([width] * len(sizes)))

    @property
    def batches(self) -> list[tuple[int, int]]:
        """Texts and width of each batch."""
        return list(zip(self.prompts.tolist(), self.width.tolist(), strict=True))

    @property
    def tokens(self) -> int:
        """Padded tokens in all."""
        return sum(n * w for n, w in self.batches)


@dataclass(frozen=True)
class Dims(Sizes):
    """The sizes of a model that decide what it costs, and the costs."""

    @classmethod
    def of(cls, model: Model | Sizes) -> Dims:
        """Of a loaded model, or of one that is only a shape."""
        if isinstance(model, Sizes):
            return cls(**{field.name: getattr(model, field.name) for field in fields(Sizes)})
        blocks = ways(model).blocks
        return cls(
            layers=model.n_layers, d_model=model.d_model, heads=model.n_heads, kv_heads=model.n_kv_heads, d_head=model.d_head,
            d_mlp=model.mlp_width, gated=model.capabilities.gated, vocab=model.vocab, sequential=model.capabilities.sequential,
            turned=blocks is None or blocks[-1].norm_k is not None or blocks[-1].rotation is not Rotation.NONE,
        )  # fmt: skip

    # -- operations a token ----------------------------------------------------------------------------------------

    @property
    def _qkv(self) -> int:
        return 2 * self.d_model * (self.heads + 2 * self.kv_heads) * self.d_head

    @property
    def _out(self) -> int:
        return 2 * self.d_model * self.heads * self.d_head

    @property
    def _up(self) -> int:
        return 2 * self.d_model * self.d_mlp * (2 if self.gated else 1)

    @property
    def _mlp(self) -> int:
        return self._up + 2 * self.d_model * self.d_mlp

    def _mixing(self, width: int) -> int:
        """Scores and value mixes of one query over ``width`` keys."""
        return 4 * width * self.heads * self.d_head

    def block(self, width: int) -> int:
        """One block, one token among ``width``."""
        return self._qkv + self._out + self._mlp + self._mixing(width)

    # -- passes ----------------------------------------------------------------------------------------------------

    def forward(self, texts: Texts) -> int:
        """One pass over all texts, without the unembedding."""
        return sum(n * w * self.layers * self.block(w) for n, w in texts.batches)

    def exact(self, component: Component, texts: Texts, positions: Positions) -> int:
        """One exact effect on all texts."""
        one = self._everywhere if positions is Positions.ALL else self._at_readout
        return sum(n * one(component, w) for n, w in texts.batches)

    def sweep(self, components: Iterable[Component], texts: Texts, positions: Positions) -> list[int]:
        """Exact effects of many components, each."""
        known: dict[tuple[int, Kind], int] = {}
        prices = []
        for component in components:
            place = (component.layer, component.kind)
            if place not in known:
                known[place] = self.exact(component, texts, positions)
            prices.append(known[place])
        return prices

    def gradient(self, texts: Texts, metrics: int) -> int:
        """All first-order effects: one forward, one backward a metric (activations only: as much as a forward)."""
        return (1 + metrics) * self.forward(texts)

    def direct(self, count: int, texts: Texts) -> int:
        """Direct effects of ``count`` components: one write and its products with stream and answers a text."""
        return 16 * count * self.d_model * int(texts.prompts.sum())

    def _everywhere(self, component: Component, width: int) -> int:
        """One text: own MLP where attention changed, then the blocks above, the last at the read-out token only."""
        above = self.layers - 1 - component.layer
        if above == 0:
            return self._at_readout(component, width)
        cost, first = 0, self.block(width)
        if component.kind in (Kind.HEAD, Kind.ATTN) and self.sequential:
            up = self._up if component.kind is Kind.ATTN else self._up * self.d_head // self.d_model
            cost += width * (self._mlp - self._up + up)
        elif component.kind is Kind.NEURON:
            first -= self._qkv - self._qkv // self.d_model
        if above > 1:
            cost += width * (first + (above - 2) * self.block(width))
        keys = 2 * self.d_model * self.kv_heads * self.d_head if self.turned else 0
        late = 4 * self.heads * self.d_model if not self.turned else 2 * self.heads * (self.d_model + self.d_head)
        return cost + width * (keys + late) + self.block(width)

    def _at_readout(self, component: Component, width: int) -> int:
        """One text, one token: own MLP where attention changed, then the blocks above."""
        above = self.layers - 1 - component.layer
        own = self._mlp if component.kind in (Kind.HEAD, Kind.ATTN) and self.sequential else 0
        saved = self._qkv - self._qkv // self.d_model if component.kind is Kind.NEURON and above else 0
        return own + above * self.block(width) - saved

    # -- memory ----------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        """Weights of the blocks."""
        per = (
            (self.heads + 2 * self.kv_heads) * self.d_head
            + self.heads * self.d_head
            + (3 if self.gated else 2) * self.d_mlp
        )
        return self.layers * self.d_model * per

    def activations(self, tokens: int, size: int) -> int:
        """Bytes of one recorded run and its replacement values, ``size`` bytes a number."""
        per = 4 * self.d_model + self.heads * self.d_head + self.d_mlp
        return tokens * self.layers * size * (per + self.heads * self.d_head + self.d_mlp + 2 * self.d_model)


def groups(prices: Sequence[int], most: int) -> list[list[int]]:
    """Places in groups of neighbours, each worth at most ``most`` operations (one alone may be worth more)."""
    result: list[list[int]] = []
    worth = 0
    for place, price in enumerate(prices):
        if result and worth + price <= most:
            result[-1].append(place)
            worth += price
        else:
            result.append([place])
            worth = price
    return result
