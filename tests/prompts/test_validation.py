"""The validator: every finding can be provoked, alone, and the shipped sets are without fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from circuits import shipped
from circuits.prompts.datasets import Lexical, Prompts, default_answers, read_prompts
from circuits.prompts.emotions import EMOTIONS
from circuits.prompts.validation import Finding, emotion_words, validate_prompts

Rows = list[dict[str, Any]]


def clean() -> Rows:
    """Six scenarios in three splits with nothing to find."""
    return [
        {"id": f"s{s}-{e}", "scenario": f"s{s}", "emotion": str(e), "lexical": "implicit",
         "text": f"Case {s} kind {number} then Tom saw Mia", "split": ("fit", "select", "test")[s % 3]}
        for s in range(6) for number, e in enumerate(EMOTIONS)
    ]  # fmt: skip


def found(rows: Rows, **options: Any) -> tuple[Finding, ...]:
    return validate_prompts(Prompts.of(rows), **options)


def test_nothing_is_found_in_a_clean_set() -> None:
    assert found(clean()) == ()


def test_equal_texts_are_a_fault() -> None:
    rows = clean()
    rows[1]["text"] = rows[0]["text"]
    assert found(rows) == (Finding("the same text occurs more than once", True, ("s0-anger", "s0-disgust")),)


def test_emotion_words_are_a_fault_in_an_implicit_set() -> None:
    rows = clean()
    rows[2]["text"] = "Case 0 kind 2, Furious and SAD: Tom left."
    (finding,) = found(rows)
    assert finding == Finding("emotion words in a set declared implicit", True, ("s0-fear (furious, sad)",))


def test_emotion_words_are_listed_as_declared_in_an_explicit_set_and_counted_in_an_undeclared_one() -> None:
    rows = clean()
    for row in rows[:9]:
        row["text"] = row["text"].replace("Tom", "angry")
    silent, declared = found([{**row, "lexical": "explicit"} for row in rows])
    assert declared.what == "emotion words, as declared (lexical: explicit), in 9 of 36 texts"
    assert declared.rows == tuple(f"{row['id']} (angry)" for row in rows[:9])
    assert (declared.fault, declared.note) == (False, True)
    assert silent.what == "texts without an emotion word in a set declared explicit"
    assert silent.rows == tuple(row["id"] for row in rows[9:])
    assert (silent.fault, silent.note) == (False, False)
    (finding,) = found([{k: v for k, v in row.items() if k != "lexical"} for row in rows])
    assert finding.what == "'lexical' is not declared; 25% of the texts contain emotion words"
    assert not finding.fault
    assert len(finding.rows) == 9


def test_a_word_inside_another_is_no_emotion_word() -> None:
    rows = clean()
    rows[2]["text"] = "Case 0 kind 2 then Tom saw Sadie"
    assert found(rows) == ()


def test_an_incomplete_scenario_is_a_fault_at_each_valence() -> None:
    rows = [{**row, "id": f"{row['id']}-{v}", "text": f"{v} {row['text']}", "valence": v}
            for v in ("mild", "strong") for row in clean()]  # fmt: skip
    assert found(rows) == ()
    (finding,) = found(rows[1:])
    assert finding == Finding("scenarios without all six emotions", True, ("s0 lacks anger",))
    (finding,) = found([row for row in rows if row["id"] not in ("s3-fear-strong", "s3-anger-strong")])
    assert finding.rows == ("s3 lacks anger, fear",)


@pytest.mark.parametrize(
    ("deal", "fault", "what"),
    [
        (lambda s: ("fit", "test")[s % 2], True, "a split has no scenarios (fit 3, select 0, test 3)"),
        (lambda s: ("fit", "fit", "select", "select", "test", "fit")[s], False,
         "splits differ in size by more than 1.5 times (fit 3, select 2, test 1)"),
        (lambda s: None, False, "no splits declared: scenarios were dealt by a hash of their names"),
    ],
)  # fmt: skip
def test_splits_that_are_empty_uneven_or_undeclared_are_found(
    deal: Callable[[int], str | None], fault: bool, what: str
) -> None:
    findings = found([{**row, "split": deal(int(row["scenario"][1:]))} for row in clean()])
    assert [f.fault for f in findings if f.what.startswith(what)] == [fault]


def test_unequal_lengths_inside_a_scenario_are_a_warning() -> None:
    rows = clean()
    rows[0]["text"] += " and so on"
    (finding,) = found(rows)
    assert finding == Finding("texts of a scenario differ in length by more than 30%", False, ("s0 (8-11)",))


def test_unequal_mean_lengths_of_emotions_are_a_warning() -> None:
    rows = clean()
    for row in rows:
        if row["emotion"] == "fear":
            row["text"] += " again"
    (finding,) = found(rows)
    assert finding.what.startswith("emotions differ in mean length by more than 10% (anger 8.0, disgust 8.0, fear 9.0")
    assert not finding.fault


def test_lengths_are_counted_as_the_caller_counts() -> None:
    assert found(clean(), count=len) == ()
    (finding,) = found(clean(), count=lambda text: 3 if "kind 1" in text else 2)[:1]
    assert finding.what.startswith("texts of a scenario differ")
    assert len(finding.rows) == 6


def test_faults_come_first_and_long_lists_are_cut() -> None:
    rows = clean()
    for row in rows[6:]:
        row["text"] = rows[0]["text"] + " again and again"
    findings = found(rows)
    assert [f.fault for f in findings] == sorted((f.fault for f in findings), reverse=True)
    assert str(findings[0]) == "the same text occurs more than once: s1-anger, s1-disgust, s1-fear and 27 more"
    assert str(Finding("alone", True, ())) == "alone"


@pytest.mark.parametrize("name", shipped.PROMPT_SETS)
def test_a_shipped_set_has_no_faults(name: str) -> None:
    prompts = read_prompts(name)
    findings = validate_prompts(prompts)
    assert [str(f) for f in findings if not f.note] == []
    explicit = prompts.lexical is Lexical.EXPLICIT
    assert [len(f.rows) for f in findings] == ([len(prompts)] if explicit else [])


def test_the_word_list_holds_every_shipped_answer_and_the_names_of_the_emotions() -> None:
    words = {word for ws in default_answers().values() for word in ws}
    assert words <= emotion_words()
    assert set(EMOTIONS) <= emotion_words()
    assert all(word == word.lower() and word.isalpha() for word in emotion_words())
