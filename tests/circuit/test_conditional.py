"""The search by conditional effects: on rules whose circuit is known by hand, on planted models, and its parts by loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from circuit.games import BOARD, Game, played
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit import searching
from circuits.circuit.conditional import Conditional
from circuits.circuit.discovery import Case, Random
from circuits.circuit.evaluation import Bench
from circuits.circuit.methods import DEFAULT, METHODS
from circuits.circuit.slopes import slopes
from circuits.effects.batch import Plan
from circuits.effects.gradient import first_order
from circuits.effects.kinds import Ablation, Positions
from circuits.model.planted import PlantedKind, planted
from circuits.model.sites import Kind
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

A, B, C, N, M = "L0H0", "L1H1", "L1H2", "L2N0", "L2N1"
SHADOWS = [f"L1N{k}" for k in range(5)]

Is = Callable[[str], bool]

RULES: dict[str, tuple[Callable[[Is], float], set[str]]] = {
    "chain": (lambda i: 5.0 * (i(A) and i(N)), {A, N}),
    "either of two": (lambda i: 5.0 * ((i(A) or i(B)) and i(N)), {A, B, N}),
    "any of three": (lambda i: 5.0 * ((i(A) or i(B) or i(C)) and i(N)), {A, B, C, N}),
    "backup at four fifths": (lambda i: 5 * (1.0 if i(A) else 0.8 * i(B)) * i(N), {A, B, N}),
    "two whole paths": (lambda i: 5.0 * ((i(A) and i(N)) or (i(B) and i(M))), {A, B, N, M}),
    "nothing alone": (lambda i: 5.0 * (i(A) or i(B)), {A, B}),
    "a sum": (lambda i: 2.0 * i(A) * i(N) + 2.0 * i(B) * i(M), {A, B, N, M}),
    "held back": (lambda i: (4.0 if i(M) else 8.0) * (i(A) and i(N)), {A, N, M}),
    "shadows": (lambda i: 5.0 * (i(A) and i(N)) + sum(0.15 * i(s) for s in SHADOWS), {A, N}),
    "either of two and shadows": (
        lambda i: 5.0 * ((i(A) or i(B)) and i(N)) + sum(0.15 * i(s) for s in SHADOWS), {A, B, N},
    ),
    "a clipped sum": (lambda i: 5 * i(N) * min(1.0, 0.6 * i(A) + 0.6 * i(B)), {A, B, N}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_gradients_in_games(monkeypatch):
    """Rules have no weights; where halves are tried the order is then the board's."""
    real = searching.slopes

    def either(bench, kept):
        return np.zeros((len(BOARD), bench.n)) if hasattr(bench, "rule") else real(bench, kept)

    monkeypatch.setattr(searching, "slopes", either)


def names(found) -> set[str]:
    return {c.name for c in found.chosen}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_gives_its_circuit_and_no_more(name):
    rule, truth = RULES[name]
    for seed in range(2):
        found = METHODS[DEFAULT](played(rule, seed=seed), target=0.8)
        assert names(found) == truth, seed
        assert found.reached
        assert not found.notice
        assert found.forwards <= found.bound
        assert {c.name for c in found.ranked[: len(truth)]} == truth


@pytest.mark.parametrize("name", ["either of two", "any of three", "backup at four fifths", "two whole paths"])
@pytest.mark.parametrize("method", ["top_n", "single_ablation"])
def test_single_ablation_misses_what_stands_in(name, method):
    rule, truth = RULES[name]
    assert all(names(METHODS[method](played(rule, seed=seed), target=0.8)) != truth for seed in range(2))


def test_what_was_taken_on_in_bulk_is_thinned_in_blocks():
    """Thirty weak supporters are significant, and taken on as the neuron alone is not enough; with a head they are spare."""
    weak = [c.name for c in BOARD if c.name not in (A, B, N)]
    case = played(lambda i: 5.0 * ((i(A) or i(B)) and i(N)) + sum(0.01 * i(w) for w in weak), noise=0.0)
    found = METHODS[DEFAULT](case, target=0.8)
    assert len(case.effects.components) > 30
    assert names(found) == {A, B, N}
    assert found.forwards < 300


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6), st.booleans())
def test_any_number_of_alternatives_in_series_is_found(heads, stages, seed, shuffled):
    """Each stage is a group any of which suffices, and all stages are needed: products of sums."""
    rng = np.random.default_rng(seed)
    order = list(rng.permutation(len(BOARD))) if shuffled else list(range(len(BOARD)))
    groups = [[BOARD[order.pop()].name for _ in range(heads if stage == 0 else 1)] for stage in range(stages)]
    found = METHODS[DEFAULT](played(lambda i: 4.0 * all(any(map(i, group)) for group in groups), seed=seed), target=0.8)
    assert names(found) == {name for group in groups for name in group}


def test_noise_alone_is_no_circuit_and_says_why():
    empty = 0
    for seed in range(20):
        found = METHODS[DEFAULT](played(lambda i: 0.0, seed=seed, noise=0.3), target=0.8)
        empty += not found.chosen
        assert found.chosen or "undefined" in found.undefined or "no head or neuron" in found.undefined
        assert found.as_dict()["size"] == len(found.chosen)
    assert empty >= 18


def test_the_budget_is_kept_and_what_was_found_till_then_is_given():
    rule, truth = RULES["any of three"]
    for patience in (1, 2, 3):
        how = Conditional(patience=patience)
        case = played(rule, seed=1)
        bound = how.bound(case)
        found = how(case, target=0.8)
        assert found.forwards <= bound == case.effects_forwards + patience * len(BOARD)
        assert found.notice.startswith("the search stopped at its budget of") or names(found) == truth
        assert "notice" not in found.as_dict() or found.as_dict()["notice"] == found.notice
    assert Conditional(patience=1)(played(rule, seed=1), target=0.8).notice


def test_patience_goes_by_what_a_forward_costs_unless_it_is_told(monkeypatch):
    case = played(RULES["chain"][0])
    tried = len(BOARD)
    for operations, patience in ((1, 20), (10**15, 2), (int(4e11) // (7 * tried), 7)):
        monkeypatch.setattr(Game, "operations", operations)
        assert Conditional().budget(case) == pytest.approx(patience * tried, abs=1)
        assert Conditional(patience=3).budget(case) == 3 * tried


def test_what_was_chosen_before_the_budget_ended_is_kept():
    """One head does most, no other component is significant, and measuring what each would add costs too much."""
    rest = [c.name for c in BOARD if c.kind is Kind.NEURON]
    case = played(lambda i: 5 * (0.6 * i(A) + 0.4 * sum(map(i, rest)) / len(rest)), noise=0.4)
    found = Conditional(patience=1)(case, target=0.95)
    assert "stopped at its budget of 36 forwards" in found.notice
    assert A in names(found)
    assert not found.reached


def test_the_circuit_comes_first_and_the_rest_by_what_each_does_alone():
    """Whatever was seen of it in worlds that were looked into: those are not the same for all."""
    shadow = BOARD[-1].name  # acts a little, and only where the circuit is gone
    case = played(lambda i: 5.0 * (i(A) and i(N)) + 0.2 * (i(shadow) and not i(A)), noise=0.01)
    found = Conditional()(case, target=0.9)
    assert shadow not in names(found)
    size = len(found.chosen)
    assert set(found.ranked[:size]) == set(found.chosen) != set()
    alone = dict(zip(case.effects.components, np.abs(case.effects.by_scenario(case.emotion).mean(0)), strict=True))
    rest = [alone[c] for c in found.ranked[size:]]
    assert len(rest) == len(BOARD) - size
    assert rest == sorted(rest, reverse=True)
    assert len(set(rest)) > 10


def test_forwards_are_those_the_bench_ran():
    case = played(RULES["either of two"][0], seed=3)
    before = case.bench.asked
    found = METHODS[DEFAULT](case, target=0.8)
    # A gradient counts as two; rules have none unless halves are tried.
    assert found.forwards - case.effects_forwards == case.bench.asked - before
    again = METHODS[DEFAULT](case, target=0.8)
    assert (again.chosen, again.forwards) == (found.chosen, found.forwards)


def test_few_scenarios_are_searched_without_tests():
    found = METHODS[DEFAULT](played(RULES["either of two"][0], seed=0, noise=0.0, n=4), target=0.8)
    assert names(found) == {A, B, N}


def test_a_large_model_is_screened_and_finds_the_same(monkeypatch):
    rule, truth = RULES["either of two"]

    def first_neurons(bench, kept):
        return np.array([[1.0 if c.name in {N, M} else 0.0] * bench.n for c in BOARD])

    monkeypatch.setattr(searching, "slopes", first_neurons)
    how = Conditional(screen=2, exhaustive=10)
    case = played(rule, seed=2)
    found = how(case, target=0.8)
    assert names(found) == truth
    assert how.tried(case) == 12 + 2 + 3 < len(BOARD)
    everything = METHODS[DEFAULT](case, target=0.8)
    assert found.forwards < everything.forwards


# -- gradients in the middle of a search -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(5), name="five", answers=ANSWERS)


def gated_metric(naive: Naive, gates: dict[str, torch.Tensor], e, ablation, positions) -> np.ndarray:
    """The metric with every component mixed by hand, ``gates`` by place and component."""
    where, edits = naive.where(positions), {}

    def edit(tensor, replaced, gate):
        tensor = tensor.clone()
        for i in range(tensor.shape[2]):
            mixed = gate[i] * tensor[:, :, i] + (1 - gate[i]) * replaced[:, :, i]
            part = tensor[:, :, i].clone()
            part[where] = mixed[where]
            tensor[:, :, i] = part
        return tensor

    for place, gate in gates.items():
        edits[place] = partial(edit, replaced=naive.replaced(place, ablation), gate=gate)
    metric = naive.metric(edits)[:, e.column].numpy()
    return np.array([metric[i] for i, p in enumerate(naive.prompts.rows) if p.emotion is e])


@pytest.mark.parametrize(("family", "positions"), [("gpt2", Positions.ALL), ("llama", Positions.READOUT)])
def test_a_slope_is_the_change_of_a_gate(family, positions, model_of, prompts):
    model, e, ablation = model_of(family), EMOTIONS[1], Ablation.MEAN_SCENARIO
    naive = Naive(model, prompts)
    bench = Bench.every(Plan.of(model, prompts, ablation), positions)[e]
    rng = np.random.default_rng(0)
    everything = (*model.heads, *model.neurons)
    kept = {everything[i] for i in rng.choice(len(everything), 50, False)}
    found = slopes(bench, kept)
    assert found.shape == (len(everything), 5)
    order = np.argsort(-np.abs(found.mean(1)))
    for i in (*order[:4], order[30]):
        c, metrics = everything[i], []
        for step in (0.02, -0.02):
            gates = {}
            for layer in range(model.n_layers):
                for kind, place, size in (
                    (Kind.HEAD, "attn.hook_z", model.n_heads),
                    (Kind.NEURON, "mlp.hook_post", model.d_mlp),
                ):
                    members = [type(c)(layer, kind, n) for n in range(size)]
                    gates[f"blocks.{layer}.{place}"] = torch.tensor([m in kept for m in members]) + torch.tensor(
                        [step * (m == c) for m in members]
                    )
            metrics.append(gated_metric(naive, gates, e, ablation, positions))
        np.testing.assert_allclose(found[i], (metrics[0] - metrics[1]) / 0.04, rtol=0.02, atol=2e-3)


def test_with_everything_kept_slopes_are_attribution_patching(model_of, prompts):
    model, e = model_of("gpt2"), EMOTIONS[4]
    plan = Plan.of(model, prompts, Ablation.MEAN_SCENARIO)
    bench = Bench.every(plan)[e]
    found = slopes(bench, (*model.heads, *model.neurons))
    places = [(kind, layer) for kind in (Kind.HEAD, Kind.NEURON) for layer in range(model.n_layers)]
    scores = []
    for batch in plan.batches():
        mine = batch.prompts.emotions == e.column
        part = first_order(batch, Positions.ALL, places)
        scores.append(torch.cat([part[place][:, mine, e.column] for place in places]).numpy())
    np.testing.assert_allclose(found, np.concatenate(scores, 1), rtol=0, atol=1e-4)


def test_nothing_is_left_behind_in_the_model(model_of, prompts):
    model = model_of("gpt2")
    bench = Bench.every(Plan.of(model, prompts, Ablation.ZERO))[EMOTIONS[0]]
    before = bench.metric(model.heads)
    slopes(bench, model.heads)
    np.testing.assert_array_equal(bench.metric(model.heads), before)
    assert all(not p.fwd_hooks and not p.bwd_hooks for p in model.bridge.hook_dict.values())


# -- planted models --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind.value for kind in PlantedKind if kind is not PlantedKind.NULL])
def test_planted_circuits_are_found_exactly_unless_they_miss_the_target_themselves(kind):
    """Seen with 10 seeds: 95-100% of circuits of each kind exactly, none with a node missing; ablating one component at a
    time finds no redundant, backup or inhibitor circuit."""
    made = planted(kind, seed=1)
    plan = Plan.of(made.model, made.prompts.split("select"), Ablation.MEAN_SCENARIO)
    singly = 0
    for e, case in Case.every(plan).items():
        found = METHODS[DEFAULT](case, target=0.8)
        truth = {c for c in case.components if c.name in made.by_emotion[e].nodes}
        assert set(found.chosen) >= truth
        # Shadows of other emotions' neurons fill up what the true circuit lacks.
        assert set(found.chosen) == truth or case.bench.faithfulness(truth).value < 0.8
        singly += set(METHODS["single_ablation"](case, target=0.8).chosen) == truth
    assert singly == (0 if kind in ("redundant", "backup", "inhibitor") else 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "e"),
    [
        ("shared_head", 9, "anger"),
        ("redundant", 5, "fear"),
        ("inhibitor", 0, "disgust"),
        ("inhibitor", 4, "surprise"),
        ("composite", 7, "sadness"),
    ],
)
def test_a_true_circuit_below_the_target_is_what_theory_forbids(kind, seed, e):
    """Circuits that the truth table lists as not exact: nothing that keeps to the target can give them, and a target that
    they reach finds each."""
    made = planted(kind, seed=seed)
    plan = Plan.of(made.model, made.prompts.split("select"), Ablation.MEAN_SCENARIO)
    case = next(case for emotion, case in Case.every(plan).items() if str(emotion) == e)
    truth = {c for c in case.components if c.name in made.by_emotion[case.emotion].nodes}
    keeps = case.bench.faithfulness(truth).value
    assert 0.77 < keeps < 0.8
    found = METHODS[DEFAULT](case, target=0.8)
    assert set(found.chosen) > truth
    assert found.reached
    assert set(METHODS[DEFAULT](case, target=keeps - 0.01).chosen) == truth


@pytest.mark.slow
def test_hardly_any_null_model_has_a_circuit():
    found = []
    for seed in range(2):
        made = planted("null", seed=seed)
        plan = Plan.of(made.model, made.prompts.split("select"), Ablation.MEAN_SCENARIO)
        found += [METHODS[DEFAULT](case, target=0.8) for case in Case.every(plan).values()]
    assert sum(bool(one.chosen) for one in found) <= 0.05 * len(found)
    assert all(one.undefined for one in found if not one.chosen)


def test_random_order_is_by_seed():
    case = played(RULES["chain"][0])
    first, again, other = (Random()(case, target=0.8, seed=seed) for seed in (0, 0, 1))
    assert first.ranked == again.ranked != other.ranked
    assert first.reached
    assert {A, N} <= names(first)
