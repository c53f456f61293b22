"""What the tests of sweeps share: a disk that fails, children that are forked, and what must be left in the end."""

from __future__ import annotations

import io
import json
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_rows
from families import ANSWERS

from circuits.effects import task as measuring
from circuits.model.anatomy import Model
from circuits.prompts.datasets import Prompts
from circuits.runs import directory as directories
from circuits.runs import files
from circuits.runs.shards import Shards
from circuits.runs.sweep import open_sweep, sweep

__all__ = ["Disk", "contents", "counted", "few_prompts", "forked", "model", "prompts", "small_shards", "whole"]


def few_prompts() -> Prompts:
    """Two scenarios: too few for intervals, which would take most of the time."""
    return Prompts.of(tiny_rows(2), name="few", answers=ANSWERS)


# Fixtures: a module that imports them has them.


@pytest.fixture(scope="module")
def model(model_of: Callable[[str], Model]) -> Model:
    return model_of("gpt2")


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return few_prompts()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """One component each."""
    monkeypatch.setattr(measuring, "_SHARD", {"cpu": 1})


@pytest.fixture(scope="module")
def whole(model: Model, prompts: Prompts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed sweep leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "_SHARD", {"cpu": 1})
        return contents(sweep(model, prompts, "heads", tmp_path_factory.mktemp("whole")).directory)


def contents(place: Path) -> dict[str, Any]:
    """Everything a finished sweep leaves that must not depend on how it came about."""
    found = open_sweep(place)
    names = sorted(p.name for p in place.iterdir())
    assert names == [".lock", "effects.parquet", "effects.safetensors", "manifest.json"]
    manifest = {k: v for k, v in found.manifest.items() if k not in ("seconds", "finished")}
    return {
        "values": (place / "effects.safetensors").read_bytes(),
        "table": (place / "effects.parquet").read_bytes(),
        "manifest": json.dumps(manifest, sort_keys=True),
    }


@contextmanager
def counted() -> Iterator[list[str]]:
    """Names of the shards that are made meanwhile, as their files are called."""
    made: list[str] = []
    right = measuring.Task.made

    def spy(task: Any, shard: Any, *rest: Any) -> Any:
        made.append(Shards(Path()).path(task.key(shard)).name)
        return right(task, shard, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring.Task, "made", spy)
        yield made


def forked(work: Callable[[], None]) -> int:
    """A child that works and ends without the parent's clean-up; its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 warns of threads, none of which holds a lock here
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - it must not return into the test session
        traceback.print_exc()
    finally:
        os._exit(code)


class _Device(io.RawIOBase):
    """A file that takes half of what it is first given, as a kernel may, and asks its disk before each write."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk, self._short = disk, True
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any) -> int:
        self._disk.step()
        view = memoryview(data).cast("B")
        half, self._short = (len(view) // 2 if self._short else len(view)), False
        return os.write(self._descriptor, view[:half])

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class Disk:
    """Counts what is asked of the disk (folders, files, writes, syncs, renames); the n-th of it fails.

    Attributes:
        steps: how many there were.
    """

    def __init__(self, failing: int, error: OSError) -> None:
        self.steps = 0
        self._failing, self._error = failing, error

    def step(self) -> None:
        self.steps += 1
        if self.steps == self._failing:
            raise self._error

    @contextmanager
    def inserted(self) -> Iterator[Disk]:
        def open_(path: Path, mode: str) -> Any:
            self.step()
            return io.BufferedWriter(_Device(self, path)) if mode == "wb" else open(path, mode)

        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((os, "fsync"), (os, "replace"), (Path, "mkdir")):
                patch.setattr(module, name, self._wrapped(getattr(module, name)))
            for module in (files, directories):
                patch.setattr(module, "open", open_, raising=False)
            yield self

    def _wrapped(self, right: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return right(*args, **kwargs)

        return call
