"""Saved views: kept whole, read warily, refused on any other run; a run with views is the run it was."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_directory import KEY, made

from circuits.errors import RunError
from circuits.runs.directory import Run, RunWriter, open_run
from circuits.runs.views import DEEPEST, FORMAT, LARGEST, LONGEST, MOST, list_views, load_view, remove_view, save_view

STATE: dict[str, Any] = {
    "emotion": "fear",
    "nodes": ["L0H1", "L1N2"],
    "least": 0.25,
    "zoom": {"x": 1, "y": None},
    "on": True,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("runs") / "run").directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    return open_run(shutil.copytree(finished, tmp_path / "run"))


def file_of(run: Run, name: str = "mine") -> Path:
    return run.directory / "views" / f"{name}.json"


# -- what is kept is read back -----------------------------------------------------------------------------------------


def test_a_view_is_read_back_and_forgotten(run: Run) -> None:
    assert list_views(run) == ()
    kept = save_view(run, "mine", STATE)
    assert load_view(run, "mine") == kept
    assert (kept.name, kept.key, kept.state) == ("mine", KEY, STATE)
    assert kept.saved.endswith("+00:00")
    save_view(run, "Fear of heads - 2", {})
    assert list_views(run) == ("Fear of heads - 2", "mine")
    assert load_view(run, "Fear of heads - 2").state == {}
    save_view(run, "mine", {"other": 1})
    assert load_view(run, "mine").state == {"other": 1}
    remove_view(run, "mine")
    remove_view(run, "Fear of heads - 2")
    assert list_views(run) == ()
    assert not (run.directory / "views").exists()
    with pytest.raises(RunError, match="the view 'mine' cannot be removed: No such file"):
        remove_view(run, "mine")


def test_names_that_differ_give_files_that_differ(run: Run) -> None:
    names = ("a b", "a_b", "a-b", "ab", "_", "0", "a  b", "n" * LONGEST)
    for number, name in enumerate(names):
        save_view(run, name, {"number": number})
    assert set(list_views(run)) == set(names)
    assert [load_view(run, name).state["number"] for name in names] == list(range(len(names)))


def test_a_name_in_other_capitals_is_one_file_on_some_disks(run: Run) -> None:
    save_view(run, "Mine", STATE)
    with pytest.raises(RunError, match="'mine' differs from 'Mine' in capitals only; choose another name"):
        save_view(run, "mine", {})


def test_a_run_with_views_is_the_run_it_was(run: Run) -> None:
    save_view(run, "mine", STATE)
    again = open_run(run.directory)
    assert again.manifest == run.manifest
    with RunWriter.opened(run.directory, KEY, {}) as writer:
        assert writer.finished
    assert load_view(again, "mine").state == STATE
    moved = open_run(shutil.copytree(run.directory, run.directory.parent / "copy"))
    assert load_view(moved, "mine").state == STATE


# -- what is not allowed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", " ", "a ", " a", "-a", "n" * (LONGEST + 1), ".", "..", "../x", "../../manifest", "..%2fx", "a/b", "a\\b",
     "/etc/passwd", "a.json", "a\0b", "a\n", "\na", "é", "a\u202eb", "C:x", "~", "a*", "<b>", "'", '"', "a\tb", "ａ", "१",
     "$HOME", "manifest.json", "`x`", "a;b", "x" * 10**6],
)  # fmt: skip
def test_a_name_that_is_none_is_refused_everywhere(name: str, run: Run) -> None:
    before = sorted(p for p in run.directory.rglob("*"))
    for act in (lambda: save_view(run, name, STATE), lambda: load_view(run, name), lambda: remove_view(run, name)):
        with pytest.raises(RunError, match=r"a view cannot be named .*; expected 1 to 60 letters") as raised:
            act()
        assert len(str(raised.value)) < 500
    assert sorted(p for p in run.directory.rglob("*")) == before


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": float("nan")}, "is no JSON: Out of range float"),
        ({"a": [float("inf")]}, "is no JSON: Out of range float"),
        ({"a": "\ud800"}, "is no JSON: .*surrogates not allowed"),
        ({"a": 10**5000}, "is no JSON: .*digits"),
        ({"a": {1: "a"}}, "has the key '1', a int; expected texts as keys"),
        ({"a": {None: 1}}, "has the key 'None', a NoneType"),
        ({"a": (1, 2)}, "holds a tuple; expected numbers, texts, lists, objects"),
        ({"a": b"x"}, "holds a bytes"),
        ({"a": "x" * LARGEST}, f"has {LARGEST + 8:,} bytes; expected at most {LARGEST:,}"),
        (nested(DEEPEST + 1), f"is nested more than {DEEPEST} deep"),
    ],
)
def test_a_state_that_is_no_bounded_json_is_refused(state: dict[Any, Any], message: str, run: Run) -> None:
    with pytest.raises(RunError, match=message):
        save_view(run, "mine", state)
    assert list_views(run) == ()


def test_the_bounds_themselves_are_allowed(run: Run) -> None:
    save_view(run, "deep", nested(DEEPEST))
    save_view(run, "large", {"a": "x" * (LARGEST - 8)})
    assert load_view(run, "deep").state == nested(DEEPEST)
    assert len(load_view(run, "large").state["a"]) == LARGEST - 8


def test_a_run_has_at_most_so_many_views(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_view(run, "0", {})
    for number in range(1, MOST):
        shutil.copy(file_of(run, "0"), file_of(run, str(number)))
    with pytest.raises(RunError, match=f"the run has {MOST} views; expected at most {MOST}: remove one, '0' say"):
        save_view(run, "one more", {})
    save_view(run, "0", {"replaced": True})
    remove_view(run, "7")
    save_view(run, "one more", {})
    for number in range(10 * MOST):
        (run.directory / "views" / f"x{number}").touch()
    with pytest.raises(RunError, match=f"holds {10 * MOST} files or more"):
        list_views(run)


# -- what cannot be written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["EROFS", "EACCES", "ENOSPC"])
def test_where_nothing_can_be_written_it_is_said_and_the_old_view_stays(
    code: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    save_view(run, "mine", STATE)
    number = getattr(errno, code)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(RunError, match=f"the view 'mine' is not kept: {os.strerror(number)}; copy the run"):
            save_view(run, "mine", {})
    assert load_view(run, "mine").state == STATE
    assert [p.name for p in (run.directory / "views").iterdir()] == ["mine.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_that_is_read_only_is_a_named_error(run: Run) -> None:
    run.directory.chmod(0o555)
    try:
        with pytest.raises(RunError, match="is not kept: Permission denied; copy the run"):
            save_view(run, "mine", STATE)
    finally:
        run.directory.chmod(0o755)


def test_a_file_where_the_folder_should_be_is_a_named_error(run: Run) -> None:
    (run.directory / "views").write_text("")
    with pytest.raises(RunError, match="views cannot be read: Not a directory"):
        save_view(run, "mine", STATE)


# -- what was altered or comes from elsewhere --------------------------------------------------------------------------


def test_another_runs_view_is_refused_and_says_whose_it_is(run: Run, tmp_path: Path) -> None:
    other = made(tmp_path / "other", "o" * 64)
    save_view(other, "mine", STATE)
    file_of(run).parent.mkdir()
    shutil.copy(file_of(other), file_of(run))
    with pytest.raises(RunError, match=f"belongs to the run '{'o' * 64}'; this one is '{KEY}': open that run"):
        load_view(run, "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "emotion-circuits-view/2"},
            "has format 'emotion-circuits-view/2'; expected 'emotion-circuits-view/1'",
        ),
        ({"format": None}, "has format 'None'"),
        ({"name": "yours"}, "was renamed: inside it is 'yours'"),
        ({"name": 5}, "was altered: expected"),
        ({"key": None}, "was altered: expected"),
        ({"saved": "yesterday"}, "was altered: saved is 'yesterday'; expected a time"),
        ({"state": [1]}, "the state of 'mine' is a list; expected an object"),
        ({"state": nested(DEEPEST + 1)}, "nested more than"),
        ({"more": 1}, "was altered: expected"),
    ],
)
def test_a_view_of_another_shape_is_refused(change: dict[str, Any], message: str, run: Run) -> None:
    save_view(run, "mine", STATE)
    value = json.loads(file_of(run).read_text())
    file_of(run).write_text(json.dumps(value | change))
    with pytest.raises(RunError, match=message):
        load_view(run, "mine")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff", b"NaN", b"[]", b"[" * 10**6, b'{"a": 1, "a": 2}', b" " * 10**6, b"1" * 9999,
     b'{"format": "' + b"x" * 10**5 + b'"}'],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_view_is_refused(data: bytes, run: Run) -> None:
    file_of(run).parent.mkdir()
    file_of(run).write_bytes(data)
    with pytest.raises(RunError) as raised:
        load_view(run, "mine")
    assert len(str(raised.value)) < 500


def test_a_view_that_leads_elsewhere_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.json").write_text("{}")
    file_of(run).parent.mkdir()
    file_of(run).symlink_to(tmp_path / "elsewhere" / "mine.json")
    for act in (load_view, remove_view):
        with pytest.raises(RunError, match="lies outside its run directory"):
            act(run, "mine")
    file_of(run).unlink()
    file_of(run).parent.rmdir()
    file_of(run).parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="lies outside its run directory"):
        list_views(run)
    with pytest.raises(RunError, match="lies outside its run directory"):
        save_view(run, "yours", {})
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["mine.json"]


def test_a_pipe_is_no_view_and_nothing_waits_for_it(run: Run) -> None:
    file_of(run).parent.mkdir()
    os.mkfifo(file_of(run))
    (file_of(run, "folder")).mkdir()
    assert list_views(run) == ()
    for name in ("mine", "folder"):
        with pytest.raises(RunError, match=f"the run has no view '{name}'; expected one of none"):
            load_view(run, name)


def test_a_run_without_a_key_has_no_views(run: Run) -> None:
    nameless = Run(run.directory, {**run.manifest, "key": 5})
    with pytest.raises(RunError, match="has the key 5; expected a text"):
        save_view(nameless, "mine", {})


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=4)
    | st.sampled_from([FORMAT, KEY, "mine", "2026-01-01T00:00:00+00:00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
QUICK = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def shared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = open_run(shutil.copytree(finished, tmp_path_factory.mktemp("fuzz") / "run"))
    save_view(run, "mine", STATE)
    return run


@QUICK
@given(st.sampled_from(["format", "name", "key", "saved", "state", "more"]), VALUE)
def test_any_json_is_a_view_or_a_named_error(shared: Run, place: str, value: Any) -> None:
    save_view(shared, "mine", STATE)
    there = json.loads(file_of(shared).read_text())
    file_of(shared).write_text(json.dumps(there | {place: value}))
    try:
        view = load_view(shared, "mine")
    except RunError:
        return
    assert (view.name, view.key) == ("mine", KEY)
    assert save_view(shared, "mine", view.state).state == view.state


@QUICK
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_any_bytes_are_a_view_or_a_named_error(shared: Run, seed: int, count: int) -> None:
    save_view(shared, "mine", STATE)
    draw = random.Random(seed)
    data = bytearray(file_of(shared).read_bytes())
    for _ in range(count):
        place = draw.randrange(len(data))
        match draw.randrange(3):
            case 0:
                data[place] = draw.randrange(256)
            case 1:
                del data[place : place + draw.randrange(1, 9)]
            case _:
                data[place:place] = bytes(draw.choices(b'{}[]",:\\0e-\x00\xff', k=draw.randrange(1, 9)))
        if not data:
            break
    file_of(shared).write_bytes(data)
    with contextlib.suppress(RunError):
        assert load_view(shared, "mine").key == KEY


@QUICK
@given(st.text(max_size=70), st.dictionaries(st.text(max_size=4), VALUE, max_size=3))
def test_any_name_and_state_are_kept_whole_or_refused(shared: Run, name: str, state: dict[str, Any]) -> None:
    try:
        save_view(shared, name, state)
    except RunError:
        return
    assert load_view(shared, name).state == state
    remove_view(shared, name)
