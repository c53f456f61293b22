"""Exact weights of a circuit's edges: means and intervals of path patching over the emotion's own texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from families import ANSWERS, load_family

from circuits.circuit.edges import conditional_edges, exact_edges, matters, possible_edges
from circuits.circuit.evaluation import Bench
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.losses import EMBED, READOUT, Losses
from circuits.effects.own import own_texts
from circuits.effects.patching import patched_edges, path_effects
from circuits.effects.statistics import bootstrap
from circuits.effects.worlds import patched_in_world
from circuits.errors import ComponentError
from circuits.model.planted import planted
from circuits.model.sites import Input, Kind, Part, head, neuron, parse
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
    chosen = exact_edges(bench, NODES)[2:9:2]
    found = exact_edges(bench, NODES, chosen)
    assert len(found) == 4
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


# -- edges that show only without another node -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("positions", list(Positions))
def test_in_the_world_of_nothing_weights_are_those_of_path_patching(family, positions, model_of, tiny_prompts):
    model = model_of(family)
    bench, _ = bench_of(model, tiny_prompts, EMOTIONS[2], positions)
    edges = possible_edges(model, NODES)
    for texts in bench.texts:
        found = patched_in_world(model, bench.readout, texts, (), edges)
        wanted = patched_edges(Losses.of_texts(model, bench.readout, texts), edges)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


def test_in_a_world_weights_are_those_of_a_model_without_its_weights(tmp_path, tiny_prompts):
    """A head and a neuron whose output weights are zero are gone for good; under ``zero`` that is the world without them."""
    model, gone = load_family(tmp_path / "gpt2", "gpt2"), (head(0, 1), neuron(1, 7))
    nodes = tuple(c for c in NODES if c not in gone)
    edges = possible_edges(model, nodes)

    def texts():
        return own_texts(Plan.of(model, tiny_prompts, Ablation.ZERO), Positions.ALL)[EMOTIONS[0]]

    readout = Plan.of(model, tiny_prompts, Ablation.ZERO).readout
    found, whole = (
        [patched_in_world(model, readout, piece, without, edges) for piece in texts()] for without in (gone, ())
    )
    blocks = model.bridge.original_model.transformer.h
    with torch.no_grad():
        blocks[0].attn.c_proj.weight[model.d_head : 2 * model.d_head] = 0
        blocks[1].mlp.c_proj.weight[7] = 0
    wanted = [patched_edges(Losses.of_texts(model, readout, piece), edges) for piece in texts()]
    assert float((torch.cat(wanted) - torch.cat(whole)).abs().max()) > 1e-3
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)


def test_an_ablated_end_and_an_impossible_edge_are_refused(model_of, tiny_prompts):
    model = model_of("gpt2")
    bench, _ = bench_of(model, tiny_prompts, EMOTIONS[0])
    for edge, why in (
        ((head(0, 1), Input(neuron(1, 7))), "L0H1 is ablated in this world"),
        ((neuron(1, 7), Input(head(0, 2))), "L1N7 cannot reach L0H2 directly"),
        ((head(0, 2), Input(head(1, 0), Part.Q)), "is no whole head and no neuron"),
    ):
        with pytest.raises(ComponentError, match=why):
            patched_in_world(model, bench.readout, bench.texts[0], [head(0, 1)], [edge])


@pytest.mark.parametrize("kind", ["redundant", "backup"])
def test_edges_of_parts_that_stand_in_for_each_other_show_in_the_world_without_the_other(kind):
    made, e = planted(kind, seed=0), EMOTIONS[0]
    truth = made.by_emotion[e]
    nodes = tuple(sorted(parse(name) for name in truth.nodes))
    bench, _ = bench_of(made.model, made.prompts.split("select"), e)
    whole = {(edge.source, edge.target): edge for edge in exact_edges(bench, nodes)}
    found = {(edge.source, edge.target): edge for edge in conditional_edges(bench, nodes, share=0.01)}
    assert set(found) == set(whole)
    least = 0.01 * max(abs(edge.weight) for edge in found.values())
    assert {name for name, edge in found.items() if matters(edge, least)} == truth.edges
    heads = [c.name for c in nodes if c.kind is Kind.HEAD]
    for name in heads:
        # Repaired in the whole model; without the other head all there is (no cue below .9: 3 * (2 * .9 - .5) = 3.9).
        edge = found[EMBED, name]
        assert abs(whole[EMBED, name].weight) < 1e-4
        assert edge.kind == "conditional"
        assert abs(edge.weight) > 3
        assert edge.low > 0 or edge.high < 0
    # What shows in the whole model has its weight there.
    assert all(edge == whole[name] for name, edge in found.items() if edge.kind != "conditional")
    assert conditional_edges(bench, (), share=0.01) == ()
    unasked = {(x.source, x.target): x for x in conditional_edges(bench, nodes, share=0.01, worlds=())}
    assert unasked == whole
