"""The pieces of the half-layer study on numbers made by hand: angles that are known, halves that hide each other."""

from __future__ import annotations

import numpy as np
import pytest
from directions.test_estimators import readings_of
from scipy import stats
from sklearn.metrics import roc_auc_score

from circuits.compare.attribution import LAYER_COLUMNS, Changes, layer_rows, rate_rows
from circuits.compare.projecting import written
from circuits.compare.rotation import rotation
from circuits.compare.table import RATE_COLUMNS
from circuits.directions.decoding import Folds, resampled
from circuits.directions.estimators import contrast, deviations, rounding
from circuits.errors import DirectionError, MeasurementError
from circuits.prompts.emotions import EMOTIONS


def turning(n: int, degrees: float, noise: float, seed: int = 0) -> np.ndarray:
    """Two states, the second turned; both see the same noise and the second some of its own: [scenario, 6, 2, 32]."""
    rng = np.random.default_rng(seed)
    before, after = np.zeros((2, 6, 32))
    before[:, 0] = 1
    after[:, :2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    same, own = rng.normal(0, noise, (2, n, 6, 32))
    return np.stack([before + same, after + same + own / 2], 2)


YES = np.ones((6, 2), bool)


# -- angles ------------------------------------------------------------------------------------------------------------


def test_without_noise_the_angle_is_the_angle():
    found = rotation(turning(8, 37, 0), np.arange(8), YES)
    for values in (found.turned, found.plain, found.low, found.high):
        np.testing.assert_allclose(values, 37, atol=1e-6)
    np.testing.assert_allclose(found.floor, 0, atol=1e-5)
    assert found.n == 8


def test_the_corrected_angle_is_a_loop_over_pairs_of_scenarios():
    values = turning(7, 20, 0.3)
    found = rotation(values, np.arange(7), YES)
    for e in range(6):

        def between(a: int, b: int, e: int = e) -> float:
            return sum(values[i, e, a] @ values[j, e, b] for i in range(7) for j in range(7) if i != j)

        wanted = np.degrees(np.arccos(between(0, 1) / np.sqrt(between(0, 0) * between(1, 1))))
        assert found.turned[e, 0] == pytest.approx(wanted, abs=1e-9)
        a, b = values[:, e, 0].mean(0), values[:, e, 1].mean(0)
        plain = np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        assert found.plain[e, 0] == pytest.approx(plain, abs=1e-9)


def test_scenarios_told_at_two_valences_count_once():
    """Groups of a scenario are added before they are paired: their noise may be shared."""
    values = turning(6, 20, 0.2)
    both = np.concatenate([values, values])
    once, twice = rotation(values, np.arange(6), YES), rotation(both, np.tile(np.arange(6), 2), YES)
    np.testing.assert_allclose(twice.turned, once.turned, atol=1e-9)
    assert twice.n == 6


def test_noise_makes_the_plain_angle_too_large_but_not_the_corrected_one():
    """Thirty sets of 36 scenarios: no turn at all, then 20 degrees; the interval covers either."""
    for degrees in (0, 20):
        sets = [rotation(turning(36, degrees, 0.3, seed), np.arange(36), YES) for seed in range(15)]
        plain, turned = (np.mean([getattr(r, name) for r in sets]) for name in ("plain", "turned"))
        low, high = (np.array([getattr(r, name) for r in sets]) for name in ("low", "high"))
        covered = ((low <= degrees + 1e-9) & (degrees <= high + 1e-9)).mean()
        assert covered > 0.88
        assert plain > degrees + 0.3
        if degrees:
            assert turned == pytest.approx(20, abs=0.6)
            assert (low > 0).all()
        else:
            assert plain > 6
            assert turned < 2.5
            assert (low == 0).mean() > 0.95


def test_the_floor_is_what_two_halves_of_the_scenarios_differ_by():
    """Two means of n/2 draws of noise s in d dimensions: cos = 1 / (1 + d s^2 / (n/2)), roughly."""
    found = rotation(turning(60, 0, 0.2, 3), np.arange(60), YES)
    wanted = np.degrees(np.arccos(1 / (1 + 32 * 0.2**2 * 1.25 / 30)))
    np.testing.assert_allclose(found.floor.mean(), wanted, rtol=0.15)
    # The noisier side counts, whichever it is.
    quiet = turning(20, 0, 0.2)
    quiet[:, :, 0] = turning(20, 0, 0)[:, :, 0]
    for values in (quiet, quiet[:, :, ::-1]):
        assert rotation(values, np.arange(20), YES).floor.min() > 10


def test_directions_lost_in_noise_have_no_angle_and_undefined_ones_none():
    rng = np.random.default_rng(0)
    noise = rotation(rng.normal(0, 1, (10, 6, 2, 32)), np.arange(10), YES)
    assert np.isnan(noise.low).all()
    defined = YES.copy()
    defined[2, 1] = False
    found = rotation(turning(8, 37, 0), np.arange(8), defined)
    assert np.isnan([found.turned[2, 0], found.plain[2, 0], found.floor[2, 0]]).all()
    assert np.isfinite(found.turned[[0, 1, 3, 4, 5]]).all()
    with pytest.raises(DirectionError, match="4 scenarios have all six emotions; expected 5"):
        rotation(turning(4, 0, 0), np.arange(4), YES)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_noise_alone_writes_nothing_in_nineteen_cases_of_twenty():
    """Directions made and read on noise: with directions held fixed intervals would exclude zero three times as often."""
    rng = np.random.default_rng(0)
    outside = total = 0
    for seed in range(12):
        noise = np.cumsum(rng.normal(0, 1, (16, 6, 5, 12)), axis=2)
        found = written(noise, np.arange(16), np.ones((6, 5), bool), seed=seed)
        low, high = np.quantile(found.draws, [0.025, 0.975], axis=0)
        outside += int(((low > 0) | (high < 0)).sum())
        total += low.size
    assert total == 12 * 24
    assert outside <= 0.05 * total


def test_what_is_written_counts_groups_as_the_direction_does():
    """Two groups of one scenario weigh twice, and are never paired with each other."""
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (6, 6, 3, 5)) + 2
    scenarios = np.array([0, 0, 1, 2, 3, 4])
    found = written(values, scenarios, np.ones((6, 3), bool))
    for e in range(6):
        end = values[:, e, 2]
        for half in range(2):
            step = values[:, e, half + 1] - values[:, e, half]
            pairs = [step[g] @ end[k] for g in range(6) for k in range(6) if scenarios[g] != scenarios[k]]
            wanted = np.mean(pairs) / np.linalg.norm(end.mean(0))
            assert found.value[e, half] == pytest.approx(wanted, abs=1e-9)
    assert found.n == 5


# -- decoding ----------------------------------------------------------------------------------------------------------


def test_resampled_auroc_is_that_of_the_texts_drawn():
    """Pairs of scenarios, weighted, against sklearn on the rows copied as often as they were drawn; with ties."""
    readings = readings_of(7, signal=0.4)
    prompts = readings.prompts
    scores = Folds.of(prompts, 5).scores(readings, contrast)
    scores[:, 1] = np.round(scores[:, 1])
    draws = resampled(scores, prompts, np.random.default_rng(5))
    assert draws.shape == (1000, 6, 6)
    rng = np.random.default_rng(5)
    for draw in range(8):
        drawn = rng.integers(0, 7, 7)
        rows = np.concatenate([np.flatnonzero(prompts.scenarios == s) for s in drawn])
        for e in EMOTIONS:
            for state in range(3):
                wanted = roc_auc_score(prompts.emotions[rows] == e.column, scores[rows, state, e.column])
                assert draws[draw, e.column, state] == pytest.approx(wanted, abs=1e-12)


def test_deviations_belong_to_their_scenarios():
    readings = readings_of(6, signal=1.0)
    kept = readings.where(np.array([row.id != "s2-fear" for row in readings.prompts.rows]))
    found, scenarios = deviations(kept)
    assert scenarios.tolist() == [0, 1, 3, 4, 5]
    np.testing.assert_allclose(found.mean(0), contrast(kept), atol=1e-12)
    assert (rounding(kept) < 1e-4).all()


# -- who did it --------------------------------------------------------------------------------------------------------


def changes(attn: np.ndarray, mlp: np.ndarray, noise: float, n: int = 30, seed: int = 0) -> Changes:
    """Two layers of scenarios with these means; every emotion alike."""
    rng = np.random.default_rng(seed)
    each = np.stack([np.tile(attn, (6, 1)), np.tile(mlp, (6, 1))])[None] + rng.normal(0, noise, (n, 2, 6, len(attn)))
    weights = rng.multinomial(n, np.full(n, 1 / n), size=1000) / n
    mean, draws = each.mean(0), np.einsum("ds,s...->d...", weights, each)
    return Changes(
        measure="projection", unit="residual", attn=mean[0], mlp=mean[1], attn_draws=draws[:, 0], mlp_draws=draws[:, 1],
        n=n, reasons={}, possible=np.ones((3, 6, len(attn)), bool),
    )  # fmt: skip


def rate(rows: list[dict], name: str, who: str = "all") -> dict:
    (row,) = [r for r in rows if r["rate"] == name and r["emotion"] == who]
    return row


def test_verdicts_follow_the_numbers():
    """Layer by layer: attention alone; the MLP against it; nothing; attention more of both; both, and they cancel."""
    made = changes(np.array([2.0, 1, 0, 3, 2]), np.array([0.0, -3, 0, 1, -2]), 0.3)
    rows = layer_rows(made)
    assert tuple(rows[0]) == LAYER_COLUMNS or set(rows[0]) == set(LAYER_COLUMNS)
    fear = [row for row in rows if row["emotion"] == "fear"]
    assert [row["most"] for row in fear] == ["attn", "mlp", "", "attn", ""]
    assert [row["whole_beyond"] for row in fear] == [True, True, False, True, False]
    assert [row["opposed"] for row in fear] == [False, True, False, False, True]
    assert [row["decided"] for row in fear] == [True, True, False, True, False]
    for row in fear:
        assert row["whole"] == pytest.approx(row["attn"] + row["mlp"])
        assert row["whole_low"] < row["whole"] < row["whole_high"]
    rates = rate_rows(made)
    assert set(rates[0]) == set(RATE_COLUMNS)
    assert (rate(rates, "moved")["value"], rate(rates, "moved")["cells"]) == (pytest.approx(0.6), 30)
    most = rate(rates, "attention most")
    assert (most["value"], most["cells"]) == (pytest.approx(2 / 3), 18)
    assert most["low"] <= 2 / 3 <= most["high"]
    opposed = rate(rates, "opposed")
    assert (opposed["value"], opposed["cells"]) == (pytest.approx(0.5), 24)
    hidden = rate(rates, "hidden", "fear")
    assert (hidden["value"], hidden["cells"]) == (pytest.approx(0.25), 4)


def test_the_interval_of_the_rate_knows_undecided_cells():
    """Halves of equal size: which is larger is a coin's throw, so the rate may be nearly anything."""
    made = changes(np.ones(4), np.ones(4), 0.5)
    most = rate(rate_rows(made), "attention most")
    assert most["cells"] == 24
    assert most["high"] - most["low"] > 0.25
    assert rate(rate_rows(made), "undecided")["value"] > 0.8


@pytest.mark.parametrize("noise", [0.3, 2.0, 5.0])
def test_intervals_of_counted_verdicts_are_those_of_verdicts_given_again(noise):
    """Cell by cell and draw by draw, from the rows that everybody sees and the limits written out."""
    made = changes(np.array([2.0, 1, 0, 3, 2]), np.array([0.0, -3, 0, 1, -2]), noise)
    rows = {(row["emotion"], row["layer"]): row for row in layer_rows(made)}
    parts = {"whole": made.attn + made.mlp, "attn": made.attn, "mlp": made.mlp}
    drawn = {"whole": made.attn_draws + made.mlp_draws, "attn": made.attn_draws, "mlp": made.mlp_draws}
    spread = {name: some.std(0) for name, some in drawn.items()}
    largest = np.max([np.abs(drawn[k] - parts[k]) / spread[k] for k in parts], axis=(0, 2, 3))
    student = stats.t.isf(stats.norm.sf(np.quantile(largest, 0.95)), made.n - 1) * np.sqrt(made.n / (made.n - 1))
    counts = {"moved": [], "undecided": [], "hidden": []}
    tail = stats.norm.cdf(np.sqrt(made.n / (made.n - 1)) * stats.t.ppf(0.025, made.n - 1))
    for draw in range(1000):
        said = {name: [] for name in counts}
        for e in EMOTIONS:
            for layer in range(5):
                at, row = (e.column, layer), rows[str(e), layer]
                beyond = {k: abs(drawn[k][draw][at]) > student * spread[k][at] for k in parts}
                said["moved"].append(beyond["whole"])
                if row["whole_beyond"]:
                    sign = np.sign(parts["whole"][at])
                    ahead = sign * (made.attn_draws - made.mlp_draws)[(slice(None), *at)]
                    shift = ahead[draw] - sign * (made.attn - made.mlp)[at]
                    low, high = np.quantile(ahead, [tail, 1 - tail]) + shift
                    said["undecided"].append(low <= 0 <= high)
                if row["attn_beyond"] or row["mlp_beyond"]:
                    against = np.sign(drawn["attn"][draw][at]) != np.sign(drawn["mlp"][draw][at])
                    said["hidden"].append(beyond["attn"] and beyond["mlp"] and against and not beyond["whole"])
        for name, some in said.items():
            counts[name].append(np.mean(some) if some else np.nan)
    for name, found in counts.items():
        row = rate(rate_rows(made), name)
        if row["cells"]:
            assert (row["low"], row["high"]) == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=1e-9), name
            assert row["reason"] == ""
        else:
            assert np.isnan(row["low"])
            assert row["reason"]


def test_what_is_far_from_every_limit_has_an_interval_of_no_width_and_what_is_near_a_wide_one():
    sure = rate_rows(changes(np.array([9.0, 9]), np.array([0.0, -4]), 0.3))
    for name, value in (("moved", 1.0), ("undecided", 0.0), ("hidden", 0.0)):
        found = rate(sure, name)
        assert (found["low"], found["value"], found["high"]) == (value, value, value)
    near = rate(rate_rows(changes(np.full(4, 0.55), np.zeros(4), 1.0)), "moved")
    assert 0 < near["value"] < 1
    assert near["high"] - near["low"] > 0.2


def test_noise_is_beyond_noise_in_one_family_of_twenty():
    """Of 60 families of 72 numbers each at most 7 may hold a finding (binomial, p < .02)."""
    families = [layer_rows(changes(np.zeros(4), np.zeros(4), 1.0, n=16, seed=seed)) for seed in range(60)]
    false = sum(any(row[f"{part}_beyond"] for row in rows for part in ("whole", "attn", "mlp")) for rows in families)
    assert stats.binom.sf(7, 60, 0.05) < 0.02
    assert false <= 7


def test_what_is_not_possible_is_not_beyond_noise():
    made = changes(np.array([2.0, 2]), np.array([2.0, 2]), 0.1)
    possible = made.possible.copy()
    possible[:, :, 0] = False
    rows = layer_rows(Changes(**{**vars(made), "possible": possible}))
    assert [row["whole_beyond"] for row in rows] == [False, True] * 6


def test_a_gap_without_a_reason_is_an_error():
    made = changes(np.zeros(2), np.zeros(2), 1.0)
    holed = made.attn.copy()
    holed[1, 0] = np.nan
    with pytest.raises(MeasurementError, match="the projection of disgust in layer 0 is not a number"):
        Changes(**{**vars(made), "attn": holed})
    explained = Changes(**{**vars(made), "attn": holed, "reasons": {(1, 0): "no direction"}})
    row = layer_rows(explained)[2]
    assert (row["emotion"], row["reason"], row["most"]) == ("disgust", "no direction", "")
    assert rate(rate_rows(explained), "moved")["cells"] == 11
