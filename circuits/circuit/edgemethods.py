"""Finding a circuit by its edges: pruning to a target, and the baselines that rank edges by a gradient score.

All run their edge sets as :mod:`circuits.circuit.edgesets` defines them, on ``select``; :attr:`Found.edges` lie on paths from
``embed`` to the read-out, and :attr:`Found.chosen` are the nodes on them. Faithfulness is that of the edges, the
complement that of all nodes but those. Edges are ranked by the size of their mean score over scenarios.

Costs are in forwards, by counting operations where a run is not a whole pass: running ten nodes edge by edge in a large
model is a small part of a forward, running all nodes of a small one several.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from circuits.circuit.discovery import Case, Found, outgoing
from circuits.circuit.edgesets import EdgeBench, EdgeName, edges_among, nodes_of, run_price, trimmed
from circuits.circuit.evaluation import Bench
from circuits.circuit.pruning import prune_to_target
from circuits.effects.edges import Along
from circuits.effects.kinds import Method
from circuits.effects.paths import edge_scores
from circuits.effects.price import Dims, Texts
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.errors import MeasurementError
from circuits.model.sites import Component, Kind

__all__ = ["EdgePruning", "TopEdges", "scoring_price", "shortest_top"]

Edges = frozenset[EdgeName]

_CLEARLY = 1e-3
"""Faithfulness above the target from which on running nodes and running their edges cannot come out on two sides of it."""


@dataclass(frozen=True)
class EdgePruning:
    """All edges among the components that matter alone, as few of them as stay faithful.

    Candidates are heads and neurons whose single effect (the case's best) differs from zero, to *either* side (q of the
    sign-flip test below ``alpha``), the ``nodes`` largest at most; where their edges together do not reach the target, the
    ``nodes`` largest whatever the test says. Without any significant one there is no circuit. Edges are ranked by gradient
    scores and taken away in blocks, weakest first (:func:`circuits.circuit.pruning.prune_to_target`), as long as
    ``1 - |1 - faithfulness|`` reaches the target. Nodes without a path from ``embed`` to the read-out go with their edges.

    Of the planted kinds it recovers nodes and edges of ``chain``, ``shared_head``, ``composite``, ``forked`` and
    ``two_directions`` (298 of 300 circuits, ten seeds; of 60 ``null`` ones 59 are empty). It cannot recover what the target
    can spare: one of the two heads of ``redundant``; in ``backup`` the second head and its neuron, which do nothing while
    the first is there; in ``inhibitor`` mostly what holds the emotion back, where the circuit is within the target without.

    Attributes:
        nodes: candidates at most. With n of them there are up to n (n + 3) / 2 edges.
        patience: forwards that pruning may take; what was not tried by then stays, and the notice says so.
    """

    name: str = "edge_pruning"
    nodes: int = 96
    patience: int = 1000

    def bound(self, case: Case, *, target: float = 0.8, alpha: float = 0.05) -> float:
        """Forwards it takes at most.

        Where single effects are at hand the candidates are known, and one forward says whether they suffice: then no more runs
        are made than halving their edges down to single ones takes. Otherwise the largest are tried whatever the test says,
        and only patience ends that.
        """
        some = _Costliest.of(case, self.nodes)
        # Asked once; ready once; scored twice; a first run of all edges twice; the last run may begin just within the patience.
        worst = case.effects_forwards + 2 + 2 * scoring_price(case.bench, some.count) + 3 * some.run + self.patience + 1
        if case.effects_forwards:
            return worst
        members = self._candidates(case, alpha)
        if not members:
            return 0.0
        if len(members) > self.nodes:
            return worst
        try:
            # The nodes do what all edges among them do.
            if case.bench.faithfulness(members).value < target + _CLEARLY:
                return worst
        except MeasurementError:
            return 1.0  # it is undefined, whatever is run
        run = run_price(case.bench, members)
        edges = len(edges_among(case.bench.model, members, str(case.emotion)))
        return 2 + scoring_price(case.bench, len(members)) + run + min(self.patience + run, 2 * edges * run) + 1

    def _candidates(self, case: Case, alpha: float) -> tuple[Component, ...]:
        """What matters alone, largest first."""
        effects, e = case.effects, case.emotion
        mean = effects.by_scenario(e).mean(0)
        usable = np.abs(mean) > effects.resolution
        if case.bench.n >= MIN_SCENARIOS:
            usable &= effects.summary(e, permuted=False).q_sign < alpha
        order = sorted(np.flatnonzero(usable), key=lambda i: (-abs(mean[i]), effects.components[i]))
        return tuple(effects.components[i] for i in order)

    def __call__(self, case: Case, *, target: float, alpha: float = 0.05, seed: int = 0) -> Found:
        bound, known = self.bound(case, target=target, alpha=alpha), not case.effects_forwards
        spent = case.effects_forwards
        effects, e = case.effects, case.emotion
        mean = effects.by_scenario(e).mean(0)
        order = sorted(range(len(mean)), key=lambda i: (-abs(mean[i]), effects.components[i]))
        ranked = {effects.components[i]: float(mean[i]) for i in order}
        some, largest = self._candidates(case, alpha), tuple(ranked)[: self.nodes]
        asked = known and 0 < len(some) <= self.nodes  # by the bound, whether they suffice
        found = _Finding(self.name, case, ranked, target, bound, spent + asked)
        if not some:
            return found.nothing(f"no head or neuron matters to {e} on the select split")
        if len(some) > self.nodes:
            found.notices.append(
                f"{len(some)} components matter alone; edges among the {self.nodes} largest were tried"
            )
            some = largest
        try:
            case.bench.ratio(case.bench.empty)  # before anything is spent on a ratio that means nothing
            found.score(some)
            if found.whole < target and set(some) != set(largest):
                found.notices.append(
                    f"what matters alone does not reach the target; {len(largest)} components were tried"
                )
                found.score(largest)
            return found.made(self._pruned(found))
        except MeasurementError as error:
            return found.nothing(str(error))

    def _pruned(self, found: _Finding) -> Edges:
        edges, everything, whole = found.edges, trimmed(found.scores, found.edges.readout), found.whole
        if whole < found.target:
            return everything
        limit, stopped = edges.forwards + self.patience, False

        def closeness(kept: Edges) -> float:
            nonlocal stopped
            stopped = edges.forwards > limit
            # Nothing more is taken away when patience is at its end.
            return -math.inf if stopped else _closeness(edges.faithfulness(kept).value)

        pruned = prune_to_target(
            {edge: score for edge, score in found.scores.items() if edge in everything},
            closeness,
            # Where all of them overshoot by more than the target allows, what is left shall not overshoot more.
            target=min(found.target, _closeness(whole)),
        )
        if stopped:
            found.notices.append(f"pruning stopped at {self.patience} forwards; some edges may be spare")
        return frozenset(pruned.kept)


@dataclass(frozen=True)
class TopEdges:
    """Rank all edges by one gradient score; the shortest top that reaches the target.

    Without ``steps`` edge attribution patching (Syed et al. 2023); with them EAP-IG along inputs (Hanna et al. 2024), or along
    activations, the senders of one kind and layer at a time. The top's length is found by bisection, which assumes that
    longer tops are more faithful; what it gives reaches the target as run. There is no test: a model without a circuit has
    one here, unless its faithfulness is undefined. Nodes are ranked by the size of the sum of their outgoing edges.

    Like :class:`EdgePruning` none recovers ``redundant``, ``backup`` and ``inhibitor``; edges behind what is silent in every
    clean run have a score of exactly zero, integrated or not.

    Components are all heads and neurons up to ``most`` of them; in larger models all heads and as many neurons as there is
    room for, by attribution patching, and the notice says so; the others come last in the ranking, by that score.
    """

    name: str
    steps: int = 0
    along: Along = Along.INPUTS
    most: int = 256

    def bound(self, case: Case, *, target: float = 0.8, alpha: float = 0.05) -> float:
        some = _Costliest.of(case, self.most)
        scoring = scoring_price(case.bench, some.count, steps=self.steps, along=self.along)
        return self._screening(case) + scoring + 1 + (2 + math.ceil(math.log2(max(2, some.edges)))) * some.run + 1

    def _screening(self, case: Case) -> float:
        return case.measured.forwards(Method.GRADIENT) if len(case.components) > self.most else 0.0

    def __call__(self, case: Case, *, target: float, alpha: float = 0.05, seed: int = 0) -> Found:
        bound = self.bound(case, target=target, alpha=alpha)
        found = _Finding(self.name, case, {}, target, bound, self._screening(case))
        some, rest = case.components, {}
        if len(some) > self.most:
            first = case.measured.of(Method.GRADIENT)
            size = dict(zip(first.components, np.abs(first.by_scenario(case.emotion).mean(0)), strict=True))
            ordered = sorted(some, key=lambda c: (c.kind is not Kind.HEAD, -size[c], c))
            some, rest = tuple(ordered[: self.most]), {c: float(size[c]) for c in ordered[self.most :]}
            found.notices.append(
                f"edges among {self.most} of {len(size)} components: heads first, neurons by first order"
            )
        try:
            found.score(some, steps=self.steps, along=self.along)
            sums = outgoing({edge: np.array([score]) for edge, score in found.scores.items()}, some)[:, 0]
            found.ranking = {some[i]: float(sums[i]) for i in np.argsort(-np.abs(sums), kind="stable")} | rest
            case.bench.ratio(case.bench.empty)
            return found.made(shortest_top(found.edges, found.scores, target=target))
        except MeasurementError as error:
            return found.nothing(str(error))


def shortest_top(edges: EdgeBench, scores: Mapping[EdgeName, float], *, target: float) -> Edges:
    """The fewest edges of largest absolute score whose faithfulness reaches ``target``; all of them when none does.

    Bisection, as :func:`circuits.circuit.selection.select` does it for nodes. Ties keep the order given.
    """
    order = sorted(scores, key=lambda edge: -abs(scores[edge]))
    low, high = 0, len(order)
    if edges.faithfulness(order).value >= target:
        while high - low > 1:
            middle = (low + high) // 2
            if edges.faithfulness(order[:middle]).value >= target:
                high = middle
            else:
                low = middle
    return frozenset(order[:high])


def scoring_price(bench: Bench, count: int, *, steps: int = 0, along: Along = Along.INPUTS) -> float:
    """What scoring all edges among ``count`` components takes, in forwards, at most.

    The texts are recorded and the plain way compared; each midpoint is a forward and a backward, for which every reader
    has a slope and every pair an inner product. Along activations there are as many paths as kinds and layers.
    """
    dims, texts = Dims.of(bench.model), _texts(bench)
    paths = 1 if along is Along.INPUTS or not steps else 2 * dims.layers + 1
    heads = min(count, dims.layers * dims.heads)
    maps = 3 * dims.d_head * heads + (1 + dims.gated) * (count - heads)
    inner = 2 * dims.d_model * (paths * maps + count * (count + 1) // 2) * texts.tokens
    return 2 + max(1, steps) * (2 * paths + inner / dims.forward(texts))


@dataclass(frozen=True)
class _Costliest:
    """``count`` components of a model such that no others are dearer to run edge by edge: heads, each with a half-layer to
    itself, then neurons.

    Attributes:
        run: forwards of a run with all their edges.
    """

    count: int
    run: float

    @classmethod
    def of(cls, case: Case, most: int) -> _Costliest:
        bench, count = case.bench, min(most, len(case.components))
        dims, texts = Dims.of(bench.model), _texts(bench)
        whole = run_price(bench, case.components)
        if count == len(case.components):
            return cls(count, whole)
        heads = min(count, sum(c.kind is Kind.HEAD for c in case.components))
        others = count - heads
        ranks = dims.d_head * heads * (heads - 1) // 2 + others * dims.d_head * heads + others * (others - 1) // 2
        maps = 3 * dims.d_head * heads + (1 + dims.gated) * others
        mixing = 4 * int(texts.width.max()) * dims.d_head * heads
        last = 2 * dims.d_model * (dims.d_head * heads + others) * int(texts.prompts.sum())
        work = (2 * dims.d_model * (ranks + maps) + mixing) * texts.tokens + last
        return cls(count, min(whole, work / dims.forward(texts)))

    @property
    def edges(self) -> int:
        """How many edges there are among them at most."""
        return self.count * (self.count + 3) // 2


class _Finding:
    """One search on its way to a :class:`Found`.

    Attributes:
        ranking: components from the most to the least important, with their scores.
        spent: forwards beside those of :attr:`edges`.
    """

    def __init__(
        self, name: str, case: Case, ranking: Mapping[Component, float], target: float, bound: float, spent: float
    ) -> None:
        self.name, self.case, self.ranking, self.target = name, case, ranking, target
        self.bound, self.spent = bound, spent
        self.edges = EdgeBench(case.bench)
        self.scores: dict[EdgeName, float] = {}
        self.notices: list[str] = []

    def score(self, nodes: Sequence[Component], *, steps: int = 0, along: Along = Along.INPUTS) -> None:
        """Scores [logits] of all edges among ``nodes``, means over scenarios, in a model that can be run edge by edge."""
        bench = self.case.bench
        self.edges.ready()
        found = edge_scores(bench.model, bench.readout, bench.texts, nodes, bench.emotion, steps=steps, along=along)
        means = bench.by_scenario(torch.from_numpy(np.stack(list(found.values())))).mean(1)
        self.scores = dict(zip(found, map(float, means), strict=True))
        self.spent += scoring_price(bench, len(nodes), steps=steps, along=along)

    @property
    def whole(self) -> float:
        """Faithfulness of all edges that were scored."""
        return self.edges.faithfulness(self.scores).value

    def made(self, kept: Edges) -> Found:
        """The finding, of which only paths from ``embed`` to the read-out are left."""
        edges, bench = self.edges, self.case.bench
        kept = trimmed(kept, edges.readout)
        chosen = nodes_of(kept, edges.readout)
        value, rest = edges.faithfulness(kept).value, float("nan")
        if chosen:
            rest = bench.faithfulness(set(self.case.components) - set(chosen)).value
            self.spent += 1
        reached = bool(value >= self.target - 1e-9)
        order = sorted(kept, key=lambda edge: (-abs(self.scores[edge]), edge))
        return self._found(chosen, value, rest, reached, "", tuple(order))

    def nothing(self, why: str) -> Found:
        """No circuit, and why."""
        return self._found((), float("nan"), float("nan"), False, why, ())

    def _found(
        self,
        chosen: Collection[Component],
        value: float,
        rest: float,
        reached: bool,
        why: str,
        kept: tuple[EdgeName, ...],
    ) -> Found:
        ranked = tuple(self.ranking)
        return Found(
            method=self.name,
            ranked=ranked,
            scores=np.array([self.ranking[c] for c in ranked]),
            chosen=tuple(c for c in ranked if c in chosen),
            faithfulness=value,
            complement=rest,
            reached=reached,
            bound=self.bound,
            forwards=self.spent + self.edges.forwards,
            undefined=why,
            notice="; ".join(self.notices),
            edges=kept,
            edge_scores=self.scores,
        )


def _closeness(faithfulness: float) -> float:
    """How near to one a faithfulness is from either side; one at best."""
    return 1 - abs(1 - faithfulness)


def _texts(bench: Bench) -> Texts:
    tokens = [piece.tokens for piece in bench.texts]
    return Texts(np.array([len(t) for t in tokens]), np.array([t.ids.shape[1] for t in tokens]))
