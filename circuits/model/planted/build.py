"""Building a planted model with its prompts and its truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from circuits.errors import PlantedError, SettingsError
from circuits.model.planted import background, texts, wiring
from circuits.model.planted.board import EMBED, Board
from circuits.model.planted.kinds import CHANCE_WORDS, EXTRA_FEATURES, PLANS, PlantedKind
from circuits.model.planted.space import Dims, PlantedNorm, PlantedSize, Space
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
    about 1/25 of the true effect (worked out in :mod:`circuits.model.planted.kinds`). In kinds with contexts the same
    holds of ``by_context[c][e]`` in the rows of valence c.

    With a norm or with weight noise the truth is the same and these zeros are small numbers instead; see :func:`planted`.
    """

    kind: PlantedKind
    seed: int
    size: PlantedSize
    model: Model
    prompts: Prompts
    nodes: frozenset[str]
    edges: frozenset[Edge]
    by_emotion: Mapping[Emotion, Truth]
    by_context: Mapping[str, Mapping[Emotion, Truth]]
    """The part of the circuit that acts in rows of one valence; ``{"": by_emotion}`` for kinds without contexts."""
    noise: frozenset[str]
    """Heads and neurons that move the answers by chance: spread without mean, and not part of any circuit."""
    norm: PlantedNorm
    weight_noise: float


@dataclass(frozen=True, eq=False)
class Draft:
    """A laid-out planted model before it goes through the door: the bridge, and the facts it was built from."""

    kind: PlantedKind
    seed: int
    size: PlantedSize
    norm: PlantedNorm
    weight_noise: float
    rows: tuple[texts.Row, ...]
    by_emotion: Mapping[Emotion, Truth]
    by_context: Mapping[str, Mapping[Emotion, Truth]]
    noise: frozenset[str]
    name: str
    bridge: TransformerBridge


def planted(
    kind: PlantedKind | str,
    *,
    seed: int = 0,
    size: PlantedSize | str = "small",
    scenarios: int | None = None,
    noise: float = 0.0,
    norm: PlantedNorm | str = "none",
) -> Planted:
    """Build a planted model; the same arguments give the same weights and prompts, bit for bit.

    Args:
        kind: what circuit is planted, a member or its lower-case name.
        seed: where the circuit lies, which words are strong, the texts, the background and the basis.
        size: ``small``, ``medium`` or ``large``.
        scenarios: so many instead of the size's own; the model stays the same.
        noise: standard deviation of the Gaussian noise added to every weight matrix, relative to the root mean square
            of the matrix. Norm weights stay as they are.
        norm: ``none``, ``layer`` or ``rms``: what stands before each half-layer and the unembedding. The circuit lies on
            the same heads and neurons whatever the norm and the noise.

    With noise or a norm the numbers of the worked examples hold roughly, and zeros are no longer exact, except those of
    what is silent (the second neuron of ``backup``, the neuron of the other context), where activity and replacement
    are both nothing. Seen over all kinds but ``null`` (small, two seeds, 12 scenarios, shares of an emotion's metric):

    - noise 0.02: under ``mean_scenario`` the circuit alone keeps 0.95-1.07, without it at most 0.06 is left; a component
      outside it has at most 0.01 (0.07 under ``zero``). The least steady is ``redundant``, the difference of two
      values that are five times as large: its logits vary between 2.3 and 4.3 instead of 3.5.
    - a norm: whatever is ablated, the stream gets shorter or longer and all the rest louder or softer with it. Under
      ``mean_scenario`` the circuit alone keeps 0.71-1.38 (mostly 0.95-1.15), at most 0.11 is left without it, and a
      component outside it has up to 0.19. Under ``zero`` it has up to 0.53, and with the whole background gone the logits
      are about three times as large: ``zero`` does not compare with the clean run there. The first head of
      ``backup`` is then repaired in most part only.

    Raises:
        PlantedError: an unknown kind, size or norm.
        SettingsError: the seed is not a whole number from 0 on, there are fewer than six scenarios, or the noise is
            not a number from 0 on.
    """
    from circuits.model.door import load

    plan = draft(kind, seed=seed, size=size, scenarios=scenarios, noise=noise, norm=norm)
    prompts = Prompts.of(
        [row.as_dict() for row in plan.rows],
        name=plan.name,
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
        by_context=plan.by_context,
        noise=plan.noise,
        norm=plan.norm,
        weight_noise=plan.weight_noise,
    )


def draft(
    kind: PlantedKind | str,
    *,
    seed: int = 0,
    size: PlantedSize | str = "small",
    scenarios: int | None = None,
    noise: float = 0.0,
    norm: PlantedNorm | str = "none",
) -> Draft:
    """Lay out and wire a planted model, short of the door; arguments and errors as :func:`planted`."""
    kind, size = _member(PlantedKind, "kind", kind), _member(PlantedSize, "size", size)
    norm = _member(PlantedNorm, "norm", norm)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingsError(f"the seed of a planted model is {seed!r}; expected a whole number from 0 on")
    if scenarios is not None and (isinstance(scenarios, bool) or not isinstance(scenarios, int) or scenarios < 6):
        raise SettingsError(f"scenarios is {scenarios!r}; expected a whole number from 6 on, two for each split")
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise < np.inf:
        raise SettingsError(f"noise is {noise!r}; expected a number from 0 on, such as 0.02 for 2% of each matrix")
    dims = Dims.of(size)
    if scenarios is not None:
        dims = replace(dims, n_scenarios=scenarios)
    space = Space(dims.d_model, n_extra=EXTRA_FEATURES[kind], centred=norm is PlantedNorm.LAYER)
    # One stream of random numbers for each concern, so that a longer text or one head more does not move the circuit.
    own = [list(PlantedKind).index(kind), list(PlantedSize).index(size)]
    layout, words, prompts, blur = (np.random.default_rng([seed, *own, concern]) for concern in range(4))
    board = Board(dims, space, layout)
    PLANS[kind](board)
    background.fill(board, kind)
    lexicon = texts.Lexicon.draw(dims, space, words, contexts=board.contexts, undertones=board.undertones)
    contexts = tuple(board.contexts) or ("",)
    rows = texts.compose(dims, lexicon, prompts, n_chance=CHANCE_WORDS[kind], contexts=contexts)
    name = _name(kind, size, seed, norm, noise)
    return Draft(
        kind=kind,
        seed=seed,
        size=size,
        norm=norm,
        weight_noise=float(noise),
        rows=rows,
        by_emotion=_truths(board, contexts),
        by_context=MappingProxyType({c: _truths(board, [c]) for c in contexts}),
        noise=frozenset(board.noise),
        name=name,
        bridge=wiring.wire(board, lexicon, rows, name=name, norm=norm, noise=float(noise), rng=blur),
    )


def _truths(board: Board, contexts: Sequence[str]) -> Mapping[Emotion, Truth]:
    """The union over contexts of each emotion's circuit."""
    return MappingProxyType({e: _truth(set().union(*(board.edges[c, e] for c in contexts))) for e in EMOTIONS})


def _truth(edges: set[Edge]) -> Truth:
    names = {name for edge in edges for name in edge} - {EMBED} - set(EMOTIONS)
    return Truth(nodes=frozenset(names), edges=frozenset(edges))


def _member(choices: type[E], what: str, value: E | str) -> E:
    try:
        return choices(value)
    except ValueError:
        raise PlantedError(f"unknown planted {what} {value!r}; expected one of {', '.join(choices)}") from None


def _name(kind: PlantedKind, size: PlantedSize, seed: int, norm: PlantedNorm, noise: float) -> str:
    """Names the model and its prompts; what has its default value is left out."""
    rest = [norm.value] * (norm is not PlantedNorm.NONE) + [f"noise{noise:g}"] * (noise > 0)
    return "-".join(["planted", kind.value, size.value, str(seed), *rest])
