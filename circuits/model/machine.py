"""What the machine is told before numbers are made on it: memory that is kept, waiting threads that sleep, exact products.

None of it changes what is computed. The one thing that could, the precision of matrix products, is raised only where this
machine was seen to keep float32's accuracy, decided by error and never by time, so that a resumed run makes the same bits.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

__all__ = ["Precision", "Recent", "keep_memory", "precise", "precision"]

_LARGEST = 4e-6
"""Relative error of a product over 1,024 terms that still counts as float32's; rounding alone makes about 1e-6."""

_TRIM, _MMAP, _ARENAS = -1, -3, -8
"""glibc's numbers of these settings (malloc.h)."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The few values that were asked for last; safe to ask from several threads.

    Two threads that miss the same value at once both make it, and it is the same. Without ``weigh`` ``most`` counts values;
    with it, it bounds the sum of their weights, and a value heavier than that is made each time.
    """

    def __init__(self, most: int, weigh: Callable[[V], int] = lambda value: 1) -> None:
        self._most = most
        self._weigh = weigh
        self._weight = 0
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def peek(self, key: K) -> V | None:
        """The value if it is kept, which counts as asking for it."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def get(self, key: K, make: Callable[[], V]) -> V:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        weight = self._weigh(value)
        with self._lock:
            if weight <= self._most and key not in self._values:
                self._values[key] = value
                self._weight += weight
                while self._weight > self._most:
                    _, oldest = self._values.popitem(last=False)
                    self._weight -= self._weigh(oldest)
        return value


@functools.cache
def keep_memory() -> bool:
    """Let the C library keep freed memory for the next chunk instead of giving it back page by page.

    Chunks free and take the same few megabytes thousands of times; returning the pages each time costs up to 40% of a sweep
    (measured on glibc: 2.8 instead of 4.7 ms a neuron). Only glibc has the two thresholds; elsewhere nothing is done.
    Returns whether they were set.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # One pool of memory for all threads: the pools of further threads are given back whole whenever they fall empty.
        return all([mallopt(_ARENAS, 1), mallopt(_MMAP, 32 * 2**20), mallopt(_TRIM, 2**31 - 1)])
    return False


@dataclass(frozen=True)
class Precision:
    """How matrix products of float32 are made.

    Attributes:
        name: torch's word for it; ``highest``, or ``medium`` where this was seen to be as accurate.
        error: largest relative error found against float64.
    """

    name: str
    error: float


@functools.cache
def precision(device: str) -> Precision:
    """The precision sweeps use on a device.

    ``medium`` lets the library choose other kernels; on some processors these keep float32 and are faster, on others they
    compute in bfloat16. A product in both settings against float64 tells. On CUDA it would mean TF32, too coarse for single
    neurons: there it stays at ``highest``.
    """
    exact = Precision("highest", _error("highest", device))
    if device != "cpu":
        return exact
    other = Precision("medium", _error("medium", device))
    return other if other.error <= _LARGEST else exact


def _error(name: str, device: str) -> float:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 1024, generator=generator) for _ in range(2))
    with _set(name):
        found = (a.to(device) @ b.to(device).T).cpu().double()
    wanted = a.double() @ b.double().T
    return float((found - wanted).abs().max() / wanted.abs().max())


@contextlib.contextmanager
def precise(device: torch.device) -> Iterator[None]:
    """Products as :func:`precision` decided, while the block runs.

    The setting is the whole process's: one thread makes it for all.
    """
    with _set(precision(device.type).name):
        yield


@contextlib.contextmanager
def _set(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
