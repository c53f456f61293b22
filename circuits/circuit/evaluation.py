"""Judging a circuit: how much of the emotion it carries alone, next to random circuits of its own shape.

``faithfulness(C) = (m(C) - m(∅)) / (m(M) - m(∅))`` with everything outside C ablated, m the mean logit difference of the
emotion over its own texts, M the whole model and ∅ no component at all (embeddings and biases stay). A judge never
changes what it judges: nothing here holds a reference to a circuit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.circuit.estimates import DRAWS, ends, positive
from circuits.effects.batch import Plan
from circuits.effects.keeping import metric_keeping, subsets_of
from circuits.effects.kinds import Positions
from circuits.effects.own import OwnTexts, own_texts
from circuits.effects.price import Dims, Texts
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.readout import Readout
from circuits.model.resuming import Resumer
from circuits.model.running import record
from circuits.model.sites import Component
from circuits.model.ways import resumer
from circuits.prompts.emotions import Emotion

__all__ = ["Bench", "Faithfulness"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Faithfulness:
    """The three metrics [logits] behind a faithfulness, the ratio, and its 95% interval over scenarios."""

    value: float
    low: float
    high: float
    circuit: float
    empty: float
    whole: float
    n: int


class Bench:
    """Texts of one emotion on which many circuits can be run.

    Attributes:
        texts: the emotion's own texts with the replacement values of their scenarios.
        whole, empty: the metric [logits] per scenario with everything kept and with nothing kept.
    """

    def __init__(self, model: Model, readout: Readout, e: Emotion, texts: Sequence[OwnTexts]) -> None:
        if not texts:
            raise MeasurementError(f"there are no prompts of {e}; expected at least one to judge a circuit on")
        self.model = model
        self.readout = readout
        self.emotion = e
        self.texts = tuple(texts)
        self.whole = self._whole()
        self.empty = self.metric(())

    @classmethod
    def every(cls, plan: Plan, positions: Positions = Positions.ALL, *, states: bool = False) -> dict[Emotion, Bench]:
        """A bench for each emotion, from one pass over the plan's prompts; with ``states`` the stream can be edited too."""
        found = own_texts(plan, positions, states=states)
        return {e: cls(plan.model, plan.readout, e, texts) for e, texts in found.items()}

    @property
    def n(self) -> int:
        """Scenarios."""
        return len(self.whole)

    @property
    def operations(self) -> int:
        """Floating-point operations of one forward pass over the texts."""
        shapes = [piece.tokens.ids.shape for piece in self.texts]
        texts = Texts(np.array([n for n, _ in shapes]), np.array([width for _, width in shapes]))
        return Dims.of(self.model).forward(texts)

    def metric(self, kept: Collection[Component]) -> Array:
        """The emotion's logit difference [logits] per scenario with everything outside ``kept`` ablated."""
        result: Array = self.metrics([kept])[0]
        return result

    def metrics(self, kept: Sequence[Collection[Component]]) -> Array:
        """The same of several circuits at once, ``[circuit, scenario]``.

        Raises:
            ComponentError: the model lacks a component.
            MeasurementError: a circuit gives NaN or infinite logits, or memory does not suffice.
        """
        subsets = subsets_of(self.model, kept)
        parts = [
            metric_keeping(resume, self.readout, piece.replaced, subsets)[..., self.emotion.column]
            for piece, resume in zip(self.texts, self.resumers, strict=True)
        ]
        return self.by_scenario(torch.cat(parts, 1))

    @cached_property
    def resumers(self) -> tuple[Resumer, ...]:
        """The clean run of every piece of the texts, ready to be changed."""
        return tuple(resumer(self.model, record(self.model, piece.tokens)) for piece in self.texts)

    def _whole(self) -> Array:
        clean = [self.readout(resume.clean)[:, self.emotion.column] for resume in self.resumers]
        result: Array = self.by_scenario(torch.cat(clean)[None])[0]
        return result

    def by_scenario(self, values: Tensor) -> Array:
        """``[circuit, prompt]`` in the order of the texts to the means of scenarios, ``[circuit, scenario]``."""
        found, place = np.unique(np.concatenate([piece.scenarios for piece in self.texts]), return_inverse=True)
        total = np.zeros((len(found), len(values)))
        np.add.at(total, place, values.T.cpu().to(torch.float64).numpy())
        result: Array = (total / np.bincount(place)[:, None]).T
        if not np.isfinite(result).all():
            raise MeasurementError(f"a circuit of {self.emotion} gives NaN or infinite logits; measure in float32")
        return result

    def faithfulness(self, kept: Collection[Component]) -> Faithfulness:
        """Faithfulness of the circuit made of ``kept``.

        Raises:
            MeasurementError: the whole model is not clearly better than none of it, so the ratio means nothing (both are
                named): within two standard errors, or in 2.5% of the resamples of the scenarios and more.
        """
        return self.ratio(self.metric(kept))

    def ratio(self, circuit: Array) -> Faithfulness:
        """Faithfulness from metrics [scenario] already at hand."""
        gap = self.whole - self.empty
        mean = float(gap.mean())
        error = float(gap.std(ddof=1) / np.sqrt(len(gap))) if len(gap) > 1 else np.inf
        undefined = (
            f"faithfulness of {self.emotion} is undefined: the whole model has {self.whole.mean():.3g} logits and the "
            f"empty circuit {self.empty.mean():.3g} (difference {mean:.3g} ± {error:.2g} standard error); "
        )
        if mean <= 2 * error or mean < 1e-6:
            raise MeasurementError(f"{undefined}the model does not tell this emotion apart on these prompts")
        value = float((circuit - self.empty).mean() / mean)
        low = high = float("nan")
        if len(gap) >= MIN_SCENARIOS:
            rows = np.random.default_rng(0).integers(0, len(gap), (DRAWS, len(gap)))
            below = gap[rows].mean(1)
            low, high = ends((circuit - self.empty)[rows].mean(1) / positive(below))
            if np.isnan(low):
                nothing = int((below <= 0).sum())
                raise MeasurementError(
                    f"{undefined}in {nothing} of {DRAWS:,} resamples of the scenarios the model adds nothing, so the share "
                    "has no interval; it takes more scenarios"
                )
        return Faithfulness(
            value, low, high, float(circuit.mean()), float(self.empty.mean()), float(self.whole.mean()), len(gap)
        )
