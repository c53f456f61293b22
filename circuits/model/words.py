"""Words that a model with a vocabulary of whole words does not know.

Most tokenizers take any word apart into pieces seen in training. A vocabulary of whole words cannot: it maps an unknown word
to one mark (word-level) or spells it in bytes that were never trained (the embedded model, whose tokenizer has no merges).
Either way the model would be measured on noise without a sign of it, so prompts are held against the vocabulary first.
"""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from circuits.errors import PromptError
from circuits.model.anatomy import Model
from circuits.prompts.datasets import Prompts

__all__ = ["lost_words", "require_words", "unknown_words"]

_TEXTS = 20_000
_PASSED: WeakKeyDictionary[Model, set[str]] = WeakKeyDictionary()
"""Texts of known words: every measurement asks for its prompts anew."""


def unknown_words(model: Model, text: str) -> tuple[str, ...]:
    """Words of ``text`` that are not in a vocabulary of whole words, in order; empty for every other tokenizer.

    Single characters that the vocabulary holds for spelling count as known.
    """
    return _unknown(model, model.tokenizer.get_vocab(), text) if model.whole_words else ()


def lost_words(model: Model, text: str) -> tuple[str, ...]:
    """Pieces of ``text`` that the tokenizer gives up on, in order, whatever its kind.

    Those of :func:`unknown_words`; where words are taken apart, the stretches that become the mark for the unknown.
    """
    if model.whole_words:
        return unknown_words(model, text)
    mark = getattr(model.tokenizer, "unk_token_id", None)
    if mark is None or not getattr(model.tokenizer, "is_fast", False):
        return ()
    found = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return tuple(text[start:end].strip() for number, (start, end) in spans if number == mark)


def require_words(model: Model, prompts: Prompts) -> None:
    """Hold every text, neutral ones included, against a vocabulary of whole words.

    Raises:
        PromptError: a text holds a word that the model does not know; the first one is named.
    """
    if not model.whole_words:
        return
    vocabulary = model.tokenizer.get_vocab()
    passed = _PASSED.setdefault(model, set())
    first: tuple[str, str] | None = None
    lost = set()
    for row in prompts.rows:
        for text in (row.text, row.neutral or ""):
            if text in passed:
                continue
            words = _unknown(model, vocabulary, text)
            if not words and len(passed) < _TEXTS:
                passed.add(text)
            first = first or ((row.id, words[0]) if words else None)
            lost |= {row.id} if words else set()
    if first is not None:
        raise PromptError(
            f"{first[0]!r} of {prompts.name!r}: {model.name} does not know the word {first[1]!r} ({len(lost)} of "
            f"{len(prompts)} rows hold unknown words); expected words of its own vocabulary: use a set written for it, "
            "such as microstories for 'embedded', or another model"
        )


def _unknown(model: Model, vocabulary: Mapping[str, int], text: str) -> tuple[str, ...]:
    backend = model.tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = [(text, (0, len(text)))]
    if backend.pre_tokenizer is not None:
        pieces = backend.pre_tokenizer.pre_tokenize_str(text)
    return tuple(text[start:end].strip() for piece, (start, end) in pieces if piece not in vocabulary)
