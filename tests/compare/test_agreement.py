"""How many components make a direction, and where estimators differ: against every subset, and against loops."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS

from circuits.compare.agreement import COSINE_COLUMNS, SHARE_COLUMNS, SPACE_COLUMNS, Agreement, agreement, basis
from circuits.compare.concentration import COLUMNS, concentration, fewest, held_out
from circuits.compare.decomposition import Decomposition
from circuits.compare.writers import writers
from circuits.directions.estimators import contrast, directions_from, grand_mean, probe
from circuits.directions.vectors import Directions
from circuits.errors import DirectionError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.planted import planted
from circuits.model.reading import capture
from circuits.model.sites import State, head, neuron, parse
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

OWN = (head(0, 1), head(1, 3), *(neuron(0, i) for i in range(4, 9)))


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(6), name="six", answers=ANSWERS)


@pytest.fixture(scope="module")
def estimated(model_of: Callable[[str], Model], prompts: Prompts) -> tuple[Directions, ...]:
    model = model_of("llama")
    readings = capture(model, prompts)
    return tuple(directions_from(model, readings, one) for one in (contrast, grand_mean, probe))


@pytest.fixture(scope="module")
def writes(model_of: Callable[[str], Model], prompts: Prompts) -> Decomposition:
    return Decomposition.of(model_of("llama"), prompts)


@pytest.fixture(scope="module")
def found(writes: Decomposition, estimated: tuple[Directions, ...]) -> Agreement:
    return agreement(writes, estimated, {Emotion.FEAR: OWN})


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_no_smaller_set_reaches_the_share(seed):
    values = np.random.default_rng(seed).normal(0.3, 1, 9)
    whole = abs(values.sum()) + 0.1
    for target in (0.5, 0.8, 0.95):
        sizes = [k for k in range(1, 10) if any(sum(c) >= target * whole for c in combinations(values, k))]
        assert fewest(values, whole, target) == pytest.approx(min(sizes) if sizes else np.nan, nan_ok=True)
    assert np.isnan(fewest(np.array([1.0, -2.0]), 4.0, 0.5))


def test_counts_held_out_are_a_loop_over_two_halves():
    rng = np.random.default_rng(0)
    values = rng.normal(0.2, 1, (8, 150)) + np.geomspace(4, 0.01, 150)
    whole = values.sum(1)
    first = np.random.default_rng(3).permutation(8) < 4
    for target, one in zip((0.5, 0.9), held_out(values, whole, (0.5, 0.9), seed=3), strict=True):
        for k in range(1, 151):
            total = 0.0
            for half in (first, ~first):
                order = sorted(range(150), key=lambda i, half=half: -values[~half][:, i].mean())[:k]
                total += values[half][:, order].sum()
            if total >= target * whole.sum():
                break
        assert one.value == k
        assert one.low <= k <= one.high
        assert one.high > one.low


def test_picking_and_counting_on_the_same_texts_flatters():
    """Two hundred components that write nothing but noise, and ten that write: the in-sample count looks right by chance."""
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (12, 210))
    values[:, :10] += 1
    whole = np.full(12, 10.0)
    (one,) = held_out(values, whole, (0.95,))
    least = fewest(values.mean(0), 10.0, 0.95)
    assert least <= 10 < one.low < one.value


def test_what_is_never_reached_has_no_count():
    values = np.ones((6, 3))
    (one,) = held_out(values, np.full(6, 10.0), (0.5,))
    assert np.isnan([one.value, one.low, one.high]).all()
    (few,) = held_out(values[:3], np.full(3, 3.0), (0.5,))
    assert few.value == 2
    assert np.isnan(few.low)


def test_one_head_makes_the_planted_direction():
    """In a chain the head's layer ends with its own write: one component makes all of it but for the background."""
    truth = planted("chain", seed=1, scenarios=12)
    directions = directions_from(truth.model, capture(truth.model, truth.prompts))
    (name,) = [c for c in truth.nodes if "H" in c]
    state = State(parse(name).layer, parse(name).half)
    table = concentration(Decomposition.of(truth.model, truth.prompts), directions, states=[state])
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 6 * 3
    most = table[table.target < 0.9]
    assert (most[["count", "low", "high", "in_sample"]] == 1).all(axis=None)
    assert (most.reason == "").all()
    assert set(table.n) == {12}


def test_counts_are_refused_or_explained_where_there_are_none(writes, estimated):
    with pytest.raises(SettingsError, match=r"target is 1\.5; expected a share"):
        concentration(writes, estimated[0], targets=(0.5, 1.5))
    norms = estimated[0].norms.copy()
    norms[2, 5] = 0
    state = estimated[0].states[5:]
    table = concentration(writes, replace(estimated[0], norms=norms), states=state)
    fear = table[table.emotion == "fear"]
    assert fear[["count", "low", "high", "in_sample"]].isna().all(axis=None)
    assert set(fear.reason) == {"no direction: the state does not differ by emotion here"}
    turned = replace(estimated[0], vectors=-estimated[0].vectors)
    negative = concentration(writes, turned, states=state)
    assert set(negative.reason) == {"the projection is not positive: it has no shares"}
    assert negative["count"].isna().all()


# -- estimators --------------------------------------------------------------------------------------------------------


def test_cosines_and_shares_are_those_of_the_vectors_and_of_their_own_tables(found, model_of, prompts, estimated):
    assert list(found.cosines.columns) == list(COSINE_COLUMNS)
    assert list(found.shares.columns) == list(SHARE_COLUMNS)
    by_name = {d.estimator: d for d in estimated}
    assert len(found.cosines) == 3 * 6 * 6
    for row in found.cosines.itertuples():
        e, place = Emotion(row.emotion), [s.name for s in estimated[0].states].index(row.state)
        a, b = (by_name[name].vectors[e.column, place] for name in (row.first, row.second))
        assert row.cosine == pytest.approx(sum(x * y for x, y in zip(a, b, strict=True)), abs=1e-9)
    tables = {d.estimator: writers(model_of("llama"), prompts, d, {Emotion.FEAR: OWN}).table for d in estimated}
    fear = found.shares[found.shares.emotion == "fear"]
    assert len(fear) == 3 * 6
    for row in fear.itertuples():
        for name, value in ((row.first, row.first_share), (row.second, row.second_share)):
            table = tables[name]
            mine = table[(table.emotion == "fear") & (table.state == row.state) & (table["item"] == "circuit")]
            assert value == pytest.approx(mine.share.item(), abs=1e-9)
        assert row.difference == pytest.approx(row.first_share - row.second_share)
        if row.reason == "":
            assert row.low <= row.high
            assert row.differ == (row.low > 0 or row.high < 0)
    others = found.shares[found.shares.emotion != "fear"]
    assert set(others.reason) == {"no circuit"}
    assert others[["first_share", "difference", "low"]].isna().all(axis=None)
    assert set(found.writers.estimator) == {"contrast", "grand_mean", "probe"}
    assert set(found.counts.estimator) == {"contrast", "grand_mean", "probe"}


def test_six_centred_directions_have_rank_five_and_it_is_said(found, estimated):
    assert list(found.spaces.columns) == list(SPACE_COLUMNS)
    assert set(found.spaces.first_rank) == set(found.spaces.second_rank) == {5}
    assert ((found.spaces.overlap > 0) & (found.spaces.overlap <= 1 + 1e-9)).all()
    np.testing.assert_allclose(found.spaces.chance, 5 / 16)
    vectors = estimated[0].vectors[:, 3]
    spanned = basis(vectors)
    np.testing.assert_allclose(spanned @ spanned.T, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(vectors @ spanned.T @ spanned, vectors, atol=1e-5)


def test_overlap_of_random_spaces_is_its_chance_level(estimated):
    rng = np.random.default_rng(0)
    overlaps = []
    for _ in range(200):
        a, b = (basis(v - v.mean(0)) for v in rng.normal(0, 1, (2, 6, 16)))
        overlaps.append(((a @ b.T) ** 2).sum() / 5)
    assert np.mean(overlaps) == pytest.approx(5 / 16, abs=0.02)


def test_an_estimator_agrees_with_itself(writes, estimated):
    twin = replace(estimated[0], estimator="twin")
    same = agreement(writes, (estimated[0], twin), {Emotion.FEAR: OWN})
    np.testing.assert_allclose(same.cosines.cosine, 1)
    fear = same.shares[same.shares.emotion == "fear"]
    np.testing.assert_allclose(fear.difference, 0, atol=1e-12)
    assert not fear.differ.any()
    np.testing.assert_allclose(same.spaces.overlap, 1)


def test_a_direction_that_one_estimator_lacks_is_said(writes, estimated):
    norms = estimated[1].norms.copy()
    norms[2, 0] = 0
    holed = agreement(writes, (estimated[0], replace(estimated[1], norms=norms)), {Emotion.FEAR: OWN})
    for table in (holed.cosines, holed.shares):
        row = table[(table.emotion == "fear") & (table.state == "L0.mid")]
        assert row.reason.item() == "no direction: the state does not differ by emotion here (grand_mean)"
    assert np.isnan(holed.cosines[(holed.cosines.emotion == "fear") & (holed.cosines.state == "L0.mid")].cosine.item())


def test_what_cannot_be_compared_is_refused(writes, estimated, model_of):
    first, second, _ = estimated
    with pytest.raises(DirectionError, match="estimators are contrast; expected two or more"):
        agreement(writes, (first,), {})
    with pytest.raises(DirectionError, match="estimators are contrast, contrast; expected two"):
        agreement(writes, (first, first), {})
    with pytest.raises(DirectionError, match="grand_mean and contrast directions are of other texts"):
        agreement(writes, (first, replace(second, prompts="other")), {})
    with pytest.raises(DirectionError, match="estimated on another model"):
        agreement(writes, (first, replace(second, model="other")), {})


def test_agreement_is_json(found):
    back = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert {name: len(rows) for name, rows in back.items()} == {
        "writers": len(found.writers), "counts": 3 * 6 * 3, "cosines": 108, "shares": 108, "spaces": 18,
    }  # fmt: skip
    assert len(EMOTIONS) * 3 == len(found.cosines) / 6
