"""Directions by loops over scenarios, on readings made by hand, and the onset of a signal that was put in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS
from sklearn.metrics import roc_auc_score

from circuits.directions.decoding import across, within
from circuits.directions.estimators import contrast, directions_from, estimate_directions, grand_mean, probe
from circuits.errors import DirectionError
from circuits.model.reading import Readings, capture
from circuits.model.sites import states
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

STATES = states(3)
D = 16


def prompts_of(scenarios: int) -> Prompts:
    return Prompts.of(tiny_rows(scenarios), name="made", answers=ANSWERS)


def readings_of(
    scenarios: int = 12, *, signal: float = 0.0, onset: int = 0, seed: int = 0, prompts: Prompts | None = None
) -> Readings:
    """Noise around each scenario's own offset, plus, from state ``onset`` on, one fixed vector per emotion."""
    rng = np.random.default_rng(seed)
    prompts = prompts or prompts_of(scenarios)
    offset = rng.normal(0, 2, (prompts.groups.max() + 1, len(STATES), D))
    values = rng.normal(0, 1, (len(prompts), len(STATES), D)) + offset[prompts.groups]
    vectors = np.random.default_rng(77).normal(0, signal, (6, D))
    values[:, onset:] += vectors[prompts.emotions][:, None]
    spans = rng.normal(0, 1, values.shape)
    neutral = rng.normal(0, 1, (20, len(STATES), D)) * np.geomspace(8, 1, D)
    return Readings(prompts, values, spans, neutral, 1)


# -- contrast -------------------------------------------------------------------------------------------------------


def contrast_by_loops(readings: Readings) -> np.ndarray:
    """Per complete group (scenario and valence): each emotion's mean text minus the mean over the six."""
    groups: dict[tuple[str, str], dict[int, list[int]]] = {}
    for row, prompt in enumerate(readings.prompts.rows):
        groups.setdefault((prompt.scenario, prompt.valence), {}).setdefault(prompt.emotion.column, []).append(row)
    deviations = []
    for members in groups.values():
        if len(members) < 6:
            continue
        means = [sum(readings.values[row] for row in members[e]) / len(members[e]) for e in range(6)]
        deviations.append([means[e] - sum(means) / 6 for e in range(6)])
    return sum(np.array(d) for d in deviations) / len(deviations)


def test_contrast_is_the_mean_deviation_inside_scenarios():
    readings = readings_of(signal=1.0)
    found = contrast(readings)
    assert found.shape == (6, 6, D)
    np.testing.assert_allclose(found, contrast_by_loops(readings), atol=1e-12)
    np.testing.assert_allclose(found.sum(0), 0, atol=1e-12)
    # Offsets of scenarios are several times the signal and cancel exactly.
    shifted = replace(readings, values=readings.values + 100 * readings.prompts.groups[:, None, None])
    np.testing.assert_allclose(contrast(shifted), found, atol=1e-10)


def test_six_centred_vectors_have_cosines_around_minus_a_fifth(model_of):
    cosines = directions_from(model_of("gpt2"), readings_of(signal=3.0), contrast).cosines()
    off = cosines[:, ~np.eye(6, dtype=bool)]
    assert off.mean() == pytest.approx(-0.2, abs=0.03)
    np.testing.assert_allclose(cosines[:, range(6), range(6)], 1)


def test_incomplete_scenarios_and_second_tellings_are_counted_right():
    rows = tiny_rows(5)
    rows = [r for r in rows if r["id"] not in ("s1-fear", "s3-anger")]
    rows.append({**rows[0], "id": "again", "text": "the dog angercue1 Tom felt"})
    readings = readings_of(signal=1.0, prompts=Prompts.of(rows, name="odd", answers=ANSWERS))
    np.testing.assert_allclose(contrast(readings), contrast_by_loops(readings), atol=1e-12)
    lone = readings.where(readings.prompts.scenarios == 1)
    with pytest.raises(DirectionError, match="no scenario with all six"):
        contrast(lone)


def test_a_scenario_at_two_valences_is_two_comparisons():
    """Keyed by scenario alone, texts of two valences would be averaged before they are compared."""
    rows = tiny_rows(4)
    for row in rows:
        number = int(str(row["scenario"])[1:])
        row["scenario"], row["valence"], row["split"] = f"s{number // 2}", ("low", "high")[number % 2], "fit"
    dropped = [r for r in rows if r["id"] != "s1-fear"]  # one of the two groups of s0 is incomplete
    readings = readings_of(signal=1.0, prompts=Prompts.of(dropped, name="valences", answers=ANSWERS))
    found = contrast(readings)
    np.testing.assert_allclose(found, contrast_by_loops(readings), atol=1e-12)
    merged = replace(
        readings, prompts=replace(readings.prompts, rows=tuple(replace(r, valence="") for r in readings.prompts.rows))
    )
    assert np.abs(contrast(merged) - found).max() > 0.05


# -- grand mean -----------------------------------------------------------------------------------------------------


def test_grand_mean_is_the_definition():
    """Means over texts, minus their mean, minus what neutral text varies along (half of its variance)."""
    readings = readings_of(signal=1.0)
    found = grand_mean(readings)
    for state in range(len(STATES)):
        means = [readings.spans[readings.prompts.emotions == e, state].mean(0) for e in range(6)]
        vectors = np.array([m - sum(means) / 6 for m in means])
        variances, axes = np.linalg.eigh(np.cov(readings.neutral[:, state].T))
        order = np.argsort(-variances)
        kept: list[np.ndarray] = []
        while sum(variances[i] for i in order[: len(kept)]) < 0.5 * variances.sum():
            kept.append(axes[:, order[len(kept)]])
        for axis in kept:
            vectors = vectors - np.outer(vectors @ axis, axis)
            np.testing.assert_allclose(found[:, state] @ axis, 0, atol=1e-9)
        assert 1 <= len(kept) < D / 2
        np.testing.assert_allclose(found[:, state], vectors, atol=1e-9)


def test_grand_mean_reads_spans_not_the_last_token():
    readings = readings_of(signal=1.0)
    np.testing.assert_array_equal(grand_mean(replace(readings, values=readings.values * 0)), grand_mean(readings))
    assert np.abs(grand_mean(replace(readings, spans=readings.values)) - grand_mean(readings)).max() > 0.1


@pytest.mark.parametrize("neutral", [None, np.zeros((1, 6, D))])
def test_grand_mean_needs_neutral_texts(neutral):
    with pytest.raises(DirectionError, match="needs neutral texts and 'made' has none"):
        grand_mean(replace(readings_of(), neutral=neutral))


def test_grand_mean_needs_every_emotion():
    readings = readings_of()
    with pytest.raises(DirectionError, match="no text of fear"):
        grand_mean(readings.where(readings.prompts.emotions != 2))


def test_spans_of_real_texts_are_means_over_their_tokens(model_of, tiny_prompts):
    """From the first token on that is asked for, padding excluded; the first one is left out by default."""
    model = model_of("gpt2")
    readings = capture(model, tiny_prompts)
    for row in (0, 5, 17):
        ids = model.encode([tiny_prompts.texts[row]]).ids
        _, cache = model.bridge.run_with_cache(ids)
        for number, state in enumerate(STATES):
            half = "mid" if state.name.endswith("mid") else "post"
            stream = cache[f"blocks.{state.layer}.hook_resid_{half}"][0].detach().double().numpy()
            np.testing.assert_allclose(readings.values[row, number], stream[-1], atol=1e-5)
            np.testing.assert_allclose(readings.spans[row, number], stream[1:].mean(0), atol=1e-5)


# -- probe ----------------------------------------------------------------------------------------------------------


def test_a_probe_separates_planted_gaussians_and_finds_the_axis_that_does():
    """Signal on one axis per emotion, next to a loud axis without any: the probe must point along the signal."""
    prompts = prompts_of(20)
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (len(prompts), len(STATES), D))
    values[..., 15] *= 30
    for row, e in enumerate(prompts.emotions):
        values[row, :, e] += 3
    readings = Readings(prompts, values, values, None, 1)
    vectors = probe(readings)
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    for e in range(6):
        # The six weights are centred: the axis itself stands out over the other five and over noise.
        assert (unit[e, :, e] > 0.7).all()
        assert np.abs(unit[e, :, 15]).max() < 0.05
    scores = np.einsum("psd,esd->pse", values, vectors)
    assert (scores.argmax(-1) == prompts.emotions[:, None]).mean() > 0.85


def test_a_probe_on_a_state_that_never_changes_is_zero_there():
    readings = readings_of(6, signal=2.0)
    values = readings.values.copy()
    values[:, 2] = 1.5
    vectors = probe(replace(readings, values=values))
    assert (vectors[:, 2] == 0).all()
    assert (np.linalg.norm(vectors[:, 3], axis=-1) > 0).all()


def test_a_probe_needs_two_scenarios():
    readings = readings_of()
    with pytest.raises(DirectionError, match="has one scenario"):
        probe(readings.where(readings.prompts.scenarios == 0))


# -- directions as values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [contrast, grand_mean, probe])
def test_directions_are_unit_vectors_with_their_length_and_origin(estimator, model_of):
    model, readings = model_of("gpt2"), readings_of(8, signal=1.0)
    found = directions_from(model, readings, estimator)
    raw = estimator(readings)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=-1), 1)
    np.testing.assert_allclose(found.vectors * found.norms[..., None], raw, atol=1e-12)
    assert (found.estimator, found.states, found.n) == (estimator.__name__, STATES, 8)
    assert (found.model, found.prompts) == (model.fingerprint, readings.prompts.fingerprint)


def test_no_difference_is_no_direction(model_of):
    """Nowhere: an error. At some states only: those are marked, and asking for one is an error."""
    model, readings = model_of("gpt2"), readings_of(8, signal=1.0)
    flat = readings.values.copy()
    for row, prompt in enumerate(readings.prompts.rows):
        first = next(i for i, p in enumerate(readings.prompts.rows) if p.scenario == prompt.scenario)
        flat[row] = readings.values[first]
    with pytest.raises(DirectionError, match="anger has a zero direction at every state"):
        directions_from(model, replace(readings, values=flat), contrast)
    flat[:, 2:] = readings.values[:, 2:]
    found = directions_from(model, replace(readings, values=flat), contrast)
    assert not found.defined(STATES[1], EMOTIONS[0])
    assert found.defined(STATES[2], EMOTIONS[0])
    assert (found.norms[:, :2] == 0).all()
    assert np.isnan(found.cosines()[:2]).all()
    with pytest.raises(DirectionError, match=r"anger has no direction at L0\.post"):
        found.at(STATES[1], EMOTIONS[0])
    with pytest.raises(DirectionError, match=r"no directions at L7\.mid"):
        found.at(states(8)[14], EMOTIONS[0])


def test_equal_texts_have_no_direction_in_a_real_model(model_of):
    rows = [{**row, "text": "the dog saw Tom felt"} for row in tiny_rows(2)]
    with pytest.raises(DirectionError, match="do not differ"):
        estimate_directions(model_of("gpt2"), Prompts.of(rows, name="same", answers=ANSWERS))


def test_split_half_tells_signal_from_noise(model_of):
    model = model_of("gpt2")
    strong = directions_from(model, readings_of(24, signal=3.0), contrast).split_half
    assert strong.shape == (6, 6)
    assert strong.min() > 0.97
    noise = np.stack([directions_from(model, readings_of(24, seed=s), contrast).split_half for s in range(5)])
    # Cosines of independent vectors in 16 dimensions: mean 0, spread 1/4, of 180 hardly independent values.
    assert abs(noise.mean()) < 0.1
    assert noise.std() < 0.35
    assert np.isnan(directions_from(model, readings_of(3, signal=3.0), contrast).split_half).all()


# -- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("onset", [0, 2, 5])
def test_the_onset_of_a_planted_signal_is_found(onset):
    found = within(readings_of(20, signal=3.0, onset=onset), STATES, permutations=40)
    for e in EMOTIONS:
        assert found.onset(e) == STATES[onset]
        assert found.auroc[e.column, onset:].min() > 0.95
    assert found.n == 20
    assert ((found.low <= found.auroc + 0.03) & (found.auroc <= found.high + 0.03)).all()


def test_a_signal_that_ends_again_has_no_onset():
    """Decodable in the middle only: the last state does not pass, so there is none."""
    readings = readings_of(20, signal=3.0, onset=2)
    values = readings.values.copy()
    values[:, 5] = 0
    found = within(replace(readings, values=values), STATES, permutations=40)
    assert all(found.onset(e) is None for e in EMOTIONS)
    assert (found.auroc[:, 3] > found.threshold).all()


def test_noise_has_an_onset_in_one_case_of_twenty_at_most():
    """Eight seeds and six emotions: of 48, binomially at most 8 (p < 1e-3)."""
    found = [within(readings_of(10, seed=s), STATES, permutations=60, seed=s) for s in range(8)]
    false = sum(d.onset(e) is not None for d in found for e in EMOTIONS)
    assert false <= 8
    # Any state above the threshold, the family-wise promise, is rare as well.
    anywhere = sum((d.auroc[e.column] > d.threshold[e.column]).any() for d in found for e in EMOTIONS)
    assert anywhere <= 9


def test_auroc_of_another_set_is_sklearns():
    source, target = readings_of(12, signal=0.4), readings_of(9, signal=0.4, seed=5)
    found = across(source, target, STATES, permutations=20)
    vectors = contrast(source)
    for e in EMOTIONS:
        for state in range(len(STATES)):
            scores = target.values[:, state] @ vectors[e.column, state]
            wanted = roc_auc_score(target.prompts.emotions == e.column, scores)
            assert found.auroc[e.column, state] == pytest.approx(wanted, abs=1e-12)
    assert 0.5 < found.auroc.mean() < 0.9


def test_auroc_of_ties_counts_half():
    readings = readings_of(6)
    same = replace(readings, values=np.zeros_like(readings.values))
    found = across(readings, same, STATES, permutations=20)
    np.testing.assert_allclose(found.auroc, 0.5)


def test_cross_validated_auroc_is_held_out():
    """By hand: vectors from the other folds, scores less their fold's mean, all folds ranked together."""
    readings, folds = readings_of(10, signal=0.5), 5
    found = within(readings, STATES, folds=folds, permutations=20)
    scenarios = readings.prompts.scenarios
    fold = np.random.default_rng(0).permutation(10)[scenarios] % folds
    scores = np.empty((len(scenarios), len(STATES), 6))
    for k in range(folds):
        vectors = contrast_by_loops(readings.where(fold != k))
        for e in range(6):
            for state in range(len(STATES)):
                mine = readings.values[fold == k, state] @ vectors[e, state]
                scores[fold == k, state, e] = mine - mine.mean()
    for e in range(6):
        for state in range(len(STATES)):
            wanted = roc_auc_score(readings.prompts.emotions == e, scores[:, state, e])
            assert found.auroc[e, state] == pytest.approx(wanted, abs=1e-9)


def test_too_few_scenarios_for_the_folds_is_an_error():
    with pytest.raises(DirectionError, match="has 4 scenarios; 5-fold decoding needs 5"):
        within(readings_of(4), STATES, permutations=2)
