"""The control task: equal texts but for a name, cut before the name, split and scenario kept."""

from __future__ import annotations

import re

import pytest
from conftest import tiny_rows
from families import ANSWERS

from circuits.errors import PromptError
from circuits.prompts.control import name_control
from circuits.prompts.datasets import Prompts, read_prompts
from circuits.prompts.emotions import EMOTIONS


def test_six_texts_of_a_scenario_differ_in_the_asked_name_alone():
    source = read_prompts("microstories")
    control = name_control(source)
    assert control.names == ("Anna", "Ben", "Ella", "Emma", "Hugo", "Ida")
    assert control.prompts.answers == {e: (name,) for e, name in zip(EMOTIONS, control.names, strict=True)}
    assert len(control.prompts) == 6 * source.n_scenarios
    assert list(dict.fromkeys(r.scenario for r in control.prompts.rows)) == list(
        dict.fromkeys(r.scenario for r in source.rows)
    )
    splits = {row.scenario: row.split for row in source.rows}
    texts: dict[str, set[str]] = {}
    for row in control.prompts.rows:
        name = control.names[row.emotion.column]
        words = re.findall(r"\w+", row.text)
        assert [other for other in control.names if other in words] == [name]
        assert words[-1] != name
        assert row.split is splits[row.scenario]
        texts.setdefault(row.scenario, set()).add(re.sub(rf"\b{name}\b", "NAME", row.text))
    assert {len(some) for some in texts.values()} == {1}


def test_it_is_the_source_text_with_other_names():
    source = read_prompts("microstories")
    control = name_control(source).prompts
    for number in (0, 7, 50):
        row = control.rows[6 * number]
        wanted = next(r for r in source.rows if r.scenario == row.scenario and r.emotion is EMOTIONS[number % 6])
        theirs, ours = (re.findall(r"\S+", text) for text in (wanted.text, row.text))
        assert len(theirs) == len(ours) + 2
        apart = {(a, b) for a, b in zip(theirs, ours, strict=False) if a.strip(".") != b.strip(".")}
        assert all(a[0].isupper() and b[0].isupper() for a, b in apart)
        assert len(apart) <= 4  # two persons, with or without a full stop


def test_sets_without_names_are_refused():
    with pytest.raises(PromptError, match=r"'sit-002-disgust' of 'situations' does not end .*'She felt'"):
        name_control(read_prompts("situations"))
    tiny = Prompts.of(tiny_rows(6), name="tiny", answers=ANSWERS)
    with pytest.raises(PromptError, match=r"'s0-anger' of 'tiny' does not end with a name told before .*'Tom felt'"):
        name_control(tiny)


def test_too_few_names_are_refused():
    rows = [{**row, "text": f"Tom saw {row['text']}"} for row in tiny_rows(6)]
    with pytest.raises(PromptError, match=r"'tiny' asks about 1 persons \(Tom\); expected at least 6"):
        name_control(Prompts.of(rows, name="tiny", answers=ANSWERS))
