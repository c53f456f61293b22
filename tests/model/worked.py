"""Planted circuits worked by hand: the true nodes by their roles, and what a row loses when some of them are ablated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import torch

from circuits.circuit.evaluation import Bench
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation
from circuits.model.planted import Planted, PlantedKind, PlantedSize, planted
from circuits.model.planted.board import EMBED
from circuits.model.planted.build import draft
from circuits.model.planted.texts import Row
from circuits.model.sites import Component, parse
from circuits.prompts.emotions import Emotion

ZERO = 3e-5
CONTEXTUAL = ["composite", "forked", "two_directions"]
NEW = ["redundant", "backup", "inhibitor", *CONTEXTUAL]
BOTH = (Ablation.MEAN_SCENARIO, Ablation.ZERO)


@cache
def made(kind: str, seed: int = 0, size: str = "small", *, scenarios: int = 6, norm="none", noise=0.0) -> Planted:
    return planted(kind, seed=seed, size=size, scenarios=scenarios, norm=norm, noise=noise)


@cache
def benches(p: Planted, ablation: Ablation, context: str) -> dict[Emotion, Bench]:
    """One text of each emotion per scenario, so that a scenario's metric is a row's."""
    part = p.prompts.where(np.array([row.valence == context for row in p.prompts.rows]))
    return Bench.every(Plan.of(p.model, part, ablation))


def loss(p: Planted, ablation: Ablation, context: str, e: Emotion, sets: list[set[Component]]) -> np.ndarray:
    """Loss of the logit difference by set and scenario."""
    bench = benches(p, ablation, context)[e]
    return bench.whole - bench.metrics([everything(p) - gone for gone in sets])


def everything(p: Planted) -> set[Component]:
    return {*p.model.heads, *p.model.neurons}


@cache
def rows(kind: PlantedKind, seed: int, size: PlantedSize) -> tuple[Row, ...]:
    return draft(kind, seed=seed, size=size, scenarios=6).rows


def rows_of(p: Planted, context: str, e: Emotion) -> list[Row]:
    return [row for row in rows(p.kind, p.seed, p.size) if row.emotion is e and row.context == context]


def roles(p: Planted, context: str, e: Emotion) -> dict[str, Component]:
    """The true nodes of one emotion by what they do, told from the true edges alone (and rise from clip by its sign)."""
    nodes, edges = p.by_emotion[e]
    into = {n: {a for a, b in edges if b == n} for n in nodes}
    heads = sorted(n for n in nodes if "H" in n)
    neurons = sorted(n for n in nodes if "N" in n)
    match p.kind:
        case PlantedKind.REDUNDANT:
            answer = torch.tensor([p.model.tokenizer.convert_tokens_to_ids(p.prompts.answers[e][0])])
            column, _ = p.model.unembedding(answer.tolist())
            rise = {n: float(p.model.W_out(parse(n).layer)[parse(n).index] @ column[:, 0]) > 0 for n in neurons}
            found = {"a": heads[0], "b": heads[1]} | {("rise" if up else "clip"): n for n, up in rise.items()}
        case PlantedKind.BACKUP:
            second = next(h for h in heads if into[h] - {EMBED})
            first = next(h for h in heads if h != second)
            found = {"first": first, "second": second}
            found |= {("neuron" if into[n] == {first} else "spare"): n for n in neurons}
        case PlantedKind.INHIBITOR:
            damper = next(n for n in neurons if (n, e.value) not in edges)
            neuron = next(n for n in neurons if n != damper)
            listener = next(iter(into[damper]))
            found = {"damper": damper, "neuron": neuron, "listener": listener}
            found["head"] = next(h for h in heads if h != listener)
        case _:
            own = p.by_context[context][e].nodes
            found = {("head" if "H" in n else "neuron"): n for n in own}
            found |= {("other head" if "H" in n else "other neuron"): n for n in nodes - own}
    assert set(found.values()) == nodes
    return {role: parse(name) for role, name in found.items()}


Formula = Callable[[float, float, bool], float]
"""Loss in logits by strength s, share k left behind, and whether the cue is mixed."""


def a(s: float) -> float:
    """The emotion neuron."""
    return max(0.0, 2 * s - 0.5)


def brake(mixed: bool) -> float:
    return 0.4 if mixed else 0.0


WORKED: Mapping[str, Mapping[tuple[str, ...], Formula]] = {
    "redundant": {
        ("a",): lambda s, k, m: 0,
        ("b",): lambda s, k, m: 0,
        ("a", "b"): lambda s, k, m: 3.6,
        ("rise",): lambda s, k, m: 3 * (8 * s - 2) * (1 - k),
        ("clip",): lambda s, k, m: -3 * (8 * s - 3.2) * (1 - k),
        ("rise", "clip"): lambda s, k, m: 3.6 * (1 - k),
    },
    "backup": {
        ("first",): lambda s, k, m: 0,
        ("second",): lambda s, k, m: 0,
        ("spare",): lambda s, k, m: 0,
        ("neuron",): lambda s, k, m: 3 * a(s) * (1 - k),
        ("first", "second"): lambda s, k, m: 3 * a(s),
        ("first", "spare"): lambda s, k, m: 3 * a(s),
        ("first", "neuron"): lambda s, k, m: -3 * a(s) * k,
        ("second", "spare"): lambda s, k, m: 0,
    },
    "inhibitor": {
        ("head",): lambda s, k, m: 3 * a(s) * (1 - brake(m)),
        ("neuron",): lambda s, k, m: 3 * a(s) * (1 - brake(m)) * (1 - k),
        ("damper",): lambda s, k, m: -3 * a(s) * brake(m) * (1 - k),
        ("listener",): lambda s, k, m: -3 * a(s) * brake(m),
        ("head", "damper"): lambda s, k, m: 3 * a(s) * (1 - brake(m)),
    },
    "composite": {
        ("head",): lambda s, k, m: 3 * a(s),
        ("neuron",): lambda s, k, m: 3 * a(s) * (1 - k),
        ("other head",): lambda s, k, m: 0,
        ("other neuron",): lambda s, k, m: 0,
        ("head", "other head"): lambda s, k, m: 3 * a(s),
    },
    "forked": {
        ("head",): lambda s, k, m: 3 * a(s),
        ("neuron",): lambda s, k, m: 3 * a(s) * (1 - k),
        ("other neuron",): lambda s, k, m: 0,
        ("neuron", "other neuron"): lambda s, k, m: 3 * a(s) * (1 - k),
    },
}
WORKED = {**WORKED, "two_directions": WORKED["composite"]}

SHOWN = {
    ("redundant", ("rise",)): (19, 22.8),
    ("redundant", ("clip",)): (-16, -19.2),
    ("redundant", ("rise", "clip")): (3, 3.6),
    ("backup", ("neuron",)): (4.75, 5.7),
    ("backup", ("first", "second")): (5.7, 5.7),
    ("backup", ("first", "neuron")): (-0.95, 0),
    ("inhibitor", ("head",)): (3.42, 3.42),
    ("inhibitor", ("neuron",)): (2.85, 3.42),
    ("inhibitor", ("damper",)): (-1.9, -2.28),
    ("inhibitor", ("listener",)): (-2.28, -2.28),
    ("composite", ("head",)): (5.7, 5.7),
    ("forked", ("neuron",)): (4.75, 5.7),
}
"""Numbers as the docstrings show them, at s = 1.2 and mixed: under ``mean_scenario`` and under ``zero``."""


def shares(p: Planted, ablation: Ablation) -> tuple[np.ndarray, np.ndarray]:
    """Of each emotion's metric: what the circuit keeps alone, and what is left without it."""
    nodes = {parse(name) for name in p.nodes}
    found = Bench.every(Plan.of(p.model, p.prompts, ablation)).values()
    metrics = [bench.metrics([nodes, everything(p) - nodes]).mean(1) / bench.whole.mean() for bench in found]
    kept, left = np.array(metrics).T
    return kept, left
