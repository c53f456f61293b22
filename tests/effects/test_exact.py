"""Exact total effects are those of one hooked forward per component, in every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS, CORE, EXPERTS, FAMILIES, REPLAYED, load_family

from circuits.effects import batch
from circuits.effects import task as task_module
from circuits.effects.exact import Exact
from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.measure import measure
from circuits.errors import MeasurementError
from circuits.model import ways as ways_module
from circuits.model.anatomy import Model
from circuits.model.sites import Component, neuron
from circuits.model.ways import Ways, ways
from circuits.prompts.datasets import Prompts


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    """18 texts in three scenarios of unequal lengths."""
    return Prompts.of(tiny_rows(3), name="three", answers=ANSWERS)


@pytest.fixture(scope="module")
def naive_of(model_of: Callable[[str], Model], prompts: Prompts) -> Callable[[str], Naive]:
    made: dict[str, Naive] = {}

    def get(family: str) -> Naive:
        if family not in made:
            made[family] = Naive(model_of(family), prompts)
        return made[family]

    return get


def some_neurons(model: Model, seed: int, per_layer: int = 1) -> tuple[Component, ...]:
    """A few neurons of every layer, other ones for every seed."""
    rng = np.random.default_rng(seed)
    return tuple(
        neuron(layer, int(i)) for layer in range(model.n_layers) for i in rng.choice(model.d_mlp, per_layer, False)
    )


EVERY = [(a, p) for a in Ablation for p in Positions]
SOME = [(Ablation.MEAN_SCENARIO, Positions.ALL), (Ablation.ZERO, Positions.READOUT),
        (Ablation.RESAMPLE, Positions.ALL), (Ablation.MEAN, Positions.READOUT)]  # fmt: skip
CASES = [(f, *case) for f in FAMILIES for case in (EVERY if f in CORE else SOME)]


def assert_naive(model: Model, naive: Naive, prompts: Prompts, ablation: Ablation, positions: Positions) -> None:
    seed = list(Ablation).index(ablation) * 2 + list(Positions).index(positions)
    neurons = some_neurons(model, seed, 2) if model.capabilities.neurons else ()
    # Other neurons every time, and heads and half-layers in turn: each one at least twice in a family.
    components = (*model.heads[seed % 2 :: 2], *neurons, *model.sublayers)
    found = measure(model, prompts, components, ablation=ablation, positions=positions)
    wanted = naive.effects(components, ablation, positions).numpy()
    # Every sort of component must move the metric well beyond rounding, or equality would say nothing.
    for kind in {c.kind for c in components}:
        assert max(np.abs(wanted[i]).max() for i, c in enumerate(components) if c.kind is kind) > 3e-3
    np.testing.assert_allclose(found.clean, naive.clean.numpy(), rtol=0, atol=1e-5 * np.abs(naive.clean.numpy()).max())
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(("family", "ablation", "positions"), CASES)
def test_exact_effects_are_the_naive_ones(family, ablation, positions, model_of, naive_of, prompts):
    assert ways(model_of(family)).name == ("replay" if family in REPLAYED else "plain")
    assert_naive(model_of(family), naive_of(family), prompts, ablation, positions)


@pytest.mark.parametrize(("ablation", "positions"), SOME)
@pytest.mark.parametrize("family", EXPERTS)
def test_so_they_are_among_experts(family, ablation, positions, model_of, naive_of, prompts):
    assert_naive(model_of(family), naive_of(family), prompts, ablation, positions)


@pytest.mark.parametrize(("ablation", "positions"), SOME)
@pytest.mark.parametrize("family", CORE)
def test_so_they_are_when_the_models_own_blocks_are_replayed(
    family, ablation, positions, model_of, naive_of, prompts, monkeypatch
):
    model = model_of(family)
    monkeypatch.setitem(ways_module._FOUND, model, Ways(None, "told so", 0.0))
    found = measure(model, prompts, ["L0H0"], ablation=ablation, positions=positions)
    assert found.notices[-2:] != ()
    assert any("told so" in notice for notice in found.notices)
    assert_naive(model, naive_of(family), prompts, ablation, positions)


@pytest.mark.parametrize("positions", list(Positions))
def test_every_neuron_of_a_model(positions, model_of, naive_of, prompts):
    model = model_of("llama")
    found = measure(model, prompts, "neurons", positions=positions)
    wanted = naive_of("llama").effects(model.neurons, Ablation.MEAN_SCENARIO, positions).numpy()
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("ablation", list(Ablation))
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_batching_does_not_matter(family, ablation, model_of, tiny_prompts, monkeypatch):
    model = model_of(family)
    components = (*model.heads[::4], *some_neurons(model, 0), *model.sublayers[::2])
    whole = measure(model, tiny_prompts, components, ablation=ablation)
    monkeypatch.setattr(batch, "_FLOATS_CPU", 1)
    plan = batch.Plan.of(model, tiny_prompts, ablation)
    assert len(plan) == tiny_prompts.n_scenarios  # one scenario a batch: really batched
    parts = measure(model, tiny_prompts, components, ablation=ablation)
    np.testing.assert_allclose(parts.values, whole.values, rtol=0, atol=1e-5 * np.abs(whole.values).max())
    np.testing.assert_allclose(parts.clean, whole.clean, rtol=0, atol=1e-5)


def test_scenarios_scattered_over_the_file_are_measured_like_neighbours(model_of, tiny_prompts, monkeypatch):
    monkeypatch.setattr(batch, "_FLOATS_CPU", 1)
    model, order = model_of("gpt2"), np.random.default_rng(0).permutation(len(tiny_prompts))
    scattered = replace(tiny_prompts, rows=tuple(tiny_prompts.rows[i] for i in order))
    together = measure(model, tiny_prompts, "heads", ablation="resample").on(scattered)
    apart = measure(model, scattered, "heads", ablation="resample")
    assert apart.prompts.ids == scattered.ids != tiny_prompts.ids
    np.testing.assert_allclose(apart.values, together.values, rtol=0, atol=1e-5 * np.abs(together.values).max())


@pytest.mark.parametrize("ablation", [a for a in Ablation if a is not Ablation.MEAN])  # means of other texts differ
@pytest.mark.parametrize("family", CORE)
def test_padding_does_not_matter(family, ablation, model_of, tiny_prompts):
    """The shortest scenario alone has less padding than beside the longest."""
    model = model_of(family)
    lengths = np.array([len(text.split()) for text in tiny_prompts.texts])
    by_scenario = [lengths[tiny_prompts.scenarios == s].max() for s in range(tiny_prompts.n_scenarios)]
    short = tiny_prompts.where(tiny_prompts.scenarios == int(np.argmin(by_scenario)))
    assert model.encode(short.texts).ids.shape[1] < model.encode(tiny_prompts.texts).ids.shape[1]
    components = (*model.heads[::4], *some_neurons(model, 1), *model.sublayers[::2])
    padded = measure(model, tiny_prompts, components, ablation=ablation).on(short)
    alone = measure(model, short, components, ablation=ablation)
    np.testing.assert_allclose(padded.values, alone.values, rtol=0, atol=1e-5 * np.abs(alone.values).max())


@pytest.mark.parametrize("ablation", list(Ablation))
def test_valences_of_a_scenario_are_separate_groups_and_short_texts_have_no_rest(ablation, model_of):
    rows = tiny_rows(4)
    for number, row in enumerate(rows):
        # Two valences share the first scenario's name; some texts are two tokens long: a first one and the read-out.
        if row["scenario"] == "s1":
            row["split"], row["scenario"], row["valence"] = "fit", "s0", "low"
        if row["scenario"] == "s2" and number % 2:
            row["text"] = "felt"
    prompts = Prompts.of(rows, name="odd", answers=ANSWERS)
    model = model_of("gpt2")
    naive = Naive(model, prompts)
    assert min(naive.last) == 1
    assert len(naive.rows_of(0)) == 6
    components = (*model.heads[::3], *some_neurons(model, 2, 1), *model.sublayers[:4])
    found = measure(model, prompts, components, ablation=ablation)
    wanted = naive.effects(components, ablation, Positions.ALL).numpy()
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_resampling_takes_another_emotion_of_the_same_scenario(tiny_prompts, model_of):
    """The naive partner is a real one, and over the scenarios every shift is used: no pair of emotions is favoured."""
    naive = Naive(model_of("gpt2"), tiny_prompts)
    shifts = set()
    for row, prompt in enumerate(tiny_prompts.rows):
        other = tiny_prompts.rows[naive.partner(row)]
        assert other.scenario == prompt.scenario
        assert other.emotion is not prompt.emotion
        shifts.add((other.emotion.column - prompt.emotion.column) % 6)
    assert shifts == {1, 2, 3, 4, 5}


def test_the_mean_within_a_scenario_removes_the_emotion_and_nothing_else(model_of):
    """At the read-out of equal texts it changes nothing; zero does, and so does averaging over earlier positions."""
    rows = [{**row, "text": "the dog saw Tom felt"} for row in tiny_rows(2)]
    same = Prompts.of(rows, name="same", answers=ANSWERS)
    model = model_of("llama")
    assert np.abs(measure(model, same, "heads", positions="readout").values).max() < 1e-5
    assert np.abs(measure(model, same, "heads", positions="readout", ablation="zero").values).max() > 1e-2
    assert np.abs(measure(model, same, "heads").values).max() > 1e-2


def test_an_incomplete_scenario_is_named_together_with_the_missing_emotion(model_of, tiny_prompts):
    part = tiny_prompts.where(np.array([i != 3 for i in range(len(tiny_prompts))]))
    with pytest.raises(
        MeasurementError, match=f"'{tiny_prompts.rows[3].scenario}' lacks {tiny_prompts.rows[3].emotion}"
    ):
        measure(model_of("gpt2"), part, "heads")
    assert measure(model_of("gpt2"), part, ["L0H0"], ablation="mean").values.shape == (1, 35, 6)


def test_inference_leaves_no_gradients(model_of, tiny_prompts):
    model = model_of("gpt2")
    before = torch.is_grad_enabled()
    measure(model, tiny_prompts, ["L0H0"])
    assert torch.is_grad_enabled() is before
    assert all(p.grad is None for p in model.bridge.parameters())


def test_a_metric_that_nothing_moves_is_an_error(tmp_path, tiny_prompts, monkeypatch):
    """All answer words have the same unembedding column: the logit differences are zero on every text."""
    model = load_family(tmp_path, "gpt2")
    with torch.no_grad():
        embedding = model.bridge.unembed.original_component.weight
        ids = [model.tokenizer.convert_tokens_to_ids(word) for words in ANSWERS.values() for word in words]
        embedding[ids] = embedding[ids[0]].clone()
    with pytest.raises(MeasurementError, match=r"the metric of anger is -?[0-9.e-]+ on each of 36 prompts of 'tiny'"):
        measure(model, tiny_prompts, "heads")
    monkeypatch.setattr(batch, "_FLOATS_CPU", 1)  # one scenario a batch: the others are looked at before it is said
    with pytest.raises(MeasurementError, match="on each of 36 prompts"):
        measure(model, tiny_prompts, "heads")


def test_one_batch_of_equal_texts_says_nothing_about_the_metric(model_of, monkeypatch):
    rows = tiny_rows(2)
    for row in rows[:6]:
        row["text"] = "the dog saw Tom felt"
    prompts = Prompts.of(rows, name="mixed", answers=ANSWERS)
    monkeypatch.setattr(batch, "_FLOATS_CPU", 1)
    assert len(batch.Plan.of(model_of("gpt2"), prompts, Ablation.ZERO)) == 2
    assert measure(model_of("gpt2"), prompts, ["L0H0"], ablation="zero").values.shape == (1, 12, 6)


@pytest.mark.parametrize("method", list(Method))
def test_an_effect_that_is_no_number_is_named_and_never_averaged(method, model_of, tiny_prompts, monkeypatch):
    """The read-out gives infinity where one text is ablated, as an overflow would; its clean run stays whole."""
    model, wanted = model_of("gpt2"), tiny_prompts.ids[7]
    original = task_module.as_numpy

    def broken(tensor: torch.Tensor) -> np.ndarray:
        found = original(tensor)
        if found.ndim == 3:
            found = found.copy()
            found[min(1, len(found) - 1), 7, 2] = np.nan
        return found

    monkeypatch.setattr(task_module, "as_numpy", broken)
    with pytest.raises(MeasurementError, match=rf"the effect of \S+ on prompt '{wanted}' \(fear\) is nan"):
        measure(model, tiny_prompts, ["L0H0", "L0H1"], method=method)


@pytest.mark.parametrize("positions", list(Positions))
def test_so_it_is_where_it_arises(positions, model_of, tiny_prompts):
    """Inside the exact engine, before a chunk leaves it: an infinite replacement of one head on one text."""
    plan = batch.Plan.of(model_of("llama"), tiny_prompts, Ablation.MEAN_SCENARIO)
    whole = next(plan.batches())
    row = int(np.flatnonzero(whole.rows == 7)[0])
    whole.replaced.z[1][row, :, 2] = float("inf")
    with pytest.raises(
        MeasurementError, match=rf"the effect of L1H2 on prompt '{tiny_prompts.ids[7]}' \(anger\) is nan"
    ):
        Exact(whole, positions).effects(plan.model.heads, lambda places, found: None)
