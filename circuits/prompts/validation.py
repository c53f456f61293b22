"""What may be wrong with a prompt set that can be read: duplicates, emotion words, gaps, imbalance, unequal lengths.

None of these stops a measurement; each changes what it means. An emotion word in an *implicit* set is a fault (the model could
read the answer off the word); in an *explicit* set the rows that hold one are listed as declared, which is a note. The rest are
warnings to weigh.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from circuits import shipped
from circuits.prompts.datasets import Lexical, Prompts, Split
from circuits.prompts.emotions import EMOTIONS

__all__ = ["Finding", "emotion_words", "validate_prompts"]

_LENGTH_SPREAD = 0.3
_SPLIT_RATIO = 1.5
_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing found: ``fault`` must be mended, ``note`` is as declared, else a warning. ``rows`` are ids or scenarios."""

    what: str
    fault: bool
    rows: tuple[str, ...]
    note: bool = False

    def __str__(self) -> str:
        some = ", ".join(self.rows[:_SHOWN])
        more = f" and {len(self.rows) - _SHOWN} more" if len(self.rows) > _SHOWN else ""
        return f"{self.what}: {some}{more}" if self.rows else self.what


@lru_cache(maxsize=1)
def emotion_words() -> frozenset[str]:
    """The shipped list of words that name or show a feeling (``data/emotion_words.txt``)."""
    text = shipped.path("emotion_words.txt").read_text(encoding="utf-8")
    lines = (line.split("#")[0].strip().lower() for line in text.splitlines())
    return frozenset(line for line in lines if line)


def validate_prompts(prompts: Prompts, count: Callable[[str], int] | None = None) -> tuple[Finding, ...]:
    """Everything found: faults, then warnings, then notes.

    Args:
        prompts: a set that could be read.
        count: length of a text; words by default, pass a tokenizer's count to judge tokens.
    """
    findings = [*_duplicates(prompts), *_words(prompts), *_incomplete(prompts), *_splits(prompts)]
    findings += _lengths(prompts, count or (lambda text: len(text.split())))
    return tuple(sorted(findings, key=lambda f: (not f.fault, f.note)))


def _duplicates(prompts: Prompts) -> list[Finding]:
    times = Counter(prompts.texts)
    rows = tuple(row.id for row in prompts.rows if times[row.text] > 1)
    return [Finding("the same text occurs more than once", True, rows)] if rows else []


def _words(prompts: Prompts) -> list[Finding]:
    listed = emotion_words()
    hits = {}
    for row in prompts.rows:
        found = sorted(set(re.findall(r"[a-z]+", row.text.lower())) & listed)
        if found:
            hits[row.id] = found
    rows = tuple(f"{name} ({', '.join(found)})" for name, found in hits.items())
    if prompts.lexical is Lexical.IMPLICIT:
        return [Finding("emotion words in a set declared implicit", True, rows)] if rows else []
    if prompts.lexical is None:
        share = len(hits) / len(prompts)
        return [Finding(f"'lexical' is not declared; {share:.0%} of the texts contain emotion words", False, rows)]
    found = []
    if rows:
        what = f"emotion words, as declared (lexical: explicit), in {len(rows)} of {len(prompts)} texts"
        found.append(Finding(what, False, rows, note=True))
    silent = tuple(row.id for row in prompts.rows if row.id not in hits)
    if silent:
        found.append(Finding("texts without an emotion word in a set declared explicit", False, silent))
    return found


def _incomplete(prompts: Prompts) -> list[Finding]:
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in prompts.rows:
        groups[row.group].add(row.emotion)
    rows = tuple(
        f"{scenario} lacks {', '.join(e for e in EMOTIONS if e not in found)}"
        for (scenario, _), found in groups.items()
        if len(found) < len(EMOTIONS)
    )
    return [Finding("scenarios without all six emotions", True, rows)] if rows else []


def _splits(prompts: Prompts) -> list[Finding]:
    counts = {split: len({row.scenario for row in prompts.rows if row.split is split}) for split in Split}
    told = ", ".join(f"{split} {count}" for split, count in counts.items())
    if min(counts.values()) == 0:
        return [Finding(f"a split has no scenarios ({told})", True, ())]
    found = []
    if max(counts.values()) > _SPLIT_RATIO * min(counts.values()):
        found.append(Finding(f"splits differ in size by more than {_SPLIT_RATIO:g} times ({told})", False, ()))
    if not prompts.declared_splits:
        found.append(Finding(f"no splits declared: scenarios were dealt by a hash of their names ({told})", False, ()))
    return found


def _lengths(prompts: Prompts, count: Callable[[str], int]) -> list[Finding]:
    lengths = np.array([count(text) for text in prompts.texts])
    rows = []
    for group in range(int(prompts.groups.max()) + 1):
        inside = lengths[prompts.groups == group]
        if inside.max() > (1 + _LENGTH_SPREAD) * inside.min():
            rows.append(
                f"{prompts.rows[int(np.argmax(prompts.groups == group))].scenario} ({inside.min()}-{inside.max()})"
            )
    found = []
    if rows:
        found.append(
            Finding(f"texts of a scenario differ in length by more than {_LENGTH_SPREAD:.0%}", False, tuple(rows))
        )
    means = {str(e): float(lengths[prompts.emotions == e.column].mean()) for e in EMOTIONS}
    if max(means.values()) > 1.1 * min(means.values()):
        told = ", ".join(f"{e} {mean:.1f}" for e, mean in means.items())
        found.append(Finding(f"emotions differ in mean length by more than 10% ({told})", False, ()))
    return found
