"""Who writes the direction, from states and half-layer outputs read directly off the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS, FAMILIES

from circuits.circuit.estimates import ends
from circuits.compare.decomposition import Decomposition
from circuits.compare.shares import Shares
from circuits.compare.table import COLUMNS
from circuits.compare.writers import decomposed, writers
from circuits.directions.estimators import contrast, directions_from, estimate_directions, grand_mean, probe
from circuits.directions.vectors import Directions
from circuits.effects.kinds import Ablation, Positions
from circuits.errors import ComponentError, DirectionError, MeasurementError
from circuits.model.anatomy import Model
from circuits.model.reading import capture
from circuits.model.sites import Component, State, head, neuron, states
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

OWN = (head(0, 1), *(neuron(0, i) for i in range(4, 9)), head(1, 3), *(neuron(2, i) for i in range(8, 13)))
OTHERS = ((head(0, 0), neuron(0, 5), head(1, 2), neuron(2, 3)), (head(0, 2), neuron(0, 6), head(1, 0), neuron(2, 20)))


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(6), name="six", answers=ANSWERS)


@pytest.fixture(scope="module")
def directions_of(model_of: Callable[[str], Model], prompts: Prompts) -> Callable[[str], Directions]:
    made: dict[str, Directions] = {}

    def get(family: str) -> Directions:
        if family not in made:
            made[family] = estimate_directions(model_of(family), prompts)
        return made[family]

    return get


class Oracle:
    """Centred projections by loops, from hooks on the full forward."""

    def __init__(self, model: Model, prompts: Prompts) -> None:
        self.naive = Naive(model, prompts)
        self.prompts = prompts

    def at_readout(self, tensor: torch.Tensor) -> np.ndarray:
        return np.array([tensor[row, last].double().tolist() for row, last in enumerate(self.naive.last)])

    def seen(self, place: str) -> np.ndarray:
        return self.at_readout(self.naive.seen(place))

    def state(self, state: State) -> np.ndarray:
        block = f"blocks.{state.layer}"
        if state.name.endswith("post"):
            return self.seen(f"{block}.hook_resid_post")
        if self.naive.model.capabilities.sequential:
            return self.seen(f"{block}.hook_resid_mid")
        return self.seen(f"{block}.hook_resid_pre") + self.seen(f"{block}.hook_attn_out")

    def write(self, component: Component) -> np.ndarray:
        """What zero ablation takes from the stream is what the component writes."""
        return self.at_readout(self.naive.written(component, Ablation.ZERO, Positions.READOUT))

    def own(self, e, values: np.ndarray) -> np.ndarray:
        """Rows of ``e``, less the mean over their scenario's six texts."""
        rows = [row for row, p in enumerate(self.prompts.rows) if p.emotion is e]
        return np.array([values[row] - np.mean([values[i] for i in self.naive.rows_of(row)], 0) for row in rows])

    def halves(self, state: State, half: str) -> np.ndarray:
        """Sum of the outputs of one half up to a state."""
        count = state.layer + 1 if half == "attn" or state.name.endswith("post") else state.layer
        total = np.zeros_like(self.state(state))
        for layer in range(count):
            total = total + self.seen(f"blocks.{layer}.hook_{half}_out")
        return total


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_are_what_the_model_itself_writes_and_add_up(family, model_of, directions_of, prompts):
    model, directions = model_of(family), directions_of(family)
    oracle = Oracle(model, prompts)
    table = writers(model, prompts, directions, dict.fromkeys(EMOTIONS, OWN)).table
    table = table.set_index(["emotion", "state", "item"])
    seen = 0
    for e in EMOTIONS:
        for state in states(3):
            v = directions.vectors[e.column, states(3).index(state)]
            whole = (oracle.own(e, oracle.state(state)) @ v).mean()
            wanted = {
                "heads": (oracle.own(e, oracle.halves(state, "attn")) @ v).mean(),
                "neurons": (oracle.own(e, oracle.halves(state, "mlp")) @ v).mean(),
                "rest": (oracle.own(e, oracle.seen("blocks.0.hook_resid_pre")) @ v).mean(),
            }
            for item, value in wanted.items():
                row = table.loc[(str(e), state.name, item)]
                assert row.contribution == pytest.approx(value, abs=2e-5 * max(1, abs(whole)))
                assert row.share == pytest.approx(value / whole, abs=1e-4)
                assert (row.role, row.unit, row.n) == ("part", "residual", 6)
                seen += 1
            parts = [table.loc[(str(e), state.name, item)] for item in wanted]
            assert sum(p.contribution for p in parts) == pytest.approx(whole, abs=1e-4 * max(1, abs(whole)))
            assert sum(p.share for p in parts) == pytest.approx(1, abs=1e-4)
    assert seen == 6 * 6 * 3


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "gemma2"])
def test_the_share_of_a_circuit_and_of_its_nodes_is_a_loop_over_them(family, model_of, directions_of, prompts):
    model, directions, e = model_of(family), directions_of(family), EMOTIONS[2]
    oracle = Oracle(model, prompts)
    table = writers(model, prompts, directions, {e: OWN}, {e: OTHERS}).table
    table = table[table.emotion == str(e)].set_index(["state", "item"])
    for place, state in enumerate(states(3)):
        v = directions.vectors[e.column, place]
        whole = (oracle.own(e, oracle.state(state)) @ v).mean()

        def before(c: Component, state: State = state) -> bool:
            attention = c.kind == "head"
            return c.layer < state.layer or (c.layer == state.layer and (attention or state.name.endswith("post")))

        def projection(c: Component, v: np.ndarray = v) -> float:
            return float((oracle.own(e, oracle.write(c)) @ v).mean())

        total = sum(projection(c) for c in OWN if before(c))
        assert table.loc[(state.name, "circuit")].contribution == pytest.approx(total, abs=2e-5 * max(1, abs(whole)))
        assert table.loc[(state.name, "circuit")].share == pytest.approx(total / whole, abs=1e-4)
        others = [sum(projection(c) for c in some if before(c)) for some in OTHERS]
        row = table.loc[(state.name, "random circuits")]
        assert row.contribution == pytest.approx(np.mean(others), abs=2e-5 * max(1, abs(whole)))
        assert row.share == pytest.approx(np.mean(others) / whole, abs=1e-4)
        assert (row.low, row.high) == pytest.approx(np.quantile(np.array(others) / whole, [0.025, 0.975]), abs=1e-4)
        for c in OWN:
            if not before(c):
                assert (state.name, c.name) not in table.index
                continue
            write = oracle.own(e, oracle.write(c)).mean(0)
            row = table.loc[(state.name, c.name)]
            assert row.role == "node"
            assert row.contribution == pytest.approx(write @ v, abs=2e-5 * max(1, abs(whole)))
            # In layer 0 of a parallel model an MLP reads the token alone, and that is the same in all six texts.
            length = np.linalg.norm(write)
            assert row.cosine == pytest.approx(write @ v / length if length > 1e-6 else np.nan, abs=1e-3, nan_ok=True)


def test_the_table_has_its_columns_and_intervals_around_the_share(model_of, directions_of, prompts):
    table = writers(model_of("llama"), prompts, directions_of("llama"), {EMOTIONS[0]: OWN}).table
    assert list(table.columns) == list(COLUMNS)
    assert (table.emotion == "anger").sum() > (table.emotion == "fear").sum()
    known = table.dropna(subset=["low", "high"])
    assert len(known) > 10
    assert (known.low <= known.high).all()
    inside = (known.low <= known.share + 1e-9) & (known.share <= known.high + 1e-9)
    assert inside.all()
    assert not table[table.role == "part"]["item"].isin(["random circuits"]).any()


def test_too_few_scenarios_give_no_interval(model_of, directions_of, prompts):
    part = prompts.where(prompts.scenarios < 3)
    table = writers(model_of("llama"), part, directions_of("llama"), {}).table
    assert table[["low", "high"]].isna().all(axis=None)
    assert (table.n == 3).all()


def test_resamples_whose_whole_is_nothing_count_beyond_both_ends():
    whole, part = np.array([1.0, 1.2, 0.3, -0.5, 0.9, 0.7]), np.array([0.8, 0.9, 0.4, 0.5, 0.7, 0.6])
    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=2000) / 6
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(weights @ whole > 0, (weights @ part) / (weights @ whole), np.nan)
    assert 0 < np.isnan(shares).sum() < 50
    row = Shares(whole, np.arange(6)).row(part)
    assert (row["low"], row["high"]) == pytest.approx(ends(shares))
    assert row["high"] > np.nanquantile(shares, 0.975)
    assert row["share"] == pytest.approx(part.mean() / whole.mean())
    nothing = Shares(np.array([1.0, -1.0] * 3), np.arange(6)).row(part)
    assert np.isnan([nothing["low"], nothing["high"]]).all()
    assert nothing["contribution"] == pytest.approx(part.mean())


def test_directions_of_another_model_are_refused(model_of, directions_of, prompts):
    with pytest.raises(DirectionError, match="estimated on another model"):
        writers(model_of("gpt2"), prompts, directions_of("llama"), {})


def test_states_without_a_direction_have_no_numbers_but_a_reason(model_of, directions_of, prompts):
    directions = directions_of("gpt2")
    norms = directions.norms.copy()
    norms[0, :3] = 0
    table = writers(model_of("gpt2"), prompts, replace(directions, norms=norms), {EMOTIONS[0]: OWN}).table
    gone = table[(table.emotion == "anger") & table.state.isin(["L0.mid", "L0.post", "L1.mid"])]
    assert gone[["contribution", "share", "low", "high", "cosine"]].isna().all(axis=None)
    assert set(gone["reason"]) == {"no direction: the state does not differ by emotion here"}
    assert sorted(gone["item"]) == sorted(["heads", "neurons", "rest", "circuit"] * 3)
    there = table.drop(gone.index)
    assert (there.reason == "").all()
    assert there.contribution.notna().all()


def test_directions_at_some_states_are_read_at_those(model_of, directions_of, prompts):
    """Vectors of the last two states alone: the rows are those of the same states among all six."""
    model, directions = model_of("gpt2"), directions_of("gpt2")
    whole = writers(model, prompts, directions, {}).table
    last = replace(
        directions, states=directions.states[4:], vectors=directions.vectors[:, 4:], norms=directions.norms[:, 4:]
    )
    found = writers(model, prompts, last, {}).table
    wanted = whole[whole.state.isin(["L2.mid", "L2.post"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, wanted)


def test_vectors_of_another_site_width_or_length_are_refused(model_of, directions_of, prompts):
    model, directions = model_of("gpt2"), directions_of("gpt2")
    with pytest.raises(DirectionError, match=r"a vector at L3\.mid; expected states of"):
        writers(model, prompts, replace(directions, states=states(4)[2:]), {})
    with pytest.raises(DirectionError, match=r"shape \(6, 6, 15\).*expected \(6, 6, 16\)"):
        writers(model, prompts, replace(directions, vectors=directions.vectors[..., 1:]), {})
    with pytest.raises(DirectionError, match=r"anger at L0\.mid has length 2; expected 1"):
        writers(model, prompts, replace(directions, vectors=2 * directions.vectors), {})
    with pytest.raises(DirectionError, match=r"has length nan"):
        writers(model, prompts, replace(directions, vectors=np.nan * directions.vectors), {})


def test_a_component_the_model_lacks_is_refused(model_of, directions_of, prompts):
    with pytest.raises(ComponentError, match="L0N99"):
        writers(model_of("gpt2"), prompts, directions_of("gpt2"), {EMOTIONS[0]: [neuron(0, 99)]})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_estimator_s_projection_is_the_sum_of_its_writes(family, model_of, prompts):
    """Text by text, each head and neuron alone, against the state read off the model by hooks."""
    model = model_of(family)
    oracle, readings = Oracle(model, prompts), capture(model, prompts)
    writes = Decomposition.of(model, prompts)
    for estimator in (contrast, grand_mean, probe):
        directions = directions_from(model, readings, estimator)
        for state in (states(3)[2], states(3)[5]):
            centred = {e: oracle.own(e, oracle.state(state)) for e in EMOTIONS}
            for e in EMOTIONS:
                parts = writes.parts(directions.at(state, e), e, state)
                wanted = centred[e] @ directions.at(state, e)
                total = parts.rest + parts.heads.sum((1, 2)) + parts.neurons.sum((1, 2))
                np.testing.assert_allclose(total, wanted, atol=1e-4 * max(1, np.abs(wanted).max()))
                np.testing.assert_allclose(parts.of((*model.heads, *model.neurons)), total - parts.rest, atol=1e-9)
                assert not parts.heads[:, state.layer + 1 :].any()


def test_writes_that_do_not_add_up_are_an_error(model_of, directions_of, prompts):
    model, directions = model_of("gpt2"), directions_of("gpt2")
    writes = Decomposition.of(model, prompts)
    torn = replace(writes, heads=writes.heads * 1.01)
    with pytest.raises(MeasurementError, match=r"miss the projection of anger at L0\.mid by"):
        decomposed(torn, directions, {})
