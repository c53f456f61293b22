"""The committed prompt sets: matched stories from held-out events, six to a scenario.

Within a scenario persons, order, neutral sentences, places, frames and objects stay, and the asked person's cue runs
through the six emotions; all cues have the same number of words, so the six texts have the same number of tokens,
position by position. In the two-person set another person's event stands beside it, so that only binding tells the
answer. It never carries the asked person's emotion: in the one row where it would, its cue is swapped for one of
another emotion (which one is rotated).

Splits are by scenario and hold equally many scenarios of each design cell (asked person first or second × other's
emotion).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.prompts.stories.grammar import Filler, Kind, Story, Telling, compose
from circuits.prompts.stories.heldout import Part, cues_in_cell
from circuits.prompts.stories.world import NEUTRAL_CUES, Event

__all__ = ["SPLITS", "plain_microstories", "two_person_microstories"]

SPLITS: tuple[str, ...] = ("fit", "select", "test")

_SCENARIOS_PER_CELL = 9
_PLAIN_SCENARIOS = 36
_FILLERS = 0.35
_SEED = 20240


def two_person_microstories() -> Iterator[dict[str, str]]:
    """Rows of ``data/microstories.jsonl``: 12 design cells × 9 scenarios × 6 emotions."""
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
                yield from _rows(f"micro-{number:03d}", story, SPLITS[round_ % len(SPLITS)], rng, substitute)
                number += 1


def plain_microstories() -> Iterator[dict[str, str]]:
    """Rows of ``data/microstories_plain.jsonl``: 36 scenarios × 6 emotions, one person and one event each."""
    rng = random.Random(_SEED + 1)
    for number in range(_PLAIN_SCENARIOS):
        story = compose(rng, Kind.PLAIN, Part.EVENT, fillers=_FILLERS)
        yield from _rows(f"plain-{number:03d}", story, SPLITS[number % len(SPLITS)], rng, None)


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


def _rows(
    scenario: str, story: Story, split: str, rng: random.Random, substitute: Emotion | None
) -> Iterator[dict[str, str]]:
    """The six rows of a scenario; ``substitute`` takes the other's place where the emotions would coincide."""
    asked = story.questions[0].name
    told = _emotional(story)
    event = next(telling.event for telling in told if telling.name == asked)
    other = next((telling.event for telling in told if telling.name != asked), None)
    cues = {emotion: _held_out_event(rng, emotion, event) for emotion in EMOTIONS}
    swapped = _held_out_event(rng, substitute, other) if other is not None and substitute is not None else None
    nothing = replace(event, emotion=None, cue=rng.randrange(len(NEUTRAL_CUES)))
    for emotion in EMOTIONS:
        beside = swapped if other is not None and other.emotion is emotion else other
        yield {
            "id": f"{scenario}-{emotion}",
            "scenario": scenario,
            "emotion": str(emotion),
            "text": _with_events(story, asked, cues[emotion], beside).prompt,
            "neutral": _with_events(story, asked, nothing, beside).prompt,
            "split": split,
            "lexical": "implicit",
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
