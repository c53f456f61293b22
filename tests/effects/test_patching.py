"""Exact weights of edges against path patching by hooks, one edge at a time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.branch import answers_of, loss_of, patched, reachable
from effects.naive import Naive
from families import ANSWERS

from circuits.effects.batch import Batch, Plan
from circuits.effects.edges import gradient_edges
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.losses import EMBED, READOUT, Losses
from circuits.effects.measure import measure
from circuits.effects.own import own_texts
from circuits.effects.patching import patched_edges, path_effects
from circuits.errors import ComponentError, MeasurementError, UnsupportedModelError
from circuits.model.anatomy import Model
from circuits.model.sites import head, neuron, parse_input
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

SENDERS = (EMBED, "L0H1", "L0.mlp", "L0N4", "L1.attn", "L1H3", "L1N7")
RECEIVERS = (
    "L0H1",
    "L0N19",
    "L1H2",
    "L1H2<q>",
    "L1H2<k>",
    "L1H2<v>",
    "L1.mlp",
    "L1N7",
    "L2H3",
    "L2H3<k>",
    "L2N5",
    READOUT,
)
PLAIN = ("gpt2", "llama", "qwen3", "gemma2", "neox", "opt", "olmo2")


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(2), name="two", answers=ANSWERS)


def batch_of(model: Model, prompts: Prompts, ablation: Ablation = Ablation.MEAN_SCENARIO) -> Batch:
    (batch,) = Plan.of(model, prompts, ablation).batches()
    return batch


def possible(naive: Naive, senders=SENDERS, receivers=RECEIVERS) -> list[tuple[str, str]]:
    return [(s, r) for s, r in product(senders, receivers) if reachable(naive, s, r)]


def naively(naive: Naive, edges: list[tuple[str, str]], ablation: Ablation, positions: Positions) -> np.ndarray:
    losses = {sender: loss_of(naive, sender, ablation, positions) for sender, _ in edges}
    last = f"blocks.{naive.model.n_layers - 1}.hook_resid_post"
    values = []
    for sender, receiver in edges:
        if receiver == READOUT:
            # Other tokens' streams reach no logit at the read-out behind the last block.
            metric = naive.metric({last: lambda x, s=sender: x - losses[s]})
        else:
            with torch.no_grad():
                metric = answers_of(naive, patched(naive, parse_input(receiver), -losses[sender]))
        values.append(naive.clean - metric)
    return torch.stack(values).numpy()


def check(model: Model, prompts: Prompts, ablation: Ablation, positions: Positions, **ends: tuple[str, ...]) -> None:
    naive = Naive(model, prompts)
    edges = possible(naive, **ends)
    found = path_effects(batch_of(model, prompts, ablation), edges, positions=positions).numpy()
    wanted = naively(naive, edges, ablation, positions)
    largest = np.abs(wanted).max()
    assert largest > 0.01
    assert (np.abs(wanted).max((1, 2)) > 1e-5 * largest).mean() > 0.5
    for edge, one, other in zip(edges, found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1, largest), err_msg=str(edge))


@pytest.mark.parametrize("family", PLAIN)
def test_weights_are_those_of_hooks_that_change_what_one_input_reads(family, model_of, prompts):
    check(model_of(family), prompts, Ablation.MEAN_SCENARIO, Positions.ALL)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize(
    ("ablation", "positions"), [(Ablation.RESAMPLE, Positions.READOUT), (Ablation.ZERO, Positions.ALL)]
)
def test_weights_follow_ablation_and_positions(ablation, positions, family, model_of, prompts):
    check(model_of(family), prompts, ablation, positions)


@pytest.mark.parametrize("family", ["bloom", "gpt_neo"])
def test_models_that_are_replayed_have_weights_of_whole_inputs(family, model_of, prompts):
    whole = tuple(name for name in RECEIVERS if "<" not in name)
    for positions in Positions:
        check(model_of(family), prompts, Ablation.MEAN_SCENARIO, positions, receivers=whole)
    with pytest.raises(UnsupportedModelError, match=r"L1H2<q>.*name the whole head"):
        path_effects(batch_of(model_of(family), prompts), [(EMBED, "L1H2<q>")])


def test_experts_have_weights_of_heads_and_whole_mlps(model_of, prompts):
    ends = {
        "senders": (EMBED, "L0H1", "L0.mlp", "L1H3"),
        "receivers": ("L0H0", "L1H2", "L1.mlp", "L2H3", "L2.mlp", READOUT),
    }
    check(model_of("mixtral"), prompts, Ablation.MEAN_SCENARIO, Positions.ALL, **ends)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_order_and_chunks_of_edges_do_not_matter(family, model_of, prompts):
    batch, edges = batch_of(model_of(family), prompts), possible(Naive(model_of(family), prompts))
    whole = path_effects(batch, edges)
    for size in (1, 5):
        back = path_effects(batch, edges[::-1], size=size).flip(0)
        np.testing.assert_allclose(back, whole, rtol=0, atol=2e-6)


def test_a_small_change_has_the_weight_that_its_gradient_says(model_of, prompts):
    """Replacement values a small step from the clean ones: the exact weight is then the first-order score."""
    batch, share = batch_of(model_of("gpt2"), prompts), 3e-2
    losses = Losses.of_batch(batch, Positions.ALL)
    nearer = {
        kind: [clean + share * (new - clean) for clean, new in zip(batch.run.streams.of(kind), tensors, strict=True)]
        for kind, tensors in losses.replaced.items()
    }
    embed = batch.run.embed + share * (batch.replaced_embed - batch.run.embed)
    near = Losses(batch.model, batch.readout, batch.resume, losses.where, embed, nearer)
    edges = [e for e in possible(Naive(batch.model, prompts)) if e[1] != READOUT]
    first = gradient_edges(batch, SENDERS, [r for r in RECEIVERS if r != READOUT])
    exact = patched_edges(near, edges).numpy() / share
    wanted = np.stack([first[edge] for edge in edges])
    np.testing.assert_allclose(exact, wanted, rtol=0, atol=3e-2 * np.abs(wanted).max())


def test_edges_into_the_readout_are_direct_effects(model_of, prompts):
    model = model_of("gemma2")
    some = (head(0, 2), neuron(1, 3), *model.sublayers)
    found = path_effects(batch_of(model, prompts), [(c, READOUT) for c in some])
    np.testing.assert_allclose(found, measure(model, prompts, some, method="direct").values, rtol=0, atol=1e-5)


def test_texts_of_one_emotion_have_the_weights_they_have_among_all(model_of, prompts):
    model, e = model_of("llama"), EMOTIONS[4]
    plan = Plan.of(model, prompts, Ablation.MEAN_SCENARIO)
    (piece,) = own_texts(plan, Positions.ALL)[e]
    edges = [(EMBED, "L0N3"), ("L0H1", "L1H2"), ("L0N4", "L2H3<v>"), ("L1H3", READOUT)]
    own = patched_edges(Losses.of_texts(model, plan.readout, piece), edges)
    whole = path_effects(batch_of(model, prompts), edges)
    np.testing.assert_allclose(own, whole[:, torch.tensor(piece.rows)], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (("L1H0", "L1H1"), "L1H0 cannot reach L1H1 directly"),
        (("L2N0", "L1H1<q>"), "L2N0 cannot reach L1H1<q> directly"),
        (("L0H0", "L7H0"), "has no component L7H0"),
        (("readout", "L1H0"), "unknown component 'readout'"),
        ((EMBED, "L1.attn"), "reads through its heads"),
    ],
)
def test_edges_that_cannot_be_are_refused(edge, message, model_of, prompts):
    with pytest.raises(ComponentError, match=message):
        path_effects(batch_of(model_of("gpt2"), prompts), [edge])


def test_in_parallel_blocks_a_head_cannot_reach_its_own_mlp(model_of, prompts):
    with pytest.raises(ComponentError, match=r"L1H0 cannot reach L1\.mlp"):
        path_effects(batch_of(model_of("neox"), prompts), [("L1H0", "L1.mlp")])


def test_a_weight_that_is_no_number_names_its_edge(model_of, prompts):
    batch = batch_of(model_of("gpt2"), prompts)
    losses = Losses.of_batch(batch, Positions.ALL)
    broken = Losses(
        batch.model, batch.readout, batch.resume, losses.where, torch.full_like(losses.embed, torch.nan), {}
    )
    with pytest.raises(MeasurementError, match="the edge embed to L1H0 is not finite on text 0"):
        patched_edges(broken, [(EMBED, "L1H0")])


def test_no_edge_is_no_work(model_of, prompts):
    assert path_effects(batch_of(model_of("gpt2"), prompts), []).shape == (0, 12, 6)
