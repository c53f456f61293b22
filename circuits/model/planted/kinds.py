"""The kinds of planted model, each with a hand-worked example.

Numbers common to all kinds. A cue word of strength s holds s of its emotion's feature. The cue scores 24 with a mover
head, the first token 8 and any other token 0, so the cue gets all the attention of the read-out token but e^-16 = 1e-7
of it, and the head moves s in full. An emotion neuron is relu(2 s - 0.5) and writes itself along its answer, which the
unembedding counts three times.

Worked example, s = 1.2: the neuron is 2 * 1.2 - 0.5 = 1.9 and the answer's logit 3 * 1.9 = 5.7. Nothing else tells the
six answers apart except chance, so the logit difference is 5.7 as well, and ``mean_scenario`` ablation costs, when all
six cues of the scenario are as strong as this one:

- the head: it now moves a sixth, 0.2, of all six emotions; every neuron is relu(0.4 - 0.5) = 0; effect 5.7;
- the neuron itself: a sixth of 5.7 = 0.95 remains; effect 4.75;
- the neuron of another emotion: silent before, now a sixth of its own value raises the *other* answer to 0.95, which
  takes 0.95 / 5 = 0.19 from the logit difference. This shadow, 1/25 of the true effect, is no error of any method. Six
  logit differences sum to nothing, so whatever raises one emotion lowers the rest. It is gone under zero ablation.

Under zero ablation all three are 5.7, 5.7 and 0.

All kinds at s = 1.2: the clean logit difference, its loss when one node is ablated by ``mean_scenario`` (``zero`` in brackets),
and what takes more than one ablation to see. The examples are worked out in the docstring of each kind's function, here
and in :mod:`.partners` and :mod:`.contexts`.

================  =======  ========================================  ==============================================
kind              clean    one node                                  together
================  =======  ========================================  ==============================================
chain             5.7      head 5.7 (5.7), neuron 4.75 (5.7)         the same: a chain breaks at any link
shared_head       5.7      head 5.7 (5.7), neuron 4.75 (5.7)         the same
redundant         3.6      each head 0 (0),                          both heads 3.6 (3.6), rise and clip 3 (3.6)
                           rise 19 (22.8), clip -16 (-19.2)
backup            5.7      first head 0 (0), second 0 (0),           both heads 5.7 (5.7),
                           first neuron 4.75 (5.7), second 0 (0)     first head and second neuron 5.7 (5.7)
inhibitor, mixed  3.42     head 3.42 (3.42), neuron 2.85 (3.42),     inhibitor and head 3.42 (3.42)
                           inhibitor -1.9 (-2.28),
                           undertone head -2.28 (-2.28)
composite         5.7      of the context: head 5.7 (5.7), neuron    nodes of both contexts: as those of the row's own
                           4.75 (5.7); of the other: 0 (0)
forked            5.7      head 5.7 (5.7), neuron of the context     the same
                           4.75 (5.7), of the other 0 (0)
two_directions    5.7      as composite                              as composite
================  =======  ========================================  ==============================================

Effects of single components cannot recover ``redundant`` and ``backup``: those of their heads are zero. (The gradient
at the clean run misses the two heads of ``redundant``, integrated gradients find them; the second head of ``backup``
and what follows it have a score of exactly zero by every gradient.) Every other kind can be recovered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from circuits.model.planted.board import EMBED, Board
from circuits.model.planted.contexts import composite, forked, two_directions
from circuits.model.planted.partners import backup, inhibitor, redundant
from circuits.model.planted.parts import early, mover, reader
from circuits.prompts.emotions import EMOTIONS

__all__ = ["CHANCE_WORDS", "EXTRA_FEATURES", "PLANS", "PlantedKind"]


class PlantedKind(StrEnum):
    """What circuit is planted."""

    CHAIN = "chain"
    """One head moves the cue of every emotion, one neuron per emotion writes the answer."""
    SHARED_HEAD = "shared_head"
    """Three heads move two emotions each; the neurons behind a head differ for its two emotions."""
    NULL = "null"
    """No circuit: everything acts on the answers, nothing knows the emotion."""
    REDUNDANT = "redundant"
    """Two heads, either suffices."""
    BACKUP = "backup"
    """A second head acts only when the first is gone."""
    INHIBITOR = "inhibitor"
    """A neuron dampens the emotion, as a factor, when another emotion sounds along."""
    COMPOSITE = "composite"
    """One direction, different writers and readers in two contexts."""
    FORKED = "forked"
    """One direction with one writer, different readers in two contexts."""
    TWO_DIRECTIONS = "two_directions"
    """One answer, two directions, one for each context."""


def chain(board: Board) -> None:
    """Plant ``embed -> head -> neuron of e -> e`` for each emotion e, the head being the same for all.

    The head lies in the first or second layer, each neuron in a random layer behind the head's. The worked example at
    the top of the module holds as it stands: with ``theft`` at strength 1.2, head 1.2, anger neuron 1.9, "angry" 5.7.
    """
    head = board.place_head(early(board), mover(board, EMOTIONS))
    for e in EMOTIONS:
        neuron = board.place_neuron(range(head.layer + 1, board.dims.n_layers), reader(board, e))
        board.connect(e, EMBED, head, neuron)


def shared_head(board: Board) -> None:
    """Plant three heads in the first two layers; each serves two emotions, which pair up by the seed.

    Say anger and fear share a head. In a row with the anger cue ``theft`` of strength 1.2 it moves 1.2 of anger and
    nothing of fear; the anger neuron is 1.9 and "angry" 5.7, the fear neuron relu(0 - 0.5) = 0. Ablating that head by
    ``mean_scenario`` (all cues 1.2) leaves 0.2 of anger and 0.2 of fear, both below the threshold: effect 5.7 on anger,
    and in the fear row 5.7 on fear. In the sadness row it was silent and leaves 0.2 of both: effect 0 exactly. So heads
    tell which pair an emotion belongs to, and only neurons tell it from its partner.

    Neurons lie in the head's own layer or behind it: an edge within one block, attention half to MLP half, occurs.
    """
    order = [EMOTIONS[i] for i in board.rng.permutation(len(EMOTIONS))]
    for pair in zip(order[::2], order[1::2], strict=True):
        head = board.place_head(early(board), mover(board, pair))
        for e in pair:
            neuron = board.place_neuron(range(head.layer, board.dims.n_layers), reader(board, e))
            board.connect(e, EMBED, head, neuron)


def null(board: Board) -> None:
    """Plant nothing; the background turns every head and neuron into noise (:mod:`.background`).

    Cue words are in the texts as in the other kinds, but no head looks for them. Each head attends to chance words and
    writes what they hold, at random, to the six answers. Worked example: a head that would push "angry" by x has, over
    the six rows of a scenario, x = (0.6, 0, -0.3, 0.3, 0, 0) by the chance words these happen to hold; the mean is
    0.1, so ``mean_scenario`` ablation shows 0.6 - 0.1 = 0.5 in the first row. Had the same six draws fallen the other
    way round the first row would show 0 - 0.1 = -0.1: over the 720 orders the mean is 0, whatever the six values are.
    This takes that answers are linear in every component, which the paired neurons of the background see to.
    """


PLANS: Mapping[PlantedKind, Callable[[Board], None]] = {
    PlantedKind.CHAIN: chain,
    PlantedKind.SHARED_HEAD: shared_head,
    PlantedKind.NULL: null,
    PlantedKind.REDUNDANT: redundant,
    PlantedKind.BACKUP: backup,
    PlantedKind.INHIBITOR: inhibitor,
    PlantedKind.COMPOSITE: composite,
    PlantedKind.FORKED: forked,
    PlantedKind.TWO_DIRECTIONS: two_directions,
}
"""How each kind lays out its circuit. A new kind is a member at the end, a plan, and what it needs of the tables below."""

CHANCE_WORDS: Mapping[PlantedKind, int] = {kind: 4 if kind is PlantedKind.NULL else 1 for kind in PlantedKind}
"""Chance words per text of each kind."""

EXTRA_FEATURES: Mapping[PlantedKind, int] = dict.fromkeys(PlantedKind, 0) | {
    PlantedKind.BACKUP: 6,
    PlantedKind.INHIBITOR: 18,
    PlantedKind.COMPOSITE: 2,
    PlantedKind.FORKED: 2,
    PlantedKind.TWO_DIRECTIONS: 8,
}
"""Axes of the stream each kind needs beyond those with a name (:meth:`.space.Space.extra`)."""
