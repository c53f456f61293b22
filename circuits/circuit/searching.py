"""The search by conditional effects itself: what was measured so far, and its phases.

What it does and why stands in :mod:`circuits.circuit.conditional`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from circuits.circuit.discovery import Case, Counted
from circuits.circuit.slopes import slopes
from circuits.effects.kinds import Method
from circuits.effects.statistics import MIN_SCENARIOS, benjamini_hochberg, sign_flip
from circuits.model.sites import Component, Kind

if TYPE_CHECKING:
    from circuits.circuit.conditional import Conditional

__all__ = ["Search"]

Array = NDArray[np.float64]
Set = frozenset[Component]

_PASSES, _PARTNERS, _LARGE = 3, 3, 24
_GROUP = 12
"""Up to so many that stand in for each other, each is kept for the world in which it alone is left."""


class Search:
    """One search: what was measured so far, and the three phases."""

    def __init__(self, case: Case, bench: Counted, how: Conditional, tolerance: float, alpha: float) -> None:
        self.case, self.bench, self.how = case, bench, how
        self.tolerance, self.alpha = tolerance, alpha
        self.everything: Set = frozenset(case.components)
        self.gap = float((bench.whole - bench.empty).mean())
        self.largest: dict[Component, float] = dict.fromkeys(case.components, 0.0)
        self.promises: list[Set] = [frozenset()]
        self.worlds: dict[Component, Set] = {}
        self.budget = self.limit = how.budget(case)
        self.spent = 0
        self.chosen: Set = frozenset()
        self.notice = ""

    def run(self) -> None:
        """All phases; :attr:`chosen` is the circuit, also when the budget ends before the search."""
        try:
            # A quarter is kept for pruning: what was taken on along the way should not stay for want of means.
            self.limit = self.budget * 3 // 4
            self.chosen = self.grow(frozenset(), frozenset())
            if self.chosen:
                self.hold_back()
                self.complete()
        except Spent:
            self.notice = f"the search stopped at its budget of {self.budget} forwards (--patience 20 searches longer)"
        self.limit = self.budget
        try:
            if self.chosen:
                self.prune()
        except Spent:
            self.notice = (
                f"the search stopped at its budget of {self.budget} forwards; some of the circuit may be spare (--patience 20 "
                "searches longer)"
            )

    def metrics(self, sets: Sequence[Set]) -> Array:
        """The bench, as long as the budget lasts."""
        self.pay(len(self.bench.unknown(sets)))
        return self.bench.metrics(sets)

    def pay(self, more: int) -> None:
        if self.bench.forwards + self.spent + more > self.limit:
            raise Spent

    # -- the three phases ------------------------------------------------------------------------------------------

    def grow(self, without: Set, start: Set) -> Set:
        """What to add to ``start`` so that it does as much as the whole world ``without``; empty if nothing shows."""
        world = self.everything - without
        chosen = start
        lacking = self.lacking(without, chosen)
        before = 0.0
        for step in range(self.how.steps):
            if not without and not start:
                self.chosen = chosen  # what there is when the budget ends
            if abs(lacking) <= self.tolerance:
                break
            side = float(np.sign(lacking))
            if side != before:
                # Removing: what the world loses without it.
                usable = self.showing(world, world - chosen, chosen, side, without, adding=False)
                chosen, lacking, before = *self.shortest(without, chosen, usable), side
                continue
            usable = self.showing(world, world - chosen, chosen, side, without, adding=True)
            if not usable:
                if step < 2 and chosen == start and side > 0:
                    chosen = self.spare(without, start)
                break
            chosen = chosen | {usable[0]}
            lacking = self.lacking(without, chosen)
        return chosen - start

    def complete(self) -> None:
        """Add what stands in for the circuit or for one of its members, until nothing does."""
        settled: set[Set] = set()
        further: list[Set] = []
        for _ in range(self.how.worlds):
            chosen = self.chosen
            worlds = list(dict.fromkeys([frozenset(), chosen, *(frozenset({c}) for c in sorted(chosen)), *further]))
            worlds = [some for some in worlds if some not in settled]
            lacking = self.lackings(worlds, chosen)
            order = [i for i in np.argsort(-np.abs(lacking), kind="stable") if abs(lacking[i]) > self.tolerance]
            if not order:
                break
            without = worlds[order[0]]
            settled.add(without)
            new = self.grow(without, chosen - without)
            if not new:
                continue
            self.chosen = chosen | new
            self.worlds |= dict.fromkeys(new - chosen, without)
            further += [some for some in (without | {c} for c in sorted(new)) if some not in further]
            # The promise holds all ways: what stood in is stood in for, whichever of them is left.
            group = without | new
            left = [group - {c} for c in sorted(group)] if len(group) <= _GROUP else []
            added = [without, *(frozenset({c}) for c in sorted(new)), *left]
            self.promises += [some for some in added if some not in self.promises]

    def hold_back(self) -> None:
        """Add what works against the emotion in the whole model, twice the floor at least, if that matters to the circuit."""
        world = self.everything
        usable = self.showing(world, world - self.chosen, self.chosen, -1.0, frozenset(), adding=False, floor=2.0)
        more = self.chosen | set(usable)
        if usable and abs(self.lacking(frozenset(), more) - self.lacking(frozenset(), self.chosen)) >= self.how.floor:
            self.chosen = more

    def prune(self) -> None:
        """Leave out, weakest first, what changes next to nothing in any world where something was found."""
        if len(self.chosen) > _LARGE:
            self.thin()
        for _ in range(_PASSES):
            before = self.chosen
            changes = {c: self.dropped({c}) for c in sorted(self.chosen, key=lambda c: (self.largest[c], c))}
            # What is left may cancel: one that supports and one that holds back, neither needed without the other.
            left = {c: change for c, change in changes.items() if c in self.chosen}
            for c in sorted((c for c in left if left[c] < 0), key=lambda c: (-left[c], c)):
                near = sorted(
                    (o for o in left if left[o] > 0 and o in self.chosen), key=lambda o: abs(left[o] + left[c])
                )
                for other in near[:_PARTNERS]:
                    self.dropped({c, other})
                    if c not in self.chosen:
                        break
            if self.chosen == before:
                break

    def thin(self) -> None:
        """The same by blocks that are halved where they matter: a circuit of hundreds is not pruned one by one."""
        order = sorted(self.chosen, key=lambda c: (self.largest[c], c))
        blocks = _halves(order)
        while blocks:
            block = blocks.pop(0)
            before = self.chosen
            self.dropped(block)
            if self.chosen == before and len(block) > 1:
                blocks[:0] = _halves(block)

    def dropped(self, members: Collection[Component]) -> float:
        """Leave these out if nothing promised suffers; what the circuit lacks more without them, as a share of the gap."""
        fewer = self.chosen - set(members)
        if not fewer:
            return 1.0
        before = self.lackings(self.promises, self.chosen)
        after = self.lackings([*self.promises, fewer], fewer)
        change = after[:-1] - before
        kept = (np.abs(after) <= np.maximum(self.tolerance, np.abs([*before, 0.0]))).all()
        # What overshoots may lose a supporter, but not gain by losing what holds it back.
        spare = (np.abs(change) < self.how.floor) | ((change > 0) & (np.abs(after[:-1]) < np.abs(before)))
        if kept and spare.all():
            self.chosen = fewer
        return float(change[0])

    def spare(self, without: Set, start: Set) -> Set:
        """Take away what the world can spare, in halves, the least by first order first; nothing if that is hardly anything.

        For paths of which either is enough: no component shows alone, whether removed or added.
        """
        world = self.everything - without
        rest = world - start
        slope = np.abs(self.slopes(world))
        place = {c: i for i, c in enumerate(self.case.components)}
        order = sorted(rest, key=lambda c: (slope[place[c]], c))
        kept = world
        blocks = _halves(order)
        while blocks:
            block = blocks.pop(0)
            fewer = kept - set(block)
            if block and abs(self.lacking(without, fewer)) <= self.tolerance:
                kept = fewer
            elif len(block) > 1:
                blocks[:0] = _halves(block)
        return kept if len(kept) < len(world) else start

    # -- worlds ----------------------------------------------------------------------------------------------------

    def lackings(self, worlds: Sequence[Set], chosen: Set) -> Array:
        """How much more the model does than the circuit in each world, as a share of the gap."""
        if not worlds:
            return np.zeros(0)
        sets = [some for without in worlds for some in (self.everything - without, chosen - without)]
        means = self.metrics(sets).mean(1).reshape(-1, 2)
        result: Array = (means[:, 0] - means[:, 1]) / self.gap
        return result

    def lacking(self, without: Set, chosen: Set) -> float:
        """The same in one world."""
        return float(self.lackings([without], chosen)[0])

    def shortest(self, without: Set, start: Set, usable: Sequence[Component]) -> tuple[Set, float]:
        """``start`` and the shortest top of a list that is enough, or all of the list; and what is lacking then."""
        if not usable:
            return start, self.lacking(without, start)
        side = np.sign(self.lacking(without, start))

        def left(size: int) -> float:
            return self.lacking(without, start | set(usable[:size]))

        low, high = 0, len(usable)
        if side * left(high) > self.tolerance:
            return start | set(usable), left(high)
        while high - low > 1:
            middle = (low + high) // 2
            if side * left(middle) <= self.tolerance:
                high = middle
            else:
                low = middle
        return start | set(usable[:high]), left(high)

    def showing(
        self,
        world: Set,
        outside: Set,
        chosen: Set,
        side: float,
        without: Set,
        *,
        adding: bool,
        floor: float = 0.0,
    ) -> list[Component]:
        """Components of ``outside`` whose effect in the world is significant and of this sign, strongest first.

        Effects are what removing a component costs the world, or (``adding``) what it brings to the circuit alone.
        """
        effects = self.case.effects
        if not without and not adding:
            index = [i for i, c in enumerate(effects.components) if c in outside]
            tried = tuple(effects.components[i] for i in index)
            values = effects.by_scenario(self.case.emotion)[:, index]
            families = [(c.kind, effects.methods[i]) for c, i in zip(tried, index, strict=True)]
            floor = max(effects.resolution, floor * self.how.floor * self.gap)
        else:
            tried = self.tried(world, outside, chosen, adding=adding)
            base = chosen - without if adding else world
            sets = [base | {c} if adding else base - {c} for c in tried]
            found = self.metrics([base, *sets])
            values = (found[1:] - found[0]).T if adding else (found[0] - found[1:]).T
            floor = self.how.floor * self.gap
            families = [(c.kind, Method.EXACT) for c in tried]
            self.saw(tried, values.mean(0))
        mean = side * values.mean(0)
        large = np.flatnonzero(mean > floor) if floor > effects.resolution else np.arange(len(mean))
        sure = self.significant(values[:, large], [families[i] for i in large])
        usable = [i for i in large[sure] if mean[i] > floor]
        return [tried[i] for i in sorted(usable, key=lambda i: (-mean[i], tried[i]))]

    def significant(self, values: Array, families: Sequence[tuple[Kind, Method]]) -> NDArray[np.bool_]:
        """Which columns ``[scenario, component]`` have a mean apart from zero; all with too few scenarios to tell.

        Adjusted over components of one kind and method, as in the tables.
        """
        sure: NDArray[np.bool_] = np.ones(values.shape[1], dtype=bool)
        if values.shape[0] < MIN_SCENARIOS or not values.shape[1]:
            return sure
        p = sign_flip(values, seed=self.case.emotion.column, resolution=self.case.effects.resolution)
        for family in dict.fromkeys(families):
            index = [i for i, some in enumerate(families) if some == family]
            sure[index] = benjamini_hochberg(p[index]) < self.alpha
        return sure

    def tried(self, world: Set, outside: Set, chosen: Set, *, adding: bool) -> tuple[Component, ...]:
        """What is measured exactly: everything, or in large models all heads and the neurons that a gradient points to."""
        if len(self.everything) <= self.how.exhaustive:
            return tuple(c for c in self.case.components if c in outside)
        slope = np.abs(self.slopes((chosen & world) if adding else world))
        place = {c: i for i, c in enumerate(self.case.components)}
        neurons = [c for c in self.case.components if c in outside and c.kind is Kind.NEURON]
        neurons = sorted(neurons, key=lambda c: (-slope[place[c]], c))[: self.how.screen]
        return (*(c for c in self.case.components if c in outside and c.kind is Kind.HEAD), *neurons)

    def saw(self, components: Iterable[Component], effects: Collection[float] | Array) -> None:
        """Remember the largest effect of each component in any world."""
        for c, effect in zip(components, effects, strict=True):
            self.largest[c] = max(self.largest.get(c, 0.0), abs(float(effect)))

    def slopes(self, kept: Set) -> Array:
        """First-order effects in a world, mean over scenarios; a forward and a backward."""
        self.pay(2)
        self.spent += 2
        result: Array = slopes(self.case.bench, kept).mean(1)
        return result


def _halves(order: list[Component]) -> list[list[Component]]:
    return [order[: len(order) // 2], order[len(order) // 2 :]]


class Spent(Exception):
    """The budget does not suffice for what comes next."""
