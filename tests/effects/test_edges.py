"""First-order edges against autograd through hooks, numeric derivatives, and the sums they must have."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.branch import PARTS, answers_of, loss_of, patched, reachable, slope
from effects.naive import Naive, place_of
from families import ANSWERS

from circuits.effects.batch import Batch, Plan
from circuits.effects.edges import Along, EdgeScores, all_receivers, all_senders, gradient_edges, scored_edges
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.losses import EMBED, READOUT, Losses, receivers_in, senders_in
from circuits.effects.measure import measure
from circuits.effects.own import own_texts
from circuits.effects.paths import edge_scores
from circuits.errors import ComponentError, MeasurementError, UnsupportedModelError
from circuits.model.anatomy import Model
from circuits.model.sites import Input, Kind, head, neuron, parse, parse_input
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

SENDERS = (EMBED, "L0H1", "L0.mlp", "L0N4", "L0N19", "L1.attn", "L1H3", "L1N7", "L1.mlp", "L2H0")
RECEIVERS = (
    *(f"L{layer}H{index}<{part}>" for layer, index in ((0, 1), (1, 2), (2, 3)) for part in PARTS),
    "L1H2", "L2H0", "L0.mlp", "L1.mlp", "L2.mlp", "L0N19", "L1N7", "L2N5", "L2N11",
)  # fmt: skip
WHOLE = tuple(name for name in RECEIVERS if "<" not in name)
PLAIN = ("gpt2", "llama", "qwen3", "gemma2", "neox", "opt", "olmo2")
"""Grouped queries, norms of queries and keys (each head's, or all at once), post-norms, parallel blocks."""


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(2), name="two", answers=ANSWERS)


def batch_of(model: Model, prompts: Prompts, ablation: Ablation = Ablation.MEAN_SCENARIO) -> Batch:
    (batch,) = Plan.of(model, prompts, ablation).batches()
    return batch


def check(model, prompts, senders, receivers, ablation, positions) -> EdgeScores:
    naive = Naive(model, prompts)
    found = gradient_edges(batch_of(model, prompts, ablation), senders, receivers, positions=positions)
    losses = {sender: loss_of(naive, sender, ablation, positions) for sender in senders}
    slopes = {receiver: slope(naive, parse_input(receiver)) for receiver in receivers}
    wanted = {
        (s, r): torch.einsum("bpm,ebpm->be", losses[s], slopes[r]).numpy()
        for s, r in product(senders, receivers) if reachable(naive, s, r)
    }  # fmt: skip
    assert set(found) == set(wanted)
    assert len(found) == len(wanted) > 15
    largest = max(np.abs(value).max() for value in wanted.values())
    assert largest > 0.01
    for edge, value in wanted.items():
        np.testing.assert_allclose(found[edge], value, rtol=0, atol=1e-5 * largest, err_msg=str(edge))
    return found


@pytest.mark.parametrize("family", PLAIN)
def test_scores_are_inner_products_with_gradients_at_split_inputs(family, model_of, prompts):
    found = check(model_of(family), prompts, SENDERS, RECEIVERS, Ablation.MEAN_SCENARIO, Positions.ALL)
    strength = {part: max(np.abs(found[e]).max() for e in found if f"<{part}>" in e[1]) for part in PARTS}
    assert min(strength.values()) > 1e-4, "an oracle that sees no change proves nothing"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("ablation", "positions"), [(Ablation.RESAMPLE, Positions.READOUT), (Ablation.ZERO, Positions.ALL)]
)
def test_scores_follow_ablation_and_positions(ablation, positions, family, model_of, prompts):
    check(model_of(family), prompts, SENDERS, RECEIVERS, ablation, positions)


@pytest.mark.parametrize("family", ["bloom", "gpt_neo"])
def test_models_that_are_replayed_have_scores_of_whole_inputs(family, model_of, prompts):
    model = model_of(family)
    check(model, prompts, SENDERS, WHOLE, Ablation.MEAN_SCENARIO, Positions.ALL)
    with pytest.raises(UnsupportedModelError, match=r"L1H2<q>.*name the whole head"):
        gradient_edges(batch_of(model, prompts), [EMBED], ["L1H2<q>"])


def test_experts_have_scores_of_heads_and_whole_mlps(model_of, prompts):
    senders, receivers = (
        (EMBED, "L0H1", "L0.mlp", "L1.attn", "L1H3"),
        ("L0H0", "L1H2", "L2H3", "L0.mlp", "L1.mlp", "L2.mlp"),
    )
    check(model_of("mixtral"), prompts, senders, receivers, Ablation.MEAN_SCENARIO, Positions.ALL)


def test_scores_are_numeric_derivatives_in_float64(double, prompts):
    naive, ablation, share = Naive(double, prompts), Ablation.MEAN_SCENARIO, 1e-3
    found = gradient_edges(batch_of(double, prompts), SENDERS, RECEIVERS)
    largest = np.abs(found.values).max()
    for sender, receiver in product(
        (EMBED, "L0H1", "L0.mlp", "L1N7"), ("L1H2<q>", "L1H2<k>", "L2H3<v>", "L1.mlp", "L2N5")
    ):
        if not reachable(naive, sender, receiver):
            continue
        loss = loss_of(naive, sender, ablation)
        with torch.no_grad():
            less, more = (answers_of(naive, patched(naive, parse_input(receiver), s * share * loss)) for s in (-1, 1))
        wanted = ((more - less) / (2 * share)).numpy()
        np.testing.assert_allclose(
            found[sender, receiver], wanted, rtol=0, atol=1e-5 * largest, err_msg=f"{sender} {receiver}"
        )


@pytest.mark.parametrize("family", PLAIN)
def test_queries_keys_and_values_sum_to_the_whole_head(family, model_of, prompts):
    batch, heads = batch_of(model_of(family), prompts), model_of(family).heads
    parts = gradient_edges(batch, receivers=[Input(h, part) for h in heads for part in PARTS])
    whole = gradient_edges(batch, receivers=heads)
    sums = parts.values.reshape(len(parts.senders), len(heads), 3, *parts.values.shape[2:]).sum(2)
    assert np.abs(whole.values).max() > 0.01
    np.testing.assert_allclose(sums, whole.values, rtol=0, atol=1e-5 * np.abs(whole.values).max())


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox"])
def test_parts_sum_to_the_scores_among_the_nodes_of_a_circuit(family, model_of, prompts):
    model, e = model_of(family), EMOTIONS[2]
    nodes = (head(0, 1), neuron(0, 4), head(1, 0), neuron(1, 7), head(2, 2))
    texts = own_texts(Plan.of(model, prompts, Ablation.MEAN_SCENARIO), Positions.ALL)[e]
    (piece,) = texts
    scores = edge_scores(model, Plan.of(model, prompts, Ablation.MEAN_SCENARIO).readout, texts, nodes, e)
    parts = gradient_edges(batch_of(model, prompts), [EMBED, *nodes], [Input(head(2, 2), p) for p in PARTS], [e])
    for sender in (EMBED, "L0H1", "L0N4", "L1H0", "L1N7"):
        total = sum(parts[sender, f"L2H2<{part}>"][piece.rows, 0] for part in PARTS)
        np.testing.assert_allclose(total, scores[sender, "L2H2"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_edges_into_an_input_sum_to_the_change_of_all_that_it_reads(family, model_of, prompts):
    """Without post-norms every write is a sum of senders: replaced together they change the stream by the sum of losses."""
    model = model_of(family)
    batch = batch_of(model, prompts)
    found = gradient_edges(batch)
    losses = Losses.of_batch(batch, Positions.ALL)
    for receiver in ("L1H2<q>", "L2H1<v>", "L2.mlp"):
        place = parse_input(receiver)
        layer, after = place.component.layer, receiver == "L2.mlp" and model.capabilities.sequential
        change = losses.way.clone()
        for kind, upto in ((Kind.ATTN, layer + after), (Kind.MLP, layer)):
            for below in range(upto):
                change += losses.amounts(kind, below)
        run = batch.resume.branches(batch.run.embed)
        with torch.enable_grad():
            metric = batch.readout(run.final)[:, 3].sum()
        slopes = run.pull(metric, keep=False).at([place])[0]
        wanted = (change * slopes).sum((1, 2)).numpy()
        total = found.values[:, found.receivers.index(receiver), :, 3].sum(0)
        np.testing.assert_allclose(total, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_edges_into_the_readout_are_direct_effects(family, model_of, prompts):
    model = model_of(family)
    some = (*model.heads, *model.sublayers, neuron(1, 3))
    found = gradient_edges(batch_of(model, prompts), some, [READOUT])
    direct = measure(model, prompts, some, method="direct").on(prompts)
    for component, value in zip(direct.components, direct.values, strict=True):
        np.testing.assert_allclose(found[component.name, READOUT], value, rtol=0, atol=1e-5)


def test_integrated_scores_are_means_over_midpoints_of_the_embedding(model_of, prompts):
    model = model_of("llama")
    batch, naive = batch_of(model, prompts), Naive(model, prompts)
    found = gradient_edges(batch, SENDERS, RECEIVERS, steps=3)
    losses = {sender: loss_of(naive, sender, Ablation.MEAN_SCENARIO) for sender in SENDERS}
    way, total = losses[EMBED], {}
    for share in (1 / 6, 3 / 6, 5 / 6):
        run = batch.resume.branches(naive.seen("blocks.0.hook_resid_pre") - (1 - share) * way)
        with torch.enable_grad():
            metric = batch.readout(run.final)[:, 1].sum()
        slopes = run.pull(metric, keep=False)
        for receiver in RECEIVERS:
            total[receiver] = total.get(receiver, 0) + slopes.at([parse_input(receiver)])[0] / 3
    for sender, receiver in found:
        wanted = (losses[sender] * total[receiver]).sum((1, 2)).numpy()
        np.testing.assert_allclose(found[sender, receiver][:, 1], wanted, rtol=0, atol=1e-5)
    plain = gradient_edges(batch, SENDERS, RECEIVERS)
    assert np.abs(plain.values - found.values).max() > 0.01 * np.abs(plain.values).max()


@pytest.mark.parametrize(
    "family", ["gemma2", *(pytest.param(f, marks=pytest.mark.exhaustive) for f in ("llama", "neox", "gpt_neo"))]
)
def test_integrated_along_activations_slopes_are_means_while_one_half_layer_moves(family, model_of, prompts):
    """By hooks: the senders' own place between replaced and clean, the reader's gradient there by autograd."""
    model, ablation, steps = model_of(family), Ablation.MEAN_SCENARIO, 2
    naive, receivers = Naive(model, prompts), WHOLE if family == "gpt_neo" else RECEIVERS
    found = gradient_edges(batch_of(model, prompts), SENDERS, receivers, steps=steps, along=Along.ACTIVATIONS)
    largest = np.abs(found.values).max()
    real, seen = naive.where(Positions.ALL), 0.0
    for sender, receiver in found:
        if sender == EMBED:
            continue
        loss, place = loss_of(naive, sender, ablation), place_of(parse(sender))
        moved = [naive.seen(place) + s * (naive.replaced(place, ablation) - naive.seen(place)) for s in (3 / 4, 1 / 4)]
        given = [
            {place: lambda tensor, m=m: torch.where(real.reshape(*real.shape, *[1] * (m.dim() - 2)), m, tensor)}
            for m in moved
        ]
        slopes = torch.stack([slope(naive, parse_input(receiver), edits) for edits in given]).mean(0)
        wanted = torch.einsum("bpm,ebpm->be", loss, slopes).numpy()
        np.testing.assert_allclose(
            found[sender, receiver], wanted, rtol=0, atol=1e-5 * largest, err_msg=f"{sender} {receiver}"
        )
        seen = max(seen, float(np.abs(wanted).max()))
    inputs = gradient_edges(batch_of(model, prompts), SENDERS, receivers, steps=steps)
    np.testing.assert_allclose(
        found.values[0], inputs.values[0], rtol=0, atol=1e-6 * largest
    )  # from the embedding: one path
    assert seen > 0.1 * largest
    assert np.abs(found.values - inputs.values).max() > 0.01 * largest


def test_where_nothing_bends_the_integrated_score_is_the_plain_one(model_of, prompts):
    """Into the last MLP's only reader, the read-out, there is nothing to integrate: both are the exact direct effect."""
    batch = batch_of(model_of("gpt2"), prompts)
    a, b = (gradient_edges(batch, None, [READOUT], steps=steps) for steps in (0, 2))
    np.testing.assert_array_equal(a.values, b.values)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_blocks_of_senders_and_receivers_do_not_matter(family, model_of, prompts, monkeypatch):
    from circuits.effects import edges

    batch = batch_of(model_of(family), prompts)
    whole = gradient_edges(batch, SENDERS, RECEIVERS)
    monkeypatch.setattr(edges, "_FLOATS", 3 * batch.run.embed.numel())
    monkeypatch.setattr(edges, "_BLOCKS", 1)
    parts = gradient_edges(batch, SENDERS[::-1], RECEIVERS[::-1])
    assert (parts.senders, parts.receivers) == (whole.senders, whole.receivers)
    np.testing.assert_allclose(parts.values, whole.values, rtol=0, atol=1e-6)


def test_the_lists_of_everything_have_the_names_of_everything(model_of, prompts):
    model = model_of("llama")
    assert [str(s) for s in all_senders(model)] == [EMBED, *(h.name for h in model.heads), "L0.mlp", "L1.mlp", "L2.mlp"]
    found = gradient_edges(batch_of(model, prompts), emotions=EMOTIONS[:1])
    assert set(found.receivers) == {str(r) for r in all_receivers(model)}
    assert found.receivers[-1] == READOUT
    assert len(found.receivers) == 12 * 3 + 3 + 1
    # embed reaches all; a layer's heads and MLP what is above them, heads also their own MLP.
    per_layer = [4 * (1 + 2 * 13 + 1) + 27, 4 * (1 + 13 + 1) + 14, 4 * (1 + 1) + 1]
    assert len(found) == 40 + sum(per_layer)


@pytest.mark.parametrize(
    ("senders", "receivers", "message"),
    [
        (["L0H9"], ["L1H0"], "has no component L0H9"),
        (["nothing"], ["L1H0"], "unknown component 'nothing'"),
        ([EMBED], ["L1H0<z>"], "unknown input 'L1H0<z>'"),
        ([EMBED], ["L1.attn"], "reads through its heads"),
        ([EMBED], ["L1.mlp<q>"], "only heads have q, k and v"),
        ([EMBED, EMBED], ["L1H0"], "embed is listed twice"),
        ([EMBED], ["L1H0<q>", "L1H0<q>"], "L1H0<q> is listed twice"),
    ],
)
def test_wrong_names_are_refused(senders, receivers, message, model_of, prompts):
    with pytest.raises(ComponentError, match=message):
        gradient_edges(batch_of(model_of("gpt2"), prompts), senders, receivers)


def test_an_edge_that_cannot_be_is_no_number(model_of, prompts):
    found = gradient_edges(batch_of(model_of("gpt2"), prompts), ["L1H0"], ["L0H1", "L2H1"])
    assert list(found) == [("L1H0", "L2H1")]
    with pytest.raises(KeyError, match="L1H0 cannot reach L0H1"):
        found["L1H0", "L0H1"]


def test_texts_of_one_emotion_have_no_replacement_for_half_layers(model_of, prompts):
    model = model_of("gpt2")
    plan = Plan.of(model, prompts, Ablation.MEAN_SCENARIO)
    losses = Losses.of_texts(model, plan.readout, own_texts(plan, Positions.ALL)[EMOTIONS[0]][0])
    with pytest.raises(MeasurementError, match="name heads and neurons"):
        scored_edges(losses, senders_in(model, ["L0.mlp"]), receivers_in(model, ["L1H0"]), EMOTIONS[:1])
