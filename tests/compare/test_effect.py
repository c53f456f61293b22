"""Circuit and direction ablated side by side: equal to hooks, and right where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS

from circuits.circuit.cost import Neutral
from circuits.circuit.estimates import ends
from circuits.circuit.evaluation import Bench
from circuits.compare.decomposition import Decomposition
from circuits.compare.dose import DOSES, dose_response
from circuits.compare.effect import _Sizes, correlation, pairs, same_effect
from circuits.compare.steered import Job, amplified, steered
from circuits.compare.together import Compared, compare
from circuits.directions.estimators import directions_from, estimate_directions
from circuits.directions.vectors import Directions
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.measure import measure
from circuits.errors import DirectionError, MeasurementError, SettingsError
from circuits.model.planted import planted
from circuits.model.reading import capture
from circuits.model.sites import Half, State, head, neuron, parse
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

E = EMOTIONS[0]


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(tiny_rows(6), name="six", answers=ANSWERS)


def benches_of(model, prompts, positions=Positions.ALL):
    return Bench.every(Plan.of(model, prompts, Ablation.MEAN_SCENARIO), positions, states=True)


@pytest.fixture(scope="module")
def chain():
    made = planted("chain", seed=0)
    directions = estimate_directions(made.model, made.prompts.split("fit"))
    circuits = {e: tuple(parse(name) for name in made.by_emotion[e].nodes) for e in EMOTIONS}
    return made, directions, circuits, benches_of(made.model, made.prompts.split("test"))


# -- against hooks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("toward", [False, True])
@pytest.mark.parametrize("positions", list(Positions))
def test_a_run_without_circuit_and_direction_is_what_hooks_do(model_of, prompts, family, toward, positions) -> None:
    """``resid_post`` of layer 1 edited through the input of block 2, with heads and neurons replaced at the same time."""
    model = model_of(family)
    directions = estimate_directions(model, prompts)
    bench = benches_of(model, prompts, positions)[E]
    gone = (head(0, 1), neuron(1, 3), neuron(2, 5))
    state = State(1, Half.MLP)
    v = torch.tensor(directions.at(state, E), dtype=torch.float32)
    naive = Naive(model, prompts)
    where = naive.where(positions)
    edits = {}
    for component in gone:
        place = f"blocks.{component.layer}.{'attn.hook_z' if component.kind == 'head' else 'mlp.hook_post'}"
        replaced = naive.replaced(place, Ablation.MEAN_SCENARIO)

        def edit(tensor: torch.Tensor, index=component.index, replaced=replaced) -> torch.Tensor:
            tensor = tensor.clone()
            part = tensor[:, :, index].clone()
            part[where] = replaced[:, :, index][where]
            tensor[:, :, index] = part
            return tensor

        edits[place] = edit
    reference = naive.replaced("blocks.2.hook_in", Ablation.MEAN_SCENARIO)

    def out(tensor: torch.Tensor) -> torch.Tensor:
        lost = ((tensor - (reference if toward else 0)) @ v)[..., None] * v
        return torch.where(where[..., None], tensor - lost, tensor)

    edits["blocks.2.hook_in"] = out
    wanted = naive.metric(edits).numpy()[np.concatenate([piece.rows for piece in bench.texts])]
    found = steered(bench, [Job(), Job.projecting(directions, E, [state], ablated=gone)], toward=toward)
    assert np.abs(found[1] - found[0]).max() > 1e-3
    np.testing.assert_allclose(found[1], wanted, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(found[0], naive.clean.numpy()[np.concatenate([p.rows for p in bench.texts])], atol=2e-4)


def test_an_amplified_circuit_is_what_hooks_do(model_of, prompts) -> None:
    model = model_of("llama")
    bench = benches_of(model, prompts)[E]
    naive = Naive(model, prompts)
    where = naive.where(Positions.ALL)
    edits = {}
    for component, place in ((head(0, 2), "blocks.0.attn.hook_z"), (neuron(1, 4), "blocks.1.mlp.hook_post")):
        clean, replaced = naive.seen(place), naive.replaced(place, Ablation.MEAN_SCENARIO)
        driven = clean + 3.0 * (clean - replaced)

        def edit(tensor: torch.Tensor, index=component.index, driven=driven) -> torch.Tensor:
            tensor = tensor.clone()
            part = tensor[:, :, index].clone()
            part[where] = driven[:, :, index][where]
            tensor[:, :, index] = part
            return tensor

        edits[place] = edit
    wanted = naive.metric(edits).numpy()[np.concatenate([piece.rows for piece in bench.texts])]
    found = amplified(bench, [(head(0, 2), neuron(1, 4)), ()], [3.0, 3.0])
    np.testing.assert_allclose(found[0], wanted, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(found[1], steered(bench, [Job()])[0], atol=1e-5)


# -- where the truth is known -----------------------------------------------------------------------------------------


def test_in_a_chain_the_circuit_acts_through_the_direction_alone(chain) -> None:
    made, directions, circuits, benches = chain
    nothing = [c for c in (*made.model.heads, *made.model.neurons) if c.name not in made.nodes | made.noise][:3]
    found = same_effect(benches[E], directions, circuits[E], [nothing], count=30)
    moved, last = State(1, Half.ATTN), State(made.model.n_layers - 1, Half.MLP)
    for state, further in ((moved, False), (moved, True), (last, False)):
        both = found.at(E, "mediated", state, onward=further)
        assert both["share_low"] > 0.85
        assert both["share_high"] < 1.15
        assert found.at(E, "random direction", state, onward=further)["high"] < both["low"] / 1.5
    # Before the head has moved the cue nothing is written along the direction that later states have.
    before = found.at(E, "mediated", State(0, Half.ATTN), onward=False)
    assert before["high"] < 0.05 * before["value"] + 0.05
    # The rest of the model carries nothing of it.
    assert abs(found.at(E, "random circuits", moved, onward=False)["value"]) < 1e-4
    alike = found.at(E, "correlation", moved, onward=True)
    assert alike["low"] > 0.8
    assert alike["unit"] == "1"


def test_effects_are_those_of_the_bench_and_c_is_both(chain) -> None:
    _, directions, circuits, benches = chain
    bench, state = benches[E], State(1, Half.ATTN)
    table = same_effect(bench, directions, circuits[E], states=[state], onward=(), outs=("levelled",), count=2)
    kept = {*bench.model.heads, *bench.model.neurons} - set(circuits[E])
    a = float((bench.whole - bench.metric(kept)).mean())
    row = {
        what: table.at(E, what, state, onward=False)["value"] for what in ("circuit", "direction", "both", "mediated")
    }
    assert row["circuit"] == pytest.approx(a, abs=1e-5)
    assert row["mediated"] == pytest.approx(row["circuit"] + row["direction"] - row["both"], abs=1e-9)
    assert set(table.table["n"]) == {bench.n}
    assert not table.table["onward"].any()


def test_by_pair_a_direction_costs_its_own_emotion_and_a_shared_head_costs_all(chain) -> None:
    _made, directions, circuits, benches = chain
    table = pairs(benches, directions, circuits, State(1, Half.ATTN))
    matrix = {what: table[table["what"] == what].pivot(index="ablated", columns="read", values="value").to_numpy()
              for what in ("circuit", "direction", "mediated")}  # fmt: skip
    own = np.eye(6, dtype=bool)
    assert matrix["direction"][own].min() > 4
    assert matrix["direction"][~own].max() < 1
    assert matrix["circuit"][~own].min() > 4  # one head moves every emotion's cue
    assert len(table) == 6 * 6 * 4


def test_two_directions_projecting_out_the_other_contexts_costs_nothing() -> None:
    """The worked example of the kind: projecting out the first axis costs all inward and nothing outward."""
    made = planted("two_directions", seed=1)
    valence = np.array([row.valence for row in made.prompts.rows])
    parts = {name: made.prompts.where(valence == name) for name in made.by_context}
    (first, second) = parts
    directions = estimate_directions(made.model, parts[first].split("fit"))
    circuits = {
        name: [parse(n) for n in made.by_context[name][E].nodes if parse(n).kind == "head"] for name in (first, second)
    }
    behind = max(State(c.layer, c.half).depth for some in circuits.values() for c in some)
    state = made.model.states[behind]
    found = {}
    for name in (first, second):
        bench = benches_of(made.model, parts[name].split("test"))[E]
        table = same_effect(bench, directions, circuits[name], states=[state], onward=(), outs=("levelled",), count=2)
        found[name] = table.at(E, "direction", state, onward=False)["value"] / float(bench.whole.mean())
    assert found[first] > 0.8
    assert abs(found[second]) < 0.15


# -- doses ------------------------------------------------------------------------------------------------------------


def test_a_dose_raises_the_emotion_it_is_of_and_more_of_it_more(chain) -> None:
    _made, directions, circuits, benches = chain
    state = State(1, Half.ATTN)
    found = dose_response(benches, directions, circuits, state, count=3)
    table = found.table

    def values(what: str, texts: str, read: str) -> np.ndarray:
        rows = table[(table["what"] == what) & (table["texts"] == texts) & (table["read"] == read)
                     & (table["emotion"] == str(E))]  # fmt: skip
        assert list(rows["dose"]) == list(DOSES)
        return rows["value"].to_numpy()

    for what, texts in (("direction", "own"), ("direction", "others"), ("circuit", "own")):
        assert (np.diff(values(what, texts, str(E))) > 0).all()
        assert values(what, texts, "selectivity")[-1] > 1
    # The neuron of the emotion is on for its own texts: relu(2 s - 1/2), three times that in logits, and the answer is apart
    # by 6/5 of it from the mean of others; the dose moves s by dose · norm, as the direction is the moved axis there.
    expected = 3 * 2 * np.array(DOSES) * found.norm
    np.testing.assert_allclose(values("direction", "own", str(E)), expected, rtol=0.2)
    assert abs(values("random direction", "others", str(E))).max() < 0.5 * values("direction", "others", str(E))[-1]
    six = table[(table["what"] == "direction") & (table["dose"] == DOSES[0]) & (table["texts"] == "own")
                & (table["emotion"] == str(E)) & table["read"].isin([str(e) for e in EMOTIONS])]  # fmt: skip
    assert six["value"].sum() == pytest.approx(0, abs=1e-4)  # six logit differences sum to nothing


def test_a_circuit_that_writes_nothing_yet_cannot_be_driven_there(chain) -> None:
    _made, directions, circuits, benches = chain
    readers = {e: [c for c in circuits[e] if c.kind == "neuron"] for e in EMOTIONS}
    state = State(1, Half.ATTN)
    late = {e: some for e, some in readers.items() if all(State(c.layer, c.half).depth > state.depth for c in some)}
    found = dose_response(benches, directions, late, state, doses=(0.1,), count=1)
    assert "circuit" not in set(found.table["what"])
    assert any(f"no component of {E}'s circuit writes before" in note for note in found.notes)


def test_who_was_left_out_of_the_doses_is_named(chain) -> None:
    _made, directions, circuits, benches = chain
    state = State(1, Half.ATTN)
    norms = directions.norms.copy()
    norms[EMOTIONS[2].column, directions.states.index(state)] = 0
    without = replace(directions, norms=norms)
    assert not without.defined(state, EMOTIONS[2])
    found = dose_response(benches, without, {EMOTIONS[1]: circuits[EMOTIONS[1]]}, state, emotions=EMOTIONS[1:4], count=1,
                          doses=(0.1,))  # fmt: skip
    assert set(found.table["emotion"]) == {"disgust", "happiness"}
    assert found.notes == (
        f"fear has no direction at {state}: nothing was added, and its circuit was not driven",
        "happiness has no circuit; it cannot be amplified there",
    )


def test_doses_are_given_when_asked_for_and_their_absence_is_said(chain) -> None:
    made, directions, circuits, benches = chain
    test = Plan.of(made.model, made.prompts.split("test"), Ablation.MEAN_SCENARIO)
    sublayers = measure(made.model, test.prompts, made.model.sublayers)
    some = {E: circuits[E]}

    def compared(given: Directions, *, thorough: bool) -> Compared:
        return compare(test, benches, given, some, {}, sublayers, thorough=thorough)

    quick = compared(directions, thorough=False)
    assert quick.doses.empty
    assert "driving circuits by doses" in quick.skipped
    middle = made.model.states[made.model.n_layers - 1]
    norms = directions.norms.copy()
    norms[:, directions.states.index(middle)] = 0
    without = compared(replace(directions, norms=norms), thorough=True)
    assert without.doses.empty
    assert f"no emotion that has a circuit has a direction at {middle}: there are no doses" in without.notes
    assert without.skipped == ""


# -- what is refused --------------------------------------------------------------------------------------------------


def test_bad_input_is_named(chain, model_of, prompts) -> None:
    made, directions, circuits, benches = chain
    bench = benches[E]
    other = estimate_directions(model_of("llama"), prompts)
    with pytest.raises(DirectionError, match="another model"):
        same_effect(bench, other, circuits[E])
    with pytest.raises(MeasurementError, match="circuit of anger is empty"):
        same_effect(bench, directions, ())
    with pytest.raises(SettingsError, match="random directions is 0"):
        same_effect(bench, directions, circuits[E], count=0)
    with pytest.raises(SettingsError, match="'gone'"):
        same_effect(bench, directions, circuits[E], outs=("gone",))
    with pytest.raises(MeasurementError, match="direction at none of"):
        same_effect(bench, directions, circuits[E], states=[State(9, Half.MLP)])
    with pytest.raises(MeasurementError, match="no mediated of anger"):
        same_effect(bench, directions, circuits[E], states=[State(1, Half.ATTN)], count=1).at(
            E, "mediated", State(0, Half.MLP)
        )
    with pytest.raises(SettingsError, match="doses are"):
        dose_response(benches, directions, circuits, State(1, Half.ATTN), doses=(0.0,))
    with pytest.raises(MeasurementError, match="no emotion has a direction"):
        dose_response(benches, directions, circuits, State(9, Half.ATTN))
    stateless = Bench.every(Plan.of(made.model, made.prompts.split("test"), Ablation.MEAN_SCENARIO))[E]
    with pytest.raises(MeasurementError, match="keeps no states"):
        same_effect(stateless, directions, circuits[E], states=[State(1, Half.ATTN)], count=1)
    with pytest.raises(MeasurementError, match="no emotion has a circuit"):
        pairs(benches, directions, {}, State(1, Half.ATTN))


def test_correlation_is_pearsons_and_nothing_where_nothing_varies() -> None:
    rng = np.random.default_rng(0)
    x, scenarios = rng.standard_normal(40), np.arange(40)
    y = x + rng.standard_normal(40)
    found = correlation(x, y, scenarios)
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.low < found.value < found.high
    assert np.isnan(correlation(x, np.full(40, 3.0), scenarios).value)
    assert np.isnan(correlation(x[:3], y[:3], scenarios[:3]).low)
    # Texts of one scenario are resampled together: forty copies of a scenario are no forty scenarios.
    assert correlation(x, y, np.repeat(np.arange(5), 8)).n == 5


def test_resamples_that_do_not_vary_count_beyond_both_ends() -> None:
    """Eight scenarios of one text: half of them differ from the others, and few resamples have none of these."""
    first, second = np.array([0.0] * 4 + [1, 2, 3, 4]), np.array([0.0] * 4 + [2, 3, 7, 1])
    scenarios = np.arange(8)
    found = correlation(first, second, scenarios)
    weights = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=2000)
    drawn = []
    for row in weights:
        x, y = np.repeat(first, row), np.repeat(second, row)
        drawn.append(np.corrcoef(x, y)[0, 1] if x.std() > 0 and y.std() > 0 else np.nan)
    assert 0 < np.isnan(drawn).sum() < 50
    assert (found.low, found.high) == pytest.approx(ends(np.array(drawn)), abs=1e-9)
    assert found.low < np.nanquantile(drawn, 0.025)


def test_a_share_of_an_effect_that_may_be_nothing_has_a_wide_interval() -> None:
    """Where a resample of the circuit does nothing, its share is no number of the other sign."""
    circuit = np.array([1.0, 1.2, 0.3, -0.5, 0.9, 0.7])
    other = np.array([0.8, 0.9, 0.4, 0.5, 0.7, 0.6])
    # What both have in common is a + b - c; with b this and c = a it is this.
    sizes = _Sizes(np.zeros(6), circuit, np.zeros((0, 6)), np.arange(6), E.column)
    rows = {str(row["what"]): row for row in sizes.rows(other, circuit, np.zeros((0, 6)))}
    low, high = (float(rows["mediated"][end]) for end in ("share_low", "share_high"))
    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=2000) / 6
    below = weights @ circuit
    beyond = int((below <= 0).sum())
    assert 0 < beyond < 50
    shares = np.sort((weights @ other)[below > 0] / below[below > 0])
    assert shares[-1 - (50 - beyond)] <= high <= shares[-(50 - beyond)]
    assert 0 < low < rows["mediated"]["share"] < high


def test_directions_can_come_from_readings_at_hand(chain) -> None:
    made, directions, _, _ = chain
    again = directions_from(made.model, capture(made.model, made.prompts.split("fit")))
    np.testing.assert_array_equal(again.vectors, directions.vectors)


@torch.no_grad()
def neutral_ratio(model, prompts: Prompts, edit: dict) -> float:
    """Perplexity on the neutral texts under hooks, as a multiple of the clean one, by loops over tokens."""
    total = []
    for hooks in ({}, edit):
        lost, count = 0.0, 0
        for text in prompts.neutral.values():
            ids = torch.tensor([model.tokenizer(text)["input_ids"]])
            made = [(name, lambda tensor, hook, change=change: change(tensor)) for name, change in hooks.items()]
            logits = model.bridge.run_with_hooks(ids, fwd_hooks=made)[0].double().log_softmax(-1)
            for place in range(ids.shape[1] - 1):
                lost -= float(logits[place, ids[0, place + 1]])
                count += 1
        total.append(lost / count)
    return float(np.exp(total[1] - total[0]))


@torch.no_grad()
def test_what_a_dose_costs_the_language_is_what_hooks_say(model_of, prompts) -> None:
    model = model_of("llama")
    directions = estimate_directions(model, prompts)
    benches = benches_of(model, prompts)
    # The second head reads what the first one writes: it is held at what it does in the clean run all the same.
    members, state, dose = (head(0, 2), head(1, 1)), State(0, Half.MLP), 0.3
    found = dose_response(
        {E: benches[E]}, directions, {E: members}, state, doses=(dose,), neutral=Neutral(model, prompts), count=1
    )
    rows = found.table[(found.table["texts"] == "neutral") & (found.table["emotion"] == str(E))].set_index("what")
    add = torch.tensor(dose * found.norm * directions.at(state, E), dtype=torch.float32)
    wanted = neutral_ratio(model, prompts, {"blocks.1.hook_in": lambda tensor: tensor + add})
    assert abs(wanted - 1) > 1e-3
    assert rows.loc["direction", "value"] == pytest.approx(wanted, rel=1e-4)
    # The circuit: driven away from its mean over neutral texts in the same position class (first, last, the rest).
    factor, edits, following = float(rows.loc["circuit", "factor"]), {}, {}
    for own in members:
        place, seen = f"blocks.{own.layer}.attn.hook_z", []
        for text in prompts.neutral.values():
            ids = torch.tensor([model.tokenizer(text)["input_ids"]])
            model.bridge.run_with_hooks(
                ids,
                fwd_hooks=[
                    (place, lambda tensor, hook, seen=seen, own=own: seen.append(tensor[0, :, own.index].clone()))
                ],
            )
        first, rest, last = (
            torch.stack([part(z) for z in seen]).mean(0)
            for part in (lambda z: z[0], lambda z: z[1:-1].mean(0), lambda z: z[-1])
        )
        driven = [z + factor * (z - torch.stack([first, *[rest] * (len(z) - 2), last])) for z in seen]

        values = iter(driven)

        def held(tensor: torch.Tensor, values=values, own=own) -> torch.Tensor:
            tensor = tensor.clone()
            tensor[0, :, own.index] = next(values)
            return tensor

        def followed(tensor: torch.Tensor, own=own, first=first, rest=rest, last=last) -> torch.Tensor:
            tensor = tensor.clone()
            z = tensor[0, :, own.index]
            tensor[0, :, own.index] = z + factor * (z - torch.stack([first, *[rest] * (len(z) - 2), last]))
            return tensor

        edits[place], following[place] = held, followed
    wanted = neutral_ratio(model, prompts, edits)
    assert abs(wanted - 1) > 1e-3
    assert rows.loc["circuit", "value"] == pytest.approx(wanted, rel=1e-4)
    assert abs(neutral_ratio(model, prompts, following) - wanted) > 1e-3 * wanted


def test_a_circuit_is_driven_by_the_norm_of_the_dose(chain) -> None:
    made, directions, circuits, benches = chain
    state, dose = State(1, Half.ATTN), 0.2
    found = dose_response({E: benches[E]}, directions, {E: circuits[E]}, state, doses=(dose,), count=1)
    factor = float(found.table[found.table["what"] == "circuit"]["factor"].iloc[0])
    writes = Decomposition.of(made.model, made.prompts.split("test"))
    mover = next(c for c in circuits[E] if c.kind == "head")  # alone before the state
    lengths = writes.heads[writes.rows(E), mover.layer, mover.index].norm(dim=-1)
    assert factor * float(lengths.mean()) == pytest.approx(dose * found.norm, rel=1e-4)
