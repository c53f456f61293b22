"""A sweep killed at any moment goes on where it was: nothing torn, nothing lost but what was being made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeps import contents, few_prompts, forked

from circuits.effects import task as measuring
from circuits.model.anatomy import Model
from circuits.runs import files
from circuits.runs.shards import Shards
from circuits.runs.sweep import open_sweep, sweep

KILLS = int(os.environ.get("CIRCUITS_DRILL_KILLS", "10"))
SHARDS = 18
"""One head or half-layer each."""

pytestmark = pytest.mark.timeout(60 + 10 * KILLS)


@dataclass
class Drill:
    """One directory after another, swept by children that are killed."""

    ask: Callable[[Path], object]
    folder: Path
    wanted: dict[str, Any]
    kills: int = 0
    sweeps: int = 0
    torn: int = 0
    lost: int = 0

    @property
    def place(self) -> Path:
        return self.folder / f"{self.sweeps}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.sweeps}.log"

    def child(self) -> int:
        """A forked process that sweeps; its id."""

        def work() -> None:
            self._noting()
            self.ask(self.place)

        return forked(work)

    def _noting(self) -> None:
        """Write down each shard before it is made, in one write that no kill can tear."""
        log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        right = measuring.Task.made

        def made(task: Any, shard: Any, *rest: Any) -> Any:
            os.write(log, f"{os.getpid()} {Shards(Path()).path(task.key(shard)).name}\n".encode())
            return right(task, shard, *rest)

        measuring.Task.made = made  # type: ignore[method-assign]

    def parts(self) -> dict[str, tuple[int, int]]:
        """Whole shards: which file, and when written."""
        found = {p.name: p.stat() for p in (self.place / "parts").glob("*.safetensors")}
        return {name: (s.st_ino, s.st_mtime_ns) for name, s in found.items() if not name.startswith(".")}

    def temporary(self) -> list[Path]:
        return [p for p in self.place.rglob("*") if files.temporary(p)]

    def strike(self, delay: float) -> bool:
        """Let a child work for ``delay`` seconds and kill it; whether it had finished before."""
        before, stale = self.parts(), self.temporary()
        child, until = self.child(), time.perf_counter() + delay
        ended, status = 0, 0
        while not ended and (rest := until - time.perf_counter()) > 0:
            time.sleep(min(rest, 0.005))
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)  # it is not yet waited for, so the id is still its own
            status = os.waitpid(child, 0)[1]
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        made = [name for pid, name in map(str.split, lines) if int(pid) == child]
        if status == 0:
            self._finished(before, made)
            return True
        assert os.WTERMSIG(status) == signal.SIGKILL
        self.kills += 1
        self._killed(child, before, stale, made)
        return False

    def _killed(self, child: int, before: dict[str, tuple[int, int]], stale: list[Path], made: list[str]) -> None:
        after = self.parts()
        left = self.temporary()
        self.torn += len(left)
        assert len(left) <= 1  # one process writes one file at a time
        if made:  # it had opened the directory, and swept it
            assert not [path for path in stale if path.exists()]
            assert all(f".{child}." in path.name for path in left)
        manifest = self.place / "manifest.json"
        if manifest.is_file() and files.read_json(manifest)["status"] == "finished":
            open_sweep(self.place)  # killed while it tidied up
            return
        assert after.items() >= before.items()  # neither lost nor written again
        assert not set(made) & set(before)
        lost = set(made) - set(after)
        self.lost += len(lost)
        assert len(lost) <= 1
        assert set(after) - set(before) <= set(made)
        for name in after:
            tensors, about = files.read_tensors(self.place / "parts" / name)
            assert tensors.keys() == {"values", "clean"}
            assert Shards(self.place / "parts").get(about["about"]) is not None

    def _finished(self, before: dict[str, tuple[int, int]], made: list[str]) -> None:
        assert not set(made) & set(before)
        assert self.temporary() == []
        assert contents(self.place) == self.wanted
        self.sweeps += 1


def test_a_sweep_killed_again_and_again_ends_with_the_same_bits(
    model_of: Callable[[str], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_SHARD", {"cpu": 1})
    model, texts = model_of("gpt2"), few_prompts()
    components = (*model.heads, *model.sublayers)

    def ask(place: Path) -> object:
        return sweep(model, texts, components, place)

    ask(tmp_path / "whole")
    drill = Drill(ask, tmp_path, contents(tmp_path / "whole"))
    for _ in range(2):  # the first child finds everything cold
        start = time.perf_counter()
        assert drill.strike(120.0)
        lasts = time.perf_counter() - start
    start = time.perf_counter()
    rng = np.random.default_rng(KILLS)
    while drill.kills < KILLS or drill.place.exists():
        # Once the kills are done the last sweep may finish.
        drill.strike(float(rng.uniform(0, lasts)) if drill.kills < KILLS else 120.0)
    made = [line.split()[1] for log in tmp_path.glob("*.log") for line in log.read_text().splitlines()]
    assert len(set(made)) == SHARDS
    assert len(made) == drill.sweeps * SHARDS + drill.lost
    print(
        f"\n{drill.kills} kills in {time.perf_counter() - start:.0f} s, {drill.sweeps} sweeps of {SHARDS} shards finished, "
        f"{drill.lost} shards made twice (each the one in progress), {drill.torn} temporary files left and swept"
    )
