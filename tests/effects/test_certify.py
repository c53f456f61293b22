"""Screen, verify, audit: what the rule finds, what it cannot, and that the bound on what was missed holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from circuits.effects.certify import Certified, certify, missed_at_most
from circuits.effects.kinds import Method
from circuits.effects.measure import measure, price
from circuits.effects.table import Effects
from circuits.errors import SettingsError
from circuits.model.anatomy import Model
from circuits.model.planted import Planted, planted
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS


def strongest(exact: Effects, count: int) -> dict:
    """The first ``count`` by exact effect, from the effects of all components."""
    result = {}
    for e in EMOTIONS:
        size = np.abs(exact.by_scenario(e).mean(0))
        order = sorted(range(len(size)), key=lambda i: (-size[i], exact.components[i]))
        result[e] = {exact.components[i] for i in order[:count] if size[i] > exact.resolution}
    return result


@pytest.fixture(scope="module")
def made() -> Planted:
    return planted("chain", seed=1, size="medium")


@pytest.fixture(scope="module")
def everything(made: Planted) -> Effects:
    return measure(made.model, made.prompts.split("fit"), "neurons")


@pytest.fixture(scope="module")
def certified(made: Planted) -> Certified:
    return certify(made.model, made.prompts.split("fit"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed"), [("chain", 0), pytest.param("shared_head", 1, marks=pytest.mark.exhaustive), ("null", 0)]
)
def test_the_list_is_that_of_exact_effects_of_all(kind: str, seed: int) -> None:
    """On planted models the rule stops with the very list that measuring everything exactly gives, and every true neuron."""
    made = planted(kind, seed=seed, size="medium")
    prompts = made.prompts.split("fit")
    found = certify(made.model, prompts, audit=0)
    assert len(found.verified) < 0.6 * len(made.model.neurons)
    wanted = strongest(measure(made.model, prompts, "neurons"), 8)
    for e in EMOTIONS:
        assert set(found.listed[e]) == wanted[e]
        true = {c for c in made.model.neurons if c.name in made.by_emotion[e].nodes}
        assert true <= set(found.listed[e]) <= set(found.verified)


def test_rounds_double_until_nothing_changes(certified: Certified) -> None:
    assert certified.rounds[0] == 16
    assert all(b == 2 * a for a, b in zip(certified.rounds, certified.rounds[1:], strict=False))
    assert len(certified.rounds) >= 2
    for e in EMOTIONS:
        assert len(certified.listed[e]) == 8


def test_every_component_is_there_once_and_says_how_it_was_measured(
    certified: Certified, everything: Effects, made: Planted
) -> None:
    effects = certified.effects
    assert sorted(effects.components) == sorted(made.model.neurons)
    exact = {c for c, m in zip(effects.components, effects.methods, strict=True) if m is Method.EXACT}
    assert certified.audit is not None
    assert len(exact) == len(certified.verified) + certified.audit.drawn
    assert set(certified.verified) < exact
    some = sorted(exact)
    np.testing.assert_allclose(effects.of(some).values, everything.of(some).values, rtol=0, atol=1e-5)
    rest = [c for c in made.model.neurons if c not in exact]
    np.testing.assert_array_equal(effects.of(rest).values, certified.screen.of(rest).values)
    assert set(effects.of(rest).methods) == {Method.GRADIENT}


def test_the_audit_reports_what_the_sample_says(certified: Certified, everything: Effects, made: Planted) -> None:
    audit = certified.audit
    assert audit is not None
    assert (audit.drawn, audit.rest) == (64, len(made.model.neurons) - len(certified.verified))
    for e in EMOTIONS:
        weakest = np.abs(everything.of(certified.listed[e]).by_scenario(e).mean(0)).min()
        assert audit.thresholds[e] == pytest.approx(weakest, rel=1e-4)
    assert audit.missed == 0
    assert audit.upper == missed_at_most(0, 64, audit.rest)
    assert audit.exact_for_all == price(made.model, made.prompts.split("fit"), "neurons")
    exact = [
        c for c, m in zip(certified.effects.components, certified.effects.methods, strict=True) if m is Method.EXACT
    ]
    pairs = [
        (g, x)
        for e in EMOTIONS
        for g, x in zip(*(source.of(exact).by_scenario(e).mean(0) for source in (certified.screen, everything)), strict=True)
    ]  # fmt: skip
    assert audit.rank.value == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic, abs=0.01)
    strong = [
        (
            certified.screen.of(certified.verified).by_scenario(e).mean(0),
            everything.of(certified.verified).by_scenario(e).mean(0),
        )
        for e in EMOTIONS
    ]
    g, x = (np.concatenate(part) for part in zip(*strong, strict=True))
    assert audit.slope.value == pytest.approx((g @ x) / (g @ g), rel=1e-3)
    assert audit.as_dict()["warnings"] == list(audit.warnings)
    for figure in (audit.rank, audit.slope):
        assert figure.low < figure.value < figure.high
        assert figure.high - figure.low < 0.5
    assert audit.n == made.prompts.split("fit").n_scenarios


def test_agreement_is_resampled_by_scenario(certified: Certified, everything: Effects) -> None:
    """The interval of the slope, drawn here once more in a loop over scenarios."""
    assert certified.audit is not None
    prompts = everything.prompts
    exact = everything.of(certified.verified)
    screen = certified.screen.of(certified.verified)
    rng, slopes = np.random.default_rng(5), []
    for _ in range(400):
        rows = rng.integers(0, prompts.n_scenarios, prompts.n_scenarios)
        g, x = (np.concatenate([s.by_scenario(e)[rows].mean(0) for e in EMOTIONS]) for s in (screen, exact))
        slopes.append((g @ x) / (g @ g))
    low, high = np.quantile(slopes, [0.025, 0.975])
    width = high - low
    assert certified.audit.slope.low == pytest.approx(low, abs=0.2 * width)
    assert certified.audit.slope.high == pytest.approx(high, abs=0.2 * width)


def blinded(screen: Effects, components: set) -> Effects:
    """A screen in which the gradients of some components vanish, as those of saturated ones do."""
    values = screen.values.copy()
    values[[i for i, c in enumerate(screen.components) if c in components]] = 0
    return replace(screen, values=values)


def test_what_a_gradient_cannot_see_is_caught_by_the_audit(made: Planted, everything: Effects) -> None:
    prompts = made.prompts.split("fit")
    true = {c for c in made.model.neurons if c.name in made.nodes}
    screen = blinded(measure(made.model, prompts, "neurons", method="gradient"), true)
    found = certify(made.model, prompts, screen=screen, audit=len(made.model.neurons))
    assert not set(found.verified) & true  # the rule itself cannot see them
    assert found.audit is not None
    assert found.audit.missed >= len(true)
    assert any(
        f"{found.audit.missed} of {found.audit.drawn} sampled components are stronger" in w
        for w in found.audit.warnings
    )
    # With everything sampled nothing is estimated any more.
    np.testing.assert_allclose(found.effects.of(everything.components).values, everything.values, rtol=0, atol=1e-5)


def test_a_gradient_of_the_wrong_size_is_not_trusted(made: Planted) -> None:
    prompts = made.prompts.split("fit")
    screen = measure(made.model, prompts, "neurons", method="gradient")
    found = certify(made.model, prompts, screen=replace(screen, values=screen.values * 4), audit=8)
    assert found.audit is not None
    assert found.audit.slope.value < 0.5
    assert any("times the gradient's" in w for w in found.audit.warnings)
    order = np.random.default_rng(0).permutation(len(screen.components))
    found = certify(made.model, prompts, screen=replace(screen, values=screen.values[order]), audit=8)
    assert found.audit is not None
    assert any("agree in rank with only" in w for w in found.audit.warnings)


@pytest.mark.parametrize("true", [1, 5, 40, 200])
def test_the_bound_holds_in_95_percent_of_samples_however_the_missed_lie(true: int) -> None:
    """600 components of which ``true`` are missed, scattered or all side by side; 60 drawn, one from each neighbourhood."""
    rng = np.random.default_rng(true)
    for together in (False, True):
        place = np.arange(true) + rng.integers(600 - true) if together else rng.choice(600, true, replace=False)
        missed = np.zeros(600, dtype=bool)
        missed[place] = True
        parts = np.array_split(np.arange(600), 60)
        held = 0
        for _ in range(1000):
            drawn = sum(missed[rng.choice(part)] for part in parts)
            held += missed_at_most(int(drawn), 60, 600) >= true
        assert held >= 950 - 20  # three standard errors
    assert missed_at_most(60, 60, 600) == 600
    assert missed_at_most(0, 60, 600) == 29  # 1 - .05^(1/60) of 600


def test_nothing_to_verify_is_a_screen_and_everything_verified_needs_no_audit(
    model_of: Callable[[str], Model], tiny_prompts: Prompts
) -> None:
    model = model_of("llama")
    bare = certify(model, tiny_prompts, verify=0)
    assert (bare.verified, bare.audit, bare.rounds) == ((), None, ())
    assert set(bare.effects.methods) == {Method.GRADIENT}
    whole = certify(model, tiny_prompts, verify=200)
    assert whole.audit is None
    assert set(whole.verified) == set(model.neurons)
    assert set(whole.effects.methods) == {Method.EXACT}
    heads = certify(model, tiny_prompts, "heads", verify=4, audit=2)
    assert sorted(heads.effects.components) == sorted(model.heads)
    for bad in ({"verify": -1}, {"audit": -1}):
        with pytest.raises(SettingsError, match="expected whole numbers from 0 on"):
            certify(model, tiny_prompts, **bad)
