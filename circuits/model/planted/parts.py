"""The parts planted circuits are put together from: heads that move the emotion and neurons that read it."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from circuits.model.planted.board import Board, HeadSpec, NeuronSpec
from circuits.model.planted.space import Vector
from circuits.prompts.emotions import Emotion

__all__ = ["CUE_SCORE", "GAIN", "REST_SCORE", "THRESHOLD", "early", "mover", "reader"]

CUE_SCORE, REST_SCORE = 24.0, 8.0
GAIN, THRESHOLD = 2.0, 0.5
GATE = 3.0
"""Subtracted from a reader in the contexts it is not for: more than the strongest cue gives, 2 * 1.35 - 0.5 = 2.2."""

Feature = Callable[[Emotion], Vector]


def mover(
    board: Board,
    emotions: Collection[Emotion],
    *,
    reads: Feature | None = None,
    writes: Feature | None = None,
    context: str = "",
) -> HeadSpec:
    """A head that looks from the read-out token to the cue and moves these emotions' features, strength unchanged.

    Other tokens look at the first token, which holds nothing to move. So does the read-out token of a context the head
    is not for: there the cue scores -24.

    Args:
        reads, writes: the features, ``space.cue`` and ``space.moved`` unless given.
        context: the one context the head acts in; every one unless given.
    """
    space = board.space
    reads, writes = reads or space.cue, writes or space.moved
    asks = sum((mark if name == context else -mark for name, mark in board.contexts.items()), np.zeros(space.d_model))
    # A score is divided by sqrt(d_head); query and key share the factor that makes up for it.
    to_cue, to_start = (np.sqrt(score * np.sqrt(board.dims.d_head)) for score in (CUE_SCORE, REST_SCORE))
    return HeadSpec(
        query=np.stack([to_cue * (asks if context else space.is_readout), to_start * space.one]),
        key=np.stack([to_cue * space.is_cue, to_start * space.start]),
        value=np.stack([reads(e) for e in emotions]),
        output=np.stack([writes(e) for e in emotions], axis=1),
    )


def reader(board: Board, e: Emotion, *, reads: Feature | None = None, context: str = "") -> NeuronSpec:
    """The neuron that turns the moved emotion into its answer: ``relu(2 s - 0.5)``, three times that in logits.

    Args:
        reads: the feature, ``space.moved`` unless given.
        context: the one context the neuron is not held silent in; none is unless given.
    """
    space = board.space
    elsewhere = [mark for name, mark in board.contexts.items() if context and name != context]
    return NeuronSpec(
        read=GAIN * (reads or space.moved)(e) - THRESHOLD * space.one - GATE * sum(elsewhere, np.zeros(space.d_model)),
        write=space.answer(e),
    )


def early(board: Board) -> range:
    """Layers for movers: the first two, and never the last, so that a later layer remains."""
    return range(min(2, board.dims.n_layers - 1))
