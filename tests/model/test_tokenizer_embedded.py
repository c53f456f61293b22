"""The embedded model's tokenizer: words of the micro-world are single tokens, and any other text survives."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from circuits.prompts.stories import Kind, compose

DATA = Path(__file__).resolve().parents[2] / "data"
ANSWERS: dict[str, list[str]] = json.loads((DATA / "answers.json").read_text(encoding="utf-8"))


def load() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(DATA / "embedded")


TOKENIZER = load()


def test_it_loads_without_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load()
    assert capfd.readouterr().err == ""


def test_special_tokens_are_distinct_and_the_beginning_is_prepended() -> None:
    ids = [TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id]
    assert len(set(ids)) == 3
    assert None not in ids
    assert TOKENIZER("One day")["input_ids"][0] == TOKENIZER.bos_token_id
    assert TOKENIZER.padding_side == "right"


@pytest.mark.parametrize("word", [word for words in ANSWERS.values() for word in words])
def test_an_answer_word_adds_exactly_one_token(word: str) -> None:
    prefix = "One day Tom saw that the kite was a prize. Now Tom felt"
    before, after = TOKENIZER(prefix)["input_ids"], TOKENIZER(f"{prefix} {word}")["input_ids"]
    assert after[:-1] == before
    assert TOKENIZER.decode(after[-1:]) == f" {word}"


def test_answer_words_are_eighteen_different_tokens() -> None:
    ids = {
        TOKENIZER(f" {word}", add_special_tokens=False)["input_ids"][0] for words in ANSWERS.values() for word in words
    }
    assert len(ids) == 18


@pytest.mark.parametrize("kind", Kind)
def test_a_story_is_one_token_a_word(kind: Kind) -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = compose(rng, kind, ask_both=0.5).told(rng, ANSWERS)
        marks = text.count(".") + text.count(",") + text.count("'s")
        assert len(TOKENIZER(text, add_special_tokens=False)["input_ids"]) == len(text.split()) + marks


@given(st.text(max_size=60))
def test_any_text_survives(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "text", ["", " ", "  two  spaces ", "a\nb\r\n\tc", "naïve 你好 🙂👩‍👩‍👧", "don't , stop .", "Tom felt angry!"]
)
def test_awkward_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=True) == text
    assert TOKENIZER.decode(TOKENIZER(text, add_special_tokens=False)["input_ids"]) == text
