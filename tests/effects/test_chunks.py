"""Chunks: in order, side by side, and halved where memory does not suffice, with the same result and nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from circuits.effects import chunks
from circuits.effects.chunks import chunk_for, chunk_size, in_chunks
from circuits.effects.measure import measure
from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.plainrun import PlainRun
from circuits.model.replay import Replay
from circuits.prompts.datasets import Prompts

ModelOf = Callable[[str], Model]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As on a machine with two cores; tests themselves run one to a core."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (10, 3), (10, 10), (10, 99), (7, 1)])
def test_chunks_come_in_order_and_cover_everything_once(count: int, size: int, threads: int) -> None:
    found = list(in_chunks(count, size, lambda a, b: list(range(a, b)), threads=threads))
    assert [i for _, _, part in found for i in part] == list(range(count))
    assert all(part == list(range(a, b)) for a, b, part in found)
    assert max(b - a for a, b, _ in found) <= size


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
                                   RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")])  # fmt: skip
def test_what_does_not_fit_is_halved_until_it_does(error: RuntimeError, threads: int) -> None:
    tried = []

    def work(a: int, b: int) -> int:
        tried.append((a, b))
        if b - a > 2:
            raise error
        return sum(range(a, b))

    found = list(in_chunks(20, 8, work, threads=threads))
    assert sum(part for *_, part in found) == sum(range(20))
    assert [a for a, *_ in found] == sorted(a for a, *_ in found)
    assert {b - a for a, b, _ in found} == {2}
    assert (0, 8) in tried


@pytest.mark.parametrize("threads", [1, 2])
def test_what_does_not_fit_alone_is_an_error_with_advice(threads: int) -> None:
    def work(a: int, b: int) -> int:
        raise torch.OutOfMemoryError("no")

    with pytest.raises(
        MeasurementError, match="memory does not suffice for one ablation of this batch; measure fewer prompts"
    ):
        list(in_chunks(4, 4, work, threads=threads))


@pytest.mark.parametrize("threads", [1, 2])
def test_other_errors_pass_through_and_leave_nobody_working(threads: int) -> None:
    def work(a: int, b: int) -> int:
        if a == 3:
            raise RuntimeError("a bug")
        return a

    with pytest.raises(RuntimeError, match="a bug"):
        list(in_chunks(50, 1, work, threads=threads))
    assert list(in_chunks(3, 1, lambda a, b: a, threads=threads)) == [(0, 1, 0), (1, 2, 1), (2, 3, 2)]


def test_workers_compute_on_one_core_each_and_the_caller_keeps_its_own(two_threads: None) -> None:
    seen = list(in_chunks(8, 1, lambda a, b: (threading.get_ident(), torch.get_num_threads()), threads=2))
    assert {n for *_, (_, n) in seen} == {1}
    assert threading.get_ident() not in {who for *_, (who, _) in seen}
    assert torch.get_num_threads() == 2
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [2]  # a thread torch has not met before


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_effects_do_not_depend_on_threads_bit_for_bit(
    family: str, model_of: ModelOf, tiny_prompts: Prompts, two_threads: None
) -> None:
    model = model_of(family)
    side_by_side = measure(model, tiny_prompts, (*model.heads, *model.neurons[:9]))
    torch.set_num_threads(1)
    alone = measure(model, tiny_prompts, (*model.heads, *model.neurons[:9]))
    np.testing.assert_array_equal(side_by_side.values, alone.values)


@pytest.mark.parametrize(("family", "way"), [("llama", PlainRun), ("bloom", Replay)])
def test_effects_with_too_little_memory_are_the_same(
    family: str, way: type, model_of: ModelOf, tiny_prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(family)
    whole = measure(model, tiny_prompts, "heads").values
    right = way.after

    def cramped(self: object, changes: list, *, at_readout: bool) -> torch.Tensor:
        if sum(len(change) for change in changes) > 1:
            raise torch.OutOfMemoryError("too many")
        return right(self, changes, at_readout=at_readout)

    monkeypatch.setattr(way, "after", cramped)
    np.testing.assert_allclose(measure(model, tiny_prompts, "heads").values, whole, rtol=0, atol=1e-5)
    monkeypatch.setattr(way, "after", lambda *args, **kwargs: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(MeasurementError, match="memory does not suffice for one ablation"):
        measure(model, tiny_prompts, "heads")


def test_a_processors_chunk_fills_a_cache_and_a_gpus_its_free_memory(
    model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert chunk_for(768, 3072, 480, cpu) == 1
    assert chunk_for(128, 512, 480, cpu) == 4
    assert chunk_for(128, 512, 24, cpu) == 81
    assert chunk_size(model_of("llama"), 10) == 1_000_000 // (10 * 48)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (64 * 2**30, 80 * 2**30))
    large = chunk_for(768, 3072, 480, cuda)
    assert large & (large - 1) == 0
    each = chunks.bytes_each(768, 3072, 480)
    assert large * each <= 32 * 2**30 < 2 * large * each
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 80 * 2**30))
    assert chunk_for(768, 3072, 480, cuda) == 1
