"""How many ablations run side by side, and what happens when memory does not suffice.

On a processor a chunk is as large as its caches like it; on a GPU as large as the free memory allows. A chunk that does not fit
after all is halved and done again, down to one ablation, so that the result never depends on it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from circuits.errors import MeasurementError
from circuits.model.anatomy import Model

__all__ = ["bytes_each", "chunk_size", "in_chunks"]

T = TypeVar("T")

_CACHE_FLOATS = 1_000_000
_SHARE_OF_FREE = 0.5
_ADVICE = "measure fewer prompts at a time, shorten the texts, or use a device with more memory"


def widest(model: Model) -> int:
    """Largest number of values a token needs at once inside a block."""
    return max(model.d_mlp, 3 * model.d_model)


def bytes_each(model: Model, tokens: int) -> int:
    """Memory [bytes] one ablation of a batch with ``tokens`` padded tokens takes while it runs, estimated from above."""
    size = torch.empty(0, dtype=model.dtype).element_size()
    return tokens * size * (4 * model.d_model + 3 * widest(model))


def chunk_size(model: Model, tokens: int) -> int:
    """Ablations to run side by side on a batch of ``tokens`` padded tokens."""
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        fits = int(free * _SHARE_OF_FREE) // bytes_each(model, tokens)
        # A power of two: a little more or less free memory then gives the same chunks, and the same bits.
        return 1 << max(0, fits.bit_length() - 1)
    return max(1, _CACHE_FLOATS // (tokens * widest(model)))


def in_chunks(count: int, size: int, work: Callable[[int, int], T]) -> Iterator[tuple[int, int, T]]:
    """``work(start, stop)`` over ``range(count)``, at most ``size`` at a time, with its bounds.

    Raises:
        MeasurementError: memory does not suffice for a single one.
    """
    start, size = 0, max(1, size)
    while start < count:
        stop = min(start + size, count)
        try:
            result = work(start, stop)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if stop - start == 1:
                raise MeasurementError(f"memory does not suffice for one ablation of this batch; {_ADVICE}") from error
            size = (stop - start) // 2
        else:
            yield start, stop, result
            start = stop
            continue
        # Only here: while the error is handled its traceback still holds the tensors that did not fit.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: RuntimeError) -> bool:
    """CUDA says so by type, the CPU allocator only in words."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text
