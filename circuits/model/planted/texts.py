"""Words, embeddings and prompts of planted models.

A text is filler words, one cue word that carries the emotion, one or more chance words, and the read-out token::

    window again theft the street perhaps garden feel

The six texts of a scenario have the same fillers and the same places of cue and chance words. They differ in the cue
word, and in the chance words, which are drawn anew for every row without regard to its emotion.

Kinds with contexts tell every scenario twice, with the same fillers and cue words. The context is the read-out word:
"feel" in the context ``inward``, "seem" in ``outward``. It is the row's ``valence``, so that the six texts which are
compared with each other are of one context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from circuits.model.planted.space import Dims, Space, Vector
from circuits.prompts.datasets import Split
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["ANSWERS", "BOS", "PAD", "READOUTS", "UNDERTONE", "UNK", "Lexicon", "Row", "compose"]

PAD, BOS, UNK = "<pad>", "<bos>", "<unk>"
READOUTS = {"": "feel", "inward": "feel", "outward": "seem"}
"""The last word of a text by its context."""
NEUTRAL_CUE = "errand"

ANSWERS: dict[Emotion, str] = dict(
    zip(EMOTIONS, ("angry", "disgusted", "afraid", "happy", "sad", "surprised"), strict=True)
)
"""The one answer word of each emotion."""

CUES: dict[Emotion, tuple[str, ...]] = dict(
    zip(
        EMOTIONS,
        (
            ("theft", "insult", "betrayal", "sabotage", "lie", "vandals"),
            ("mould", "sewage", "maggots", "slime", "rot", "vomit"),
            ("intruder", "wolf", "earthquake", "ambush", "cliff", "stalker"),
            ("wedding", "prize", "reunion", "holiday", "birthday", "sunshine"),
            ("funeral", "farewell", "grave", "illness", "divorce", "orphan"),
            ("twist", "stranger", "coincidence", "comet", "trapdoor", "riddle"),
        ),
        strict=True,
    )
)
STRENGTHS = (1.2, 0.9, 1.35, 1.05, 1.275, 0.975)
"""How strongly the cue words of an emotion carry it, dealt out by the seed. The largest must stay below 1.5: a sixth of
it, which is what remains in the mean over a scenario, must not reach the threshold of the emotion neurons (0.25)."""

UNDERTONE = 0.75
"""How much of a second emotion a mixed cue word carries, on an axis apart from the first's."""

LOUDNESS = 3.0
"""Length of every unembedding row: logits per unit of the stream. With it the stream stays short, and float32 exact."""

FILLERS: tuple[str, ...] = tuple(
    """the a this that morning evening kitchen window street garden table letter train again later under beside old
    small green quiet door hill river market chair lamp paper road bridge tower coat field wall basket clock boat
    station corner bottle""".split()
)
CHANCE: tuple[str, ...] = tuple(
    """perhaps maybe really quite almost rather nearly hardly indeed somehow just even still ever simply partly""".split()
)
"""Chance words; consecutive ones have opposite content, so that their content is exactly centred."""


@dataclass(frozen=True)
class Row:
    """One text with the facts the model was built from."""

    scenario: str
    emotion: Emotion
    split: Split
    text: str
    neutral: str
    strength: float
    """How strongly the cue carries the emotion: 1.2 means the embedding holds 1.2 of the emotion's feature."""
    cue: str
    mixed: bool = False
    """Whether the cue carries the undertone of another emotion as well."""
    context: str = ""

    @property
    def id(self) -> str:
        return "-".join(filter(None, (self.scenario, self.emotion.value, self.context)))

    def as_dict(self) -> dict[str, object]:
        """The row in the form of a prompt file."""
        return {
            "id": self.id,
            "scenario": self.scenario,
            "emotion": self.emotion.value,
            "text": self.text,
            "split": self.split.value,
            "lexical": "implicit",
            "neutral": self.neutral,
            **({"valence": self.context} if self.context else {}),
        }


@dataclass(frozen=True)
class Lexicon:
    """The vocabulary with what each word puts into the stream and what the stream must hold to predict it."""

    words: tuple[str, ...]
    embedding: Float[NDArray[np.float64], "vocabulary d_model"]
    unembedding: Float[NDArray[np.float64], "vocabulary d_model"]
    strengths: dict[str, float]
    """Strength of every cue word."""
    mixed: frozenset[str] = frozenset()
    """Cue words with an undertone."""

    @classmethod
    def draw(
        cls,
        dims: Dims,
        space: Space,
        rng: np.random.Generator,
        *,
        contexts: Mapping[str, Vector],
        undertones: Mapping[Emotion, Vector],
    ) -> Lexicon:
        """Deal out cue strengths and random word contents.

        Args:
            contexts: what the read-out word of each context holds besides the mark of the read-out.
            undertones: what every second cue word of an emotion carries besides it.
        """
        nothing = np.zeros(space.d_model)
        meanings: dict[str, Vector] = {PAD: nothing, BOS: space.start, UNK: nothing}
        for context, mark in (contexts or {"": nothing}).items():
            meanings[READOUTS[context]] = space.is_readout + mark + space.random(rng, space.plot)
        meanings[NEUTRAL_CUE] = space.is_cue
        strengths = {}
        mixed = frozenset(word for e in undertones for word in CUES[e][: dims.n_cues : 2])
        for e in EMOTIONS:
            words = CUES[e][: dims.n_cues]
            for word, strength in zip(words, rng.permutation(STRENGTHS[: dims.n_cues]), strict=True):
                strengths[word] = float(strength)
                undertone = UNDERTONE * undertones[e] if word in mixed else nothing
                meanings[word] = space.is_cue + strength * space.cue(e) + undertone
        meanings |= {word: space.random(rng, space.plot) for word in FILLERS}
        for word, opposite in zip(CHANCE[::2], CHANCE[1::2], strict=True):
            content = space.random(rng, space.chance)
            meanings[word] = space.is_chance + content
            meanings[opposite] = space.is_chance - content
        meanings |= dict.fromkeys(ANSWERS.values(), nothing)
        embedding = np.stack([space.one + meaning for meaning in meanings.values()])
        unembedding = LOUDNESS * np.stack([space.random(rng, space.silent) for _ in meanings])
        words = tuple(meanings)
        for e, word in ANSWERS.items():
            unembedding[words.index(word)] = LOUDNESS * space.answer(e)
        return cls(words=words, embedding=embedding, unembedding=unembedding, strengths=strengths, mixed=mixed)


def compose(
    dims: Dims, lexicon: Lexicon, rng: np.random.Generator, *, n_chance: int, contexts: Sequence[str]
) -> tuple[Row, ...]:
    """All rows, scenario by scenario and context by context; the splits are thirds of the scenarios.

    Args:
        n_chance: chance words per text.
        contexts: in which every scenario is told; ``[""]`` where there are none.
    """
    rows = []
    cue_words = {e: CUES[e][: dims.n_cues] for e in EMOTIONS}
    # Each emotion goes through its cue words in its own random order, every word equally often in every third.
    third = -(-dims.n_scenarios // len(Split))
    turns = {e: [i for _ in Split for i in rng.permutation(np.resize(np.arange(dims.n_cues), third))] for e in EMOTIONS}
    for number in range(dims.n_scenarios):
        fillers = [str(word) for word in rng.choice(FILLERS, size=int(rng.integers(5, 9)), replace=False)]
        places = [int(place) for place in rng.permutation(len(fillers) + 1 + n_chance)[: 1 + n_chance]]
        for context in contexts:
            neutral = _text(NEUTRAL_CUE, fillers, places, READOUTS[context], rng)
            for e in EMOTIONS:
                cue = cue_words[e][turns[e][number]]
                rows.append(
                    Row(
                        scenario=f"s{number:02d}",
                        emotion=e,
                        split=tuple(Split)[number // third],
                        text=_text(cue, fillers, places, READOUTS[context], rng),
                        neutral=neutral,
                        strength=lexicon.strengths[cue],
                        cue=cue,
                        mixed=cue in lexicon.mixed,
                        context=context,
                    )
                )
    return tuple(rows)


def _text(cue: str, fillers: Sequence[str], places: Sequence[int], readout: str, rng: np.random.Generator) -> str:
    """Fillers in order, with the cue at the first of ``places`` and fresh chance words at the others."""
    chance = [str(word) for word in rng.choice(CHANCE, size=len(places) - 1)]
    placed = dict(zip(places, [cue, *chance], strict=True))
    rest = iter(fillers)
    words = [placed[i] if i in placed else next(rest) for i in range(len(fillers) + len(places))]
    return " ".join([*words, readout])
