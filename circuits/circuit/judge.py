"""From measured effects to one emotion's judged circuit: chosen on ``select``, reported on ``test``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.circuit.edges import choose_edges, report_edges
from circuits.circuit.evaluation import Bench, Faithfulness, matched_random
from circuits.circuit.graph import Circuit, Edge, Node
from circuits.circuit.selection import Selection, candidates, select
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.table import Effects
from circuits.errors import MeasurementError
from circuits.model.sites import Component
from circuits.prompts.datasets import Prompts, Split
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.settings import Settings

__all__ = ["Judged", "Plans", "judge"]

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Judged:
    """A circuit and the random circuits it was judged beside."""

    circuit: Circuit
    random: tuple[tuple[Component, ...], ...]


@dataclass(frozen=True)
class Plans:
    """The walks through ``select`` and ``test`` under the run's ablation, and through ``test`` under mean ablation."""

    select: Plan
    test: Plan
    test_mean: Plan


def judge(
    prompts: Prompts, effects: Effects, direct: Effects, settings: Settings, plans: Plans, watch: Watch
) -> dict[Emotion, Judged]:
    """Choose every emotion's circuit on ``select`` and report it on ``test``.

    ``effects`` holds the best measurement of every head and neuron, ``direct`` their direct effects, both on ``select`` and
    ``test``. Where the model does not tell an emotion apart, its circuit is empty and ``judgement["undefined"]`` says why.
    """
    chosen, reported = effects.on(prompts.split(Split.SELECT)), effects.on(prompts.split(Split.TEST))
    judgements: dict[Emotion, dict[str, Any]] = {}
    selections: dict[Emotion, Selection] = {}
    edges: dict[Emotion, tuple[Edge, ...]] = {}
    steps, positions = 3 * len(EMOTIONS), Positions(settings.positions)
    # One set of benches at a time: each holds replacement values for every layer.
    for e, bench in Bench.every(plans.select, positions).items():
        watch("judging circuits", len(selections), steps)
        ranked = candidates(chosen, e, alpha=settings.alpha)
        judgements[e] = {
            "candidates": len(ranked),
            "target": settings.target,
            "unit": "logits",
            **_accuracy(reported, e),
        }
        selections[e] = _selected(bench, ranked, settings, judgements[e])
        edges[e] = choose_edges(bench, selections[e].components, share=settings.edge_share)
    result = {}
    for e, bench in Bench.every(plans.test, positions).items():
        watch("judging circuits", len(EMOTIONS) + e.column, steps)
        result[e] = _reported(bench, selections[e].components, edges[e], judgements[e], reported, direct, settings)
    if settings.ablation is not Ablation.MEAN:
        for e, bench in Bench.every(plans.test_mean, positions).items():
            watch("judging circuits", 2 * len(EMOTIONS) + e.column, steps)
            if result[e].circuit.nodes:
                # A stricter question: with the data set's mean, machinery shared by all emotions goes as well.
                judgements[e]["mean_ablation"] = _mean_ablation(bench, selections[e].components, result[e].random)
    return result


def _selected(bench: Bench, ranked: tuple[Component, ...], settings: Settings, judgement: dict[str, Any]) -> Selection:
    nothing = Selection((), 0.0, False, len(ranked))
    if not ranked:
        judgement["undefined"] = (
            f"no head or neuron supports {bench.emotion} with q < {settings.alpha} on the select split"
        )
        return nothing
    try:
        selection = select(bench, ranked, target=settings.target)
    except MeasurementError as error:
        judgement["undefined"] = str(error)
        return nothing
    judgement["faithfulness_select_in_sample"] = selection.faithfulness
    judgement["reached"] = selection.reached
    return selection


def _reported(
    bench: Bench,
    nodes: tuple[Component, ...],
    chosen: tuple[Edge, ...],
    judgement: dict[str, Any],
    effects: Effects,
    direct: Effects,
    settings: Settings,
) -> Judged:
    e = bench.emotion
    judgement |= {
        "size": len(nodes),
        "metric_whole": float(bench.whole.mean()),
        "metric_empty": float(bench.empty.mean()),
    }
    random: tuple[tuple[Component, ...], ...] = ()
    if nodes:
        rng = np.random.default_rng([settings.seed, e.column])
        random = tuple(matched_random(bench.model, nodes, rng) for _ in range(settings.random_circuits))
        try:
            judgement |= _verdict(bench, nodes, random)
        except MeasurementError as error:
            judgement |= {"undefined": str(error), "size": 0, "reached": False}
            nodes, random = (), ()
    if not nodes:
        judgement.setdefault("reached", False)
        return Judged(Circuit(e, (), (), judgement), ())
    edges = report_edges(bench, nodes, chosen)
    return Judged(Circuit(e, _nodes(nodes, e, effects, direct.on(effects.prompts)), edges, judgement), random)


def _verdict(test: Bench, nodes: tuple[Component, ...], random: tuple[tuple[Component, ...], ...]) -> dict[str, Any]:
    circuit, *rest = test.metrics([nodes, *random])
    found = test.ratio(circuit)
    others = np.array([test.ratio(one).value for one in rest])
    low, high = np.quantile(others, [0.025, 0.975])
    reached = int((others >= found.value).sum())
    return {
        **_prefixed("faithfulness", found),
        "n": found.n,
        "random": others.tolist(),
        "random_mean": float(others.mean()),
        "random_low": float(low),
        "random_high": float(high),
        "random_n": len(others),
        "random_p": (1 + reached) / (1 + len(others)),
    }


def _mean_ablation(
    bench: Bench, nodes: tuple[Component, ...], random: tuple[tuple[Component, ...], ...]
) -> dict[str, Any]:
    try:
        found = _verdict(bench, nodes, random)
    except MeasurementError as error:
        return {"undefined": str(error)}
    return found | {"metric_whole": float(bench.whole.mean()), "metric_empty": float(bench.empty.mean())}


def _prefixed(name: str, f: Faithfulness) -> dict[str, float]:
    return {name: f.value, f"{name}_low": f.low, f"{name}_high": f.high, "metric_circuit": f.circuit}


def _accuracy(effects: Effects, e: Emotion) -> dict[str, float]:
    """Share of the emotion's test texts on which its own logit difference is the largest of the six."""
    rows = effects.prompts.emotions == e.column
    right = effects.clean[rows].argmax(1) == e.column
    return {"accuracy": float(right.mean()), "accuracy_n": int(rows.sum())}


def _nodes(components: tuple[Component, ...], e: Emotion, effects: Effects, direct: Effects) -> tuple[Node, ...]:
    # They were chosen on other scenarios, so on these only the chosen ones are tested: q adjusts over them alone.
    summary = effects.of(components).summary(e)
    straight = direct.of(components).summary(e).mean
    methods = effects.of(components).methods
    return tuple(
        Node(
            component=c,
            effect=float(summary.mean[i]),
            low=float(summary.low[i]),
            high=float(summary.high[i]),
            q=float(summary.q_sign[i]),
            verified=methods[i] is Method.EXACT,
            direct=float(straight[i]),
        )
        for i, c in enumerate(components)
    )
