"""The default search: a small circuit that is enough, and that nothing outside can stand in for.

Ablating one component of a redundant pair, or the first of a head and its backup, shows nothing; adding one to a
circuit that lacks both shows all there is. So effects are measured in several *worlds*: a world K is the model with
the set K ablated.

1. *Grow.* In the whole model components are ranked by their exact effect; the shortest top that is enough is taken. Where even
   all of them are not, effects of *adding* are measured: what a component does when nothing but the circuit is there. Where
   neither shows anything (two whole paths, each enough), what can be spared is taken away in halves until no more can.
2. *Complete* (Wang et al. 2023, sec. 4.2). For K the circuit itself and every one of its members, the rest of the model should
   be as lost without K as the rest of the circuit is: ``|m(M∖K) - m(C∖K)| ≤ tolerance``. Where it is not, something outside
   stands in for K (or, with the other sign, holds it back): what that is shows its effect in the world K, and joins. What stood
   in is then ablated as well, so that three of a kind are found like two.
   What works against the emotion in the whole model joins as well, where it matters to the circuit.
3. *Prune.* A member goes if, in every world where something was found, leaving it out changes next to nothing and breaks no
   promise; so do pairs that cancel. Redundant parts stay, because in the world without the other they matter.

Sizes are shares of ``m(M) - m(∅)``. The tolerance is ``1 - target``. Components join by a sign-flip test in the world
where they showed: false discovery rate ``alpha`` over what was measured there of one kind, or, where a floor applies, over what
exceeds it (an effect on few scenarios has no smaller p; size and p hang together, so the rate is then not guaranteed,
but seen on ``null``).

In models with more components than ``exhaustive`` all heads but only the ``screen`` neurons of largest first-order
effect *in that world* (:mod:`circuits.circuit.slopes`) are measured; a neuron saturated there can then be missed.
What theory forbids: a circuit less faithful than the target is not found as it is, since more must join until the
target is reached. In planted models the noise of distractors leaves the true circuit of one emotion in sixty there.
What the method cannot find: what shows only when two or more members are ablated together that do not stand in for
each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuits.circuit.discovery import Case, Counted, Found
from circuits.circuit.searching import Search
from circuits.errors import MeasurementError
from circuits.model.sites import Kind

__all__ = ["Conditional"]

Array = NDArray[np.float64]

_AFFORDABLE, _PATIENCE = 400_000_000_000, (2, 20)


@dataclass(frozen=True)
class Conditional:
    """Redundancy-aware search by conditional effects.

    Attributes:
        screen: neurons measured exactly in each world of a model that is too large for all.
        exhaustive: components up to which all are measured exactly in each world.
        floor: smallest change that counts in a world, as a share of ``m(M) - m(∅)``.
        worlds: worlds looked into at most.
        steps: components added one by one in a world at most.
        patience: forwards the search may take, as a multiple of what measuring every component tried once takes; None: as
            far as 4e11 floating-point operations go (some seconds on a small processor), between 2 and 20.
    """

    name: str = "conditional"
    screen: int = 64
    exhaustive: int = 1024
    floor: float = 0.05
    worlds: int = 24
    steps: int = 12
    patience: int | None = None

    def bound(self, case: Case, *, target: float = 0.8, alpha: float = 0.05) -> float:
        return case.effects_forwards + self.budget(case)

    def budget(self, case: Case) -> int:
        """Forwards after which the search stops as it stands; usually a few times what is tried."""
        tried = self.tried(case)
        if self.patience is not None:
            return self.patience * tried
        affordable = _AFFORDABLE // max(1, case.bench.operations)
        return min(max(affordable, _PATIENCE[0] * tried), _PATIENCE[1] * tried)

    def tried(self, case: Case) -> int:
        """Components measured exactly in each world."""
        if len(case.components) <= self.exhaustive:
            return len(case.components)
        return sum(c.kind is Kind.HEAD for c in case.components) + self.screen + 3

    def __call__(self, case: Case, *, target: float, alpha: float = 0.05, seed: int = 0) -> Found:
        bound, spent = self.bound(case, target=target, alpha=alpha), case.effects_forwards
        bench = Counted(case.bench)
        search = Search(case, bench, self, max(1 - target, 0.02), alpha)
        single = case.effects.by_scenario(case.emotion).mean(0)
        search.saw(case.effects.components, single)
        nothing, undefined = float("nan"), ""
        value = rest = nothing
        try:
            bench.ratio(bench.empty)
            search.run()
            chosen = search.chosen
            if chosen:
                value = bench.faithfulness(chosen).value
                rest = bench.faithfulness(search.everything - chosen).value
            else:
                undefined = f"no head or neuron supports {case.emotion} on the select split, alone or given others"
                if search.notice:
                    undefined = (
                        f"no head or neuron was found for {case.emotion} on the select split before {search.notice}"
                    )
        except MeasurementError as error:
            chosen, undefined = frozenset(), str(error)
        # Outside the circuit worlds were not looked at evenly, so that what was seen there is no order; single effects are.
        alone = dict(zip(case.effects.components, np.abs(single), strict=True))
        size = {c: largest if c in chosen else alone.get(c, 0.0) for c, largest in search.largest.items()}
        ranked = sorted(size, key=lambda c: (c not in chosen, -size[c], c))
        return Found(
            method=self.name,
            ranked=tuple(ranked),
            scores=np.array([search.largest[c] for c in ranked]),
            chosen=tuple(c for c in ranked if c in chosen),
            faithfulness=value,
            complement=rest,
            reached=bool(value >= target - 1e-9),
            bound=bound,
            forwards=spent + search.spent + bench.forwards,
            undefined=undefined,
            notice=search.notice,
            worlds={c: tuple(sorted(search.worlds[c])) for c in sorted(chosen & search.worlds.keys())},
        )
