"""From measured effects to one emotion's judged circuit: chosen on ``select``, reported on ``test``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.circuit.edges import find_edges
from circuits.circuit.evaluation import Bench, Faithfulness, matched_random
from circuits.circuit.graph import Circuit, Node
from circuits.circuit.selection import candidates, select
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Method
from circuits.effects.table import Effects
from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.sites import Component
from circuits.prompts.datasets import Prompts, Split
from circuits.prompts.emotions import Emotion
from circuits.settings import Settings

__all__ = ["Judged", "judge"]


@dataclass(frozen=True)
class Judged:
    """A circuit and the random circuits it was judged beside."""

    circuit: Circuit
    random: tuple[tuple[Component, ...], ...]


def judge(
    model: Model, prompts: Prompts, e: Emotion, effects: Effects, direct: Effects, settings: Settings, plans: Plans
) -> Judged:
    """Choose the circuit of ``e`` on ``select`` and report it on ``test``.

    ``effects`` holds the best measurement of every head and neuron, ``direct`` their direct effects, both on ``select`` and
    ``test``. Where the model does not tell the emotion apart, the circuit is empty and ``judgement["undefined"]`` says why.
    """
    chosen = prompts.split(Split.SELECT)
    reported = prompts.split(Split.TEST)
    ranked = candidates(effects.on(chosen), e, alpha=settings.alpha)
    judgement: dict[str, Any] = {"candidates": len(ranked), "target": settings.target, "unit": "logits"}
    judgement |= _accuracy(effects.on(reported), e)
    bench = Bench(model, chosen, e, positions=settings.positions, plan=plans.select)
    test = Bench(model, reported, e, positions=settings.positions, plan=plans.test)
    judgement |= {"metric_whole": float(test.whole.mean()), "metric_empty": float(test.empty.mean())}
    try:
        selection = select(bench, ranked, target=settings.target)
        test.ratio(test.whole)
    except MeasurementError as error:
        return Judged(Circuit(e, (), (), {**judgement, "size": 0, "reached": False, "undefined": str(error)}), ())
    nodes = selection.components
    judgement |= {
        "size": len(nodes),
        "reached": selection.reached,
        "faithfulness_select_in_sample": selection.faithfulness,
    }
    if not nodes:
        reason = f"no head or neuron supports {e} with q < {settings.alpha} on the select split"
        return Judged(Circuit(e, (), (), {**judgement, "undefined": reason}), ())
    rng = np.random.default_rng([settings.seed, e.column])
    random = tuple(matched_random(model, nodes, rng) for _ in range(settings.random_circuits))
    judgement |= _verdict(test, nodes, random)
    if settings.ablation is not Ablation.MEAN:
        judgement["mean_ablation"] = _mean_ablation(model, e, nodes, settings, plans)
    threshold = settings.edge_share * (judgement["metric_whole"] - judgement["metric_empty"])
    edges = find_edges(plans.test, nodes, e, positions=settings.positions, threshold=threshold)
    judgement["edge_threshold"] = threshold
    return Judged(Circuit(e, _nodes(nodes, e, effects.on(reported), direct.on(reported)), edges, judgement), random)


@dataclass(frozen=True)
class Plans:
    """The walks through ``select`` and ``test`` under the run's ablation, and through ``test`` under mean ablation."""

    select: Plan
    test: Plan
    test_mean: Plan


def _verdict(test: Bench, nodes: tuple[Component, ...], random: tuple[tuple[Component, ...], ...]) -> dict[str, Any]:
    found = test.faithfulness(nodes)
    others = np.array([test.faithfulness(c).value for c in random])
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
    model: Model, e: Emotion, nodes: tuple[Component, ...], settings: Settings, plans: Plans
) -> dict[str, Any]:
    """The same circuit judged with the data set's mean: a stricter question, since shared machinery goes too."""
    try:
        found = Bench(model, plans.test_mean.prompts, e, positions=settings.positions, plan=plans.test_mean)
        return _prefixed("faithfulness", found.faithfulness(nodes)) | {"n": found.n}
    except MeasurementError as error:
        return {"undefined": str(error)}


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
            q=float(summary.q[i]),
            verified=methods[i] is Method.EXACT,
            direct=float(straight[i]),
        )
        for i, c in enumerate(components)
    )
