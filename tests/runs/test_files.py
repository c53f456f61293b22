"""Files appear whole or not at all, whatever write fails; what is read back is checked and refused by name."""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from circuits.errors import CircuitsError, RunError
from circuits.prompts.emotions import Emotion
from circuits.runs import files

ARRAYS = {"values": np.arange(12, dtype=np.float32).reshape(3, 4), "clean": np.array([[1.5, -2.0]])}
TABLE = pd.DataFrame({"component": ["L0H1", "L1N2"], "effect": [0.5, np.nan], "n": [3, 4]})
HALF = b"half"


class FaultyDisk:
    """Counts the steps of a write (open, write, fsync, rename, and the folder's open and fsync); one of them fails."""

    def __init__(self, failing: int, error: BaseException, after: int = 10**9) -> None:
        self.steps = 0
        self._failing = range(failing, min(failing + after, 10**9))
        self._error = error

    def step(self) -> None:
        self.steps += 1
        if self.steps in self._failing:
            raise self._error

    @contextmanager
    def inserted(self) -> Iterator[FaultyDisk]:
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((os, "fsync"), (os, "replace"), (os, "open")):
                patch.setattr(module, name, self._wrapped(getattr(module, name)))
            patch.setattr(files, "open", self._open, raising=False)
            yield self

    def _wrapped(self, right: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return right(*args, **kwargs)

        return call

    def _open(self, path: Path, mode: str) -> Any:
        self.step()
        stream = open(path, mode)  # noqa: SIM115 - closed by the wrapper
        right = stream.write

        def write(data: bytes) -> int:
            try:
                self.step()
            except BaseException:
                right(data[: len(data) // 2])  # a full disk takes what still fits
                raise
            return right(data)

        return _Stream(stream, write)


class _Stream:
    """An open file whose ``write`` is another."""

    def __init__(self, stream: Any, write: Callable[[bytes], int]) -> None:
        self._stream, self.write = stream, write

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Killed(BaseException):
    """What a signal does: no ``except OSError`` sees it."""


def steps_of_a_write(path: Path) -> int:
    with FaultyDisk(10**9, OSError()).inserted() as disk:
        files.write_bytes(path, b"whole")
    return disk.steps


def test_a_write_is_opened_written_synced_renamed_and_its_folder_synced(tmp_path: Path) -> None:
    assert steps_of_a_write(tmp_path / "file") == 6


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("failing", range(1, 7))
def test_a_failed_write_leaves_the_old_file_or_the_whole_new_one(
    failing: int, old: bytes | None, code: int, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with (
        FaultyDisk(failing, OSError(code, os.strerror(code)), after=1).inserted() as disk,
        pytest.raises(RunError, match=f"cannot write .*file: {os.strerror(code)}; free space or choose another --out"),
    ):
        files.write_bytes(path, b"whole")
    assert disk.steps == failing
    renamed = failing > 4
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if renamed or old is not None else [])
    if renamed or old is not None:
        assert path.read_bytes() == (b"whole" if renamed else old)


@pytest.mark.parametrize("failing", range(1, 7))
def test_a_kill_leaves_at_most_a_temporary_file_that_is_swept(failing: int, tmp_path: Path) -> None:
    path = tmp_path / "parts" / "file"
    with FaultyDisk(failing, Killed()).inserted(), pytest.raises(Killed):
        files.write_bytes(path, b"whole")
    assert path.is_file() == (failing > 4)
    assert len(list((tmp_path / "parts").iterdir())) == (failing > 1)
    files.sweep(tmp_path)
    assert [p.name for p in (tmp_path / "parts").iterdir()] == (["file"] if failing > 4 else [])


def test_a_temporary_file_is_never_mistaken_for_a_whole_one(tmp_path: Path) -> None:
    seen = []
    with FaultyDisk(10**9, OSError()).inserted() as disk:
        step = disk.step

        def spy() -> None:
            seen.append({p.name for p in tmp_path.iterdir()})
            step()

        disk.step = spy  # type: ignore[method-assign]
        files.write_bytes(tmp_path / "file", b"whole")
    assert [s for s in seen[1:4] if not s or "file" in s or not all(n.startswith(".") for n in s)] == []


def test_sweeping_takes_nothing_else(tmp_path: Path) -> None:
    for name in ("file", ".lock", "writing", ".hidden"):
        (tmp_path / name).write_bytes(HALF)
    files.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_made_is_a_named_error(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match=f"cannot write .*: {os.strerror(code)}"):
        files.write_bytes(tmp_path / "new" / "file", b"whole")


def test_a_file_in_the_place_of_a_folder_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "parts").write_bytes(b"")
    with pytest.raises(RunError, match=r"cannot write .*parts/file"):
        files.write_bytes(tmp_path / "parts" / "file", b"whole")


def test_readers_see_only_whole_files_while_it_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = {bytes([65 + i]) * 200_000 for i in range(4)}
    files.write_bytes(path, min(contents))
    stop = threading.Event()
    wrong = []

    def watch() -> None:
        while not stop.is_set():
            if (found := path.read_bytes()) not in contents:
                wrong.append(len(found))

    reader = threading.Thread(target=watch)
    reader.start()
    for _ in range(10):
        for content in contents:
            files.write_bytes(path, content)
    stop.set()
    reader.join()
    assert wrong == []


HOSTILE = [
    "", ".", "..", "/", "//", "../x", "a/../x", "a/..", "a/../../x", "/etc/passwd", "//host/share", "a//b", "a/", "./a",
    "a/./b", ".hidden", "a/.hidden", "..\\x", "a\\..\\x", "C:\\x", "C:x", "a\0b", "a\nb", "a\n", "a b", "~/x", "$HOME",
    "%2e%2e/x", "a%00", "-rf", "a/-rf", "é", "\u2024\u2024/x", "a:b", "a|b", "*", "?", "a;b", "<x>", "\x1b[31m", "\ud800",
    "a" * 300, "a/" * 3000 + "a",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_a_hostile_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not allowed in a run"):
        files.inside(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "A_1-b.c", "circuits/fear.json", "a..b", "a/b/c.d", "_"])
def test_an_ordinary_name_is_a_path_inside(name: str, tmp_path: Path) -> None:
    assert files.inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["link", "link/x", "folder/link"])
def test_a_link_out_of_the_directory_is_refused(name: str, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "run-of-others"
    (run / "folder").mkdir(parents=True)
    other.mkdir()
    for link in (run / "link", run / "folder" / "link"):
        link.symlink_to(other)
    with pytest.raises(RunError, match="lies outside its run directory"):
        files.inside(run, name)
    (run / "good").symlink_to(run / "folder")
    assert files.inside(run, "good/x") == run / "good" / "x"


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_json_is_written_plain_and_what_does_not_exist_as_null(tmp_path: Path) -> None:
    value = {
        "a": np.float32(0.5), "b": (1, np.int64(2)), "nan": math.nan, "inf": [-math.inf, np.float64("inf")],
        "array": np.array([[1.0, np.nan]]), "enum": Emotion.FEAR, "none": None, "true": np.bool_(True), 3: "é\u2028",
    }  # fmt: skip
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == {
        "a": 0.5, "b": [1, 2], "nan": None, "inf": [None, None], "array": [[1.0, None]], "enum": "fear", "none": None,
        "true": True, "3": "é\u2028",
    }  # fmt: skip


def test_what_json_cannot_hold_is_refused_before_a_file_appears(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a object cannot be written as JSON; expected numbers, texts, lists, objects"):
        files.write_json(tmp_path / "x.json", {"a": [object()]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b'{"a": 1, "a": 1}', b"[" * 10**5, b"9" * 5000]
)
def test_json_is_read_strictly(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RunError, match=r"x\.json cannot be read: .*; restore it or run circuits discover again"):
        files.read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    "read", [files.read_json, files.read_tensors, lambda path: files.read_table(path, ("component",))]
)
def test_a_missing_file_and_a_folder_are_named_errors(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere is missing"):
        read(tmp_path / "nowhere")
    with pytest.raises(RunError):
        read(tmp_path)


# -- tables and tensors ------------------------------------------------------------------------------------------------


def test_a_table_round_trip(tmp_path: Path) -> None:
    files.write_table(tmp_path / "x.parquet", TABLE)
    pd.testing.assert_frame_equal(files.read_table(tmp_path / "x.parquet", ("component", "n")), TABLE)
    with pytest.raises(RunError, match="lacks the column 'low'; expected component, low"):
        files.read_table(tmp_path / "x.parquet", ("component", "low"))


@pytest.mark.parametrize(("old", "new"), [(b"pandas_type", b"type"), (b"float64", b"float67"), (b"columns", b"rows")])
def test_a_table_whose_own_notes_are_damaged_is_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    table = pa.Table.from_pandas(TABLE)
    notes = table.schema.metadata[b"pandas"].replace(old, new)
    pq.write_table(table.replace_schema_metadata({b"pandas": notes}), tmp_path / "x.parquet")
    with pytest.raises(RunError, match="is not a readable parquet file"):
        files.read_table(tmp_path / "x.parquet", ("component",))


def test_tensors_round_trip_with_metadata(tmp_path: Path) -> None:
    transposed = {**ARRAYS, "turned": ARRAYS["values"].T}
    files.write_tensors(tmp_path / "x.safetensors", transposed, {"n": 3, "names": ("a", "b"), "nan": math.nan})
    arrays, metadata = files.read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"n": 3, "names": ["a", "b"], "nan": None}
    assert arrays.keys() == transposed.keys()
    for name, array in transposed.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    metadata = {f"key{i}": i for i in range(20)}
    for name in ("a", "b"):
        files.write_tensors(tmp_path / name, ARRAYS, metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.read_tensors(tmp_path / "a")[1] == metadata


def test_metadata_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(save(ARRAYS, metadata={"n": "NaN"}))
    with pytest.raises(RunError, match="is not a readable safetensors file: NaN is not a JSON number"):
        files.read_tensors(tmp_path / "x.safetensors")


def test_a_header_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1000000000,1000],"data_offsets":[0,4000000000000]}}'
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(RunError, match="is not a readable safetensors file"):
        files.read_tensors(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((2**62).to_bytes(8, "little") + header)
    with pytest.raises(RunError, match="is not a readable safetensors file"):
        files.read_tensors(tmp_path / "x.safetensors")


def _parquet() -> bytes:
    buffer = BytesIO()
    TABLE.to_parquet(buffer, index=False)
    return buffer.getvalue()


WHOLE = {
    "parquet": (_parquet(), lambda path: files.read_table(path, ("component",))),
    "safetensors": (save(ARRAYS, metadata={"n": "3"}), files.read_tensors),
    "json": (b'{"a": [1, 2.5, null], "b": {"c": "text"}}', files.read_json),
}


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)), max_size=4))
def test_a_damaged_file_is_read_or_refused_by_name(
    kind: str, tmp_path: Path, edits: list[tuple[float, int, bytes]]
) -> None:
    whole, read = WHOLE[kind]
    data = bytearray(whole)
    for place, cut, patch in edits:
        start = int(place * len(data))
        data[start : start + cut] = patch
    (tmp_path / "x").write_bytes(data)
    try:
        read(tmp_path / "x")
    except CircuitsError:
        assert bytes(data) != whole
