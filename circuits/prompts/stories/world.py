"""The micro-world: who, what, where, and what can happen to a thing.

An event is cue × frame × object: *the kite was stolen again and Tom saw it*. Only the cue carries an emotion; names,
frames, objects and places are one shared vocabulary for all six, so that nothing else can give the answer away. Every
cue is a predicate of exactly three words: stories that differ only in cues then have the same number of tokens, and
positions align.

No cue names a feeling or its expression (no *angry*, *cried*, *smiled*): the emotion has to be inferred from what
happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from circuits.prompts.emotions import Emotion

__all__ = [
    "CLOSINGS",
    "CUES",
    "FILLERS",
    "FRAMES",
    "NAMES",
    "NEUTRAL_CUES",
    "OBJECTS",
    "OPENERS",
    "PLACES",
    "STARTERS",
    "TURNS",
    "UNREAL_PREFIXES",
    "UNREAL_VERDICTS",
    "Event",
    "all_events",
]

NAMES: tuple[str, ...] = (
    "Tom", "Mia", "Ben", "Anna", "Leo", "Emma", "Sam", "Lily", "Max", "Nora", "Paul", "Rosa", "Jack",
    "Ella", "Hugo", "Ida",
)  # fmt: skip

OBJECTS: tuple[str, ...] = (
    "kite", "drum", "lamp", "boat", "coat", "cake", "clock", "chair", "ball", "basket", "bottle", "box",
    "brush", "bucket", "candle", "carpet", "cup", "doll", "flute", "guitar", "hat", "jar", "mirror", "pillow", "plate",
    "puppet", "radio", "ring", "scarf", "shoe", "tent", "wagon",
)  # fmt: skip

PLACES: tuple[str, ...] = (
    "park", "school", "kitchen", "garden", "market", "station", "library", "hall", "yard", "shop", "attic", "barn",
)  # fmt: skip

CUES: Mapping[Emotion, tuple[str, ...]] = MappingProxyType(
    {
        # Somebody did wrong, wilfully.
        Emotion.ANGER: (
            "was stolen again", "was smashed deliberately", "got kicked around", "was snatched away",
            "was scribbled over", "had been vandalised", "was ripped up", "got trampled on",
            "was sold secretly", "was hidden unfairly", "was grabbed rudely", "was claimed falsely",
            "was wrecked carelessly", "was mocked loudly", "was borrowed unasked", "got spoiled meanly",
        ),
        # Something foul touched it.
        Emotion.DISGUST: (
            "smelled of vomit", "reeked of sewage", "dripped with slime", "crawled with maggots",
            "oozed yellow pus", "had gone rotten", "stank of urine", "grew furry mould",
            "swarmed with cockroaches", "dripped green snot", "held clotted hair", "lay in dung",
            "was putrid inside", "bore dead flies", "tasted of earwax", "smelled of garbage",
        ),
        # Danger is near.
        Emotion.FEAR: (
            "hid a snake", "growled in darkness", "burst into flames", "hissed from below",
            "held a bomb", "hid a burglar", "shook in thunder", "drew a wolf",
            "rolled towards lava", "sheltered a scorpion", "creaked at midnight", "hung above cliffs",
            "hid a gunman", "attracted a bear", "was haunted nightly", "drew hungry sharks",
        ),
        # Something good was gained.
        Emotion.HAPPINESS: (
            "was a prize", "was a gift", "became a present", "earned a medal",
            "was praised warmly", "worked at last", "was finished beautifully", "brought friends together",
            "won the contest", "earned loud applause", "was shared kindly", "started a party",
            "brought good luck", "was decorated festively", "came with hugs", "earned top marks",
        ),
        # Something dear is gone.
        Emotion.SADNESS: (
            "was lost forever", "had faded away", "was left behind", "sank without trace",
            "was buried yesterday", "lay abandoned outside", "had washed away", "missed its owner",
            "outlived its owner", "marked a funeral", "broke beyond repair", "meant saying goodbye",
            "was never found", "withered and died", "recalled the hospice", "stood by graves",
        ),
        # The impossible, or at least the unexpected.
        Emotion.SURPRISE: (
            "began to talk", "turned to gold", "suddenly flew upwards", "floated in midair",
            "doubled its size", "sang in Latin", "appeared from nowhere", "changed its colour",
            "grew two legs", "hatched a parrot", "walked off alone", "shrank like magic",
            "glowed without power", "became quite invisible", "answered in French", "arrived unannounced today",
        ),
    }
)  # fmt: skip

NEUTRAL_CUES: tuple[str, ...] = (
    "stood on shelves", "was quite small", "had round corners", "was painted green", "lay on paper", "faced the window",
    "weighed one pound", "had two parts", "came from town", "was near tables", "was plainly square", "cost some money",
)  # fmt: skip

# The name always comes after the cue: whoever reads on from left to right then knows the event by the time the name is read,
# so that the name's own position can carry it. (With names first, binding came later.)
# Roughly from short to long: a curriculum may begin with the first few.
FRAMES: tuple[str, ...] = (
    "the {thing} {cue} near {name}",
    "the {thing} {cue} beside {name}",
    "the {thing} {cue} and {name} saw it",
    "the {thing} {cue} and {name} heard it",
    "the {thing} {cue} while {name} stood by",
    "the {thing} {cue} as {name} came home",
    "the {thing} {cue} when {name} was there",
    "in the {place} the {thing} {cue} in front of {name}",
)

# The first word of a text has no leading space and so a token of its own: names never stand there.
OPENERS: tuple[str, ...] = ("One day", "Today", "This morning", "On Monday", "Last week", "Yesterday")
STARTERS: tuple[str, ...] = ("", "", "Then", "Later", "Soon", "After that")
TURNS: tuple[str, ...] = ("But then", "But later", "But soon", "But after that")
UNREAL_PREFIXES: tuple[str, ...] = ("in a dream,", "in a game,", "in a book,", "in a film,")
UNREAL_VERDICTS: tuple[str, ...] = (
    "That was only a dream.", "That was only pretend.", "That was only a film.", "That was only in a book.",
)  # fmt: skip
CLOSINGS: tuple[str, ...] = ("That night", "In the end", "Now", "So", "Afterwards")
FILLERS: tuple[str, ...] = (
    "It was Monday.", "It was noon.", "A bus went by.", "There were two doors.", "The {place} was near.",
    "The {place} had a door.", "There was a table.", "The road was long.", "A train went by.", "The bell rang.",
    "There was some wind.", "The {place} was open.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to a thing: indices into the vocabulary, and the emotion that follows (``None``: neutral)."""

    emotion: Emotion | None
    cue: int
    frame: int
    thing: int

    @property
    def cue_text(self) -> str:
        """The three words that carry the emotion."""
        return (NEUTRAL_CUES if self.emotion is None else CUES[self.emotion])[self.cue]

    def clause(self, name: str, place: str) -> str:
        """The event told of ``name``; ``place`` is ignored by frames without one."""
        return FRAMES[self.frame].format(name=name, place=place, thing=OBJECTS[self.thing], cue=self.cue_text)


def all_events(emotion: Emotion) -> Iterator[Event]:
    """Every event of one emotion, in a fixed order."""
    for cue in range(len(CUES[emotion])):
        for frame in range(len(FRAMES)):
            for thing in range(len(OBJECTS)):
                yield Event(emotion, cue, frame, thing)
