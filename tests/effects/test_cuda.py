"""On a GPU the same effects come out, in chunks as large as its memory, in float32 and not in TF32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from circuits.effects import chunks
from circuits.effects.chunks import chunk_size
from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.measure import engine, measure, measure_positions
from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.model.machine import precise, precision
from circuits.model.plainrun import PlainRun
from circuits.model.ways import ways
from circuits.prompts.datasets import Prompts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

ModelOf = Callable[[str], Model]
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def on_gpu(model_of: ModelOf) -> Callable[[str], Model]:
    made: dict[str, Model] = {}

    def get(family: str) -> Model:
        if family not in made:
            made[family] = load(model_of(family).name, device="cuda")
            made[family].tokenizer = model_of(family).tokenizer
        return made[family]

    return get


@pytest.fixture
def tf32_wanted() -> Iterator[None]:
    """A caller who let TF32 be used everywhere."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def assert_near(found: np.ndarray, wanted: np.ndarray, share: float = 1e-4) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=share * np.nanmax(np.abs(wanted)))


@pytest.mark.parametrize("positions", list(Positions))
@pytest.mark.parametrize("components", ["heads", "neurons", "sublayers"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_exact_effects_are_the_processors(
    family: str, components: str, positions: Positions, model_of: ModelOf, on_gpu: ModelOf, tiny_prompts: Prompts
) -> None:
    assert ways(on_gpu(family)).name == "plain"
    found = measure(on_gpu(family), tiny_prompts, components, positions=positions)
    wanted = measure(model_of(family), tiny_prompts, components, positions=positions)
    assert_near(found.values, wanted.values)
    assert_near(found.clean, wanted.clean)


@pytest.mark.parametrize("ablation", list(Ablation))
def test_so_they_are_for_every_ablation_and_when_replayed(
    ablation: Ablation, model_of: ModelOf, on_gpu: ModelOf, tiny_prompts: Prompts
) -> None:
    for family in ("gemma2", "bloom"):
        found = measure(on_gpu(family), tiny_prompts, "heads", ablation=ablation).values
        assert_near(found, measure(model_of(family), tiny_prompts, "heads", ablation=ablation).values)


@pytest.mark.parametrize("method", [method for method in Method if method is not Method.EXACT])
def test_so_are_the_other_methods(method: Method, model_of: ModelOf, on_gpu: ModelOf, tiny_prompts: Prompts) -> None:
    components = (*model_of("llama").heads, *model_of("llama").neurons[::5])
    found = measure(on_gpu("llama"), tiny_prompts, components, method=method).values
    assert_near(found, measure(model_of("llama"), tiny_prompts, components, method=method).values)


def test_and_effects_by_position(model_of: ModelOf, on_gpu: ModelOf, tiny_prompts: Prompts) -> None:
    found = measure_positions(on_gpu("gpt2"), tiny_prompts, "heads")
    wanted = measure_positions(model_of("gpt2"), tiny_prompts, "heads")
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    assert_near(found, wanted)


# -- memory ------------------------------------------------------------------------------------------------------------


ROOM = 2**30
"""Bytes the process may take beyond what it holds."""


@pytest.fixture
def cramped(
    on_gpu: ModelOf, tiny_prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], list[int]]]:
    """As with a model of which one ablation takes so many bytes: the allocator itself refuses; sizes of what fitted."""
    whole = len(on_gpu("llama").neurons)
    measure(on_gpu("llama"), tiny_prompts, "neurons")  # kernels and their workspaces are there
    right = PlainRun.after

    def set_up(each: int) -> list[int]:
        fitted: list[int] = []

        def after(self: PlainRun, changes: list, *, at_readout: bool) -> torch.Tensor:
            count = sum(len(change) for change in changes)
            ballast = torch.empty(count * each, dtype=torch.uint8, device=GPU)
            found = right(self, changes, at_readout=at_readout)
            del ballast
            fitted.append(count)
            return found

        monkeypatch.setattr(PlainRun, "after", after)
        monkeypatch.setattr(chunks, "chunk_for", lambda *args: whole)  # far too many at once
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(GPU).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(GPU) + ROOM) / total, GPU)
        return fitted

    yield set_up
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    torch.cuda.empty_cache()


def test_memory_that_does_not_suffice_halves_the_chunk(
    cramped: Callable[[int], list[int]], on_gpu: ModelOf, tiny_prompts: Prompts
) -> None:
    model = on_gpu("llama")
    whole = measure(model, tiny_prompts, "neurons").values
    fitted = cramped(ROOM // 12)
    found = measure(model, tiny_prompts, "neurons").values
    assert_near(found, whole, 1e-5)
    assert max(fitted) <= 12
    assert sum(fitted) == len(model.neurons)  # nothing twice, nothing left out


def test_one_ablation_too_large_is_an_error_with_advice(
    cramped: Callable[[int], list[int]], on_gpu: ModelOf, tiny_prompts: Prompts
) -> None:
    fitted = cramped(2 * ROOM)
    with pytest.raises(MeasurementError, match="memory does not suffice for one ablation of this batch"):
        measure(on_gpu("llama"), tiny_prompts, "neurons")
    assert fitted == []


def test_a_chunk_is_a_power_of_two_of_what_is_free(on_gpu: ModelOf) -> None:
    size = chunk_size(on_gpu("llama"), 1000)
    assert size & (size - 1) == 0
    free, _ = torch.cuda.mem_get_info(GPU)
    assert size * chunks.bytes_each(16, 48, 1000) <= free


# -- arithmetic --------------------------------------------------------------------------------------------------------


def test_products_are_float32s_even_where_the_caller_allows_less(
    on_gpu: ModelOf, tiny_prompts: Prompts, tf32_wanted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert precision("cuda").name == "highest"
    seen: list[str] = []
    right = PlainRun.after

    def asked(self: PlainRun, changes: list, *, at_readout: bool) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return right(self, changes, at_readout=at_readout)

    monkeypatch.setattr(PlainRun, "after", asked)
    measure(on_gpu("llama"), tiny_prompts, "heads")
    assert set(seen) == {"highest"}
    assert torch.get_float32_matmul_precision() == "high"
    assert engine(on_gpu("llama"))["products"] == "highest"


def test_so_a_product_has_float32s_error(tf32_wanted: None) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 1024, generator=generator) for _ in range(2))
    wanted = a.double() @ b.double().T

    def error() -> float:
        found = (a.to(GPU) @ b.to(GPU).T).cpu().double()
        return float((found - wanted).abs().max() / wanted.abs().max())

    coarse = error()
    with precise(GPU):
        assert error() < 4e-6
    assert error() == pytest.approx(coarse, rel=0.5)  # given back


@pytest.mark.parametrize("positions", list(Positions))
def test_half_precision_says_its_error(
    positions: Positions, on_gpu: ModelOf, model_of: ModelOf, tiny_prompts: Prompts
) -> None:
    found = measure(on_gpu("llama"), tiny_prompts, "heads", positions=positions, arithmetic="bfloat16")
    wanted = measure(model_of("llama"), tiny_prompts, "heads", positions=positions).values
    assert any(notice.startswith("bfloat16: on up to 6 components") for notice in found.notices)
    assert np.sqrt(((found.values - wanted) ** 2).mean() / (wanted**2).mean()) < 0.1
