"""From measured effects to six judged circuits: chosen on ``select``, every figure measured on ``test``.

What is measured always: faithfulness beside random circuits, under several kinds of ablation, of the complement, along
the ten budgets; edges again; stability of the ranking (on ``select``, where the choice was made); whose circuit it is;
what ablating it costs the language. Completeness and minimality take minutes and are measured when asked for (``thorough``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from circuits.circuit.choosing import Choice, Watch, choose
from circuits.circuit.completeness import completeness, minimality
from circuits.circuit.cost import Neutral, language_cost
from circuits.circuit.curves import by_ablation, curve
from circuits.circuit.edges import exact_edges
from circuits.circuit.estimates import Estimate, beside, randoms
from circuits.circuit.evaluation import Bench
from circuits.circuit.graph import Circuit, Measured, Node
from circuits.circuit.revealed import remeasured
from circuits.circuit.specificity import overlap, specificity
from circuits.circuit.stability import stability
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.measure import Store
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects
from circuits.errors import MeasurementError
from circuits.model.sites import Component
from circuits.prompts.datasets import Prompts, Split
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.settings import Settings

__all__ = ["Judged", "Plans", "Verdict", "elsewhere", "judge"]

_FEW = 10
"""Random circuits beside each under other kinds of ablation, unless the walk is thorough."""
_FEWEST = 5
"""And for the matrix of all pairs of emotions and the cost in language, where each takes as long as several."""


@dataclass(frozen=True)
class Judged:
    """A circuit and the random circuits it was judged beside."""

    circuit: Circuit
    random: tuple[tuple[Component, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """The judged circuits, and what was found about them together.

    Attributes:
        together: JSON values: ``specificity``, ``overlap``, and what was ``skipped``, each where it could be measured.
        benches: on which they were judged; the stream can be edited on them.
    """

    judged: Mapping[Emotion, Judged]
    together: Mapping[str, Any]
    benches: Mapping[Emotion, Bench]


@dataclass(frozen=True)
class Plans:
    """The walks through ``select`` and ``test`` under the run's ablation, and through ``test`` under others."""

    select: Plan
    test: Plan
    others: Mapping[Ablation, Plan]


def judge(
    prompts: Prompts,
    effects: Effects,
    direct: Effects,
    settings: Settings,
    plans: Plans,
    watch: Watch,
    *,
    store: Store | None = None,
) -> Verdict:
    """Choose every emotion's circuit on ``select`` and report it on ``test``.

    ``effects`` holds the best measurement of every head and neuron, ``direct`` their direct effects, both on ``select`` and
    ``test``. Where the model does not tell an emotion apart, its circuit is empty and ``judgement["undefined"]`` says why.
    """
    chosen, reported = effects.on(prompts.split(Split.SELECT)), effects.on(prompts.split(Split.TEST))
    choices = choose(plans.select, chosen, settings, watch, store=store)
    model, positions = plans.test.model, Positions(settings.positions)
    steps = 3 * len(EMOTIONS)
    done = 0

    def step() -> None:
        nonlocal done
        watch("judging circuits", done, steps)
        done += 1

    neutral = prompts.split(Split.TEST)
    spoken = Neutral(model, neutral) if neutral.neutral else None
    judged: dict[Emotion, Judged] = {}
    judgements: dict[Emotion, dict[str, Any]] = {}
    benches = Bench.every(plans.test, positions, states=True)
    for e, bench in benches.items():
        step()
        j = judgements[e] = {
            "target": settings.target, "unit": "logits", **_found(choices[e], settings), **_accuracy(reported, e),
        }  # fmt: skip
        judged[e] = _reported(bench, choices[e], j, reported, direct.on(reported.prompts), settings)
        nodes = judged[e].circuit.components
        if nodes:
            step()
            _more(bench, choices[e], nodes, chosen, j, settings)
            if spoken is not None:
                count = _drawn(settings, _FEWEST)
                j["language"] = language_cost(spoken, nodes, count=count, seed=settings.seed).as_dict()
    found = {e: one.circuit.components for e, one in judged.items() if one.circuit.nodes}
    together: dict[str, Any] = {}
    if found:
        step()
        count = _drawn(settings, _FEWEST)
        together["specificity"] = specificity(benches, found, count=count, seed=settings.seed).as_dict()
    if len(found) > 1:
        together["overlap"] = overlap(model, found, seed=settings.seed).as_dict()
    if not settings.thorough:
        together["skipped"] = _skipped(found, choices, settings)
    watch("judging circuits", steps, steps)
    return Verdict(judged, together, benches)


def elsewhere(
    circuits: Mapping[Emotion, Circuit], settings: Settings, plans: Plans, watch: Watch
) -> dict[Emotion, Circuit]:
    """The circuits with their faithfulness under the other kinds of ablation in their judgements.

    Benches hold replacement values for every layer: call this when those of the verdict are no longer needed, so that one set
    is held at a time.
    """
    found: dict[Emotion, dict[str, Any]] = {e: {} for e, circuit in circuits.items() if circuit.nodes}
    steps, done = len(plans.others) * len(EMOTIONS), 0
    for ablation, plan in plans.others.items() if found else ():
        for e, bench in Bench.every(plan, Positions(settings.positions)).items():
            watch("circuits under other ablations", done, steps)
            done += 1
            if e in found:
                # With the data set's mean or nothing at all, machinery that all emotions share goes as well.
                nodes, count = circuits[e].components, _drawn(settings, _FEW)
                one = by_ablation(nodes, {ablation: bench}, count=count, seed=settings.seed)[ablation]
                found[e][str(ablation)] = {"undefined": one} if isinstance(one, str) else one.as_dict()
    watch("circuits under other ablations", steps, steps)
    return {
        e: replace(circuit, judgement={**circuit.judgement, "ablations": found[e]}) if found.get(e) else circuit
        for e, circuit in circuits.items()
    }


def _drawn(settings: Settings, few: int) -> int:
    """Random circuits beside a secondary figure."""
    return settings.random_circuits if settings.thorough else min(few, settings.random_circuits)


def _found(choice: Choice, settings: Settings) -> dict[str, Any]:
    """What is known of the choice, in-sample."""
    found = choice.found
    value = {k: v for k, v in found.as_dict().items() if k not in ("chosen", "size", "edges")}
    if not found.undefined and not found.chosen:
        value["undefined"] = f"no head or neuron supports it with q < {settings.alpha} on the select split"
    return value


def _skipped(
    found: Mapping[Emotion, tuple[Component, ...]], choices: Mapping[Emotion, Choice], settings: Settings
) -> str:
    """What was left out, and how to ask for it."""
    stand_ins = sum(len(choices[e].found.worlds) for e in found)
    where = (
        f"edges of the {stand_ins} components found in place of others, in the models where they showed, "
        if stand_ins
        else ""
    )
    nodes = sum(len(some) for some in found.values())
    # Completeness: circuit and model without each set, and five sets of each random circuit; minimality: eleven pairs a node.
    forwards = 2 * (51 * len(found) + nodes) + 10 * 100 * len(found) + 22 * (nodes + 100 * len(found))
    return (
        f"completeness and minimality of the circuits (about {forwards:,} more forwards), {where}the full search, and the full "
        f"number of random circuits in the secondary figures ({_drawn(settings, _FEW)} and {_drawn(settings, _FEWEST)} were "
        "drawn): ask for them with --thorough --patience 20"
    )


def _reported(
    bench: Bench,
    choice: Choice,
    judgement: dict[str, Any],
    effects: Effects,
    direct: Effects,
    settings: Settings,
) -> Judged:
    e, nodes = bench.emotion, choice.found.chosen
    judgement |= {
        "size": len(nodes),
        "metric_whole": float(bench.whole.mean()),
        "metric_empty": float(bench.empty.mean()),
    }
    random: tuple[tuple[Component, ...], ...] = ()
    if nodes:
        drawn = randoms(bench.model, nodes, count=settings.random_circuits, seed=settings.seed + e.column)
        random = tuple(tuple(sorted(one)) for one in drawn)
        try:
            judgement |= _verdict(bench, nodes, random)
        except MeasurementError as error:
            judgement |= {"undefined": str(error), "size": 0, "reached": False}
            nodes, random = (), ()
    if not nodes:
        judgement.setdefault("reached", False)
        return Judged(Circuit(e, (), (), judgement), ())
    edges = exact_edges(bench, nodes, choice.edges)
    if choice.revealed:
        more = remeasured(bench, choice.revealed)
        judgement["revealed"] = [one.as_dict() for one in more]
        edges = tuple(sorted((*edges, *(one.edge for one in more)), key=lambda edge: -abs(edge.weight)))
    return Judged(Circuit(e, _nodes(nodes, e, effects, direct), edges, judgement), random)


def _more(
    bench: Bench, choice: Choice, nodes: tuple[Component, ...], chosen: Effects, j: dict[str, Any], settings: Settings
) -> None:
    """The figures next to faithfulness, into the judgement."""
    rest = set(bench.model.heads) | set(bench.model.neurons)
    j["complement"] = Estimate.of(bench.faithfulness(rest - set(nodes))).as_dict()
    j["curve"] = curve(bench, choice.found.ranked).as_dict()
    if len(np.unique(chosen.prompts.scenarios)) >= MIN_SCENARIOS:
        j["stability"] = stability(chosen, bench.emotion, size=len(nodes), seed=settings.seed).as_dict()
    if settings.thorough:
        count = settings.random_circuits
        j["completeness"] = completeness(bench, nodes, count=count, seed=settings.seed).as_dict()
        j["minimality"] = minimality(bench, nodes, count=count, seed=settings.seed).as_dict()


def _verdict(test: Bench, nodes: tuple[Component, ...], random: tuple[tuple[Component, ...], ...]) -> dict[str, Any]:
    circuit, *rest = test.metrics([nodes, *random])
    f = test.ratio(circuit)
    found = beside(Estimate.of(f), [test.ratio(one).value for one in rest])
    # The names a run's files have.
    names = {"value": "faithfulness", "low": "faithfulness_low", "high": "faithfulness_high", "p": "random_p"}
    flat = {names.get(key, key): value for key, value in found.as_dict().items()}
    return {**flat, "metric_circuit": f.circuit, "random": list(found.random)}


def _accuracy(effects: Effects, e: Emotion) -> dict[str, float]:
    """Share of the emotion's test texts on which its own logit difference is the largest of the six."""
    rows = effects.prompts.emotions == e.column
    right = effects.clean[rows].argmax(1) == e.column
    return {"accuracy": float(right.mean()), "accuracy_n": int(rows.sum())}


def _nodes(components: tuple[Component, ...], e: Emotion, effects: Effects, direct: Effects) -> tuple[Node, ...]:
    # They were chosen on other scenarios, so on these only the chosen ones are tested: q adjusts over them alone.
    by_emotion = {other: _measured(components, other, effects, direct) for other in EMOTIONS}
    return tuple(
        Node(c, **by_emotion[e][i]._asdict(), effects={o: by_emotion[o][i] for o in EMOTIONS if o is not e})
        for i, c in enumerate(components)
    )


def _measured(components: tuple[Component, ...], e: Emotion, effects: Effects, direct: Effects) -> list[Measured]:
    """What the components do to one emotion."""
    some = effects.of(components)
    summary, straight = some.summary(e, permuted=False), direct.of(components).by_scenario(e).mean(0)
    return [
        Measured(
            effect=float(summary.mean[i]), low=float(summary.low[i]), high=float(summary.high[i]), q=float(summary.q_sign[i]),
            verified=some.methods[i] is Method.EXACT, direct=float(straight[i]),
        )
        for i in range(len(components))
    ]  # fmt: skip
