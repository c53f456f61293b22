"""Areas under the curve against counting pairs, their intervals against naive resampling, the null against its promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import circuits
from circuits.directions.transfer import auroc, bootstrap_aurocs, halves, transfer
from circuits.directions.vectors import Directions
from circuits.errors import DirectionError
from circuits.model.sites import states
from circuits.prompts.emotions import EMOTIONS, Emotion

SIX = len(EMOTIONS)
STATES = states(2)


def texts(each: int) -> np.ndarray:
    return np.repeat(np.arange(SIX), each).astype(np.int64)


def scores(labels: np.ndarray, *, gain: float = 0.0, decimals: int = 1, seed: int = 0) -> np.ndarray:
    """Noise with many ties, plus ``gain`` for a text's own emotion at the third state."""
    found = np.random.default_rng(seed).normal(size=(len(labels), len(STATES), SIX))
    found[np.arange(len(labels)), 2, labels] += gain
    return found.round(decimals)


def alike(labels: np.ndarray) -> np.ndarray:
    """All texts of one surface."""
    return np.zeros(len(labels), dtype=np.int64)


def directions(defined: np.ndarray | None = None) -> Directions:
    norms = np.ones((SIX, len(STATES))) if defined is None else defined.astype(float)
    vectors = np.zeros((SIX, len(STATES), 3))
    return Directions("contrast", STATES, vectors, norms, np.full_like(norms, np.nan), "m", "p", 3)


def by_pairs(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The definition, pair by pair."""
    found = np.zeros((SIX, values.shape[1]))
    for e in range(SIX):
        for state in range(values.shape[1]):
            own, others = values[labels == e, state, e], values[labels != e, state, e]
            found[e, state] = np.mean([(a > b) + 0.5 * (a == b) for a in own for b in others])
    return found


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    labels = np.random.default_rng(3).permutation(texts(7)[:-3])
    values = scores(labels, gain=1.0)
    np.testing.assert_allclose(auroc(values, labels), by_pairs(values, labels), atol=1e-12)


def test_a_resample_is_the_area_of_the_texts_drawn() -> None:
    """The same counts of texts, written out as repeated rows and counted pair by pair."""
    labels = np.random.default_rng(3).permutation(texts(6))
    values = scores(labels, gain=1.0)
    found = bootstrap_aurocs(values, labels, 4, np.random.default_rng(9))
    rng = np.random.default_rng(9)
    counts = np.empty((4, len(labels)), dtype=int)
    for e in range(SIX):
        counts[:, labels == e] = rng.multinomial(6, np.full(6, 1 / 6), size=4)
    assert len({tuple(row) for row in counts}) == 4
    for draw, count in zip(found, counts, strict=True):
        rows = np.repeat(np.arange(len(labels)), count)
        np.testing.assert_array_equal(np.bincount(labels[rows]), [6] * SIX)
        np.testing.assert_allclose(draw, by_pairs(values[rows], labels[rows]), atol=1e-12)


def test_halves_part_each_emotion_and_follow_the_seed() -> None:
    labels = np.random.default_rng(3).permutation(texts(11))
    select, test = halves(labels, seed=4)
    assert (select ^ test).all()
    np.testing.assert_array_equal(np.bincount(labels[select]), [5] * SIX)
    np.testing.assert_array_equal(select, halves(labels, seed=4)[0])
    assert (select != halves(labels, seed=5)[0]).any()


def test_figures_are_of_the_half_that_did_not_choose() -> None:
    labels = texts(40)
    values = scores(labels, gain=1.5)
    found = transfer(directions(), values, labels, alike(labels), draws=200, permutations=200, seed=2)
    select, test = halves(labels, seed=2)
    np.testing.assert_allclose(found.auroc, by_pairs(values[test], labels[test]), atol=1e-12)
    np.testing.assert_array_equal(found.chosen, by_pairs(values[select], labels[select]).argmax(1))
    np.testing.assert_array_equal(found.chosen, 2)
    assert ((found.low <= found.auroc) & (found.auroc <= found.high)).all()
    state, value, low, high, null = found.at_chosen(Emotion.FEAR)
    assert state == STATES[2]
    row = Emotion.FEAR.column
    assert (value, low, high) == (found.auroc[row, 2], found.low[row, 2], found.high[row, 2])
    assert low > 0.6
    assert null == found.null[row, 2] == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(found.p, 1 / 201)
    np.testing.assert_array_equal((found.n, found.rest), ([20] * SIX, [100] * SIX))


def test_the_null_keeps_its_level_though_the_best_of_states_is_asked() -> None:
    """300 families of nothing: 5% reach p ≤ .05, while one state's own threshold would be passed far more often."""
    labels = texts(10)
    p, alone = [], []
    for seed in range(50):
        values = scores(labels, seed=seed, decimals=6)
        found = transfer(directions(), values, labels, alike(labels), draws=100, permutations=199, seed=seed)
        p.append(found.p)
        # At 5 texts against 25 the area of one state passes .736 in 5% of cases (normal approximation: .5 + 1.645 sd).
        alone.append(np.nanmax(found.auroc, axis=1) > 0.5 + 1.645 * np.sqrt(31 / (12 * 5 * 25)))
    assert 0.02 <= np.mean(np.stack(p) <= 0.05) <= 0.085
    assert np.mean(np.stack(alone)) > 0.12


def test_what_the_surface_alone_gives_is_no_finding() -> None:
    """Surprise often ends in a question mark, and the scores follow nothing but question marks."""
    labels = texts(60)
    rng = np.random.default_rng(1)
    asks = (rng.random(len(labels)) < np.where(labels == Emotion.SURPRISE.column, 0.7, 0.2)).astype(np.int64)
    values = scores(labels, decimals=6) + 2.0 * asks[:, None, None]
    fooled = transfer(directions(), values, labels, alike(labels), draws=100, permutations=400)
    told = transfer(directions(), values, labels, asks, draws=100, permutations=400)
    row = Emotion.SURPRISE.column
    np.testing.assert_array_equal(told.auroc, fooled.auroc)
    assert fooled.p[row] < 0.01
    assert fooled.null[row].max() < 0.52
    assert told.p[row] > 0.1
    assert abs(told.null[row] - told.auroc[row]).max() < 0.06
    # What differs inside groups is still found.
    more = values + 1.5 * (labels == row)[:, None, None]
    assert transfer(directions(), more, labels, asks, draws=100, permutations=400).p[row] < 0.01


def test_where_there_is_no_direction_there_is_no_area() -> None:
    labels, values = texts(10), scores(texts(10), gain=2.0)
    defined = np.ones((SIX, len(STATES)), dtype=bool)
    defined[Emotion.ANGER.column, 2] = defined[:, 0] = False
    values[:, 0] = 0
    found = transfer(directions(defined), values, labels, alike(labels), draws=100, permutations=100)
    for array in (found.auroc, found.low, found.high):
        np.testing.assert_array_equal(np.isnan(array), ~defined)
    assert found.chosen[Emotion.ANGER.column] in (1, 3)
    assert np.isfinite(found.p).all()
    assert np.isfinite(found.threshold).all()


def test_scores_that_cannot_be_ordered_are_refused() -> None:
    labels = texts(10)
    with pytest.raises(
        DirectionError, match=r"scores have shape \(60, 3, 6\); expected finite numbers of shape \(60, 4, 6\)"
    ):
        transfer(directions(), scores(labels)[:, :3], labels, alike(labels))
    bad = scores(labels)
    bad[3, 1, 2] = np.nan
    with pytest.raises(DirectionError, match="expected finite numbers"):
        transfer(directions(), bad, labels, alike(labels))
    with pytest.raises(DirectionError, match="there are 59 groups for 60 texts"):
        transfer(directions(), bad, labels, alike(labels)[1:])
    with pytest.raises(DirectionError, match="there are 9 texts of anger; expected at least 10"):
        transfer(directions(), scores(labels)[1:], labels[1:], alike(labels[1:]))


def test_the_planted_cue_carries_over_to_other_texts_from_the_state_that_holds_it_on() -> None:
    """In ``chain`` the read-out holds nothing of the emotion before the head has moved the cue there."""
    truth = circuits.planted("chain", seed=0, scenarios=36)
    found = circuits.estimate_directions(truth.model, truth.prompts.split("fit"))
    others = truth.prompts.split("select", "test")
    values = circuits.capture(truth.model, others).values
    projected = np.einsum("psd,esd->pse", values, found.vectors)
    result = transfer(found, projected, others.emotions, alike(others.emotions), draws=100, permutations=100)
    np.testing.assert_array_equal(np.isnan(result.auroc), found.norms == 0)
    # The head that moves it is in layer 1: before, the read-out holds chance words alone.
    assert "L1H2" in truth.nodes
    assert np.nanmax(result.auroc[:, :2]) < 0.7
    np.testing.assert_allclose(result.auroc[:, 2:], 1, atol=1e-9)
    assert (result.chosen >= 2).all()
    assert (result.p < 0.05).all()
    # With its directions turned round it orders the texts the other way round.
    turned = transfer(
        replace(found, vectors=-found.vectors),
        -projected,
        others.emotions,
        alike(others.emotions),
        draws=100,
        permutations=100,
    )
    np.testing.assert_allclose(turned.auroc, 1 - result.auroc, atol=1e-9)
