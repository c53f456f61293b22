"""Intervals and tests against plain loops, scipy, and their own promises under the null."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, false_discovery_control
from scipy.stats import bootstrap as scipy_bootstrap

from circuits.effects import statistics
from circuits.effects.statistics import (
    MIN_SCENARIOS,
    Interval,
    benjamini_hochberg,
    bootstrap,
    emotion_permutation,
    sign_flip,
    split_half,
    summarise,
)

QUICK = settings(max_examples=40, deadline=None, derandomize=True)
FINITE = st.floats(-10, 10, allow_nan=False, width=32)
PS = arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1, allow_nan=False))
TABLES = arrays(np.float64, st.tuples(st.integers(5, 12), st.integers(1, 4)), elements=FINITE)


def some_values(scenarios: int = 9, components: int = 7, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(rng.normal(0, 0.5, components), 1, (scenarios, components))


# -- bootstrap ------------------------------------------------------------------------------------------------------


def test_bootstrap_is_the_quantile_of_means_of_resampled_scenarios():
    """Against a loop with a generator of its own: equal up to the error of Monte Carlo."""
    values = some_values()
    low, high = bootstrap(values, draws=4000, widened=False)
    rng = np.random.default_rng(99)
    for component in range(values.shape[1]):
        means = [values[rng.integers(len(values), size=len(values)), component].mean() for _ in range(4000)]
        spread = np.std(means)
        # A 2.5% quantile of 4000 draws has a standard error of .042 spreads; both sides are random.
        assert abs(low[component] - np.quantile(means, 0.025)) < 0.3 * spread
        assert abs(high[component] - np.quantile(means, 0.975)) < 0.3 * spread


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    """Over 400 normal samples of 20 scenarios; an unwidened percentile interval of 20 covers a little less than 95%."""
    values = np.random.default_rng(3).normal(0.7, 1, (20, 400))
    low, high = bootstrap(values, draws=1000, widened=False)
    covered = int(((low <= 0.7) & (high >= 0.7)).sum())
    assert binom.ppf(0.0005, 400, 0.91) <= covered <= binom.ppf(0.9995, 400, 0.95)
    narrow_low, narrow_high = bootstrap(values, draws=1000, level=0.5)
    assert (narrow_low > low).all()
    assert (narrow_high < high).all()


@pytest.mark.parametrize("n", [8, 16, 40])
@pytest.mark.parametrize("kind", list(Interval))
def test_widened_intervals_cover_the_mean_in_95_percent(kind, n):
    """Over 4,000 normal samples, within four standard errors (1.4 points); the same interval unwidened falls short."""
    values = np.random.default_rng(7).normal(0.7, 1, (n, 4000))
    low, high = bootstrap(values, draws=2000, kind=kind)
    covered = ((low <= 0.7) & (high >= 0.7)).mean()
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)
    bare_low, bare_high = bootstrap(values, draws=2000, kind=kind, widened=False)
    assert ((bare_low <= 0.7) & (bare_high >= 0.7)).mean() < covered


def test_bca_is_scipys():
    values = np.random.default_rng(8).exponential(1, (14, 3))
    low, high = bootstrap(values, draws=9999, kind=Interval.BCA, widened=False)
    for component in range(3):
        column = values[:, component]
        wanted = scipy_bootstrap((column,), np.mean, n_resamples=9999, method="BCa", random_state=1).confidence_interval
        spread = column.std() / np.sqrt(14)
        assert abs(low[component] - wanted.low) < 0.08 * spread
        assert abs(high[component] - wanted.high) < 0.12 * spread
        # Skewed to the right, so both ends lie to the right of the percentiles.
        plain_low, plain_high = bootstrap(values[:, [component]], draws=9999, widened=False)
        assert low[component] > plain_low[0]
        assert high[component] > plain_high[0]


def test_bca_of_a_constant_is_the_constant():
    low, high = bootstrap(np.full((9, 2), -2.0), kind=Interval.BCA)
    np.testing.assert_allclose(low, -2)
    np.testing.assert_allclose(high, -2)


@QUICK
@given(TABLES)
def test_bootstrap_lies_inside_the_values_and_around_the_mean(values):
    low, high = bootstrap(values, draws=300)
    slack = 1e-9 + 1e-6 * np.abs(values).max()
    assert (low <= high).all()
    assert (values.min(0) - slack <= low).all()
    assert (high <= values.max(0) + slack).all()


@QUICK
@given(TABLES, st.floats(-5, 5), st.floats(0.1, 4))
def test_bootstrap_follows_shift_and_scale(values, shift, scale):
    low, high = bootstrap(values, draws=200)
    moved_low, moved_high = bootstrap(values * scale + shift, draws=200)
    np.testing.assert_allclose(moved_low, low * scale + shift, atol=1e-9)
    np.testing.assert_allclose(moved_high, high * scale + shift, atol=1e-9)


def test_bootstrap_of_a_constant_is_the_constant():
    low, high = bootstrap(np.full((6, 2), 1.25))
    np.testing.assert_allclose(low, 1.25)
    np.testing.assert_allclose(high, 1.25)


# -- sign flips -----------------------------------------------------------------------------------------------------


def exact_sign_flip(column: np.ndarray) -> float:
    """Two-sided p over all 2^n sign patterns."""
    reached, total = 0, 0
    for signs in itertools.product((-1, 1), repeat=len(column)):
        total += 1
        reached += abs(sum(s * x for s, x in zip(signs, column, strict=True))) >= abs(sum(column)) * (1 - 1e-9)
    return reached / total


def test_sign_flip_is_the_share_of_all_sign_patterns():
    values = some_values(8, 6, seed=4)
    p = sign_flip(values, draws=20_000)
    for component in range(values.shape[1]):
        wanted = exact_sign_flip(values[:, component])
        assert abs(p[component] - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 20_000) + 1e-4


def test_sign_flip_counts_ties_as_reached():
    """All values equal: only the two constant patterns of 2^6 reach the mean."""
    p = sign_flip(np.full((6, 1), 0.1), draws=50_000)
    assert p[0] == pytest.approx(2 / 64, abs=0.004)
    # The observed pattern always counts itself, so no p is zero.
    assert sign_flip(np.full((40, 1), 5.0), draws=99)[0] == pytest.approx(0.01)


def test_p_is_uniform_under_the_null():
    """400 null components: the share below each level within binomial bounds (p < 1e-3 to fail by chance)."""
    values = np.random.default_rng(11).normal(0, 1, (14, 400))
    p = sign_flip(values, draws=1999)
    for level in (0.05, 0.2, 0.5):
        count = int((p <= level).sum())
        assert binom.ppf(0.0005, 400, level) <= count <= binom.ppf(0.9995, 400, level)


def test_p_finds_a_mean_that_is_there():
    values = np.random.default_rng(12).normal(1.2, 1, (14, 200))
    assert (sign_flip(values) < 0.05).mean() > 0.9


@QUICK
@given(TABLES)
def test_p_does_not_depend_on_sign_scale_or_company(values):
    p = sign_flip(values, draws=199)
    assert ((p >= 1 / 200) & (p <= 1)).all()
    np.testing.assert_array_equal(sign_flip(-values, draws=199), p)
    np.testing.assert_array_equal(sign_flip(values * 4, draws=199), p)
    np.testing.assert_array_equal(sign_flip(values[:, :1], draws=199), p[:1])


def test_values_within_rounding_error_are_no_finding():
    values = np.column_stack([np.full(10, 1e-7), np.full(10, 1e-7), np.zeros(10)])
    values[3, 1] = 2e-3
    p = sign_flip(values, resolution=1e-5)
    assert p[0] == p[2] == 1
    assert p[1] < 1
    assert sign_flip(values[:, :1], resolution=0.0)[0] < 0.01


def test_the_max_statistic_is_the_share_of_flips_in_which_any_component_reaches_this_one():
    values = some_values(7, 4, seed=21)
    size = np.sqrt((values**2).mean(0))
    reached = np.zeros(4)
    patterns = list(itertools.product((-1, 1), repeat=7))
    for signs in patterns:
        largest = max(abs(np.dot(signs, values[:, c])) / size[c] for c in range(4))
        reached += largest >= np.abs(values.sum(0)) / size * (1 - 1e-9)
    p = sign_flip(values, draws=20_000, max_statistic=True)
    np.testing.assert_allclose(p, reached / len(patterns), atol=0.012)
    assert (p >= sign_flip(values, draws=20_000) - 1e-9).all()


def test_the_max_statistic_controls_any_false_finding():
    """300 families of 30 null components: one below .05 in about 5% of them (p < 1e-3 to fail by chance)."""
    rng = np.random.default_rng(22)
    found = sum(sign_flip(rng.normal(0, rng.uniform(0.1, 9, 30), (12, 30)), draws=499, max_statistic=True).min() < 0.05
                for _ in range(300))  # fmt: skip
    assert binom.ppf(0.0005, 300, 0.05) <= found <= binom.ppf(0.9995, 300, 0.05)


# -- permuting emotions ---------------------------------------------------------------------------------------------


def test_permuting_emotions_is_the_share_of_all_choices_of_a_row():
    rng = np.random.default_rng(31)
    values = rng.exponential(1, (4, 6, 3))
    scenarios = np.array([0, 1, 1, 2])  # the second scenario is told at two valences: two groups share its weight
    weight = np.array([1, 0.5, 0.5, 1]) / 3

    def student(drawn: np.ndarray) -> np.ndarray:
        mean = weight @ drawn
        return np.abs(mean - centre) / np.sqrt(weight @ (drawn - mean) ** 2)

    centre = weight @ values.mean(1)
    reached, total = np.zeros(3), 0
    for choice in itertools.product(range(6), repeat=4):
        total += 1
        reached += student(values[np.arange(4), list(choice)]) >= student(values[:, 2]) * (1 - 1e-9) - 1e-5
    p = emotion_permutation(values, 2, scenarios, draws=20_000)
    np.testing.assert_allclose(p, reached / total, atol=0.012)


def test_a_steady_effect_is_found_although_other_emotions_texts_vary_widely():
    rng = np.random.default_rng(34)
    values = rng.normal(0, 5, (36, 6, 50))
    values[:, 0] = rng.normal(0.8, 0.5, (36, 50))
    assert (emotion_permutation(values, 0, np.arange(36)) < 0.05).mean() > 0.9


def test_permuting_emotions_is_exact_for_skewed_effects_where_flipping_signs_is_not():
    """Effects that are nearly always a little positive and rarely very negative, with mean zero: 1,000 families of one."""
    rng = np.random.default_rng(32)
    values = np.where(rng.random((16, 6, 1000)) < 0.05, -19.0, 1.0) * rng.uniform(0.9, 1.1, (16, 6, 1000))
    by_emotion = emotion_permutation(values, 0, np.arange(16), draws=999)
    by_sign = sign_flip(values[:, 0], draws=999)
    assert (by_emotion < 0.01).mean() <= 0.02
    assert (by_sign < 0.01).mean() > 0.2
    both = summarise(values[:, 0], by_emotion=by_emotion)
    np.testing.assert_array_equal(both.p_sign, sign_flip(values[:, 0]))
    np.testing.assert_array_equal(both.p, np.maximum(both.p_sign, by_emotion))
    np.testing.assert_allclose(both.q_sign, false_discovery_control(both.p_sign))


def test_an_effect_on_one_emotion_is_found_and_one_on_all_is_not():
    rng = np.random.default_rng(33)
    values = rng.normal(0, 0.1, (12, 6, 2))
    values[:, 3, 0] += 1
    values[:, :, 1] += 1
    p = emotion_permutation(values, 3, np.arange(12), resolution=1e-6)
    assert p[0] < 0.001
    assert p[1] > 0.01
    assert (emotion_permutation(values * 1e-9, 3, np.arange(12), resolution=1e-6) == 1).all()


# -- split halves ---------------------------------------------------------------------------------------------------


def test_split_half_reliability_follows_signal_and_noise():
    """Components' true means with variance 1, noise with variance s²: two halves of n/2 correlate as 1 / (1 + 2 s² / n)."""
    rng = np.random.default_rng(41)
    n, count = 40, 3000
    for noise in (1.0, 6.0):
        values = rng.normal(0, 1, count) + rng.normal(0, noise, (n, count))
        found = split_half(values)
        wanted = 1 / (1 + 2 * noise**2 / n)
        assert found.half == pytest.approx(wanted, abs=0.03)
        assert found.low < found.half < found.high
        assert found.whole == pytest.approx(1 / (1 + noise**2 / n), abs=0.03)
    assert np.isnan(split_half(values[:9]).half)
    assert np.isnan(split_half(values[:, :2]).half)


# -- Benjamini-Hochberg ---------------------------------------------------------------------------------------------


@QUICK
@given(PS)
def test_q_is_scipys(p):
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p), rtol=1e-12)


@QUICK
@given(PS, st.floats(0.001, 0.5))
def test_q_below_alpha_is_the_step_up_procedure(p, alpha):
    """Reject the k smallest, k the largest rank with p_(k) <= alpha k / m."""
    m, ranked = len(p), sorted(p)
    k = max((i + 1 for i in range(m) if ranked[i] * m / (i + 1) <= alpha), default=0)
    assert (benjamini_hochberg(p) <= alpha).sum() == (p <= ranked[k - 1]).sum() if k else True
    if k == 0:
        assert (benjamini_hochberg(p) > alpha).all()


def test_q_controls_false_findings_when_nothing_is_there():
    """Under the full null a finding anywhere should occur in about 5% of families of 60."""
    rng = np.random.default_rng(5)
    found = sum((benjamini_hochberg(rng.uniform(size=60)) <= 0.05).any() for _ in range(400))
    assert binom.ppf(0.0005, 400, 0.05) <= found <= binom.ppf(0.9995, 400, 0.05)


# -- together -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, MIN_SCENARIOS))
def test_few_scenarios_get_a_mean_and_nothing_else(n):
    s = summarise(some_values(n))
    np.testing.assert_allclose(s.mean, some_values(n).mean(0))
    assert s.n == n < 5
    assert all(np.isnan(x).all() for x in (s.low, s.high, s.p, s.q))


def test_a_summary_is_its_parts():
    values = some_values(MIN_SCENARIOS)
    s = summarise(values, seed=3, resolution=1e-6)
    np.testing.assert_allclose(s.mean, values.mean(0))
    np.testing.assert_array_equal((s.low, s.high), bootstrap(values, seed=3))
    np.testing.assert_array_equal(s.p, sign_flip(values, seed=3, resolution=1e-6))
    np.testing.assert_allclose(s.q, false_discovery_control(s.p))


def test_many_components_are_cut_into_pieces_without_a_seam(monkeypatch):
    values = some_values(8, 23)
    whole = (*bootstrap(values, draws=100), sign_flip(values, draws=100))
    monkeypatch.setattr(statistics, "_CHUNK", 50)
    pieces = (*bootstrap(values, draws=100), sign_flip(values, draws=100))
    assert len(statistics._parts(23, 100)) > 3
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
