"""One direction, one circuit? Every verdict on the planted kind it is made for, and none where there is nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bench.contexts import TRUE, contexts
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.estimates import Estimate
from circuits.circuit.evaluation import Bench
from circuits.compare import crossing
from circuits.compare.contexts import Deviations, cosine, exists, matched, profiles_apart
from circuits.compare.mechanisms import Verdict, several_mechanisms
from circuits.compare.mechanisms import _verdict as judge
from circuits.effects.batch import Plan
from circuits.errors import DirectionError, MeasurementError, PromptError, SettingsError
from circuits.model.planted import planted
from circuits.model.reading import capture
from circuits.model.sites import Component, Half, State, head, parse
from circuits.prompts.emotions import EMOTIONS

E = EMOTIONS[0]


@pytest.mark.parametrize("kind", list(TRUE))
def test_the_verdict_is_the_planted_truth(kind: str) -> None:
    made, a, b = contexts(kind, 0, 144)
    found = several_mechanisms(made.model, a, b, E)
    assert found.verdict is TRUE[kind], found.reason
    if kind == "null":
        assert "no direction in both contexts" in found.reason
        return
    names = list(made.by_context)
    for name, context in zip(found.circuits, (names[0], names[-1]), strict=True):
        assert {c.name for c in found.circuits[name]} == made.by_context[context][E].nodes
    assert found.cosine is not None
    writers, readers = found.interaction["writers"], found.interaction["readers"]
    if kind == "composite":
        assert writers.low > 0.8
        assert found.apart["distance"] == pytest.approx(2, abs=0.1)
        assert found.apart["rand"] == pytest.approx(1, abs=0.1)
        assert found.apart["rand_p"] < 0.05
        assert found.edges.empty
    if kind == "forked":
        assert (writers.value, readers.low > 0.7) == (0, True)
        assert found.apart["distance"] < 0.1
        head = next(c.name for c in found.circuits["A"] if c.kind == "head")
        weights = found.edges[found.edges["source"] == head].pivot(index="target", columns="context", values="weight")
        for own, context in (("A", names[0]), ("B", names[1])):
            other = "B" if own == "A" else "A"
            reader = next(n for n in made.by_context[context][E].nodes if parse(n).kind == "neuron")
            assert weights.loc[reader, own] > 3
            assert abs(weights.loc[reader, other]) < 1e-3
    if kind == "chain":
        assert writers.value == readers.value == 0
        assert found.power["writers"] < 0.25
        assert found.apart["rand_p"] > 0.05
    if kind == "two_directions":
        assert found.cosine.high < 0.3
        assert found.as_dict()["verdict"] == "different directions"


def test_few_scenarios_give_no_verdict_and_say_what_would() -> None:
    made, a, b = contexts("forked", 0, 36)
    found = several_mechanisms(made.model, a, b, E)
    assert found.verdict is Verdict.NOT_DECIDABLE
    assert "more scenarios" in found.reason


def test_at_a_state_before_the_direction_there_is_none() -> None:
    made, a, b = contexts("chain", 0, 60)
    head = next(parse(n) for n in made.by_emotion[E].nodes if parse(n).kind == "head")
    assert State(head.layer, head.half).depth > 0
    found = several_mechanisms(made.model, a, b, E, state=made.model.states[0])
    assert found.verdict is Verdict.NOT_DECIDABLE
    assert found.state == made.model.states[0]
    with pytest.raises(DirectionError, match=r"no state L9\.post"):
        several_mechanisms(made.model, a, b, E, state=State(9, Half.MLP))


def test_bad_contexts_are_refused() -> None:
    made, a, b = contexts("chain", 0, 30)
    without = b.where(b.emotions != E.column)
    with pytest.raises(PromptError, match="no text of anger"):
        several_mechanisms(made.model, a, without, E)
    with pytest.raises(MeasurementError, match="lacks anger"):
        several_mechanisms(made.model, a, without, EMOTIONS[1])
    with pytest.raises(SettingsError, match="smallest is 0"):
        several_mechanisms(made.model, a, b, E, smallest=0.0)
    small = [i for i, row in enumerate(b.rows) if row.split == "test"]
    keep = np.ones(len(b), dtype=bool)
    keep[small] = np.isin(b.scenarios[small], np.unique(b.scenarios[small])[:3])
    with pytest.raises(MeasurementError, match="3 scenarios in 'test'"):
        several_mechanisms(made.model, a, b.where(keep), E)
    keep = np.ones(len(b), dtype=bool)
    fit = [i for i, row in enumerate(b.rows) if row.split == "fit"]
    keep[fit] = np.isin(b.scenarios[fit], np.unique(b.scenarios[fit])[:4])
    with pytest.raises(MeasurementError, match="4 scenarios to estimate"):
        several_mechanisms(made.model, a, b.where(keep), E)


# -- matching ---------------------------------------------------------------------------------------------------------


def test_matching_pairs_what_is_alike_and_refuses_what_is_not() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(1, 0.3, 40)
    found = matched(a, rng.permutation(a))
    assert len(found) == 40
    assert found.after == pytest.approx(0, abs=1e-9)
    shifted = matched(a, rng.normal(1.2, 0.3, 60))
    assert abs(shifted.after) <= 0.25 < abs(shifted.before)
    with pytest.raises(MeasurementError, match=r"cannot be matched: mean projections are 0\.\d+ and 4"):
        matched(a, np.full(40, 5.0) + rng.normal(0, 0.3, 40))
    with pytest.raises(MeasurementError, match="cannot be matched"):
        matched(a[:4], a[:4])
    # Every pair within the caliper, all to one side.
    with pytest.raises(
        MeasurementError, match=r"after matching their mean projections still differ by -0\.\d+ spreads"
    ):
        matched(np.linspace(0, 1, 40), np.linspace(0, 1, 40) + 0.12)


@given(st.lists(st.floats(-2, 2), min_size=5, max_size=12), st.lists(st.floats(-2, 2), min_size=5, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_pair_is_never_further_apart_than_the_caliper(first: list[float], second: list[float]) -> None:
    a, b = np.array(first), np.array(second)
    try:
        found = matched(a, b)
    except MeasurementError:
        return
    assert all(abs(a[i] - b[j]) <= found.caliper + 1e-12 for i, j in found.pairs)
    assert len({i for i, _ in found.pairs}) == len({j for _, j in found.pairs}) == len(found)


# -- directions -------------------------------------------------------------------------------------------------------


def deviations(n: int, angle: float, noise: float, *, seed: int, prefix: str, d: int = 40) -> Deviations:
    rng = np.random.default_rng(seed)
    v = np.zeros(d)
    v[:2] = np.cos(angle), np.sin(angle)
    values = v + noise * rng.standard_normal((n, d))
    return of_values(values[:, None], prefix)


def of_values(values: np.ndarray, prefix: str = "", seed: int = 9) -> Deviations:
    """Deviations [scenario, state, d] of one emotion, the other five such that all six sum to nothing."""
    others = np.random.default_rng(seed).standard_normal((len(values), 5, *values.shape[1:])) * values.std()
    others -= others.mean(1, keepdims=True) + values[:, None] / 5
    return Deviations(
        tuple(f"{prefix}{i}" for i in range(len(values))), np.concatenate([values[:, None], others], 1), E.column
    )


@pytest.mark.parametrize("angle", [0.0, np.pi / 3, np.pi / 2])
def test_noise_does_not_turn_the_cosine(angle: float) -> None:
    """With a plain cosine of means 20 scenarios of this noise would show about half of it."""
    found, covered = [], 0
    for seed in range(60):
        a = deviations(20, 0, 0.6, seed=2 * seed, prefix="a")
        b = deviations(20, angle, 0.6, seed=2 * seed + 1, prefix="b")
        one = cosine(a, b, 0)
        found.append(one.value)
        covered += one.low <= np.cos(angle) <= one.high
        plain = a.mean[0] @ b.mean[0] / np.linalg.norm(a.mean) / np.linalg.norm(b.mean)
        assert angle or plain < one.value
    assert np.mean(found) == pytest.approx(np.cos(angle), abs=0.06)
    assert covered >= 51  # 95% nominal; a bootstrap of 20 is a little narrow


def test_noise_that_scenarios_share_is_not_taken_for_likeness() -> None:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((30, 1, 40))
    v, w = np.zeros((2, 40))
    v[0], w[1] = 3, 3
    a, b = of_values(v + shared), of_values(w + shared)
    apart = cosine(a, b, 0)
    assert apart.low < 0 < apart.high
    relabelled = of_values(b.values, "other ")
    assert cosine(a, relabelled, 0).value > apart.value + 0.1  # what pairing by name prevents


def test_a_direction_exists_where_there_is_one_and_hardly_ever_elsewhere() -> None:
    assert exists(deviations(20, 0, 0.3, seed=0, prefix="a"))[0] < 0.01
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(100):
        six = rng.standard_normal((20, 6, 6, 30)) ** 3  # skewless, but heavy in its tails
        nothing = Deviations(tuple(map(str, range(20))), six - six.mean(1, keepdims=True), E.column)
        false += bool(exists(nothing).min() < 0.05)
    assert false <= 10
    assert exists(of_values(np.zeros((8, 2, 30)))).min() == 1


def test_deviations_are_the_contrast_directions_parts() -> None:
    made = planted("forked", seed=0)
    readings = capture(made.model, made.prompts.split("fit"))
    found = Deviations.of(readings, E)
    values, groups = readings.values, readings.prompts.groups
    by_hand = []
    for name in found.names:
        rows = [i for i, row in enumerate(readings.prompts.rows) if row.scenario == name]
        apart = []
        for group in {groups[i] for i in rows}:
            own = [i for i in rows if groups[i] == group]
            mine = next(i for i in own if readings.prompts.emotions[i] == E.column)
            apart.append(values[mine] - values[own].mean(0))
        by_hand.append(np.mean(apart, 0))
    np.testing.assert_allclose(found.values, by_hand, atol=1e-9)


# -- profiles ---------------------------------------------------------------------------------------------------------


def test_profiles_of_one_mechanism_do_not_fall_apart() -> None:
    rng = np.random.default_rng(0)
    ps = [profiles_apart(*(rng.normal(1, 0.4, (2, 20, 5))), seed=i)["distance_p"] for i in range(40)]
    assert 0.3 < np.mean(ps) < 0.7
    assert np.mean(np.array(ps) < 0.05) <= 0.15
    one, other = np.eye(2).repeat(20, axis=0).reshape(2, 20, 2) + 0.05 * rng.standard_normal((2, 20, 2))
    apart = profiles_apart(one, other)
    assert apart["distance"] == pytest.approx(2, abs=0.2)
    assert apart["distance_p"] == pytest.approx(0.001)
    assert apart["rand"] == 1
    assert profiles_apart(np.zeros((5, 0)), np.zeros((5, 0))) == {"nodes": 0, "n": 5}


# -- the rule ---------------------------------------------------------------------------------------------------------

CLOSE = Estimate(0.97, 0.9, 1.04, 30)
NOTHING, ALL, SOME = Estimate(0.02, -0.05, 0.1, 30), Estimate(0.9, 0.8, 1.0, 30), Estimate(0.3, 0.1, 0.5, 30)


def ruled(
    alike: Estimate, writers: Estimate | None, readers: Estimate | None, *, low: float = 0.9, power: float = 0.1
) -> tuple[Verdict, str]:
    found = {role: one for role, one in (("writers", writers), ("readers", readers)) if one is not None}
    cross = pd.DataFrame([{"role": role, "nodes": "all", "context": c, "low": low} for role in found for c in "AB"])
    return judge(alike, found, cross, dict.fromkeys(found, power), 0.25, 30)


@pytest.mark.parametrize(
    ("alike", "writers", "readers", "verdict"),
    [
        (CLOSE, NOTHING, NOTHING, Verdict.SAME_CIRCUIT),
        (CLOSE, ALL, ALL, Verdict.DIFFERENT_CIRCUITS),
        (CLOSE, ALL, NOTHING, Verdict.DIFFERENT_CIRCUITS),
        (CLOSE, NOTHING, ALL, Verdict.DIFFERENT_READERS),
        (CLOSE, SOME, ALL, Verdict.NOT_DECIDABLE),
        (CLOSE, NOTHING, SOME, Verdict.NOT_DECIDABLE),
        (CLOSE, None, NOTHING, Verdict.NOT_DECIDABLE),
        (CLOSE, NOTHING, None, Verdict.NOT_DECIDABLE),
        (Estimate(0.2, 0.0, 0.4, 30), NOTHING, NOTHING, Verdict.DIFFERENT_DIRECTIONS),
        (Estimate(0.9, 0.7, 1.0, 30), NOTHING, NOTHING, Verdict.NOT_DECIDABLE),
        (Estimate(0.6, 0.45, 0.75, 30), ALL, ALL, Verdict.NOT_DECIDABLE),
        (Estimate(float("nan"), float("nan"), float("nan"), 30), NOTHING, NOTHING, Verdict.NOT_DECIDABLE),
    ],
)
def test_the_verdict_follows_from_intervals_alone(alike, writers, readers, verdict) -> None:
    assert ruled(alike, writers, readers)[0] is verdict


def test_sameness_takes_power_and_a_part_to_be_the_same() -> None:
    verdict, reason = ruled(CLOSE, NOTHING, NOTHING, power=0.5)
    assert verdict is Verdict.NOT_DECIDABLE
    assert "30 matched scenarios find an interaction of 0.50 at the smallest, about 120 would find 0.25" in reason
    verdict, reason = ruled(CLOSE, NOTHING, NOTHING, low=0.4)
    assert verdict is Verdict.NOT_DECIDABLE
    assert "a context may lose no more than 40%" in reason


def test_power_is_that_of_a_difference_between_contexts_where_both_found_the_same_nodes() -> None:
    made, a, b = contexts("chain", 0, 144)
    found = several_mechanisms(made.model, a, b, E)
    assert found.matching is not None
    losses = found.cross[(found.cross["role"] == "writers") & (found.cross["nodes"] == "all")].set_index("context")
    errors = [(losses.loc[c, "high"] - losses.loc[c, "low"]) / 3.92 for c in "AB"]
    assert found.power["writers"] == pytest.approx(2.8 * np.hypot(*errors), rel=0.1)


class Drawn(Bench):
    """A bench of numbers: what ablating any nodes costs, and what the model adds."""

    def __init__(self, gap: np.ndarray, lost: np.ndarray) -> None:
        self.model = SimpleNamespace(heads=(head(0, 0), head(0, 1)), neurons=())
        self.whole, self.empty, self.lost = gap, np.zeros_like(gap), lost

    def ratio(self, circuit: np.ndarray) -> None:
        """Defined."""

    def metric(self, kept: frozenset[Component]) -> np.ndarray:
        gone = frozenset(self.model.heads) - kept
        return self.whole - sum(self.lost[c.index] for c in gone)


def crossed(gaps: tuple[np.ndarray, np.ndarray]) -> tuple[pd.DataFrame, dict[str, Estimate], dict[str, float]]:
    rng = np.random.default_rng(4)
    sides = []
    for name, gap in zip("AB", gaps, strict=True):
        side = object.__new__(crossing.Side)  # of numbers, without a model
        vars(side).update(name=name, e=E, bench=Drawn(gap, rng.normal(1, 0.3, (2, len(gap)))))
        sides.append(side)
    rows = [list(range(12))] * 2
    circuits = {"A": (head(0, 0),), "B": (head(0, 1),)}
    return crossing.Crossing(sides, rows, circuits, State(0, Half.MLP)).measured()


def test_shares_are_resampled_with_what_they_are_shares_of() -> None:
    rng = np.random.default_rng(3)
    gaps = (rng.normal(2, 0.5, 12), rng.normal(3, 1.0, 12))
    table, interaction, _power = crossed(gaps)
    rng = np.random.default_rng(4)
    lost = [rng.normal(1, 0.3, (2, 12)) for _ in gaps]
    first = (lost[0][0] - lost[0][1]) / 2
    second = (lost[1][1] - lost[1][0]) / 2
    found = interaction["writers"]
    assert found.value == pytest.approx(first.mean() / gaps[0].mean() + second.mean() / gaps[1].mean())
    rng, drawn = np.random.default_rng(17), []
    for _ in range(4000):
        i, j = rng.integers(0, 12, (2, 12))
        drawn.append(first[i].mean() / gaps[0][i].mean() + second[j].mean() / gaps[1][j].mean())
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.1 * width)
    row = table[(table["nodes"] == "all") & (table["context"] == "B") & (table["role"] == "writers")].iloc[0]
    assert row["value"] == pytest.approx(lost[1].sum(0).mean() / gaps[1].mean())


def test_a_context_that_may_add_nothing_has_no_shares() -> None:
    flat = np.array([1.0, -1.0] * 5 + [1.5, 1.0])
    with pytest.raises(
        MeasurementError, match=r"of the 12 matched scenarios the model adds nothing for .*; it takes more"
    ):
        crossed((flat, np.full(12, 2.0)))


def test_circuits_are_found_on_select_and_crossed_on_test(monkeypatch: pytest.MonkeyPatch) -> None:
    made, a, b = contexts("chain", 0, 144)
    searched: list[set[str]] = []

    def plan(model, prompts, *args, **kwargs):
        searched.append({str(row.split) for row in prompts.rows})
        return Plan.of(model, prompts, *args, **kwargs)

    monkeypatch.setattr(crossing, "Plan", SimpleNamespace(of=plan))
    several_mechanisms(made.model, a, b, E)
    assert searched == [{"test"}, {"test"}, {"select"}, {"select"}]
