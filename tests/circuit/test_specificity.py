"""The 6x6 matrix by loops and by hand, overlaps by counting, perplexity by hooks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from families import ANSWERS

from circuits.circuit.cost import Neutral, language_cost
from circuits.circuit.estimates import randoms
from circuits.circuit.evaluation import Bench
from circuits.circuit.specificity import overlap, specificity
from circuits.circuit.stability import jaccard
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation
from circuits.errors import ComponentError, MeasurementError, PromptError, SettingsError
from circuits.model.planted import Planted, planted
from circuits.model.sites import Component, Kind, head, neuron
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion


@pytest.fixture(scope="module")
def shared() -> Planted:
    return planted("shared_head", seed=1)


@pytest.fixture(scope="module")
def benches(shared) -> dict[Emotion, Bench]:
    return Bench.every(Plan.of(shared.model, shared.prompts.split("test"), Ablation.MEAN_SCENARIO))


@pytest.fixture(scope="module")
def circuits(shared) -> dict[Emotion, tuple[Component, ...]]:
    everything = (*shared.model.heads, *shared.model.neurons)
    return {e: tuple(c for c in everything if c.name in shared.by_emotion[e].nodes) for e in EMOTIONS}


# -- the matrix ------------------------------------------------------------------------------------------------------


def test_each_entry_is_the_columns_loss_without_the_rows_circuit(shared, benches, circuits):
    found = specificity(benches, circuits, count=3, seed=2)
    everything = {*shared.model.heads, *shared.model.neurons}
    assert list(found.loss) == [(a, b) for a in EMOTIONS for b in EMOTIONS]
    for (a, b), one in found.loss.items():
        lost = benches[b].whole - benches[b].metric(everything - set(circuits[a]))
        assert one.value == pytest.approx(lost.mean(), abs=1e-5)
        others = [
            (benches[b].whole - benches[b].metric(everything - some)).mean()
            for some in randoms(shared.model, circuits[a], count=3, seed=2 + a.column)
        ]
        assert found.random[a, b][0] == pytest.approx(np.mean(others), abs=1e-5)


def test_a_circuit_costs_its_own_and_its_partner_and_no_one_else(shared, benches, circuits):
    found = specificity(benches, circuits, count=5)
    for a in EMOTIONS:
        partner = next(b for b in EMOTIONS if b is not a and set(circuits[a]) & set(circuits[b]))
        own = found.loss[a, a].value
        assert own > 2
        assert found.loss[a, partner].value > 0.7 * own  # the head they share
        rest = [found.loss[a, b].value for b in EMOTIONS if b not in (a, partner)]
        assert max(map(abs, rest)) < 0.1 * own  # shadows
        # Of five others one is lost as well: four fifths are left, less the neuron's own sixth.
        assert found.own[a].low > 0.4
        assert found.own[a].n == benches[a].n
    as_dict = found.as_dict()
    assert len(as_dict["loss"]) == 36
    assert as_dict["random_n"] == 5


def test_empty_circuits_have_no_row_and_all_empty_is_an_error(benches, circuits):
    some = {**circuits, EMOTIONS[0]: ()}
    found = specificity(benches, some, count=1)
    assert {a for a, _ in found.loss} == set(EMOTIONS[1:])
    with pytest.raises(MeasurementError, match="all circuits are empty"):
        specificity(benches, dict.fromkeys(EMOTIONS, ()), count=1)
    with pytest.raises(ComponentError, match="has no component L8H0"):
        specificity(benches, {**circuits, EMOTIONS[1]: (head(8, 0),)}, count=1)
    with pytest.raises(SettingsError, match="random circuits is 0"):
        specificity(benches, circuits, count=0)


def test_where_an_emotion_is_not_told_apart_there_is_no_share(benches, circuits, monkeypatch):
    monkeypatch.setattr(benches[EMOTIONS[2]], "whole", benches[EMOTIONS[2]].empty)
    found = specificity(benches, circuits, count=1)
    assert np.isnan(found.own[EMOTIONS[2]].value)
    # The others are held against one another.
    told = [f for f in EMOTIONS if f is not EMOTIONS[2]]
    a = EMOTIONS[0]
    shares = {f: found.loss[a, f].value / (benches[f].whole - benches[f].empty).mean() for f in told}
    rest = np.mean([shares[f] for f in told if f is not a])
    assert found.own[a].value == pytest.approx(shares[a] - rest)
    assert found.own[a].low <= found.own[a].value <= found.own[a].high


# -- overlap ---------------------------------------------------------------------------------------------------------


def test_shared_heads_are_in_two_circuits_and_neurons_in_one(shared, circuits):
    found = overlap(shared.model, circuits, draws=50)
    assert found.core == ()
    assert found.n == 6
    for e in EMOTIONS:
        assert [c.kind for c in found.only[e]] == [Kind.NEURON]
    for (a, b), (value, chance) in found.pairs.items():
        assert value == jaccard(circuits[a], circuits[b])
        assert value in (0, pytest.approx(1 / 3))
        assert 0 <= chance < 0.3
    assert sum(value > 0 for value, _ in found.pairs.values()) == 3


def test_the_core_is_in_all_and_its_chance_level_is_that_of_random_circuits(model_of):
    model = model_of("gpt2")
    sets = {e: (head(0, 1), head(0, 2), neuron(1, e.column)) for e in EMOTIONS[:2]}
    found = overlap(model, sets, draws=4000)
    assert found.core == (head(0, 1), head(0, 2))
    assert found.only == {e: (neuron(1, e.column),) for e in EMOTIONS[:2]}
    # Two of four heads twice share one on average, one of 24 neurons twice 1/24.
    assert found.chance_core == pytest.approx(1 + 1 / 24, abs=0.05)
    both = (1 / 6) * (23 / 24) + (4 / 6) * (1 / 24) + (1 / 6) * (1 / 24)
    assert found.p_core == pytest.approx(both, abs=0.03)
    assert found.as_dict()["core"] == ["L0H1", "L0H2"]
    with pytest.raises(MeasurementError, match="1 circuits have nodes"):
        overlap(model, {EMOTIONS[0]: (head(0, 0),), EMOTIONS[1]: ()})


# -- language --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def naive_losses(model, prompts: Prompts, ablated: set[Component]) -> list[float]:
    """Text by text, token by token; replacement values are means of each text's class means over all texts."""
    runs = []
    for text in prompts.neutral.values():
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        seen = {}
        places = [f"blocks.{layer}.{p}" for layer in range(model.n_layers) for p in ("attn.hook_z", "mlp.hook_post")]

        def keep(tensor, hook, name, seen=seen):
            seen[name] = tensor.clone()

        model.bridge.run_with_hooks(ids, fwd_hooks=[(name, partial(keep, name=name)) for name in places])
        runs.append((ids, seen))

    def mean(place: str, which: str) -> torch.Tensor:
        parts = {"first": lambda t: t[:1], "last": lambda t: t[-1:], "rest": lambda t: t[1:-1]}[which]
        return torch.stack([parts(seen[place][0]).mean(0) for _, seen in runs]).mean(0)

    losses = []
    for ids, _ in runs:
        last = ids.shape[1] - 1

        def edit(tensor, hook, index, place, last=last):
            tensor = tensor.clone()
            for pos in range(last + 1):
                which = "last" if pos == last else "first" if pos == 0 else "rest"
                tensor[0, pos, index] = mean(place, which)[index]
            return tensor

        hooks = []
        for c in ablated:
            place = f"blocks.{c.layer}.{'attn.hook_z' if c.kind is Kind.HEAD else 'mlp.hook_post'}"
            hooks.append((place, partial(edit, index=c.index, place=place)))
        logits = model.bridge.run_with_hooks(ids, fwd_hooks=hooks)[0].double()
        losses.append(sum(-float(torch.log_softmax(logits[pos], 0)[ids[0, pos + 1]]) for pos in range(last)))
    return losses


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_perplexity_is_the_naive_one(family, model_of):
    model = model_of(family)
    prompts = Prompts.of(tiny_rows(4), name="four", answers=ANSWERS)
    neutral = Neutral(model, prompts)
    circuit = {head(0, 1), head(1, 3), neuron(0, 4), neuron(2, 7)}
    clean, without = naive_losses(model, prompts, set()), naive_losses(model, prompts, circuit)
    # Texts are sorted by length here; sums do not mind.
    assert sorted(neutral.losses()) == pytest.approx(sorted(clean), abs=1e-3)
    assert sorted(neutral.losses(circuit)) == pytest.approx(sorted(without), abs=1e-3)
    found = language_cost(neutral, circuit, count=4)
    tokens = sum(len(model.tokenizer(text)["input_ids"]) - 1 for text in prompts.neutral.values())
    assert (found.tokens, found.texts) == (tokens, 4)
    assert found.clean.value == pytest.approx(np.exp(sum(clean) / tokens), rel=1e-4)
    assert found.ablated.value == pytest.approx(np.exp(sum(without) / tokens), rel=1e-4)
    assert found.ratio.found.value == pytest.approx(found.ablated.value / found.clean.value, rel=1e-6)
    for value, some in zip(found.ratio.random, randoms(model, circuit, count=4), strict=True):
        assert value == pytest.approx(
            np.exp((sum(naive_losses(model, prompts, set(some))) - sum(clean)) / tokens), rel=1e-3
        )
    assert found.as_dict()["unit"] == "perplexity"


def test_ablating_nothing_costs_nothing_and_leaves_no_hook(shared):
    neutral = Neutral(shared.model, shared.prompts.split("test"))
    np.testing.assert_array_equal(neutral.losses(), neutral.losses(()))
    found = language_cost(neutral, [shared.model.heads[0]], count=2)
    assert found.ratio.found.low <= found.ratio.found.value <= found.ratio.found.high
    assert all(not p.fwd_hooks for p in shared.model.bridge.hook_dict.values())
    with pytest.raises(MeasurementError, match="the circuit is empty"):
        language_cost(neutral, ())
    with pytest.raises(ComponentError, match="has no component"):
        neutral.losses([head(9, 9)])


def test_no_neutral_text_is_an_error(model_of, monkeypatch):
    with pytest.raises(PromptError, match="'bare' has no neutral texts"):
        Neutral(model_of("gpt2"), Prompts.of(tiny_rows(3, neutral=False), name="bare", answers=ANSWERS))
    model, single = model_of("gpt2"), [{**row, "neutral": "the"} for row in tiny_rows(3)]
    monkeypatch.setattr(model, "token_ids", lambda text: [5])  # no token in front
    with pytest.raises(MeasurementError, match="no neutral text has a second token"):
        Neutral(model, Prompts.of(single, name="single", answers=ANSWERS))
