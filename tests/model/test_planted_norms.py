"""Planted models with real norms and with noise on their weights: what still holds, and what only roughly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from model.worked import (
    BOTH,
    NEW,
    ZERO,
    everything,
    loss,
    made,
    roles,
    shares,
)

from circuits.effects.kinds import Ablation
from circuits.effects.measure import measure
from circuits.errors import PlantedError, SettingsError
from circuits.model.planted import PlantedNorm, planted
from circuits.model.planted.build import draft
from circuits.model.sites import Kind
from circuits.prompts.emotions import Emotion

NORMED = [
    pytest.param(kind, norm, marks=[pytest.mark.slow] * (kind not in ("chain", "backup")))
    for kind, norm in itertools.product(["chain", "shared_head", *NEW], ["layer", "rms"])
]


@pytest.mark.parametrize(("kind", "norm"), NORMED)
def test_with_a_norm_the_circuit_still_carries_the_emotion_and_silence_is_still_exact(kind, norm):
    p = made(kind, norm=norm, scenarios=12)
    assert p.norm == norm
    kept, left = shares(p, Ablation.MEAN_SCENARIO)
    assert kept.min() > 0.65
    assert kept.max() < 1.5
    assert np.abs(left).max() < 0.15
    silent = {
        "backup": "spare",
        "composite": "other neuron",
        "forked": "other neuron",
        "two_directions": "other neuron",
    }
    if kind in silent:
        for context, ablation in itertools.product(p.by_context, BOTH):
            e = Emotion.SADNESS
            node = roles(p, context, e)[silent[kind]]
            assert np.abs(loss(p, ablation, context, e, [{node}])).max() < ZERO


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_with_a_norm_the_rest_grows_when_something_is_ablated(norm):
    """Self-repair through the norm: without the background, the same circuit is more than twice as loud."""
    plain, normed = (made("chain", norm=n) for n in ("none", norm))
    for p, least, most in ((plain, 0.8, 1.2), (normed, 2, 6)):
        kept, _ = shares(p, Ablation.ZERO)
        assert least < kept.min() <= kept.max() < most


def test_with_a_norm_a_component_outside_the_circuit_has_an_effect():
    p = made("chain", norm="rms")
    idle = sorted(str(c) for c in everything(p) if c.kind is Kind.HEAD and str(c) not in p.nodes | p.noise)
    values = measure(p.model, p.prompts, idle, ablation=Ablation.ZERO).values
    own = values[:, np.arange(len(p.prompts)), p.prompts.emotions]
    assert (np.abs(own).max(1) > 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chain", "shared_head", *NEW])
def test_weight_noise_changes_weights_and_hardly_the_circuit(kind):
    p, clean = made(kind, noise=0.02, scenarios=24), made(kind, scenarios=24)
    assert (p.weight_noise, clean.weight_noise) == (0.02, 0)
    assert p.by_emotion == clean.by_emotion
    before, after = (m.model.bridge.unembed.W_U.detach() for m in (clean, p))
    assert (after - before).std() / before.pow(2).mean().sqrt() == pytest.approx(0.02, rel=0.05)
    kept, left = shares(p, Ablation.MEAN_SCENARIO)
    assert kept.min() > 0.9
    assert kept.max() < 1.1
    assert np.abs(left).max() < 0.1


def test_wrong_noise_and_norms_are_refused():
    with pytest.raises(PlantedError, match=r"norm 'batch'; expected one of none, layer, rms"):
        planted("chain", norm="batch")
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="noise"):
            planted("chain", noise=noise)


def test_norm_and_noise_leave_the_truth_and_are_in_the_name():
    plain = draft("backup", seed=2)
    for norm, noise in itertools.product(PlantedNorm, (0.0, 0.02)):
        other = draft("backup", seed=2, norm=norm, noise=noise)
        assert other.by_emotion == plain.by_emotion
        assert other.rows == plain.rows
        assert other.noise == plain.noise or norm is PlantedNorm.LAYER  # drawn in turn with vectors one axis shorter
    assert plain.name == "planted-backup-small-2"
    assert other.name == "planted-backup-small-2-rms-noise0.02"
