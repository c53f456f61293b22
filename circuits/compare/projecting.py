"""What each half-layer writes on its layer's direction at ``resid_post``, read on scenarios that did not make the direction.

A scenario's own noise would look like signal, so what scenario s writes is projected on the direction of all *other* scenarios:
``<step_s, sum of post_t over t != s>``, a sum of products of different scenarios. Under no signal at all each product occurs
twice, once in either part; a bootstrap that held the directions fixed would take it for two and be too narrow by half. So
every draw makes its directions again, out of products between scenarios, and leaves those of a scenario with itself out.

``<post - pre, v> = <mid - pre, v> + <post - mid, v>`` holds exactly, in the estimate and in every draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

__all__ = ["Written", "written"]

Array = NDArray[np.float64]

_DRAWS = 1000


@dataclass(frozen=True)
class Written:
    """Projection [residual units] of each half-layer's write, relative to the scenario's six texts, on the unit direction.

    Attributes:
        value: ``[emotion, half]``; NaN where the layer has no direction behind it.
        draws: the same on resampled scenarios, ``[draw, emotion, half]``.
        n: scenarios.
    """

    value: Float[NDArray[np.float64], "emotion half"]
    draws: Float[NDArray[np.float64], "draw emotion half"]
    n: int


def written(
    deviations: Float[NDArray[np.float64], "group emotion state d_model"],
    scenarios: Int[NDArray[np.int64], " group"],
    defined: Bool[NDArray[np.bool_], "emotion state"],
    *,
    seed: int = 0,
) -> Written:
    """Projections of the steps between states on the direction at the end of each layer.

    Args:
        deviations: what each group says of each emotion [residual units], at the embedding and behind every half-layer.
        scenarios: scenario of each group.
        defined: whether the direction exists.
    """
    found, place = np.unique(scenarios, return_inverse=True)
    n, (_, emotions, states, width) = len(found), deviations.shape
    sums = np.zeros((n, emotions, states, width))
    np.add.at(sums, place, deviations)
    told = np.bincount(place).astype(np.float64)  # a scenario told at several valences is several groups
    rng = np.random.default_rng(seed)
    counts = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS)])
    pairs = (counts @ told) ** 2 - counts**2 @ told**2
    result = np.full((len(counts), emotions, states - 1), np.nan)
    for e in range(emotions):
        for half in range(states - 1):
            after = half + 2 - half % 2  # the layer's resid_post
            if not defined[e, after]:
                continue
            end = sums[:, e, after]
            product = (sums[:, e, half + 1] - sums[:, e, half]) @ end.T
            apart = ((counts @ product) * counts).sum(1) - counts**2 @ np.diag(product)
            length = np.sqrt(((counts @ (end @ end.T)) * counts).sum(1)) / (counts @ told)
            result[:, e, half] = apart / pairs / length
    return Written(value=result[0], draws=result[1:], n=n)
