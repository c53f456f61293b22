"""Reading prompt sets: strict, with messages that name the line; splits, groups and fingerprints mean what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuits import shipped
from circuits.errors import PromptError
from circuits.prompts import datasets
from circuits.prompts.datasets import Lexical, Prompts, Split, default_answers, read_answers, read_prompts
from circuits.prompts.emotions import Emotion

Rows = list[dict[str, Any]]


def rows_of(scenarios: int = 3) -> Rows:
    return tiny_rows(scenarios)


def written(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def changed(number: int = 3, **fields: Any) -> Rows:
    """Acceptable rows of which one has other fields; ``...`` removes a field."""
    rows = rows_of()
    rows[number] = {k: v for k, v in {**rows[number], **fields}.items() if v is not ...}
    return rows


def read_lines(path: Path, *lines: str) -> Prompts:
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_prompts(path)


LINE = json.dumps(rows_of()[0])


def test_a_file_and_the_same_rows_give_the_same_set(tmp_path: Path) -> None:
    read, made = read_prompts(written(tmp_path / "mine.jsonl", rows_of())), Prompts.of(rows_of(), name="mine")
    assert read == made
    assert (read.name, len(read), read.n_scenarios, read.lexical) == ("mine", 18, 3, Lexical.IMPLICIT)
    assert read.ids == tuple(row["id"] for row in rows_of())
    assert read.texts == tuple(row["text"] for row in rows_of())
    assert read.answers == default_answers()
    assert read.neutral == {(row["scenario"], ""): row["neutral"] for row in rows_of()}
    np.testing.assert_array_equal(read.emotions, list(range(6)) * 3)
    np.testing.assert_array_equal(read.scenarios, np.repeat([0, 1, 2], 6))


@pytest.mark.parametrize("field", ["id", "scenario", "emotion", "text"])
def test_a_missing_field_is_named_with_its_row(field: str, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=rf"^row 4 lacks the field '{field}'; expected id, scenario, emotion, text$"):
        Prompts.of(changed(**{field: ...}))
    with pytest.raises(PromptError, match=rf"^mine\.jsonl line 4 lacks the field '{field}'"):
        read_prompts(written(tmp_path / "mine.jsonl", changed(**{field: ...})))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"emotion": "joy"}, "row 4: unknown emotion 'joy'; expected one of anger, disgust"),
        ({"emotion": "Anger"}, "row 4: unknown emotion 'Anger'"),
        ({"emotion": 3}, "row 4: emotion is 3; expected a string"),
        ({"emotion": ["anger"]}, r"row 4: emotion is \['anger'\]; expected a string"),
        ({"text": ""}, "row 4: text is empty"),
        ({"text": "  \n"}, "row 4: text is empty"),
        ({"text": None}, "row 4: text is None; expected a string"),
        ({"id": None}, "row 4: id is None; expected a string"),
        ({"id": ""}, "row 4: id is empty"),
        ({"id": 7}, "row 4: id is 7; expected a string"),
        ({"scenario": " "}, "row 4: scenario is empty"),
        ({"neutral": ""}, "row 4: neutral is empty"),
        ({"neutral": "\ud800"}, "row 4: neutral holds half a surrogate pair"),
        ({"text": "Tom \udfff felt"}, "row 4: text holds half a surrogate pair"),
        ({"valence": 1}, "row 4: valence is 1; expected a string"),
        ({"text": "Tom felt "}, "row 4: the text ends in white space"),
        ({"text": "Tom felt\n"}, "row 4: the text ends in white space"),
        ({"text": "Tom felt\u00a0"}, "row 4: the text ends in white space"),
        ({"split": "train"}, "row 4: split is 'train'; expected one of fit, select, test"),
        ({"split": ["fit"]}, r"row 4: split is \['fit'\]; expected one of"),
        ({"split": ...}, "row 4 has no split although other rows do"),
        ({"split": None}, "row 4 has no split although other rows do"),
        ({"split": "select"}, "scenario 's0' lies in splits fit, select; expected one"),
        ({"lexical": "both"}, "row 4: lexical is 'both'; expected one of explicit, implicit"),
        ({"lexical": "explicit"}, r"'prompts' declares lexical as \['explicit', 'implicit'\]; expected one value"),
        ({"lexical": ...}, r"'prompts' declares lexical as \['None', 'implicit'\]"),
        ({"id": "s0-anger"}, "row 4: the id 's0-anger' was already used in row 1; ids must be unique"),
    ],
)
def test_a_malformed_row_is_refused_with_its_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=f"^{message}"):
        Prompts.of(changed(**fields))


@pytest.mark.parametrize("left", [0, 1])
def test_an_emotion_needs_two_scenarios(left: int) -> None:
    fear = [row for row in rows_of() if row["emotion"] == "fear"]
    rows = [row for row in rows_of() if row not in fear[left:]]
    with pytest.raises(PromptError, match=rf"'prompts' has {left} scenario\(s\) for fear; expected two or more"):
        Prompts.of(rows)
    Prompts.of([row for row in rows_of() if row not in fear[2:]])


def test_two_texts_of_one_scenario_are_not_two_scenarios() -> None:
    rows = rows_of()
    for row in rows:
        if row["emotion"] == "fear":
            row.update(scenario="s0", split="fit")
    with pytest.raises(PromptError, match=r"1 scenario\(s\) for fear"):
        Prompts.of(rows)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not valid JSON"),
        ('{"id": "a", "id": "b"}', "is not valid JSON: the key 'id' occurs twice"),
        ('{"id": "a", "x": {"y": 1, "y": 1}}', "is not valid JSON: the key 'y' occurs twice"),
        ('{"id": NaN}', "is not valid JSON: NaN is not a JSON number"),
        ('{"id": -Infinity}', "is not valid JSON: -Infinity is not a JSON number"),
        ('{"id": ' + "[" * 10**5 + "]" * 10**5 + "}", "is not valid JSON: the value is nested too deeply"),
        ('{"id": ' + "9" * 5000 + "}", "is not valid JSON"),
        ("[1, 2]", "is a JSON list; expected an object with id, scenario, emotion, text"),
        ("null", "is a JSON NoneType; expected an object"),
        (LINE + " " * 2**20, "is longer than 1048576 characters; expected one short JSON object"),
        (LINE + LINE, "is not valid JSON"),
    ],
)
def test_a_bad_line_is_named_by_its_number(line: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(PromptError) as caught:
        read_lines(tmp_path / "mine.jsonl", LINE, "", line, LINE)
    assert str(caught.value).startswith(f"mine.jsonl line 3 {reason}")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(b"{\xff}")
    with pytest.raises(PromptError, match=r"mine\.jsonl is not UTF-8 \(byte 1\)"):
        read_prompts(tmp_path / "mine.jsonl")


@pytest.mark.parametrize("content", ["", "\n \n\t\n", "\ufeff"])
def test_an_empty_file_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="holds no rows; expected one JSON object per line"):
        read_lines(tmp_path / "mine.jsonl", content)


def test_a_byte_order_mark_windows_newlines_and_inner_separators_do_no_harm(tmp_path: Path) -> None:
    rows = changed(text="Mia\u2028saw \x0c Tom felt")
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "mine.jsonl").write_bytes(("\ufeff" + lines + "\r\n").encode())
    assert read_prompts(tmp_path / "mine.jsonl").texts == tuple(row["text"] for row in rows)


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "mine.jsonl", rows_of())
    monkeypatch.setattr(datasets, "_MAX_FILE", path.stat().st_size - 1)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("the file was read"))
    with pytest.raises(PromptError, match="is larger than 0 MiB; split the prompt set"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "", ".", "a\0b", "a" * 300, "b/" * 3000, "~nobody/x"])
def test_a_missing_file_names_the_shipped_sets(name: str) -> None:
    with pytest.raises(PromptError, match=f"no prompt file .*: {', '.join(shipped.PROMPT_SETS)}$"):
        read_prompts(name)


@pytest.mark.parametrize("name", shipped.PROMPT_SETS)
def test_shipped_sets_are_read_by_name(name: str) -> None:
    prompts = read_prompts(name)
    assert prompts.name == name
    assert prompts.declared_splits
    assert prompts.lexical is (Lexical.EXPLICIT if name.endswith("explicit") else Lexical.IMPLICIT)
    assert {row.split for row in prompts.rows} == set(Split)


def test_a_file_of_a_shipped_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "microstories", rows_of())
    monkeypatch.chdir(tmp_path)
    assert len(read_prompts("microstories")) == 18


def test_undeclared_splits_are_dealt_by_a_hash_of_the_scenario_alone() -> None:
    rows = [{k: v for k, v in row.items() if k != "split"} for row in rows_of(30)]
    prompts = Prompts.of(rows)
    dealt = {row.scenario: row.split for row in prompts.rows}
    assert not prompts.declared_splits
    # Fixed for ever: a changed hash would move scenarios between fit and test of runs already published.
    assert [str(dealt[f"s{s}"]) for s in range(8)] == [
        "test", "fit", "select", "test", "fit", "test", "select", "test",
    ]  # fmt: skip
    assert set(dealt.values()) == set(Split)
    reversed_half = Prompts.of(rows[90:][::-1])
    assert all(row.split is dealt[row.scenario] for row in reversed_half.rows)


def test_groups_are_keyed_by_scenario_and_valence() -> None:
    rows = [{**row, "id": f"{row['id']}-{v}", "valence": v} for v in ("mild", "strong") for row in rows_of()]
    prompts = Prompts.of(rows)
    assert prompts.n_scenarios == 3
    np.testing.assert_array_equal(prompts.scenarios, [*np.repeat([0, 1, 2], 6)] * 2)
    np.testing.assert_array_equal(prompts.groups, np.repeat(range(6), 6))
    assert prompts.rows[-1].group == ("s2", "strong")


def test_the_fingerprint_follows_texts_and_answers_but_not_the_file_name(tmp_path: Path) -> None:
    first = read_prompts(written(tmp_path / "a.jsonl", rows_of()))
    assert read_prompts(written(tmp_path / "b.jsonl", rows_of())).fingerprint == first.fingerprint
    assert read_prompts(written(tmp_path / "c.jsonl", [{**r, "note": 1} for r in rows_of()])).fingerprint == (
        first.fingerprint
    )
    others = [
        Prompts.of(changed(text="Mia felt")),
        Prompts.of(changed(id="other")),
        Prompts.of(changed(neutral="Mia felt")),
        Prompts.of(changed(valence="mild")),
        Prompts.of(rows_of()[::-1]),
        Prompts.of([{**row, "split": "fit"} for row in rows_of()]),
        first.with_answers(ANSWERS),
        first.split("fit"),
    ]
    assert len({first.fingerprint, *(p.fingerprint for p in others)}) == 1 + len(others)


def test_selection_keeps_order_and_answers() -> None:
    prompts = Prompts.of(rows_of(6), answers=ANSWERS)
    for splits in (("fit",), (Split.TEST,), ("test", "fit")):
        part = prompts.split(*splits)
        assert part.ids == tuple(r["id"] for r in rows_of(6) if r["split"] in splits)
        assert part.answers == prompts.answers
    fear = prompts.where(prompts.emotions == Emotion.FEAR.column)
    assert {row.emotion for row in fear.rows} == {Emotion.FEAR}
    assert len(fear) == fear.n_scenarios == 6
    np.testing.assert_array_equal(fear.scenarios, range(6))


def test_selection_refuses_the_unknown_and_the_empty() -> None:
    prompts = Prompts.of([{**row, "split": "fit"} for row in rows_of()], name="mine")
    with pytest.raises(PromptError, match="'train' is not a valid Split; expected one of fit, select, test"):
        prompts.split("train")
    with pytest.raises(PromptError, match="prompt set 'mine' has no rows in split select, test"):
        prompts.split("test", "select")
    with pytest.raises(PromptError, match="no row of 'mine' is left after selection"):
        prompts.where(np.zeros(len(prompts), dtype=bool))


GOOD = "".join(json.dumps(row) + "\n" for row in rows_of(2)).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A readable file with some bytes cut out, replaced or repeated."""
    data = bytearray(GOOD)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        patch = draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b'"', b"{", b"null", b"\\ud800", b"\n", b"1e999"]))
        )
        data[start:end] = patch + (data[start:end] if draw(st.booleans()) else b"")
    return bytes(data)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.lists(st.text(max_size=2), max_size=2),
    st.text(max_size=5), st.sampled_from(["fit", "test", "fear", "implicit", "\ud800", "a ", "", " "]),
)  # fmt: skip
FIELDS = st.sampled_from(["id", "scenario", "emotion", "text", "split", "lexical", "valence", "neutral", "more"])


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """A readable file with some fields of some rows replaced."""
    rows = rows_of(2)
    for number, fields in draw(st.dictionaries(st.integers(0, 11), st.dictionaries(FIELDS, ODD), max_size=2)).items():
        rows[number].update(fields)
    return "\n".join(map(json.dumps, rows)).encode()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), damaged(), edited()))
def test_any_bytes_give_prompts_or_a_prompt_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    try:
        prompts = read_prompts(path)
    except PromptError:
        return
    assert len(prompts) >= 12
    assert len(prompts.fingerprint) == 64
    "".join(prompts.texts).encode()


def test_answers_are_read_and_trimmed(tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text(json.dumps({e: [f" {w} " for w in ws] for e, ws in ANSWERS.items()}))
    answers = read_answers(tmp_path / "answers.json")
    assert answers == {Emotion(e): tuple(ws) for e, ws in ANSWERS.items()}
    assert Prompts.of(rows_of()).with_answers(answers).answers == answers


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: [a], "answers are a list; expected an object of emotion to list of words"),
        (lambda a: {k: v for k, v in a.items() if k != "fear"}, "answer words for fear are None"),
        (lambda a: {**a, "fear": []}, r"answer words for fear are \[\]; expected a non-empty list of words"),
        (lambda a: {**a, "fear": "afraid"}, "answer words for fear are 'afraid'"),
        (lambda a: {**a, "fear": ["afraid", " "]}, r"answer words for fear are \['afraid', ' '\]"),
        (lambda a: {**a, "fear": ["\ud800"]}, "answer words for fear hold half a surrogate pair"),
        (lambda a: {**a, "fear": [1]}, r"answer words for fear are \[1\]"),
        (lambda a: {**a, "joy": ["glad"]}, r"answers name \['joy'\]; expected only anger, disgust"),
        (lambda a: {**a, "fear": ["angry"]}, "the answer word 'angry' is listed twice; expected each word under one"),
        (lambda a: {**a, "fear": ["afraid", " afraid"]}, "the answer word 'afraid' is listed twice"),
    ],
)
def test_unusable_answers_are_refused(edit: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text(json.dumps(edit(ANSWERS)))
    with pytest.raises(PromptError, match=f"^{message}"):
        read_answers(tmp_path / "answers.json")


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b'{"fear": [], "fear": []}', b"[" * 10**5])
def test_answers_that_cannot_be_read_name_their_file(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "answers.json").write_bytes(content)
    with pytest.raises(PromptError, match=r"^answer words cannot be read from .*answers\.json: "):
        read_answers(tmp_path / "answers.json")
