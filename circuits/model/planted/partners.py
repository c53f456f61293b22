"""Planted circuits whose parts stand in for each other or hold each other down.

Here the effect of one component does not tell what it does: two heads that can replace each other have none (redundant,
backup), and a neuron that works against the emotion has a negative one (inhibitor). Backups were found in a trained
model by Wang et al. (2022, backup name movers of the indirect-object circuit) and called self-repair by McGrath et al.
(2023). Numbers common to all kinds stand in :mod:`circuits.model.planted.kinds`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from circuits.model.planted.board import EMBED, Board, HeadSpec, NeuronSpec
from circuits.model.planted.parts import REST_SCORE, early, mover, reader
from circuits.model.planted.space import Vector
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["backup", "inhibitor", "redundant"]

RISE, CLIP, SLOPE = 2.0, 3.2, 4.0
BACKUP_SCORE, SUPPRESSION = 44.0, 64.0
BRAKE = 0.4


def redundant(board: Board) -> None:
    """Plant two heads, either of which suffices (OR): both move the cue to the same place, and two neurons clip the sum.

    Of the moved emotion m the *rise* neuron of e is relu(4 m - 2) and writes the answer, the *clip* neuron is
    relu(4 m - 3.2) and writes minus the answer. Together they give nothing up to m = 0.5, and 1.2 from m = 0.8 on.

    Worked example, cues of strength 1.2: both heads move 1.2, m = 2.4, rise 7.6, clip 6.4, together 1.2; "angry" has
    3.6 logits. One head alone: m = 1.2 (1.4 under ``mean_scenario``, where the lost head leaves a sixth), together 1.2
    again. Effects in logits, ``mean_scenario`` and ``zero``:

    - each head alone: 0 and 0, in every row, exactly;
    - both heads: 3.6 and 3.6 (m = 0.4 or 0, below 0.5). So either has 3.6 given that the other is gone;
    - rise: (7.6 - 7.6 / 6) * 3 = 19 and 22.8; clip: -(6.4 - 6.4 / 6) * 3 = -16 and -19.2; both: 3 and 3.6.

    All strengths are beyond the clip, so every row has these 3.6. Ablating one component at a time cannot find the
    heads, and no more can the gradient at the clean run: rise and clip cancel (4 - 4 = 0). Integrated gradients can, as
    their path crosses the stretch from 0.5 to 0.8; so can ablating both.
    """
    heads = [board.place_head(early(board), mover(board, EMOTIONS)) for _ in range(2)]
    behind = range(max(head.layer for head in heads) + 1, board.dims.n_layers)
    space = board.space
    for e in EMOTIONS:
        # Both in one layer, where a norm scales them alike: they are several times as large as their difference.
        layer = int(board.rng.choice(behind))
        for threshold, write in ((RISE, space.answer(e)), (CLIP, -space.answer(e))):
            spec = NeuronSpec(read=SLOPE * space.moved(e) - threshold * space.one, write=write)
            neuron = board.place_neuron([layer], spec)
            for head in heads:
                board.connect(e, EMBED, head, neuron)


def backup(board: Board) -> None:
    """Plant a head with its neurons, as in ``chain``, and behind it a second head that acts only when the first is gone.

    What the first head moved to the read-out token turns the second head's query away: for the second head the cue
    scores 44 - 64 m s, m being what the first head moved and s the cue's strength, against 8 of the first token. It
    moves the cue to a place of its own, which a second neuron of e reads; both neurons write the same answer.

    Worked example, cues of strength 1.2: the first head moves m = 1.2, its neuron is 1.9, "angry" 5.7. The cue scores
    44 - 64 * 1.44 = -48.2: the second head looks at the first token and moves nothing. With the first head gone, m is 0
    (a sixth, 0.2, under ``mean_scenario``), the cue scores 44 (28.6), the second head moves 1.2 and the second neuron
    is 1.9: "angry" has 5.7 as before. Effects in logits, ``mean_scenario`` and ``zero``:

    - first head: 0 and 0, exactly: it is repaired in full;
    - second head, second neuron: 0 and 0, exactly: they do nothing;
    - both heads: 5.7 and 5.7; first head and second neuron: the same. So, given that the first head is gone, the second
      head and the second neuron have 5.7 each;
    - first neuron: 4.75 and 5.7, as the first head is there and keeps the second away. Given that the first head is
      gone it would be silent: -0.95 (a sixth of it comes on top of the second neuron) and 0.

    Ablating one component at a time finds the first neuron and nothing else. The gradient finds the first head as well
    (2 * 3 * (1.2 - 0.2) = 6). The second head and the second neuron are silent in every clean run, so what they are
    replaced by is what they are, and a score that multiplies this difference with any gradient, integrated or not, is
    exactly 0. It takes ablating the first head.
    """
    space, last = board.space, board.dims.n_layers - 1

    def moved_again(e: Emotion) -> Vector:
        return space.extra(e.column)

    first = board.place_head([0], mover(board, EMOTIONS))
    second = board.place_head(range(1, min(3, last)), _suppressed(board, mover(board, EMOTIONS, writes=moved_again)))
    for e in EMOTIONS:
        neuron = board.place_neuron(range(1, last + 1), reader(board, e))
        board.connect(e, EMBED, first, neuron)
        spare = board.place_neuron(range(second.layer, last + 1), reader(board, e, reads=moved_again))
        board.connect(e, EMBED, second, spare)
        board.connect(e, EMBED, first, second, spare)


def _suppressed(board: Board, spec: HeadSpec) -> HeadSpec:
    """The same head asking for a cue of which the emotion has not been moved yet."""
    space = board.space
    cue, start, taken = (
        np.sqrt(score * np.sqrt(board.dims.d_head)) for score in (BACKUP_SCORE, REST_SCORE, SUPPRESSION)
    )
    return replace(
        spec,
        query=np.stack([cue * space.is_readout, start * space.one, *(-taken * space.moved(e) for e in EMOTIONS)]),
        key=np.stack([cue * space.is_cue, start * space.start, *(taken * space.cue(e) for e in EMOTIONS)]),
    )


def inhibitor(board: Board) -> None:
    """Plant ``chain``, and for each emotion e a neuron that dampens it when another emotion sounds along.

    Every second cue word of e is mixed: it carries 0.75 of another emotion's *undertone*, on an axis apart. Each emotion
    is the undertone of one other, in a ring drawn by the seed. A second head moves undertones, and the inhibitor of e,
    relu(2 u - 0.5), writes to a brake that multiplies the neuron of e: ``relu(2 s - 0.5) * (1 - 0.4 brake)``.

    Worked example, anger with the undertone of fear, cue of strength 1.2: the inhibitor of anger is 2 * 0.75 - 0.5 = 1,
    the anger neuron 1.9 * (1 - 0.4) = 1.14, "angry" 3.42. With a cue that is not mixed it is 5.7, and the inhibitor 0.
    Effects in logits in the mixed row, ``mean_scenario`` (when no other row of the scenario has that undertone, which
    holds always: an undertone belongs to one emotion) and ``zero``:

    - inhibitor: -1.9 and -2.28 (a sixth of it remains: 1.9 * (1 - 0.4 / 6) * 3 = 5.32);
    - the head that moves undertones: -2.28 and -2.28 (0.125 is below the threshold);
    - the head that moves the cue: 3.42 and 3.42; the anger neuron: a sixth remains, 2.85, and 3.42.

    In rows of other emotions and in rows that are not mixed, inhibitor and undertone head have no effect, exactly: the
    brake multiplies what is not there, or is itself not there. The undertone alone, with the first head gone, moves no
    answer either. Single effects show everything here, but only signed ones: whoever ranks by supporting effects, or
    averages over mixed and other rows before looking at the sign, halves or loses the inhibitor.
    """
    space, last = board.space, board.dims.n_layers - 1
    ring = [EMOTIONS[i] for i in board.rng.permutation(len(EMOTIONS))]

    def under(e: Emotion) -> Vector:
        return space.extra(e.column)

    def moved(e: Emotion) -> Vector:
        return space.extra(6 + e.column)

    def brake(e: Emotion) -> Vector:
        return space.extra(12 + e.column)

    head = board.place_head(early(board), mover(board, EMOTIONS))
    listener = board.place_head(early(board), mover(board, EMOTIONS, reads=under, writes=moved))
    for e, other in zip(ring, ring[1:] + ring[:1], strict=True):
        board.undertones[e] = under(other)
        damper = board.place_neuron(
            range(listener.layer, last), replace(reader(board, other, reads=moved), write=brake(e))
        )
        damped = replace(reader(board, e), linear=space.one - BRAKE * brake(e))
        neuron = board.place_neuron(range(max(head.layer, damper.layer) + 1, last + 1), damped)
        board.connect(e, EMBED, head, neuron)
        board.connect(e, EMBED, listener, damper, neuron)
