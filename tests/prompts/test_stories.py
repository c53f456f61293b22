"""The story generator: nothing but the cue carries emotion, held-out stays held out, and the committed sets are its output."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.prompts.stories import Kind, Part, Story, compose, part_of
from circuits.prompts.stories.grammar import Telling
from circuits.prompts.stories.heldout import events_of
from circuits.prompts.stories.microstories import (
    SPLITS,
    explicit_microstories,
    plain_microstories,
    two_person_microstories,
)
from circuits.prompts.stories.world import (
    CUES,
    FRAMES,
    NAMES,
    NEUTRAL_CUES,
    OBJECTS,
    PLACES,
    UNREAL_VERDICTS,
    all_events,
)

DATA = Path(__file__).resolve().parents[2] / "data"
ANSWERS: dict[str, list[str]] = json.loads((DATA / "answers.json").read_text(encoding="utf-8"))
ANSWER_WORDS = {word for words in ANSWERS.values() for word in words}
SETS: dict[str, Callable[[], list[dict[str, str]]]] = {
    "microstories": cache(lambda: list(two_person_microstories())),
    "microstories_plain": cache(lambda: list(plain_microstories())),
    "microstories_explicit": cache(lambda: list(explicit_microstories())),
}


def stories(kind: Kind, count: int, part: Part = Part.TRAIN, seed: int = 0) -> list[Story]:
    rng = random.Random(seed)
    return [compose(rng, kind, part, ask_both=0.5) for _ in range(count)]


def words(text: str) -> list[str]:
    return [word.strip(".,").lower() for word in text.split()]


@pytest.mark.parametrize("kind", Kind)
def test_the_same_seed_tells_the_same_stories(kind: Kind) -> None:
    told = [[story.told(random.Random(1), ANSWERS) for story in stories(kind, 50, seed=seed)] for seed in (3, 3, 4)]
    assert told[0] == told[1]
    assert told[0] != told[2]


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_an_emotion_has_many_events_and_each_belongs_to_one_part(emotion: Emotion) -> None:
    events = list(all_events(emotion))
    assert len(events) == len(set(events)) >= 150
    assert sum(len(events_of(emotion, part)) for part in Part) == len(events)
    assert len(events_of(emotion, Part.TRAIN)) >= 150
    assert {len(events_of(emotion, part)) for part in Part} == {len(events_of(Emotion.ANGER, part)) for part in Part}


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_training_sees_every_cue_in_two_frames_and_with_most_objects(emotion: Emotion) -> None:
    frames, things = defaultdict(set), defaultdict(set)
    for event in events_of(emotion, Part.TRAIN):
        frames[event.cue].add(event.frame)
        things[event.cue].add(event.thing)
    assert set(frames) == set(range(len(CUES[emotion])))
    assert all(len(seen) >= 2 for seen in frames.values())
    assert all(len(seen) >= len(OBJECTS) * 3 // 4 for seen in things.values())
    # Objects and frames cannot tell the emotion: all six are seen with all of them.
    assert set.union(*things.values()) == set(range(len(OBJECTS)))
    assert set.union(*frames.values()) == set(range(len(FRAMES)))


def test_a_held_out_pair_is_in_no_training_event_and_a_held_out_event_is_not_a_held_out_pair() -> None:
    for emotion in EMOTIONS:
        pairs = {part: {(event.cue, event.thing) for event in events_of(emotion, part)} for part in Part}
        assert pairs[Part.PAIR].isdisjoint(pairs[Part.TRAIN] | pairs[Part.EVENT])
        assert pairs[Part.EVENT] <= pairs[Part.TRAIN]


@pytest.mark.parametrize("kind", Kind)
def test_training_stories_never_tell_a_held_out_event(kind: Kind) -> None:
    assert {part_of(event) for story in stories(kind, 800) for event in story.events} == {Part.TRAIN}


@pytest.mark.parametrize("part", [Part.EVENT, Part.PAIR])
@pytest.mark.parametrize("kind", Kind)
def test_held_out_stories_tell_only_held_out_events(kind: Kind, part: Part) -> None:
    told = [event for story in stories(kind, 250, part) for event in story.events if event.emotion is not None]
    assert {part_of(event) for event in told} == {part}


def test_cues_are_three_distinct_words_and_shared_by_no_two_emotions() -> None:
    cues = [cue for emotion in EMOTIONS for cue in CUES[emotion]] + list(NEUTRAL_CUES)
    assert len(cues) == len(set(cues))
    assert {len(cue.split()) for cue in cues} == {3}
    for names in (NAMES, OBJECTS, PLACES, FRAMES):
        assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", Kind)
def test_prompts_end_at_the_read_out_are_short_and_hold_no_answer_word(kind: Kind) -> None:
    for story in stories(kind, 400):
        assert story.prompt.endswith(f" {story.questions[0].name} felt")
        assert not ANSWER_WORDS & set(words(story.prompt))
        assert not story.prompt.startswith(NAMES)
        assert len(words(story.prompt)) <= 70


@pytest.mark.parametrize("kind", Kind)
def test_a_whole_story_answers_each_question_with_a_word_of_its_emotion(kind: Kind) -> None:
    rng = random.Random(5)
    for story in stories(kind, 250):
        told = words(story.told(rng, ANSWERS)[len(story.prompt) :])
        found = [word for word in told if word in ANSWER_WORDS]
        assert len(found) == len(story.questions)
        assert all(word in ANSWERS[q.emotion] for word, q in zip(found, story.questions, strict=True))


def emotional(story: Story) -> list[Telling]:
    return [s for s in story.sentences if isinstance(s, Telling) and s.event.emotion is not None]


def test_two_person_stories_balance_order_and_emotions() -> None:
    sample = stories(Kind.TWO_PERSON, 2000)
    first = sum(emotional(story)[0].name == story.questions[0].name for story in sample)
    assert 0.46 < first / len(sample) < 0.54
    assert set(Counter(story.emotion for story in sample)) == set(EMOTIONS)
    for story in sample:
        a, b = emotional(story)
        assert a.name != b.name
        assert a.event.emotion is not b.event.emotion
        felt = {telling.name: telling.event.emotion for telling in (a, b)}
        assert all(felt[question.name] is question.emotion for question in story.questions)


def test_in_a_reversal_the_later_event_counts_and_is_marked() -> None:
    for story in stories(Kind.REVERSAL, 300):
        before, after = emotional(story)
        assert after.event.emotion is story.emotion is not before.event.emotion
        assert after.starter.startswith("But ")


def test_in_a_negation_the_unreal_event_does_not_count_and_its_place_tells_nothing() -> None:
    last = 0
    sample = stories(Kind.NEGATION, 1000)
    for story in sample:
        unreal = []
        for index, sentence in enumerate(story.sentences):
            follows = story.sentences[index + 1].text if index + 1 < len(story.sentences) else ""
            if isinstance(sentence, Telling) and (sentence.unreal or follows in UNREAL_VERDICTS):
                unreal.append(sentence)
        assert len(unreal) == 1
        real = [telling for telling in emotional(story) if telling is not unreal[0]]
        assert [telling.event.emotion for telling in real] == [story.emotion]
        last += emotional(story)[-1] is real[0]
    assert 0.44 < last / len(sample) < 0.56


@pytest.mark.parametrize("name", SETS)
def test_the_committed_set_is_what_the_generator_tells(name: str) -> None:
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == SETS[name]()


@pytest.mark.parametrize(
    ("name", "least"), [("microstories", 96), ("microstories_plain", 36), ("microstories_explicit", 96)]
)
def test_scenarios_are_complete_matched_and_split_in_thirds(name: str, least: int) -> None:
    rows = SETS[name]()
    scenarios = defaultdict(list)
    for row in rows:
        scenarios[row["scenario"]].append(row)
    assert len(scenarios) >= least
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    for scenario in scenarios.values():
        assert [row["emotion"] for row in scenario] == list(EMOTIONS)
        assert len({row["split"] for row in scenario}) == 1
        assert len({len(row[key].split()) for row in scenario for key in ("text", "neutral")}) == 1
    assert set(Counter(scenario[0]["split"] for scenario in scenarios.values()).values()) == {len(scenarios) // 3}
    assert all(row["text"].endswith(" felt") and row["neutral"].endswith(" felt") for row in rows)
    assert all(bool(ANSWER_WORDS & set(words(row["text"]))) is (row["lexical"] == "explicit") for row in rows)


def cue_emotions(text: str) -> list[Emotion]:
    """The emotions of the cues in a text, in order."""
    found = [(text.find(cue), emotion) for emotion in EMOTIONS for cue in CUES[emotion] if cue in text]
    return [emotion for _, emotion in sorted(found)]


def test_only_binding_tells_the_answer_of_a_microstory() -> None:
    order: dict[tuple[str, bool, Emotion], set[str]] = defaultdict(set)
    swapped_in: Counter[Emotion] = Counter()
    rows = SETS["microstories"]()
    for start in range(0, len(rows), 6):
        scenario, others = rows[start : start + 6], []
        for row in scenario:
            told = cue_emotions(row["text"])
            assert len(told) == 2
            assert row["emotion"] in told
            assert told[0] is not told[1]
            others.append(told[1] if told[0] == row["emotion"] else told[0])
            assert cue_emotions(row["neutral"]) == others[-1:]
        (usual, five), (swapped, one) = Counter(others).most_common()
        assert (five, one) == (5, 1)
        assert scenario[others.index(swapped)]["emotion"] == usual
        swapped_in[swapped] += 1
        asked_first = cue_emotions(scenario[0]["text"])[0] == scenario[0]["emotion"]
        order[scenario[0]["split"], asked_first, usual].add(scenario[0]["scenario"])
    assert {len(scenarios) for scenarios in order.values()} == {3}
    assert len(order) == len(SPLITS) * 2 * len(EMOTIONS)
    assert max(swapped_in.values()) - min(swapped_in.values()) <= 12


def said(text: str) -> dict[str, str]:
    """Who is said to have felt what, before the question."""
    found = [sentence.split(" felt ") for sentence in text.split(". ") if " felt " in sentence]
    return {sentence[0]: sentence[1] for sentence in found}


def test_the_explicit_set_says_of_the_same_persons_what_the_two_person_set_implies() -> None:
    used: Counter[str] = Counter()
    for implied, told in zip(SETS["microstories"](), SETS["microstories_explicit"](), strict=True):
        assert all(implied[key] == told[key] for key in ("id", "scenario", "emotion", "split"))
        assert cue_emotions(told["text"]) == cue_emotions(told["neutral"]) == []
        asked = told["text"].split()[-2]
        felt = {name: next(e for e in EMOTIONS if word in ANSWERS[e]) for name, word in said(told["text"]).items()}
        assert len(felt) == 2
        assert felt.pop(asked) == told["emotion"]
        assert list(felt.values()) == [e for e in cue_emotions(implied["text"]) if e != told["emotion"]]
        # In the neutral text nothing is said of the asked person; all else stays.
        assert said(told["neutral"]) == {name: word for name, word in said(told["text"]).items() if name != asked}
        # The two tell the same but for cues and what is said: names, things, places and neutral sentences in order.
        plain = re.sub(r"[A-Z][a-z]+ felt [a-z]+\. ", "", told["text"])
        assert without_cues(plain) == without_cues(implied["text"])
        used.update(said(told["text"]).values())
    assert set(used) == ANSWER_WORDS


def without_cues(text: str) -> str:
    for cue in (*NEUTRAL_CUES, *(cue for emotion in EMOTIONS for cue in CUES[emotion])):
        text = text.replace(f" {cue} ", " … ")
    return text
