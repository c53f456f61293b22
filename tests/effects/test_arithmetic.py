"""Half precision: for heads and half-layers, with its error said; refused where rounding would be the result."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from families import ANSWERS, REPLAYED, load_family

from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Arithmetic, Method, Positions
from circuits.effects.measure import measure, measure_positions
from circuits.errors import SettingsError, UnsupportedModelError
from circuits.model import plainrun
from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.model.plainrun import PlainRun
from circuits.prompts.datasets import Prompts, read_prompts

ModelOf = Callable[[str], Model]
NOTICE = re.compile(
    r"bfloat16: on up to 6 components a shard effects differ from float32 by ([\d.]+)% of their root mean square, "
    r"by ([\d.]+)% of the largest at most"
)


def apart(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Root mean square and largest difference, as shares of the same of what is wanted."""
    rms = float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))
    return rms, float(np.abs(found - wanted).max() / np.abs(wanted).max())


# Eight bits of a mantissa: 0.4% of the logits, several per cent of effects a tenth as large. The effects of GPT-2's and
# NeoX's tiny heads are smaller still beside their logits.
BOUNDS = {"llama": 0.1, "gemma2": 0.1, "qwen3": 0.1, "gpt2": 0.2, "neox": 0.2}


@pytest.mark.parametrize("positions", list(Positions))
@pytest.mark.parametrize("family", BOUNDS)
def test_effects_are_near_float32s_and_the_notice_says_how_near(
    family: str, positions: Positions, model_of: ModelOf, tiny_prompts: Prompts
) -> None:
    model = model_of(family)
    for components in ("heads", "sublayers"):
        exact = measure(model, tiny_prompts, components, positions=positions)
        found = measure(model, tiny_prompts, components, positions=positions, arithmetic="bfloat16")
        rms, largest = apart(found.values, exact.values)
        assert 1e-4 < rms < BOUNDS[family]  # really narrow, and near
        assert largest < BOUNDS[family]
        (said,) = [match for notice in found.notices if (match := NOTICE.fullmatch(notice))]
        # Measured on some components only.
        assert float(said[1]) / 100 == pytest.approx(rms, rel=0.5)
        assert float(said[2]) / 100 == pytest.approx(largest, rel=1)
        # The clean metric is float32's: it costs nothing.
        np.testing.assert_array_equal(found.clean, exact.clean)
        assert not any(NOTICE.fullmatch(notice) for notice in exact.notices)


def test_on_a_trained_model_the_ranking_of_heads_survives() -> None:
    model = load("embedded", device="cpu")
    prompts = read_prompts("microstories").split("test")
    prompts = prompts.where(np.arange(len(prompts)) < 12)
    exact = measure(model, prompts, "heads").values.mean(1)
    found = measure(model, prompts, "heads", arithmetic=Arithmetic.BFLOAT16).values.mean(1)
    assert apart(found, exact)[0] < 0.1
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.99
    for e in range(6):
        assert np.abs(exact[:, e]).argmax() == np.abs(found[:, e]).argmax()


def test_a_difference_is_taken_between_two_runs_of_the_same_arithmetic(model_of: ModelOf) -> None:
    """Against the float32 clean run a head that does nothing would have an effect of pure rounding."""
    rows = [{**row, "text": "the dog saw Tom felt"} for row in tiny_rows(2)]
    alike = Prompts.of(rows, name="alike", answers=ANSWERS)
    model = model_of("llama")
    found = measure(model, alike, "heads", positions="readout", arithmetic="bfloat16").values
    moved = measure(model, alike, "heads", positions="readout", ablation="zero", arithmetic="bfloat16").values
    assert np.abs(moved).max() > 1e-2
    assert np.abs(found).max() < 0.02 * np.abs(moved).max()


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", ["neurons", ["L0N3"], ["L0H0", "L1N2"]])
def test_single_neurons_drown(components: str | list[str], model_of: ModelOf, tiny_prompts: Prompts) -> None:
    with pytest.raises(SettingsError, match=r"neurons drown in the rounding of half precision; .*dtype='float32'"):
        measure(model_of("llama"), tiny_prompts, components, arithmetic="bfloat16")


@pytest.mark.parametrize("method", [method for method in Method if method is not Method.EXACT])
def test_only_the_exact_method_has_it(method: Method, model_of: ModelOf, tiny_prompts: Prompts) -> None:
    with pytest.raises(SettingsError, match=f"arithmetic is bfloat16 and method {method}; expected exact"):
        measure(model_of("llama"), tiny_prompts, "heads", method=method, arithmetic="bfloat16")


def test_another_word_is_named(model_of: ModelOf, tiny_prompts: Prompts) -> None:
    with pytest.raises(SettingsError, match="arithmetic is 'float8'; expected one of float32, bfloat16"):
        measure(model_of("llama"), tiny_prompts, "heads", arithmetic="float8")


@pytest.mark.parametrize("family", REPLAYED)
def test_a_replayed_model_knows_its_own_precision_only(family: str, model_of: ModelOf, tiny_prompts: Prompts) -> None:
    with pytest.raises(UnsupportedModelError, match=r"cannot be measured in torch\.bfloat16: layer .*in float32"):
        measure(model_of(family), tiny_prompts, "heads", arithmetic="bfloat16")


def test_a_model_that_does_not_survive_it_is_refused(
    model_of: ModelOf, tiny_prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plainrun.CLOSE, torch.bfloat16, 1e-5)
    with pytest.raises(UnsupportedModelError, match="plain blocks give another final stream on this batch"):
        measure(model_of("llama"), tiny_prompts, "heads", arithmetic="bfloat16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_loaded_in_half_precision_has_heads_but_no_neurons(
    dtype: str, model_of: ModelOf, tiny_prompts: Prompts
) -> None:
    model = load(model_of("llama").name, device="cpu", dtype=dtype)
    for method in (Method.EXACT, Method.GRADIENT, Method.DIRECT):
        with pytest.raises(SettingsError, match="neurons drown in the rounding of half precision"):
            measure(model, tiny_prompts, ["L0N3"], method=method)
    with pytest.raises(SettingsError, match="neurons drown in the rounding of half precision"):
        measure_positions(model, tiny_prompts, ["L0N3"])
    exact = measure(model_of("llama"), tiny_prompts, "heads").values
    assert apart(measure(model, tiny_prompts, "heads").values, exact)[0] < 0.2


# -- weights written to ------------------------------------------------------------------------------------------------


def test_it_is_never_the_weights_of_before(tiny_prompts: Prompts, tmp_path: Path) -> None:
    """Where plain blocks are stale there is nothing to cast; where they are not, the cast is made again."""
    model = load_family(tmp_path / "llama", "llama")
    before = measure(model, tiny_prompts, "heads", arithmetic="bfloat16").values
    weights = dict(model.bridge.original_model.named_parameters())
    down = next(p for name, p in weights.items() if "layers.1." in name and "down_proj" in name)
    with torch.no_grad():
        down.add_(torch.randn(down.shape, generator=torch.Generator().manual_seed(0)))
    exact = measure(model, tiny_prompts, "heads").values
    found = measure(model, tiny_prompts, "heads", arithmetic="bfloat16").values
    assert apart(before, exact)[0] > 0.3
    assert apart(found, exact)[0] < 0.1
    query = next(p for name, p in weights.items() if "layers.1." in name and "q_proj" in name)
    with torch.no_grad():
        query.mul_(1.003)  # less than bfloat16 itself would notice
    with pytest.raises(UnsupportedModelError, match="plain blocks give another final stream on this batch"):
        measure(model, tiny_prompts, "heads", arithmetic="bfloat16")


def test_its_blocks_are_bfloat16_throughout(model_of: ModelOf, tiny_prompts: Prompts) -> None:
    for family in ("gpt2", "gemma2", "qwen3"):
        batch = next(Plan.of(model_of(family), tiny_prompts, Ablation.ZERO).batches())
        narrow = batch.resume_narrow
        assert isinstance(narrow, PlainRun)
        assert narrow.clean.dtype is torch.bfloat16
        assert batch.resume.clean.dtype is torch.float32
        for block in narrow.blocks:
            tensors = [*block.out, *block.down, *(t for pair in (*block.qkv.pieces, *block.up.pieces) for t in pair)]
            norms = (block.norm_attn, block.norm_mlp, block.post_attn, block.post_mlp, block.norm_q, block.norm_k)
            tensors += [t for norm in norms if norm is not None for t in (norm.weight, norm.bias)]
            assert {t.dtype for t in tensors if t is not None} == {torch.bfloat16}
