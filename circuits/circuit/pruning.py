"""Pruning to a target: the fewest edges (or nodes) that stay as faithful as asked for.

The edges of a circuit are ranked by an estimate and taken away, weakest first, as long as what is left reaches the target
as *run*: what an edge set does is measured by whoever calls, so that exact path patching and cheaper ways serve alike. ACDC
(Conmy et al. 2023) takes edges away one by one; blocks that are halved where they matter need about
``edges kept · log2(all / kept)`` runs instead of one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from circuits.errors import SettingsError

__all__ = ["Pruned", "prune_to_target"]

T = TypeVar("T")


@dataclass(frozen=True)
class Pruned(Generic[T]):
    """What was kept, strongest first, how faithful that is, whether it reaches the target, and the sets that were run."""

    kept: tuple[T, ...]
    faithfulness: float
    reached: bool
    runs: int


def prune_to_target(
    scores: Mapping[T, float], faithfulness: Callable[[frozenset[T]], float], *, target: float, most: int = 10_000
) -> Pruned[T]:
    """Take away in halves, weakest first by absolute score, whatever the target can spare.

    To be run on ``select``. The whole set is kept where it does not reach the target itself. Ties keep the order given.

    Args:
        scores: estimate of each item; only its size and order matter.
        faithfulness: of a set of items, as run.
        most: sets that are run at most; what was not tried by then stays.

    Raises:
        SettingsError: nothing to prune, or ``most`` is below one.
    """
    if not scores or most < 1:
        raise SettingsError(f"{len(scores)} items to prune in at most {most} runs; expected at least one of both")
    order = sorted(scores, key=lambda item: abs(scores[item]))  # stable: ties keep their order
    kept, runs = frozenset(order), 1
    value = faithfulness(kept)
    if value < target:
        return Pruned(tuple(reversed(order)), value, False, runs)
    middle = (len(order) + 1) // 2
    blocks = [order[:middle], order[middle:]]
    while blocks and runs < most:
        block = blocks.pop(0)
        if not block:
            continue
        fewer = kept - set(block)
        found = faithfulness(fewer)
        runs += 1
        if found >= target:
            kept, value = fewer, found
        elif len(block) > 1:
            half = (len(block) + 1) // 2
            blocks[:0] = [block[:half], block[half:]]
    return Pruned(tuple(item for item in reversed(order) if item in kept), value, True, runs)
