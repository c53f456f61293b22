"""Integrated gradients converge, at the midpoint rule's order, to what they are defined as; and effects by position add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from families import ANSWERS, load_family, make_model_directory
from torch import Tensor

from circuits.effects import batch as batch_module
from circuits.effects.batch import Batch, Plan
from circuits.effects.exact import Exact
from circuits.effects.gradient import first_order, integrated_activations, integrated_inputs
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.measure import measure, measure_positions
from circuits.errors import SettingsError
from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.model.resuming import Change
from circuits.model.running import Streams
from circuits.model.sites import Half, Kind, head, neuron, sublayer
from circuits.model.ways import ways
from circuits.prompts.datasets import Prompts

ModelOf = Callable[[str], Model]
PROMPTS = Prompts.of(tiny_rows(2), name="two", answers=ANSWERS)
FAMILIES = ["gpt2", "llama"]


@pytest.fixture(scope="module")
def batch_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Batch]:
    """One batch in float64, in plain blocks: these are float64 from end to end in every family."""

    @cache
    def model(family: str) -> Model:
        made = load(make_model_directory(tmp_path_factory.mktemp(family), family), device="cpu", dtype="float64")
        assert ways(made).name == "plain"
        return made

    def get(family: str, ablation: Ablation = Ablation.MEAN_SCENARIO) -> Batch:
        (batch,) = Plan.of(model(family), PROMPTS, ablation).batches()
        assert batch.resume.clean.dtype is torch.float64
        return batch

    return get


def together(batch: Batch, kind: Kind, layer: int, positions: Positions) -> Tensor:
    """What it costs to replace all components of one kind and layer at once, ``[prompt, emotion]``."""
    clean, new = (streams.of(kind)[layer].flatten(2) for streams in (batch.run.streams, batch.replaced))
    where = batch.where(positions)[..., None]
    write = {Kind.HEAD: batch.model.W_O(layer).flatten(0, 1), Kind.NEURON: batch.model.W_out(layer)}.get(kind)
    half = Half.ATTN if kind in (Kind.HEAD, Kind.ATTN) else Half.MLP
    change = Change(layer, half, ((new - clean) * where)[None], None if write is None else write[None])
    with torch.no_grad():
        final = batch.resume.after([change], at_readout=False)[0]
        return batch.readout(batch.resume.clean) - batch.readout(final)


def alone(batch: Batch, component: object, positions: Positions) -> Tensor:
    found: list[Tensor] = []
    Exact(batch, positions).effects([component], lambda places, values: found.append(values[0]))  # type: ignore[list-item]
    return found[0]


def size(tensor: Tensor) -> float:
    return float(tensor.double().pow(2).mean().sqrt())


def assert_second_order(errors: list[float], scale: float) -> None:
    """Doubling the steps divides the error by four."""
    assert errors[0] > 1e-9 * scale  # far above rounding, or the ratio would say nothing
    for coarse, fine in pairwise(errors):
        assert 3.5 < coarse / fine < 4.5, errors


# -- along activations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "layer", "positions"),
    [
        (Kind.HEAD, 0, Positions.ALL), (Kind.HEAD, 1, Positions.READOUT), (Kind.NEURON, 1, Positions.ALL),
        (Kind.NEURON, 2, Positions.READOUT), (Kind.ATTN, 1, Positions.ALL), (Kind.MLP, 0, Positions.READOUT),
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_effects_of_a_layers_components_sum_to_what_replacing_all_of_them_costs(
    family: str, kind: Kind, layer: int, positions: Positions, batch_of: Callable[..., Batch]
) -> None:
    """Completeness: one path moves all components of one kind and layer, and the gradient is integrated along it."""
    batch = batch_of(family)
    wanted = together(batch, kind, layer, positions)
    errors = []
    for steps in (16, 32):
        found = integrated_activations(batch, positions, [(kind, layer)], steps)[kind, layer].sum(0)
        errors.append(size(found - wanted))
    assert size(wanted) > 1e-3
    assert errors[-1] < 5e-3 * size(wanted)
    assert_second_order(errors, size(wanted))


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_half_layer_it_is_the_exact_effect(family: str, batch_of: Callable[..., Batch]) -> None:
    """A half-layer is alone in its place."""
    batch = batch_of(family)
    for layer, half, kind in ((0, Half.ATTN, Kind.ATTN), (2, Half.MLP, Kind.MLP)):
        found = integrated_activations(batch, Positions.ALL, [(kind, layer)], 64)[kind, layer][0]
        wanted = alone(batch, sublayer(layer, half), Positions.ALL)
        assert size(found - wanted) < 1e-3 * size(wanted)


@pytest.mark.parametrize("ablation", [Ablation.ZERO, Ablation.RESAMPLE])
@pytest.mark.parametrize(("kind", "layer", "index"), [(Kind.HEAD, 0, 1), (Kind.NEURON, 0, 7), (Kind.HEAD, 2, 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_where_no_other_component_moves_it_is_the_components_exact_effect(
    family: str, kind: Kind, layer: int, index: int, ablation: Ablation, batch_of: Callable[..., Batch]
) -> None:
    whole = batch_of(family, ablation)
    clean, new = (list(streams.of(kind)) for streams in (whole.run.streams, whole.replaced))
    mixed = clean[layer].clone()
    mixed[:, :, index] = new[layer][:, :, index]
    new[layer] = mixed
    lists = {
        k: tuple(new) if k is kind else whole.replaced.of(k) for k in (Kind.HEAD, Kind.NEURON, Kind.ATTN, Kind.MLP)
    }
    batch = replace(whole, replaced=Streams(*lists.values()))
    wanted = alone(batch, head(layer, index) if kind is Kind.HEAD else neuron(layer, index), Positions.ALL)
    errors = []
    # A neuron's way is short: four steps are many, and more would end in Llama's own rounding (it norms in float32).
    for steps in (2, 4) if kind is Kind.NEURON else (16, 32):
        found = integrated_activations(batch, Positions.ALL, [(kind, layer)], steps)[kind, layer]
        errors.append(size(found[index] - wanted))
        others = [i for i in range(len(found)) if i != index]
        assert float(found[others].abs().max()) == 0
    assert size(wanted) > 1e-4
    assert_second_order(errors, size(wanted))
    # With all others on the way as well it is another number.
    all_moving = integrated_activations(whole, Positions.ALL, [(kind, layer)], 32)[kind, layer][index]
    assert size(all_moving - wanted) > 10 * errors[-1]


# -- along inputs ------------------------------------------------------------------------------------------------------

PLACES = [(Kind.HEAD, 0), (Kind.NEURON, 1), (Kind.ATTN, 1), (Kind.MLP, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "coarse", "most"), [("gpt2", 16, 128), ("llama", 32, 256)])
def test_along_inputs_every_component_converges_at_second_order(
    family: str, coarse: int, most: int, batch_of: Callable[..., Batch]
) -> None:
    batch = batch_of(family)

    def found(steps: int) -> dict:
        return integrated_inputs(batch, Positions.ALL, PLACES, steps)

    reference, some = found(most), [found(steps) for steps in (coarse, 2 * coarse)]
    for place in PLACES:
        scale = size(reference[place])
        errors = [size(scores[place] - reference[place]) for scores in some]
        assert scale > 1e-4
        assert_second_order(errors, scale)
        assert errors[-1] < 1e-2 * scale
        # Component by component, where its own error is no accident of two that cancel.
        by_component = [(scores[place] - reference[place]).pow(2).mean((1, 2)).sqrt() for scores in some]
        ratio = by_component[0] / by_component[1]
        assert float(ratio.median()) == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize("method", [integrated_inputs, integrated_activations])
def test_a_way_of_no_length_has_the_gradient_of_the_clean_run(method: Callable, batch_of: Callable[..., Batch]) -> None:
    """Inputs that are not moved: every midpoint is the clean run, and the mean of equal gradients is first order."""
    batch = batch_of("gpt2")
    still = replace(batch, replaced_embed=batch.run.pre[0])
    first = first_order(still, Positions.ALL, PLACES)
    if method is integrated_inputs:
        found = method(still, Positions.ALL, PLACES, 3)
        for place in PLACES:
            torch.testing.assert_close(found[place], first[place], rtol=1e-9, atol=1e-12)
    else:
        # Along activations one midpoint is the gradient half way there: another number.
        found = method(still, Positions.ALL, PLACES, 1)
        assert all(size(found[place] - first[place]) > 1e-3 * size(first[place]) for place in PLACES[:3])


@pytest.mark.parametrize("method", ["ig_inputs", "ig_activations"])
def test_measuring_takes_the_steps_it_is_told(method: str, model_of: ModelOf) -> None:
    model, components = model_of("llama"), ["L0H0", "L1H2", "L1N3", "L2.mlp", "L0.attn"]
    (batch,) = Plan.of(model, PROMPTS, Ablation.MEAN_SCENARIO).batches()
    call = integrated_inputs if method == "ig_inputs" else integrated_activations
    for steps in (1, 3):
        values = measure(model, PROMPTS, components, method=method, steps=steps).values
        scores = call(
            batch,
            Positions.ALL,
            [(Kind.HEAD, 0), (Kind.HEAD, 1), (Kind.NEURON, 1), (Kind.MLP, 2), (Kind.ATTN, 0)],
            steps,
        )
        wanted = [scores[Kind.HEAD, 0][0], scores[Kind.HEAD, 1][2], scores[Kind.NEURON, 1][3], scores[Kind.MLP, 2][0],
                  scores[Kind.ATTN, 0][0]]  # fmt: skip
        np.testing.assert_allclose(values, torch.stack(wanted).numpy(), rtol=0, atol=1e-6)
    with pytest.raises(SettingsError, match="steps is 0; expected at least one midpoint"):
        measure(model, PROMPTS, components, method=method, steps=0)


# -- position by position ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", list(Positions))
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox", "bloom"])
def test_effects_at_positions_add_up_and_end_where_the_text_does(
    family: str, positions: Positions, model_of: ModelOf, tiny_prompts: Prompts
) -> None:
    model = model_of(family)
    components = (*model.sublayers, *model.heads[::-2], *model.neurons[::11])  # in no order of layers
    found = measure_positions(model, tiny_prompts, components, positions=positions)
    wanted = measure(model, tiny_prompts, components, method="gradient", positions=positions).values
    tokens = model.encode(tiny_prompts.texts)
    assert found.shape == (len(components), len(tiny_prompts), tokens.ids.shape[1], 6)
    assert found.dtype == np.float32
    atol = 1e-5 * np.abs(wanted).max()
    np.testing.assert_allclose(np.nansum(found, axis=2), wanted, rtol=0, atol=atol)
    behind = ~tokens.mask.bool().numpy()
    assert behind.any()
    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(behind[None, :, :, None], found.shape))
    elsewhere = found[:, np.arange(tokens.ids.shape[1]) != tokens.last.numpy()[:, None]]
    if positions is Positions.READOUT:
        assert set(np.unique(elsewhere[~np.isnan(elsewhere)])) <= {0.0}
    else:
        # Below the last layer other tokens matter; in the last none but the read-out's own write does.
        lower = [i for i, c in enumerate(components) if c.layer == 0]
        assert np.nanmax(np.abs(elsewhere[lower])) > 1e-3
        top = [i for i, c in enumerate(components) if c.layer == model.n_layers - 1]
        assert np.nanmax(np.abs(elsewhere[top])) < 1e-6


@pytest.mark.parametrize("ablation", list(Ablation))
def test_so_they_do_for_every_ablation_and_in_several_batches(
    ablation: Ablation, model_of: ModelOf, tiny_prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, components = model_of("llama"), ["L0H1", "L1N5", "L2H3", "L1.attn"]
    whole = measure_positions(model, tiny_prompts, components, ablation=ablation)
    monkeypatch.setattr(batch_module, "_FLOATS_CPU", 1)
    parts = measure_positions(model, tiny_prompts, components, ablation=ablation)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5 * np.nanmax(np.abs(whole)))
    wanted = measure(model, tiny_prompts, components, method="gradient", ablation=ablation).values
    np.testing.assert_allclose(np.nansum(parts, axis=2), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_the_model_is_the_same_in_float32(tmp_path: Path, batch_of: Callable[..., Batch]) -> None:
    """What converges here is what is measured: float32 at a few steps is float64 at as many."""
    model = load_family(tmp_path, "gpt2")
    single = measure(model, PROMPTS, "heads", method="ig_activations", steps=4).values
    double = integrated_activations(batch_of("gpt2"), Positions.ALL, [(Kind.HEAD, layer) for layer in range(3)], 4)
    wanted = torch.cat([double[Kind.HEAD, layer] for layer in range(3)]).numpy()
    np.testing.assert_allclose(single, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
