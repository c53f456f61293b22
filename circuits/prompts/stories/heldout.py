"""Which events a model never sees in training.

Two separate promises are kept:

* **held-out events**: the whole combination cue + frame + object is new, though the cue was seen with the object in
  another frame;
* **held-out pairs**: the cue was never seen with the object in *any* frame (stricter).

Both are spread by modular arithmetic rather than drawn: every cell of one frame and one object then
holds out the same cue slots for all six emotions, so a story can run through the six by its cue alone and stay unseen
throughout; every cue and object stays in training.
"""

from __future__ import annotations

import random
from enum import StrEnum
from functools import cache

from circuits.prompts.emotions import Emotion
from circuits.prompts.stories.world import CUES, FRAMES, OBJECTS, Event, all_events

__all__ = ["Part", "cues_in_cell", "draw_event", "events_of", "part_of"]

_EVENT_PERIOD = 8
_PAIR_PERIOD = 16


class Part(StrEnum):
    """The three parts every emotional event belongs to, exactly one of them."""

    TRAIN = "train"
    """Seen in training."""
    EVENT = "held-out events"
    """Combination never seen; the pair of cue and object was, in other frames."""
    PAIR = "held-out pairs"
    """Cue and object never seen together."""


def part_of(event: Event) -> Part:
    """The part of an emotional event; neutral events are never held out."""
    if event.emotion is None:
        return Part.TRAIN
    if (event.cue + 5 * event.thing) % _PAIR_PERIOD == 0:
        return Part.PAIR
    if (event.cue + event.frame + 3 * event.thing) % _EVENT_PERIOD == 0:
        return Part.EVENT
    return Part.TRAIN


@cache
def events_of(emotion: Emotion, part: Part) -> tuple[Event, ...]:
    """All events of one emotion in one part."""
    return tuple(event for event in all_events(emotion) if part_of(event) is part)


@cache
def cues_in_cell(emotion: Emotion, part: Part, frame: int, thing: int) -> tuple[int, ...]:
    """The cues of ``emotion`` whose event with this frame and object lies in ``part`` (may be empty)."""
    if not (0 <= frame < len(FRAMES) and 0 <= thing < len(OBJECTS)):
        raise IndexError(f"no cell with frame {frame} and object {thing}")
    return tuple(cue for cue in range(len(CUES[emotion])) if part_of(Event(emotion, cue, frame, thing)) is part)


def draw_event(rng: random.Random, emotion: Emotion, part: Part, frames: int = len(FRAMES)) -> Event:
    """One event of the part in one of the first ``frames`` frames, uniformly."""
    pool = events_of(emotion, part)
    while True:
        event = pool[int(rng.random() * len(pool))]
        if event.frame < frames:
            return event
