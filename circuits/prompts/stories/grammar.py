"""Composing very short stories out of events.

Four kinds: *plain* (one person, one event), *two_person* (two persons, two events of different emotions, one of them
asked), *reversal* (a later event counts, marked by "But"), *negation* (one of two events was only dreamt, played or
read and does not count; it comes first or second, so that "the last event counts" does not solve it). All but the
first need more than the words that occur: a bag of words is at about one half.

Every text ends "… <name> felt"; the next token is the answer. Composing is a pure function of the random generator
handed in.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.prompts.stories.heldout import Part, draw_event
from circuits.prompts.stories.world import (
    CLOSINGS,
    CUES,
    FILLERS,
    FRAMES,
    NAMES,
    NEUTRAL_CUES,
    OBJECTS,
    OPENERS,
    PLACES,
    STARTERS,
    TURNS,
    UNREAL_PREFIXES,
    UNREAL_VERDICTS,
    Event,
)

__all__ = ["Filler", "Kind", "Question", "Story", "Telling", "compose", "lexicon_texts", "neutral_event"]

T = TypeVar("T")


class Kind(StrEnum):
    """What has to be understood."""

    PLAIN = "plain"
    """One person, one event: the words suffice."""
    TWO_PERSON = "two_person"
    """Whose event was it?"""
    REVERSAL = "reversal"
    """Which event came last?"""
    NEGATION = "negation"
    """Which event was real?"""


@dataclass(frozen=True, slots=True)
class Telling:
    """One sentence: an event told of a person; ``starter`` opens it, ``unreal`` marks dream and make-believe."""

    name: str
    event: Event
    place: str
    starter: str = ""
    unreal: str = ""

    @property
    def text(self) -> str:
        """The sentence with its full stop."""
        words = (self.starter, self.unreal, self.event.clause(self.name, self.place))
        sentence = " ".join(word for word in words if word)
        return sentence[0].upper() + sentence[1:] + "."


@dataclass(frozen=True, slots=True)
class Filler:
    """A neutral sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """Whose feeling is asked, and what it is."""

    name: str
    emotion: Emotion


@dataclass(frozen=True, slots=True)
class Story:
    """Sentences, a closing phrase and one or two questions."""

    kind: Kind
    sentences: tuple[Telling | Filler, ...]
    closing: str
    questions: tuple[Question, ...]

    @property
    def emotion(self) -> Emotion:
        """The answer to the first question."""
        return self.questions[0].emotion

    @property
    def prompt(self) -> str:
        """The text up to the first read-out."""
        return f"{self.body} {self.closing} {self.questions[0].name} felt"

    @property
    def body(self) -> str:
        """What happened: all before the closing phrase."""
        return " ".join(sentence.text for sentence in self.sentences)

    def told(self, rng: random.Random, answers: Mapping[str, Sequence[str]]) -> str:
        """The whole story with its answers, each one of the emotion's words drawn uniformly."""
        words = [_pick(rng, answers[question.emotion]) for question in self.questions]
        rest = [f" {question.name} felt {word}." for question, word in zip(self.questions[1:], words[1:], strict=True)]
        return f"{self.prompt} {words[0]}." + "".join(rest)

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event told, neutral ones included, in order."""
        return tuple(sentence.event for sentence in self.sentences if isinstance(sentence, Telling))


def compose(
    rng: random.Random,
    kind: Kind,
    part: Part = Part.TRAIN,
    *,
    emotion: Emotion | None = None,
    fillers: float = 0.35,
    ask_both: float = 0.0,
    frames: int = len(FRAMES),
    names: int = len(NAMES),
) -> Story:
    """One story of the kind whose emotional events all come from ``part``.

    Args:
        rng: the only source of chance.
        emotion: what the asked person feels; drawn uniformly if not given.
        fillers: probability of a neutral sentence in each gap (before, between and after the events).
        ask_both: probability that a two-person story asks about the second person as well.
        frames: how many of the frames may be used, for a curriculum.
        names: how many of the names may be used, likewise.
    """
    felt = emotion if emotion is not None else _pick(rng, EMOTIONS)
    event = draw_event(rng, felt, part, frames)
    if kind is Kind.PLAIN:
        name = _pick(rng, NAMES[:names])
        tellings: list[Telling | Filler] = [_tell(rng, name, event)]
        questions = [Question(name, felt)]
    else:
        other = draw_event(rng, _pick(rng, [e for e in EMOTIONS if e is not felt]), part, frames)
        while other.thing == event.thing:
            other = draw_event(rng, other.emotion or felt, part, frames)
        tellings, questions = _tell_two(rng, kind, event, other, ask_both, names)
    people = list(dict.fromkeys(telling.name for telling in tellings if isinstance(telling, Telling)))
    sentences = _with_fillers(rng, tellings, people, fillers)
    return Story(kind, _opened(rng, sentences), _pick(rng, CLOSINGS), tuple(questions))


def _tell_two(
    rng: random.Random, kind: Kind, event: Event, other: Event, ask_both: float, names: int
) -> tuple[list[Telling | Filler], list[Question]]:
    """The two events of a story that has two; ``event`` is the one that counts."""
    first, second = rng.sample(NAMES[:names], 2)
    assert event.emotion is not None
    assert other.emotion is not None
    asked = Question(first, event.emotion)
    if kind is Kind.TWO_PERSON:
        pair: list[Telling | Filler] = [_tell(rng, first, event), _tell(rng, second, other)]
        if rng.random() < 0.5:
            pair.reverse()
        questions = [asked]
        if rng.random() < ask_both:
            questions.append(Question(second, other.emotion))
        return pair, questions
    if kind is Kind.REVERSAL:
        turn = replace(_tell(rng, first, event), starter=_pick(rng, TURNS))
        return [_tell(rng, first, other), turn], [asked]
    return _negated(rng, _tell(rng, first, event), _tell(rng, first, other)), [asked]


def _negated(rng: random.Random, real: Telling, unreal: Telling) -> list[Telling | Filler]:
    """The unreal event first or second, marked by a prefix or by a verdict right after it."""
    told: list[Telling | Filler]
    if rng.random() < 0.5:
        told = [replace(unreal, unreal=_pick(rng, UNREAL_PREFIXES))]
    else:
        told = [unreal, Filler(_pick(rng, UNREAL_VERDICTS))]
    return [*told, real] if rng.random() < 0.5 else [real, *told]


def _with_fillers(
    rng: random.Random, tellings: Sequence[Telling | Filler], people: Sequence[str], share: float
) -> list[Telling | Filler]:
    """Neutral sentences in the gaps, but never between an event and the verdict on it."""
    sentences: list[Telling | Filler] = []
    for telling in tellings:
        if isinstance(telling, Telling) and rng.random() < share:
            sentences.append(_filler(rng, people))
        sentences.append(telling)
    if rng.random() < share:
        sentences.append(_filler(rng, people))
    return sentences


def _filler(rng: random.Random, people: Sequence[str]) -> Telling | Filler:
    """A neutral sentence: about nobody, or (one in three) a neutral event of one of the people."""
    if rng.random() < 1 / 3:
        return _tell(rng, _pick(rng, people), neutral_event(rng))
    return Filler(_pick(rng, FILLERS).format(place=_pick(rng, PLACES)))


def neutral_event(rng: random.Random) -> Event:
    """An event nothing follows from."""
    return Event(None, rng.randrange(len(NEUTRAL_CUES)), rng.randrange(len(FRAMES)), rng.randrange(len(OBJECTS)))


def _tell(rng: random.Random, name: str, event: Event) -> Telling:
    return Telling(name, event, _pick(rng, PLACES), starter=_pick(rng, STARTERS))


def _opened(rng: random.Random, sentences: Sequence[Telling | Filler]) -> tuple[Telling | Filler, ...]:
    """The first sentence begins with an opener, so that no name is ever the first token."""
    head = sentences[0]
    if isinstance(head, Telling):
        head = replace(head, starter=_pick(rng, OPENERS))
    return (head, *sentences[1:])


def lexicon_texts() -> list[str]:
    """Texts that together contain every word of the micro-world, each with the spacing it has in stories."""
    begin = [*OPENERS, *(filler.split()[0] for filler in FILLERS)]
    blanks = {"name": NAMES[0], "place": PLACES[0], "thing": OBJECTS[0], "cue": NEUTRAL_CUES[0]}
    inside = [
        *NAMES, *OBJECTS, *PLACES, *OPENERS, *STARTERS, *TURNS, *UNREAL_PREFIXES, *UNREAL_VERDICTS,
        *(prefix.capitalize() for prefix in UNREAL_PREFIXES), *CLOSINGS, *NEUTRAL_CUES, "felt",
        *(cue for emotion in EMOTIONS for cue in CUES[emotion]),
        *(text.format(**blanks) for text in (*FRAMES, *FILLERS)),
    ]  # fmt: skip
    return [*begin, *(f" {text}" for text in inside if text)]


def _pick(rng: random.Random, options: Sequence[T]) -> T:
    """``rng.choice`` in one multiplication: training draws about a thousand times a step."""
    return options[int(rng.random() * len(options))]
