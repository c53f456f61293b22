"""Edges to first order, all at once: edge attribution patching with the inputs of every head kept apart.

The direct edge u→v is what u's write causes by changing what v alone reads, everything between left as it was:
``Σ_pos ⟨write_u(clean) - write_u(ablated), ∂metric/∂(stream as v reads it)⟩``. Readers are queries, keys and values
of each head (``L2H3<q>``), heads as a whole (``L2H3``: the sum of its three), MLPs and neurons. Norms in front of a
reader are differentiated. Heads that share keys and values have a share each: what reaches the metric through the
head's own pattern and mix, as if each had a copy (:meth:`circuits.model.resuming.Slopes.at`).

One forward and one backward give the gradients at all projections; from there every slope is a matrix and the
norm's derivative in closed form, and every score an inner product. With ``steps`` the slopes are means over
midpoints between the replaced and the clean embedding (EAP-IG, inputs), or, along activations, between the replaced and
the clean activations of all senders of the edge's kind and layer, everything below as in the clean run; losses stay.
Edges into the read-out are not estimated: they are direct effects, exact.

First-order scores shrink where attention saturates: among the strongest edges use :mod:`circuits.effects.patching`.

References: Syed et al. 2023 (edge attribution patching); Hanna et al. 2024 (EAP-IG); along activations as Marks et al. 2024
integrate for nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.gradient import midpoints
from circuits.effects.kinds import Positions
from circuits.effects.losses import EMBED, READOUT, Losses, Receiver, Sender, precedes, receivers_in, senders_in
from circuits.model.anatomy import Model
from circuits.model.machine import Recent, precise
from circuits.model.resuming import Branches, Instead, Slopes
from circuits.model.sites import Component, Half, Input, Kind, Part, sublayer
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["Along", "EdgeScores", "all_receivers", "all_senders", "direct_losses", "gradient_edges", "scored_edges"]

_FLOATS = 8_000_000
"""Numbers of slopes or losses that are written out at a time."""
_BLOCKS = 8
"""Blocks of losses that are kept for the next receivers; beyond, they are made again."""


class Along(StrEnum):
    """What is moved from replaced to clean where slopes are integrated."""

    INPUTS = "inputs"
    """The embedding: one path for all edges."""
    ACTIVATIONS = "activations"
    """The senders of one kind and layer at a time: a path each, and the embedding for its own edges."""


@dataclass(frozen=True)
class EdgeScores:
    """Scores of all pairs of some senders and receivers.

    Attributes:
        senders, receivers: names, in the order of the stream.
        possible: False where the sender's write cannot reach the receiver directly; the score is then zero.
        values: scores [logits] of the metrics of ``emotions``.
    """

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    emotions: tuple[Emotion, ...]
    possible: Bool[np.ndarray, "sender receiver"]
    values: Float[np.ndarray, "sender receiver prompt emotion"]

    def __getitem__(self, edge: tuple[str, str]) -> Float[np.ndarray, "prompt emotion"]:
        """The scores of one edge.

        Raises:
            KeyError: it was not asked for, or is impossible.
        """
        s, r = self.senders.index(edge[0]), self.receivers.index(edge[1])
        if not self.possible[s, r]:
            raise KeyError(f"{edge[0]} cannot reach {edge[1]} directly")
        found: np.ndarray = self.values[s, r]
        return found

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """All possible edges."""
        return iter([(self.senders[s], self.receivers[r]) for s, r in zip(*np.nonzero(self.possible), strict=True)])

    def __len__(self) -> int:
        return int(self.possible.sum())


def all_senders(model: Model) -> tuple[Sender, ...]:
    """``embed``, every head, every MLP."""
    return (EMBED, *model.heads, *(sublayer(layer, Half.MLP) for layer in range(model.n_layers)))


def all_receivers(model: Model) -> tuple[Receiver, ...]:
    """Queries, keys and values of every head, every MLP, the read-out."""
    parts = [Input(head, part) for head in model.heads for part in Part]
    return (*parts, *(Input(sublayer(layer, Half.MLP)) for layer in range(model.n_layers)), READOUT)


def gradient_edges(
    batch: Batch,
    senders: Iterable[Sender] | None = None,
    receivers: Iterable[Receiver | Component] | None = None,
    emotions: Sequence[Emotion] = EMOTIONS,
    *,
    positions: Positions = Positions.ALL,
    steps: int = 0,
    along: Along = Along.INPUTS,
) -> EdgeScores:
    """First-order scores [logits] of every edge between ``senders`` and ``receivers`` on one batch.

    Names, components or inputs; without them :func:`all_senders` and :func:`all_receivers`. ``steps`` is 0 for gradients at the
    clean run, else the number of midpoints on the way that is taken ``along`` inputs or activations.

    Raises:
        ComponentError: an unknown sender or receiver.
        UnsupportedModelError: q, k or v of a head is a receiver and the model is replayed; neurons of a mixture of experts.
    """
    model = batch.model
    some = senders_in(model, all_senders(model) if senders is None else senders)
    into = receivers_in(model, all_receivers(model) if receivers is None else receivers)
    return scored_edges(Losses.of_batch(batch, positions), some, into, emotions, steps=steps, along=along)


def scored_edges(
    losses: Losses,
    senders: tuple[Sender, ...],
    receivers: tuple[Receiver, ...],
    emotions: Sequence[Emotion],
    *,
    steps: int = 0,
    along: Along = Along.INPUTS,
) -> EdgeScores:
    """The same on any texts; senders and receivers in the order of the stream (``senders_in``, ``receivers_in``)."""
    model = losses.model
    possible = np.array([[precedes(model, s, r) for r in receivers] for s in senders], dtype=bool)
    values = np.zeros((len(senders), len(receivers), len(losses.where), len(emotions)), dtype=np.float32)
    if READOUT in receivers:
        direct = direct_losses(losses, senders).cpu().numpy()
        values[:, receivers.index(READOUT)] = direct[..., [e.column for e in emotions]]
    if any(isinstance(r, Input) for r in receivers):
        together = along is Along.INPUTS or steps == 0
        inner = [isinstance(r, Input) for r in receivers]
        for rows in [list(range(len(senders)))] if together else _places(senders):
            if not possible[rows][:, inner].any():
                continue
            part, some = np.zeros_like(values[rows]), tuple(senders[i] for i in rows)
            sweep = _Sweep(losses, some, receivers, possible[rows].sum(0))
            sweep.add(part, emotions, steps, EMBED if together else some[0])
            values[rows] += part
    return EdgeScores(tuple(map(str, senders)), tuple(map(str, receivers)), tuple(emotions), possible, values)


def _places(senders: Sequence[Sender]) -> list[list[int]]:
    """Numbers of the senders by kind and layer."""
    found: dict[object, list[int]] = {}
    for i, sender in enumerate(senders):
        found.setdefault(EMBED if isinstance(sender, str) else (sender.layer, sender.kind), []).append(i)
    return list(found.values())


@torch.no_grad()
def direct_losses(losses: Losses, senders: Sequence[Sender]) -> Float[Tensor, "sender prompt emotion"]:
    """Direct effects [logits]: each loss removed from the final stream at the read-out, which is normalised anew."""
    tokens, run = losses.run.tokens, losses.run
    stream = tokens.at_readout(run.final)
    size = max(1, _FLOATS // run.final.numel())
    found = []
    for start in range(0, len(senders), size):
        written = losses.written(senders[start : start + size])
        lost = torch.stack([tokens.at_readout(one) for one in written]).to(stream.device)
        found.append(losses.readout(stream) - losses.readout(stream - lost))
    return torch.cat(found)


class _Sweep:
    """Inner products of losses and slopes, a block of senders and a block of receivers of one layer and half at a time."""

    def __init__(
        self, losses: Losses, senders: tuple[Sender, ...], receivers: tuple[Receiver, ...], reached: NDArray[np.int64]
    ) -> None:
        self.losses = losses
        self.receivers = receivers
        # Senders are in the order of the stream, so those that reach a receiver come first.
        self.reached = reached
        size = max(1, _FLOATS // losses.run.embed.numel())
        dense = [i for i, s in enumerate(senders) if isinstance(s, str) or s.kind is not Kind.NEURON]
        self.senders = senders
        self.blocks = [dense[start : start + size] for start in range(0, len(dense), size)]
        thin = [i for i, s in enumerate(senders) if isinstance(s, Component) and s.kind is Kind.NEURON]
        self.thin = [list(group) for _, group in groupby(thin, key=lambda i: senders[i].layer)]  # type: ignore[union-attr]
        self.size = size
        self.kept: Recent[int, Tensor] = Recent(_BLOCKS)

    def add(self, values: NDArray[np.float32], emotions: Sequence[Emotion], steps: int, moved: Sender = EMBED) -> None:
        """Add the scores to ``values``; ``moved`` on the way to the clean run: the embedding, or all of a component's kind and
        layer.
        """
        losses = self.losses
        shares = midpoints(steps) if steps else [1.0]
        for share in shares:
            run = self._run(share, moved)
            with torch.enable_grad():
                metrics = losses.readout(run.final).sum(0)
            for column, e in enumerate(emotions):
                with precise(losses.model.device):
                    slopes = run.pull(metrics[e.column], keep=e is not emotions[-1])
                    for sender, receiver, found in self._scores(slopes):
                        part = found.float().cpu().numpy() / len(shares)
                        values[np.ix_(sender, receiver, range(len(losses.where)), [column])] += part[..., None]

    def _run(self, share: float, moved: Sender) -> Branches:
        losses = self.losses
        embed = losses.run.embed
        if isinstance(moved, str):
            return losses.resume.branches(embed if share == 1 else embed - (1 - share) * losses.way)
        kind, layer = moved.kind, moved.layer
        here = losses.run.streams.of(kind)[layer] - (1 - share) * losses.amounts(kind, layer)
        return losses.resume.branches(embed, layer=layer, instead=Instead(kind, here.detach().requires_grad_(True)))

    def _scores(self, slopes: Slopes) -> Iterator[tuple[list[int], list[int], Tensor]]:
        """Places of senders and receivers with the scores between them, ``[sender, receiver, prompt]``."""
        inputs = [(i, r) for i, r in enumerate(self.receivers) if isinstance(r, Input)]
        for _, group in groupby(inputs, key=lambda pair: (pair[1].component.layer, pair[1].component.kind)):
            alike = list(group)
            for start in range(0, len(alike), self.size):
                places = [i for i, _ in alike[start : start + self.size]]
                reached = int(self.reached[places[0]])
                if reached == 0:
                    continue
                slope = slopes.at([r for _, r in alike[start : start + self.size]])
                for number, block in enumerate(self.blocks):
                    some = [i for i in block if i < reached]
                    if some:
                        yield some, places, _between(self._block(number)[: len(some)].to(slope.device), slope)
                for block in self.thin:
                    some = [i for i in block if i < reached]
                    if some:
                        yield some, places, self._from_neurons(some, slope)

    def _block(self, number: int) -> Tensor:
        make: Callable[[], Tensor] = lambda: self.losses.written([self.senders[i] for i in self.blocks[number]])  # noqa: E731
        return self.kept.get(number, make)

    @torch.no_grad()
    def _from_neurons(self, some: list[int], slope: Float[Tensor, "receiver prompt pos d_model"]) -> Tensor:
        """Scores of neurons of one layer: their amounts times the slope along their write vectors."""
        components = [c for c in (self.senders[i] for i in some) if isinstance(c, Component)]
        layer, index = components[0].layer, [c.index for c in components]
        frozen = self.losses.factor(layer, Half.MLP)
        if frozen is not None:
            slope = slope * frozen.to(slope.device)
        along = slope @ self.losses.model.W_out(layer)[index].T.to(slope.device)
        amounts = self.losses.amounts(Kind.NEURON, layer)[..., index].to(slope.device)
        return torch.einsum("rbpn,bpn->nrb", along, amounts)


@torch.no_grad()
def _between(
    lost: Float[Tensor, "sender prompt pos d_model"], slope: Float[Tensor, "receiver prompt pos d_model"]
) -> Float[Tensor, "sender receiver prompt"]:
    return torch.bmm(lost.flatten(2).transpose(0, 1), slope.flatten(2).permute(1, 2, 0)).permute(1, 2, 0)
