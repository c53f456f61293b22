"""Planted circuits that differ between two contexts: what makes one vector several mechanisms (SCIENCE section 7.4).

Every scenario is told in the context ``inward`` (the text ends in "feel") and in ``outward`` ("seem"), with the same
fillers and cue words, so that the two are matched. Numbers common to all kinds stand in
:mod:`circuits.model.planted.kinds`; a head that is not for a context looks at the first token there, a neuron that is
not for it is relu(2 s - 0.5 - 3) = 0.

The three kinds in the space behind the heads and before the neurons, where the emotion is *moved* but not yet answered:

================  ==================  ==================  ====================================
kind              direction           its writers         its readers
================  ==================  ==================  ====================================
composite         the same            differ              differ
forked            the same            the same            differ
two_directions    differ              differ              differ
================  ==================  ==================  ====================================

At the end of the stream all three have one direction per emotion, that of the answer, written by the neurons of the
context. In each the circuit of a context is a chain, and single effects show it; what is hard is to keep the contexts
apart. An effect averaged over both is half of what the node does in its own.
"""

from __future__ import annotations

from circuits.model.planted.board import EMBED, Board
from circuits.model.planted.parts import early, mover, reader
from circuits.model.planted.space import Vector
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["composite", "forked", "two_directions"]

CONTEXTS = ("inward", "outward")


def composite(board: Board) -> None:
    """Plant one direction that different nodes write and read in the two contexts.

    Each context has its head and its neuron for every emotion; both heads move e to the same axis.

    Worked example, cue of strength 1.2, a row of the context ``inward``: its head moves 1.2, its neuron is 1.9, "angry"
    5.7. The head of ``outward`` moves nothing; its neuron sees the 1.2 on the shared axis and is still
    relu(1.9 - 3) = 0. Effects in logits, ``mean_scenario`` and ``zero``: head 5.7 and 5.7, neuron 4.75 and 5.7; head and
    neuron of ``outward`` 0 and 0, exactly. In the same scenario's row of the context ``outward`` it is the other way
    round. Projecting the axis out costs 5.7 in both.
    """
    _mark(board)
    for context in CONTEXTS:
        head = board.place_head(early(board), mover(board, EMOTIONS, context=context))
        for e in EMOTIONS:
            neuron = board.place_neuron(range(head.layer + 1, board.dims.n_layers), reader(board, e, context=context))
            board.connect(e, EMBED, head, neuron, context=context)


def forked(board: Board) -> None:
    """Plant one direction with one writer, read by different neurons in the two contexts.

    Worked example, cue of strength 1.2: the head moves 1.2 in both contexts. ``inward``: the inward neuron is 1.9 and
    "angry" 5.7, the outward neuron relu(1.9 - 3) = 0. Effects in logits, ``mean_scenario`` and ``zero``: head 5.7 and
    5.7, inward neuron 4.75 and 5.7, outward neuron 0 and 0, exactly. ``outward``: the head the same, the neurons the
    other way round.
    """
    _mark(board)
    head = board.place_head(early(board), mover(board, EMOTIONS))
    for context in CONTEXTS:
        for e in EMOTIONS:
            neuron = board.place_neuron(range(head.layer + 1, board.dims.n_layers), reader(board, e, context=context))
            board.connect(e, EMBED, head, neuron, context=context)


def two_directions(board: Board) -> None:
    """Plant two directions to one answer, one for each context, each with its head and its neuron for every emotion.

    Worked example, cue of strength 1.2, context ``inward``: its head moves 1.2 to the first axis of e, whose neuron is
    1.9; "angry" 5.7. The second axis is empty, and its neuron relu(0 - 0.5) = 0. Effects in logits, ``mean_scenario`` and
    ``zero``: head 5.7 and 5.7, neuron 4.75 and 5.7; head and neuron of ``outward`` 0 and 0, exactly. Projecting out the
    first axis costs 5.7 ``inward`` and nothing ``outward``; the two axes have cosine 0, and a direction estimated from
    both contexts together is their mean, cosine 0.71 with each.
    """
    _mark(board)
    space = board.space

    def second(e: Emotion) -> Vector:
        return space.extra(len(CONTEXTS) + e.column)

    for context, axis in zip(CONTEXTS, (space.moved, second), strict=True):
        head = board.place_head(early(board), mover(board, EMOTIONS, writes=axis, context=context))
        for e in EMOTIONS:
            neuron = board.place_neuron(range(head.layer + 1, board.dims.n_layers), reader(board, e, reads=axis))
            board.connect(e, EMBED, head, neuron, context=context)


def _mark(board: Board) -> None:
    """Give each context's read-out word a feature of its own."""
    for number, context in enumerate(CONTEXTS):
        board.contexts[context] = board.space.extra(number)
