"""Texts of one emotion with the replacement values of their scenarios: what running a circuit needs.

Replacement values need all six texts of a scenario; running a circuit of one emotion needs only the emotion's own. So one pass
over the prompts makes the values, and what is kept of it is split by emotion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from circuits.effects.batch import Batch, Plan
from circuits.effects.kinds import Positions
from circuits.model.anatomy import Tokens
from circuits.model.resuming import Replaced
from circuits.model.running import Recording
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["OwnTexts", "own_texts"]

_WASTE = 1.2


@dataclass(frozen=True)
class OwnTexts:
    """Some texts of one emotion.

    Attributes:
        rows: row numbers in the plan's prompts.
        scenarios: scenario number of each text.
        tokens: their tokens.
        where: 1 where an ablation applies, ``[prompt, pos]``.
        z, post: replacement values by layer, ``[prompt, pos, head, d_head]`` and ``[prompt, pos, neuron]``.
        embed: replacement of the embedding, ``[prompt, pos, d_model]``.
        states: the stream of replacements at both positions of every layer, ``[prompt, pos, d_model]``; None unless asked for.
    """

    rows: NDArray[np.int64]
    scenarios: NDArray[np.int64]
    tokens: Tokens
    where: Float[Tensor, "prompt pos"]
    z: tuple[Tensor, ...]
    post: tuple[Tensor, ...]
    embed: Tensor
    states: tuple[Tensor, ...] | None = None

    @cached_property
    def replaced(self) -> Replaced:
        """What stands for heads and neurons outside a circuit."""
        return Replaced(self.z, self.post, self.where)

    def losses(self, run: Recording) -> tuple[list[Tensor], list[Tensor]]:
        """Clean minus replacement at every ablated position, by layer: of ``z`` and of ``post``."""
        wide = self.where[..., None]
        z = [(clean - new) * wide[..., None] for clean, new in zip(run.streams.z, self.z, strict=True)]
        post = [(clean - new) * wide for clean, new in zip(run.streams.post, self.post, strict=True)]
        return z, post


def own_texts(plan: Plan, positions: Positions, *, states: bool = False) -> dict[Emotion, list[OwnTexts]]:
    """Every emotion's texts, from one pass; joined into one piece where that fits the plan's budget of tokens.

    With ``states`` the stream of replacements is kept as well, which takes as much memory as two more writes a layer.
    """
    pieces: dict[Emotion, list[OwnTexts]] = {e: [] for e in EMOTIONS}
    numbers = plan.prompts.scenarios
    for batch in plan.batches():
        streams = _replaced_states(batch) if states else None
        for e in EMOTIONS:
            mine = np.flatnonzero(batch.prompts.emotions == e.column)
            if len(mine):
                pieces[e].append(_piece(batch, mine, numbers, positions, streams))
    return {e: list(_joined(parts, plan.budget)) for e, parts in pieces.items()}


def _replaced_states(batch: Batch) -> tuple[Tensor, ...]:
    """The stream that replaced writes add up to: for means the mean of the stream itself, as a mean of sums is one of means."""
    stream, found = batch.replaced_embed, []
    for attn_out, mlp_out in zip(batch.replaced.attn_out, batch.replaced.mlp_out, strict=True):
        for write in (attn_out, mlp_out):
            stream = stream.to(write.device) + write
            found.append(stream)
    return tuple(found)


def _piece(
    batch: Batch,
    mine: NDArray[np.int64],
    numbers: NDArray[np.int64],
    positions: Positions,
    states: tuple[Tensor, ...] | None,
) -> OwnTexts:
    index = torch.tensor(mine, device=batch.tokens.ids.device)
    rows = batch.rows[mine]
    return OwnTexts(
        rows=rows,
        scenarios=numbers[rows],
        tokens=Tokens(batch.tokens.ids[index], batch.tokens.mask[index], batch.tokens.last[index]),
        where=batch.where(positions)[index],
        z=tuple(t[index] for t in batch.replaced.z),
        post=tuple(t[index] for t in batch.replaced.post),
        embed=batch.replaced_embed[index],
        states=None if states is None else tuple(t[index.to(t.device)] for t in states),
    )


def _joined(pieces: list[OwnTexts], budget: int) -> Iterable[OwnTexts]:
    waiting: list[OwnTexts] = []
    for piece in pieces:
        both = (*waiting, piece)
        padded = max(p.where.shape[1] for p in both) * sum(len(p.rows) for p in both)
        # Joining saves calls but pads short texts to the length of long ones.
        if waiting and (padded > budget or padded > _WASTE * sum(p.where.numel() for p in both)):
            yield _join(waiting)
            waiting = []
        waiting.append(piece)
    if waiting:
        yield _join(waiting)


def _join(pieces: list[OwnTexts]) -> OwnTexts:
    width = max(p.where.shape[1] for p in pieces)

    def stacked(tensors: Iterable[Tensor]) -> Tensor:
        # Right padding, as everywhere; what stands there is masked.
        return torch.cat([pad(t, (0, 0) * (t.dim() - 2) + (0, width - t.shape[1])) for t in tensors])

    first = pieces[0]
    return OwnTexts(
        rows=np.concatenate([p.rows for p in pieces]),
        scenarios=np.concatenate([p.scenarios for p in pieces]),
        tokens=Tokens(
            stacked(p.tokens.ids for p in pieces),
            stacked(p.tokens.mask for p in pieces),
            torch.cat([p.tokens.last for p in pieces]),
        ),
        where=stacked(p.where for p in pieces),
        z=tuple(stacked(p.z[layer] for p in pieces) for layer in range(len(first.z))),
        post=tuple(stacked(p.post[layer] for p in pieces) for layer in range(len(first.post))),
        embed=stacked(p.embed for p in pieces),
        states=None if first.states is None else _along(pieces, stacked),
    )


def _along(pieces: list[OwnTexts], stacked: Callable[[Iterable[Tensor]], Tensor]) -> tuple[Tensor, ...]:
    """The states of all pieces, one after the other."""
    return tuple(stacked(some) for some in zip(*(p.states or () for p in pieces), strict=True))
