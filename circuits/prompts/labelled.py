"""Real text that others labelled with emotions: a table of texts and labels, read strictly.

The file is plain tab-separated text (no quoting): a header, then one text a line, with a column ``text`` and a column
``emotions`` of labels separated by commas. Only texts with exactly one of the six labels are of use; whatever else is left
out is counted by reason, never dropped in silence.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from circuits.errors import PromptError
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["LEAST", "Labelled", "balanced", "read_labelled", "surface"]

LEAST = 10
"""Texts an emotion must have: five to choose a state on, five to report on."""

_ENDINGS = '.?!"…'
_MAX_FILE = 256 * 2**20
_LABELS: Mapping[str, Emotion] = {**{str(e): e for e in EMOTIONS}, "joy": Emotion.HAPPINESS}
_OTHER = frozenset(("neutral", "trust", "anticipation"))
"""Labels of the usual schemes (Ekman's with neutral, Plutchik's eight) that are none of the six."""


@dataclass(frozen=True)
class Labelled:
    """Texts of which each carries one of the six emotions.

    Attributes:
        name: the file's name without its ending.
        texts: in file order.
        emotions: index of each text's emotion, ``[text]``.
        left_out: rows of the file that are not among the texts, by reason.
        fingerprint: SHA-256 of the file (of a part: the same, with what was drawn told by its texts).
    """

    name: str
    texts: tuple[str, ...]
    emotions: NDArray[np.int64]
    left_out: Mapping[str, int]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def counts(self) -> dict[Emotion, int]:
        """Texts of each emotion."""
        return {e: int((self.emotions == e.column).sum()) for e in EMOTIONS}


def read_labelled(path: str | Path) -> Labelled:
    """Read a labelled file; ``joy`` is taken as happiness.

    Left out and counted: rows without a label, with several, or with one that is none of the six (neutral, trust,
    anticipation); empty texts; texts that occurred before.

    Raises:
        PromptError: the file is missing, too large or not UTF-8; a column is missing; a row has too few or too many fields;
            a label is unknown; an emotion has fewer than ten texts.
    """
    location = Path(path)
    header, lines, digest = _lines(location)
    for column in ("text", "emotions"):
        if header.count(column) != 1:
            has = "no" if column not in header else "more than one"
            raise PromptError(
                f"{location.name} has {has} column {column!r}; expected tab-separated columns text and emotions, found "
                f"{', '.join(map(repr, header[:8]))}"
            )
    at_text, at_labels = header.index("text"), header.index("emotions")
    left_out: Counter[str] = Counter()
    kept: dict[str, int] = {}
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(header):
            raise PromptError(
                f"{location.name} line {number} has {len(fields)} fields; expected {len(header)}, separated by tabs: write a "
                "tab inside a text as a space"
            )
        text = fields[at_text].strip()
        found, reason = _label(fields[at_labels], f"{location.name} line {number}")
        if not reason and not text:
            reason = "empty text"
        if not reason and text in kept:
            reason = "text that occurred before"
        if reason or found is None:
            left_out[reason] += 1
            continue
        kept[text] = found.column
    result = Labelled(
        location.stem, tuple(kept), np.array([*kept.values()], dtype=np.int64), dict(sorted(left_out.items())), digest
    )
    _require(result, "with that label alone")
    return result


def balanced(labelled: Labelled, fits: Callable[[str], bool], limit: int | None = None, *, seed: int = 0) -> Labelled:
    """The same number of texts of each emotion, drawn at random: as many as the rarest has, and at most ``limit``.

    Args:
        fits: whether the model can read a text; those it cannot are left out and counted. Each emotion's texts are tried in
            random order until ``limit`` fit, so that the count is of those tried.

    Raises:
        PromptError: a limit below ten, or fewer than ten texts of an emotion that fit.
    """
    if limit is not None and limit < LEAST:
        raise PromptError(f"the limit is {limit} texts an emotion; expected at least {LEAST}")
    rng = np.random.default_rng(seed)
    drawn: list[list[int]] = []
    too_long = 0
    for e in EMOTIONS:
        mine: list[int] = []
        for i in rng.permutation(np.flatnonzero(labelled.emotions == e.column)):
            if limit is not None and len(mine) == limit:
                break
            if fits(labelled.texts[i]):
                mine.append(int(i))
            else:
                too_long += 1
        drawn.append(mine)
    least = min(len(mine) for mine in drawn)
    rows = np.array([i for mine in drawn for i in mine[:least]], dtype=np.int64)
    texts = tuple(labelled.texts[i] for i in rows)
    digest = hashlib.sha256("\n".join((labelled.fingerprint, *texts)).encode()).hexdigest()
    spare = len(labelled) - too_long - len(rows)
    left_out = {**labelled.left_out, "text the model cannot read (too long)": too_long, "text not drawn": spare}
    result = Labelled(labelled.name, texts, labelled.emotions[rows], left_out, digest)
    short = Labelled(
        labelled.name, texts, np.repeat(np.arange(len(EMOTIONS)), [len(m) for m in drawn]), left_out, digest
    )
    _require(short, f"that the model can read ({too_long} are too long)")
    return result


def surface(texts: Sequence[str]) -> NDArray[np.int64]:
    """Groups of texts that look alike without being read, ``[text]``: the same last character, the same third by length.

    The last characters told apart are . ? ! " … and any other; lengths are in characters.
    """
    lengths = np.array([len(text) for text in texts])
    third = np.searchsorted(np.quantile(lengths, [1 / 3, 2 / 3]), lengths)
    last = np.array([_ENDINGS.find(text[-1:]) + 1 for text in texts])
    groups: NDArray[np.int64] = (last * 3 + third).astype(np.int64)
    return groups


def _require(labelled: Labelled, which: str) -> None:
    for e, count in labelled.counts.items():
        if count < LEAST:
            raise PromptError(
                f"{labelled.name!r} has {count or 'no'} text{'' if count == 1 else 's'} of {e} {which}; expected at least "
                f"{LEAST} of each of {', '.join(EMOTIONS)}"
            )


def _label(field: str, where: str) -> tuple[Emotion | None, str]:
    """The one emotion, or why there is none of use."""
    names = [name.strip() for name in field.split(",") if name.strip()]
    for name in names:
        if name not in _LABELS and name not in _OTHER:
            raise PromptError(
                f"{where}: unknown label {name!r}; expected some of {', '.join((*_LABELS, *sorted(_OTHER)))}, separated by "
                "commas"
            )
    if len(names) != 1:
        return None, "several labels" if names else "no label"
    found = _LABELS.get(names[0])
    return found, "" if found is not None else f"label {names[0]}"


def _lines(location: Path) -> tuple[list[str], list[tuple[int, str]], str]:
    """Header fields, numbered lines that are not blank, and the file's SHA-256."""
    if not os.path.isfile(location):
        raise PromptError(
            f"no labelled file {str(location)!r}; expected tab-separated text with columns text and emotions"
        )
    if location.stat().st_size > _MAX_FILE:
        raise PromptError(f"{location} is larger than {_MAX_FILE >> 20} MiB; give a part of it")
    try:
        data = location.read_bytes()
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise PromptError(f"{location} is not UTF-8 (byte {error.start}); save it as UTF-8 and try again") from None
    except OSError as error:
        raise PromptError(f"{location} cannot be read: {error.strerror}") from None
    # Only the newline separates rows: a text may hold other line separators.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    rows = [(number, line) for number, line in enumerate(lines, 1) if number > 1 and line]
    if not rows:
        raise PromptError(f"{location} holds no rows; expected a header with text and emotions, and a text a line")
    return lines[0].split("\t"), rows, hashlib.sha256(data).hexdigest()
