"""A sweep ends with the same bits whatever the disk, the clock and other processes do meanwhile."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_rows
from families import ANSWERS
from rich.console import Console
from sweeps import Disk, contents, forked
from sweeps import model as model  # the fixtures
from sweeps import prompts as prompts
from sweeps import small_shards as small_shards
from sweeps import whole as whole

from circuits.effects import measure as measure_module
from circuits.effects import task as measuring
from circuits.effects.measure import measure
from circuits.errors import RunError, SettingsError
from circuits.model.anatomy import Model
from circuits.prompts.datasets import Prompts
from circuits.runs import directory as directories
from circuits.runs import files
from circuits.runs.directory import RunWriter
from circuits.runs.sweep import open_sweep, sweep
from circuits.show.terminal import watching

# -- the same as measure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "gradient", "direct", "ig_inputs"])
def test_a_sweep_is_a_measurement_bit_for_bit(method: str, model: Model, tiny_prompts: Prompts, tmp_path: Path) -> None:
    components = (*model.heads[:3], *model.neurons[::30], *model.sublayers[2:4])
    wanted = measure(model, tiny_prompts, components, method=method)
    found = sweep(model, tiny_prompts, components, tmp_path / "run", method=method)
    assert found.fresh
    stored = found.effects
    assert stored.values.tobytes() == wanted.values.tobytes()
    assert stored._stored[0]["clean"].tobytes() == wanted.clean.tobytes()
    assert stored.components == tuple(c.name for c in wanted.components)
    assert stored.prompt_ids == tiny_prompts.ids
    pd.testing.assert_frame_equal(stored.table, wanted.table, check_exact=True)
    assert found.manifest["notices"] == list(wanted.notices)
    assert found.manifest["asked"]["method"] == method
    contents(found.directory)


def test_a_second_call_measures_nothing(
    model: Model, prompts: Prompts, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert contents(sweep(model, prompts, "heads", tmp_path).directory) == whole
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    monkeypatch.setattr(measure_module, "measure", lambda *args, **kwargs: pytest.fail("measured again"))
    again = sweep(model, prompts, "heads", tmp_path)
    assert not again.fresh
    assert contents(again.directory) == whole
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def refuse_writing(path: Path, mode: str) -> Any:
    if mode != "rb":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    return open(path, mode)


def test_a_finished_sweep_on_a_read_only_disk_is_opened(
    model: Model, prompts: Prompts, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sweep(model, prompts, "heads", tmp_path)
    (tmp_path / "parts").mkdir()  # left by a kill at the very end
    with monkeypatch.context() as patch:
        patch.setattr(directories, "open", refuse_writing, raising=False)
        assert not sweep(model, prompts, "heads", tmp_path).fresh
        assert (tmp_path / "parts").exists()
    assert not sweep(model, prompts, "heads", tmp_path).fresh
    assert contents(found.directory) == whole  # the parts are gone


# -- another question in the same directory ----------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
def test_another_question_leaves_a_directory_untouched(
    finished: bool, model: Model, model_of: Callable[[str], Model], prompts: Prompts, tmp_path: Path
) -> None:
    with Disk(0 if finished else 50, OSError(errno.EIO, "Input/output error")).inserted():
        try:
            sweep(model, prompts, "heads", tmp_path)
        except RunError:
            assert not finished
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}
    changed = [{**row, "text": f"the {row['text']}"} if i == 0 else row for i, row in enumerate(tiny_rows(2))]
    others: list[tuple[Model, Prompts, str, dict[str, Any]]] = [
        (model_of("llama"), prompts, "heads", {}), (model, prompts, "sublayers", {}),
        (model, Prompts.of(changed, name="few", answers=ANSWERS), "heads", {}),
        (model, prompts.with_answers({**ANSWERS, "fear": ["sad"], "sadness": ["afraid"]}), "heads", {}),
        *((model, prompts, "heads", setting) for setting in (
            {"method": "gradient"}, {"ablation": "zero"}, {"positions": "readout"}, {"steps": 4}, {"arithmetic": "bfloat16"},
        )),
    ]  # fmt: skip
    for other, texts, components, setting in others:
        with pytest.raises(RunError, match=r"holds a run of another model, prompt set, setting.*choose another --out"):
            sweep(other, texts, components, tmp_path, **setting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "code", lambda: "0" * 64)
        with pytest.raises(RunError, match="setting or version; choose another --out"):
            sweep(model, prompts, "heads", tmp_path)
    with pytest.raises(SettingsError, match="method is 'guess'; expected one of"):
        sweep(model, prompts, "heads", tmp_path, method="guess")
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == {**before}
    assert sum(p.is_file() for p in tmp_path.rglob("*")) == len(before)
    assert sweep(model, prompts, "heads", tmp_path).fresh is not finished


# -- several processes -------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_while_the_first_works(
    model: Model, prompts: Prompts, whole: dict[str, Any], tmp_path: Path
) -> None:
    (begun, begins), (release, releases) = os.pipe(), os.pipe()

    def hold(done: int, total: int) -> None:
        os.write(begins, b".")
        os.read(release, 1)

    def work() -> None:
        os.close(releases)
        sweep(model, prompts, "heads", tmp_path, progress=hold)

    child = forked(work)
    os.close(release)
    os.read(begun, 1)
    for _ in range(2):
        with pytest.raises(
            RunError, match=f"another process is writing {tmp_path}; wait for it or choose another --out"
        ):
            sweep(model, prompts, "heads", tmp_path)
    with pytest.raises(RunError, match="is half written"):
        open_sweep(tmp_path)
    os.close(releases)  # from now on nothing holds the child
    assert os.waitpid(child, 0)[1] == 0
    found = sweep(model, prompts, "heads", tmp_path)
    assert not found.fresh
    assert contents(found.directory) == whole


def test_of_eight_processes_at_once_one_measures(
    model: Model, prompts: Prompts, whole: dict[str, Any], tmp_path: Path
) -> None:
    place, log = tmp_path / "run", os.open(tmp_path / "log", os.O_CREAT | os.O_RDWR | os.O_APPEND)
    gate, opener = os.pipe()

    def work() -> None:
        os.close(opener)
        os.read(gate, 1)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                found = sweep(model, prompts, "heads", place)
            except RunError as error:
                said = "refused" if "another process is writing" in str(error) else str(error)
                os.write(log, f"{said}\n".encode())
                time.sleep(0.02)
                continue
            digest = hashlib.sha256((place / "effects.safetensors").read_bytes()).hexdigest()
            os.write(log, f"{'made' if found.fresh else 'found'} {digest}\n".encode())
            return
        raise TimeoutError

    children = [forked(work) for _ in range(8)]
    os.close(opener)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    said = (tmp_path / "log").read_text().splitlines()
    digest = hashlib.sha256(whole["values"]).hexdigest()
    assert set(said) <= {"refused", f"made {digest}", f"found {digest}"}
    assert said.count(f"made {digest}") == 1
    assert said.count(f"found {digest}") == 7
    assert contents(place) == whole


@pytest.mark.parametrize("theirs", ["heads", "sublayers"])
def test_what_another_process_finishes_at_the_last_moment_is_kept(
    theirs: str, model: Model, prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, before = fcntl.flock, {}

    def late(*args: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", right)
        sweep(model, prompts, theirs, tmp_path)  # between our look at the directory and our lock
        before.update({p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()})
        right(*args)

    monkeypatch.setattr(fcntl, "flock", late)
    if theirs == "heads":
        assert not sweep(model, prompts, "heads", tmp_path).fresh
    else:
        with pytest.raises(RunError, match="holds a run of another model, prompt set, setting"):
            sweep(model, prompts, "heads", tmp_path)
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()} == before
    open_sweep(tmp_path)


def test_a_directory_that_begins_to_hold_a_run_is_not_called_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = directories._foreign

    def late(place: Path) -> bool:
        files.write_json(place / "manifest.json", {"key": "k", "status": "running"})
        return right(place)

    monkeypatch.setattr(directories, "_foreign", late)
    with RunWriter.opened(tmp_path, "k", {}) as writer:
        assert not writer.finished
    assert files.read_json(tmp_path / "manifest.json")["status"] == "running"


# -- the clock ---------------------------------------------------------------------------------------------------------


def wandering() -> Callable[[], float]:
    """A clock that runs back, jumps and stands still."""
    jumps = iter(np.random.default_rng(0).choice([-1e9, -3600.0, -1e-3, 0.0, 0.0, 1e-3, 1e7], 10**5))
    now = 1.7e9

    def clock() -> float:
        nonlocal now
        now += next(jumps)
        return now

    return clock


@pytest.mark.parametrize("clock", [wandering, lambda: iter(range(0, -(10**6), -7)).__next__], ids=["wandering", "back"])
def test_a_clock_that_runs_back_changes_no_number(
    clock: Callable[[], Callable[[], float]], model: Model, prompts: Prompts, whole: dict[str, Any], tmp_path: Path
) -> None:
    console = Console(force_terminal=True, width=100, file=io.StringIO(), get_time=clock())
    with pytest.MonkeyPatch.context() as patch, watching(console) as watch:
        patch.setattr(time, "perf_counter", clock())
        patch.setattr(time, "time", clock())
        found = sweep(model, prompts, "heads", tmp_path, progress=lambda *done: watch("heads", *done))
    assert contents(found.directory) == whole
    seconds = found.manifest["seconds"]["measuring"]
    assert 0 <= seconds < float("inf")
