"""A run's model and prompts at hand: the questions people ask of a circuit while they look at it.

Every answer is computed on the very model and prompts the run was made with (fingerprints are compared), under the run's own
ablation and positions, and says what it cost. Nothing here draws or serves anything. Answers may be asked for from several
threads: one is computed at a time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from circuits import shipped
from circuits.circuit.evaluation import Bench
from circuits.circuit.working import Selection, worked
from circuits.effects.ablation import DatasetMeans
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Method, Positions, member
from circuits.effects.lens import Lens, Written, written
from circuits.effects.own import OwnTexts, own_texts
from circuits.effects.whatif import Text, WhatIf, means_of, require_factors, text_of_group, told, typed_text, what_if
from circuits.errors import MeasurementError, PromptError, RunError, SettingsError
from circuits.model.anatomy import Model, Tokens
from circuits.model.door import EMBEDDED, load
from circuits.model.looking import Look, activations, attention, require_part
from circuits.model.readout import Readout
from circuits.model.sites import Component, Kind, parse
from circuits.model.vocabulary import Vocabulary
from circuits.model.words import lost_words
from circuits.prompts.datasets import Prompts, Split, read_prompts
from circuits.prompts.emotions import EMOTIONS, Emotion, emotion
from circuits.runs.directory import Run

__all__ = ["LONGEST", "Live"]

LONGEST = 512
"""Tokens a text may have: a page shows an attention pattern of so many squared numbers."""

_LETTERS = 64 * LONGEST
"""Letters beyond which a text is not even taken apart."""


@dataclass(frozen=True)
class Live:
    """A run's model and prompts at hand.

    Attributes:
        run: the finished run.
        model: the model it was made with.
        prompts: all its prompts.
    """

    run: Run
    model: Model
    prompts: Prompts
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    _benches: dict[Emotion, Bench] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        run: Run,
        model: str | os.PathLike[str] | Model | None = None,
        prompts: str | os.PathLike[str] | Prompts | None = None,
        *,
        device: str = "auto",
    ) -> Live:
        """Bring a run's model and prompts.

        A run may come from a stranger: only the model and the prompt sets that come with the package are fetched by the name
        it gives. Any other must be named by the caller, and must be what the run was made with.

        Args:
            model: a loaded model, a name or a directory; default the embedded model, where the run was made with it.
            prompts: a prompt set, its name or file; default the shipped set of the run's name.
            device: where a model that has to be loaded goes.

        Raises:
            RunError: the model or the prompts must be named, or are not those of the run; its settings are damaged.
            ModelLoadError, UnsupportedModelError, PromptError: what was named cannot be used.
        """
        about = run.manifest
        _settings(run)  # damaged ones are found before a model is loaded
        model = _model(run, model, device)
        _require_same(run, "model", model.name, model.fingerprint)
        if prompts is None:
            name = about["prompts"]["name"]
            if name not in shipped.PROMPT_SETS:
                raise RunError(
                    f"the run in {run.directory} was made with the prompts {name!r}, which do not come with this package; "
                    "name their file: circuits explore RUN --prompts FILE"
                )
            # Its own path: a file of that name beside the reader is not meant.
            prompts = read_prompts(shipped.path(f"{name}.jsonl"))
        elif not isinstance(prompts, Prompts):
            prompts = read_prompts(os.fspath(prompts))
        _require_same(run, "prompts", prompts.name, prompts.fingerprint)
        return cls(run, model, prompts)

    def warm(self) -> float:
        """Prepare everything that is made once, so that the first answer is as fast as the next; seconds it took."""
        start = time.perf_counter()
        with self._lock, torch.no_grad():
            for e in EMOTIONS:
                self._bench(e)
            _ = self._means, self._written, self._vocabulary
        return time.perf_counter() - start

    def selection(self, emotion: str, names: Sequence[str], *, count: int = 20, seed: int = 0) -> Selection:
        """Faithfulness on ``test`` of these heads and neurons alone, beside random selections of the same size and layers.

        Raises:
            PromptError: not one of the six emotions.
            ComponentError: a name is malformed, unknown to the model or listed twice; or there is none.
            MeasurementError: a half-layer, or the model does not tell the emotion apart on these texts.
            SettingsError: ``count`` is not from 1 to 1,000.
        """
        e, components = _emotion(emotion), self.model.components(list(names))
        with self._lock, torch.no_grad():
            return worked(self._bench(e), components, count=count, seed=seed)

    def what_if(self, text_or_id: str | int, factors: Mapping[str, float], *, top: int = 10) -> WhatIf:
        """Logit differences and next words of one text with the deviations of some components multiplied by factors.

        An activation x becomes ``r + f (x - r)``: 0 ablates, 1 changes nothing, 2 amplifies. On a prompt of the run r is what
        the run's own ablation puts there; on a typed text it is the mean over the run's ``select`` texts.

        Args:
            text_or_id: the id of a prompt of the run or its row number, or a text.
            factors: by component name; half-layers are allowed.
            top: next words to tell, before and after.

        Raises:
            PromptError: an empty text, one that ends in white space or is too long, or no such row.
            ComponentError: a name is malformed or unknown to the model.
            SettingsError: a factor that is no finite number, or ``top`` out of range.
            MeasurementError: the changed run gives NaN or infinite numbers.
        """
        with self._lock, torch.no_grad():
            start = time.perf_counter()
            changed = require_factors(self.model, factors)
            row, words, tokens = self._found(text_or_id)
            text = self._typed(tokens) if row is None else self._of_run(row)
            clean, other = what_if(self.model, text, changed, self.positions)
            before, after, said = told(self._vocabulary, self._readout, clean, other, top=top)
            return WhatIf(
                text=words, prompt=None if row is None else self.prompts.ids[row],
                factors={c.name: float(f) for c, f in changed.items()}, replacement=text.about,
                positions=self.positions, before=before, after=after, words=said,
                unknown=lost_words(self.model, words), forwards=text.forwards + any(f != 1 for f in changed.values()),
                seconds=time.perf_counter() - start,
            )  # fmt: skip

    def look(self, text_or_id: str | int, name: str) -> Look:
        """The attention pattern of a head or the activations of a neuron over the tokens of one text.

        Raises:
            PromptError: an empty text, one that ends in white space or is too long, or no such row.
            ComponentError: the name is malformed, unknown to the model, or a half-layer's.
            MeasurementError: the family shows no attention pattern.
        """
        component = parse(name)
        require_part(self.model, component)
        with self._lock, torch.no_grad():
            start = time.perf_counter()
            row, text, tokens = self._found(text_or_id)
            pattern = fired = None
            if component.kind is Kind.HEAD:
                pattern = _numbers(attention(self.model, tokens, component)[0])
            else:
                fired = _numbers(activations(self.model, tokens, component)[0])
            return Look(
                name=component.name, text=text, prompt=None if row is None else self.prompts.ids[row],
                tokens=self._vocabulary.words(tokens.ids[0].tolist()), pattern=pattern, activations=fired,
                seconds=time.perf_counter() - start,
            )  # fmt: skip

    def lens(self, name: str, emotion: str | None = None, *, top: int = 10) -> Lens:
        """Words that a component's write promotes and suppresses, through the final norm (frozen) and the unembedding.

        A neuron's lens is the same for all emotions. A head's is taken for one: by default, of the emotions whose circuits
        have it, the one it has the largest effect on; of all six where it is in none.

        Raises:
            PromptError: not one of the six emotions.
            ComponentError: the name is malformed, unknown to the model, or a half-layer's.
            SettingsError: ``top`` is not from 1 to the size of the vocabulary.
        """
        component = parse(name)
        require_part(self.model, component)
        e = None if emotion is None else _emotion(emotion)
        with self._lock, torch.no_grad():
            start = time.perf_counter()
            if e is None and component.kind is Kind.HEAD:
                e = self._strongest(component)
            found = self._written.lens(component, e, top=top)
            return replace(found, seconds=time.perf_counter() - start)

    @cached_property
    def ablation(self) -> Ablation:
        """What the run puts in the place of an ablated activation."""
        return _settings(self.run)[0]

    @cached_property
    def positions(self) -> Positions:
        """Where the run ablates."""
        return _settings(self.run)[1]

    # -- made once -------------------------------------------------------------------------------------------------

    @cached_property
    def _test(self) -> Plan:
        return Plan.of(self.model, self.prompts.split(Split.TEST), self.ablation, readout=self._readout)

    @cached_property
    def _readout(self) -> Readout:
        return Readout.of(self.model, self.prompts.answers)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.model)

    @cached_property
    def _texts(self) -> dict[Emotion, list[OwnTexts]]:
        return own_texts(self._test, self.positions)

    @cached_property
    def _means(self) -> DatasetMeans:
        return means_of(self.model, self.prompts.split(Split.SELECT), self._readout)

    @cached_property
    def _measured_means(self) -> DatasetMeans | None:
        """Over the texts the run's effects were measured on; for mean ablation alone."""
        if self.ablation is not Ablation.MEAN:
            return None
        return means_of(self.model, self.prompts.split(Split.SELECT, Split.TEST), self._readout)

    @cached_property
    def _written(self) -> Written:
        return written(self._test, self._vocabulary)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self.prompts.ids)}

    def _bench(self, e: Emotion) -> Bench:
        if e not in self._benches:
            self._benches[e] = Bench(self.model, self._readout, e, self._texts[e])
        return self._benches[e]

    # -- texts -----------------------------------------------------------------------------------------------------

    def _found(self, text_or_id: str | int) -> tuple[int | None, str, Tokens]:
        """Row of the run's prompts (None for a typed text), the text, and its tokens."""
        row = self._row(text_or_id)
        if row is not None:
            text, who = self.prompts.texts[row], f"the prompt {self.prompts.ids[row]!r}"
        else:
            text, who = str(text_or_id), "the text"
            _require_text(text)
        if len(text) > _LETTERS:
            raise PromptError(f"{who} has {len(text)} letters; expected at most {LONGEST} tokens: shorten it")
        length, most = len(self.model.token_ids(text)), min(LONGEST, self.model.n_ctx)
        if not 1 <= length <= most:
            limit = "the context of " + self.model.name if most < LONGEST else "what is shown"
            raise PromptError(f"{who} has {length} tokens; expected 1 to {most} ({limit}): shorten it")
        return row, text, self.model.encode([text], [who])

    def _row(self, text_or_id: str | int) -> int | None:
        if isinstance(text_or_id, bool) or not isinstance(text_or_id, str | int):
            raise PromptError(f"{text_or_id!r} is no text; expected one, or a prompt's id or row number")
        if isinstance(text_or_id, str):
            return self._rows.get(text_or_id)
        if not 0 <= text_or_id < len(self.prompts):
            raise PromptError(f"there is no row {text_or_id}; expected 0 to {len(self.prompts) - 1}, or a prompt's id")
        return text_or_id

    def _of_run(self, row: int) -> Text:
        same = self.prompts.groups == self.prompts.groups[row]
        place = int(np.flatnonzero(np.flatnonzero(same) == row)[0])
        return text_of_group(self.model, self.prompts.where(same), place, self.ablation, self._measured_means)

    def _typed(self, tokens: Tokens) -> Text:
        return typed_text(self.model, self.prompts.split(Split.SELECT), tokens, self._means)

    def _strongest(self, component: Component) -> Emotion:
        """The emotion a head has the largest effect on, among those whose circuits have it, else among all."""
        effects = {
            e: abs(node.effect) for e in EMOTIONS for node in self.run.circuit(e).nodes if node.component == component
        }
        if not effects:
            rows = self.run.effects.rows(component.name)
            mine = rows[rows["method"] == str(Method.EXACT)]
            effects = {_emotion(str(e)): abs(float(x)) for e, x in zip(mine["emotion"], mine["effect"], strict=True)}
        effects = {e: size for e, size in effects.items() if np.isfinite(size)}
        if not effects:
            raise MeasurementError(f"the run has no exact effect of {component}; name an emotion")
        return max(effects, key=lambda e: effects[e])


_emotion = emotion  # `emotion` is an argument's name above


def _numbers(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return tensor.detach().cpu().double().numpy()


def _require_text(text: str) -> None:
    if not text.strip():
        raise PromptError("the text is empty; expected some words")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise PromptError("the text holds half a surrogate pair; remove the broken character")
    if text != text.rstrip():
        raise PromptError("the text ends in white space; remove it: the model is read at the last token")


def _settings(run: Run) -> tuple[Ablation, Positions]:
    found = {name: run.manifest["settings"].get(name) for name in ("ablation", "positions")}
    for name, value in found.items():
        if not isinstance(value, str):
            raise RunError(f"the run in {run.directory} has the setting {name} as {value!r}; expected a word")
    try:
        return member(Ablation, str(found["ablation"])), member(Positions, str(found["positions"]))
    except SettingsError as error:
        raise RunError(f"the settings of the run in {run.directory} cannot be used: {error}") from None


def _model(run: Run, model: str | os.PathLike[str] | Model | None, device: str) -> Model:
    """The model at hand or loaded, in the run's own precision."""
    if isinstance(model, Model):
        return model
    name, dtype = run.manifest["model"]["name"], run.manifest["model"].get("dtype")
    if dtype not in ("torch.float32", "torch.float64"):
        raise RunError(f"the run in {run.directory} says its model is in {dtype!r}; expected torch.float32 or float64")
    if model is None and name != EMBEDDED:
        raise RunError(
            f"the run in {run.directory} was made with the model {name!r}, which does not come with this package and is not "
            "fetched by itself; name it: circuits explore RUN --model NAME"
        )
    return load(EMBEDDED if model is None else model, device=device, dtype=dtype.removeprefix("torch."))


def _require_same(run: Run, what: str, name: str, fingerprint: str) -> None:
    theirs = run.manifest[what].get("fingerprint")
    if theirs != fingerprint:
        raise RunError(
            f"the {what} {name!r} (fingerprint {fingerprint[:12]}) differ from those of the run in {run.directory} "
            f"({run.manifest[what]['name']!r}, {str(theirs)[:12]}): name what it was made with: "
            f"circuits explore RUN --{what} {'NAME' if what == 'model' else 'FILE'}"
        )
