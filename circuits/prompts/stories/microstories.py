"""The committed prompt sets: matched stories from held-out events, six to a scenario.

Within a scenario persons, order, neutral sentences, places, frames and objects stay, and the asked person's cue runs
through the six emotions; all cues have the same number of words, so the six texts have the same number of tokens,
position by position. In the two-person set another person's event stands beside it, so that only binding tells the
answer. It never carries the asked person's emotion: in the one row where it would, its cue is swapped for one of
another emotion (which one is rotated).

The explicit set says what the two-person set implies: the same scenarios, persons, things and places, with neutral events
and after each the sentence "<Name> felt <word>.", so that the word alone tells a feeling and only binding tells whose. The
micro-world has 18 words for feelings, which are the answers, and no pronouns: the word told may be the answer itself, and
a set in the first person cannot be told in it.

Splits are by scenario and hold equally many scenarios of each design cell (asked person first or second × other's
emotion).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from circuits.prompts.datasets import default_answers
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.prompts.stories.grammar import Filler, Kind, Story, Telling, compose
from circuits.prompts.stories.heldout import Part, cues_in_cell
from circuits.prompts.stories.world import FILLERS, NEUTRAL_CUES, Event

__all__ = ["SPLITS", "explicit_microstories", "plain_microstories", "two_person_microstories"]

SPLITS: tuple[str, ...] = ("fit", "select", "test")

_SCENARIOS_PER_CELL = 9
_PLAIN_SCENARIOS = 36
_FILLERS = 0.35
_SEED = 20240


_NOTHING_FELT = FILLERS[1]
"""Stands where a neutral text says no feeling; as many tokens as "<Name> felt <word>."."""


@dataclass(frozen=True, slots=True)
class _Scenario:
    """Six matched stories before they are told: what happens to whom, by the asked person's emotion."""

    name: str
    story: Story
    split: str
    cues: dict[Emotion, Event]
    other: Event | None
    swapped: Event | None
    nothing: Event

    def beside(self, emotion: Emotion) -> Event | None:
        """The other person's event in the row of ``emotion``, which it never shares."""
        return self.swapped if self.other is not None and self.other.emotion is emotion else self.other


def two_person_microstories() -> Iterator[dict[str, str]]:
    """Rows of ``data/microstories.jsonl``: 12 design cells × 9 scenarios × 6 emotions."""
    for scenario in _two_person_scenarios():
        yield from _rows(scenario)


def plain_microstories() -> Iterator[dict[str, str]]:
    """Rows of ``data/microstories_plain.jsonl``: 36 scenarios × 6 emotions, one person and one event each."""
    rng = random.Random(_SEED + 1)
    for number in range(_PLAIN_SCENARIOS):
        story = compose(rng, Kind.PLAIN, Part.EVENT, fillers=_FILLERS)
        yield from _rows(_scenario(f"plain-{number:03d}", story, SPLITS[number % len(SPLITS)], rng, None))


def explicit_microstories() -> Iterator[dict[str, str]]:
    """Rows of ``data/microstories_explicit.jsonl``: ids, scenarios and splits of ``microstories``, feelings said.

    Each emotion's three words take turns from scenario to scenario; the two persons' words stand at different turns.
    """
    answers = default_answers()
    for number, scenario in enumerate(_two_person_scenarios()):
        asked = scenario.story.questions[0].name
        (other,) = {telling.name for telling in _emotional(scenario.story)} - {asked}
        quiet = replace(scenario.nothing, cue=(scenario.nothing.cue + 1) % len(NEUTRAL_CUES))
        for emotion in EMOTIONS:
            beside = scenario.beside(emotion)
            assert beside is not None
            assert beside.emotion is not None
            felt = {
                asked: f"{asked} felt {answers[emotion][number % 3]}.",
                other: f"{other} felt {answers[beside.emotion][(number + 1) % 3]}.",
            }
            yield _row(scenario, emotion, "explicit", *(
                _said(scenario.story, {asked: scenario.nothing, other: quiet}, sentences)
                for sentences in (felt, felt | {asked: _NOTHING_FELT})
            ))  # fmt: skip


def _said(story: Story, events: dict[str, Event], felt: dict[str, str]) -> Story:
    """The story with these neutral events instead, each followed by what its person felt; neutral sentences stay."""
    sentences: list[Telling | Filler] = []
    for sentence in story.sentences:
        if isinstance(sentence, Telling) and sentence.event.emotion is not None:
            like, told = sentence.event, events[sentence.name]
            sentences.append(replace(sentence, event=replace(like, emotion=None, cue=told.cue)))
            sentences.append(Filler(felt[sentence.name]))
        else:
            sentences.append(sentence)
    return replace(story, sentences=tuple(sentences))


def _two_person_scenarios() -> Iterator[_Scenario]:
    rng = random.Random(_SEED)
    swaps = dict.fromkeys(EMOTIONS, 0)
    number = 0
    for round_ in range(_SCENARIOS_PER_CELL):
        for other in EMOTIONS:
            for asked_first in (True, False):
                story = _two_person_story(rng, other, asked_first)
                # 18 scenarios an emotion, five possible substitutes: rotating uses each three or four times.
                others = [emotion for emotion in EMOTIONS if emotion is not other]
                substitute = others[swaps[other] % len(others)]
                swaps[other] += 1
                yield _scenario(f"micro-{number:03d}", story, SPLITS[round_ % len(SPLITS)], rng, substitute)
                number += 1


def _two_person_story(rng: random.Random, other: Emotion, asked_first: bool) -> Story:
    """A held-out two-person story of the design cell, by drawing until one fits: about one in ten does."""
    while True:
        story = compose(rng, Kind.TWO_PERSON, Part.EVENT, fillers=_FILLERS)
        told = _emotional(story)
        asked = story.questions[0].name
        beside = next(telling for telling in told if telling.name != asked)
        if beside.event.emotion is other and (told[0].name == asked) is asked_first:
            return story


def _emotional(story: Story) -> list[Telling]:
    return [s for s in story.sentences if isinstance(s, Telling) and s.event.emotion is not None]


def _scenario(name: str, story: Story, split: str, rng: random.Random, substitute: Emotion | None) -> _Scenario:
    """The six stories of a scenario; ``substitute`` takes the other's place where the emotions would coincide."""
    asked = story.questions[0].name
    told = _emotional(story)
    event = next(telling.event for telling in told if telling.name == asked)
    other = next((telling.event for telling in told if telling.name != asked), None)
    cues = {emotion: _held_out_event(rng, emotion, event) for emotion in EMOTIONS}
    swapped = _held_out_event(rng, substitute, other) if other is not None and substitute is not None else None
    nothing = replace(event, emotion=None, cue=rng.randrange(len(NEUTRAL_CUES)))
    return _Scenario(name, story, split, cues, other, swapped, nothing)


def _rows(scenario: _Scenario) -> Iterator[dict[str, str]]:
    story, asked = scenario.story, scenario.story.questions[0].name
    for emotion in EMOTIONS:
        beside = scenario.beside(emotion)
        told, quiet = (
            _with_events(story, asked, event, beside) for event in (scenario.cues[emotion], scenario.nothing)
        )
        yield _row(scenario, emotion, "implicit", told, quiet)


def _row(scenario: _Scenario, emotion: Emotion, lexical: str, told: Story, neutral: Story) -> dict[str, str]:
    return {
        "id": f"{scenario.name}-{emotion}",
        "scenario": scenario.name,
        "emotion": str(emotion),
        "text": told.prompt,
        "neutral": neutral.prompt,
        "split": scenario.split,
        "lexical": lexical,
    }


def _held_out_event(rng: random.Random, emotion: Emotion, like: Event) -> Event:
    """A held-out event of ``emotion`` in the frame and with the object of ``like``."""
    return replace(like, emotion=emotion, cue=rng.choice(cues_in_cell(emotion, Part.EVENT, like.frame, like.thing)))


def _with_events(story: Story, asked: str, event: Event, beside: Event | None) -> Story:
    """The story with the asked person's event, and the other's, replaced; neutral sentences stay."""

    def retold(sentence: Telling | Filler) -> Telling | Filler:
        if isinstance(sentence, Filler) or sentence.event.emotion is None:
            return sentence
        if sentence.name == asked:
            return replace(sentence, event=event)
        return sentence if beside is None else replace(sentence, event=beside)

    return replace(story, sentences=tuple(retold(sentence) for sentence in story.sentences))
