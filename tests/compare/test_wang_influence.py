"""Pushes against hooked forwards, slopes against small pushes and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS, FAMILIES

import circuits
from circuits.compare.wang.influence import (
    ALPHAS,
    Target,
    influence_slope,
    reference,
    sublayer_influence,
    typical_sizes,
)
from circuits.directions.estimators import estimate_directions
from circuits.directions.vectors import Directions
from circuits.errors import ComponentError, DirectionError, MeasurementError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.sites import Half, State, head, states, sublayer
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

FEAR = Emotion.FEAR


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(5), name="five", answers=ANSWERS)


def own(prompts: Prompts) -> Prompts:
    return prompts.where(prompts.emotions == FEAR.column)


def pushed(naive: Naive, state: State, amount: np.ndarray) -> np.ndarray:
    """Fear's logit difference with ``amount`` added to a half-layer's output at the read-out token, [prompt]."""

    def edit(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        for row, last in enumerate(naive.last):
            tensor[row, last] += torch.tensor(amount, dtype=tensor.dtype)
        return tensor

    place = f"blocks.{state.layer}.hook_{'attn' if state.half is Half.ATTN else 'mlp'}_out"
    return naive.metric({place: edit})[:, FEAR.column].numpy()


def sizes(model: Model, prompts: Prompts) -> list[float]:
    """σ by loops over texts."""
    naive = Naive(model, prompts)
    found = []
    for state in states(model.n_layers):
        block = f"blocks.{state.layer}"
        if state.half is Half.MLP:
            values = naive.seen(f"{block}.hook_resid_post")
        else:
            values = naive.seen(f"{block}.hook_resid_pre") + naive.seen(f"{block}.hook_attn_out")
        each = [float(values[row, last].double().square().mean()) ** 0.5 for row, last in enumerate(naive.last)]
        found.append(sum(each) / len(each))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_pushes_are_what_hooks_find(family, model_of: Callable[[str], Model], prompts):
    model = model_of(family)
    directions = estimate_directions(model, prompts)
    found = sublayer_influence(model, prompts, directions, FEAR)
    naive, sigma = Naive(model, own(prompts)), sizes(model, prompts)
    np.testing.assert_allclose(found.sigmas, sigma, rtol=1e-5)
    assert found.values.shape == (5, 2 * model.n_layers)
    clean = naive.clean[:, FEAR.column].numpy()
    for place, state in enumerate(states(model.n_layers)):
        mean = 0.0
        for number, alpha in enumerate(ALPHAS):
            dose = alpha * sigma[place]
            wanted = (pushed(naive, state, dose * directions.at(state, FEAR)) - clean) / dose
            np.testing.assert_allclose(found.by_alpha[number, :, place], wanted, rtol=1e-3, atol=2e-4)
            mean = mean + wanted / 4
        np.testing.assert_allclose(found.values[:, place], mean, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "neox", "bloom"])
@pytest.mark.parametrize("target", Target)
def test_a_small_push_is_the_slope(family, target, model_of: Callable[[str], Model], prompts):
    """Both signs of a small push cancel the curvature; float32 leaves three digits."""
    model = model_of(family)
    directions = estimate_directions(model, prompts)
    slope = influence_slope(model, prompts, directions, FEAR, target=target)
    small = sublayer_influence(model, prompts, directions, FEAR, target=target, alphas=(0.02, -0.02))
    scale = np.abs(slope.values).max()
    np.testing.assert_allclose(small.values, slope.values, rtol=0, atol=1e-2 * scale)


def test_pushes_converge_to_the_slope(double: Model, prompts):
    """In float64: the error falls with α, to first order."""
    directions = estimate_directions(double, prompts)
    slope = influence_slope(double, prompts, directions, FEAR).values
    errors = [
        np.abs(sublayer_influence(double, prompts, directions, FEAR, alphas=(a,)).values - slope).max()
        for a in (1e-3, 1e-4, 1e-5)
    ]
    assert errors[2] < 1e-4 * np.abs(slope).max()
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)
    assert errors[2] == pytest.approx(errors[0] / 100, rel=0.2)


@pytest.mark.parametrize("kind", ["null", "chain"])
def test_pushes_of_any_size_are_the_slope_where_the_model_is_linear(kind):
    """Planted models without norms: ``null`` is linear, and no push here takes a neuron of ``chain`` past its bend."""
    planted = circuits.planted(kind, size="small", seed=1)
    prompts = planted.prompts.split("select")
    directions = estimate_directions(planted.model, planted.prompts.split("fit"))
    slope = influence_slope(planted.model, prompts, directions, FEAR)
    push = sublayer_influence(planted.model, prompts, directions, FEAR)
    there = ~np.isnan(slope.values).any(0)
    assert there[-2:].all()
    assert np.abs(slope.values[:, there]).min() > 0.01
    found = push.by_alpha[:, :, there]
    np.testing.assert_allclose(found, np.broadcast_to(slope.values[:, there], found.shape), rtol=0, atol=1e-3)


def test_the_papers_projection_by_hand(model_of: Callable[[str], Model], prompts):
    model = model_of("llama")
    directions = estimate_directions(model, prompts)
    found = sublayer_influence(model, prompts, directions, FEAR, target=Target.PROJECTION, alphas=(0.5,))
    naive = Naive(model, own(prompts))
    state, towards = State(1, Half.ATTN), reference(directions, FEAR)
    dose = 0.5 * found.sigmas[2]

    def projections(amount: float) -> np.ndarray:
        def edit(tensor: torch.Tensor) -> torch.Tensor:
            tensor = tensor.clone()
            for row, last in enumerate(naive.last):
                tensor[row, last] += torch.tensor(amount * directions.at(state, FEAR), dtype=tensor.dtype)
            return tensor

        seen = naive.run({"blocks.1.hook_attn_out": edit}, see=("ln_final.hook_in",))[1]["ln_final.hook_in"]
        with torch.no_grad():
            normed = model.bridge.ln_final.original_component(seen)
        return np.array([normed[row, last].numpy() @ towards for row, last in enumerate(naive.last)])

    np.testing.assert_allclose(found.values[:, 2], (projections(dose) - projections(0)) / dose, rtol=1e-3, atol=1e-4)
    assert found.unit == "normed units per residual unit"


def made(layers: int, vectors: dict[State, np.ndarray]) -> Directions:
    places = states(layers)
    table = np.zeros((6, len(places), 2))
    for state, v in vectors.items():
        table[:, places.index(state)] = v
    norms = (np.abs(table).sum(-1) > 0).astype(float)
    return Directions("made", places, table, norms, norms, "", "", 1)


def test_the_reference_is_the_mean_of_late_layers_turned_alike():
    x, y = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    # Of four layers the fourth: 21/28 to 26/28 of the depth.
    late = made(4, {State(2, Half.MLP): y, State(3, Half.ATTN): x, State(3, Half.MLP): -np.array([0.6, 0.8])})
    np.testing.assert_allclose(reference(late, FEAR), np.array([1.6, 0.8]) / np.hypot(1.6, 0.8))
    deep = made(28, {State(20, Half.MLP): y, State(21, Half.ATTN): x, State(25, Half.MLP): x, State(26, Half.ATTN): y})
    np.testing.assert_allclose(reference(deep, FEAR), x)
    with pytest.raises(DirectionError, match="no direction in layers 21 to 25"):
        reference(made(28, {State(0, Half.ATTN): x}), FEAR)


def test_aligned_turns_what_points_away(model_of: Callable[[str], Model], prompts):
    model = model_of("gpt2")
    directions = estimate_directions(model, prompts)
    flipped = directions.vectors.copy()
    flipped[FEAR.column, 1] *= np.sign(flipped[FEAR.column, 1] @ reference(directions, FEAR)) * -1
    away = replace(directions, vectors=flipped)
    kept = influence_slope(model, prompts, away, FEAR)
    turned = influence_slope(model, prompts, away, FEAR, aligned=True)
    np.testing.assert_allclose(turned.values[:, 1], -kept.values[:, 1])
    np.testing.assert_allclose(turned.values[:, 4], kept.values[:, 4])  # of the first layer of reference


def test_where_there_is_no_direction_nothing_is_pushed():
    planted = circuits.planted("chain", size="small", seed=0)
    directions = estimate_directions(planted.model, planted.prompts.split("fit"))
    select = planted.prompts.split("select")
    undefined = [i for i, s in enumerate(planted.model.states) if not directions.defined(s, FEAR)]
    directions_gone = replace(directions, norms=np.where(np.arange(len(directions.states)) == 0, 0, directions.norms))
    found = influence_slope(planted.model, select, directions_gone, FEAR)
    assert np.isnan(found.values[:, sorted({0, *undefined})]).all()
    with pytest.raises(DirectionError, match=r"no direction after L0\.attn"):
        found.estimate(sublayer(0, Half.ATTN))
    some = found.estimate(found.sublayers[-1])
    assert some.n == select.n_scenarios
    assert some.low > 0  # the answers are written along their own directions
    with pytest.raises(ComponentError, match="no influence of L0H0"):
        found.estimate(head(0, 0))


def test_what_cannot_be_measured_is_said(model_of: Callable[[str], Model], prompts):
    model = model_of("gpt2")
    directions = estimate_directions(model, prompts)
    for alphas in ((), (0.1, 0.0), (float("nan"),)):
        with pytest.raises(SettingsError, match="alphas is"):
            sublayer_influence(model, prompts, directions, FEAR, alphas=alphas)
    with pytest.raises(DirectionError, match="another model"):
        influence_slope(model, prompts, replace(directions, model="other"), FEAR)
    with pytest.raises(DirectionError, match="no direction at any state"):
        influence_slope(model, prompts, replace(directions, norms=directions.norms * 0), FEAR)
    rest = prompts.where(prompts.emotions != FEAR.column)
    with pytest.raises(MeasurementError, match="no text of fear"):
        influence_slope(model, rest, directions, FEAR)
    assert len(typical_sizes(model, rest)) == 6
    assert len(EMOTIONS) == 6
