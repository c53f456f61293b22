"""Planted models against brute force: one hooked forward per component, nothing clever."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.errors import PlantedError, SettingsError
from circuits.model import sites
from circuits.model.planted import Planted, PlantedKind, planted
from circuits.model.planted.board import EMBED
from circuits.model.planted.build import Draft, draft
from circuits.model.planted.texts import ANSWERS, CHANCE, CUES, FILLERS, READOUTS, Row
from circuits.prompts.datasets import Lexical, Split
from circuits.prompts.emotions import EMOTIONS, Emotion

ZERO = 3e-5
"""What counts as no effect, in logits: float32 rounding (typically 3e-6) of a few thousand sums around 10."""


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@dataclass(frozen=True, eq=False)
class Bench:
    """A planted model with everything brute force needs."""

    draft: Draft
    every: int = 1
    """Only every so many scenarios are measured, to keep brute force short."""

    @cached_property
    def rows(self) -> list[Row]:
        return [row for row in self.draft.rows if int(row.scenario[1:]) % self.every == 0]

    @cached_property
    def nodes(self) -> frozenset[str]:
        return frozenset().union(*(truth.nodes for truth in self.draft.by_emotion.values()))

    @cached_property
    def names(self) -> list[str]:
        cfg = self.draft.bridge.cfg
        heads = [f"L{layer}H{h}" for layer in range(cfg.n_layers) for h in range(cfg.n_heads)]
        return heads + [f"L{layer}N{n}" for layer in range(cfg.n_layers) for n in range(cfg.d_mlp)]

    @cached_property
    def ids(self) -> tuple[Tensor, Tensor, Tensor]:
        """Right-padded ids, the mask of real tokens, and each text's last place."""
        texts = [self.draft.bridge.to_tokens(row.text)[0] for row in self.rows]
        last = torch.tensor([len(text) - 1 for text in texts])
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=0)
        return ids, torch.arange(ids.shape[1]) <= last[:, None], last

    @cached_property
    def columns(self) -> list[int]:
        return [self.draft.bridge.tokenizer.convert_tokens_to_ids(word) for word in ANSWERS.values()]

    @cached_property
    def emotions(self) -> Tensor:
        return torch.tensor([row.emotion.column for row in self.rows])

    @cached_property
    def strengths(self) -> Tensor:
        """[scenario, emotion]; rows come scenario by scenario in the order of the emotions."""
        return torch.tensor([row.strength for row in self.rows], dtype=torch.float64).reshape(-1, len(EMOTIONS))

    def logits(self, hooks: list[tuple[str, Callable[..., Tensor]]] = ()) -> Tensor:
        """Answer logits at the read-out token [row, emotion]."""
        ids, mask, last = self.ids
        output = self.draft.bridge.run_with_hooks(ids, attention_mask=mask.long(), fwd_hooks=list(hooks))
        return output[torch.arange(len(ids)), last][:, self.columns].double()  # no rounding from here on

    @cached_property
    def clean(self) -> tuple[Tensor, dict[str, Tensor]]:
        kept: dict[str, Tensor] = {}

        def keep(tensor: Tensor, hook: object, name: str) -> Tensor:
            kept[name] = tensor.clone()
            return tensor

        return self.logits([(name, partial(keep, name=name)) for name in self.everywhere]), kept

    @cached_property
    def everywhere(self) -> list[str]:
        """Hook names: an engine may call the place by another name inside the hook."""
        layers = range(self.draft.bridge.cfg.n_layers)
        return ["embed.hook_out"] + [
            f"blocks.{layer}.{half}" for layer in layers for half in ("attn.hook_z", "mlp.hook_post")
        ]

    def scenario_mean(self, values: Tensor) -> Tensor:
        """Replacement of activations [row, pos, ...] by the three position classes, from their definition."""
        _, mask, last = self.ids
        result = torch.zeros_like(values)
        for start in range(0, len(values), len(EMOTIONS)):
            rows = range(start, start + len(EMOTIONS))
            first = torch.stack([values[r, 0] for r in rows]).mean(0)
            readout = torch.stack([values[r, last[r]] for r in rows]).mean(0)
            rest = torch.stack([values[r, 1 : last[r]].mean(0) for r in rows]).mean(0)
            for r in rows:
                result[r, mask[r]] = rest
                result[r, 0], result[r, last[r]] = first, readout
        return result

    @cached_property
    def replaced(self) -> dict[str, Tensor]:
        return {name: self.scenario_mean(values) for name, values in self.clean[1].items()}

    def ablated(self, name: str, kind: str = "mean_scenario") -> Tensor:
        place, index = locate(name)
        replacement = torch.zeros(()) if kind == "zero" else self.replaced[place][:, :, index]

        def ablate(tensor: Tensor, hook: object) -> Tensor:
            tensor = tensor.clone()
            tensor[:, :, index] = replacement
            return tensor

        return self.logits([(place, ablate)])

    def effects(self, logits: Tensor) -> Tensor:
        """Loss of each emotion's logit difference in that emotion's own rows [scenario, emotion]."""
        loss = difference(self.clean[0]) - difference(logits)
        return loss[torch.arange(len(loss)), self.emotions].reshape(-1, len(EMOTIONS))

    def sweep(self, kind: str = "mean_scenario", names: list[str] | None = None) -> dict[str, Tensor]:
        return {name: self.effects(self.ablated(name, kind)) for name in names or self.names}

    def around(self, source: str) -> tuple[Tensor, dict[str, Tensor]]:
        """``source`` ablated, every other component held at its clean output.

        Gives the answer logits (the direct path alone) and what each component would have put out (each edge alone).
        """
        wanted: dict[str, Tensor] = {}
        clean, replaced = self.clean[1], self.replaced
        place, index = ("embed.hook_out", slice(None)) if source == EMBED else locate(source)

        def hold(tensor: Tensor, hook: object, name: str) -> Tensor:
            wanted[name] = tensor.clone()
            tensor = clean[name].clone()
            if name == place == "embed.hook_out":
                return replaced[place]
            if name == place:
                tensor[:, :, index] = replaced[place][:, :, index]
            return tensor

        return self.logits([(name, partial(hold, name=name)) for name in self.everywhere]), wanted

    def edge(self, wanted: dict[str, Tensor], target: str) -> Tensor:
        """Effect of giving ``target`` the output it wanted when one of its sources was ablated."""
        place, index = locate(target)

        def give(tensor: Tensor, hook: object) -> Tensor:
            tensor = tensor.clone()
            tensor[:, :, index] = wanted[place][:, :, index]
            return tensor

        return self.effects(self.logits([(place, give)]))


def locate(name: str) -> tuple[str, int]:
    component = sites.parse(name)
    half = "attn.hook_z" if component.kind is sites.Kind.HEAD else "mlp.hook_post"
    return f"blocks.{component.layer}.{half}", component.index


def difference(logits: Tensor) -> Tensor:
    """Logit difference of every emotion [row, emotion]."""
    others = (logits.sum(-1, keepdim=True) - logits) / (len(EMOTIONS) - 1)
    return logits - others


@cache
def bench(kind: str, seed: int = 0, size: str = "small", every: int = 1) -> Bench:
    return Bench(draft(kind, seed=seed, size=size), every)


CIRCUITS = list(itertools.product(["chain", "shared_head"], [0, 1]))


@pytest.mark.parametrize(("kind", "seed"), CIRCUITS)
def test_the_model_names_the_emotion_of_every_row(kind, seed):
    b = bench(kind, seed)
    logits = b.clean[0]
    assert torch.isfinite(logits).all()
    assert logits.abs().max() < 50
    assert (logits.argmax(-1) == b.emotions).all()


@pytest.mark.parametrize(("kind", "seed"), CIRCUITS)
def test_brute_force_finds_the_true_nodes_and_no_others(kind, seed):
    b = bench(kind, seed, every=3)
    effects, zeroed = b.sweep(), b.sweep("zero")
    truth = b.draft.by_emotion
    for name in b.names:
        if name in b.draft.noise:
            continue
        if name not in b.nodes:
            assert effects[name].abs().max() < ZERO, name
            assert zeroed[name].abs().max() < ZERO, name
            continue
        for column, e in enumerate(EMOTIONS):
            effect = effects[name][:, column]
            if name in truth[e].nodes:
                assert effect.min() > 2.5, name
                assert effect.std() > 0.1, name
            elif "H" in name:
                assert effect.abs().max() < ZERO, name
            else:
                own = effects[name][:, next(e2.column for e2 in EMOTIONS if name in truth[e2].nodes)]
                torch.testing.assert_close(effect, own / 25, atol=ZERO, rtol=0)
            if name not in truth[e].nodes:
                assert zeroed[name][:, column].abs().max() < ZERO, name


@pytest.mark.parametrize(("kind", "seed"), CIRCUITS)
def test_effects_are_those_of_the_worked_example(kind, seed):
    b = bench(kind, seed, every=3)
    activity = torch.relu(2 * b.strengths - 0.5)
    for column, e in enumerate(EMOTIONS):
        head, neuron = sorted(b.draft.by_emotion[e].nodes, key=lambda name: "N" in name)
        for name, kept in ((head, 0.0), (neuron, 1 / 6)):
            mean = b.effects(b.ablated(name))[:, column]
            torch.testing.assert_close(mean, 3 * activity[:, column] * (1 - kept), atol=1e-4, rtol=0)
            zero = b.effects(b.ablated(name, "zero"))[:, column]
            torch.testing.assert_close(zero, 3 * activity[:, column], atol=1e-4, rtol=0)
            shown = b.strengths[:, column] == 1.2
            assert mean[shown].numpy() == pytest.approx(5.7 if name == head else 4.75, abs=1e-4)
            assert zero[shown].numpy() == pytest.approx(5.7, abs=1e-4)
            if name == neuron:
                other = b.effects(b.ablated(name))[:, (column + 1) % len(EMOTIONS)]
                assert other[shown].numpy() == pytest.approx(0.19, abs=1e-4)


@pytest.mark.parametrize(("kind", "seed"), CIRCUITS)
def test_a_cue_of_1_2_gives_1_9_and_5_7(kind, seed):
    b = bench(kind, seed)
    logits, kept = b.clean
    _, _, last = b.ids
    bridge = b.draft.bridge
    seen = 0
    for number, row in enumerate(b.rows):
        if row.strength != 1.2:
            continue
        seen += 1
        head, neuron = sorted(b.draft.by_emotion[row.emotion].nodes, key=lambda name: "N" in name)
        place, h = locate(head)
        z = kept[place][number, last[number], h]
        written = z @ bridge.blocks[sites.parse(head).layer].attn.W_O[h]
        assert written.norm() == pytest.approx(1.2, abs=1e-4)
        place, n = locate(neuron)
        assert kept[place][number, last[number], n] == pytest.approx(1.9, abs=1e-4)
        # 1.9 along the answer, which the unembedding counts three times
        push = 1.9 * bridge.blocks[sites.parse(neuron).layer].mlp.W_out[n] @ bridge.unembed.W_U[:, b.columns]
        target = torch.zeros(6)
        target[row.emotion.column] = 5.7
        torch.testing.assert_close(push, target, atol=1e-4, rtol=0)
        assert difference(logits[number])[row.emotion.column] == pytest.approx(5.7, abs=2)
    assert seen >= 30


@pytest.mark.parametrize(("kind", "seed"), [("chain", 0), ("shared_head", 0)])
def test_brute_force_finds_the_true_edges(kind, seed):
    """Edges alone, by path patching, into every true node and into every read-out."""
    b = bench(kind, seed, every=4)
    truth, nodes, last = b.draft.by_emotion, b.nodes, b.ids[2]
    found = {e: set() for e in EMOTIONS}
    for source in [EMBED, *b.names]:
        background = source not in nodes | b.draft.noise | {EMBED}
        logits, wanted = b.around(source)
        direct = b.effects(logits)
        for column, e in enumerate(EMOTIONS):
            if direct[:, column].mean() > 1:
                found[e].add((source, e.value))
            elif background or source == EMBED:
                assert direct[:, column].abs().max() < ZERO, source
        if background:
            # None of the true nodes so much as notices, which spares a run for each of them.
            for target in nodes:
                place, index = locate(target)
                change = (wanted[place] - b.clean[1][place])[torch.arange(len(last)), last, index]
                assert change.abs().max() < ZERO
            continue
        for target in nodes - {source}:
            effect = b.edge(wanted, target)
            for column, e in enumerate(EMOTIONS):
                if effect[:, column].mean() > 1:
                    found[e].add((source, target))
                elif source == EMBED and "N" in target:
                    assert effect.abs().max() < ZERO
    assert found == {e: set(t.edges) for e, t in truth.items()}


@pytest.mark.parametrize("kind", ["chain", "shared_head"])
def test_noise_next_to_a_circuit_has_spread_but_little_mean(kind):
    statistics = []
    for seed in range(6):
        b = bench(kind, seed)
        for effect in b.sweep(names=sorted(b.draft.noise)).values():
            assert effect.abs().max() < 1.5
            if effect.std() > 1e-3:
                statistics.append(student(effect))
    t = torch.cat(statistics)
    assert len(statistics) > 20
    assert t.mean().abs() < 0.3
    assert 0.7 < t.std() < 1.4


def student(effect: Tensor) -> Tensor:
    """t statistic over scenarios, for each emotion."""
    return effect.mean(0) / (effect.std(0) / len(effect) ** 0.5)


@pytest.mark.slow
def test_null_effects_are_centred_for_every_sort_of_component():
    """Half of the heads and some of the neurons of 20 planted nulls, by chance."""
    heads, neurons = [], []
    rng = np.random.default_rng(0)
    for seed in range(20):
        b = bench("null", seed)
        assert b.draft.noise == set(b.names)
        chosen = [*rng.choice(b.names[:12], 5, replace=False), *rng.choice(b.names[12:], 4, replace=False)]
        for name, effect in b.sweep(names=[str(name) for name in chosen]).items():
            if effect.std() > 1e-3:
                (heads if "H" in name else neurons).append(student(effect))
    for found, least in ((heads, 90), (neurons, 70)):
        t = torch.stack(found)
        assert len(t) >= least
        assert t.mean().abs() < 0.15
        assert 0.85 < t.std() < 1.25  # 1.05 if effects were normal
        assert (t.mean(0).abs() < 0.35).all()
        assert 0.02 < (t.abs() > 2.069).double().mean() < 0.09  # 5% points of Student's t with 23 degrees


def test_null_has_active_components_and_an_empty_truth():
    b = bench("null", every=3)
    assert all(t.nodes == t.edges == frozenset() for t in b.draft.by_emotion.values())
    effects = b.sweep()
    active = [name for name, effect in effects.items() if effect.std() > 1e-2]
    assert len(active) > 0.7 * len(b.names)
    assert (b.clean[0].argmax(-1) == b.emotions).float().mean() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chain", "shared_head"])
def test_medium_holds_the_same_truth(kind):
    b = bench(kind, size="medium", every=6)
    assert (b.clean[0].argmax(-1) == b.emotions).all()
    rng = np.random.default_rng(0)
    others = [name for name in b.names if name not in b.nodes | b.draft.noise]
    for name, effect in b.sweep(names=[str(n) for n in rng.choice(others, 25, replace=False)]).items():
        assert effect.abs().max() < 2 * ZERO, name
    for name, effect in b.sweep(names=sorted(b.nodes)).items():
        for column, e in enumerate(EMOTIONS):
            assert (effect[:, column].mean() > 2) == (name in b.draft.by_emotion[e].nodes)


def test_background_weights_are_as_heavy_as_the_circuit():
    b = bench("chain")
    bridge = b.draft.bridge
    head = next(name for name in b.draft.by_emotion[Emotion.ANGER].nodes if "H" in name)
    for matrix in ("W_Q", "W_K", "W_V", "W_O"):
        norms = {
            f"L{layer}H{h}": getattr(block.attn, matrix)[h].norm().item()
            for layer, block in enumerate(bridge.blocks)
            for h in range(bridge.cfg.n_heads)
        }
        own = norms.pop(head)
        assert own == pytest.approx(np.median(list(norms.values())), rel=0.3), matrix
    for block in bridge.blocks:
        written, read = block.mlp.W_out.norm(dim=1), block.mlp.W_gate.norm(dim=0)
        torch.testing.assert_close(written, torch.ones_like(written), atol=1e-5, rtol=0)
        assert ((read >= 2 - 1e-5) & (read <= 2.07)).all()


def test_no_feature_lies_on_an_axis():
    unembedding = bench("chain").draft.bridge.unembed.W_U[:, bench("chain").columns]
    assert unembedding.norm(dim=0) == pytest.approx(3 * np.ones(6), abs=1e-4)
    assert unembedding.abs().max() < 0.8 * 3


@pytest.mark.parametrize("kind", list(PlantedKind))
def test_same_seed_same_bits(kind):
    state = torch.random.get_rng_state()
    one, two = draft(kind, seed=3), draft(kind, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are not touched"
    assert one.rows == two.rows
    assert one.by_emotion == two.by_emotion
    assert one.noise == two.noise
    for a, c in zip(one.bridge.parameters(), two.bridge.parameters(), strict=True):
        assert torch.equal(a, c)


@pytest.mark.parametrize("kind", ["chain", "shared_head"])
def test_other_seeds_plant_elsewhere(kind):
    placed = {bench(kind, seed).draft.by_emotion[Emotion.ANGER].nodes for seed in range(3)}
    assert len(placed) == 3


def test_shared_heads_serve_two_emotions_each():
    truth = bench("shared_head").draft.by_emotion
    heads = [next(name for name in t.nodes if "H" in name) for t in truth.values()]
    neurons = [next(name for name in t.nodes if "N" in name) for t in truth.values()]
    assert sorted(heads.count(head) for head in set(heads)) == [2, 2, 2]
    assert len(set(neurons)) == 6


@pytest.mark.parametrize("kind", list(PlantedKind))
def test_texts_share_everything_but_cue_and_chance_words(kind):
    d = bench(kind).draft
    cues = {word: e for e, words in CUES.items() for word in words}
    places = set()
    for start in range(0, len(d.rows), 6):
        rows = d.rows[start : start + 6]
        assert [row.emotion for row in rows] == list(EMOTIONS)
        assert len({(row.scenario, row.split, row.context) for row in rows}) == 1
        words = [row.text.split() for row in rows]
        shapes = {tuple("CUE" if w in cues else "?" if w in CHANCE else w for w in text) for text in words}
        assert len(shapes) == 1
        shape = shapes.pop()
        assert set(shape[:-1]) - {"CUE", "?"} <= set(FILLERS)
        assert shape[-1] == READOUTS[rows[0].context]
        places.add(shape.index("CUE"))
        for row, text in zip(rows, words, strict=True):
            assert cues[text[shape.index("CUE")]] == row.emotion
            assert not set(row.neutral.split()) & set(cues)
    assert len(places) > 3
    assert [sum(row.split is split for row in d.rows) for split in Split] == [96 * len(d.by_context)] * 3


def test_planted_goes_through_the_door():
    pytest.importorskip("circuits.model.door")
    p = planted("chain", seed=1)
    assert isinstance(p, Planted)
    assert p.kind is PlantedKind.CHAIN
    assert p.model.name == p.prompts.name == "planted-chain-small-1"
    assert len(p.prompts) == 288
    assert p.prompts.n_scenarios == 48
    assert p.prompts.lexical is Lexical.IMPLICIT
    assert p.nodes == frozenset().union(*(nodes for nodes, _ in p.by_emotion.values()))
    assert p.edges == frozenset().union(*(edges for _, edges in p.by_emotion.values()))
    assert not p.nodes & p.noise
    assert p.prompts.answers[Emotion.ANGER] == ("angry",)
    assert p.model.bridge.to_tokens(p.prompts.texts[0])[0, 0] == p.model.tokenizer.bos_token_id


def test_unknown_names_are_named():
    with pytest.raises(PlantedError, match=r"kind 'chian'; expected one of chain, shared_head, null"):
        planted("chian")
    with pytest.raises(PlantedError, match=r"size 'huge'; expected one of small, medium"):
        planted("chain", size="huge")
    for seed in (-1, True):  # other types are caught by the run-time type hook first
        with pytest.raises(SettingsError, match="seed"):
            planted("chain", seed=seed)
