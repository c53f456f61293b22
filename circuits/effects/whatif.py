"""What if some components did less, nothing, or more: one text, run once more with their activations changed.

A component's activation x becomes ``r + f (x - r)``: r is what an ablation would put in its place, f the factor. f = 0 is the
ablation itself, 1 changes nothing, 2 doubles what sets the text apart. x is what the changed run computes, so that components
above others answer to what happened below them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.ablation import DatasetMeans, replacement
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions
from circuits.errors import MeasurementError, SettingsError
from circuits.model.anatomy import Model, Tokens
from circuits.model.readout import Readout
from circuits.model.running import Hook, Recording, Streams, final_stream, hook_name, hooked, record
from circuits.model.sites import Component, Kind
from circuits.model.vocabulary import Vocabulary
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.prompts.metrics import UNIT

__all__ = [
    "NextWord",
    "Text",
    "WhatIf",
    "means_of",
    "require_factors",
    "text_of_group",
    "told",
    "typed_text",
    "what_if",
]


@dataclass(frozen=True)
class NextWord:
    """One next word and its probability without and with the change."""

    word: str
    id: int
    before: float
    after: float

    def as_dict(self) -> dict[str, Any]:
        return {"word": self.word, "id": self.id, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class WhatIf:
    """One text with some components changed; one text, so no interval.

    Attributes:
        prompt: id of the run's prompt; None for a typed text.
        factors: by component name; 0 ablates, 1 changes nothing, 2 amplifies.
        replacement: what r is, in words.
        positions: where activations are changed.
        before, after: the six logit differences [logits].
        words: the likeliest next words before and after (the union), the likelier first.
        unknown: words the model does not know; it reads them as noise.
        forwards: texts that were run.
        seconds: what it took, without waiting for others.
    """

    text: str
    prompt: str | None
    factors: Mapping[str, float]
    replacement: str
    positions: Positions
    before: Mapping[Emotion, float]
    after: Mapping[Emotion, float]
    words: tuple[NextWord, ...]
    unknown: tuple[str, ...]
    forwards: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "text": self.text, "prompt": self.prompt, "factors": dict(self.factors), "replacement": self.replacement,
            "positions": str(self.positions), "unit": UNIT, "n": 1,
            "before": {str(e): value for e, value in self.before.items()},
            "after": {str(e): value for e, value in self.after.items()},
            "words": [word.as_dict() for word in self.words], "unknown": list(self.unknown), "forwards": self.forwards,
            "seconds": self.seconds,
        }  # fmt: skip


@dataclass(frozen=True)
class Text:
    """One text, its clean run, and what stands for each of its activations when it is ablated.

    Attributes:
        forwards: texts that were run for this.
    """

    run: Recording
    replaced: Streams
    about: str
    forwards: int

    @property
    def tokens(self) -> Tokens:
        return self.run.tokens


@torch.no_grad()
def means_of(model: Model, prompts: Prompts, readout: Readout) -> DatasetMeans:
    """Mean activations of all components over some prompts, in the three position classes."""
    plan = Plan.of(model, prompts, Ablation.ZERO, readout=readout)
    return DatasetMeans.over((batch.run.streams, batch.tokens) for batch in plan.batches())


@torch.no_grad()
def text_of_group(
    model: Model, group: Prompts, row: int, ablation: Ablation, means: DatasetMeans | None = None
) -> Text:
    """One row of a whole group (scenario and valence), replaced as in a run with this ablation.

    ``means`` is needed for ``Ablation.MEAN`` alone.

    Raises:
        MeasurementError: the group lacks an emotion, although the ablation compares inside it; a text is too long.
    """
    own = record(model, model.encode([group.texts[row]], [group.ids[row]]))
    width = own.tokens.ids.shape[1]
    if ablation in (Ablation.ZERO, Ablation.MEAN):
        replaced = replacement(own.streams, own.tokens, group, ablation, means)
        return Text(own, replaced, _ABOUT[ablation], 1)
    together = record(model, model.encode(group.texts, group.ids))
    everyone = replacement(together.streams, together.tokens, group, ablation)
    replaced = everyone.map(lambda t: t[row : row + 1, :width])
    return Text(own, replaced, _ABOUT[ablation], 1 + len(group))


@torch.no_grad()
def typed_text(model: Model, prompts: Prompts, tokens: Tokens, means: DatasetMeans) -> Text:
    """A text that belongs to no scenario, replaced by a data set's means: the same vectors for every text.

    Raises:
        MeasurementError: the text has a token of a position class that no text of the data set has.
    """
    for place, what in enumerate(("first token", "token in the middle", "read-out token behind another")):
        if bool((tokens.place == place).any()) and not float(means.counts[place]):
            raise MeasurementError(
                f"no text of {prompts.name!r} has a {what}, so nothing is known to stand for it; type a shorter text"
            )
    run = record(model, tokens)
    return Text(run, replacement(run.streams, tokens, prompts, Ablation.MEAN, means), _TYPED, 1)


_ABOUT = {
    Ablation.ZERO: "zero, as in the run",
    Ablation.MEAN: "mean over the run's select and test texts at the same sort of token, as in the run",
    Ablation.MEAN_SCENARIO: "mean over the six texts of the prompt's scenario, as in the run",
    Ablation.RESAMPLE: "activation on another emotion's text of the prompt's scenario, as in the run",
}
_TYPED = (
    "mean over the run's select texts, one vector each for the first token, the last, and those between; a typed text has "
    "no scenario to be compared inside"
)


def require_factors(model: Model, factors: Mapping[str, float]) -> dict[Component, float]:
    """The components meant by name, with their factors; none at all is a change of nothing.

    Raises:
        ComponentError: a name is malformed or unknown to the model.
        SettingsError: a factor is no finite number.
    """
    found = dict(zip(model.components(list(factors)), factors.values(), strict=True)) if factors else {}
    for component, factor in found.items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
            raise SettingsError(
                f"the factor of {component} is {factor!r}; expected a finite number: 0 ablates, 1 changes nothing"
            )
    return found


@torch.no_grad()
def what_if(
    model: Model, text: Text, factors: Mapping[Component, float], positions: Positions
) -> tuple[Float[Tensor, "1 d_model"], Float[Tensor, "1 d_model"]]:
    """Final streams of one text at the read-out, clean and with activations changed to ``r + f (x - r)``.

    Raises:
        MeasurementError: the changed stream is NaN or infinite.
    """
    tokens, clean = text.tokens, text.tokens.at_readout(text.run.final)
    hooks = _changes(text, factors, positions)
    if not hooks:
        return clean, clean
    with hooked(model, hooks):
        changed = tokens.at_readout(final_stream(model, tokens))
    if not bool(torch.isfinite(changed).all()):
        raise MeasurementError(f"{model.name} gives NaN or infinite numbers with these factors; take smaller ones")
    return clean, changed


def _changes(text: Text, factors: Mapping[Component, float], positions: Positions) -> dict[str, Hook]:
    places: dict[tuple[int, Kind], dict[int, float]] = {}
    for component, factor in factors.items():
        if factor != 1:
            places.setdefault((component.layer, component.kind), {})[component.index] = factor
    where = text.tokens.mask == 1 if positions is Positions.ALL else text.tokens.place == 2

    def hook_for(kind: Kind, replaced: Tensor, some: dict[int, float]) -> Hook:
        def hook(own: Tensor) -> Tensor:
            # x + (f - 1)(x - r): where nothing sets x apart from r, nothing changes, exactly.
            more = torch.zeros(own.shape[2] if kind in (Kind.HEAD, Kind.NEURON) else 1).to(own)
            for index, factor in some.items():
                more[max(0, index)] = factor - 1
            if kind is Kind.HEAD:
                more = more[:, None]
            there = where.to(own).reshape(*where.shape, *[1] * (own.dim() - 2))
            return own + there * more * (own - replaced.to(own))

        return hook

    return {
        hook_name(layer, kind): hook_for(kind, text.replaced.of(kind)[layer], some)
        for (layer, kind), some in places.items()
    }


def told(
    vocabulary: Vocabulary, readout: Readout, clean: Tensor, changed: Tensor, *, top: int
) -> tuple[dict[Emotion, float], dict[Emotion, float], tuple[NextWord, ...]]:
    """Six logit differences before and after, and the ``top`` next words of either with both probabilities.

    Raises:
        SettingsError: ``top`` is not from 1 to the size of the vocabulary.
    """
    if not 1 <= top <= len(vocabulary):
        raise SettingsError(f"the number of next words is {top}; expected 1 to {len(vocabulary)}")
    # Each alone: products of several rows may differ in the last bit, and nothing changed must mean nothing moved.
    before, after = ({e: float(x) for e, x in zip(EMOTIONS, readout(s)[0], strict=True)} for s in (clean, changed))
    p = torch.cat([vocabulary.probabilities(s) for s in (clean, changed)])
    either = sorted({i for row in p for i in row.topk(top).indices.tolist()})
    order = sorted(either, key=lambda i: -float(p[:, i].max()))
    words = [NextWord(vocabulary.word(i), i, float(p[0, i]), float(p[1, i])) for i in order]
    return before, after, tuple(words)
