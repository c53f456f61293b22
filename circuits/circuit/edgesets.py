"""Running a circuit that is a set of edges, and what that says about it.

Edges go by name: from ``embed``, a head or a neuron to a head, a neuron or the read-out, which has the emotion's name. What
a set of edges *is*:

* A node reads, from every sender with a kept edge into it, the sender's activation in this run; from every other sender its
  replacement, and so from everything that is no node. Without an edge from ``embed`` it reads the replaced embedding,
  the loss of which :class:`circuits.effects.losses.Losses` calls the way.
* The read-out always reads the embedding itself: the edge from ``embed`` to the read-out passes no node, is in every set and
  never named. So the empty set is m(∅), in which embeddings stay.
* A node that is on no path from ``embed`` to the read-out is ablated like everything outside, and its edges do nothing
  (:func:`trimmed`). With a corrupt run instead of mean replacements this would follow of itself; here a head that reads
  nothing but replacements need not put out its own.

With all edges among some nodes kept the metric is that of the nodes, :meth:`Bench.metric`.

Reference: Conmy et al. 2023 (ACDC).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.circuit.evaluation import Bench, Faithfulness
from circuits.effects.chunks import chunk_size, in_chunks
from circuits.effects.losses import EMBED, READOUT, precedes, receivers_in, senders_in
from circuits.effects.price import Dims, Texts
from circuits.errors import ComponentError, UnsupportedModelError
from circuits.model.anatomy import Model
from circuits.model.machine import precise
from circuits.model.plainrun import PlainRun
from circuits.model.sites import Component, Half, Input, Kind, parse
from circuits.model.wired import Wired, Wiring

__all__ = ["EdgeBench", "EdgeName", "edges_among", "nodes_of", "run_price", "trimmed"]

Array = NDArray[np.float64]

EdgeName = tuple[str, str]
"""Source and target by name; the target of a last edge is the emotion."""


def edges_among(model: Model, nodes: Iterable[Component], readout: str) -> tuple[EdgeName, ...]:
    """Every possible edge among ``embed``, heads and neurons, and the read-out, but for the one from ``embed`` to it.

    Raises:
        ComponentError: a node is unknown to the model or listed twice.
    """
    nodes = tuple(nodes)
    ends = senders_in(model, [EMBED, *nodes]), receivers_in(model, [*nodes, READOUT])
    return tuple(
        (str(s), readout if r == READOUT else str(r))
        for s, r in product(*ends)
        if precedes(model, s, r) and (s, r) != (EMBED, READOUT)
    )


def trimmed(edges: Iterable[EdgeName], readout: str) -> frozenset[EdgeName]:
    """The edges that lie on a path from ``embed`` to the read-out through a node."""
    some = frozenset(edges) - {(EMBED, readout)}
    begun, ending = _reached(some, EMBED), _reached({(t, s) for s, t in some}, readout)
    return frozenset((s, t) for s, t in some if s in begun and t in ending)


def nodes_of(edges: Iterable[EdgeName], readout: str) -> tuple[Component, ...]:
    """The components on a path from ``embed`` to the read-out, in their order."""
    return tuple(sorted(parse(s) for s in {source for source, _ in trimmed(edges, readout)} - {EMBED}))


def _reached(edges: Collection[EdgeName], start: str) -> set[str]:
    """Everything that can be reached from ``start``, itself included."""
    behind: dict[str, list[str]] = {}
    for source, target in edges:
        behind.setdefault(source, []).append(target)
    found, todo = {start}, [start]
    while todo:
        new = [one for one in behind.get(todo.pop(), ()) if one not in found]
        found.update(new)
        todo += new
    return found


class EdgeBench:
    """A bench on which sets of edges are run.

    Attributes:
        bench: whose texts, replacement values and emotion these are.
        forwards: what was spent, in forwards; getting ready counts as one.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.forwards = 0.0
        self._known: dict[frozenset[EdgeName], Array] = {frozenset(): bench.empty}
        self._sound: set[EdgeName] = set()

    @property
    def readout(self) -> str:
        """The name of the read-out."""
        return str(self.bench.emotion)

    def metric(self, kept: Collection[EdgeName]) -> Array:
        """The emotion's logit difference [logits] per scenario with these edges kept."""
        result: Array = self.metrics([kept])[0]
        return result

    def metrics(self, kept: Sequence[Collection[EdgeName]]) -> Array:
        """The same of several sets at once, ``[set, scenario]``; none is run twice.

        Raises:
            ComponentError: an unknown end, or a source that cannot reach its target directly.
            UnsupportedModelError: the model is replayed or a mixture of experts.
            MeasurementError: a set gives NaN or infinite logits, or memory does not suffice.
        """
        for some in kept:
            self._require(some)
        sets = [trimmed(some, self.readout) for some in kept]
        new = [some for some in dict.fromkeys(sets) if some not in self._known]
        if new:
            self._known |= dict(zip(new, self._run(new), strict=True))
        return np.stack([self._known[some] for some in sets]) if sets else np.zeros((0, self.bench.n))

    def faithfulness(self, kept: Collection[EdgeName]) -> Faithfulness:
        """Faithfulness of a set of edges, over the same m(M) and m(∅) as that of nodes.

        Raises:
            MeasurementError: the whole model is not better than none of it.
        """
        return self.bench.ratio(self.metric(kept))

    def ready(self) -> None:
        """Get ready to run.

        Raises:
            UnsupportedModelError: the model is replayed or a mixture of experts.
        """
        _ = self._wired

    def _run(self, sets: Sequence[frozenset[EdgeName]]) -> Array:
        wiring = self._wiring(sets)
        column = self.bench.emotion.column
        parts = []
        with precise(self.bench.model.device):
            for wired in self._wired:

                def work(start: int, stop: int, wired: Wired = wired) -> Tensor:
                    some = Wiring(wiring.nodes, wiring.kept[start:stop])
                    return self.bench.readout(wired.final(some))[..., column]

                size = chunk_size(self.bench.model, wired.plain.tokens.ids.numel() * max(1, len(wiring.nodes) // 4))
                parts.append(torch.cat([found for *_, found in in_chunks(len(wiring), size, work)]))
        self.forwards += sum(run_price(self.bench, nodes_of(some, self.readout)) for some in sets)
        return self.bench.by_scenario(torch.cat(parts, 1))

    def _wiring(self, sets: Sequence[frozenset[EdgeName]]) -> Wiring:
        """The sets over all nodes any of them has; where one lacks a node it has no edge of it."""
        nodes = {parse(source) for some in sets for source, _ in some if source != EMBED}
        ordered = tuple(sorted(nodes, key=lambda c: (c.layer, c.half is Half.MLP, c.index)))
        sender = {EMBED: 0} | {c.name: 1 + i for i, c in enumerate(ordered)}
        reader = {c.name: i for i, c in enumerate(ordered)} | {self.readout: len(ordered)}
        kept = torch.zeros(len(sets), 1 + len(ordered), 1 + len(ordered), dtype=torch.bool)
        kept[:, 0, -1] = True
        for number, some in enumerate(sets):
            kept[number, [sender[s] for s, _ in some], [reader[t] for _, t in some]] = True
        return Wiring(ordered, kept.to(self.bench.model.device))

    @cached_property
    def _wired(self) -> tuple[Wired, ...]:
        model, found = self.bench.model, []
        model.require_neurons()
        for piece, resume in zip(self.bench.texts, self.bench.resumers, strict=True):
            if not isinstance(resume, PlainRun):
                raise UnsupportedModelError(
                    f"{model.name} cannot be run edge by edge: {resume.notice}; judge circuits of nodes there, or weigh "
                    "single edges by path patching"
                )
            found.append(Wired(resume, piece.replaced, piece.embed))
        self.forwards += 1
        return tuple(found)

    def _require(self, edges: Collection[EdgeName]) -> None:
        """Raise ComponentError unless every edge is possible in the model; each is looked at once."""
        model = self.bench.model
        for edge in edges:
            if edge in self._sound or edge == (EMBED, self.readout):
                continue
            source, target = edge
            sender = source if source == EMBED else parse(source)
            receiver = READOUT if target == self.readout else Input(parse(target))
            for end in (sender, receiver.component if isinstance(receiver, Input) else receiver):
                if isinstance(end, Component):
                    model.require(end)
                    if end.kind not in (Kind.HEAD, Kind.NEURON):
                        raise ComponentError(
                            f"the edge {source} to {target}: {end} is no head and no neuron; name those"
                        )
            if not precedes(model, sender, receiver):
                raise ComponentError(
                    f"{source} cannot reach {target} directly: it writes above or beside what {target} reads"
                )
            self._sound.add(edge)


def run_price(bench: Bench, nodes: Sequence[Component]) -> float:
    """What running a set of edges with these nodes takes, in forwards, at most: every node reading from all below it.

    Multiplications and additions of forming each reader's stream, and of what the reader makes of it; norms are left out, as
    everywhere in :mod:`circuits.effects.price`.
    """
    dims = Dims.of(bench.model)
    tokens = [piece.tokens for piece in bench.texts]
    texts = Texts(np.array([len(t) for t in tokens]), np.array([t.ids.shape[1] for t in tokens]))
    width = int(texts.width.max())
    operations, ranks = 0, 0
    for place in sorted({(c.layer, c.half is Half.MLP) for c in nodes}):
        alike = [c for c in nodes if (c.layer, c.half is Half.MLP) == place]
        inside = dims.d_head if alike[0].kind is Kind.HEAD else 1
        maps = 3 * dims.d_head if alike[0].kind is Kind.HEAD else 1 + dims.gated
        mixing = 4 * width * dims.d_head if alike[0].kind is Kind.HEAD else 0
        operations += len(alike) * (2 * dims.d_model * (ranks + maps) + mixing)
        ranks += inside * len(alike)
    return (operations * texts.tokens + 2 * dims.d_model * ranks * int(texts.prompts.sum())) / dims.forward(texts)
