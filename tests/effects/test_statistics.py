"""Intervals and tests against plain loops, scipy, and their own promises under the null."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, false_discovery_control

from circuits.effects import statistics
from circuits.effects.statistics import MIN_SCENARIOS, benjamini_hochberg, bootstrap, sign_flip, summarise

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
    low, high = bootstrap(values, draws=4000)
    rng = np.random.default_rng(99)
    for component in range(values.shape[1]):
        means = [values[rng.integers(len(values), size=len(values)), component].mean() for _ in range(4000)]
        spread = np.std(means)
        # A 2.5% quantile of 4000 draws has a standard error of .042 spreads; both sides are random.
        assert abs(low[component] - np.quantile(means, 0.025)) < 0.3 * spread
        assert abs(high[component] - np.quantile(means, 0.975)) < 0.3 * spread


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    """Over 400 normal samples of 20 scenarios; a percentile interval of 20 covers a little less than 95%."""
    values = np.random.default_rng(3).normal(0.7, 1, (20, 400))
    low, high = bootstrap(values, draws=1000)
    covered = int(((low <= 0.7) & (high >= 0.7)).sum())
    assert binom.ppf(0.0005, 400, 0.91) <= covered <= binom.ppf(0.9995, 400, 0.95)
    narrow_low, narrow_high = bootstrap(values, draws=1000, level=0.5)
    assert (narrow_low > low).all()
    assert (narrow_high < high).all()


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
