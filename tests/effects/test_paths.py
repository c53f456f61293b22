"""Edge scores are numeric derivatives of path patching: perturb what one receiver reads, patch that receiver alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive, part_of, place_of
from families import ANSWERS

from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.measure import measure
from circuits.effects.own import own_texts
from circuits.effects.paths import EMBED, edge_scores
from circuits.model.anatomy import Model
from circuits.model.sites import Component, Half, Kind, head, neuron
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

NODES = (
    head(0, 1), neuron(0, 4), neuron(0, 19), head(1, 0), head(1, 3), neuron(1, 7), head(2, 2), neuron(2, 5),
)  # fmt: skip
ORDER = {component: number for number, component in enumerate(NODES)}


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(2), name="two", answers=ANSWERS)


def reaches(sender: Component, receiver: Component) -> bool:
    """A half-layer reads what earlier layers wrote, and an MLP also its own layer's attention (parallel or not,
    such a pair is named; in parallel blocks its score must be zero or absent)."""
    if sender.layer == receiver.layer:
        return sender.half is Half.ATTN and receiver.half is Half.MLP
    return sender.layer < receiver.layer


def loss_of(naive: Naive, sender: Component | None, ablation: Ablation, positions: Positions) -> torch.Tensor:
    """What the stream loses when the sender is replaced [prompt, pos, d_model]; None is the embedding."""
    if sender is not None:
        return naive.written(sender, ablation, positions)
    place = "blocks.0.hook_resid_pre"
    change = naive.seen(place) - naive.replaced(place, ablation)
    return change * naive.where(positions)[..., None]


def numeric(naive: Naive, loss: torch.Tensor, receiver: Component, share: float) -> np.ndarray:
    """Central difference of the metric while the receiver alone sees the stream lose ``share`` of ``loss``."""
    layer, place = receiver.layer, place_of(receiver)
    after = receiver.kind is Kind.NEURON and naive.model.capabilities.sequential
    source = f"blocks.{layer}.hook_resid_{'mid' if after else 'pre'}"
    metrics = []
    for step in (share, -share):
        wanted = naive.run({source: lambda x, s=step: x - s * loss}, see=(place,))[1][place]

        def patch(tensor: torch.Tensor, wanted: torch.Tensor = wanted) -> torch.Tensor:
            tensor = tensor.clone()
            tensor[part_of(receiver)] = wanted[part_of(receiver)]
            return tensor

        metrics.append(naive.metric({place: patch}))
    return ((metrics[1] - metrics[0]) / (2 * share)).numpy()


def scores_of(
    plan: Plan, e: Emotion, positions: Positions = Positions.ALL, nodes: tuple[Component, ...] = NODES
) -> dict[tuple[str, str], np.ndarray]:
    """Edge scores with one entry per text of ``e``, in the order of the prompts."""
    texts = own_texts(plan, positions)[e]
    rows = np.concatenate([piece.rows for piece in texts])
    assert sorted(rows) == list(np.flatnonzero(plan.prompts.emotions == e.column))
    scores = edge_scores(plan.model, plan.readout, texts, nodes, e)
    return {edge: value[np.argsort(rows)] for edge, value in scores.items()}


def check(model: Model, prompts: Prompts, ablation: Ablation, positions: Positions, share: float, close: float) -> None:
    naive = Naive(model, prompts)
    senders = (None, head(0, 1), neuron(0, 4), head(1, 3), neuron(1, 7))
    receivers = (neuron(0, 19), head(1, 0), neuron(1, 7), head(2, 2), neuron(2, 5))
    plan = Plan.of(model, prompts, ablation)
    wanted = {}
    for sender, receiver in product(senders, receivers):
        parallel_pair = sender is not None and sender.layer == receiver.layer and not model.capabilities.sequential
        if (sender is None or reaches(sender, receiver)) and not parallel_pair:
            name = EMBED if sender is None else sender.name
            loss = loss_of(naive, sender, ablation, positions)
            wanted[name, receiver.name] = numeric(naive, loss, receiver, share)
    assert len(wanted) >= 12
    largest = max(np.abs(value).max() for value in wanted.values())
    assert largest > 0.01
    for e in (EMOTIONS[0], EMOTIONS[4]):
        scores = scores_of(plan, e, positions)
        mine = [row for row, p in enumerate(prompts.rows) if p.emotion is e]
        for edge, value in wanted.items():
            np.testing.assert_allclose(
                scores[edge], value[mine, e.column], rtol=0, atol=close * largest, err_msg=str(edge)
            )


@pytest.mark.parametrize("positions", list(Positions))
@pytest.mark.parametrize("ablation", [Ablation.MEAN_SCENARIO, Ablation.ZERO])
def test_edges_are_derivatives_of_path_patching(ablation, positions, double, prompts):
    check(double, prompts, ablation, positions, share=1e-3, close=1e-5)


@pytest.mark.parametrize("ablation", [Ablation.MEAN_SCENARIO, Ablation.RESAMPLE])
@pytest.mark.parametrize("family", ["llama", "neox", "gemma2", "opt"])
def test_edges_are_derivatives_of_path_patching_in_other_families(family, ablation, model_of, prompts):
    check(model_of(family), prompts, ablation, Positions.ALL, share=2e-2, close=5e-3)


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma2"])
def test_the_edge_into_the_readout_is_the_direct_effect(family, model_of, prompts):
    model, e = model_of(family), EMOTIONS[3]
    scores = scores_of(Plan.of(model, prompts, Ablation.MEAN_SCENARIO), e)
    direct = measure(model, prompts, NODES, method="direct")
    for i, component in enumerate(NODES):
        wanted = direct.values[i, prompts.emotions == e.column, e.column]
        np.testing.assert_allclose(scores[component.name, str(e)], wanted, rtol=0, atol=1e-5)
    assert np.abs(direct.values).max() > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_exactly_the_possible_edges_are_scored(family, model_of, prompts):
    e = EMOTIONS[1]
    scores = scores_of(Plan.of(model_of(family), prompts, Ablation.MEAN_SCENARIO), e)
    possible = {(EMBED, c.name) for c in NODES} | {(c.name, str(e)) for c in NODES}
    possible |= {(s.name, r.name) for s in NODES for r in NODES if reaches(s, r)}
    assert set(scores) == possible
    assert all(value.shape == (2,) for value in scores.values())


def test_in_parallel_blocks_attention_does_not_reach_its_own_mlp(model_of, prompts):
    """The MLP of a parallel block reads ``resid_pre``: an edge from its own attention half is impossible."""
    e = EMOTIONS[1]
    scores = scores_of(Plan.of(model_of("neox"), prompts, Ablation.MEAN_SCENARIO), e)
    for sender, receiver in product(NODES, NODES):
        if sender.layer == receiver.layer:
            value = scores.get((sender.name, receiver.name), np.zeros(1))
            assert np.abs(value).max() == 0, (sender, receiver)


def test_the_order_of_nodes_and_batches_does_not_matter(model_of, prompts, monkeypatch):
    from circuits.effects import batch

    model, e = model_of("llama"), EMOTIONS[5]
    once = scores_of(Plan.of(model, prompts, Ablation.MEAN_SCENARIO), e)
    monkeypatch.setattr(batch, "_FLOATS_CPU", 1)
    plan = Plan.of(model, prompts, Ablation.MEAN_SCENARIO)
    assert len(plan) == 2
    again = scores_of(plan, e, nodes=NODES[::-1])
    assert set(again) == set(once)
    for edge, value in once.items():
        np.testing.assert_allclose(again[edge], value, rtol=0, atol=1e-6)
