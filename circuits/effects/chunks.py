"""How many ablations run side by side, and what happens when memory does not suffice.

On a processor a chunk is as large as its caches like it; on a GPU as large as the free memory allows. A chunk that does not fit
after all is halved and done again, down to one ablation, so that the result never depends on it.
"""

from __future__ import annotations

import functools
import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.machine import precise
from circuits.model.resuming import Resumer

__all__ = ["bytes_each", "chunk_for", "chunk_size", "in_chunks", "ready", "threads_for"]

T = TypeVar("T")

_CACHE_FLOATS = 1_000_000
_SHARE_OF_FREE = 0.5
_ADVICE = "measure fewer prompts at a time, shorten the texts, or use a device with more memory"


def widest(d_model: int, d_mlp: int) -> int:
    """Largest number of values a token needs at once inside a block."""
    return max(d_mlp, 3 * d_model)


def bytes_each(d_model: int, d_mlp: int, tokens: int, size: int = 4) -> int:
    """Memory [bytes] one ablation of a batch with ``tokens`` padded tokens takes while it runs, estimated from above."""
    return tokens * size * (4 * d_model + 3 * widest(d_model, d_mlp))


def chunk_size(model: Model, tokens: int) -> int:
    """Ablations to run side by side on a batch of ``tokens`` padded tokens."""
    size = torch.empty(0, dtype=model.dtype).element_size()
    return chunk_for(model.d_model, model.mlp_width, tokens, model.device, size)


def chunk_for(d_model: int, d_mlp: int, tokens: int, device: torch.device, size: int = 4) -> int:
    """The same for a model that is only a shape; ``size`` bytes a number."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        fits = int(free * _SHARE_OF_FREE) // bytes_each(d_model, d_mlp, tokens, size)
        # A power of two: a little more or less free memory then gives the same chunks, and the same bits.
        return 1 << max(0, fits.bit_length() - 1)
    return max(1, _CACHE_FLOATS // (tokens * widest(d_model, d_mlp)))


def ready(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a clock read before says nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def threads_for(resume: Resumer) -> Iterator[int]:
    """How many chunks to work on at the same time: one a processor core torch may use, one on a GPU.

    Small products gain nothing from several threads each, and two chunks side by side gain almost twice; with one thread each
    there is also nothing to wait for on a busy machine. Inside, products are as precise as was decided for this machine.
    """
    device = resume.model.device
    if not resume.side_by_side and device.type == "cpu":
        yield 1  # the model's own arithmetic, as it is
        return
    with precise(device):  # on a GPU: no TF32, whichever way
        yield torch.get_num_threads() if device.type == "cpu" else 1


def in_chunks(
    count: int, size: int, work: Callable[[int, int], T], *, threads: int = 1
) -> Iterator[tuple[int, int, T]]:
    """``work(start, stop)`` over ``range(count)``, at most ``size`` at a time, with its bounds, in order.

    With several ``threads`` chunks run side by side, each on one core; ``work`` must then be safe to call so.

    Raises:
        MeasurementError: memory does not suffice for a single one.
    """
    size = max(1, size)
    bounds = [(start, min(start + size, count)) for start in range(0, count, size)]
    if threads == 1:
        for start, stop in bounds:
            yield from _halved(start, stop, work)
        return
    pool = _pool(threads)
    waiting: deque[tuple[int, int, Future[T]]] = deque()
    todo = iter(bounds)
    try:
        for start, stop in islice(todo, 2 * threads):
            waiting.append((start, stop, pool.submit(work, start, stop)))
        while waiting:
            start, stop, future = waiting.popleft()
            try:
                found = [(start, stop, future.result())]
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                found = []
            yield from found or _halved(start, stop, work, failed=True)
            for a, b in islice(todo, 1):
                waiting.append((a, b, pool.submit(work, a, b)))
    finally:
        for *_, future in waiting:
            future.cancel()
        wait([future for *_, future in waiting])


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that compute on one core each."""
    count = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=_alone)
    together = threading.Barrier(threads)
    wait([pool.submit(together.wait) for _ in range(threads)])  # all of them exist
    torch.set_num_threads(count)
    return pool


def _alone() -> None:
    """One core for the calling thread.

    The setting is also the default of threads torch has not met yet, so it is given back when all workers have it; and torch
    meets a thread at its first question, so it is asked now, not when the default is another again.
    """
    torch.set_num_threads(1)
    torch.get_num_threads()


def _halved(
    start: int, stop: int, work: Callable[[int, int], T], *, failed: bool = False
) -> Iterator[tuple[int, int, T]]:
    """One chunk, in halves (and their halves) where memory does not suffice."""
    if not failed:
        try:
            found = work(start, stop)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
        else:
            yield start, stop, found
            return
    # Only here: while the error was handled its traceback still held the tensors that did not fit.
    if stop - start == 1:
        raise MeasurementError(f"memory does not suffice for one ablation of this batch; {_ADVICE}")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = (start + stop) // 2
    yield from _halved(start, middle, work)
    yield from _halved(middle, stop, work)


def _out_of_memory(error: RuntimeError) -> bool:
    """CUDA says so by type, the CPU allocator only in words."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text
