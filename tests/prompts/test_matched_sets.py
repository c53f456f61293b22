"""The sets matched to ``situations``: only the person differs between two of them, and only the word within the third."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from functools import cache

import pytest

from circuits import shipped
from circuits.prompts.datasets import Lexical, Prompts, default_answers, read_prompts
from circuits.prompts.emotions import EMOTIONS

FIRST = set("i me my mine myself we us our ours".split())
THIRD = set("he she him her his hers himself herself they them their theirs".split())
# Present tenses and words for the narrator's own family change with the person.
VERBS = dict(
    pair.split(":")
    for pair in """feel:feels reach:reaches do:does have:has play:plays teach:teaches feed:feeds drive:drives fill:fills
    count:counts shut:shuts work:works visit:visits open:opens keep:keeps clean:cleans""".split()
)
FAMILY = set("mum dad mum's grandpa grandpa's grandmother's".split())
KIN = set("mother mother's father grandfather grandfather's grandmother's".split())


@cache
def prompts(name: str) -> Prompts:
    return read_prompts(name)


def told(text: str) -> list[str]:
    return re.findall(r"[\w'-]+|[.,]", text)


def differences(a: str, b: str) -> list[tuple[list[str], list[str]]]:
    first, second = told(a), told(b)
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    return [(first[i:j], second[k:m]) for tag, i, j, k, m in blocks if tag != "equal"]


@pytest.mark.parametrize("name", ["first_person", "third_person", "explicit"])
def test_rows_pair_up_with_situations(name: str) -> None:
    for row, like in zip(prompts(name).rows, prompts("situations").rows, strict=True):
        assert (row.id, row.scenario, row.emotion, row.split) == (like.id, like.scenario, like.emotion, like.split)
        assert row.neutral is not None
    assert prompts(name).n_scenarios == prompts("situations").n_scenarios >= 84


def texts(name: str) -> list[str]:
    """Texts and neutral texts, in order."""
    return [text for row in prompts(name).rows for text in (row.text, row.neutral or "")]


def test_first_and_third_person_differ_by_person_alone() -> None:
    for mine, theirs in zip(texts("first_person"), texts("third_person"), strict=True):
        changes = differences(mine, theirs)
        assert changes
        for first, third in changes:
            names = [word for word in third if word[0].isupper() and word.lower() not in THIRD | KIN]
            assert len(names) <= 2, (first, third)
            for word in first:
                assert word.lower() in FIRST | set(VERBS) | FAMILY, (word, mine)
            for word in third:
                assert word in names or word.lower() in THIRD | set(VERBS.values()) | KIN, (word, theirs)
            verbs = [VERBS[word] for word in first if word in VERBS]
            assert verbs == [word for word in third if word in VERBS.values()], (first, third)


def test_each_tells_in_one_person_only() -> None:
    for mine, theirs in zip(texts("first_person"), texts("third_person"), strict=True):
        assert FIRST & {word.lower() for word in told(mine)}
        assert not (FIRST - {"mine"}) & {word.lower() for word in told(theirs)}
    # The one told of is the same throughout a scenario, by name, and never named in the first person.
    by_scenario: dict[str, list[str]] = {}
    for row in prompts("third_person").rows:
        by_scenario.setdefault(row.scenario, []).append(row.text)
    for scenario, some in by_scenario.items():
        first = [row.text for row in prompts("first_person").rows if row.scenario == scenario]
        assert len({protagonist(a, b) for a, b in zip(first, some, strict=True)}) == 1, scenario


def protagonist(mine: str, theirs: str) -> str:
    """The name that stands in the third person where a word for the narrator stands in the first."""
    here = set(told(mine))
    for _, third in differences(mine, theirs):
        for word in third:
            if word[0].isupper() and word.lower() not in THIRD | KIN and word not in here:
                return word.removesuffix("'s")
    raise AssertionError(f"no name in {theirs!r}")


def test_nearly_every_row_of_its_person_is_the_situation_word_for_word() -> None:
    """The rest was retold where a text in the plural had no one to name."""
    rows = list(zip(*(prompts(n).rows for n in ("situations", "first_person", "third_person")), strict=True))
    same = [like.text in (first.text, third.text) for like, first, third in rows]
    assert sum(same) / len(same) > 0.9
    assert 0.4 < sum(like.text == first.text for like, first, _ in rows) / len(rows) < 0.5


@cache
def sections() -> dict[str, set[str]]:
    """The shipped words by the headings of their list."""
    found: dict[str, set[str]] = {}
    heading = ""
    for line in shipped.path("emotion_words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.removeprefix("#").strip()
        elif line.strip():
            found.setdefault(heading, set()).add(line.strip())
    return found


def test_an_explicit_text_says_its_emotion_in_one_word_and_nothing_else_differs() -> None:
    answers = {word for words in default_answers().values() for word in words}
    used: Counter[str] = Counter()
    explicit, like = prompts("explicit"), prompts("situations")
    assert explicit.lexical is Lexical.EXPLICIT
    listed = set().union(*sections().values())
    frames: dict[str, set[str]] = {}
    for row, implicit in zip(explicit.rows, like.rows, strict=True):
        words = [word for word in re.findall(r"[a-z]+", row.text.lower()) if word in listed]
        assert len(words) == 1, (row.id, words)
        assert words[0] in sections()[row.emotion], row.id
        assert words[0] not in answers, "a model could copy it"
        used[words[0]] += 1
        frames.setdefault(row.scenario, set()).add(row.text.replace(words[0], "…"))
        # What happens is the neutral course of the situation; the feeling stands before the read-out.
        assert row.neutral == implicit.neutral
        assert implicit.neutral is not None
        (added,) = [third for first, third in differences(implicit.neutral, row.text) if third]
        assert words[0] in [word.lower() for word in added]
        assert row.text.split()[-2:] == implicit.text.split()[-2:]
    assert {len(found) for found in frames.values()} == {1}
    assert len({next(iter(found)) for found in frames.values()}) == len(frames)
    assert all(sum(word in used for word in sections()[e]) >= 8 for e in EMOTIONS)
