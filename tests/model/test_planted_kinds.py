"""Planted circuits whose parts stand in for each other or change with the context: numbers worked by hand, row by row.

Every number is the loss of the emotion's logit difference in its own row when a set of components is ablated, written as
a formula in the strength s of the row's cue. What is ablated leaves a share of its own value behind: a sixth under
``mean_scenario`` (nothing of it is in the other five texts), nothing under ``zero``.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from model.worked import (
    BOTH,
    CONTEXTUAL,
    NEW,
    SHOWN,
    WORKED,
    ZERO,
    benches,
    everything,
    loss,
    made,
    roles,
    rows_of,
    shares,
)

from circuits.effects.kinds import Ablation, Method
from circuits.effects.measure import measure
from circuits.model.planted import Planted
from circuits.model.planted.board import EMBED
from circuits.model.planted.texts import CUES
from circuits.model.running import record
from circuits.model.sites import Component, Kind, parse
from circuits.prompts.emotions import EMOTIONS, Emotion

MANY = [pytest.param(k, s, marks=[pytest.mark.slow] * (s > 0)) for k, s in itertools.product(NEW, range(5))]
"""Five seeds of each kind, the first in every run of the tests."""


def test_the_formulas_give_the_numbers_of_the_docstrings():
    for (kind, gone), (mean, zero) in SHOWN.items():
        assert WORKED[kind][gone](1.2, 1 / 6, True) == pytest.approx(mean, abs=1e-9), (kind, gone)
        assert WORKED[kind][gone](1.2, 0, True) == pytest.approx(zero, abs=1e-9), (kind, gone)


@pytest.mark.parametrize(("kind", "seed"), MANY)
def test_every_row_loses_what_the_worked_example_says(kind, seed):
    p = made(kind, seed)
    mixed = 0
    for context, e, ablation in itertools.product(p.by_context, EMOTIONS, BOTH):
        parts, own = roles(p, context, e), rows_of(p, context, e)
        k = 1 / 6 if ablation is Ablation.MEAN_SCENARIO else 0
        found = loss(p, ablation, context, e, [{parts[role] for role in gone} for gone in WORKED[kind]])
        expected = [[formula(row.strength, k, row.mixed) for row in own] for formula in WORKED[kind].values()]
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        mixed += sum(row.mixed for row in own)
    assert (mixed > 0) == (kind == "inhibitor")


@pytest.mark.parametrize(("kind", "seed"), MANY)
def test_the_circuit_alone_keeps_the_metric_and_the_rest_has_none(kind, seed):
    p = made(kind, seed, scenarios=48)
    for ablation in BOTH:
        kept, left = shares(p, ablation)
        assert kept.min() > 0.95, ablation  # what is missing or too much is chance: the noise components
        assert kept.max() < 1.05, ablation
        assert np.abs(left).max() < 0.1, ablation


def circuit_and_noise_are_all_there_is(p: Planted) -> None:
    """Row by row, exactly; and under ``zero`` the emotion's own part of the circuit is enough for it."""
    noise = {parse(name) for name in p.noise}
    for context, ablation in itertools.product(p.by_context, BOTH):
        for e, bench in benches(p, ablation, context).items():
            truth = p.by_context[context][e] if ablation is Ablation.ZERO else p
            kept = bench.metric({parse(name) for name in truth.nodes} | noise)
            np.testing.assert_allclose(kept, bench.whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", NEW)
def test_the_circuit_with_the_noise_components_is_the_whole_model(kind):
    circuit_and_noise_are_all_there_is(made(kind))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["medium", pytest.param("large", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", ["chain", "shared_head", *NEW])
def test_larger_models_hold_the_same(kind, size):
    for seed in range(2 if size == "medium" else 1):
        p = made(kind, seed, size)
        circuit_and_noise_are_all_there_is(p)
        if kind in NEW:
            e = EMOTIONS[seed]
            for context in p.by_context:
                parts = roles(p, context, e)
                found = loss(p, Ablation.ZERO, context, e, [{parts[r] for r in gone} for gone in WORKED[kind]])
                own = rows_of(p, context, e)
                expected = [[formula(row.strength, 0, row.mixed) for row in own] for formula in WORKED[kind].values()]
                np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", NEW)
def test_every_true_node_matters_once_a_partner_is_gone(kind):
    """The larger of a node's effect on the whole model and on the model without one other true node."""
    p = made(kind)
    for context, e in itertools.product(p.by_context, EMOTIONS):
        nodes = {parse(name) for name in p.by_context[context][e].nodes}
        whole = benches(p, Ablation.ZERO, context)[e].whole.mean()
        for node in nodes:
            partners = [set(), *({other} for other in nodes - {node})]
            found = loss(p, Ablation.ZERO, context, e, [s | {node} for s in partners] + partners).mean(1)
            assert np.abs(found[: len(partners)] - found[len(partners) :]).max() > 0.25 * whole, node


def reads(p: Planted, c: Component) -> torch.Tensor:
    """The directions of the stream a component looks at, one below the other."""
    block = p.model.bridge.blocks[c.layer]
    if c.kind is Kind.NEURON:
        return torch.stack([block.mlp.W_gate[:, c.index], block.mlp.W_in[:, c.index]])
    return torch.cat([block.attn.W_Q[c.index].T, block.attn.W_K[c.index].T, block.attn.W_V[c.index].T])


def writes(p: Planted, c: Component) -> torch.Tensor:
    """The directions of the stream a component adds to."""
    return p.model.W_out(c.layer)[c.index][None] if c.kind is Kind.NEURON else p.model.W_O(c.layer)[c.index]


@pytest.mark.parametrize(("kind", "seed"), list(itertools.product(["chain", "shared_head", *NEW], range(3))))
def test_the_true_edges_are_those_of_the_weights(kind, seed):
    """Between nodes that act in a context: the source writes where the target reads, and only along true edges."""
    p = made(kind, seed)
    ids = {e: p.model.tokenizer.convert_tokens_to_ids(p.prompts.answers[e][0]) for e in EMOTIONS}
    answers = p.model.bridge.unembed.W_U[:, list(ids.values())].T.detach()
    cues = {w: p.model.bridge.embed.W_E[p.model.tokenizer.convert_tokens_to_ids(w)] for ws in CUES.values() for w in ws}
    mean = torch.stack([cues[w] for ws in CUES.values() for w in ws[:4]]).mean(0)
    for context, e in itertools.product(p.by_context, EMOTIONS):
        truth = p.by_context[context][e]
        cue = torch.stack([cues[w] for w in CUES[e][:4]]) - mean
        found = set()
        for name in truth.nodes:
            node = parse(name)
            # Neurons read the constant one, which tells no emotions apart; a head's query and key read the cue's mark.
            if (cue @ reads(p, node).T).abs().max() > 0.1:
                found.add((EMBED, name))
            if (writes(p, node) @ answers.T)[:, e.column].abs().max() > 0.1:
                found.add((name, e.value))
            for other in truth.nodes - {name}:
                target = parse(other)
                later = target.layer > node.layer or (target.layer == node.layer and "H" in name and "N" in other)
                if later and (writes(p, node) @ reads(p, target).T).abs().max() > 0.1:
                    found.add((name, other))
        assert found == truth.edges


@pytest.mark.parametrize("kind", NEW)
def test_everything_else_is_active_as_heavy_and_without_effect(kind):
    p = made(kind)
    idle = everything(p) - {parse(name) for name in p.nodes | p.noise}
    names = sorted(map(str, idle))
    for ablation in BOTH:
        values = measure(p.model, p.prompts, names, ablation=ablation).values
        own = values[:, np.arange(len(p.prompts)), p.prompts.emotions]
        assert np.abs(own).max() < ZERO
    streams = record(p.model, p.model.encode(p.prompts.texts)).streams
    loud: list[bool] = []
    for c in idle:
        acts = (streams.z if c.kind is Kind.HEAD else streams.post)[c.layer][:, :, c.index]
        assert acts.abs().max() > 0, c
        loud.append(bool(acts.abs().max() > 0.25))
        length = writes(p, c).norm(dim=1)
        if c.kind is Kind.NEURON:
            torch.testing.assert_close(length, torch.ones_like(length), atol=1e-5, rtol=0)
        else:
            assert length.pow(2).sum().sqrt() == pytest.approx(6**0.5, abs=1e-4)  # six contents of length 1
    assert np.mean(loud) > 0.9
    for name in p.nodes:
        length = writes(p, parse(name)).pow(2).sum().sqrt()
        assert length == pytest.approx(1 if "N" in name else 6**0.5, abs=1e-4)


def test_what_single_effects_and_gradients_see_of_redundant_and_backup_heads():
    """The statement in the docstrings of the two kinds, about every method there is."""
    for kind in ("redundant", "backup"):
        p, e = made(kind), Emotion.ANGER
        parts = roles(p, "", e)
        own = p.prompts.emotions == e.column
        seen = {}
        for method in (Method.EXACT, Method.GRADIENT, Method.IG_INPUTS, Method.IG_ACTIVATIONS):
            values = measure(p.model, p.prompts, list(parts.values()), method=method).values
            seen[method] = dict(zip(parts, values[:, own, e.column].mean(1), strict=True))
        heads = ("a", "b") if kind == "redundant" else ("first", "second")
        assert all(abs(seen[Method.EXACT][head]) < ZERO for head in heads)
        if kind == "redundant":
            assert all(abs(seen[Method.GRADIENT][head]) < 1e-3 for head in heads)
            assert all(seen[m][head] > 1 for head in heads for m in (Method.IG_INPUTS, Method.IG_ACTIVATIONS))
        else:
            assert all(found["first"] > 4 for method, found in seen.items() if method is not Method.EXACT)
            assert all(abs(found[role]) < ZERO for found in seen.values() for role in ("second", "spare"))


def test_contexts_tell_the_same_scenarios_with_the_same_cues():
    for kind in CONTEXTUAL:
        p = made(kind)
        assert tuple(p.by_context) == ("inward", "outward")
        assert p.prompts.n_scenarios == 6
        assert len(p.prompts) == 72
        for e in EMOTIONS:
            inward, outward = (rows_of(p, context, e) for context in p.by_context)
            assert [(row.scenario, row.cue) for row in inward] == [(row.scenario, row.cue) for row in outward]
            both = [p.by_context[context][e] for context in p.by_context]
            assert both[0].nodes != both[1].nodes
            assert p.by_emotion[e].nodes == both[0].nodes | both[1].nodes
            assert p.by_emotion[e].edges == both[0].edges | both[1].edges
            assert len(both[0].nodes & both[1].nodes) == (kind == "forked")
    assert made("redundant").by_context == {"": made("redundant").by_emotion}


def moved(p: Planted, context: str, e: Emotion) -> torch.Tensor:
    """Mean write of the context's head for the emotion at the read-out, minus that for all emotions; of length 1."""
    head = roles(p, context, e)["head"]
    tokens = p.model.encode(p.prompts.texts)
    z = tokens.at_readout(record(p.model, tokens).streams.z[head.layer])[:, head.index]
    written = z @ p.model.W_O(head.layer)[head.index]
    there = np.array([row.valence == context for row in p.prompts.rows])
    delta = written[there & (p.prompts.emotions == e.column)].mean(0) - written[there].mean(0)
    return delta / delta.norm()


@pytest.mark.parametrize(("kind", "cosine"), [("composite", 1), ("forked", 1), ("two_directions", 0)])
def test_the_moved_emotion_is_one_direction_or_two(kind, cosine):
    p = made(kind)
    for e in EMOTIONS:
        # Centring on six unequal strengths turns a direction by little; the two contexts alike.
        assert moved(p, "inward", e) @ moved(p, "outward", e) == pytest.approx(cosine, abs=0.01)
