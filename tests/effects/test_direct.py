"""Direct effects in closed form are those of taking the write out of the stream just before the final norm."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS, FAMILIES

from circuits.effects.kinds import Ablation, Positions
from circuits.effects.measure import measure
from circuits.model.anatomy import Model
from circuits.model.sites import Kind, neuron
from circuits.prompts.datasets import Prompts


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(3), name="three", answers=ANSWERS)


def removed(naive: Naive, component, ablation: Ablation) -> np.ndarray:
    """The model's own final norm and unembedding (soft cap and all) read the stream without the write."""
    write = naive.written(component, ablation, Positions.READOUT)
    final = f"blocks.{naive.model.n_layers - 1}.hook_resid_post"
    return (naive.clean - naive.metric({final: lambda stream: stream - write})).numpy()


@pytest.mark.parametrize("ablation", list(Ablation))
@pytest.mark.parametrize("family", FAMILIES)
def test_direct_effects_are_those_of_removal_before_the_final_norm(family, ablation, model_of, prompts):
    model: Model = model_of(family)
    naive = Naive(model, prompts)
    turn = list(Ablation).index(ablation)
    neurons = [neuron(layer, (11 * turn + 5 * layer + i) % model.d_mlp) for layer in range(3) for i in (0, 9)]
    components = (*model.heads[turn % 2 :: 2], *neurons, *model.sublayers)
    found = measure(model, prompts, components, method="direct", ablation=ablation)
    wanted = np.stack([removed(naive, c, ablation) for c in components])
    for kind in Kind:
        assert max(np.abs(wanted[i]).max() for i, c in enumerate(components) if c.kind is kind) > 3e-3
    assert found.positions is Positions.READOUT
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma2"])
def test_in_the_last_layer_a_direct_effect_at_the_readout_is_the_total_one(family, model_of, prompts):
    """Nothing comes after the last MLP (of a sequential block: nor after the attention half of a parallel one)."""
    model = model_of(family)
    last = [c for c in model.sublayers if c.layer == 2 and (c.kind is Kind.MLP or not model.capabilities.sequential)]
    direct = measure(model, prompts, last, method="direct").values
    total = measure(model, prompts, last, method="exact", positions="readout").values
    np.testing.assert_allclose(direct, total, rtol=0, atol=1e-5)
    early = [c for c in model.sublayers if c.layer == 0]
    assert (
        np.abs(measure(model, prompts, early, method="direct").values - measure(model, prompts, early).values).max()
        > 0.05
    )
