"""Closed forms against one hooked forward a head, and against loops over neurons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS, FAMILIES

from circuits.compare.wang.contributions import (
    Scores,
    Space,
    head_importance,
    neuron_contributions,
    normed_directions,
)
from circuits.directions.estimators import contrast, directions_from, estimate_directions
from circuits.errors import ComponentError, DirectionError, MeasurementError, UnsupportedModelError
from circuits.model.anatomy import Model
from circuits.model.reading import Readings
from circuits.model.sites import Half, Kind, State, head, neuron
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

FEAR = Emotion.FEAR


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(5), name="five", answers=ANSWERS)


def own(prompts: Prompts, e: Emotion = FEAR) -> Prompts:
    return prompts.where(prompts.emotions == e.column)


class Zeroed:
    """The paper's way: zero one head by a hook, run the model, read the state of its own layer."""

    def __init__(self, model: Model, prompts: Prompts) -> None:
        self.naive, self.model = Naive(model, prompts), model

    def states(self, layer: int, index: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The post-attention state in the stream and as the MLP is given it, [prompt, d_model]."""
        block = f"blocks.{layer}"

        def gone(tensor: torch.Tensor) -> torch.Tensor:
            tensor = tensor.clone()
            tensor[:, :, index] = 0
            return tensor

        edits = {} if index is None else {f"{block}.attn.hook_z": gone}
        places = (f"{block}.hook_resid_pre", f"{block}.hook_attn_out", f"{block}.mlp.hook_in")
        seen = self.naive.run(edits, see=places)[1]
        stream = seen[places[0]].double() + seen[places[1]].double()
        heard = seen[places[2]].double()
        if not self.model.capabilities.sequential:
            parts = self.model.bridge.blocks[layer]
            norm = (parts.ln2 if "ln2" in parts._modules else parts.ln1).original_component
            with torch.no_grad():
                heard = norm(stream.to(self.model.dtype)).double()
        return self.last(stream), self.last(heard)

    def last(self, tensor: torch.Tensor) -> np.ndarray:
        return np.array([tensor[row, last].tolist() for row, last in enumerate(self.naive.last)])

    def drops(self, vectors: np.ndarray, *, stream: bool = False) -> np.ndarray:
        """[prompt, layer, head] for vectors [layer, d_model]."""
        found = []
        for layer in range(self.model.n_layers):
            clean = self.states(layer, None)[0 if stream else 1]
            gone = [self.states(layer, i)[0 if stream else 1] for i in range(self.model.n_heads)]
            found.append([(clean - some) @ vectors[layer] for some in gone])
        return np.array(found).transpose(2, 0, 1)


def mid_vectors(directions, model: Model, e: Emotion = FEAR) -> np.ndarray:
    return np.array([directions.at(State(layer, Half.ATTN), e) for layer in range(model.n_layers)])


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_from_one_forward_are_what_zeroing_each_finds(family, model_of: Callable[[str], Model], prompts):
    model = model_of(family)
    directions = estimate_directions(model, prompts)
    found = head_importance(model, prompts, directions, FEAR)
    oracle = Zeroed(model, own(prompts))
    clean = max(np.abs(oracle.states(layer, None)[1]).max() for layer in range(model.n_layers))
    wanted = oracle.drops(mid_vectors(directions, model))
    assert found.values.shape == (5, model.n_layers, model.n_heads)
    assert np.abs(wanted).max() > 1e-2
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=5e-6 * clean)  # the oracle runs in float32
    assert found.virtual is not model.capabilities.sequential


def test_in_float64_they_agree_to_rounding(double: Model, prompts):
    directions = estimate_directions(double, prompts)
    found = head_importance(double, prompts, directions, FEAR)
    wanted = Zeroed(double, own(prompts)).drops(mid_vectors(directions, double))
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["gemma2", "llama", "neox"])
def test_in_the_stream_the_drop_is_the_write(family, model_of: Callable[[str], Model], prompts):
    model = model_of(family)
    directions = estimate_directions(model, prompts)
    found = head_importance(model, prompts, directions, FEAR, space=Space.STREAM)
    wanted = Zeroed(model, own(prompts)).drops(mid_vectors(directions, model), stream=True)
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=5e-6 * np.abs(wanted).max())
    assert found.unit == "residual"


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "olmo2"])
def test_behind_the_norm_directions_are_estimated_there(family, model_of: Callable[[str], Model], prompts):
    model = model_of(family)
    found = normed_directions(model, prompts)
    oracle = Zeroed(model, prompts)
    values = np.array([oracle.states(layer, None)[1] for layer in range(model.n_layers)]).transpose(1, 0, 2)
    for e in EMOTIONS:
        deviations = []
        for s in {p.scenario for p in prompts.rows}:
            six = [values[i] for i, p in enumerate(prompts.rows) if p.scenario == s]
            deviations.append(
                values[next(i for i, p in enumerate(prompts.rows) if (p.scenario, p.emotion) == (s, e))]
                - np.mean(six, 0)
            )
        mean = np.mean(deviations, 0)
        np.testing.assert_allclose(found.norms[e.column], np.linalg.norm(mean, axis=-1), rtol=1e-4)
        np.testing.assert_allclose(
            found.vectors[e.column], mean / np.linalg.norm(mean, axis=-1)[:, None], rtol=0, atol=1e-4
        )
    scores = head_importance(model, prompts, found, FEAR, space=Space.NORMED)
    wanted = Zeroed(model, own(prompts)).drops(found.vectors[FEAR.column])
    np.testing.assert_allclose(scores.values, wanted, rtol=0, atol=1e-5 * np.abs(values).max())


def test_a_frozen_norm_would_give_other_numbers(model_of: Callable[[str], Model], prompts):
    """The scale of the norm changes with the head: by more than the tolerance above."""
    model = model_of("llama")
    directions = estimate_directions(model, prompts)
    exact = head_importance(model, prompts, directions, FEAR).values
    oracle = Zeroed(model, own(prompts))
    for layer in range(model.n_layers):
        clean, heard = oracle.states(layer, None)
        factor = heard / clean
        v = mid_vectors(directions, model)[layer]
        frozen = [((clean - oracle.states(layer, i)[0]) * factor) @ v for i in range(model.n_heads)]
        assert np.abs(np.array(frozen).T - exact[:, layer]).max() > 1e-2


def test_centred_scores_sum_to_nothing_over_a_group(model_of: Callable[[str], Model], prompts):
    model = model_of("gpt2")
    directions = estimate_directions(model, prompts)
    # The direction of fear read on the texts of each emotion in turn.
    everyone = Zeroed(model, prompts).drops(mid_vectors(directions, model))
    found = head_importance(model, prompts, directions, FEAR, centred=True)
    mine = [i for i, p in enumerate(prompts.rows) if p.emotion is FEAR]
    wanted = [
        everyone[i]
        - np.mean([everyone[j] for j, p in enumerate(prompts.rows) if p.scenario == prompts.rows[i].scenario], 0)
        for i in mine
    ]
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=1e-4)
    assert np.abs(found.values - everyone[mine]).max() > 1e-2


# -- neurons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_neurons_by_loops(family, model_of: Callable[[str], Model], prompts):
    model = model_of(family)
    directions = estimate_directions(model, prompts)
    found = neuron_contributions(model, prompts, directions, FEAR)
    naive = Naive(model, own(prompts))
    for layer in range(model.n_layers):
        v = directions.at(State(layer, Half.MLP), FEAR)
        a, weight = naive.seen(f"blocks.{layer}.mlp.hook_post"), model.W_out(layer)
        for row, last in enumerate(naive.last):
            for n in range(model.d_mlp):
                wanted = float(a[row, last, n]) * float(np.dot(weight[n].numpy(), v))
                assert found.values[row, layer, n] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_neurons_and_bias_are_what_the_mlp_adds_along_the_direction(family, model_of: Callable[[str], Model], prompts):
    """Behind a post-norm a raw ``a W_down v`` would miss: the sum must be the MLP's own output."""
    model = model_of(family)
    directions = estimate_directions(model, prompts)
    found = neuron_contributions(model, prompts, directions, FEAR, centred=True)
    naive = Naive(model, prompts)
    for layer in range(model.n_layers):
        out = naive.seen(f"blocks.{layer}.hook_mlp_out").double()
        along = np.array([out[r, last].numpy() @ directions.at(State(layer, Half.MLP), FEAR)
                          for r, last in enumerate(naive.last)])  # fmt: skip
        for row, prompt in zip(found.by_scenario.sum(-1)[:, layer], own(prompts).rows, strict=True):
            group = [i for i, p in enumerate(prompts.rows) if p.scenario == prompt.scenario]
            mine = next(i for i in group if prompts.rows[i].emotion is FEAR)
            wanted = along[mine] - along[group].mean()
            # GPT-2's bias is alike in all six texts; Gemma has none, so its post-norm's scale does not show.
            assert row == pytest.approx(wanted, rel=1e-3, abs=1e-4)


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_directions_compare_inside_scenario_and_valence():
    """Wang's groups: a scenario told at two valences is two comparisons, and keyed by scenario alone it would be one."""
    rows = tiny_rows(4)
    twice = []
    for number, row in enumerate(rows):
        for valence, offset in (("low", 0.0), ("high", 10.0)):
            if not (valence == "high" and number == 0):  # one group lacks an emotion and must not count
                twice.append({**row, "id": f"{row['id']}-{valence}", "valence": valence, "offset": offset})
    prompts = Prompts.of(twice, name="valences", answers=ANSWERS)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(prompts), 2, 3)) + np.array([r["offset"] for r in twice])[:, None, None]
    found = contrast(Readings(prompts, values, values, None, 0))
    deviations = []
    for s, valence in {(p.scenario, p.valence) for p in prompts.rows}:
        index = [i for i, p in enumerate(prompts.rows) if (p.scenario, p.valence) == (s, valence)]
        if len(index) == 6:
            by = {prompts.rows[i].emotion: values[i] for i in index}
            deviations.append([by[e] - np.mean(list(by.values()), 0) for e in EMOTIONS])
    assert len(deviations) == 7
    np.testing.assert_allclose(found, np.mean(deviations, 0), atol=1e-12)


def test_where_there_is_no_direction_there_is_no_number(model_of: Callable[[str], Model], prompts):
    model = model_of("gpt2")
    directions = estimate_directions(model, prompts)
    norms = directions.norms.copy()
    norms[FEAR.column, directions.states.index(State(1, Half.ATTN))] = 0
    found = head_importance(model, prompts, replace(directions, norms=norms), FEAR)
    assert np.isnan(found.values[:, 1]).all()
    assert np.isfinite(found.values[:, [0, 2]]).all()
    with pytest.raises(DirectionError, match="no direction in layer 1"):
        found.estimate(head(1, 0))
    with pytest.raises(DirectionError, match="no direction at any state"):
        head_importance(model, prompts, replace(directions, norms=norms * 0), FEAR)


def test_an_estimate_has_an_interval_over_scenarios(model_of: Callable[[str], Model], prompts):
    model = model_of("gpt2")
    found: Scores = neuron_contributions(model, prompts, estimate_directions(model, prompts), FEAR)
    some = found.estimate(neuron(1, 3))
    assert some.n == 5
    assert some.low <= some.value <= some.high
    assert some.value == pytest.approx(found.mean()[1, 3])
    for wrong in (head(1, 3), neuron(7, 0), neuron(0, 24)):
        with pytest.raises(ComponentError, match="no score of"):
            found.estimate(wrong)
    assert found.kind is Kind.NEURON


def test_what_cannot_be_measured_is_said(model_of: Callable[[str], Model], prompts):
    model = model_of("gpt2")
    directions = estimate_directions(model, prompts)
    with pytest.raises(DirectionError, match="another model"):
        head_importance(model, prompts, replace(directions, model="other"), FEAR)
    with pytest.raises(DirectionError, match="expected directions of normed_directions"):
        head_importance(model, prompts, directions, FEAR, space=Space.NORMED)
    with pytest.raises(DirectionError, match="expected directions of estimate_directions"):
        head_importance(model, prompts, normed_directions(model, prompts), FEAR)
    with pytest.raises(MeasurementError, match="no text of fear"):
        neuron_contributions(model, own(prompts, Emotion.ANGER), directions, FEAR)
    with pytest.raises(MeasurementError, match="texts of 1 emotions; expected all six"):
        neuron_contributions(model, own(prompts), directions, FEAR, centred=True)
    nothing = Readings(own(prompts), np.zeros((5, 6, 16)), np.zeros((5, 6, 16)), None, 0)
    with pytest.raises(DirectionError):
        directions_from(model, nothing)


def test_a_norm_that_is_not_the_models_own_is_noticed(model_of: Callable[[str], Model], prompts, monkeypatch):
    from circuits.model import hearing

    model = model_of("gpt2")
    directions = estimate_directions(model, prompts)
    monkeypatch.setattr(hearing, "_norms", lambda model, layer: (None, None))
    with pytest.raises(UnsupportedModelError, match="gives another input than the MLP gets"):
        head_importance(model, prompts, directions, FEAR)
