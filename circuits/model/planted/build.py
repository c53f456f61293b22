"""Building a planted model with its prompts and its truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from circuits.errors import PlantedError, SettingsError
from circuits.model.planted import background, texts, wiring
from circuits.model.planted.board import EMBED, Board
from circuits.model.planted.kinds import CHANCE_WORDS, PLANS, PlantedKind
from circuits.model.planted.space import Dims, PlantedSize, Space
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from circuits.model.anatomy import Model

__all__ = ["Draft", "Planted", "Truth", "draft", "planted"]

Edge = tuple[str, str]
E = TypeVar("E", bound=StrEnum)


class Truth(NamedTuple):
    """The circuit of one emotion."""

    nodes: frozenset[str]
    edges: frozenset[Edge]


@dataclass(frozen=True, eq=False)
class Planted:
    """A model, prompts to measure it on, and its true circuit.

    ``nodes`` are heads and neurons by name (``L0H1``, ``L1N7``); ``edges`` run from ``embed``, a head or a neuron to a
    head, a neuron or the name of an emotion (its read-out). Both are the union over emotions of ``by_emotion``.

    What holds exactly (up to float32 rounding, 3e-5 logits) in rows of emotion e, for the logit difference of e: components
    outside ``nodes`` and ``noise`` have no effect, under ``mean_scenario`` and under ``zero``; so have, under ``zero``,
    nodes that are not in ``by_emotion[e]``. Under ``mean_scenario`` the neurons of other emotions cast a shadow of
    about 1/25 of the true effect (worked out in :mod:`circuits.model.planted.kinds`).
    """

    kind: PlantedKind
    seed: int
    size: PlantedSize
    model: Model
    prompts: Prompts
    nodes: frozenset[str]
    edges: frozenset[Edge]
    by_emotion: Mapping[Emotion, Truth]
    noise: frozenset[str]
    """Heads and neurons that move the answers by chance: spread without mean, and not part of any circuit."""


@dataclass(frozen=True, eq=False)
class Draft:
    """A laid-out planted model before it goes through the door: the bridge, and the facts it was built from."""

    kind: PlantedKind
    seed: int
    size: PlantedSize
    bridge: TransformerBridge
    rows: tuple[texts.Row, ...]
    by_emotion: Mapping[Emotion, Truth]
    noise: frozenset[str]


def planted(
    kind: PlantedKind | str, *, seed: int = 0, size: PlantedSize | str = "small", scenarios: int | None = None
) -> Planted:
    """Build a planted model; the same arguments give the same weights and prompts, bit for bit.

    Args:
        kind: what circuit is planted, a member or its lower-case name.
        seed: where the circuit lies, which words are strong, the texts, the background and the basis.
        size: ``small`` or ``medium``.
        scenarios: so many instead of the size's own; the model stays the same.

    Raises:
        PlantedError: an unknown kind or size.
        SettingsError: the seed is not a whole number from 0 on, or there are fewer than six scenarios.
    """
    from circuits.model.door import load

    plan = draft(kind, seed=seed, size=size, scenarios=scenarios)
    prompts = Prompts.of(
        [row.as_dict() for row in plan.rows],
        name=_name(plan.kind, plan.size, plan.seed),
        answers={e.value: [word] for e, word in texts.ANSWERS.items()},
    )
    return Planted(
        kind=plan.kind,
        seed=plan.seed,
        size=plan.size,
        model=load(plan.bridge),
        prompts=prompts,
        nodes=frozenset().union(*(truth.nodes for truth in plan.by_emotion.values())),
        edges=frozenset().union(*(truth.edges for truth in plan.by_emotion.values())),
        by_emotion=plan.by_emotion,
        noise=plan.noise,
    )


def draft(
    kind: PlantedKind | str, *, seed: int = 0, size: PlantedSize | str = "small", scenarios: int | None = None
) -> Draft:
    """Lay out and wire a planted model, short of the door; arguments and errors as :func:`planted`."""
    kind, size = _member(PlantedKind, "kind", kind), _member(PlantedSize, "size", size)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingsError(f"the seed of a planted model is {seed!r}; expected a whole number from 0 on")
    if scenarios is not None and (isinstance(scenarios, bool) or not isinstance(scenarios, int) or scenarios < 6):
        raise SettingsError(f"scenarios is {scenarios!r}; expected a whole number from 6 on, two for each split")
    dims = Dims.of(size)
    if scenarios is not None:
        dims = replace(dims, n_scenarios=scenarios)
    space = Space(dims.d_model)
    # One stream of random numbers for each concern, so that a longer text or one head more does not move the circuit.
    own = [list(PlantedKind).index(kind), list(PlantedSize).index(size)]
    layout, words, prompts = (np.random.default_rng([seed, *own, concern]) for concern in range(3))
    board = Board(dims, space, layout)
    PLANS[kind](board)
    background.fill(board, kind)
    lexicon = texts.Lexicon.draw(dims, space, words)
    return Draft(
        kind=kind,
        seed=seed,
        size=size,
        bridge=wiring.wire(board, lexicon, name=_name(kind, size, seed)),
        rows=texts.compose(dims, lexicon, prompts, n_chance=CHANCE_WORDS[kind]),
        by_emotion=MappingProxyType({e: _truth(board.edges[e]) for e in EMOTIONS}),
        noise=frozenset(board.noise),
    )


def _truth(edges: set[Edge]) -> Truth:
    names = {name for edge in edges for name in edge} - {EMBED} - set(EMOTIONS)
    return Truth(nodes=frozenset(names), edges=frozenset(edges))


def _member(choices: type[E], what: str, value: E | str) -> E:
    try:
        return choices(value)
    except ValueError:
        raise PlantedError(f"unknown planted {what} {value!r}; expected one of {', '.join(choices)}") from None


def _name(kind: PlantedKind, size: PlantedSize, seed: int) -> str:
    return f"planted-{kind}-{size}-{seed}"
