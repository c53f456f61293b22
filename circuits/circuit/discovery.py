"""Finding a circuit: one signature for every method, and the plain ones (rank by a score, take the shortest top).

A method gets a :class:`Case` (one emotion on the ``select`` split) and returns a :class:`Found`. All thresholds are
chosen on ``select``; what comes out must be reported on ``test``. Costs are counted in *forwards*: one pass over the
emotion's own texts of the split. What was measured on the texts of all six emotions serves all six, so a pass over
those is one forward as well.

A node's EAP score (Syed et al. 2023) is the sum of the scores of its outgoing edges. Every path from a write into the
stream begins with one of them, so to first order the sum is the node's attribution patching score: ``atp`` is EAP by
nodes, ``ig_inputs`` is EAP-IG along inputs (Hanna et al. 2024), ``ig_activations`` along activations (Marks et al.
2024).

The search that also finds redundant parts is in :mod:`circuits.circuit.conditional`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from circuits.circuit.evaluation import Bench
from circuits.circuit.selection import candidates, select
from circuits.effects.batch import Plan
from circuits.effects.kinds import Method, Positions
from circuits.effects.measure import measure, price
from circuits.effects.price import Dims
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects
from circuits.errors import MeasurementError
from circuits.model.sites import Component, Kind
from circuits.prompts.emotions import Emotion

__all__ = ["Case", "Counted", "Discovery", "Found", "Measured", "Random", "Ranked", "chosen_top", "outgoing"]

Array = NDArray[np.float64]


@dataclass
class Measured:
    """Effects of all heads and neurons on a split, each estimate made when it is first asked for."""

    plan: Plan
    positions: Positions = Positions.ALL
    known: dict[Method, Effects] = field(default_factory=dict)

    @property
    def components(self) -> tuple[Component, ...]:
        """Every head and neuron; heads alone in a mixture of experts."""
        model = self.plan.model
        return (*model.heads, *(model.neurons if model.capabilities.neurons else ()))

    def of(self, method: Method) -> Effects:
        """The estimate, measured unless it is at hand."""
        if method not in self.known:
            plan = self.plan
            self.known[method] = measure(
                plan.model, plan.prompts, self.components, method=method, ablation=plan.ablation,
                positions=self.positions, readout=plan.readout,
            )  # fmt: skip
        return self.known[method]

    def forwards(self, method: Method) -> float:
        """What it costs to measure, in forwards; nothing if it is at hand."""
        if method in self.known:
            return 0.0
        plan = self.plan
        work = price(
            plan.model, plan.prompts, self.components, method=method, ablation=plan.ablation, positions=self.positions
        )
        return work / Dims.of(plan.model).forward(plan.texts())


@dataclass(frozen=True)
class Case:
    """One emotion on ``select``: what a method may look at.

    Attributes:
        bench: where circuits are run.
        measured: estimates of single effects, shared by the six emotions.
        best: the best measurement of every head and neuron on the split's prompts, where there is one: exact where it was
            verified, first order elsewhere. None: the exact effects of all are measured when a method asks for them.
    """

    bench: Bench
    measured: Measured
    best: Effects | None = None

    @classmethod
    def every(
        cls, plan: Plan, positions: Positions = Positions.ALL, *, best: Effects | None = None
    ) -> dict[Emotion, Case]:
        """The cases of all emotions on one split.

        Raises:
            MeasurementError: ``best`` lacks a prompt of the plan.
        """
        measured = Measured(plan, positions)
        here = best.on(plan.prompts) if best is not None else None
        return {e: cls(bench, measured, here) for e, bench in Bench.every(plan, positions).items()}

    @property
    def emotion(self) -> Emotion:
        return self.bench.emotion

    @property
    def components(self) -> tuple[Component, ...]:
        """Everything a circuit may be made of."""
        return self.measured.components

    @property
    def effects(self) -> Effects:
        """Single effects, the best there are."""
        if self.best is None:
            return self.measured.of(Method.EXACT)
        wanted = [c for c in self.best.components if c.kind in (Kind.HEAD, Kind.NEURON)]
        return self.best if len(wanted) == len(self.best.components) else self.best.of(wanted)

    @property
    def effects_forwards(self) -> float:
        """What :attr:`effects` still costs."""
        return 0.0 if self.best is not None else self.measured.forwards(Method.EXACT)


@dataclass(frozen=True)
class Found:
    """What a method found; everything in-sample on ``select``.

    Attributes:
        ranked: components from the most to the least important, by the method's score.
        scores: of ``ranked``, in logits (random: no unit).
        chosen: the circuit.
        faithfulness: of the circuit; NaN where it is undefined.
        complement: faithfulness of everything *but* the circuit: near zero when nothing stands in for it.
        reached: whether the circuit is as faithful as asked for.
        bound: forwards it would take at most, as said before.
        forwards: forwards it took.
        undefined: why there is no circuit; empty where there is one.
        notice: what else to know, such as that the search stopped at its budget.
        edges: of the circuit, source and target by name (``embed``, components, the emotion as its read-out), where the method
            chooses edges; ``faithfulness`` is then that of the edges.
        edge_scores: the method's score [logits] of every edge it ranked, signed.
        worlds: members that showed only where others were ablated, and which these were.
    """

    method: str
    ranked: tuple[Component, ...]
    scores: Array
    chosen: tuple[Component, ...]
    faithfulness: float
    complement: float
    reached: bool
    bound: float
    forwards: float
    undefined: str = ""
    notice: str = ""
    edges: tuple[tuple[str, str], ...] = ()
    edge_scores: Mapping[tuple[str, str], float] = field(default_factory=dict)
    worlds: Mapping[Component, tuple[Component, ...]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests; rankings are left out."""
        return {
            "method": self.method,
            "chosen": [c.name for c in self.chosen],
            "size": len(self.chosen),
            "faithfulness_select_in_sample": self.faithfulness,
            "complement_select_in_sample": self.complement,
            "reached": self.reached,
            "forwards_bound": self.bound,
            "forwards": self.forwards,
            **({"edges": [list(edge) for edge in self.edges]} if self.edges else {}),
            **({"worlds": {c.name: [o.name for o in gone] for c, gone in self.worlds.items()}} if self.worlds else {}),
            **({"undefined": self.undefined} if self.undefined else {}),
            **({"notice": self.notice} if self.notice else {}),
        }


@runtime_checkable
class Discovery(Protocol):
    """A way to find a circuit."""

    @property
    def name(self) -> str:
        """What it is called in tables."""

    def bound(self, case: Case, *, target: float = 0.8, alpha: float = 0.05) -> float:
        """Forwards it takes at most, before it is run; measurements already at hand are free.

        Args:
            target, alpha: what it will be called with; few methods' costs depend on them.
        """

    def __call__(self, case: Case, *, target: float, alpha: float = 0.05, seed: int = 0) -> Found:
        """Find the circuit.

        Args:
            target: faithfulness the circuit shall reach on ``select``.
            alpha: largest false discovery rate of a component that may join, where the method tests.
            seed: of whatever is drawn at random.
        """


class Counted(Bench):
    """A bench that remembers what it was asked and counts forwards."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.emotion = bench.emotion
        self.whole, self.empty = bench.whole, bench.empty
        self.forwards = 0
        self._known: dict[frozenset[Component], Array] = {frozenset(): bench.empty}

    def unknown(self, kept: Iterable[Collection[Component]]) -> list[frozenset[Component]]:
        """The sets that were not run yet, each once."""
        return list(dict.fromkeys(some for some in map(frozenset, kept) if some not in self._known))

    def metrics(self, kept: Sequence[Collection[Component]]) -> Array:
        sets, new = [frozenset(some) for some in kept], self.unknown(kept)
        if new:
            self._known |= dict(zip(new, self.bench.metrics(new), strict=True))
            self.forwards += len(new)
        return np.stack([self._known[some] for some in sets]) if sets else np.zeros((0, len(self.whole)))


@dataclass(frozen=True)
class Ranked:
    """Rank by one estimate of single effects; the shortest top that reaches the target.

    With ``tested`` only components that significantly support the emotion may join, which is what keeps a model without a
    circuit without one. None of these finds redundant parts: where either of two suffices, single effects are nothing.

    Attributes:
        method: the estimate; None: the case's best.
    """

    name: str
    method: Method | None
    tested: bool = True

    def bound(self, case: Case, *, target: float = 0.8, alpha: float = 0.05) -> float:
        measuring = case.effects_forwards if self.method is None else case.measured.forwards(self.method)
        return measuring + _bisection(len(case.components)) + 1

    def __call__(self, case: Case, *, target: float, alpha: float = 0.05, seed: int = 0) -> Found:
        bound = self.bound(case, target=target, alpha=alpha)
        spent = case.effects_forwards if self.method is None else case.measured.forwards(self.method)
        effects = case.effects if self.method is None else case.measured.of(self.method)
        mean = effects.by_scenario(case.emotion).mean(0)
        order = sorted(range(len(mean)), key=lambda i: (-mean[i], effects.components[i]))
        ranked = tuple(effects.components[i] for i in order)
        if self.tested and case.bench.n >= MIN_SCENARIOS:
            usable = candidates(effects, case.emotion, alpha=alpha)
        else:
            usable = tuple(effects.components[i] for i in order if mean[i] > effects.resolution)
        return chosen_top(self.name, case, ranked, mean[order], usable, target=target, bound=bound, spent=spent)


@dataclass(frozen=True)
class Random:
    """Components in random order: what reaching the target takes without knowing anything."""

    name: str = "random"

    def bound(self, case: Case, *, target: float = 0.8, alpha: float = 0.05) -> float:
        return float(_bisection(len(case.components)) + 1)

    def __call__(self, case: Case, *, target: float, alpha: float = 0.05, seed: int = 0) -> Found:
        rng = np.random.default_rng([seed, case.emotion.column])
        ranked = tuple(case.components[i] for i in rng.permutation(len(case.components)))
        scores = np.linspace(1, 0, len(ranked))
        bound = self.bound(case, target=target, alpha=alpha)
        return chosen_top(self.name, case, ranked, scores, ranked, target=target, bound=bound, spent=0.0)


def chosen_top(
    name: str,
    case: Case,
    ranked: tuple[Component, ...],
    scores: Array,
    usable: tuple[Component, ...],
    *,
    target: float,
    bound: float,
    spent: float,
) -> Found:
    """The shortest top of ``usable`` that reaches ``target``, as a finding."""
    bench = Counted(case.bench)
    try:
        selection = select(bench, usable, target=target)
        chosen, value, reached = selection.components, selection.faithfulness, selection.reached
        rest = bench.faithfulness(set(case.components) - set(chosen)).value if chosen else float("nan")
        undefined = "" if usable else f"no head or neuron supports {case.emotion} on the select split"
    except MeasurementError as error:
        chosen, value, rest, reached, undefined = (), float("nan"), float("nan"), False, str(error)
    return Found(name, ranked, scores, chosen, value, rest, reached, bound, spent + bench.forwards, undefined)


def outgoing(scores: Mapping[tuple[str, str], np.ndarray], components: Sequence[Component]) -> NDArray[np.float64]:
    """Sum of every component's outgoing edges, ``[component, text]``: its EAP score from edge scores [logits].

    Equal to the attribution patching score where the edges of the component to everything behind it are given, up to the edge
    into the read-out, which :func:`circuits.effects.paths.edge_scores` gives exactly and not to first order.
    """
    by_source: dict[str, list[Array]] = {}
    for (source, _), value in scores.items():
        by_source.setdefault(source, []).append(np.asarray(value, dtype=np.float64))
    length = len(next(iter(scores.values()))) if scores else 0
    found = [np.sum(by_source[c.name], axis=0) if c.name in by_source else np.zeros(length) for c in components]
    return np.stack(found) if found else np.zeros((0, length))


def _bisection(count: int) -> int:
    """Circuits that finding the shortest sufficient top of a list takes at most."""
    return 2 + int(np.ceil(np.log2(max(2, count))))
