"""What ablating a circuit costs the language: perplexity on neutral text, beside matched random circuits.

Perplexity is ``exp`` of the mean negative log-probability of every next token, over all tokens of all neutral texts.
The circuit's heads and neurons are replaced at every token by their mean over these texts in the same position class
(first token, last token, the rest; as ``mean`` ablation in :mod:`circuits.effects.ablation`): neutral texts have no
scenario of six to average over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.circuit.estimates import Beside, Estimate, beside, estimate, randoms, require_circuit
from circuits.effects.ablation import DatasetMeans, replacement
from circuits.effects.kinds import Ablation
from circuits.errors import MeasurementError, PromptError
from circuits.model.anatomy import Model, Tokens
from circuits.model.running import Hook, Streams, hook_name, hooked, record
from circuits.model.sites import Component, Kind
from circuits.prompts.datasets import Prompts

__all__ = ["LanguageCost", "Neutral", "language_cost"]

Array = NDArray[np.float64]

Change = Callable[[Tokens, Streams], Mapping[str, Hook]]

_BATCH = 64


@dataclass(frozen=True)
class LanguageCost:
    """Perplexity with and without the circuit.

    Attributes:
        clean: of the whole model.
        ablated: without the circuit.
        ratio: ablated over clean, beside random circuits (p: share that cost at least as much); 1 costs nothing.
        tokens, texts: predicted tokens, and the texts they are in; texts are what is resampled.
    """

    clean: Estimate
    ablated: Estimate
    ratio: Beside
    tokens: int
    texts: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "clean": self.clean.as_dict(), "ablated": self.ablated.as_dict(), "ratio": self.ratio.as_dict(),
            "tokens": self.tokens, "texts": self.texts, "unit": "perplexity",
        }  # fmt: skip


class Neutral:
    """Neutral texts of a prompt set, run once; the same object serves all circuits.

    Attributes:
        counts: predicted tokens of every text.

    Raises:
        PromptError: there are no neutral texts.
        MeasurementError: a text is too long, or all have a single token.
    """

    def __init__(self, model: Model, prompts: Prompts) -> None:
        texts = prompts.neutral
        if not texts:
            raise PromptError(f"{prompts.name!r} has no neutral texts; add a field 'neutral' to its rows")
        self.model = model
        encoded = model.encode(list(texts.values()), [f"neutral text of {scenario}" for scenario, _ in texts])
        order = np.argsort(encoded.last.cpu().numpy(), kind="stable")
        self._batches: list[tuple[Tokens, Streams]] = []
        recorded = []
        for start in range(0, len(order), _BATCH):
            rows = torch.tensor(order[start : start + _BATCH], device=encoded.ids.device)
            width = int(encoded.last[rows].max()) + 1
            tokens = Tokens(encoded.ids[rows, :width], encoded.mask[rows, :width], encoded.last[rows])
            with torch.no_grad():
                recorded.append((record(model, tokens).streams, tokens))
        with torch.no_grad():
            means = DatasetMeans.over(recorded)
            for streams, tokens in recorded:
                self._batches.append((tokens, replacement(streams, tokens, prompts, Ablation.MEAN, means)))
        self.counts = np.concatenate([tokens.last.cpu().numpy() for tokens, _ in self._batches]).astype(np.float64)
        if not self.counts.sum():
            raise MeasurementError("no neutral text has a second token; expected something to predict")

    @cached_property
    def clean(self) -> Array:
        """:meth:`losses` with nothing replaced."""
        return self.losses()

    @torch.no_grad()
    def losses(self, ablated: Collection[Component] = (), change: Change | None = None) -> Array:
        """Negative log-probability [nats] of the next tokens, summed over each text, with these components replaced.

        ``change`` makes further hooks from the tokens of a batch and what its components are replaced by.

        Raises:
            ComponentError: the model lacks a component.
            MeasurementError: the logits are NaN or infinite.
        """
        for component in ablated:
            self.model.require(component)
        found = np.concatenate([self._of(tokens, replaced, ablated, change) for tokens, replaced in self._batches])
        if not np.isfinite(found).all():
            raise MeasurementError("the perplexity of neutral text is NaN or infinite; measure in float32")
        return found

    def _of(self, tokens: Tokens, replaced: Streams, ablated: Collection[Component], change: Change | None) -> Array:
        hooks = dict(_hooks(replaced, tokens, ablated)) | dict(change(tokens, replaced) if change is not None else {})
        with hooked(self.model, hooks):
            logits = self.model.bridge(tokens.ids, attention_mask=tokens.mask, use_cache=False)
        if tokens.ids.shape[1] < 2:
            return np.zeros(len(tokens))
        scores = torch.log_softmax(logits[:, :-1].float(), -1)
        ids, real = tokens.ids[:, 1:].to(scores.device), tokens.mask[:, 1:].to(scores)
        taken = scores.gather(-1, ids[..., None])[..., 0]
        # Padding may hold anything, NaN included.
        result: Array = -torch.where(real == 1, taken, 0).sum(1).double().cpu().numpy()
        return result


def language_cost(neutral: Neutral, circuit: Collection[Component], *, count: int = 100, seed: int = 0) -> LanguageCost:
    """Perplexity without the circuit beside perplexity without matched random circuits.

    Raises:
        MeasurementError, ComponentError: see :func:`circuits.circuit.estimates.require_circuit`.
        SettingsError: fewer than one random circuit.
    """
    model, counts = neutral.model, neutral.counts
    members = require_circuit(model, circuit)
    clean, without = neutral.clean, neutral.losses(members)

    def perplexity(means: Array) -> Array:
        result: Array = np.exp(means[:, 0] / means[:, 1])
        return result

    def ratio(means: Array) -> Array:
        result: Array = np.exp((means[:, 0] - means[:, 1]) / means[:, 2])
        return result

    others = [
        float(np.exp((neutral.losses(some) - clean).sum() / counts.sum()))
        for some in randoms(model, members, count=count, seed=seed)
    ]
    return LanguageCost(
        clean=estimate(np.stack([clean, counts]), perplexity),
        ablated=estimate(np.stack([without, counts]), perplexity),
        ratio=beside(estimate(np.stack([without, clean, counts]), ratio), others),
        tokens=int(counts.sum()),
        texts=len(counts),
    )


def _hooks(replaced: Streams, tokens: Tokens, ablated: Collection[Component]) -> Iterator[tuple[str, Hook]]:
    """One hook for every place where something is replaced."""
    places: dict[tuple[int, Kind], list[int]] = {}
    for c in sorted(ablated):
        places.setdefault((c.layer, c.kind), []).append(c.index)
    for (layer, kind), index in places.items():
        new = replaced.of(kind)[layer]

        def hook(tensor: Tensor, new: Tensor = new, index: list[int] = index) -> Tensor:
            tensor = tensor.clone()
            tensor[:, :, index] = new[:, :, index].to(tensor)
            return tensor

        yield hook_name(layer, kind), hook
