"""A batch of prompts ready to be measured: one clean run, its replacement values, its clean metric.

Every estimator works on the same three things, so that they differ in nothing but the estimator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.ablation import DatasetMeans, batches, replaced_embedding, replacement
from circuits.effects.kinds import Ablation, Positions
from circuits.model.anatomy import Model, Tokens
from circuits.model.readout import Readout
from circuits.model.resuming import Resumer
from circuits.model.running import Recording, Streams, record
from circuits.model.sites import Half
from circuits.model.ways import resumer
from circuits.prompts.datasets import Prompts

__all__ = ["Batch", "Plan"]

_FLOATS_CPU = 1_500_000
_FLOATS_CUDA = 24_000_000


@dataclass(frozen=True)
class Batch:
    """Some whole scenarios: rows of the plan's prompts, their clean run and replacement values."""

    model: Model
    readout: Readout
    rows: np.ndarray
    prompts: Prompts
    run: Recording
    replaced: Streams
    replaced_embed: Tensor
    """Replacement of the embedding, used by edge scores; the embedding itself is never ablated."""

    @property
    def tokens(self) -> Tokens:
        return self.run.tokens

    @cached_property
    def clean(self) -> Float[Tensor, "prompt emotion"]:
        """The metric without ablation."""
        return self.readout(self.tokens.at_readout(self.run.final))

    @cached_property
    def resume(self) -> Resumer:
        """The clean run, ready to be entered with changed writes."""
        return resumer(self.model, self.run)

    def where(self, positions: Positions) -> Float[Tensor, "prompt pos"]:
        """1 where an ablation applies: every real token, or the read-out token."""
        if positions is Positions.ALL:
            return self.tokens.mask.to(self.run.final)
        return (self.tokens.place == 2).to(self.run.final)

    def factor(self, layer: int, half: Half) -> Tensor | None:
        """The post-norm's frozen factor at the read-out [prompt, d_model]; None where there is no post-norm."""
        frozen = self.run.post_norm.get((layer, half))
        return None if frozen is None else self.tokens.at_readout(frozen)


@dataclass(frozen=True)
class Plan:
    """How a prompt set is walked through in batches of whole scenarios.

    Attributes:
        lengths: tokens of every prompt.
        budget: padded tokens a batch may hold: about a processor cache's worth of the widest activation.
    """

    model: Model
    prompts: Prompts
    readout: Readout
    ablation: Ablation
    lengths: np.ndarray
    budget: int

    @classmethod
    def of(cls, model: Model, prompts: Prompts, ablation: Ablation, *, readout: Readout | None = None) -> Plan:
        """Encode every prompt once, so that a text that cannot be measured fails before anything is computed.

        Raises:
            MeasurementError: a text is longer than the context.
            AnswerError: an emotion has no answer token.
        """
        lengths = model.encode(prompts.texts, prompts.ids).mask.sum(1).cpu().numpy()
        floats = _FLOATS_CPU if model.device.type == "cpu" else _FLOATS_CUDA
        budget = max(64, floats // max(model.d_mlp, model.d_model))
        return cls(model, prompts, readout or Readout.of(model, prompts.answers), ablation, lengths, budget)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def n_tokens(self) -> int:
        """Real tokens in one pass over the prompts."""
        return int(self.lengths.sum())

    @cached_property
    def _rows(self) -> list[np.ndarray]:
        return batches(self.prompts, self.lengths, self.budget)

    @cached_property
    def _means(self) -> DatasetMeans | None:
        if self.ablation is not Ablation.MEAN:
            return None
        runs = (self._record(rows, grad=False) for rows in self._rows)
        return DatasetMeans.over((run.streams, run.tokens) for run in runs)

    def batches(self, *, grad: bool = False) -> Iterator[Batch]:
        """The batches, one at a time; with ``grad`` their clean run keeps its autograd graph."""
        for rows in self._rows:
            run = self._record(rows, grad=grad)
            part = self._part(rows)
            with torch.no_grad():
                clean = run.streams.map(torch.Tensor.detach)
                replaced = replacement(clean, run.tokens, part, self.ablation, self._means)
                embed = replaced_embedding(run.embed.detach(), run.tokens, part, self.ablation)
            yield Batch(self.model, self.readout, rows, part, run, replaced, embed)

    def _part(self, rows: np.ndarray) -> Prompts:
        mask = np.zeros(len(self.prompts), dtype=bool)
        mask[rows] = True
        return self.prompts.where(mask)

    def _record(self, rows: np.ndarray, *, grad: bool) -> Recording:
        rows.sort()  # Prompts.where keeps file order
        part = self._part(rows)
        return record(self.model, self.model.encode(part.texts, part.ids), grad=grad)
