"""Exact weights of a circuit's edges: means and intervals of path patching over the emotion's own texts."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS

from circuits.circuit.edges import choose_edges, exact_edges
from circuits.circuit.evaluation import Bench
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.losses import EMBED, READOUT
from circuits.effects.own import own_texts
from circuits.effects.patching import path_effects
from circuits.effects.statistics import bootstrap
from circuits.model.planted import planted
from circuits.model.sites import head, neuron, parse
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

NODES = (head(0, 1), neuron(0, 4), head(1, 0), neuron(1, 7), head(2, 2))


def bench_of(model, prompts: Prompts, e, positions: Positions = Positions.ALL) -> tuple[Bench, Plan]:
    plan = Plan.of(model, prompts, Ablation.MEAN_SCENARIO)
    return Bench(model, plan.readout, e, own_texts(plan, positions)[e]), plan


@pytest.mark.parametrize("positions", list(Positions))
def test_weights_and_intervals_are_those_of_path_patching_by_scenario(positions, model_of):
    model, e, prompts = model_of("llama"), EMOTIONS[1], Prompts.of(tiny_rows(8), name="eight", answers=ANSWERS)
    bench, plan = bench_of(model, prompts, e, positions)
    found = exact_edges(bench, NODES)
    sources = {(EMBED, c.name) for c in NODES} | {(c.name, str(e)) for c in NODES}
    inner = {("L0H1", "L0N4"), ("L1H0", "L1N7")} | {(s.name, r.name) for s in NODES for r in NODES if s.layer < r.layer}
    assert {(edge.source, edge.target) for edge in found} == sources | inner
    assert [abs(edge.weight) for edge in found] == sorted((abs(edge.weight) for edge in found), reverse=True)
    batches = list(plan.batches())
    for edge in found:
        ends = [(edge.source, READOUT if edge.target == str(e) else edge.target)]
        values = [path_effects(batch, ends, positions=positions)[0, :, e.column].numpy() for batch in batches]
        order = np.argsort(np.concatenate([batch.rows for batch in batches]))
        mine = np.concatenate(values)[order][prompts.emotions == e.column].astype(np.float64)
        assert edge.weight == pytest.approx(mine.mean(), abs=1e-5)
        low, high = bootstrap(mine[:, None])
        assert (edge.low, edge.high) == pytest.approx((low[0], high[0]), abs=1e-4)
        assert edge.kind == ("direct" if edge.target == str(e) else "exact")


def test_of_chosen_edges_those_alone_are_measured(model_of, tiny_prompts):
    bench, _ = bench_of(model_of("gpt2"), tiny_prompts, EMOTIONS[0])
    chosen = choose_edges(bench, NODES, share=0.2)
    found = exact_edges(bench, NODES, chosen)
    assert 0 < len(found) < 12
    assert {(edge.source, edge.target) for edge in found} == {(edge.source, edge.target) for edge in chosen}
    every = {(edge.source, edge.target): edge.weight for edge in exact_edges(bench, NODES)}
    assert all(edge.weight == pytest.approx(every[edge.source, edge.target], abs=1e-5) for edge in found)
    assert exact_edges(bench, (), ()) == ()


def test_the_planted_chain_is_the_strongest_of_all_edges():
    """On a model whose true edges are known they, and none beside them, have exact weights that matter."""
    made = planted("chain", seed=0)
    e = EMOTIONS[0]
    truth = made.by_emotion[e]
    nodes = tuple(sorted(parse(name) for name in truth.nodes))
    others = tuple(c for c in (*made.model.heads, *made.model.neurons) if c.name not in truth.nodes)[::7][:10]
    bench, _ = bench_of(made.model, made.prompts.split("test"), e)
    found = exact_edges(bench, (*nodes, *others))
    strongest = {(edge.source, edge.target) for edge in found[: len(truth.edges)]}
    assert strongest == set(truth.edges)
