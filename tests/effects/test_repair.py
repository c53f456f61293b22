"""Self-repair: every number against naive hooks, the parts against the whole, planted backups by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive, place_of
from families import ANSWERS

from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.measure import measure
from circuits.effects.repair import Aftermath
from circuits.errors import ComponentError, MeasurementError, UnsupportedModelError
from circuits.model.planted import planted
from circuits.model.readout import Readout
from circuits.model.sites import Component, Half, Kind, head, neuron, sublayer
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(3), name="three", answers=ANSWERS)


def aftermath(model, prompts, e, ablation=Ablation.MEAN_SCENARIO, positions=Positions.ALL) -> Aftermath:
    return Aftermath.every(Plan.of(model, prompts, ablation), positions)[e]


class Oracle:
    """The same quantities from full runs under hooks, unit by unit and in float64."""

    def __init__(self, model, prompts, e, component, ablation, positions):
        self.naive, self.model, self.e = Naive(model, prompts), model, e.column
        self.rows = [i for i, row in enumerate(prompts.rows) if row.emotion is e]
        self.component = component
        self.edit = self.naive.ablation(component, ablation, positions)
        places = [f"blocks.{k}.{p}" for k in range(model.n_layers) for p in ("attn.hook_z", "mlp.hook_post")]
        self.end = f"blocks.{model.n_layers - 1}.hook_resid_post"
        _, self.clean = self.naive.run(see=(*places, self.end))
        _, self.gone = self.naive.run({place_of(component): self.edit}, see=(*places, self.end))
        ids = self.naive.answers
        columns = model.bridge.unembed.W_U.detach().double()
        means = torch.stack([columns[:, some].mean(1) for some in ids], 1)
        self.column = means[:, self.e] - means[:, [i for i in range(6) if i != self.e]].mean(1)

    def last(self, tensor):
        return torch.stack([tensor[row, self.naive.last[row]] for row in self.rows]).double()

    def scale(self, stream):
        norm = Readout.of(self.model, self.naive.prompts.answers).norm
        x = stream - stream.mean(-1, keepdim=True) if norm.centred else stream
        return 1 / (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()

    def linear(self, written):
        """Through the final norm at the clean run's scale."""
        norm = Readout.of(self.model, self.naive.prompts.answers).norm
        x = written - written.mean(-1, keepdim=True) if norm.centred else written
        x = x * self.scale(self.last(self.clean[self.end]))
        return (x if norm.weight is None else x * norm.weight.double()) @ self.column

    def change(self, unit: Component):
        apart = self.last(self.clean[place_of(unit)] - self.gone[place_of(unit)])[:, unit.index]
        if unit.kind is Kind.HEAD:
            return self.linear(apart @ self.model.W_O(unit.layer)[unit.index].double())
        return self.linear(apart[:, None] * self.model.W_out(unit.layer)[unit.index].double())

    def total(self):
        return (self.naive.clean - self.naive.metric({place_of(self.component): self.edit}))[self.rows, self.e]

    def reaction(self, unit: Component):
        def held(tensor):
            tensor = tensor.clone()
            tensor[:, :, unit.index] = self.clean[place_of(unit)][:, :, unit.index]
            return tensor

        first = self.edit
        both = {place_of(self.component): first, place_of(unit): held}
        if place_of(unit) == place_of(self.component):
            both = {place_of(unit): lambda tensor: held(first(tensor))}
        return (self.naive.metric({place_of(self.component): first}) - self.naive.metric(both))[self.rows, self.e]


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("ablation", [Ablation.MEAN_SCENARIO, Ablation.ZERO])
def test_every_number_is_the_naive_one(family, ablation, model_of, prompts):
    model, e = model_of(family), EMOTIONS[1]
    positions = Positions.ALL if ablation is Ablation.ZERO else Positions.READOUT
    found = aftermath(model, prompts, e, ablation, positions)
    for component in (head(0, 1), neuron(1, 3)):
        one, oracle = found.of(component), Oracle(model, prompts, e, component, ablation, positions)
        np.testing.assert_allclose(one.total, oracle.total(), atol=2e-5)
        np.testing.assert_allclose(one.direct, oracle.change(component), atol=2e-5)
        for unit in (head(1, 0), head(2, 3), neuron(2, 5), neuron(2, 11)):
            if unit not in one.units:
                continue
            row = one.units.index(unit)
            np.testing.assert_allclose(one.changes[row], oracle.change(unit), atol=2e-5)
            np.testing.assert_allclose(found.reactions(component, [unit])[0], oracle.reaction(unit), atol=3e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("positions", list(Positions))
def test_the_parts_sum_to_the_total(family, positions, model_of, prompts):
    model = model_of(family)
    largest = 0.0
    for e in EMOTIONS[:2]:
        found = aftermath(model, prompts, e, Ablation.ZERO, positions)
        for component in (head(0, 0), head(2, 2), neuron(0, 5), neuron(2, 1)):
            one = found.of(component)
            np.testing.assert_allclose(one.remainder, 0, atol=1e-4)
            # The parts are large enough for the sum to say something.
            largest = max(largest, float(np.abs(one.changes).sum(0).max()))
    assert largest > 1e-2


def test_total_and_renormalised_are_the_measured_effects(model_of, prompts):
    model, e = model_of("llama"), EMOTIONS[3]
    found = aftermath(model, prompts, e)
    for component in (head(1, 2), neuron(0, 7)):
        one = found.of(component)
        for method, values in (("exact", one.total), ("direct", one.renormalised)):
            wanted = measure(model, prompts, [component], method=method).by_scenario(e)[:, 0]
            np.testing.assert_allclose(found.by_scenario(values), wanted, atol=2e-5)


def test_in_the_last_layer_only_the_norm_gives_back(model_of, prompts):
    model = model_of("llama")
    one = aftermath(model, prompts, EMOTIONS[0], Ablation.ZERO).of(neuron(2, 4))
    assert one.units == ()
    np.testing.assert_allclose(one.renormalised, one.total, atol=1e-5)
    np.testing.assert_allclose(one.repair, -one.norm, atol=1e-5)
    assert np.abs(one.norm).max() > 1e-4


@pytest.mark.parametrize("seed", [0, 1])
def test_the_planted_backup_is_named_as_compensator(seed):
    p = planted("backup", seed=seed, scenarios=6)
    e = EMOTIONS[0]
    found = aftermath(p.model, p.prompts, e)
    members = sorted(c for c in (*p.model.heads, *p.model.neurons) if c.name in p.by_emotion[e].nodes)
    first, second = (c for c in members if c.kind is Kind.HEAD)
    own = [c for c in members if c.kind is Kind.NEURON]
    one = found.of(first)
    np.testing.assert_allclose(one.total, 0, atol=1e-3)  # repaired in full
    units = [*(c for c in one.units if c.kind is Kind.HEAD), *own]
    worth = dict(zip(units, found.reactions(first, units).mean(1), strict=True))
    spare = max(own, key=lambda c: worth[c])
    helpful = sorted((c for c in units if worth[c] > 0.1), key=lambda c: -worth[c])
    assert set(helpful) == {second, spare}  # the backup head and what it feeds, nobody else
    assert worth[second] > 2
    # The spare neuron writes all that is given back; the backup head writes nothing of it itself.
    given = dict(zip(one.units, -one.changes.mean(1), strict=True))
    assert max(given, key=lambda c: given[c]) == spare
    assert given[spare] > 2
    assert abs(given[second]) < 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_a_chain_has_no_compensator(seed):
    p = planted("chain", seed=seed, scenarios=6)
    e = EMOTIONS[0]
    found = aftermath(p.model, p.prompts, e)
    mover = next(c for c in p.model.heads if c.name in p.by_emotion[e].nodes)
    last = next(c for c in p.model.neurons if c.name in p.by_emotion[e].nodes)
    one = found.of(mover)
    assert one.total.mean() > 3
    heads = [c for c in one.units if c.kind is Kind.HEAD]
    worth = found.reactions(mover, [*heads, last]).mean(1)
    assert worth[:-1].max(initial=0) < 1e-3
    assert worth[-1] == pytest.approx(-one.total.mean(), rel=0.05)  # it carries the loss on
    # Shadows of the other five neurons apart (1/25 each), nothing is given back.
    assert -one.changes.mean(1).min() < 0.1 * one.total.mean()


def test_what_cannot_be_followed_is_refused(model_of, prompts):
    found = aftermath(model_of("llama"), prompts, EMOTIONS[0])
    with pytest.raises(ComponentError, match=r"L0\.attn is a half-layer; expected a head or a neuron"):
        found.of(sublayer(0, Half.ATTN))
    with pytest.raises(ComponentError, match="L0H1 does not lie behind L1H0"):
        found.reactions(head(1, 0), [head(0, 1)])
    with pytest.raises(ComponentError, match="has no component L9H0"):
        found.of(head(9, 0))
    with pytest.raises(UnsupportedModelError, match="norms behind its half-layers"):
        aftermath(model_of("gemma2"), prompts, EMOTIONS[0])
    readout = Readout.of(found.model, prompts.answers)
    with pytest.raises(MeasurementError, match="no prompts of anger"):
        Aftermath(found.model, readout, EMOTIONS[0], ())
