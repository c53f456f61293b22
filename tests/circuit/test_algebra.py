"""Circuits obey the laws of sets, merging loses nothing, and a circuit does not differ from itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from drawn import circuits, heads, neurons, plain, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuits.circuit.algebra import complement, difference, intersection, restricted, union
from circuits.circuit.differences import common, differences, moved, stability_low
from circuits.circuit.graph import Circuit, Edge, Node
from circuits.errors import PromptError, RunError, SettingsError
from circuits.model.planted import planted
from circuits.model.sites import Component, parse
from circuits.prompts.emotions import Emotion

# Type checks at run time pick items at random, also while a circuit is drawn; what is drawn does not depend on them.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAN = math.nan
Operation = Callable[[Circuit, Circuit], Circuit]


def keys(circuit: Circuit) -> set[tuple[str, str, str]]:
    return {edge.key for edge in circuit.edges}


# -- sets --------------------------------------------------------------------------------------------------------------


@QUICK
@given(circuits(), circuits(), circuits())
def test_nodes_and_edges_obey_the_laws_of_sets(a: Circuit, b: Circuit, c: Circuit) -> None:
    assert union(a, b).names == a.names | b.names
    assert keys(union(a, b)) == keys(a) | keys(b)
    assert intersection(a, b).names == a.names & b.names
    assert keys(intersection(a, b)) == keys(a) & keys(b)
    assert difference(a, b).names == a.names - b.names
    lost = a.names & b.names
    assert keys(difference(a, b)) == {k for k in keys(a) - keys(b) if not {k[0], k[1]} & lost}
    assert same(union(union(a, b), c), union(a, union(b, c)), judgement=False)
    assert same(intersection(intersection(a, b), c), intersection(a, intersection(b, c)), judgement=False)
    assert intersection(a, union(b, c)).names == union(intersection(a, b), intersection(a, c)).names
    assert difference(a, union(b, c)).names == difference(difference(a, b), c).names


@QUICK
@given(circuits())
def test_a_circuit_with_itself_is_itself_or_nothing(a: Circuit) -> None:
    assert same(union(a, a), a, judgement=False)
    assert same(intersection(a, a), a, judgement=False)
    assert (difference(a, a).nodes, difference(a, a).edges) == ((), ())
    for result in (union(a, a), intersection(a, a), difference(a, a)):
        assert "not judged" in result.judgement["derived"]


@QUICK
@given(plain(emotion=st.just(Emotion.ANGER)), plain(emotion=st.just(Emotion.FEAR)))
def test_merging_two_emotions_loses_nothing_and_knows_no_order(a: Circuit, b: Circuit) -> None:
    merged = union(a, b)
    assert merged.emotions == (Emotion.ANGER, Emotion.FEAR)
    other = union(b, a)
    assert {n.name: repr(n) for n in merged.nodes} == {n.name: repr(n) for n in other.nodes}
    assert {e.key: repr(e) for e in merged.edges} == {e.key: repr(e) for e in other.edges}
    assert same(restricted(merged, "anger"), replace(a, judgement={}))
    back = restricted(merged, "fear")
    assert sorted(map(repr, back.nodes)) == sorted(map(repr, b.nodes))
    assert sorted(map(repr, back.edges)) == sorted(map(repr, b.edges))
    shared = intersection(a, b)
    for node in shared.nodes:
        assert node.emotions == (Emotion.ANGER, Emotion.FEAR)
        assert repr(node.effects[Emotion.FEAR]) == repr(next(n.own for n in b.nodes if n.name == node.name))


@QUICK
@given(circuits())
def test_restricting_twice_changes_nothing_more(a: Circuit) -> None:
    for e in a.emotions:
        once = restricted(a, str(e))
        assert once.emotions == (e,)
        assert once.names <= a.names
        assert same(restricted(once, str(e)), once)


def test_restricting_to_an_emotion_that_is_not_there_is_refused() -> None:
    with pytest.raises(PromptError, match="this circuit has no read-out fear; it has anger"):
        restricted(Circuit(Emotion.ANGER, (), ()), "fear")
    with pytest.raises(PromptError, match="unknown emotion 'joy'"):
        restricted(Circuit(Emotion.ANGER, (), ()), "joy")


@QUICK
@given(plain(of=heads | neurons), st.lists(heads | neurons, unique=True, max_size=12))
def test_complement_splits_a_universe(a: Circuit, others: list[Component]) -> None:
    universe = [*a.components, *others]
    rest = complement(a, universe)
    assert rest.names | a.names == {c.name for c in universe}
    assert not rest.names & a.names
    assert complement(rest, universe).names == a.names
    assert all(math.isnan(n.effect) for n in rest.nodes)
    assert same(Circuit.from_networkx(rest.to_networkx()), rest)


def test_a_whole_half_layer_covers_its_heads_or_neurons() -> None:
    universe = [parse(name) for name in ("L0H0", "L0H1", "L0N0", "L1N0", "L1H0")]
    whole = Circuit(Emotion.FEAR, tuple(made(name) for name in ("L0.attn", "L1.mlp")), ())
    assert complement(whole, universe).names == {"L0N0", "L1H0"}


def test_the_complement_in_a_model_is_all_its_other_heads_and_neurons() -> None:
    model = planted("chain").model
    rest = complement(Circuit(Emotion.FEAR, (made("L0H0"),), ()), model)
    assert len(rest.nodes) == len(model.heads) + len(model.neurons) - 1
    rest.require_in(model)


# -- differences -------------------------------------------------------------------------------------------------------


def made(name: str, effect: float = 1.0, half: float = 0.25) -> Node:
    return Node(parse(name), effect, effect - half, effect + half, 0.01, True, 0.0)


def circuit(*nodes: Node, low: float | None = None) -> Circuit:
    return Circuit(Emotion.FEAR, nodes, (), {} if low is None else {"stability": {"low": low}})


@QUICK
@given(plain(emotion=st.just(Emotion.FEAR)), plain(emotion=st.just(Emotion.FEAR)))
def test_what_one_gained_the_other_lost(a: Circuit, b: Circuit) -> None:
    there, back = differences(a, b), differences(b, a)
    assert repr(there.gained) == repr(back.lost)
    assert repr(there.lost) == repr(back.gained)
    assert repr(there.edges_gained) == repr(back.edges_lost)
    assert {k.name: repr((k.before, k.after)) for k in there.kept} == {
        k.name: repr((k.after, k.before)) for k in back.kept
    }
    assert {k.key for k in there.edges_kept} == {k.key for k in back.edges_kept} == keys(a) & keys(b)
    assert there.jaccard == back.jaccard
    assert there.edge_jaccard == back.edge_jaccard
    total = a.names | b.names
    assert there.jaccard == (len(a.names & b.names) / len(total) if total else 1.0)
    assert (
        there.same == back.same == same(replace(a, judgement={}), replace(b, judgement={}, nodes=b.nodes))
        or not there.same
    )


@QUICK
@given(circuits())
def test_a_circuit_does_not_differ_from_itself(a: Circuit) -> None:
    found = differences(a, a)
    assert found.same
    assert (found.gained, found.lost, found.edges_gained, found.edges_lost, found.jaccard) == ((), (), (), (), 1.0)
    assert moved(found, a, min_jaccard=1.0, max_effect_change=0.0) == ()


def test_circuits_of_two_emotions_are_not_compared() -> None:
    with pytest.raises(RunError, match="the circuits of fear and anger cannot be compared; expected one emotion"):
        differences(circuit(), Circuit(Emotion.ANGER, (), ()))


GOLDEN = (made("L0H0", 2.0), made("L0H1"), made("L1N0"), made("L1N1"))


@pytest.mark.parametrize(("kept", "low", "bound", "fails"), [
    (3, None, 0.8, True), (3, None, 0.75, False), (4, None, 1.0, False),
    (3, 0.7, 0.8, False), (3, 0.75, 0.8, False), (3, 0.76, 0.8, True), (2, 0.7, 0.4, False), (0, 0.7, 0.8, True),
])  # fmt: skip
def test_nodes_have_moved_below_the_bound_and_below_the_noise(
    kept: int, low: float | None, bound: float, fails: bool
) -> None:
    golden = circuit(*GOLDEN, low=low)
    assert stability_low(golden) == low
    reasons = moved(differences(circuit(*GOLDEN[:kept]), golden), golden, min_jaccard=bound)
    assert bool(reasons) is fails
    if fails:
        assert reasons[0].startswith(f"fear: Jaccard of nodes {kept / 4:.2f}, below {bound:g}")
        assert ("that resampling explains" in reasons[0]) is (low is not None)


@pytest.mark.parametrize(("effect", "half", "bound", "fails"), [
    (2.0, 0.25, 0.1, True), (2.0, 0.9, 0.1, False), (2.0, 0.25, 0.5, False), (1.1, 0.01, 0.1, False), (2.0, NAN, 0.1, True),
    (-1.0, 0.25, 0.9, True),
])  # fmt: skip
def test_an_effect_has_moved_when_it_changed_much_and_the_intervals_are_apart(
    effect: float, half: float, bound: float, fails: bool
) -> None:
    golden = circuit(*GOLDEN)
    new = circuit(GOLDEN[0], made("L0H1", effect, half), *GOLDEN[2:])
    reasons = moved(differences(new, golden), golden, max_effect_change=bound)
    assert bool(reasons) is fails
    if fails:
        assert "fear: the effect of L0H1 went from +1.00 [+0.75, +1.25] to" in reasons[0]


def test_several_moved_effects_are_counted_and_the_worst_is_named() -> None:
    golden = circuit(*GOLDEN)
    new = circuit(GOLDEN[0], made("L0H1", 3.0), made("L1N0", 4.0), GOLDEN[3])
    (reason,) = moved(differences(new, golden), golden, max_effect_change=0.1)
    assert "of L1N0 went" in reason
    assert "150% of the largest effect, more than 10%, and 1 more" in reason


@pytest.mark.parametrize("bound", [-0.1, 1.1, NAN])
def test_bounds_outside_their_range_are_refused(bound: float) -> None:
    found = differences(circuit(), circuit())
    with pytest.raises(SettingsError, match=r"min_jaccard is .*; expected a number from 0 to 1"):
        moved(found, circuit(), min_jaccard=bound)


def test_an_effect_bound_below_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"max_effect_change is -1\.0; expected a number from 0 on"):
        moved(differences(circuit(), circuit()), circuit(), max_effect_change=-1.0)


def test_components_one_model_lacks_are_set_aside() -> None:
    edges = (Edge("L0H0", "L3H0", 1.0, NAN, NAN, "gradient"), Edge("embed", "L0H0", 1.0, NAN, NAN, "gradient"))
    large = replace(circuit(made("L0H0"), made("L3H0"), made("L0H9"), made("L0N99")), edges=edges)
    small = replace(circuit(made("L0H0")), edges=edges[1:])
    found = common(small, large, {"layers": 2, "heads": 4, "neurons": 50})
    assert found.aside == ("L0H9", "L0N99", "L3H0")
    assert (found.jaccard, found.edge_jaccard) == (1.0, 1.0)
    assert not found.same


@pytest.mark.parametrize("stability", [None, 3, {}, {"low": None}, {"low": True}, {"low": "x"}])
def test_a_stability_that_is_none_is_no_noise(stability: object) -> None:
    assert stability_low(Circuit(Emotion.FEAR, (), (), {"stability": stability})) is None
