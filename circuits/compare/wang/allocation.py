"""Wang's allocation: how many nodes each half-layer may have, given how much it matters; a pure function.

The rule (Wang et al. 2025, arXiv 2510.11328; numbers are the defaults of the authors' code, for 560 nodes in 28 layers): of
K nodes 70% are neurons and 30% heads. Every layer gets 4 neurons and 2 heads. The rest of each kind is divided in proportion
to the positive part of its half-layers' influence, no half-layer above 40% of its kind's share of K, by largest remainders.
Inside a half-layer the components of largest score are taken.

Two points in which the authors' code does something else than its options say follow the options here: a half-layer's cap
holds for all it has, its floor included (there: for what it has beyond the floor), and where the budget does not reach the
floors an error is raised (there: floors are lowered).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

from circuits.errors import SettingsError
from circuits.model.sites import Component, head, neuron

__all__ = ["CAP", "FLOORS", "NEURON_SHARE", "Allocation", "allocate", "top"]

Array = NDArray[np.float64]

NEURON_SHARE = 0.7
FLOORS = (2, 4)
"""Heads and neurons every layer gets."""
CAP = 0.4
"""Largest share of a kind's nodes in one layer."""


@dataclass(frozen=True)
class Allocation:
    """Numbers of nodes by layer.

    Attributes:
        even: kinds (``heads``, ``neurons``) whose half-layers have no positive influence, so that all got alike.
    """

    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    even: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(self.heads) + sum(self.neurons)


def allocate(
    influence: Array,
    k: int,
    available: tuple[int, int],
    *,
    neuron_share: float = NEURON_SHARE,
    floors: tuple[int, int] = FLOORS,
    cap: float = CAP,
    even: bool = False,
) -> Allocation:
    """Divide ``k`` nodes over the half-layers; the numbers add up to ``k`` exactly.

    Half-layers that would pass their cap or what they have are held there, and what they leave is divided among the others by
    the same proportion; among those without positive influence evenly, once all others are full. Shares are exact fractions;
    equal remainders go to the lower layer.

    Worked example, 20 neurons in three layers of influence (3, 1, 0), floor 2, cap 40% (8): floors take 6, and 14 are left.
    In proportion layer 0 gets 10.5 and may have 6 more; 8 go to layer 1, which may have 6 more; the last 2 go to layer 2:
    (8, 8, 4).

    Args:
        influence: ``[layer, half]``, attention first, as :meth:`.influence.Influence.mean` gives it.
        available: heads and neurons in one layer.
        neuron_share: rounded to a whole number of neurons; the rest are heads.
        floors: heads and neurons every layer gets.
        cap: largest share of a kind's nodes in one layer, rounded down.
        even: where a kind has no positive influence at all, treat its layers alike (as the authors' code does) instead of
            raising.

    Raises:
        SettingsError: influence of a wrong shape, NaN or infinite; shares outside their range; ``k`` too small for the floors
            or larger than floors, caps and layers allow; or no positive influence without ``even``.
    """
    if influence.ndim != 2 or influence.shape[1] != 2 or not len(influence):
        raise SettingsError(f"influence has shape {influence.shape}; expected [layer, 2], attention first")
    if not np.isfinite(influence).all():
        layer, half = np.argwhere(~np.isfinite(influence))[0]
        raise SettingsError(
            f"the influence of layer {layer}'s {('attention', 'MLP')[half]} is {influence[layer, half]}; expected numbers: "
            "where the emotion has no direction say 0"
        )
    if not (0 <= neuron_share <= 1 and 0 < cap <= 1):
        raise SettingsError(
            f"neuron_share is {neuron_share} and cap {cap}; expected shares from 0 to 1, the cap above 0"
        )
    if min(floors) < 0:
        raise SettingsError(f"floors is {floors}; expected two numbers of at least 0")
    many = round(neuron_share * k)
    found, alike = [], []
    for half, (name, total) in enumerate((("heads", k - many), ("neurons", many))):
        weights = [Fraction(max(0.0, float(x))) for x in influence[:, half]]
        room = min(available[half], floor(Fraction(str(cap)) * total)) if total > 0 else 0
        _require_room(name, total, len(weights), floors[half], room, available[half], k)
        if not any(weights) and total > floors[half] * len(weights):
            if not even:
                raise SettingsError(
                    f"no layer's {('attention', 'MLP')[half]} has a positive influence; expected one to give {name} to, or "
                    "even=True to treat all alike"
                )
            alike.append(name)
        rest = total - floors[half] * len(weights)
        found.append(tuple(floors[half] + n for n in _divided(rest, weights, room - floors[half])))
    return Allocation(found[0], found[1], tuple(alike))


def top(allocation: Allocation, heads: Array, neurons: Array) -> frozenset[Component]:
    """The components of largest score in every layer, as many as allocated; equal scores in order of index.

    Args:
        heads: scores ``[layer, head]``.
        neurons: scores ``[layer, neuron]``.

    Raises:
        SettingsError: scores of another number of layers, of fewer components than allocated, or NaN.
    """
    chosen = []
    for name, counts, scores, make in (
        ("heads", allocation.heads, heads, head), ("neurons", allocation.neurons, neurons, neuron)
    ):  # fmt: skip
        if scores.ndim != 2 or len(scores) != len(counts) or scores.shape[1] < max(counts):
            raise SettingsError(
                f"{name} has scores of shape {scores.shape}; expected {len(counts)} layers of {max(counts)}"
            )
        if np.isnan(scores).any():
            layer = int(np.argwhere(np.isnan(scores))[0][0])
            raise SettingsError(f"{name} of layer {layer} have NaN scores; where there is no direction say 0")
        for layer, count in enumerate(counts):
            order = np.argsort(-scores[layer], kind="stable")[:count]
            chosen += [make(layer, int(index)) for index in order]
    return frozenset(chosen)


def _require_room(name: str, total: int, layers: int, least: int, room: int, there: int, k: int) -> None:
    """Raise SettingsError where a kind's nodes cannot be placed."""
    if total < least * layers:
        raise SettingsError(
            f"k is {k}, of which {total} are {name}; expected at least {least * layers}, {least} in each of {layers} layers"
        )
    if least > there or total > layers * there:
        raise SettingsError(f"k is {k}, of which {total} are {name}; the model has {there} in each of {layers} layers")
    if total and (least > room or total > layers * room):
        raise SettingsError(
            f"{total} {name} do not fit in {layers} layers of at most {room} each; raise the cap, or k where the floor of "
            f"{least} is above it"
        )


def _divided(seats: int, weights: list[Fraction], room: int) -> list[int]:
    """``seats`` in proportion to ``weights``, at most ``room`` each, by largest remainders."""
    given = [0] * len(weights)
    open_ = [i for i, weight in enumerate(weights) if weight > 0]
    while seats:
        if not open_:  # all that matter are full
            open_ = [i for i, n in enumerate(given) if n < room]
            weights = [Fraction(1)] * len(weights)
        total = sum((weights[i] for i in open_), Fraction(0))
        quotas = {i: seats * weights[i] / total for i in open_}
        full = [i for i in open_ if quotas[i] >= room]
        if not full:
            break
        # Whoever is full is settled; the others divide anew what is left.
        for i in full:
            given[i] = room
            open_.remove(i)
        seats -= room * len(full)
    else:
        return given
    for i in open_:
        given[i] = floor(quotas[i])
    left = seats - sum(given[i] for i in open_)
    for i in sorted(open_, key=lambda i: (given[i] - quotas[i], i))[:left]:
        given[i] += 1
    return given
