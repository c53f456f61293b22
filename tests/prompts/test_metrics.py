"""Answer tokens and the logit difference: what is dropped is said, and the matrix is the definition."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import AnswerError
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.prompts.metrics import UNIT, Answers, answer_tokens

Words = dict[Emotion, tuple[str, ...]]
Encode = Callable[[str], list[int]]

WORDS: Words = {e: (f"{e}1", f"{e}2") for e in EMOTIONS}


def encoder(cut: str = r"\S+", *, first: int | None = None) -> Encode:
    """A tokenizer whose tokens are the matches of ``cut``, numbered as they are met; ``first`` goes in front."""
    numbers: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        ids = [numbers.setdefault(piece, 10 + len(numbers)) for piece in re.findall(cut, text)]
        return ids if first is None else [first, *ids]

    return encode


@pytest.mark.parametrize("first", [None, 1])
def test_whole_words_are_their_own_tokens(first: int | None) -> None:
    encode = encoder(first=first)
    answers = answer_tokens(encode, WORDS)
    assert answers.ids == {e: tuple(encode(f"Now I felt {w}")[-1] for w in ws) for e, ws in WORDS.items()}
    assert answers.notices == ()
    assert answers.columns == tuple(i for e in EMOTIONS for i in answers.ids[e])


def test_a_word_of_several_tokens_is_noticed_and_its_first_one_taken() -> None:
    encode = encoder(r"[a-zA-Z]+|\d")
    answers = answer_tokens(encode, {**{e: (str(e),) for e in EMOTIONS}, Emotion.FEAR: ("fear12",)})
    assert answers.ids[Emotion.FEAR] == (encode("Now I felt fear")[-1],)
    assert answers.notices == ("fear: 'fear12' has 3 tokens; its first one stands for it",)


def test_a_first_token_shared_by_two_emotions_is_dropped_from_both() -> None:
    encode = encoder(r"un|\S+")
    words = {**WORDS, Emotion.SADNESS: ("unhappy", "sad"), Emotion.SURPRISE: ("unready", "amazed")}
    answers = answer_tokens(encode, words)
    assert answers.ids[Emotion.SADNESS] == (encode("sad")[0],)
    assert answers.ids[Emotion.SURPRISE] == (encode("amazed")[0],)
    assert encode("un")[0] not in answers.columns
    assert "sadness: 'unhappy' dropped: its first token also begins a word of surprise" in answers.notices
    assert "surprise: 'unready' dropped: its first token also begins a word of sadness" in answers.notices


def test_a_first_token_shared_inside_an_emotion_counts_once() -> None:
    encode = encoder(r"un|\S+")
    answers = answer_tokens(encode, {**WORDS, Emotion.SADNESS: ("unhappy", "unlucky", "sad")})
    assert answers.ids[Emotion.SADNESS] == (encode("un")[0], encode("sad")[0])
    assert not any("dropped" in notice for notice in answers.notices)


def test_an_emotion_left_without_a_token_is_an_error_that_names_its_words() -> None:
    words = {**WORDS, Emotion.SADNESS: ("unhappy", "unlucky"), Emotion.SURPRISE: ("unready", "amazed")}
    with pytest.raises(AnswerError, match="sadness has no answer token left of its words unhappy, unlucky"):
        answer_tokens(encoder(r"un|\S+"), words)


@pytest.mark.parametrize(
    "cut",
    [
        r"felt merged|\S+",  # the last token of the carrier swallows the word
        r"fel(?=t merged)|t merged|\S+",  # the last token of the carrier is cut elsewhere
        r"\b(?!merged)\S+",  # no token is added
    ],
    ids=["swallowed", "cut elsewhere", "adds nothing"],
)
def test_a_word_that_merges_with_the_carrier_is_dropped(cut: str) -> None:
    encode = encoder(cut)
    words = {**WORDS, Emotion.FEAR: ("merged", "afraid")}
    answers = answer_tokens(encode, words)
    assert answers.ids[Emotion.FEAR] == (encode("afraid")[0],)
    assert answers.notices == ("fear: 'merged' dropped: it merges with the text before it",)


def test_the_unit_is_logits() -> None:
    assert UNIT == "logits"


def by_loops(answers: Answers, logits: np.ndarray) -> np.ndarray:
    """The definition, word for word: own mean minus the mean over the other five of theirs."""
    place = {index: i for i, index in enumerate(answers.columns)}
    mean = {e: sum(logits[place[i]] for i in answers.ids[e]) / len(answers.ids[e]) for e in EMOTIONS}
    return np.array([mean[e] - sum(mean[o] for o in EMOTIONS if o is not e) / 5 for e in EMOTIONS])


@st.composite
def numbers(draw: st.DrawFn) -> tuple[list[list[int]], list[float]]:
    """Answer ids by emotion, and a logit for each."""
    counts = draw(st.lists(st.integers(1, 4), min_size=6, max_size=6))
    size = sum(counts)
    ids = iter(draw(st.permutations(range(size))))
    logits = draw(st.lists(st.floats(-100, 100), min_size=size, max_size=size))
    return [[next(ids) for _ in range(n)] for n in counts], logits


@given(numbers(), st.floats(-1000, 1000))
def test_the_matrices_are_the_definition(case: tuple[list[list[int]], list[float]], shift: float) -> None:
    answers = Answers({e: tuple(ids) for e, ids in zip(EMOTIONS, case[0], strict=True)}, ())
    logits = np.array(case[1])
    difference = logits @ answers.contrast()
    np.testing.assert_allclose(difference, by_loops(answers, logits), atol=1e-10)
    # One more for e is one fifth less for each other: the six always cancel, and a shift of all logits is invisible.
    np.testing.assert_allclose(difference.sum(), 0, atol=1e-9)
    np.testing.assert_allclose((logits + shift) @ answers.contrast(), difference, atol=1e-9)
    np.testing.assert_allclose(answers.means().sum(0), 1, atol=1e-12)


def test_one_token_each_gives_one_and_minus_a_fifth() -> None:
    answers = Answers({e: (7 - e.column,) for e in EMOTIONS}, ())
    assert answers.columns == (7, 6, 5, 4, 3, 2)
    np.testing.assert_array_equal(answers.means(), np.eye(6))
    np.testing.assert_allclose(answers.contrast(), np.full((6, 6), -0.2) + 1.2 * np.eye(6), atol=1e-15)
    np.testing.assert_allclose(answers.contrast().sum(0), 0, atol=1e-15)
    np.testing.assert_allclose(answers.contrast().sum(1), 0, atol=1e-15)
