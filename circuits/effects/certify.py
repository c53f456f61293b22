"""Screen, verify, audit: exact effects where they matter, without paying for all, and a bound on what was missed.

1. *Screen*: every component by gradient.
2. *Verify*: the k strongest of each emotion exactly. k doubles until, for every emotion, the ``verify // 4`` strongest by exact
   effect are the same as before the last doubling (:func:`certify` begins with ``verify // 2``).
3. *Audit*: of the rest, sorted by layer and gradient and cut into as many neighbourhoods as shall be sampled, one component
   each, drawn at random and measured exactly. One that is stronger than the weakest on the list was missed.

With x missed of n drawn, Clopper and Pearson's one-sided bound on a binomial share holds for the share missed among the
rest: draws from different neighbourhoods are independent, and a sum of independent Bernoulli variables of unequal chances is
less spread than the binomial of their mean (Hoeffding 1956, theorem 4), so that few are missed by luck even more rarely.

What the rule cannot know: a component whose gradient vanishes although removing it matters (a saturated one) is screened
away; only the audit sees such, in proportion to their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.measure import Store, measure, price
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects, joined
from circuits.errors import SettingsError
from circuits.model.anatomy import Model
from circuits.model.sites import Component
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["Audit", "Certified", "certify", "missed_at_most"]

_DRAWS = 500
_RANK, _SLOPES = 0.8, (0.5, 2.0)
"""A gradient is trusted from this rank agreement on, and if exact effects are between these multiples of it."""


class Agreement(NamedTuple):
    """A figure with its 95% interval over scenarios; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Audit:
    """What a random sample of the components that were not verified says.

    Attributes:
        drawn, rest: components sampled, and how many they stand for.
        missed: of the sampled, those with a larger exact effect than the weakest on some emotion's list.
        upper: at most so many of the rest are such, with 95% confidence.
        rank: Spearman correlation of gradient and exact effect over verified and sampled components, all emotions, with its
            95% interval over scenarios.
        slope: exact effect per unit of gradient effect over the verified, by least squares through the origin, likewise.
        n: scenarios.
        thresholds: the weakest effect on each emotion's list [logits].
        exact_for_all: operations that exact effects of all components would take.
        warnings: why the gradient is not to be trusted here; empty when it is.
    """

    drawn: int
    rest: int
    missed: int
    upper: int
    rank: Agreement
    slope: Agreement
    n: int
    thresholds: dict[Emotion, float]
    exact_for_all: int
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests."""
        return {
            **{name: getattr(self, name) for name in ("drawn", "rest", "missed", "upper", "n", "exact_for_all")},
            "rank": list(self.rank),
            "slope": list(self.slope),
            "thresholds": {str(e): value for e, value in self.thresholds.items()},
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Certified:
    """Effects of many components, the strongest exact.

    Attributes:
        effects: every component once: exact where it was verified or sampled, gradient elsewhere (``methods`` says which).
        screen: the gradient effects of all.
        verified: components measured exactly because of their gradient, in stream order.
        listed: the strongest by exact effect, by emotion.
        rounds: k of each round.
        audit: what the sample of the rest says; None when everything was verified.
    """

    effects: Effects
    screen: Effects
    verified: tuple[Component, ...]
    listed: dict[Emotion, tuple[Component, ...]]
    rounds: tuple[int, ...]
    audit: Audit | None


Step = Callable[[str, int, int], None]


def certify(
    model: Model,
    prompts: Prompts,
    components: str | Iterable[str | Component] = "neurons",
    *,
    verify: int = 32,
    audit: int = 64,
    ablation: Ablation | str = Ablation.MEAN_SCENARIO,
    positions: Positions | str = Positions.ALL,
    seed: int = 0,
    screen: Effects | None = None,
    store: Store | None = None,
    progress: Step | None = None,
) -> Certified:
    """Effects of ``components``, exact for the strongest of each emotion, with a bound on what was missed.

    Args:
        verify: components of each emotion that are verified at least (0: none; the screen is then all there is).
        audit: components of the rest to sample (0: none).
        seed: of the sample.
        screen: gradient effects, if they are at hand.
        store: where finished shards are kept; see :func:`circuits.measure`.
        progress: called with (what, done, in all).

    Raises:
        SettingsError: ``verify`` or ``audit`` is negative.
        and whatever :func:`circuits.measure` raises.
    """
    if verify < 0 or audit < 0:
        raise SettingsError(f"verify is {verify} and audit {audit}; expected whole numbers from 0 on")
    wanted = model.components(components)

    def measured(some: tuple[Component, ...], method: Method, what: str) -> Effects:
        def step(done: int, total: int) -> None:
            if progress is not None:
                progress(what, done, total)

        return measure(
            model, prompts, some, method=method, ablation=ablation, positions=positions, store=store, progress=step
        )

    if screen is None:
        screen = measured(wanted, Method.GRADIENT, "gradient of everything")
    screened = screen.of(wanted)
    size = {e: np.abs(screened.by_scenario(e).mean(0)) for e in EMOTIONS}
    exact: Effects | None = None
    listed: dict[Emotion, tuple[Component, ...]] = {}
    rounds: list[int] = []
    k = max(1, verify // 2)
    while verify:
        rounds.append(min(k, len(wanted)))
        chosen = _strongest(wanted, size, k, screened.resolution)
        new = tuple(c for c in chosen if exact is None or c not in set(exact.components))
        if new:
            found = measured(new, Method.EXACT, f"verifying, round {len(rounds)}")
            exact = found if exact is None else joined([exact, found])
        if exact is None:
            break  # no component moves the metric beyond rounding
        before, listed = listed, _listed(exact, max(1, verify // 4))
        if k >= len(wanted) or (
            len(rounds) > 1 and {e: set(c) for e, c in before.items()} == {e: set(c) for e, c in listed.items()}
        ):
            break
        k *= 2
    verified = tuple(sorted(exact.components)) if exact is not None else ()
    known = set(verified)
    rest = tuple(c for c in wanted if c not in known)
    report = None
    if rest and audit and exact is not None:
        strength = np.max([size[e] for e in EMOTIONS], axis=0)
        drawn = _drawn(rest, dict(zip(wanted, strength.tolist(), strict=True)), audit, seed)
        sample = measured(drawn, Method.EXACT, "auditing the rest")
        everything = price(model, prompts, wanted, ablation=ablation, positions=positions)
        report = _report(exact, sample, screened, listed, len(rest), everything)
        exact = joined([exact, sample])
    parts = [screened] if exact is None else _best(exact, screened)
    return Certified(joined(parts), screened, verified, listed, tuple(rounds), report)


def _strongest(
    wanted: tuple[Component, ...], size: dict[Emotion, NDArray[np.float64]], k: int, resolution: float
) -> tuple[Component, ...]:
    """The k largest gradients of each emotion that are more than rounding, in stream order."""
    chosen: set[Component] = set()
    for e in EMOTIONS:
        top = np.argsort(-size[e], kind="stable")[:k]
        chosen |= {wanted[i] for i in top if size[e][i] > resolution}
    return tuple(sorted(chosen))


def _listed(exact: Effects, count: int) -> dict[Emotion, tuple[Component, ...]]:
    """The strongest by exact effect, by emotion."""
    result = {}
    for e in EMOTIONS:
        strength = np.abs(exact.by_scenario(e).mean(0))
        order = sorted(range(len(strength)), key=lambda i: (-strength[i], exact.components[i]))[:count]
        result[e] = tuple(exact.components[i] for i in order if strength[i] > exact.resolution)
    return result


def _drawn(
    rest: tuple[Component, ...], strength: dict[Component, float], count: int, seed: int
) -> tuple[Component, ...]:
    """One of each of ``count`` neighbourhoods in the order of layer and gradient."""
    order = sorted(rest, key=lambda c: (c.layer, strength[c], c))
    rng = np.random.default_rng(seed)
    parts = np.array_split(np.arange(len(order)), min(count, len(order)))
    return tuple(sorted(order[int(rng.choice(part))] for part in parts))


def missed_at_most(missed: int, drawn: int, rest: int, *, confidence: float = 0.95) -> int:
    """Upper bound on how many of ``rest`` are such as ``missed`` of those ``drawn``, one from each neighbourhood.

    Clopper & Pearson 1934, one-sided; why it holds for neighbourhoods stands at the top of the module.
    """
    if missed >= drawn:
        return rest
    share = float(stats.beta.ppf(confidence, missed + 1, drawn - missed))
    # A neighbourhood may hold one component more than another.
    return min(rest, int(np.floor(share * drawn * -(-rest // drawn))))


def _report(
    exact: Effects,
    sample: Effects,
    screened: Effects,
    listed: dict[Emotion, tuple[Component, ...]],
    rest: int,
    everything: int,
) -> Audit:
    thresholds, missed = {}, np.zeros(len(sample.components), dtype=bool)
    for e in EMOTIONS:
        if not listed[e]:
            continue
        weakest = float(np.abs(exact.of(listed[e]).by_scenario(e).mean(0)).min())
        thresholds[e] = weakest
        missed |= np.abs(sample.by_scenario(e).mean(0)) > weakest
    drawn, x = len(sample.components), int(missed.sum())
    strong, weak = [_means(part, screened) for part in (exact, sample)]
    n = screened.prompts.n_scenarios
    slope, rank = _agreement(_slopes(*strong), n), _agreement(_ranks(*np.concatenate([strong, weak], 2)), n)
    warnings = []
    if x:
        warnings.append(f"{x} of {drawn} sampled components are stronger than the weakest verified one that counts")
    if not rank.value >= _RANK:
        warnings.append(
            f"gradient and exact effects agree in rank with only {rank.value:.2f} (expected {_RANK} or more)"
        )
    if not _SLOPES[0] <= slope.value <= _SLOPES[1]:
        warnings.append(
            f"exact effects are {slope.value:.2f} times the gradient's (expected {_SLOPES[0]} to {_SLOPES[1]})"
        )
    return Audit(
        drawn, rest, x, missed_at_most(x, drawn, rest), rank, slope, n, thresholds, everything,
        tuple(warnings),
    )  # fmt: skip


def _means(measured: Effects, screened: Effects) -> NDArray[np.float64]:
    """Gradient and exact means of the same components on all emotions, ``[2, 1 + draw, component · emotion]``: over all
    scenarios, then over resampled ones. Emotions told in the same scenarios are resampled together."""
    parts = []
    for source in (screened.of(measured.components), measured):
        of_emotion = []
        for e in EMOTIONS:
            values = source.by_scenario(e)
            n = len(values)
            weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_DRAWS) / n
            of_emotion.append(np.concatenate([values.mean(0)[None], weights @ values]))
        parts.append(np.concatenate(of_emotion, 1))
    return np.stack(parts)


def _slopes(gradient: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    square = (gradient**2).sum(1)
    found: NDArray[np.float64] = np.full(len(square), np.nan)
    np.divide((gradient * exact).sum(1), square, out=found, where=square > 0)
    return found


def _ranks(gradient: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    if gradient.shape[1] < 3:
        return np.full(len(gradient), np.nan)
    a, b = (stats.rankdata(part, axis=1) - (part.shape[1] + 1) / 2 for part in (gradient, exact))
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    found: NDArray[np.float64] = np.full(len(size), np.nan)
    np.divide((a * b).sum(1), size, out=found, where=size > 0)
    return found


def _agreement(found: NDArray[np.float64], n: int) -> Agreement:
    """The first is of all ``n`` scenarios, the others of resampled ones."""
    low, high = np.quantile(found[1:], [0.025, 0.975]) if n >= MIN_SCENARIOS else (np.nan, np.nan)
    return Agreement(float(found[0]), float(low), float(high))


def _best(exact: Effects, screened: Effects) -> list[Effects]:
    """Exact where there is an exact effect, the gradient elsewhere."""
    known = set(exact.components)
    rest = [c for c in screened.components if c not in known]
    exact = replace(exact, notices=tuple(dict.fromkeys((*exact.notices, *screened.notices))))
    return [exact, screened.of(rest)] if rest else [exact]
