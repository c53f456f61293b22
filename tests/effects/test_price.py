"""Prices are what is paid: operations counted while they are done."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from circuits.effects.batch import Plan
from circuits.effects.calibration import calibrated, price_list
from circuits.effects.exact import Exact
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.measure import measure, price
from circuits.effects.plans import planned
from circuits.effects.price import READY, Dims, Texts, groups
from circuits.errors import ModelLoadError, PromptError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.model.sites import Half, head, neuron, sublayer
from circuits.model.sizes import SHAPES, Sizes
from circuits.prompts.datasets import Prompts, read_prompts

GPT2 = Dims.of(SHAPES["gpt2-small"])


def _product(total: list[int], a: list[int], b: list[int], *, out_shape: object = None, **_: object) -> int:
    return 2 * a[0] * a[1] * a[2] * b[2]


IN_PLACE = {torch.ops.aten.baddbmm_: _product}
"""Torch's counter passes over the one that adds in place."""


@pytest.fixture(scope="module")
def embedded() -> Model:
    return load("embedded")


@pytest.mark.parametrize("positions", list(Positions))
def test_an_exact_effect_costs_what_it_is_priced(positions: Positions, embedded: Model) -> None:
    """Matrix products counted by torch, on the embedded model: within a tenth, norms and softmax being left out."""
    prompts = read_prompts("microstories").split("test")
    plan = Plan.of(embedded, prompts.where(np.arange(len(prompts)) < 24), Ablation.MEAN_SCENARIO)
    batch, dims, texts = next(plan.batches()), Dims.of(embedded), plan.texts()
    exact = Exact(batch, positions)
    for components in ([head(0, i) for i in range(4)], [neuron(0, i) for i in range(40)], [neuron(1, i) for i in range(40)],
                       [head(2, 0)], [sublayer(1, Half.ATTN)]):  # fmt: skip
        exact.effects(components, lambda places, found: None)  # what belongs to the clean run is there
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
            exact.effects(components, lambda places, found: None)
        wanted = sum(dims.sweep(components, texts, positions))
        assert counter.get_total_flops() == pytest.approx(wanted, rel=0.1), components[0]


def test_a_forward_costs_what_it_is_priced(embedded: Model) -> None:
    tokens = embedded.encode(["the dog ran home and Tom felt"] * 6)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        embedded.bridge(tokens.ids, attention_mask=tokens.mask)
    unembedding = 2 * tokens.ids.numel() * embedded.d_model * embedded.vocab
    wanted = Dims.of(embedded).forward(Texts.alike(6, tokens.ids.shape[1]))
    assert counter.get_total_flops() - unembedding == pytest.approx(wanted, rel=0.05)


def test_published_counts() -> None:
    """GPT-2 small has 85M parameters in its blocks, two operations each and token; Llama 3.2 3B 2.8 G."""
    assert GPT2.parameters == 12 * 12 * 768**2
    assert GPT2.forward(Texts.alike(1, 1)) == pytest.approx(2 * GPT2.parameters, rel=0.001)
    llama = Dims.of(SHAPES["llama-3.2-3b"])
    assert llama.parameters == 28 * (2 * 3072 * 3072 + 2 * 3072 * 1024 + 3 * 3072 * 8192)


def test_later_components_cost_less_and_readouts_least() -> None:
    texts = Texts.alike(24, 20)
    for make in (lambda layer: head(layer, 0), lambda layer: neuron(layer, 0)):
        costs = [GPT2.exact(make(layer), texts, Positions.ALL) for layer in range(12)]
        assert costs == sorted(costs, reverse=True)
        assert all(GPT2.exact(make(layer), texts, Positions.READOUT) < costs[layer] for layer in range(11))
    assert sum(GPT2.sweep([head(layer, i) for layer in range(12) for i in range(12)], texts, Positions.ALL)) < (
        80 * GPT2.forward(texts)
    )


def test_a_measurement_says_its_price_and_reports_progress_in_it(embedded: Model) -> None:
    prompts = read_prompts("microstories").split("test")
    steps: list[tuple[int, int]] = []
    measure(embedded, prompts, "heads", progress=lambda done, total: steps.append((done, total)))
    assert len({total for _, total in steps}) == 1
    done = [d for d, _ in steps]
    assert done == sorted(done)
    total = steps[0][1]
    assert done[-1] == pytest.approx(total, rel=1e-6)
    plan = Plan.of(embedded, prompts, Ablation.MEAN_SCENARIO)
    assert price(embedded, prompts, "heads") == total + READY * Dims.of(embedded).forward(plan.texts())


def test_groups_are_neighbours_worth_at_most_the_bound() -> None:
    assert groups([5, 5, 5, 20, 1, 1], 11) == [[0, 1], [2], [3], [4, 5]]
    assert groups([], 3) == []
    assert groups([7], 3) == [[0]]


def test_texts_are_cut_into_batches_of_whole_scenarios() -> None:
    texts = Texts.alike(24, 20, budget=250)
    assert texts.batches == [(12, 20), (12, 20)]
    assert texts.tokens == 480
    assert Texts.alike(24, 20, budget=10).batches == [(6, 20)] * 4


def test_a_calibration_lasts_about_as_long_as_told_and_prices_follow_from_it() -> None:
    dims, texts = Dims.of(Sizes(2, 64, 4, 2, 16, 128, gated=True, vocab=100)), Texts.alike(6, 10)
    rate = calibrated(dims, texts, torch.device("cpu"), seconds=0.05)
    assert rate > 1e7
    items = {item.what: item for item in price_list(dims, texts, rate, Positions.ALL, chunk=2)}
    heads = items["heads, exact"]
    assert heads.components == 8
    assert heads.operations == 3 * dims.forward(texts) + sum(
        dims.sweep([head(layer, i) for layer in range(2) for i in range(4)], texts, Positions.ALL)
    )
    assert heads.seconds == pytest.approx(heads.operations / rate)
    assert heads.forwards == pytest.approx(heads.operations / dims.forward(texts))
    assert items["neurons, exact"].components == 256
    assert all(item.memory > 4 * dims.parameters for item in items.values())


def test_a_plan_is_of_a_shape_or_of_a_directory(model_of: Callable[[str], Model], tiny_prompts: Prompts) -> None:
    shape = planned("gpt2-small", None, "12x8")
    assert shape.what == "12 texts of 8 tokens"
    assert set(shape.items) == set(Positions)
    directory = planned(model_of("llama").name, "microstories", None)
    assert directory.texts.tokens > 648
    assert (directory.dims.layers, directory.dims.kv_heads, directory.dims.gated) == (3, 2, True)
    for bad in ("24", "0x20", "24x", "x", "24x20x3"):
        with pytest.raises(SettingsError, match="expected how many and how long, such as 24x20"):
            planned("gpt2-small", None, bad)
    with pytest.raises(ModelLoadError, match="expected one, or one of the shapes gpt2-small"):
        planned("gpt5", None, None)
    with pytest.raises(PromptError, match="no prompt file"):
        planned("embedded", "nowhere", None)
