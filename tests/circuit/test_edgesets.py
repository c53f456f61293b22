"""Sets of edges as run, against hooks that give every reader a forward of its own."""

from __future__ import annotations

import numpy as np
import pytest
from circuit.wires import Wires, random_edges
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS, CORE, FAMILIES, REPLAYED

from circuits.circuit.edgesets import EdgeBench, edges_among, nodes_of, run_price, trimmed
from circuits.circuit.evaluation import Bench
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions
from circuits.errors import ComponentError, UnsupportedModelError
from circuits.model.planted import planted
from circuits.model.sites import head, neuron, parse
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

E = EMOTIONS[1]
NODES = (
    head(0, 1), neuron(0, 4), neuron(0, 7), head(1, 0), head(1, 2), neuron(1, 7), neuron(1, 2),
    head(2, 2), head(2, 3), neuron(2, 5),
)  # fmt: skip
QUICK = (*CORE, "olmo2")
PLAIN = tuple(
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in REPLAYED
)
CLOSE = 1e-5


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(2), name="two", answers=ANSWERS)


def bench_of(model, prompts, ablation=Ablation.MEAN_SCENARIO, positions=Positions.ALL) -> Bench:
    return Bench.every(Plan.of(model, prompts, ablation), positions)[E]


def check(model, prompts, ablation=Ablation.MEAN_SCENARIO, positions=Positions.ALL, sets: int = 3) -> float:
    """Largest error [logits] over random sets of edges; each is run alone and beside the others."""
    bench = EdgeBench(bench_of(model, prompts, ablation, positions))
    wires = Wires(Naive(model, prompts), ablation, positions)
    every = edges_among(model, NODES, str(E))
    kept = [random_edges(every, share, seed) for seed, share in enumerate(np.linspace(0.3, 0.8, sets))]
    found = bench.metrics(kept)
    own = prompts.emotions == E.column
    wanted = np.stack([wires.metric(some, str(E)).numpy()[own, E.column] for some in kept])
    scale = max(1.0, float(np.abs(wanted).max()))
    # The sets do something: they differ from each other and from none at all.
    assert np.abs(np.diff(np.vstack([bench.bench.empty[None], wanted]), axis=0)).max(1).min() > 1e-3
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * scale)
    return float(np.abs(found - wanted).max() / scale)


@pytest.mark.parametrize("family", PLAIN)
def test_a_set_of_edges_does_what_hooks_say(family, model_of, prompts):
    check(model_of(family), prompts)


@pytest.mark.parametrize("family", ["llama", "gemma2", "neox"])
@pytest.mark.parametrize(
    ("ablation", "positions"),
    [(Ablation.RESAMPLE, Positions.READOUT), (Ablation.ZERO, Positions.ALL), (Ablation.MEAN, Positions.READOUT)],
)
def test_ablation_and_positions_are_followed(ablation, positions, family, model_of, prompts):
    check(model_of(family), prompts, ablation, positions)


@pytest.mark.parametrize("positions", list(Positions))
@pytest.mark.parametrize("family", PLAIN)
def test_with_all_edges_a_circuit_is_its_nodes(family, positions, model_of, prompts):
    model = model_of(family)
    bench = bench_of(model, prompts, positions=positions)
    for nodes in (NODES, NODES[::3], (*model.heads, *model.neurons)):
        wanted = bench.metric(nodes)
        found = EdgeBench(bench).metric(edges_among(model, nodes, str(E)))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * max(1.0, float(np.abs(wanted).max())))
    np.testing.assert_array_equal(EdgeBench(bench).metric(()), bench.empty)


def test_replayed_models_and_experts_are_refused_by_name(model_of, prompts):
    for family, why in (("bloom", "cannot be run edge by edge"), ("mixtral", "mixture of experts")):
        bench = EdgeBench(bench_of(model_of(family), prompts))
        with pytest.raises(UnsupportedModelError, match=why):
            bench.metric([("embed", "L0H1"), ("L0H1", str(E))])


def test_edges_that_cannot_be_are_refused_by_name(model_of, prompts):
    bench = EdgeBench(bench_of(model_of("neox"), prompts))
    for edge, why in (
        (("L1H0", "L0N1"), "L1H0 cannot reach L0N1 directly"), (("L0H0", "L0N1"), "L0H0 cannot reach L0N1 directly"),
        (("embed", "L9H0"), "has no component L9H0"), (("L0.mlp", "L1H0"), "L0.mlp is no head and no neuron"),
        (("L0H0", "joy"), "unknown component 'joy'"),
    ):  # fmt: skip
        with pytest.raises(ComponentError, match=why):
            bench.metric([edge])


def test_only_paths_from_the_embedding_to_the_readout_count(model_of, prompts):
    e = str(E)
    path = {("embed", "L0H1"), ("L0H1", "L1N7"), ("L1N7", e)}
    loose = {("embed", "L1H0"), ("L0N4", "L1N7"), ("L0N4", e), ("L1N7", "L2N5"), ("embed", e)}
    assert trimmed(path | loose, e) == path
    assert nodes_of(path | loose, e) == (head(0, 1), neuron(1, 7))
    assert trimmed(loose, e) == frozenset()
    bench = EdgeBench(bench_of(model_of("llama"), prompts))
    first = bench.metric(path)
    spent = bench.forwards
    np.testing.assert_array_equal(bench.metric(path | loose), first)
    assert bench.forwards == spent  # known already


def test_the_price_of_a_run_is_small_for_few_nodes_and_grows_with_their_square(model_of, prompts):
    model = model_of("llama")
    bench = bench_of(model, prompts)
    few, all_ = run_price(bench, NODES[:2]), run_price(bench, (*model.heads, *model.neurons))
    assert 0 < few < 0.2
    assert all_ > 20 * few
    edges = EdgeBench(bench)
    edges.metric(edges_among(model, NODES[:2], str(E)))
    assert edges.forwards == pytest.approx(1 + few)


@pytest.mark.parametrize("kind", ["chain", "shared_head"])
def test_of_a_planted_circuit_the_true_edges_suffice_and_each_is_needed(kind):
    made = planted(kind, seed=1)
    for e, bench in Bench.every(Plan.of(made.model, made.prompts.split("test"), Ablation.MEAN_SCENARIO)).items():
        edges, truth = EdgeBench(bench), made.by_emotion[e].edges
        nodes = tuple(map(parse, made.by_emotion[e].nodes))
        assert edges.faithfulness(truth).value == pytest.approx(bench.faithfulness(nodes).value, abs=0.02)
        for edge in truth:
            assert edges.faithfulness(truth - {edge}).value < 0.2, edge
