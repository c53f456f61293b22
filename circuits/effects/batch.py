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
from circuits.effects.price import Texts
from circuits.model.anatomy import Model, Tokens
from circuits.model.readout import Readout
from circuits.model.resuming import Resumer
from circuits.model.running import Recording, Streams, record
from circuits.model.sites import Half
from circuits.model.ways import resumer, resumer_in
from circuits.model.words import require_words
from circuits.prompts.datasets import Prompts

__all__ = ["Batch", "Plan", "texts_in", "token_budget"]

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

    @cached_property
    def resume_narrow(self) -> Resumer:
        """The same in bfloat16."""
        return resumer_in(self.resume, torch.bfloat16)

    def where(self, positions: Positions) -> Float[Tensor, "prompt pos"]:
        """1 where an ablation applies: every real token, or the read-out token."""
        if positions is Positions.ALL:
            return self.tokens.mask.to(self.run.final)
        return (self.tokens.place == 2).to(self.run.final)

    def factor(self, layer: int, half: Half) -> Tensor | None:
        """The post-norm's frozen factor at the read-out [prompt, d_model]; None where there is no post-norm."""
        frozen = self.run.post_norm.get((layer, half))
        return None if frozen is None else self.tokens.at_readout(frozen)


def token_budget(d_model: int, d_mlp: int, device: torch.device) -> int:
    """Padded tokens a batch may hold."""
    floats = _FLOATS_CPU if device.type == "cpu" else _FLOATS_CUDA
    return max(64, floats // max(d_mlp, d_model))


def texts_in(rows: list[np.ndarray], lengths: np.ndarray) -> Texts:
    """How many texts each batch has and how long they are, for their price."""
    return Texts(np.array([len(r) for r in rows]), np.array([int(lengths[r].max()) for r in rows]))


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
            PromptError: a text holds a word that is not in the model's vocabulary of whole words.
            MeasurementError: a text is longer than the context.
            AnswerError: an emotion has no answer token.
        """
        require_words(model, prompts)
        lengths = model.encode(prompts.texts, prompts.ids).mask.sum(1).cpu().numpy()
        budget = token_budget(model.d_model, model.mlp_width, model.device)
        return cls(model, prompts, readout or Readout.of(model, prompts.answers), ablation, lengths, budget)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_tokens(self) -> int:
        """Real tokens in one pass over the prompts."""
        return int(self.lengths.sum())

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Row numbers of each batch, in file order."""
        return [np.sort(rows) for rows in batches(self.prompts, self.lengths, self.budget)]

    def texts(self, rows: np.ndarray | None = None) -> Texts:
        """How many texts one batch has, or all have, and how long they are, for their price."""
        return texts_in(self.rows if rows is None else [rows], self.lengths)

    @cached_property
    def _means(self) -> DatasetMeans | None:
        if self.ablation is not Ablation.MEAN:
            return None
        runs = (self._record(rows) for rows in self.rows)
        return DatasetMeans.over((run.streams, run.tokens) for run in runs)

    def batches(self) -> Iterator[Batch]:
        """The batches, one at a time."""
        for rows in self.rows:
            yield self.batch(rows)

    def batch(self, rows: np.ndarray) -> Batch:
        """One batch, run once."""
        run, part = self._record(rows), self._part(rows)
        with torch.no_grad():
            replaced = replacement(run.streams, run.tokens, part, self.ablation, self._means)
            embed = replaced_embedding(run.embed, run.tokens, part, self.ablation)
        return Batch(self.model, self.readout, rows, part, run, replaced, embed)

    def clean(self, rows: np.ndarray) -> Float[Tensor, "prompt emotion"]:
        """The metric of some rows, and nothing else."""
        run = self._record(rows)
        return self.readout(run.tokens.at_readout(run.final))

    def _part(self, rows: np.ndarray) -> Prompts:
        mask = np.zeros(len(self.prompts), dtype=bool)
        mask[rows] = True
        return self.prompts.where(mask)

    def _record(self, rows: np.ndarray) -> Recording:
        part = self._part(rows)
        return record(self.model, self.model.encode(part.texts, part.ids))
