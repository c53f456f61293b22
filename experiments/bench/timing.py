"""Clocks: interleaved repetitions, this machine's matrix rate, memory at the peak."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["Spread", "interleaved", "matrix_rate", "peak"]


@dataclass(frozen=True)
class Spread:
    """Median and range of some repetitions."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(float(np.median(values)), min(values), max(values), len(values))

    def as_json(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high, "n": self.n}


def interleaved(
    work: Mapping[str, Callable[[], Any]], repetitions: int, *, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each piece of work, one after the other in every round, so that a slow minute strikes all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for do in work.values() if warm else ():
        do()  # memory, kernels and what belongs to the clean run are there
    for _ in range(repetitions):
        for name, do in work.items():
            start = time.perf_counter()
            do()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def matrix_rate(threads: int, seconds: float = 0.5) -> float:
    """Floating-point operations a second in float32 products that fit a core's cache, one product a core at a time.

    The better of that and of products over all cores together, both in torch's default precision.
    """

    def alone(_: int) -> int:
        torch.set_num_threads(1)
        a, b, done = torch.randn(480, 768), torch.randn(768, 768), 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            a @ b
            done += 2 * 480 * 768 * 768
        return done

    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        beside = sum(pool.map(alone, range(threads))) / (time.perf_counter() - start)
    torch.set_num_threads(threads)
    a, b, done = torch.randn(1920, 768), torch.randn(768, 3072), 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ b
        done += 2 * 1920 * 768 * 3072
    return max(beside, done / (time.perf_counter() - start))


def _resident() -> int:
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak(do: Callable[[], Any]) -> tuple[float, int, int]:
    """Seconds of some work, memory [bytes] when it began and at its peak (looked at every 5 ms)."""
    before, most, over = _resident(), [_resident()], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            most[0] = max(most[0], _resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    start = time.perf_counter()
    try:
        do()
    finally:
        seconds = time.perf_counter() - start
        over.set()
        with suppress(RuntimeError):
            thread.join()
    return seconds, before, max(most[0], _resident())
