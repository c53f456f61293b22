"""Jobs side by side, one thread each, as they are finished; and how long the rest will take."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch

from circuits.errors import SettingsError

__all__ = ["among", "side_by_side", "with_time"]

T = TypeVar("T")


def among(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Names separated by commas; all known ones without any.

    Raises:
        SettingsError: one is not known.
    """
    names = tuple(text.split(",")) if text else tuple(known)
    for name in names:
        if name not in known:
            raise SettingsError(f"no {what} {name!r}; expected some of {', '.join(known)}")
    return names


def side_by_side(function: Callable[..., T], todo: Sequence[tuple[Any, ...]], jobs: int) -> Iterator[T]:
    """``function(*job)`` of every job in so many processes, in the order in which they finish."""
    if jobs == 1 or len(todo) < 2:
        threads = torch.get_num_threads()
        for job in todo:
            yield function(*job)
        torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=context, initializer=_leave_with_parent) as pool:
        futures = [pool.submit(function, *job) for job in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _leave_with_parent() -> None:
    """A worker whose parent is killed goes as well; a pool's own workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def with_time(watch: Callable[[str, int, int], None], what: str) -> Callable[[int, int], None]:
    """A bar on a terminal; elsewhere a line for each tenth, with the time left."""
    start = time.monotonic()

    def say(done: int, total: int) -> None:
        watch(what, done, total)
        if not sys.stderr.isatty() and done * 10 // total > (done - 1) * 10 // total:
            left = (time.monotonic() - start) / done * (total - done)
            print(f"{what}: {done} of {total}, about {left / 60:.1f} min left", file=sys.stderr, flush=True)

    return say
