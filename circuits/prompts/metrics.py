"""From logits to one number per prompt and emotion (SCIENCE section 3).

``logit_difference(e)`` [logits] is the mean logit of e's answer tokens minus the mean over the other five emotions of
the same mean, at the read-out position. It is linear in the answer logits, so all six come from one matrix
(:meth:`Answers.contrast`), one pass, and closed-form gradients.

An emotion's answer tokens are the first tokens of its answer words *as they continue a text*: a word is tokenised behind
a carrier text and the tokens beyond the carrier count, because many tokenizers treat a word at the start differently. A
first token that words of another emotion share says nothing about which emotion is meant, and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuits.errors import AnswerError
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["UNIT", "Answers", "answer_tokens"]

UNIT = "logits"
"""Unit of the logit difference."""

_CARRIER = "Now I felt"


@dataclass(frozen=True)
class Answers:
    """Answer tokens of every emotion, and what was dropped on the way.

    ``ids[e]`` are vocabulary indices; ``notices`` are sentences for the user.
    """

    ids: Mapping[Emotion, tuple[int, ...]]
    notices: tuple[str, ...]

    @property
    def columns(self) -> tuple[int, ...]:
        """All answer token ids, emotion by emotion: the axis ``answer``."""
        return tuple(index for e in EMOTIONS for index in self.ids[e])

    def means(self) -> NDArray[np.float64]:
        """[answer, emotion]: logits times this is each emotion's mean answer logit."""
        matrix = np.zeros((len(self.columns), len(EMOTIONS)))
        row = 0
        for e in EMOTIONS:
            count = len(self.ids[e])
            matrix[row : row + count, e.column] = 1 / count
            row += count
        return matrix

    def contrast(self) -> NDArray[np.float64]:
        """[answer, emotion]: logits times this is the logit difference of each emotion."""
        six = len(EMOTIONS)
        others = (np.ones((six, six)) - np.eye(six)) / (six - 1)
        return self.means() @ (np.eye(six) - others)


def answer_tokens(encode: Callable[[str], list[int]], words: Mapping[Emotion, tuple[str, ...]]) -> Answers:
    """First tokens of every emotion's words, through the model's own tokenizer ``encode``.

    Raises:
        AnswerError: an emotion has no word whose first token is its own.
    """
    carrier = encode(_CARRIER)
    firsts: dict[str, int] = {}
    notices = []
    for e in EMOTIONS:
        for word in words[e]:
            ids = encode(f"{_CARRIER} {word}")
            if ids[: len(carrier)] != carrier or len(ids) == len(carrier):
                notices.append(f"{e}: {word!r} dropped: it merges with the text before it")
                continue
            firsts[word] = ids[len(carrier)]
            if len(ids) - len(carrier) > 1:
                notices.append(f"{e}: {word!r} has {len(ids) - len(carrier)} tokens; its first one stands for it")
    owners: dict[int, set[Emotion]] = {}
    for e in EMOTIONS:
        for word in words[e]:
            if word in firsts:
                owners.setdefault(firsts[word], set()).add(e)
    result: dict[Emotion, tuple[int, ...]] = {}
    for e in EMOTIONS:
        kept: list[int] = []
        for word in words[e]:
            index = firsts.get(word)
            if index is None:
                continue
            if len(owners[index]) > 1:
                shared = ", ".join(sorted(owners[index] - {e}))
                notices.append(f"{e}: {word!r} dropped: its first token also begins a word of {shared}")
            elif index in kept:
                notices.append(f"{e}: {word!r} adds nothing: another of its words begins with the same token")
            else:
                kept.append(index)
        if not kept:
            raise AnswerError(
                f"{e} has no answer token left of its words {', '.join(words[e])}: every first token is shared with "
                "another emotion; give it a word that starts differently (Prompts.with_answers or --answers)"
            )
        result[e] = tuple(kept)
    return Answers(result, tuple(notices))
