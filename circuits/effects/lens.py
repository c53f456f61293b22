"""Words that one component's write promotes and suppresses: the logit lens of a head or a neuron.

A neuron writes along one direction, its row of ``W_out``, whatever the text: shown for one unit of activation. A head writes
another vector on every text; what it does for an emotion is the mean of its write at the read-out over that emotion's texts
minus the mean over the other emotions' (each of the five counting alike). Both are read through the final norm, its scale
frozen to the mean over the texts (:mod:`circuits.model.vocabulary`). This is the direct way to the words alone: what later
components make of a write is in its effects. The interval of a head's word comes from resampling scenarios, the norm's mean
scale being kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from circuits import jsontext
from circuits.effects.batch import Plan
from circuits.effects.statistics import MIN_SCENARIOS, tail_of
from circuits.errors import ComponentError, MeasurementError, SettingsError
from circuits.model.looking import require_part
from circuits.model.sites import Component, Half, Kind
from circuits.model.vocabulary import Vocabulary
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.prompts.metrics import UNIT

__all__ = ["Lens", "LensWord", "Written", "written"]

Array = NDArray[np.float64]

_DRAWS = 2000


@dataclass(frozen=True)
class LensWord:
    """What a write adds to one word's logit, less the mean over all words [logits], with its 95% interval.

    The interval is NaN for a neuron, whose weights are no sample, and below five scenarios.
    """

    word: str
    id: int
    logit: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = jsontext.plain(
            {"word": self.word, "id": self.id, "logit": self.logit, "low": self.low, "high": self.high}
        )
        return found


@dataclass(frozen=True)
class Lens:
    """Words promoted and suppressed by one component's write.

    Attributes:
        emotion: whose texts a head's write was taken on; None for a neuron, whose lens knows no emotion.
        what: what was read, in words.
        scale: the final norm's scale it was read at, the mean over the texts.
        promoted: the words raised most, highest first.
        suppressed: the words lowered most, lowest first.
        n: scenarios behind a head's write; those behind the scale for a neuron.
        seconds: what it took, without waiting for others.
    """

    name: str
    emotion: Emotion | None
    what: str
    scale: float
    promoted: tuple[LensWord, ...]
    suppressed: tuple[LensWord, ...]
    n: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values; an interval that does not exist is None."""
        return {
            "name": self.name, "emotion": None if self.emotion is None else str(self.emotion), "what": self.what,
            "unit": UNIT, "scale": self.scale, "promoted": [word.as_dict() for word in self.promoted],
            "suppressed": [word.as_dict() for word in self.suppressed], "n": self.n, "seconds": self.seconds,
        }  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What all heads mixed at the read-out of some texts, and the final norm's mean scale there.

    Attributes:
        emotions, scenarios: of every text, ``[prompt]``.
        z: ``[prompt, head, d_head]`` for each layer.
        factors: of post-norms, ``[prompt, d_model]``; empty where there are none.
    """

    vocabulary: Vocabulary
    emotions: NDArray[np.int64]
    scenarios: NDArray[np.int64]
    z: tuple[Tensor, ...]
    factors: dict[tuple[int, Half], Tensor]
    scale: float

    @property
    def n(self) -> int:
        """Scenarios."""
        return len(np.unique(self.scenarios))

    def of_head(self, component: Component) -> Float[Tensor, "prompt d_model"]:
        """What one head writes at the read-out, after any post-norm with its scale frozen to each text."""
        layer = component.layer
        write = self.z[layer][:, component.index] @ self.vocabulary.model.W_O(layer)[component.index]
        factor = self.factors.get((layer, Half.ATTN))
        return write if factor is None else write * factor

    def of_neuron(self, component: Component) -> Float[Tensor, " d_model"]:
        """What one unit of a neuron's activation writes; behind a post-norm times its mean factor over the texts."""
        write = self.vocabulary.model.W_out(component.layer)[component.index]
        factor = self.factors.get((component.layer, Half.MLP))
        return write if factor is None else write * factor.mean(0)

    @torch.no_grad()
    def lens(self, component: Component, e: Emotion | None, *, top: int) -> Lens:
        """Words a head (for one emotion) or a neuron promotes and suppresses; ``seconds`` is left to the caller.

        Raises:
            ComponentError: no head or neuron of the model, or a head without an emotion.
            MeasurementError: an emotion without texts.
            SettingsError: ``top`` is not from 1 to the size of the vocabulary.
        """
        require_part(self.vocabulary.model, component)
        if not 1 <= top <= len(self.vocabulary):
            raise SettingsError(f"the number of words is {top}; expected 1 to {len(self.vocabulary)}")
        if component.kind is Kind.NEURON:
            logits = self.vocabulary.promoted(self.of_neuron(component), self.scale)
            return self._told(component, None, _NEURON, logits, None, top)
        if e is None:
            raise ComponentError(f"{component} is a head: what it writes differs from text to text; name an emotion")
        sums, counts = self._summed(self.of_head(component))
        mean = (sums.sum(0) / torch.tensor(counts.sum(0)[:, None]).to(sums)).to(self.z[0].dtype)
        others = [other.column for other in EMOTIONS if other is not e]
        logits = self.vocabulary.promoted(mean[e.column] - mean[others].mean(0), self.scale)
        return self._told(component, e, _HEAD.format(e), logits, (sums, counts), top)

    def _summed(self, write: Tensor) -> tuple[Float[Tensor, "scenario emotion d_model"], Array]:
        """Sums of writes and numbers of texts, by scenario and emotion."""
        names, place = np.unique(self.scenarios, return_inverse=True)
        counts = np.zeros((len(names), len(EMOTIONS)))
        np.add.at(counts, (place, self.emotions), 1)
        missing = [str(e) for e in EMOTIONS if not counts[:, e.column].any()]
        if missing:
            raise MeasurementError(f"there are no texts of {', '.join(missing)}; expected all six to compare a head on")
        sums = torch.zeros(len(names) * len(EMOTIONS), write.shape[1], dtype=torch.float64, device=write.device)
        sums.index_add_(0, torch.tensor(place * len(EMOTIONS) + self.emotions, device=write.device), write.double())
        return sums.view(len(names), len(EMOTIONS), -1), counts

    def _told(
        self,
        component: Component,
        e: Emotion | None,
        what: str,
        logits: Tensor,
        sample: tuple[Tensor, Array] | None,
        top: int,
    ) -> Lens:
        ends = [logits.topk(top, largest=largest).indices for largest in (True, False)]
        shown = torch.cat(ends)
        low, high = self._interval(e, sample, shown)
        values = logits[shown].tolist()
        words = [
            LensWord(self.vocabulary.word(i), i, float(value), float(a), float(b))
            for i, value, a, b in zip(shown.tolist(), values, low, high, strict=True)
        ]
        return Lens(
            component.name, e, what, self.scale, promoted=tuple(words[:top]), suppressed=tuple(words[top:]), n=self.n,
            seconds=0.0,
        )  # fmt: skip

    def _interval(self, e: Emotion | None, sample: tuple[Tensor, Array] | None, shown: Tensor) -> tuple[Array, Array]:
        """95% bootstrap over scenarios of the shown words' logits, widened for few; NaN where there is none."""
        nothing = np.full(len(shown), np.nan)
        if e is None or sample is None or self.n < MIN_SCENARIOS:
            return nothing, nothing
        sums, counts = sample
        # All that follows is linear in the write, so words are taken first and means afterwards.
        each = self.vocabulary.promoted(sums.to(self.z[0].dtype).flatten(0, 1), self.scale)[:, shown]
        by_scenario = each.double().cpu().numpy().reshape(*counts.shape, -1)
        weights = np.random.default_rng(0).multinomial(self.n, np.full(self.n, 1 / self.n), size=_DRAWS)
        texts = weights @ counts
        if not texts.all():
            return nothing, nothing  # a resample without any text of an emotion has no mean
        means = np.einsum("ds,sew->dew", weights.astype(np.float64), by_scenario) / texts[..., None]
        others = [other.column for other in EMOTIONS if other is not e]
        drawn = means[:, e.column] - means[:, others].mean(1)
        tail = tail_of(self.n)
        low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
        return low, high


_NEURON = "output weights: one unit of activation"
_HEAD = "mean write at the read-out on texts of {} minus the mean over the other five emotions"


@torch.no_grad()
def written(plan: Plan, vocabulary: Vocabulary) -> Written:
    """What the heads mix at the read-out of a plan's prompts; one pass."""
    model = plan.model
    order: list[int] = []
    z: list[list[Tensor]] = [[] for _ in range(model.n_layers)]
    factors: dict[tuple[int, Half], list[Tensor]] = {}
    scales: list[Tensor] = []
    for batch in plan.batches():
        tokens = batch.tokens
        order += [int(row) for row in batch.rows]
        for layer, tensor in enumerate(batch.run.streams.z):
            z[layer].append(tokens.at_readout(tensor))
        for place, factor in batch.run.post_norm.items():
            factors.setdefault(place, []).append(tokens.at_readout(factor))
        scales.append(vocabulary.scale(tokens.at_readout(batch.run.final))[:, 0].double())
    return Written(
        vocabulary=vocabulary,
        emotions=plan.prompts.emotions[order],
        scenarios=plan.prompts.scenarios[order],
        z=tuple(torch.cat(parts) for parts in z),
        factors={place: torch.cat(parts) for place, parts in factors.items()},
        scale=float(torch.cat(scales).mean()),
    )
