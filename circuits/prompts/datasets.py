"""Prompt sets: matched scenarios, read strictly and kept immutable (SCIENCE section 2).

A row is ``id, scenario, emotion, text`` and optionally ``split, valence, event, neutral, lexical`` and anything else,
which is carried along unread. The *scenario* is the cluster every interval and every split respects. The *group* is a
scenario at one valence: the unit inside which the six emotions are compared, because a scenario told at several
valences is several comparisons (keying by scenario alone would overwrite all but one of them).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from circuits import jsontext, shipped
from circuits.errors import PromptError
from circuits.prompts.emotions import EMOTIONS, Emotion, emotion

__all__ = ["Lexical", "Prompt", "Prompts", "Split", "default_answers", "read_answers", "read_prompts"]

_MAX_FILE = 256 * 2**20
_MAX_LINE = 2**20
E = TypeVar("E", bound=StrEnum)

_REQUIRED = ("id", "scenario", "emotion", "text")


class Split(StrEnum):
    """Which decisions a row may serve; whole scenarios only."""

    FIT = "fit"
    """Directions are estimated and components screened here."""
    SELECT = "select"
    """Circuits, thresholds and scales are chosen here."""
    TEST = "test"
    """Every reported number comes from here."""


class Lexical(StrEnum):
    """Whether the texts may contain emotion words."""

    EXPLICIT = "explicit"
    """Emotion words occur: an early onset may be nothing but the word."""
    IMPLICIT = "implicit"
    """No emotion words: the feeling must be inferred from events."""


@dataclass(frozen=True)
class Prompt:
    """One text whose last token is the read-out position."""

    id: str
    scenario: str
    emotion: Emotion
    text: str
    split: Split
    valence: str = ""
    neutral: str | None = None

    @property
    def group(self) -> tuple[str, str]:
        """The unit inside which emotions are compared: scenario and valence."""
        return (self.scenario, self.valence)


@dataclass(frozen=True)
class Prompts:
    """Rows in file order, with the answer words they are judged by.

    ``answers`` maps every emotion to its words, without leading spaces. ``declared_splits`` is False when the file had
    none and scenarios were dealt to the three splits by a hash of their names.
    """

    rows: tuple[Prompt, ...]
    name: str
    answers: Mapping[Emotion, tuple[str, ...]]
    lexical: Lexical | None = None
    declared_splits: bool = True

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[str, object]],
        *,
        name: str = "prompts",
        answers: Mapping[str, Sequence[str]] | None = None,
    ) -> Prompts:
        """Build a set from dictionaries, with the checks a file gets.

        Raises:
            PromptError: a field is missing or malformed, an id occurs twice, an emotion is unknown or has fewer than
                two scenarios, or a scenario lies in several splits.
        """
        items = [(f"row {number}", row) for number, row in enumerate(rows, 1)]
        return _build(items, name, answers)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(row.id for row in self.rows)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(row.text for row in self.rows)

    @cached_property
    def emotions(self) -> NDArray[np.int64]:
        """Emotion index of every row, ``[prompt]``."""
        return np.array([row.emotion.column for row in self.rows], dtype=np.int64)

    @cached_property
    def scenarios(self) -> NDArray[np.int64]:
        """Scenario number of every row, ``[prompt]``, counted in order of first appearance."""
        return _numbered([row.scenario for row in self.rows])

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Group (scenario and valence) number of every row, ``[prompt]``."""
        return _numbered([row.group for row in self.rows])

    @property
    def n_scenarios(self) -> int:
        return len({row.scenario for row in self.rows})

    @property
    def neutral(self) -> dict[tuple[str, str], str]:
        """Neutral text by group (scenario and valence), for those that have one."""
        return {row.group: row.neutral for row in self.rows if row.neutral is not None}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over rows and answer words: equal sets, equal fingerprints, whatever the file was called."""
        rows = [[r.id, r.scenario, r.emotion, r.text, r.split, r.valence, r.neutral] for r in self.rows]
        return jsontext.fingerprint({"rows": rows, "answers": {e: list(w) for e, w in self.answers.items()}})

    def where(self, mask: NDArray[np.bool_]) -> Prompts:
        """The rows where ``mask`` [prompt] is true; may be a part no file would be accepted with.

        Raises:
            PromptError: no row is left.
        """
        rows = tuple(row for row, keep in zip(self.rows, mask, strict=True) if keep)
        if not rows:
            raise PromptError(f"no row of {self.name!r} is left after selection; expected at least one")
        return replace(self, rows=rows)

    def split(self, *splits: Split | str) -> Prompts:
        """The rows of the named splits.

        Raises:
            PromptError: an unknown split, or one without rows.
        """
        try:
            wanted = {Split(s) for s in splits}
        except ValueError as error:
            raise PromptError(f"{error}; expected one of {', '.join(Split)}") from None
        mask = np.array([row.split in wanted for row in self.rows])
        if not mask.any():
            raise PromptError(f"prompt set {self.name!r} has no rows in split {', '.join(sorted(wanted))}")
        return self.where(mask)

    def with_answers(self, answers: Mapping[Emotion, Sequence[str]] | Mapping[str, Sequence[str]]) -> Prompts:
        """The same rows judged by other answer words."""
        return replace(self, answers=_answers(answers))


def default_answers() -> dict[Emotion, tuple[str, ...]]:
    """The shipped answer words of every emotion (``data/answers.json``)."""
    text = shipped.path("answers.json").read_text(encoding="utf-8")
    return _answers(jsontext.loads(text))


def read_answers(path: str | Path) -> dict[Emotion, tuple[str, ...]]:
    """Answer words from a JSON object of emotion to list of words.

    Raises:
        PromptError: the file is missing or is no such object.
    """
    try:
        value = jsontext.loads(Path(path).read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise PromptError(f"answer words cannot be read from {path}: {error}") from None
    return _answers(value)


def read_prompts(path: str | Path) -> Prompts:
    """Read a JSONL prompt file, or a shipped set by its name (``microstories``, ``situations``, ...).

    Raises:
        PromptError: the file is missing, not UTF-8, not JSON on some line (named), or a row is unusable.
    """
    location = Path(path)
    # os.path answers False where pathlib raises, for a name too long to exist.
    if not os.path.exists(location) and str(path) in shipped.PROMPT_SETS:
        location = shipped.path(f"{path}.jsonl")
    if not os.path.isfile(location):
        known = ", ".join(shipped.PROMPT_SETS)
        raise PromptError(f"no prompt file {str(path)!r}; expected a .jsonl file, or one of the shipped sets: {known}")
    if location.stat().st_size > _MAX_FILE:
        raise PromptError(f"{location} is larger than {_MAX_FILE >> 20} MiB; split the prompt set into several files")
    try:
        text = location.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"{location} is not UTF-8 (byte {error.start}); save it as UTF-8 and try again") from None
    except OSError as error:
        raise PromptError(f"{location} cannot be read: {error.strerror}") from None
    items = []
    # Only the newline separates records: a text may hold other line separators (U+2028, form feed).
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{location.name} line {number}"
        if len(line) > _MAX_LINE:
            raise PromptError(f"{where} is longer than {_MAX_LINE} characters; expected one short JSON object")
        try:
            value = jsontext.loads(line)
        except ValueError as error:
            raise PromptError(f"{where} is not valid JSON: {error}; expected one object per line") from None
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise PromptError(f"{where} is a JSON {kind}; expected an object with {', '.join(_REQUIRED)}")
        items.append((where, value))
    if not items:
        raise PromptError(f"{location} holds no rows; expected one JSON object per line")
    return _build(items, location.stem, None)


def _build(
    items: Sequence[tuple[str, Mapping[str, object]]], name: str, answers: Mapping[str, Sequence[str]] | None
) -> Prompts:
    rows = []
    lexical: set[Lexical | None] = set()
    seen: dict[str, str] = {}
    splits = [row.get("split") for _, row in items]
    if any(s is None for s in splits) and not all(s is None for s in splits):
        where = items[splits.index(None)][0]
        raise PromptError(f"{where} has no split although other rows do; give every row a split or none")
    for where, raw in items:
        row = _row(where, raw)
        if row.id in seen:
            raise PromptError(f"{where}: the id {row.id!r} was already used in {seen[row.id]}; ids must be unique")
        seen[row.id] = where
        rows.append(row)
        lexical.add(_choice(Lexical, where, "lexical", raw["lexical"]) if raw.get("lexical") is not None else None)
    if len(lexical) > 1:
        raise PromptError(f"{name!r} declares lexical as {sorted(map(str, lexical))}; expected one value for all rows")
    by_scenario: dict[str, set[Split]] = defaultdict(set)
    per_emotion: dict[Emotion, set[str]] = {e: set() for e in EMOTIONS}
    for row in rows:
        by_scenario[row.scenario].add(row.split)
        per_emotion[row.emotion].add(row.scenario)
    for scenario, found in by_scenario.items():
        if len(found) > 1:
            raise PromptError(f"scenario {scenario!r} lies in splits {', '.join(sorted(found))}; expected one")
    for e, found_in in per_emotion.items():
        if len(found_in) < 2:
            raise PromptError(
                f"{name!r} has {len(found_in)} scenario(s) for {e}; expected two or more for each emotion"
            )
    return Prompts(
        rows=tuple(rows),
        name=name,
        answers=_answers(answers) if answers is not None else default_answers(),
        lexical=next(iter(lexical)),
        declared_splits=all(s is not None for s in splits),
    )


def _row(where: str, raw: Mapping[str, object]) -> Prompt:
    for key in _REQUIRED:
        if key not in raw:
            raise PromptError(f"{where} lacks the field {key!r}; expected {', '.join(_REQUIRED)}")
    text = {}
    for key in (*_REQUIRED, "valence", "neutral"):
        value = raw.get(key)
        if value is None and key not in _REQUIRED:
            continue
        if not isinstance(value, str):
            raise PromptError(f"{where}: {key} is {value!r}; expected a string")
        if not value.strip() and key != "valence":
            raise PromptError(f"{where}: {key} is empty; expected text")
        if _broken(value):
            # JSON can spell one (\\ud800); no tokenizer and no file can hold it.
            raise PromptError(f"{where}: {key} holds half a surrogate pair; remove the broken character")
        text[key] = value
    if text["text"] != text["text"].rstrip():
        # A trailing space becomes a token of its own and the model is read after it, not after the last word.
        raise PromptError(f"{where}: the text ends in white space; remove it: the model is read at the last token")
    try:
        feeling = emotion(text["emotion"])
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from None
    declared = raw.get("split")
    split = _choice(Split, where, "split", declared) if declared is not None else _dealt(text["scenario"])
    return Prompt(
        id=text["id"],
        scenario=text["scenario"],
        emotion=feeling,
        text=text["text"],
        split=split,
        valence=text.get("valence", ""),
        neutral=text.get("neutral"),
    )


def _choice(kind: type[E], where: str, key: str, value: object) -> E:
    try:
        return kind(str(value))
    except ValueError:
        raise PromptError(f"{where}: {key} is {value!r}; expected one of {', '.join(kind)}") from None


def _dealt(scenario: str) -> Split:
    digest = hashlib.sha256(scenario.encode("utf-8", "surrogatepass")).digest()
    return tuple(Split)[int.from_bytes(digest[:8], "big") % 3]


def _answers(words: object) -> dict[Emotion, tuple[str, ...]]:
    if not isinstance(words, Mapping):
        raise PromptError(f"answers are a {type(words).__name__}; expected an object of emotion to list of words")
    result = {}
    for e in EMOTIONS:
        found = words.get(e)
        if not isinstance(found, list | tuple) or not found or not all(isinstance(w, str) and w.strip() for w in found):
            raise PromptError(f"answer words for {e} are {found!r}; expected a non-empty list of words")
        result[e] = tuple(w.strip() for w in found)
        if any(_broken(w) for w in found):
            raise PromptError(f"answer words for {e} hold half a surrogate pair; remove the broken character")
    unknown = set(words) - set(EMOTIONS)
    if unknown:
        raise PromptError(f"answers name {sorted(unknown)}; expected only {', '.join(EMOTIONS)}")
    repeated = [w for w, n in Counter(w for ws in result.values() for w in ws).items() if n > 1]
    if repeated:
        raise PromptError(f"the answer word {repeated[0]!r} is listed twice; expected each word under one emotion")
    return result


def _broken(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _numbered(keys: Sequence[object]) -> NDArray[np.int64]:
    order: dict[object, int] = {}
    return np.array([order.setdefault(key, len(order)) for key in keys], dtype=np.int64)
