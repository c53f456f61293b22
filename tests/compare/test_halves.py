"""Half-layers on models whose circuits are known, and every number once more by loops."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_rows
from families import ANSWERS

from circuits.compare.halves import QUANTITIES, HalfLayers, half_layers
from circuits.compare.table import HALF_COLUMNS
from circuits.compare.writers import writers
from circuits.directions.decoding import within
from circuits.directions.estimators import estimate_directions
from circuits.effects.measure import measure
from circuits.errors import ComponentError, DirectionError, MeasurementError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.planted import Planted, planted
from circuits.model.reading import capture
from circuits.model.sites import parse
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.show.halves import half_layers as figure
from circuits.show.halves import misattribution


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(6), name="six", answers=ANSWERS)


@pytest.fixture(scope="module")
def found_in(model_of: Callable[[str], Model], prompts: Prompts) -> Callable[[str], HalfLayers]:
    made: dict[str, HalfLayers] = {}

    def get(family: str) -> HalfLayers:
        if family not in made:
            made[family] = half_layers(model_of(family), prompts, permutations=20)
        return made[family]

    return get


@pytest.fixture(scope="module")
def chain() -> Planted:
    return planted("chain", seed=1, scenarios=24)


@pytest.fixture(scope="module")
def of_chain(chain: Planted) -> HalfLayers:
    return half_layers(chain.model, chain.prompts, permutations=40)


def one(found: HalfLayers, quantity: str, e: str, half_layer: str) -> pd.Series:
    table = found.table
    rows = table[(table.quantity == quantity) & (table.emotion == e) & (table.half_layer == half_layer)]
    assert len(rows) == 1
    return rows.iloc[0]


def streams(model: Model, prompts: Prompts) -> np.ndarray:
    """Embedding, then both positions of every layer at the read-out token, from hooks: [prompt, state, d_model]."""
    rows = []
    for text in prompts.texts:
        _, cache = model.bridge.run_with_cache(model.encode([text]).ids)
        states = [cache["blocks.0.hook_resid_pre"]]
        for layer in range(model.n_layers):
            states.append(states[-1] + cache[f"blocks.{layer}.hook_attn_out"])
            states.append(cache[f"blocks.{layer}.hook_resid_post"])
        rows.append(torch.stack([s[0, -1] for s in states]).detach().double().numpy())
    return np.array(rows)


def deviations(values: np.ndarray, prompts: Prompts) -> np.ndarray:
    """Every scenario's six texts less their mean: [scenario, emotion, state, d_model]."""
    result = []
    for s in range(prompts.n_scenarios):
        six = [values[next(i for i, r in enumerate(prompts.rows) if prompts.scenarios[i] == s and r.emotion is e)]
               for e in EMOTIONS]  # fmt: skip
        result.append([v - sum(six) / 6 for v in six])
    return np.array(result)


# -- what was planted --------------------------------------------------------------------------------------------------


def test_attention_moves_the_cue_and_reading_once_per_layer_would_call_it_the_layer(chain, of_chain):
    """In the head's layer attention does all of it; in each neuron's layer the MLP does. Elsewhere nothing happens."""
    layers = of_chain.layers[of_chain.layers.measure == "projection"].set_index(["emotion", "layer"])
    heads = 0
    for e in EMOTIONS:
        (head,) = [parse(c) for c in chain.by_emotion[e].nodes if "H" in c]
        (neuron,) = [parse(c) for c in chain.by_emotion[e].nodes if "N" in c]
        row = layers.loc[(str(e), head.layer)]
        assert (row.most, row.whole_beyond, row.decided) == ("attn", True, True)
        assert row.attn == pytest.approx(row.whole, rel=0.05)
        assert abs(row.mlp) < 0.05 * row.whole
        behind = layers.loc[(str(e), neuron.layer)]
        assert (behind.most, behind.decided) == ("mlp", True)
        assert behind.mlp == pytest.approx(behind.whole, rel=0.05)
        heads += 1
    assert heads == 6
    moved = of_chain.rate("projection", "moved")
    most = of_chain.rate("projection", "attention most")
    assert (moved["value"], moved["cells"], most["cells"]) == (1, 18, 18)
    # One layer of three: a convention that names the MLP is wrong about it for every emotion.
    assert (most["value"], most["low"], most["high"]) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert of_chain.rate("projection", "opposed")["value"] == 0


def test_what_attention_brings_is_decodable_after_it_and_not_before(chain, of_chain):
    (head,) = [parse(c) for c in chain.nodes if "H" in c]
    for e in EMOTIONS:
        place = f"L{head.layer}.attn"
        gain = one(of_chain, "gain", e, place)
        assert (gain.value, gain.low, gain.high) == pytest.approx((0.5, 0.5, 0.5))
        assert one(of_chain, "decodability", e, place).value == 1
        assert one(of_chain, "null maximum", e, place).value < 0.8
        for layer in range(head.layer, chain.model.n_layers):
            assert one(of_chain, "gain", e, f"L{layer}.mlp").value == 0
    most = of_chain.rate("decodability", "attention most")
    assert (most["value"], most["low"], most["cells"]) == (1, 1, 6)


def test_the_direction_turns_where_the_answer_is_written_and_nowhere_else(chain, of_chain):
    """The neuron adds the answer's axis, orthogonal to the cue's: at most one right angle, and no turn before it."""
    (head,) = [parse(c) for c in chain.nodes if "H" in c]
    last = {"L2.mlp": 0, "other": 0}
    for e in EMOTIONS:
        (neuron,) = [parse(c) for c in chain.by_emotion[e].nodes if "N" in c]
        turn = one(of_chain, "rotation", e, f"L{neuron.layer}.mlp")
        assert 20 < turn.low < turn.value < turn.high < 90
        last["L2.mlp"] += 1
        for layer in range(head.layer + 1, 3):
            still = one(of_chain, "rotation", e, f"L{layer}.attn")
            assert still.value == pytest.approx(0, abs=1e-3)
            assert still.low == pytest.approx(0, abs=1e-3)
            last["other"] += 1
    assert last == {"L2.mlp": 6, "other": 12}


def test_causal_shares_are_those_of_the_planted_circuit(chain, of_chain):
    """Head and neuron share the effect as 5.7 to 4.75, less the shadow of other emotions' neurons."""
    effects = measure(chain.model, chain.prompts, "sublayers")
    for e in EMOTIONS:
        means = effects.by_scenario(e).mean(0)
        for c, value in zip(effects.components, means, strict=True):
            assert one(of_chain, "effect", e, c.name).value == pytest.approx(value, abs=1e-6)
            share = one(of_chain, "share", e, c.name)
            assert share.value == pytest.approx(value / np.abs(means).sum(), abs=1e-6)
            assert share.low - 1e-9 <= share.value <= share.high + 1e-9
        nodes = [parse(c) for c in chain.by_emotion[e].nodes]
        places = [f"L{c.layer}.{'attn' if 'H' in c.name else 'mlp'}" for c in nodes]
        assert sum(one(of_chain, "share", e, place).value for place in places) > 0.85
        assert one(of_chain, "share", e, f"L{max(c.layer for c in nodes if 'H' in c.name)}.attn").low > 0.4


@pytest.mark.parametrize("seed", [0, 4])
def test_where_nothing_is_planted_nothing_is_found(seed):
    nothing = planted("null", seed=seed, scenarios=18)
    found = half_layers(nothing.model, nothing.prompts, permutations=20)
    assert found.rate("projection", "moved")["value"] == 0
    most = found.rate("projection", "attention most")
    assert np.isnan([most[name] for name in ("value", "low", "high")]).all()
    assert (most["cells"], most["reason"]) == (0, "no layer changes it beyond noise")
    turns = found.table[found.table.quantity == "rotation"]
    assert turns.low.isna().all()
    assert (turns.reason != "").all()


# -- by loops ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma2"])
def test_what_is_written_is_a_loop_over_scenarios(family, model_of, found_in, prompts):
    """Each scenario's step on the sum of all others' states, over the length of the direction; halves add up to the layer."""
    model, found = model_of(family), found_in(family)
    apart = deviations(streams(model, prompts), prompts)
    n = len(apart)
    seen = 0
    layers = found.layers[found.layers.measure == "projection"].set_index(["emotion", "layer"])
    for e in EMOTIONS:
        for layer in range(model.n_layers):
            end = apart[:, e.column, 2 * layer + 2]
            total = []
            for half, name in enumerate(("attn", "mlp")):
                step = apart[:, e.column, 2 * layer + half + 1] - apart[:, e.column, 2 * layer + half]
                products = [step[s] @ end[t] for s in range(n) for t in range(n) if s != t]
                wanted = np.mean(products) / np.linalg.norm(end.mean(0))
                row = one(found, "written", e, f"L{layer}.{name}")
                assert row.value == pytest.approx(wanted, abs=1e-4)
                assert (row.unit, row.n) == ("residual", 6)
                total.append(row.value)
                seen += 1
            assert layers.loc[(str(e), layer)].whole == pytest.approx(sum(total), abs=1e-9)
    assert seen == 36


def test_decodability_is_that_of_the_onset_figure(model_of, found_in, prompts):
    """The embedding as one state more changes nothing of the others; gains are differences of neighbours."""
    model, found = model_of("gpt2"), found_in("gpt2")
    wanted = within(capture(model, prompts), model.states, permutations=2)
    for e in EMOTIONS:
        for place, c in enumerate(model.sublayers):
            row = one(found, "decodability", e, c.name)
            assert row.value == pytest.approx(wanted.auroc[e.column, place], abs=1e-12)
            assert row.low <= row.value + 0.02
            assert row.high >= row.value - 0.02
            if place:
                gain = one(found, "gain", e, c.name)
                assert gain.value == pytest.approx(wanted.auroc[e.column, place] - wanted.auroc[e.column, place - 1])


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_number_has_its_unit_and_every_gap_its_reason(found_in, prompts):
    found = found_in("gpt2")
    table = found.table
    assert list(table.columns) == list(HALF_COLUMNS)
    assert len(table) == 6 * 6 * len(QUANTITIES)
    assert (table.unit == table.quantity.map(QUANTITIES)).all()
    assert (table.n == 6).all()
    gaps = table[["value", "low", "high"]].isna().any(axis=1)
    assert (gaps == (table.reason != "")).all()
    assert list(table.half_layer[: len(QUANTITIES)].unique()) == ["L0.attn"]
    assert set(table.position) == {"resid_mid", "resid_post"}
    assert found.sequential
    assert found.notices == ()


def test_no_direction_enters_where_texts_end_alike(of_chain):
    """The embedding of the read-out token is the same in all six texts: no rotation, and decodability at chance exactly."""
    row = one(of_chain, "rotation", "fear", "L0.attn")
    assert np.isnan(row.value)
    assert row.reason == "no direction: the six texts of a scenario do not differ by emotion before it"


def test_a_parallel_block_has_a_virtual_middle_and_says_so(found_in, model_of):
    found = found_in("neox")
    assert not found.sequential
    middle = found.table[found.table.half == "attn"]
    assert set(middle.position) == {"resid_pre + attn_out (virtual)"}
    assert set(found.table[found.table.half == "mlp"].position) == {"resid_post"}
    assert "parallel blocks: resid_mid does not exist" in found.notices[0]


def test_as_dict_is_json(of_chain):
    text = json.dumps(of_chain.as_dict(), allow_nan=False)
    back = json.loads(text)
    assert len(back["table"]) == len(of_chain.table)
    assert back["sequential"] is True
    row = next(r for r in back["table"] if r["quantity"] == "rotation" and r["half_layer"] == "L0.attn")
    assert row["value"] is None


def test_effects_measured_before_are_used(chain, of_chain, monkeypatch):
    effects = measure(chain.model, chain.prompts, "sublayers")
    monkeypatch.setattr("circuits.compare.halves.measure", lambda *_: pytest.fail("measured again"))
    again = half_layers(chain.model, chain.prompts, effects=effects, permutations=40)
    pd.testing.assert_frame_equal(again.table, of_chain.table)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_answered_is_refused(model_of, prompts):
    model = model_of("gpt2")
    with pytest.raises(SettingsError, match="permutations is 3; expected 20"):
        half_layers(model, prompts, permutations=3)
    with pytest.raises(DirectionError, match="has 4 scenarios; expected 5"):
        half_layers(model, prompts.where(prompts.scenarios < 4))
    rough = measure(model, prompts, "sublayers", method="gradient")
    with pytest.raises(MeasurementError, match=r"L0\.attn is an estimate; expected exact"):
        half_layers(model, prompts, effects=rough)
    some = measure(model, prompts, ["L0.attn"])
    with pytest.raises(ComponentError, match=r"L0\.mlp was not measured"):
        half_layers(model, prompts, effects=some)
    fewer = measure(model, prompts.where(prompts.scenarios < 5), "sublayers")
    with pytest.raises(MeasurementError, match="was not measured"):
        half_layers(model, prompts, effects=fewer)


def test_scenarios_that_lack_an_emotion_are_counted(model_of):
    rows = [row for row in tiny_rows(7) if row["id"] != "s3-fear"]
    odd = Prompts.of(rows, name="odd", answers=ANSWERS)
    model = model_of("gpt2")
    effects = measure(model, odd, "sublayers", ablation="mean")
    found = half_layers(model, odd, effects=effects, permutations=20)
    assert "1 of 7 scenarios lack an emotion" in found.notices[0]
    assert set(found.table[found.table.quantity == "written"].n) == {6}
    assert set(found.table[found.table.quantity == "gain"].n) == {7}


def test_an_unknown_rate_is_refused(of_chain):
    with pytest.raises(MeasurementError, match="no rate"):
        of_chain.rate("projection", "wrong")


def test_no_effect_at_all_has_no_share(chain):
    effects = measure(chain.model, chain.prompts, "sublayers")
    silent = replace(effects, values=effects.values * 0)
    found = half_layers(chain.model, chain.prompts, effects=silent, permutations=20)
    shares = found.table[found.table.quantity == "share"]
    assert shares.value.isna().all()
    assert (shares.reason == "no half-layer has an effect beyond rounding").all()


# -- figures -----------------------------------------------------------------------------------------------------------


def test_the_figure_shows_the_tables_numbers(chain, of_chain):
    """Both halves of every layer in order, the four rows, and the circuit's share at the state behind each half-layer."""
    directions = estimate_directions(chain.model, chain.prompts)
    circuits = {e: [parse(c) for c in chain.by_emotion[e].nodes] for e in EMOTIONS}
    table = writers(chain.model, chain.prompts, directions, circuits).table
    drawn = figure(of_chain.table, Emotion.FEAR, table)
    traces = {(t.name, t.yaxis or "y"): t for t in drawn.data}
    order = ["L0.attn", "L0.mlp", "L1.attn", "L1.mlp", "L2.attn", "L2.mlp"]
    assert list(drawn.layout.xaxis.categoryarray) == order
    for quantity, axis in (("rotation", "y"), ("share", "y4")):
        for half, name in (("attn", "attention"), ("mlp", "MLP")):
            bars = [t for t in drawn.data if (t.name, t.yaxis or "y", t.type) == (name, axis, "bar")]
            shown = {x: y for bar in bars for x, y in zip(bar.x, bar.y, strict=True)}
            assert sorted(shown) == [place for place in order if place.endswith(half)]
            wanted = [one(of_chain, quantity, "fear", place).value for place in sorted(shown)]
            np.testing.assert_array_equal([shown[place] for place in sorted(shown)], wanted)
    auroc = traces["AUROC", "y2"]
    assert list(auroc.y) == [one(of_chain, "decodability", "fear", place).value for place in order]
    own = table[(table.emotion == "fear") & (table["item"] == "circuit")].set_index("state").share
    circuit = traces["the circuit", "y3"]
    assert dict(zip(circuit.x, circuit.y, strict=True)) == pytest.approx(
        {place: own[place.replace("attn", "mid").replace("mlp", "post")] for place in order}, nan_ok=True
    )
    # The planted circuit writes the direction at the end; neurons of other emotions, silent here, write the rest.
    assert 0.8 < circuit.y[-1] < 1
    assert drawn.layout.title.text == "fear: what each half-layer does (n = 24 scenarios)"


def test_the_figure_says_that_a_middle_is_virtual_and_needs_no_circuit(found_in):
    drawn = figure(found_in("neox").table, Emotion.ANGER)
    assert "mid of parallel blocks is virtual" in drawn.layout.title.text
    assert {t.name for t in drawn.data if t.yaxis == "y3"} == {"attention", "MLP"}


def test_rates_are_drawn_with_their_number_of_layers(of_chain):
    drawn = misattribution(of_chain.rates)
    (projection, decodability) = drawn.data
    cells = of_chain.rates[of_chain.rates["rate"] == "attention most"].set_index(["measure", "emotion"])["cells"]
    seen, other = cells["projection", "all"], cells["decodability", "all"]
    assert seen == 18
    assert projection.x[0] == decodability.x[0] == ("all<br>of 18" if seen == other else f"all<br>of 18 and {other}")
    assert [str(x).split("<br>of ")[0] for x in projection.x] == ["all", *map(str, EMOTIONS)]
    rates = of_chain.rates.copy()
    mine = (rates["rate"] == "attention most") & (rates["emotion"] == "fear")
    rates.loc[mine & (rates["measure"] == "projection"), "cells"] = 5
    rates.loc[mine & (rates["measure"] == "decodability"), "cells"] = 2
    places = list(misattribution(rates).data[0].x)
    assert places[1 + list(EMOTIONS).index(Emotion.FEAR)] == "fear<br>of 5 and 2"
    assert places[0] == projection.x[0]
    assert list(projection.y) == pytest.approx([1 / 3] * 7)
    assert list(decodability.y) == [1] * 7


def test_a_value_without_an_interval_is_drawn_hollow() -> None:
    rows = [
        {"emotion": "fear", "half": half, "half_layer": f"L{layer}.{half}", "quantity": quantity, "value": value, "low": low,
         "high": high, "position": "mid", "n": 9}
        for quantity in ("rotation", "noise floor", "decodability", "null maximum", "written", "share")
        for layer, half, value, low, high in (
            (0, "attn", 10.0, np.nan, np.nan), (0, "mlp", 20.0, 15.0, 25.0),
            (1, "attn", 30.0, 25.0, 35.0), (1, "mlp", 5.0, 1.0, 9.0),
        )
    ]  # fmt: skip
    drawn = figure(pd.DataFrame(rows), Emotion.FEAR)
    bars = [t for t in drawn.data if t.type == "bar" and t.yaxis == "y"]
    hollow = {x for t in bars if t.marker.color == "#FFFFFF" for x in t.x}
    firm = {x for t in bars if t.marker.color != "#FFFFFF" for x in t.x}
    assert (hollow, firm) == ({"L0.attn"}, {"L0.mlp", "L1.attn", "L1.mlp"})
    assert list(drawn.layout.xaxis.categoryarray) == ["L0.attn", "L0.mlp", "L1.attn", "L1.mlp"]
