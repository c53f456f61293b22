"""First-order effects are derivatives along the segment from clean to ablated, and measuring leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS

from circuits.circuit.evaluation import Bench
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.measure import measure
from circuits.effects.own import own_texts
from circuits.effects.paths import edge_scores
from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.planted import planted
from circuits.model.running import final_stream, hook_name, hooked, record
from circuits.model.sites import Kind, head, neuron
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(3), name="three", answers=ANSWERS)


def some_components(model: Model) -> tuple:
    some = [*model.heads[1::5], *(neuron(layer, 7 * layer + 3) for layer in range(model.n_layers)), *model.sublayers]
    return tuple(some)


@pytest.mark.parametrize("positions", list(Positions))
@pytest.mark.parametrize("ablation", list(Ablation))
def test_it_is_the_derivative_towards_the_replacement(ablation, positions, double, prompts):
    """Moving a share of the way costs the share times AtP, but for an error that falls with the share's square."""
    naive, components = Naive(double, prompts), some_components(double)
    found = measure(double, prompts, components, method="gradient", ablation=ablation, positions=positions).values
    errors = []
    for share in (1e-2, 1e-3):
        moved = np.stack([naive.effect(c, ablation, positions, share=share).numpy() for c in components])
        errors.append(np.abs(moved - share * found).max((1, 2)))
    assert np.abs(found).max() > 0.1
    assert errors[1].max() < 1e-5 * np.abs(found).max()
    np.testing.assert_array_less(80, errors[0] / errors[1])
    np.testing.assert_array_less(errors[0] / errors[1], 125)


@pytest.mark.parametrize("family", ["llama", "neox", "neox_sequential", "gemma2", "opt"])
def test_it_is_the_derivative_in_other_families(family, model_of: Callable[[str], Model], prompts):
    model = model_of(family)
    naive, components = Naive(model, prompts), some_components(model)
    found = measure(model, prompts, components, method="gradient").values
    # Small enough for no ReLU to switch in between (OPT); float32 rounding is then a few 1e-4.
    share, ablation = 1e-3, Ablation.MEAN_SCENARIO
    central = [
        (naive.effect(c, ablation, share=share) - naive.effect(c, ablation, share=-share)).numpy() / (2 * share)
        for c in components
    ]
    np.testing.assert_allclose(found, np.stack(central), rtol=0, atol=2e-3 * np.abs(found).max())


def test_attention_output_counts_in_total_not_only_through_its_own_mlp(double, prompts):
    """At ``resid_mid`` an edit reaches the MLP branch alone; AtP of attention output must include the skip connection."""
    naive = Naive(double, prompts)
    components = [c for c in double.sublayers if c.kind is Kind.ATTN]
    found = measure(double, prompts, components, method="gradient").values
    share = 1e-4
    for component, value in zip(components, found, strict=True):
        edit = naive.ablation(component, Ablation.MEAN_SCENARIO, share=share)
        total = naive.effect(component, Ablation.MEAN_SCENARIO, share=share).numpy() / share
        clean = naive.seen(f"blocks.{component.layer}.hook_attn_out")
        change = edit(clean) - clean
        branch = naive.clean - naive.metric({f"blocks.{component.layer}.hook_resid_mid": lambda x, d=change: x + d})
        assert np.abs(branch.numpy() / share - total).max() > 0.1 * np.abs(total).max()
        np.testing.assert_allclose(value, total, rtol=0, atol=2e-3 * np.abs(total).max())


def test_where_the_model_is_linear_it_is_exact():
    """The planted model's last MLP is read by a linear read-out: nothing bends between clean and ablated."""
    made = planted("chain", seed=0)
    part = made.prompts.split("test")
    last = [c for c in made.model.neurons if c.layer == made.model.n_layers - 1] + [made.model.sublayers[-1]]
    exact = measure(made.model, part, last, method="exact").values
    assert np.abs(exact).max() > 1
    np.testing.assert_allclose(measure(made.model, part, last, method="gradient").values, exact, rtol=0, atol=5e-5)
    # In the first MLP attention comes after it, and the two must differ where there is an effect at all.
    assert np.abs(measure(made.model, part, last, method="direct").values - exact).max() < 5e-5


def test_attention_bends_so_that_first_order_is_not_exact_everywhere(double, prompts):
    exact = measure(double, prompts, "sublayers").values
    first = measure(double, prompts, "sublayers", method="gradient").values
    assert np.abs(first - exact).max() > 0.1 * np.abs(exact).max()


# -- no trace -------------------------------------------------------------------------------------------------------


def traces(model: Model) -> dict[str, object]:
    """Everything of a model that a measurement could leave changed."""
    bridge = model.bridge
    return {
        "points": {name: (list(p.fwd_hooks), list(p.bwd_hooks)) for name, p in bridge.hook_dict.items()},
        "modules": {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for name, m in bridge.named_modules()
        },
        "flags": {name: (p.requires_grad, p.grad is None) for name, p in bridge.named_parameters()},
        "training": {name: m.training for name, m in bridge.named_modules()},
        "grad": torch.is_grad_enabled(),
    }


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.bridge.state_dict().items()}


@pytest.fixture(params=["gpt2", "gemma2"])
def untouched(request, model_of):
    """A model that must be bit for bit the same after the test, without a hook."""
    model = model_of(request.param)
    before, state = traces(model), weights(model)
    assert all(hooks == ([], []) for hooks in before["points"].values())
    yield model
    assert traces(model) == before
    assert all(torch.equal(value, state[name]) for name, value in model.bridge.state_dict().items())


@pytest.mark.parametrize("method", list(Method))
def test_measuring_leaves_no_trace(method, untouched, prompts):
    measure(untouched, prompts, ["L0H0", "L1N3", "L2.mlp", "L0.attn"], method=method)


def test_edges_and_circuits_leave_no_trace(untouched, prompts):
    nodes = (head(0, 1), neuron(1, 3))
    plan, e = Plan.of(untouched, prompts, Ablation.MEAN_SCENARIO), EMOTIONS[2]
    edge_scores(untouched, plan.readout, own_texts(plan, Positions.ALL)[e], nodes, e)
    Bench.every(plan)[e].metric(nodes)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("kind", list(Kind))
def test_an_exception_inside_a_hook_leaves_no_trace(kind, untouched, prompts):
    def fail(tensor: torch.Tensor) -> torch.Tensor:
        raise Interrupted

    tokens = untouched.encode(prompts.texts)
    with pytest.raises(Interrupted), hooked(untouched, {hook_name(1, kind): fail}):
        record(untouched, tokens, grad=True)
    with pytest.raises(Interrupted), hooked(untouched, {hook_name(1, kind): fail}), torch.no_grad():
        final_stream(untouched, tokens)


@pytest.mark.parametrize("method", list(Method))
def test_an_exception_between_steps_leaves_no_trace(method, untouched, prompts):
    def stop(done: int, total: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        measure(untouched, prompts, ["L0H0", "L1N3"], method=method, progress=stop)


def test_a_nan_in_the_middle_is_named_and_leaves_no_trace(untouched, prompts):
    with (
        pytest.raises(MeasurementError, match="attention output of layer 1"),
        hooked(untouched, {"blocks.1.hook_attn_out": lambda tensor: tensor * float("nan")}),
    ):
        measure(untouched, prompts, ["L0H0"])
