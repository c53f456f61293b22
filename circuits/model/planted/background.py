"""The background: heads and neurons beside the circuit, as active and as heavy, without knowledge of the emotion.

Three sorts, all blind to the emotion features and unseen by the circuit:

- *plot* heads and neurons follow the filler words, which a scenario's six texts share. At the read-out token they are
  the same in all six, so ``mean_scenario`` ablation changes nothing there. They push all six answers alike, so zero
  ablation moves logits and probabilities but no logit difference. What changes at the other tokens (where the ablated
  value is a mean over tokens) is carried on by relays only.
- *relay* heads move what earlier plot components wrote to places that only filler words' logits read.
- *noise* heads and neurons follow the chance words, drawn anew for every row, and push answers apart. Their effect has
  a spread but no mean, under ``mean_scenario`` by symmetry: the rows of a scenario could swap their chance words. That
  needs answers linear in every component, so noise neurons come in pairs relu(x) w and relu(-x)(-w) = x w together.
  Zero ablation of one half of a pair leaves its constant share behind: there the mean is not zero. Means of noise
  heads are as good as normal over 24 scenarios or more; those of noise neurons, whose activity is one-sided, have heavier tails
  (about 6% instead of 5% of t statistics beyond the two-sided 5% points).
"""

from __future__ import annotations

import numpy as np

from circuits.model.planted.board import Board, HeadSpec, NeuronSpec
from circuits.model.planted.kinds import PlantedKind
from circuits.model.planted.parts import GAIN
from circuits.model.planted.space import Vector
from circuits.prompts.emotions import EMOTIONS

__all__ = ["fill"]

CONTENT = len(EMOTIONS)
"""Features a background head moves: as many as a mover of all emotions, so that norms do not give the circuit away."""
CONTENT_SCORE, START_SCORE = 24.0, 2.0
CHANCE_PREFERENCE = 1 / 24
"""How far a noise head prefers one chance word to another: by up to 1 where all of them have 24. With a strong preference
its content would lean to one side and half of each pair of noise neurons would hardly ever fire; an effect that is
nearly always nothing has no normal statistics in 24 scenarios."""
HEAD_TO_ANSWERS = 0.2
"""Share of a plot head's write (as a length) that raises all answers; the rest is mixed or silent."""
NEURON_TO_ANSWERS, NEURON_TO_MIXED = 2.0, 1.0
"""The same shares of a plot neuron, times the square root of ``d_mlp``: a wider layer is not louder. What goes to the
mixed pool comes back to later neurons, and much of it would grow from layer to layer."""
NOISE_TO_ANSWERS = 0.15
"""Share of a noise component's write (as a length) that pushes answers apart, next to a circuit."""
NEURONS_PER_PAIR = 12
"""Next to a circuit, one noise pair for so many neurons of a layer."""
HEADS_PER_NOISE_HEAD = 12
"""Next to a circuit, one noise head for so many heads, at least one."""


def fill(board: Board, kind: PlantedKind) -> None:
    """Take every free place: for ``null`` with noise only, else with mostly plot and a little noise."""
    everything = kind is PlantedKind.NULL
    dims = board.dims
    share = NEURON_TO_ANSWERS / np.sqrt(dims.d_mlp) if everything else NOISE_TO_ANSWERS
    layers = range(dims.n_layers)
    # Noise neurons hear chance words only through a noise head, so the first of these lies as early as it can.
    n_noise = (
        len(board.free_heads(layers)) if everything else max(1, dims.n_layers * dims.n_heads // HEADS_PER_NOISE_HEAD)
    )
    for i in range(n_noise):
        head = board.place_head(layers if everything or i else range(1), _noise_head(board, share))
        board.noise.add(head.name)
    for layer in layers:
        free = len(board.free_neurons([layer]))
        for _ in range(free // 2 if everything else dims.d_mlp // NEURONS_PER_PAIR // 2):
            for half in _noise_pair(board, share):
                board.noise.add(board.place_neuron([layer], half).name)
    for place in board.free_heads(layers):
        relay = place.layer > 0 and board.rng.random() < 0.5
        board.heads[place] = _relay_head(board) if relay else _plot_head(board)
    for place in board.free_neurons(layers):
        board.neurons[place] = _plot_neuron(board)


def _plot_head(board: Board) -> HeadSpec:
    """Moves filler content from the filler it likes best; pushes the six answers alike."""
    space, rng = board.space, board.rng
    writes = [
        _blend(HEAD_TO_ANSWERS, _sign(board) * space.all_answers, space.random(rng, space.mixed, space.silent))
        for _ in range(CONTENT)
    ]
    return _content_head(board, space.random(rng, space.plot), space.plot, writes)


def _relay_head(board: Board) -> HeadSpec:
    """Moves what earlier plot components wrote at other tokens, to where no component and no answer reads."""
    space, rng = board.space, board.rng
    writes = [space.random(rng, space.silent) for _ in range(CONTENT)]
    return _content_head(board, space.random(rng, space.mixed), space.mixed, writes)


def _noise_head(board: Board, share: float) -> HeadSpec:
    """Moves chance content, from all chance words but not evenly; pushes the six answers at random."""
    space, rng = board.space, board.rng
    writes = [_blend(share, _apart(board), space.random(rng, space.heard)) for _ in range(CONTENT)]
    liked = space.is_chance + CHANCE_PREFERENCE * space.random(rng, space.chance)
    return _content_head(board, liked, space.chance, writes)


def _content_head(board: Board, liked: Vector, reads: slice, writes: list[Vector]) -> HeadSpec:
    """A head that looks for content: a token x scores ``24 <x, liked>``, the first token 2."""
    space, rng = board.space, board.rng
    to_content, to_start = (np.sqrt(score * np.sqrt(board.dims.d_head)) for score in (CONTENT_SCORE, START_SCORE))
    return HeadSpec(
        query=np.stack([to_content * space.one, to_start * space.one]),
        key=np.stack([to_content * liked, to_start * space.start]),
        value=np.stack([space.random(rng, reads) for _ in range(CONTENT)]),
        output=np.stack(writes, axis=1),
    )


def _plot_neuron(board: Board) -> NeuronSpec:
    """Reads filler content and earlier plot components; pushes the six answers alike."""
    space, rng = board.space, board.rng
    to_answers, to_mixed = (share / np.sqrt(board.dims.d_mlp) for share in (NEURON_TO_ANSWERS, NEURON_TO_MIXED))
    rest = _blend(to_mixed, space.random(rng, space.mixed), space.random(rng, space.silent))
    return NeuronSpec(
        read=GAIN * space.random(rng, space.plot, space.mixed) + rng.uniform(-0.5, 0.5) * space.one,
        write=_blend(to_answers, _sign(board) * space.all_answers, rest),
    )


def _noise_pair(board: Board, share: float) -> tuple[NeuronSpec, NeuronSpec]:
    """Two neurons that are linear together, ``relu(x) w - relu(-x) w = x w``, and push the answers at random."""
    space, rng = board.space, board.rng
    read = GAIN * space.random(rng, space.heard)
    write = _blend(share, _apart(board), space.random(rng, space.silent))
    return NeuronSpec(read=read, write=write), NeuronSpec(read=-read, write=-write)


def _apart(board: Board) -> Vector:
    """A random unit direction among the answers that does not move their mean."""
    space = board.space
    pushes = board.rng.standard_normal(len(EMOTIONS))
    pushes = (pushes - pushes.mean()) / np.linalg.norm(pushes - pushes.mean())
    return np.asarray(sum(push * space.answer(e) for push, e in zip(pushes, EMOTIONS, strict=True)))


def _blend(share: float, first: Vector, second: Vector) -> Vector:
    """Unit vector with ``share`` of its length along ``first``; both are unit and orthogonal."""
    return np.asarray(share * first + np.sqrt(1 - share**2) * second)


def _sign(board: Board) -> float:
    return float(board.rng.choice((-1.0, 1.0)))
