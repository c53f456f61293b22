"""What a page asks of a run's model, held against the slow way: hooks written out, full logits, loops."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive, part_of, place_of
from families import ANSWERS
from torch import Tensor

import circuits
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.measure import measure
from circuits.errors import (
    MeasurementError,
    UnsupportedModelError,
)
from circuits.live import Live
from circuits.model.anatomy import Model
from circuits.model.planted import Planted, planted
from circuits.model.sites import Kind, parse
from circuits.prompts.datasets import Prompts, Split, read_prompts
from circuits.prompts.emotions import EMOTIONS
from circuits.runs.directory import Run
from circuits.settings import Settings

ModelOf = Callable[[str], Model]
KINDS = ("gpt2", "llama", "neox", "gemma2")
"""Plain, shared keys and values, parallel halves, post-norms with a soft cap."""
PARTS = ("L0H1", "L1H3", "L0N5", "L1N2", "L2N7", "L1.attn", "L2.mlp")


def run_of(model: Model, prompts: Prompts, *, ablation: str = "mean_scenario", positions: str = "all") -> Run:
    """What of a run is needed to ask its model: nothing was measured, so nothing is stored."""
    about = {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.dtype)}
    manifest = {
        "model": about,
        "prompts": {"name": prompts.name, "fingerprint": prompts.fingerprint},
        "settings": {"ablation": ablation, "positions": positions},
    }
    return Run(Path("nowhere"), manifest)


@pytest.fixture(scope="module")
def tiny() -> Prompts:
    return Prompts.of(tiny_rows(9), name="tiny", answers=ANSWERS)


def few_stories() -> Prompts:
    """Every sixth scenario."""
    prompts = read_prompts("microstories")
    return prompts.where(np.isin(prompts.scenarios, np.unique(prompts.scenarios)[::6]))


@pytest.fixture(scope="module")
def embedded() -> Live:
    return of(circuits.load("embedded", device="cpu"), few_stories())


@pytest.fixture(scope="module")
def truth() -> Planted:
    return planted("chain", noise=0.02)


@pytest.fixture(scope="module")
def found(truth: Planted, tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A real run with its model."""
    settings = Settings(verify=2, random_circuits=2)
    run = circuits.discover(truth.model, truth.prompts, settings, tmp_path_factory.mktemp("live") / "run")
    return Live.of(run, truth.model, truth.prompts)


def of(model: Model, prompts: Prompts, **settings: str) -> Live:
    return Live.of(run_of(model, prompts, **settings), model, prompts)


def apart(live: Live, found: Mapping[Any, float], wanted: Mapping[Any, float]) -> float:
    return max(abs(found[e] - wanted[e]) for e in EMOTIONS)


def edits_of(slow: Naive, factors: Mapping[str, float], replaced: Callable[[str], Tensor], where: Tensor) -> dict:
    """Naive hooks for r + f (x - r), x being what the changed run itself computes."""
    places = {place_of(parse(name)) for name in factors}
    instead = {place: replaced(place) for place in places}  # now: it runs the model

    def edit_for(place: str) -> Callable[[Tensor], Tensor]:
        def edit(tensor: Tensor) -> Tensor:
            tensor = tensor.clone()
            for name, factor in factors.items():
                component = parse(name)
                if place_of(component) == place:
                    part = part_of(component)
                    own, r = tensor[part].clone(), instead[place][part]
                    own[where] = r[where] + factor * (own[where] - r[where])
                    tensor[part] = own
            return tensor

        return edit

    return {place: edit_for(place) for place in places}


# -- what if -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", KINDS)
def test_ablating_one_component_is_its_exact_effect(model_of: ModelOf, tiny: Prompts, family: str) -> None:
    model = model_of(family)
    live = of(model, tiny)
    effects = measure(model, tiny, PARTS)
    for row in (7, 53):
        for number, name in enumerate(PARTS):
            one = live.what_if(tiny.ids[row], {name: 0.0}, top=1)
            for e in EMOTIONS:
                assert one.before[e] - one.after[e] == pytest.approx(effects.values[number, row, e.column], abs=1e-4)
                assert one.before[e] == pytest.approx(effects.clean[row, e.column], abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma2"])
@pytest.mark.parametrize("ablation", Ablation)
def test_several_factors_at_once_are_naive_hooks(
    model_of: ModelOf, tiny: Prompts, family: str, ablation: Ablation
) -> None:
    """Mean ablation takes the texts the run was measured on: those of ``select`` and ``test``."""
    model = model_of(family)
    measured = tiny.split(Split.SELECT, Split.TEST)
    slow = Naive(model, measured)
    factors = {"L0H1": 0.0, "L0H2": 2.0, "L0N5": -1.0, "L1N2": 0.5, "L1.attn": 1.5, "L2H0": 0.25}
    for positions in Positions:
        live = of(model, tiny, ablation=str(ablation), positions=str(positions))
        where = slow.where(positions)
        edits = edits_of(slow, factors, lambda place: slow.replaced(place, ablation), where)
        wanted = slow.metric(edits)
        for row in (0, 4, 17):
            found = live.what_if(measured.ids[row], factors)
            for e in EMOTIONS:
                assert found.after[e] == pytest.approx(float(wanted[row, e.column]), abs=1e-4)
                assert abs(found.after[e] - found.before[e]) > 1e-4
    assert found.positions is Positions.READOUT


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_a_typed_text_deviates_from_the_means_of_the_select_texts(
    model_of: ModelOf, tiny: Prompts, family: str
) -> None:
    model, typed = model_of(family), "the cat lost old box in Tom felt"
    select = tiny.split(Split.SELECT)
    slow = Naive(model, select)
    own = Naive(model, Prompts.of(tiny_rows(2), answers=ANSWERS))
    own.ids = torch.tensor([model.token_ids(typed)])
    own.mask, own.last = torch.ones_like(own.ids), [own.ids.shape[1] - 1]

    def means(place: str) -> Tensor:
        seen, rows = slow.seen(place), list(range(len(select)))
        # First token, those between, last token: each place of the typed text takes its own class's mean.
        between = slow.class_mean(seen, rows, 0, 1)
        ends = slow.class_mean(seen, rows, 0, 0), slow.class_mean(seen, rows, 0, slow.last[0])
        return torch.stack([ends[0], *[between] * (own.last[0] - 1), ends[1]])[None]

    factors = {"L0H1": 0.0, "L0N5": 3.0, "L1N2": 0.5, "L2.mlp": 1.5}
    wanted = own.metric(edits_of(own, factors, means, torch.ones_like(own.ids, dtype=torch.bool)))[0]
    found = of(model, tiny).what_if(typed, factors)
    assert found.prompt is None
    assert "select" in found.replacement
    assert found.forwards == 2
    for e in EMOTIONS:
        assert found.after[e] == pytest.approx(float(wanted[e.column]), abs=1e-4)


@pytest.mark.parametrize("family", KINDS)
def test_next_words_are_the_models_own(model_of: ModelOf, tiny: Prompts, family: str) -> None:
    model = model_of(family)
    live = of(model, tiny)
    with torch.no_grad():
        logits = model.bridge(torch.tensor([model.token_ids(tiny.texts[3])]))[0, -1]
    wanted = logits.double().softmax(-1)
    found = live.what_if(3, {"L1.mlp": 0.0}, top=model.vocab)
    assert {word.id for word in found.words} == set(range(model.vocab))
    for word in found.words:
        assert word.before == pytest.approx(float(wanted[word.id]), abs=1e-5)
    assert sum(word.after for word in found.words) == pytest.approx(1)
    few = live.what_if(3, {"L1.mlp": 0.0}, top=2)
    best = {tuple(sorted(found.words, key=lambda w: -getattr(w, when))[:2]) for when in ("before", "after")}
    assert set(few.words) == {word for two in best for word in two}


def test_a_factor_of_one_changes_nothing_at_all(embedded: Live) -> None:
    for text in (embedded.prompts.ids[0], "Yesterday the radio had been vandalised as Nora felt"):
        found = embedded.what_if(text, {"L0H1": 1.0, "L3N85": 1.0, "L1.mlp": 1})
        assert found.after == found.before
        assert all(word.before == word.after for word in found.words)
        assert embedded.what_if(text, {}).after == found.before
    same = embedded.what_if(text, {"L0H1": 1.0, "L0H2": 0.0})
    assert same.after == embedded.what_if(text, {"L0H2": 0.0}).after != same.before


def test_ablating_all_but_a_selection_leaves_its_metric(embedded: Live) -> None:
    """Many factors of zero are the empty circuit's complement, as the judge runs it."""
    kept = {*embedded.model.heads[:6], *embedded.model.neurons[::3]}
    factors = {c.name: 0.0 for c in embedded.model.parts - kept}
    test = embedded.prompts.split(Split.TEST)
    e = EMOTIONS[2]
    rows = [id for id, row in zip(test.ids, test.rows, strict=True) if row.emotion is e]
    found = np.mean([embedded.what_if(id, factors).after[e] for id in rows])
    assert found == pytest.approx(embedded._bench(e).metric(kept).mean(), abs=1e-4)


def test_a_run_and_its_model_say_the_same(found: Live) -> None:
    """The stored effects, prompt by prompt, and the faithfulness of the stored circuits."""
    stored = found.run.effects
    values, names, ids = stored.values, stored.components, stored.prompt_ids
    table = stored.table
    exact = sorted(set(table["component"][table["method"] == "exact"]))
    for name in exact[:12]:
        for row in (0, len(ids) - 1):
            one = found.what_if(ids[row], {name: 0.0})
            wanted = values[names.index(name), row]
            assert [one.before[e] - one.after[e] for e in EMOTIONS] == pytest.approx(wanted.tolist(), abs=1e-4)
    circuit = found.run.circuit("fear")
    selected = found.selection("fear", [node.name for node in circuit.nodes])
    assert selected.value == pytest.approx(circuit.judgement["faithfulness"], abs=1e-6)
    assert (selected.low, selected.high) == pytest.approx(
        (circuit.judgement["faithfulness_low"], circuit.judgement["faithfulness_high"]), abs=1e-6
    )
    assert found.selection("fear", [c.name for c in found.model.parts], count=1).value == pytest.approx(1)


# -- selections --------------------------------------------------------------------------------------------------------


def test_a_selection_stands_beside_random_ones_of_its_shape(found: Live, truth: Planted) -> None:
    names = [c.name for c in found.run.circuit("anger").components]
    one = found.selection("anger", names, count=5)
    assert one.value > one.random_high >= max(one.random_mean, one.random_low)
    assert one.random_mean == pytest.approx(np.mean(one.random))
    assert (len(one.random), one.forwards, one.n) == (5, 6, truth.prompts.split("test").n_scenarios)
    assert one.random == found.selection("anger", names, count=5).random
    assert one.p == pytest.approx(1 / 6)
    assert json.loads(json.dumps(one.as_dict(), allow_nan=False))["emotion"] == "anger"


def test_a_planted_neuron_promotes_its_emotions_words(found: Live, truth: Planted) -> None:
    for e in EMOTIONS:
        neurons = [name for name in truth.by_emotion[e].nodes if parse(name).kind is Kind.NEURON]
        assert neurons
        for name in neurons:
            lens = found.lens(name, top=len(truth.prompts.answers[e]))
            assert {word.word.strip() for word in lens.promoted} == set(truth.prompts.answers[e])


def test_a_head_asked_without_an_emotion_is_read_where_its_effect_is_largest(found: Live) -> None:
    circuits_of = {e: found.run.circuit(e) for e in EMOTIONS}
    heads = {c for circuit in circuits_of.values() for c in circuit.components if c.kind is Kind.HEAD}
    assert heads
    for head in heads:
        sizes = {e: abs(n.effect) for e, circuit in circuits_of.items() for n in circuit.nodes if n.component == head}
        assert found.lens(head.name).emotion is max(sizes, key=lambda e: sizes[e])
    for spare in set(found.model.heads) - heads:  # in no circuit: of all six
        rows = found.run.effects.rows(spare.name)
        mine = rows[rows["method"] == "exact"]
        assert found.lens(spare.name).emotion == mine["emotion"].iloc[int(mine["effect"].abs().argmax())]


# -- looking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*KINDS, "mixtral", "opt", "bloom"])
def test_patterns_and_activations_are_those_of_the_engine(model_of: ModelOf, tiny: Prompts, family: str) -> None:
    model = model_of(family)
    live, ids = of(model, tiny), torch.tensor([model.token_ids(tiny.texts[8])])
    with torch.no_grad():
        cache = model.bridge.run_with_cache(ids)[1]
    for layer in range(model.n_layers):
        for index in range(model.n_heads):
            look = live.look(tiny.ids[8], f"L{layer}H{index}")
            assert look.pattern is not None
            wanted = cache[f"blocks.{layer}.attn.hook_pattern"][0, index].numpy()
            np.testing.assert_allclose(look.pattern, wanted, atol=1e-5)
            np.testing.assert_allclose(look.pattern.sum(1), 1, atol=1e-5)
            assert (np.triu(look.pattern, 1) == 0).all()
        if model.capabilities.neurons:
            fired = live.look(8, f"L{layer}N3")
            assert fired.pattern is None
            wanted = cache[f"blocks.{layer}.mlp.hook_post"][0, :, 3].numpy()
            np.testing.assert_allclose(fired.activations, wanted, atol=1e-6)
    assert len(look.tokens) == ids.shape[1]
    assert [t.strip() for t in look.tokens[-2:]] == ["Tom", "felt"]
    assert look.prompt == tiny.ids[8]
    assert json.loads(json.dumps(look.as_dict()))["tokens"] == look.tokens


def test_experts_have_heads_to_look_at_and_no_neurons(model_of: ModelOf, tiny: Prompts) -> None:
    live = of(model_of("mixtral"), tiny)
    assert live.lens("L0H1", "fear").emotion == "fear"
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        live.look(0, "L0N1")
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        live.lens("L0N1")


def test_a_pattern_that_is_not_what_the_head_mixes_with_is_refused(
    model_of: ModelOf, tiny: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = of(model_of("gpt2"), tiny)
    from circuits.model import looking

    real = looking._kept

    def other(model: Model, tokens: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
        found = real(model, tokens, names)
        return {name: t.flip(-1) if name.endswith("hook_pattern") else t for name, t in found.items()}

    monkeypatch.setattr(looking, "_kept", other)
    with pytest.raises(MeasurementError, match="pattern of L1H2 does not give what the head mixes"):
        live.look(0, "L1H2")
    monkeypatch.setattr(looking, "_kept", lambda *_: {})
    with pytest.raises(MeasurementError, match="shows no attention pattern in layer 1"):
        live.look(0, "L1H2")
