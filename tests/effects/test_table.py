"""What was measured, as a table: its columns, its order, and the errors of asking for what was not measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.statistics import split_half
from circuits.effects.table import Effects, joined
from circuits.errors import ComponentError, MeasurementError
from circuits.model.sites import Component, Half, head, neuron, sublayer
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

COLUMNS = "component layer kind index emotion effect low high p q n method ablation positions unit".split()
COMPONENTS = (head(1, 2), sublayer(0, Half.ATTN), neuron(0, 17), sublayer(2, Half.MLP), neuron(2, 3))


def prompts_of(scenarios: int = 6, *, two_tellings: bool = True) -> Prompts:
    rows = tiny_rows(scenarios)
    if two_tellings:
        # One scenario has a second text of anger: it must not count twice among scenarios.
        rows.append({**rows[0], "id": "again", "text": "the dog saw angercue1 Tom felt"})
    return Prompts.of(rows, name="set", answers=ANSWERS)


def effects_of(prompts: Prompts, components: tuple[Component, ...] = COMPONENTS, seed: int = 0) -> Effects:
    rng = np.random.default_rng(seed)
    shape = (len(components), len(prompts), 6)
    return Effects(
        components=components,
        prompts=prompts,
        values=rng.normal(0.3, 1, shape).astype(np.float32),
        clean=rng.normal(0, 1, shape[1:]).astype(np.float32),
        methods=tuple(Method.EXACT if i % 2 else Method.GRADIENT for i in range(len(components))),
        ablation=Ablation.RESAMPLE,
        positions=Positions.READOUT,
        answers={e: (i,) for i, e in enumerate(EMOTIONS)},
        notices=(f"notice {seed}", "same"),
    )


def test_the_table_has_its_columns_in_order_and_a_row_per_component_and_emotion():
    effects = effects_of(prompts_of())
    table = effects.table
    assert list(table.columns) == COLUMNS
    assert len(table) == 30
    for i, component in enumerate(COMPONENTS):
        for e in EMOTIONS:
            row = table.iloc[i * 6 + e.column]
            assert (row.component, row.emotion, row.layer, row["index"]) == (
                component.name, str(e), component.layer, component.index,
            )  # fmt: skip
            assert (row.kind, row.method) == (str(component.kind), str(effects.methods[i]))
            assert (row.n, row.ablation, row.positions, row.unit) == (6, "resample", "readout", "logits")
    assert table.component.iloc[0] == "L1H2"
    assert table.component.iloc[6] == "L0.attn"


def test_an_effect_is_the_mean_over_scenarios_of_the_emotions_own_texts():
    prompts = prompts_of()
    effects = effects_of(prompts)
    for i in range(len(COMPONENTS)):
        for e in EMOTIONS:
            by_scenario: dict[str, list[float]] = {}
            for row, prompt in enumerate(prompts.rows):
                if prompt.emotion is e:
                    by_scenario.setdefault(prompt.scenario, []).append(float(effects.values[i, row, e.column]))
            means = [sum(found) / len(found) for found in by_scenario.values()]
            assert len(means) == 6
            assert max(len(found) for found in by_scenario.values()) == (2 if e is EMOTIONS[0] else 1)
            row = effects.table.iloc[i * 6 + e.column]
            assert row.effect == pytest.approx(sum(means) / 6, abs=1e-12)
            assert row.low < row.effect < row.high
            np.testing.assert_allclose(effects.by_scenario(e)[:, i], means)


def test_q_adjusts_within_a_kind_a_method_and_an_emotion():
    """Exactly measured components are few and picked elsewhere: the many first-order ones must not dilute them."""
    effects = effects_of(prompts_of(), (*(head(0, i) for i in range(4)), *(neuron(0, i) for i in range(7))))
    table = effects.table
    seen = 0
    for e in EMOTIONS:
        for kind in ("head", "neuron"):
            for method in ("exact", "gradient"):
                part = table[(table.emotion == str(e)) & (table.kind == kind) & (table.method == method)]
                np.testing.assert_allclose(part.q, false_discovery_control(part.p.to_numpy()))
                seen += len(part)
    assert seen == len(table) == 66


def test_below_five_scenarios_there_are_no_intervals():
    table = effects_of(prompts_of(4, two_tellings=False)).table
    assert table[["low", "high", "p", "q"]].isna().all(axis=None)
    assert table.effect.notna().all()
    assert (table.n == 4).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_effect_may_be_nan_or_infinite(bad):
    effects = effects_of(prompts_of())
    values = effects.values.copy()
    values[2, 7, 3] = bad
    with pytest.raises(MeasurementError, match=rf"L0N17 on prompt '{effects.prompts.ids[7]}' \(happiness\) is {bad}"):
        replace(effects, values=values)


@pytest.mark.parametrize("field", ["values", "clean", "methods"])
def test_shapes_must_agree(field):
    effects = effects_of(prompts_of())
    with pytest.raises(MeasurementError, match="expected \\(5, 37, 6\\)"):
        replace(effects, **{field: getattr(effects, field)[1:]})


def test_the_same_effects_on_fewer_prompts_in_their_order():
    prompts = prompts_of()
    effects = effects_of(prompts)
    order = [20, 3, 36]
    part = replace(prompts, rows=tuple(prompts.rows[i] for i in order))
    found = effects.on(part)
    for place, row in enumerate(order):
        np.testing.assert_array_equal(found.values[:, place], effects.values[:, row])
        np.testing.assert_array_equal(found.clean[place], effects.clean[row])
    foreign = replace(prompts, rows=(replace(prompts.rows[0], id="foreign"),))
    with pytest.raises(MeasurementError, match="'foreign' was not measured; expected prompts of 'set'"):
        effects.on(foreign)
    with pytest.raises(MeasurementError, match="no prompts of disgust"):
        effects.on(replace(prompts, rows=prompts.rows[:1])).by_scenario(EMOTIONS[1])


def test_the_same_effects_of_fewer_components_in_the_order_asked_for():
    effects = effects_of(prompts_of())
    found = effects.of((COMPONENTS[4], COMPONENTS[1]))
    np.testing.assert_array_equal(found.values, effects.values[[4, 1]])
    assert found.methods == (Method.GRADIENT, Method.EXACT)
    with pytest.raises(ComponentError, match="L0H0 was not measured; expected one of 5"):
        effects.of([head(0, 0)])


def test_joined_puts_components_one_after_the_other():
    prompts = prompts_of()
    a, b = effects_of(prompts), effects_of(prompts, (head(0, 0), head(0, 1)), seed=1)
    both = joined([a, b])
    assert both.components == (*COMPONENTS, head(0, 0), head(0, 1))
    assert both.methods == a.methods + b.methods
    np.testing.assert_array_equal(both.values, np.concatenate([a.values, b.values]))
    assert both.notices == ("notice 0", "same", "notice 1")


@pytest.mark.parametrize(
    "change",
    [{"ablation": Ablation.ZERO}, {"positions": Positions.ALL}, {"unit": "nats"}],
    ids=lambda change: next(iter(change)),
)
def test_joined_refuses_what_answers_another_question(change):
    a = effects_of(prompts_of())
    with pytest.raises(MeasurementError, match="cannot be joined"):
        joined([a, replace(a, **change)])


def test_joined_refuses_other_prompts():
    prompts = prompts_of()
    a = effects_of(prompts)
    part = prompts.where(np.arange(len(prompts)) < 6)
    with pytest.raises(MeasurementError, match="cannot be joined"):
        joined([a, a.on(part)])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(0.1, 1e4))
def test_resolution_grows_with_the_logits_and_never_vanishes(scale):
    effects = effects_of(prompts_of())
    bigger = replace(effects, clean=np.full_like(effects.clean, scale))
    assert bigger.resolution == pytest.approx(64 * 2.0**-23 * max(1.0, scale), rel=1e-5)


def test_effects_within_rounding_error_are_no_finding():
    prompts = prompts_of()
    effects = effects_of(prompts)
    tiny = replace(effects, values=np.full_like(effects.values, effects.resolution / 2))
    assert (tiny.table.p == 1).all()
    own = (prompts.emotions[:, None] == np.arange(6)).astype(np.float32)
    assert (replace(effects, values=np.full_like(effects.values, effects.resolution * 2) * own).table.p < 0.1).all()


def test_an_effect_alike_on_all_emotions_is_a_finding_only_where_ablation_does_not_compare_them():
    prompts = prompts_of()
    effects = effects_of(prompts)
    alike = replace(effects, values=np.ones_like(effects.values))
    assert (replace(alike, ablation=Ablation.MEAN_SCENARIO).table.p == 1).all()
    assert (replace(alike, ablation=Ablation.RESAMPLE).table.p == 1).all()
    assert (replace(alike, ablation=Ablation.ZERO).table.p < 0.1).all()
    assert (replace(alike, ablation=Ablation.MEAN).table.p < 0.1).all()


def test_rows_by_emotion_are_the_values_on_each_emotions_text():
    prompts = prompts_of()
    effects = effects_of(prompts)
    found = effects.by_row(EMOTIONS[2])
    assert found is not None
    values, scenarios = found
    for group in range(values.shape[0]):
        for e in EMOTIONS:
            rows = [i for i, g in enumerate(prompts.groups) if g == group and prompts.rows[i].emotion is e]
            wanted = effects.values[:, rows, 2].astype(np.float64).mean(1)
            np.testing.assert_allclose(values[group, e.column], wanted, rtol=1e-12)
            assert scenarios[group] == prompts.scenarios[rows[0]]
    part = prompts.where(np.arange(len(prompts)) != 3)
    assert effects.on(part).by_row(EMOTIONS[2]) is None


def test_reliability_is_that_of_the_score_vector():
    effects = effects_of(prompts_of())
    e = EMOTIONS[1]
    assert repr(effects.reliability(e)) == repr(split_half(effects.by_scenario(e), seed=1))
