"""Places that do not move, rows that rise, and numbers as the circuits have them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from bench.bigrun import Shape, big_run

from circuits.circuit.graph import Circuit
from circuits.circuit.matched import Sizes, matched_random
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run
from circuits.show.explore.scene import key, layout, random_circuits, scene

SHAPE = Shape(nodes=40, edges=150, layers=3, heads=4, neurons=64, scenarios=6, width=8, verified=10)
SIZES = Sizes(4, 64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return big_run(tmp_path_factory.mktemp("scene") / "run", SHAPE)


@pytest.fixture(scope="module")
def circuits(run: Run) -> dict[Emotion, Circuit]:
    return {e: run.circuit(e) for e in EMOTIONS}


def test_no_two_stand_on_one_another_and_rows_rise(circuits: dict[Emotion, Circuit]) -> None:
    found = layout(circuits, 3, SIZES)
    nodes = {n.component for c in circuits.values() for n in c.nodes}
    assert set(found.places) == {c.name for c in nodes} | {str(e) for e in EMOTIONS} | {"embed"}
    points = np.array([found.places[c.name] for c in nodes])
    apart = np.abs(points[:, None] - points[None]).max(-1) + 1e9 * np.eye(len(points))
    assert apart.min() >= 20
    heights: dict[int, list[float]] = {}
    for c in nodes:
        heights.setdefault(2 * c.layer + (c.half == "mlp"), []).append(found.places[c.name][1])
    ordered = [heights[depth] for depth in sorted(heights)]
    # y grows downwards: every row lies wholly above the one before it.
    assert all(max(upper) < min(lower) for lower, upper in pairwise(ordered))
    assert found.places["embed"][1] > max(ordered[0])
    assert found.places["fear"][1] < min(ordered[-1])
    assert abs(points[:, 0]).max() <= found.width / 2
    assert len(found.rows) == 2 + 2 * 3


def test_places_are_those_of_all_six_whatever_is_asked_for(circuits: dict[Emotion, Circuit]) -> None:
    found = layout(circuits, 3, SIZES)
    one = scene(circuits, [Emotion.FEAR], found, {})
    every = scene(circuits, list(EMOTIONS), found, {})
    place = {n["id"]: (n["x"], n["y"]) for n in every["nodes"]}
    assert all(place[n["id"]] == (n["x"], n["y"]) for n in one["nodes"])


def test_every_number_is_there_with_its_interval(circuits: dict[Emotion, Circuit]) -> None:
    wanted = [Emotion.ANGER, Emotion.FEAR]
    found = scene(circuits, wanted, layout(circuits, 3, SIZES), {})
    by = {n["id"]: n["by"] for n in found["nodes"]}
    for e in wanted:
        for n in circuits[e].nodes:
            effect, low, high, q, exact, direct, member = by[n.name][str(e)]
            assert [effect, low, high] == pytest.approx([n.effect, n.low, n.high], rel=1e-4)
            assert (q, direct) == pytest.approx((n.q, n.direct), rel=1e-4)
            assert (exact, member) == (n.verified, 1)
        weights = {d["id"]: d["by"].get(str(e)) for d in found["edges"]}
        for d in circuits[e].edges:
            assert weights[key(d)][:3] == pytest.approx([d.weight, d.low, d.high], rel=1e-4)
            assert weights[key(d)][3] == d.kind
    others = {n.name for n in circuits[Emotion.FEAR].nodes} - {n.name for n in circuits[Emotion.ANGER].nodes}
    assert all(not by[name].get("anger", [0] * 7)[6] for name in others)


def test_a_missing_number_is_none(circuits: dict[Emotion, Circuit]) -> None:
    from dataclasses import replace

    fear = circuits[Emotion.FEAR]
    nodes = (replace(fear.nodes[0], low=math.nan, high=math.nan, effects={}), *fear.nodes[1:])
    changed = {**circuits, Emotion.FEAR: replace(fear, nodes=nodes)}
    found = scene(changed, [Emotion.FEAR], layout(changed, 3, SIZES), {})
    values = next(n["by"]["fear"] for n in found["nodes"] if n["id"] == nodes[0].name)
    assert values[1:3] == [None, None]


def test_random_circuits_are_those_the_judge_drew(circuits: dict[Emotion, Circuit]) -> None:
    fear = circuits[Emotion.FEAR]
    found = random_circuits(fear, SIZES, 7, 2)
    rng = np.random.default_rng(7 + Emotion.FEAR.column)
    assert [r.components for r in found] == [matched_random(SIZES, fear.components, rng) for _ in range(2)]
    assert [r.faithfulness for r in found] == fear.judgement["random"][:2]
    more = [c for r in found for c in r.components]
    drawn = scene(circuits, [Emotion.FEAR], layout(circuits, 3, SIZES, more), {Emotion.FEAR: found})
    marked = {n["id"] for n in drawn["nodes"] if ["fear", 1] in n["null"]}
    assert marked == {c.name for c in found[1].components}


def test_nothing_asked_for_is_nothing_drawn(circuits: dict[Emotion, Circuit]) -> None:
    assert scene(circuits, [], layout(circuits, 3, SIZES), {}) == {"nodes": [], "edges": [], "emotions": []}


def test_six_empty_circuits_and_one_layer_have_a_layout(circuits: dict[Emotion, Circuit]) -> None:
    from dataclasses import replace

    empty = {e: replace(c, nodes=(), edges=()) for e, c in circuits.items()}
    found = layout(empty, 1, SIZES)
    assert len(found.rows) == 4
    drawn = scene(empty, list(EMOTIONS), found, {})
    assert {n["id"] for n in drawn["nodes"]} == {"embed", *map(str, EMOTIONS)}
