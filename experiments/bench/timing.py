"""Clocks: interleaved repetitions, and this machine's matrix rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Spread", "interleaved", "matrix_rate"]


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
