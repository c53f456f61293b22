"""Words outside a vocabulary of whole words are named before anything is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

import circuits
from circuits.errors import PromptError
from circuits.model.anatomy import Model
from circuits.model.words import require_words, unknown_words
from circuits.prompts.datasets import Prompts, read_prompts


@pytest.fixture(scope="module")
def embedded() -> Model:
    return circuits.load("embedded", device="cpu")


def test_unknown_words_are_told_in_order_and_punctuation_is_known(embedded: Model) -> None:
    text = "One day the kite grumbled near Tom. Today, Zelda felt"
    assert unknown_words(embedded, text) == ("grumbled", "Zelda")
    assert unknown_words(embedded, text.replace("grumbled", "was stolen again").replace("Zelda", "Tom")) == ()


@pytest.mark.parametrize("pronoun", "I me my he she him her his they".split())
def test_the_micro_world_has_no_pronouns_so_person_cannot_be_told_in_it(embedded: Model, pronoun: str) -> None:
    assert unknown_words(embedded, f"Today {pronoun} felt") == (pronoun,)


@pytest.mark.parametrize("name", ["microstories", "microstories_plain", "microstories_explicit"])
def test_the_embedded_model_knows_every_word_of_its_sets(embedded: Model, name: str) -> None:
    prompts = read_prompts(name)
    assert {word for text in prompts.texts for word in unknown_words(embedded, text)} == set()
    require_words(embedded, prompts)


@pytest.mark.parametrize("name", ["situations", "first_person", "third_person", "explicit"])
def test_a_set_it_cannot_read_is_refused_by_its_first_unknown_word(embedded: Model, name: str) -> None:
    prompts = read_prompts(name)
    message = (
        f"'sit-001-anger' of '{name}': embedded does not know the word 'At' \\(504 of 504 rows hold unknown words\\)"
    )
    with pytest.raises(PromptError, match=message):
        circuits.estimate_directions(embedded, prompts)
    with pytest.raises(PromptError, match=message):
        circuits.measure(embedded, prompts, ["L0H0"])


def test_neutral_texts_are_held_against_the_vocabulary_too(embedded: Model) -> None:
    prompts = read_prompts("microstories")
    rows = list(prompts.rows[:12])
    rows[7] = replace(rows[7], neutral="Today the kite snored near Ben. That night Ben felt")
    with pytest.raises(PromptError, match=rf"'{rows[7].id}'.* the word 'snored' \(1 of 12 rows"):
        require_words(embedded, replace(prompts, rows=tuple(rows)))


def test_a_text_is_refused_as_often_as_it_is_asked_for_and_passes_for_this_model_alone(embedded: Model) -> None:
    rows = list(read_prompts("microstories").rows[:6])
    known = replace(read_prompts("microstories"), rows=tuple(rows))
    rows[2] = replace(rows[2], text="Today the zebra felt")
    unknown = replace(known, rows=tuple(rows))
    require_words(embedded, known)
    for _ in range(2):
        with pytest.raises(PromptError, match="the word 'zebra'"):
            require_words(embedded, unknown)
    other = circuits.planted("chain", seed=0).model
    assert other.whole_words
    with pytest.raises(PromptError, match="does not know the word"):
        require_words(other, known)


def test_token_ids_are_the_callers_own(embedded: Model) -> None:
    text = read_prompts("microstories").texts[0]
    first = embedded.token_ids(text)
    wanted = list(first)
    first.clear()
    assert embedded.token_ids(text) == wanted
    assert embedded.encode([text]).ids[0].tolist() == wanted


def test_a_word_level_vocabulary_is_one_of_whole_words(tiny_prompts: Prompts) -> None:
    truth = circuits.planted("chain", seed=0)
    require_words(truth.model, truth.prompts)
    assert unknown_words(truth.model, "the intruder zigzagged feel") == ("zigzagged",)
    with pytest.raises(PromptError, match="does not know the word"):
        require_words(truth.model, tiny_prompts)


def test_a_tokenizer_with_merges_takes_any_word_apart(embedded: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embedded.whole_words
    monkeypatch.setitem(embedded.__dict__, "whole_words", False)
    require_words(embedded, read_prompts("situations"))
    assert unknown_words(embedded, "Zelda grumbled") == ()
