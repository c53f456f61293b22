"""A circuit on the bench is the full forward with everything else replaced, and the bench changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.evaluation import Bench, Faithfulness
from circuits.circuit.matched import matched_random
from circuits.circuit.selection import candidates, select
from circuits.effects import batch
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.table import Effects
from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.planted import Planted, planted
from circuits.model.sites import Component, Half, Kind, head, neuron, sublayer
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(5), name="five", answers=ANSWERS)


@pytest.fixture(scope="module")
def chain() -> Planted:
    return planted("chain", seed=0)


def bench_of(
    model: Model, prompts: Prompts, e, *, ablation: Ablation = Ablation.MEAN_SCENARIO, positions=Positions.ALL
) -> Bench:
    return Bench.every(Plan.of(model, prompts, ablation), positions)[e]


def naive_metric(naive: Naive, kept: set, e, ablation: Ablation, positions: Positions) -> np.ndarray:
    """Mean over the emotion's texts of each scenario, everything outside ``kept`` replaced in one hooked forward."""
    edits = {}
    where = naive.where(positions)
    for layer in range(naive.model.n_layers):
        for make, place in ((head, f"blocks.{layer}.attn.hook_z"), (neuron, f"blocks.{layer}.mlp.hook_post")):
            replaced = naive.replaced(place, ablation)
            outside = [i for i in range(replaced.shape[2]) if make(layer, i) not in kept]

            def edit(tensor: torch.Tensor, replaced=replaced, outside=outside) -> torch.Tensor:
                tensor = tensor.clone()
                for i in outside:
                    part = tensor[:, :, i].clone()
                    part[where] = replaced[:, :, i][where]
                    tensor[:, :, i] = part
                return tensor

            edits[place] = edit
    metric = naive.metric(edits)[:, e.column].tolist()
    by_scenario: dict[str, list[float]] = {}
    for row, prompt in enumerate(naive.prompts.rows):
        if prompt.emotion is e:
            by_scenario.setdefault(prompt.scenario, []).append(metric[row])
    return np.array([np.mean(found) for found in by_scenario.values()])


def some_sets(model: Model, seed: int) -> list[set[Component]]:
    rng = np.random.default_rng(seed)
    everything = (*model.heads, *model.neurons)
    return [set(), *({everything[i] for i in rng.choice(len(everything), n, False)} for n in (1, 12, 60))]


@pytest.mark.parametrize("positions", list(Positions))
@pytest.mark.parametrize("ablation", list(Ablation))
@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "gemma2"])
def test_a_circuits_metric_is_the_naive_one(family, ablation, positions, model_of, prompts):
    model, e = model_of(family), EMOTIONS[list(Ablation).index(ablation)]
    naive = Naive(model, prompts)
    bench = bench_of(model, prompts, e, ablation=ablation, positions=positions)
    for kept in some_sets(model, seed=list(Positions).index(positions)):
        wanted = naive_metric(naive, kept, e, ablation, positions)
        np.testing.assert_allclose(bench.metric(kept), wanted, rtol=0, atol=2e-5)
    assert np.abs(bench.empty - bench.whole).max() > 0.05
    np.testing.assert_allclose(bench.empty, naive_metric(naive, set(), e, ablation, positions), rtol=0, atol=2e-5)


def test_the_whole_is_the_clean_metric_and_everything_kept_is_the_whole(model_of, prompts):
    model, e = model_of("gpt2"), EMOTIONS[1]
    bench = bench_of(model, prompts, e)
    clean = Naive(model, prompts).clean.numpy()
    wanted = [clean[row, e.column] for row, p in enumerate(prompts.rows) if p.emotion is e]
    np.testing.assert_allclose(bench.whole, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(bench.metric((*model.heads, *model.neurons)), bench.whole, rtol=0, atol=1e-5)
    assert bench.n == 5


def test_batches_and_second_tellings_do_not_matter(model_of, monkeypatch):
    rows = tiny_rows(5)
    rows.insert(9, {**rows[2], "id": "again", "text": "the dog saw fearcue1 Tom felt"})
    prompts, model, e = Prompts.of(rows, name="again", answers=ANSWERS), model_of("llama"), EMOTIONS[2]
    kept = some_sets(model, 3)[2]
    whole = bench_of(model, prompts, e).metric(kept)
    naive = naive_metric(Naive(model, prompts), kept, e, Ablation.MEAN_SCENARIO, Positions.ALL)
    monkeypatch.setattr(batch, "_FLOATS_CPU", 1)
    bench = bench_of(model, prompts, e)
    assert len(Plan.of(model, prompts, Ablation.MEAN_SCENARIO)) == 5
    np.testing.assert_allclose(bench.metric(kept), whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(whole, naive, rtol=0, atol=2e-5)
    assert len(whole) == 5


def test_one_text_a_scenario_is_not_the_same_as_two(model_of):
    """``m`` is a mean over scenarios: the naive metric averages second tellings first, and so must the bench."""
    rows = tiny_rows(5)
    rows.append({**rows[2], "id": "again", "text": "the dog saw fearcue1 Tom felt"})
    prompts, model, e = Prompts.of(rows, name="again", answers=ANSWERS), model_of("llama"), EMOTIONS[2]
    bench = bench_of(model, prompts, e)
    clean = Naive(model, prompts).clean.numpy()[:, e.column]
    mine = [row for row, p in enumerate(prompts.rows) if p.emotion is e]
    wanted = [(clean[mine[0]] + clean[mine[-1]]) / 2, *clean[mine[1:-1]]]
    np.testing.assert_allclose(bench.whole, wanted, rtol=0, atol=1e-5)
    assert abs(clean[mine[0]] - clean[mine[-1]]) > 1e-3


# -- faithfulness ---------------------------------------------------------------------------------------------------


def test_everything_is_faithful_and_nothing_is_not(chain):
    test = chain.prompts.split("test")
    for e in EMOTIONS[:3]:
        bench = bench_of(chain.model, test, e)
        everything = bench.faithfulness((*chain.model.heads, *chain.model.neurons))
        nothing = bench.faithfulness(())
        assert (everything.value, nothing.value) == pytest.approx((1, 0), abs=1e-5)
        assert (everything.low, everything.high) == pytest.approx((1, 1), abs=1e-4)
        assert (nothing.low, nothing.high) == pytest.approx((0, 0), abs=1e-4)
        assert everything.circuit == pytest.approx(everything.whole, abs=1e-4)
        assert nothing.circuit == nothing.empty == pytest.approx(bench.empty.mean())
        assert everything.n == test.n_scenarios


def test_the_ratio_is_its_definition_and_the_interval_holds_it(chain):
    e = EMOTIONS[4]
    bench = bench_of(chain.model, chain.prompts.split("test"), e)
    nodes = [c for c in (*chain.model.heads, *chain.model.neurons) if c.name in chain.by_emotion[e].nodes]
    found = bench.faithfulness(nodes)
    metric = bench.metric(nodes)
    m, empty, whole = metric.mean(), bench.empty.mean(), bench.whole.mean()
    assert found.value == pytest.approx((m - empty) / (whole - empty))
    assert (found.circuit, found.empty, found.whole) == pytest.approx((m, empty, whole))
    assert found.low < found.value < found.high
    assert 0.7 < found.value < 1.1
    rng, ratios = np.random.default_rng(8), []
    for _ in range(3000):
        rows = rng.integers(0, bench.n, bench.n)
        ratios.append((metric - bench.empty)[rows].mean() / (bench.whole - bench.empty)[rows].mean())
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_a_near_zero_denominator_is_an_error_with_both_values(model_of):
    """Texts that do not differ in a scenario: the empty circuit does all the whole model does."""
    rows = [{**row, "text": f"the dog {('saw', 'ran', 'lost')[i // 6]} Tom felt"} for i, row in enumerate(tiny_rows(3))]
    same = Prompts.of(rows, name="same", answers=ANSWERS)
    bench = bench_of(model_of("gpt2"), same, EMOTIONS[0], positions=Positions.READOUT)
    whole, empty = f"{bench.whole.mean():.3g}", f"{bench.empty.mean():.3g}"
    for kept in ((), (head(0, 0),)):
        with pytest.raises(MeasurementError, match="faithfulness of anger is undefined") as caught:
            bench.faithfulness(kept)
        assert f"the whole model has {whole} logits and the empty circuit {empty}" in str(caught.value)


def test_a_gap_within_its_own_error_is_an_error_and_a_clear_one_is_not(model_of, prompts):
    bench = bench_of(model_of("gpt2"), prompts, EMOTIONS[0])
    bench.empty = np.zeros(5)
    for gap, defined in (([1, 1.1, 0.9, 1, 1], True), ([2, -2, 3, -2, 1], False), ([-1.0] * 5, False)):
        bench.whole = np.array(gap, dtype=float)
        if defined:
            assert bench.ratio(bench.whole / 2).value == pytest.approx(0.5)
        else:
            with pytest.raises(MeasurementError, match="undefined"):
                bench.ratio(bench.whole / 2)


def test_resamples_without_a_whole_count_beyond_both_ends(model_of, prompts):
    """Clear by its standard error, but hardly: the share may be anything in a few resamples; the interval is wide."""
    bench = bench_of(model_of("gpt2"), prompts, EMOTIONS[0])
    gap = np.array([1.0, 1.2, 0.2, -0.3, 0.9])
    circuit = np.array([0.5, 0.2, 0.3, 0.1, 0.4])
    bench.empty, bench.whole = np.zeros(5), gap
    found = bench.ratio(circuit)
    rows = np.random.default_rng(0).integers(0, 5, (2000, 5))
    ratios = [(circuit[r].mean() / gap[r].mean()) if gap[r].mean() > 0 else None for r in rows]
    valid = sorted(x for x in ratios if x is not None)
    beyond = len(ratios) - len(valid)
    assert 5 < beyond < 50
    # 50 draws lie below the interval and 50 above, and those beyond are among both.
    assert valid[48 - beyond] <= found.low <= valid[51 - beyond]
    assert valid[-1 - (51 - beyond)] <= found.high <= valid[-1 - (48 - beyond)]
    assert found.low < found.value < found.high
    assert found.high > np.quantile(valid, 0.975)


def test_a_share_without_an_interval_is_an_error(model_of, prompts):
    bench = bench_of(model_of("gpt2"), prompts, EMOTIONS[0])
    bench.empty, bench.whole = np.zeros(50), np.array([1.0] * 48 + [-9.2] * 2)
    with pytest.raises(MeasurementError, match=r"in \d+ of 2,000 resamples .* no interval; it takes more scenarios"):
        bench.ratio(bench.whole)


def test_no_text_of_the_emotion_is_an_error(model_of, prompts):
    part = prompts.where(prompts.emotions != 2)
    with pytest.raises(MeasurementError, match="there are no prompts of fear"):
        bench_of(model_of("gpt2"), part, EMOTIONS[2], ablation=Ablation.ZERO)


def test_judging_changes_neither_model_nor_bench_nor_circuit(model_of, prompts):
    model = model_of("neox")
    before = {name: value.clone() for name, value in model.bridge.state_dict().items()}
    bench = bench_of(model, prompts, EMOTIONS[3])
    kept = [head(0, 0), neuron(1, 1)]
    whole, empty, first = bench.whole.copy(), bench.empty.copy(), bench.metric(kept)
    bench.metric([head(1, 1)])
    np.testing.assert_array_equal(bench.metric(kept), first)
    np.testing.assert_array_equal(bench._whole(), whole)
    np.testing.assert_array_equal(bench.metric(()), empty)
    assert kept == [head(0, 0), neuron(1, 1)]
    assert all(torch.equal(value, before[name]) for name, value in model.bridge.state_dict().items())
    assert all(not p.fwd_hooks and not p.bwd_hooks for p in model.bridge.hook_dict.values())


# -- random circuits ------------------------------------------------------------------------------------------------

ANY = st.one_of(
    st.builds(head, st.integers(0, 2), st.integers(0, 3)), st.builds(neuron, st.integers(0, 2), st.integers(0, 23))
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sets(ANY, max_size=30), st.integers(0, 1000))
def test_random_circuits_keep_counts_by_layer_and_kind(model_of, components, seed):
    model = model_of("gpt2")
    drawn = matched_random(model, components, np.random.default_rng(seed))
    assert Counter((c.kind, c.layer) for c in drawn) == Counter((c.kind, c.layer) for c in components)
    assert len(set(drawn)) == len(drawn)
    for c in drawn:
        model.require(c)
    assert drawn == matched_random(model, components, np.random.default_rng(seed))


def test_random_circuits_differ_and_reach_everything(model_of):
    rng = np.random.default_rng(0)
    drawn = [matched_random(model_of("gpt2"), [head(1, 0), neuron(2, 5)], rng) for _ in range(200)]
    assert {c for some in drawn for c in some} == {head(1, i) for i in range(4)} | {neuron(2, i) for i in range(24)}


# -- choosing -------------------------------------------------------------------------------------------------------


class FakeBench(Bench):
    """Faithfulness by the length of the list alone."""

    def __init__(self, values: list[float]) -> None:
        self.values = values
        self.asked: list[tuple[Component, ...]] = []

    def faithfulness(self, kept) -> Faithfulness:
        self.asked.append(tuple(kept))
        return Faithfulness(self.values[len(kept)], np.nan, np.nan, 0.0, 0.0, 1.0, 5)


RANKED = tuple(neuron(0, i) for i in range(20))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0.01, 1.2))
def test_the_shortest_sufficient_top_is_chosen(values, target):
    values = [0.0, *sorted(values)]
    bench, ranked = FakeBench(values), RANKED[: len(values) - 1]
    chosen = select(bench, ranked, target=target)
    enough = [size for size in range(1, len(values)) if values[size] >= target]
    size = enough[0] if enough else len(ranked)
    assert chosen.components == ranked[:size]
    assert chosen.faithfulness == values[size]
    assert chosen.reached is bool(enough)
    assert chosen.candidates == len(ranked)
    assert len(bench.asked) <= 2 + np.ceil(np.log2(len(ranked)))
    assert all(asked == ranked[: len(asked)] for asked in bench.asked)


def test_what_is_reported_was_measured_even_when_longer_is_not_better():
    bench = FakeBench([0.0, 0.9, 0.3, 0.85, 0.2, 0.95])
    chosen = select(bench, RANKED[:5], target=0.8)
    assert chosen.reached
    assert chosen.faithfulness == bench.values[len(chosen.components)] >= 0.8
    assert chosen.components in bench.asked


def test_no_candidates_are_no_circuit():
    chosen = select(FakeBench([0.0]), (), target=0.8)
    assert (chosen.components, chosen.reached, chosen.candidates) == ((), False, 0)


def test_candidates_support_the_emotion_significantly_and_come_strongest_first(prompts):
    components = (sublayer(0, Half.MLP), *(head(0, i) for i in range(4)), neuron(1, 0), neuron(1, 1))
    wide = Prompts.of(tiny_rows(12), name="twelve", answers=ANSWERS)
    means = [9, 1, -2, 3, 1e-9, 2, 0]
    rng = np.random.default_rng(0)
    shape = (len(components), len(wide), 6)
    values = np.array(means)[:, None, None] + rng.normal(0, 0.1, shape)
    values[4] = 1e-9  # below what float32 can tell from nothing
    own = wide.emotions[:, None] == np.arange(6)
    values = values * own
    effects = Effects(
        components=components,
        prompts=wide,
        values=values.astype(np.float32),
        clean=np.zeros(shape[1:], np.float32),
        methods=(Method.EXACT,) * len(components),
        ablation=Ablation.MEAN_SCENARIO,
        positions=Positions.ALL,
        answers=dict.fromkeys(EMOTIONS, (0,)),
    )
    assert candidates(effects, EMOTIONS[0]) == (head(0, 2), neuron(1, 0), head(0, 0))
    assert candidates(effects, EMOTIONS[0], alpha=0.0) == ()
    # A circuit also needs what acts alike on all emotions.
    everywhere = replace(effects, values=np.ones(shape, np.float32))
    assert len(candidates(everywhere, EMOTIONS[0])) == 6
    equal = replace(effects, values=np.ones(shape, np.float32) * own.astype(np.float32))
    assert candidates(equal, EMOTIONS[0]) == tuple(sorted(c for c in components if c.kind in (Kind.HEAD, Kind.NEURON)))
