"""Whatever step of writing a sweep fails, nothing is half written, and the sweep goes on where it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeps import Disk, contents, counted
from sweeps import model as model  # the fixtures
from sweeps import prompts as prompts
from sweeps import small_shards as small_shards
from sweeps import whole as whole

from circuits.effects import task as measuring
from circuits.errors import RunError
from circuits.model.anatomy import Model
from circuits.prompts.datasets import Prompts
from circuits.runs import files
from circuits.runs.sweep import Sweep, open_sweep, sweep

SHARDS = 12
"""One head each."""


@pytest.fixture(scope="module")
def steps(model: Model, prompts: Prompts, whole: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> int:
    """What a sweep asks of the disk; that every write comes short changes nothing."""
    place = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch, Disk(0, OSError()).inserted() as disk:
        patch.setattr(measuring, "_SHARD", {"cpu": 1})
        found = sweep(model, prompts, "heads", place)
    assert contents(found.directory) == whole
    return disk.steps


def survives(
    failing: int, code: int, steps: int, ask: Callable[[Path], Sweep], whole: dict[str, Any], to: Path
) -> None:
    """One write fails, then the sweep is run again."""
    with Disk(failing, OSError(code, os.strerror(code))).inserted(), pytest.raises(RunError) as caught:
        ask(to)
    assert os.strerror(code) in str(caught.value)
    left = [p for p in to.rglob("*") if p.is_file()] if to.exists() else []
    assert [p for p in left if files.temporary(p)] == []
    for path in left:
        if path.suffix == ".safetensors":
            files.read_tensors(path)
        elif path.suffix == ".parquet":
            files.read_table(path, ())
    last = failing == steps  # the manifest is in its place already, its folder not yet synced
    if last:
        open_sweep(to)
    else:
        with pytest.raises(RunError, match=r"half written|no manifest|no run directory"):
            open_sweep(to)
    kept = {p.name: p.stat().st_ino for p in (to / "parts").glob("*")}
    with counted() as made:
        found = ask(to)
    assert found.fresh is not last
    assert contents(found.directory) == whole
    # The shards that were whole are not made again, the others are.
    assert sorted([*made, *kept]) == sorted({*made, *kept})
    assert len(made) == (SHARDS - len(kept) if not last else 0)


@pytest.mark.parametrize("start", [0, *(pytest.param(start, marks=pytest.mark.slow) for start in range(1, 6))])
def test_whatever_write_fails_for_want_of_space_the_sweep_goes_on(
    start: int, steps: int, model: Model, prompts: Prompts, whole: dict[str, Any], tmp_path: Path
) -> None:
    assert steps > 6 * (SHARDS + 4)
    for n in range(steps - start, 0, -6):
        place = tmp_path / f"{n}"
        survives(n, errno.ENOSPC, steps, lambda to: sweep(model, prompts, "heads", to), whole, place)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.EROFS])
def test_so_it_does_after_other_errors(
    code: int, steps: int, model: Model, prompts: Prompts, whole: dict[str, Any], tmp_path: Path
) -> None:
    # Every kind of step of first and last files; the shards in the middle are all alike.
    for n in (*range(1, 20, 2), *range(20, steps - 20, 17), *range(steps - 20, steps + 1, 2)):
        survives(n, code, steps, lambda to: sweep(model, prompts, "heads", to), whole, tmp_path / f"{n}")


def test_a_damaged_shard_stops_the_sweep_by_name_and_the_remedy_works(
    model: Model, prompts: Prompts, whole: dict[str, Any], tmp_path: Path
) -> None:
    with Disk(60, OSError(errno.ENOSPC, "No space left on device")).inserted(), pytest.raises(RunError):
        sweep(model, prompts, "heads", tmp_path)
    damaged = sorted((tmp_path / "parts").iterdir())[0]
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(RunError, match=f"{damaged.name} is damaged: .*; delete it and run again"):
        sweep(model, prompts, "heads", tmp_path)
    damaged.unlink()
    assert contents(sweep(model, prompts, "heads", tmp_path).directory) == whole
