"""Real labelled text: what is read, what is left out and counted, what is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuits.errors import PromptError
from circuits.prompts import labelled
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.prompts.labelled import balanced, read_labelled, surface

NAMES = ("anger", "disgust", "fear", "joy", "sadness", "surprise")


def rows(each: int = 10) -> list[str]:
    return [f"text {i} of {name}\t{name}\ttrain" for i in range(each) for name in NAMES]


def written(folder: Path, lines: list[str], header: str = "text\temotions\tsplit") -> Path:
    path = folder / "mine.tsv"
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


def test_texts_and_labels_are_read_in_order_and_joy_is_happiness(tmp_path: Path) -> None:
    found = read_labelled(written(tmp_path, rows()))
    assert found.name == "mine"
    assert found.texts[:2] == ("text 0 of anger", "text 0 of disgust")
    np.testing.assert_array_equal(found.emotions, list(range(6)) * 10)
    assert found.counts == dict.fromkeys(EMOTIONS, 10)
    assert found.left_out == {}
    lines = [line.split("\t") for line in rows()]
    turned = written(tmp_path, [f"{label}\t{text}" for text, label, _ in lines], header="emotions\ttext")
    assert read_labelled(turned).texts == found.texts


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    more = [
        "a\tanger,fear\tx", "b\tanger,trust\tx", "c\ttrust\tx", "d\tneutral\tx", "e\t\tx", " \tfear\tx",
        "text 0 of anger\tfear\tx", "f\tneutral\tx", "",
    ]  # fmt: skip
    found = read_labelled(written(tmp_path, rows() + more))
    assert len(found) == 60
    assert found.left_out == {
        "several labels": 2, "label trust": 1, "label neutral": 2, "no label": 1, "empty text": 1,
        "text that occurred before": 1,
    }  # fmt: skip
    assert found.counts[Emotion.FEAR] == 10


def test_quotes_other_separators_and_windows_newlines_are_text(tmp_path: Path) -> None:
    odd = '"Oh", he said\u2028and left\tanger\tx'
    path = tmp_path / "mine.tsv"
    path.write_bytes("\r\n".join(("\ufefftext\temotions\tsplit", odd, *rows())).encode())
    found = read_labelled(path)
    assert found.texts[0] == '"Oh", he said\u2028and left'
    assert len(found) == 61


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (rows(), "text\tlabel\tsplit", "mine.tsv has no column 'emotions'; .* found 'text', 'label', 'split'"),
        (rows(), "body\temotions\tsplit", "mine.tsv has no column 'text'"),
        (rows(), "text\ttext\temotions", "mine.tsv has more than one column 'text'"),
        ([*rows(), "a\thate\tx"], None, "mine.tsv line 62: unknown label 'hate'; expected some of anger, disgust, .*trust"),
        ([*rows(), "a\tJoy\tx"], None, "mine.tsv line 62: unknown label 'Joy'"),
        ([*rows(), "a\tanger"], None, "mine.tsv line 62 has 2 fields; expected 3"),
        (["a\tb\tanger\tx", *rows()], None, "mine.tsv line 2 has 4 fields; expected 3"),
        ([r for r in rows() if "fear" not in r], None, "'mine' has no texts of fear .*expected at least 10"),
        (rows()[:1], None, "'mine' has 1 text of anger"),
        (rows()[1:], None, "'mine' has 9 texts of anger"),
        ([], None, "holds no rows; expected a header"),
    ],
)  # fmt: skip
def test_a_file_of_no_use_is_refused_by_its_value(
    lines: list[str], header: str | None, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, lines, *(() if header is None else (header,)))
    with pytest.raises(PromptError, match=message):
        read_labelled(path)


def test_a_missing_a_foreign_and_a_huge_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PromptError, match=r"no labelled file .*nowhere\.tsv"):
        read_labelled(tmp_path / "nowhere.tsv")
    with pytest.raises(PromptError, match="no labelled file"):
        read_labelled(tmp_path)
    (tmp_path / "latin.tsv").write_bytes(b"text\temotions\nd\xe9j\xe0\tanger\n")
    with pytest.raises(PromptError, match=r"latin\.tsv is not UTF-8 \(byte 15\)"):
        read_labelled(tmp_path / "latin.tsv")
    path = written(tmp_path, rows())
    monkeypatch.setattr(labelled, "_MAX_FILE", path.stat().st_size - 1)
    with pytest.raises(PromptError, match="is larger than 0 MiB; give a part of it"):
        read_labelled(path)


def test_drawing_is_balanced_seeded_and_counts_what_does_not_fit(tmp_path: Path) -> None:
    extra = [f"more {i}\tanger\tx" for i in range(30)]
    everything = read_labelled(written(tmp_path, rows(14) + extra))
    found = balanced(everything, lambda text: text != "text 3 of fear", seed=1)
    assert found.counts == dict.fromkeys(EMOTIONS, 13)
    assert "text 3 of fear" not in found.texts
    assert found.left_out == {"text the model cannot read (too long)": 1, "text not drawn": 14 * 6 + 30 - 1 - 13 * 6}
    pairs = dict(zip(everything.texts, everything.emotions, strict=True))
    assert all(pairs[text] == e for text, e in zip(found.texts, found.emotions, strict=True))
    again = balanced(everything, lambda text: text != "text 3 of fear", seed=1)
    assert again.texts == found.texts
    assert again.fingerprint == found.fingerprint != balanced(everything, lambda text: True, seed=2).fingerprint
    fewer = balanced(everything, lambda text: True, 11)
    assert fewer.counts == dict.fromkeys(EMOTIONS, 11)


def test_too_few_that_fit_are_refused(tmp_path: Path) -> None:
    everything = read_labelled(written(tmp_path, rows()))
    with pytest.raises(PromptError, match=r"'mine' has 8 texts of sadness that the model can read \(2 are too long\)"):
        balanced(everything, lambda text: text not in ("text 1 of sadness", "text 2 of sadness"))
    with pytest.raises(PromptError, match="'mine' has no texts of anger that the model can read"):
        balanced(everything, lambda text: False)
    with pytest.raises(PromptError, match="the limit is 9 texts an emotion; expected at least 10"):
        balanced(everything, lambda text: True, 9)


def test_texts_look_alike_by_their_last_character_and_third_by_length() -> None:
    texts = ["a.", "b.", "a?", "longer than that.", "quite a bit longer than that?", "quite a bit longer than this?"]
    found = surface(texts)
    pairs = [(i, j) for i in range(6) for j in range(i) if found[i] == found[j]]
    assert pairs == [(1, 0), (5, 4)]
    assert len({*surface(["a.", "a?", "a!", 'a"', "a…", "aa", "ab"])}) == 6
