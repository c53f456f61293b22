"""The circuit of Wang et al. 2025 (arXiv 2510.11328), as published and mended, beside exact total effects.

Three sets of components of one size, from the same texts:

* ``paper``: neurons by ``a_n (W_downᵀ v)_n``, heads by the drop of ⟨MLP input, v⟩ when zeroed, numbers by influence on the
  projection of the final state with directions turned alike (:mod:`.contributions`, :mod:`.influence`,
  :mod:`.allocation`);
* ``mended``: the same rule with directions estimated in the space they are used in, scores relative to the text's group,
  influence on the logit difference, and signs kept;
* ``total``: as many heads and neurons as in the others, those whose ablation costs most of the logit difference, downstream
  effects included (:func:`circuits.measure`), no number fixed by layer. Only components with a mean effect above rounding, so
  it may be smaller.

Overlaps come with a bootstrap over scenarios in which all sets are chosen anew (directions stay: they are of other
texts), and with chance: the overlap of random sets of the same layers. On the texts that chose them all sets are in-sample;
judge them on others (:class:`circuits.circuit.evaluation.Bench`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from circuits.circuit.estimates import Estimate
from circuits.circuit.stability import chance_jaccard, jaccard
from circuits.compare.wang.allocation import Allocation, allocate, top
from circuits.compare.wang.contributions import Scores, Space, head_importance, neuron_contributions, normed_directions
from circuits.compare.wang.influence import Influence, Target, sublayer_influence
from circuits.directions.estimators import estimate_directions
from circuits.effects.kinds import Ablation, Method, member
from circuits.effects.measure import Progress, Store, measure
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects, joined
from circuits.errors import MeasurementError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.sites import Component, Kind
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import Emotion, emotion

__all__ = ["FORMS", "Form", "Overlap", "WangCircuit", "wang_circuit"]

Array = NDArray[np.float64]
Set = frozenset[Component]

FORMS = ("paper", "mended", "total")
_DRAWS = 200
_COLUMNS = (
    "component", "layer", "kind", "index", "emotion", *FORMS, "paper_score", "mended_score", "effect", "low", "high", "n",
    "unit",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """One way of scoring: what the allocation and the choice inside layers are made from."""

    heads: Scores
    neurons: Scores
    influence: Influence

    def choose(self, k: int, weights: Array | None = None) -> tuple[Allocation, Set]:
        """The circuit of ``k`` components on scenarios counted ``weights`` times (``[scenario]``, sum 1; None: once each)."""
        influence, heads, neurons = (
            np.nan_to_num(_weighted(x.by_scenario, weights)) for x in (self.influence, self.heads, self.neurons)
        )
        available = heads.shape[1], neurons.shape[1]
        allocation = allocate(influence.reshape(-1, 2), k, available, even=True)
        return allocation, top(allocation, heads, neurons)


@dataclass(frozen=True)
class Overlap:
    """Jaccard of two sets, the middle 95% over scenario resamples, and the mean of layer-matched random sets.

    ``draws`` resamples of ``n`` scenarios; below five scenarios there is no interval (NaN). Sets chosen on resamples are less
    alike than sets of all scenarios, so an interval may lie below its value.
    """

    value: float
    low: float
    high: float
    chance: float
    n: int
    draws: int


@dataclass(frozen=True)
class WangCircuit:
    """What :func:`wang_circuit` found.

    Attributes:
        circuits: components by form (``paper``, ``mended``, ``total``).
        allocations: numbers by layer, of ``paper`` and ``mended``.
        forms: scores and influence behind them.
        effects: total effects [logits] of every head and neuron on the emotion's texts.
        overlaps: by pair of forms.
        ranks: Spearman correlation of a form's scores with the total effects, over components of a kind, by (form, kind).
        notices: what the user should know.
    """

    emotion: Emotion
    k: int
    circuits: Mapping[str, Set]
    allocations: Mapping[str, Allocation]
    forms: Mapping[str, Form]
    effects: Effects
    overlaps: Mapping[tuple[str, str], Overlap]
    ranks: Mapping[tuple[str, Kind], Estimate]
    notices: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each component of any of the sets, in stream order; effects in logits with 95% intervals."""
        chosen = sorted(frozenset().union(*self.circuits.values()))
        summary = self.effects.of(chosen).summary(self.emotion)
        means = {name: (form.heads.mean(), form.neurons.mean()) for name, form in self.forms.items()}
        rows = []
        for i, c in enumerate(chosen):
            scores = {
                f"{name}_score": float(both[c.kind is Kind.NEURON][c.layer, c.index]) for name, both in means.items()
            }
            rows.append({
                "component": c.name, "layer": c.layer, "kind": str(c.kind), "index": c.index, "emotion": str(self.emotion),
                **{name: c in some for name, some in self.circuits.items()}, **scores, "effect": float(summary.mean[i]),
                "low": float(summary.low[i]), "high": float(summary.high[i]), "n": summary.n, "unit": self.effects.unit,
            })  # fmt: skip
        return pd.DataFrame(rows, columns=list(_COLUMNS))


def wang_circuit(
    model: Model,
    prompts: Prompts,
    e: Emotion | str,
    *,
    k: int,
    fit: Prompts | None = None,
    ablation: Ablation | str = Ablation.MEAN_SCENARIO,
    neurons: Method | str = Method.EXACT,
    effects: Effects | None = None,
    draws: int = _DRAWS,
    seed: int = 0,
    progress: Progress | None = None,
    store: Store | None = None,
) -> WangCircuit:
    """The circuit of ``k`` components for ``e``, by the paper's rule, the mended rule and exact total effects.

    Args:
        prompts: complete groups; with ``fit`` given these are the texts the circuits are chosen on, otherwise their ``select``
            split is, and directions come from their ``fit`` split.
        fit: texts the directions are estimated on; scenarios other than those of ``prompts``.
        ablation: of the total effects.
        neurons: how total effects of neurons are measured: ``exact``, or ``gradient`` where there are too many of them.
        effects: total effects of all heads and neurons on these texts, where they are at hand (they serve all six emotions);
            ``ablation`` and ``neurons`` are then not asked.
        draws: resamples of the scenarios.
        progress, store: of the measurements; see :func:`circuits.measure`.

    Raises:
        PromptError: an unknown emotion, or a split without rows.
        SettingsError: ``k`` does not fit the model (see :func:`.allocation.allocate`), fewer than 2 draws.
        MeasurementError: a scenario is in both sets of texts, or no component supports the emotion.
        DirectionError: the emotion has no direction.
        ComponentError: ``effects`` lack a head or neuron.
        UnsupportedModelError: a mixture of experts.
    """
    e = emotion(e) if isinstance(e, str) else e
    if draws < 2:
        raise SettingsError(f"draws is {draws}; expected at least 2 (200 for an interval)")
    if fit is None:
        fit, prompts = prompts.split("fit"), prompts.split("select")
    both = {p.scenario for p in fit.rows} & {p.scenario for p in prompts.rows}
    if both:
        raise MeasurementError(
            f"scenario {min(both)!r} is in both sets of texts; estimate directions on other scenarios"
        )
    directions, normed = estimate_directions(model, fit), normed_directions(model, fit)
    forms = {
        "paper": Form(
            head_importance(model, prompts, directions, e),
            neuron_contributions(model, prompts, directions, e),
            sublayer_influence(model, prompts, directions, e, target=Target.PROJECTION, aligned=True),
        ),
        "mended": Form(
            head_importance(model, prompts, normed, e, space=Space.NORMED, centred=True),
            neuron_contributions(model, prompts, directions, e, centred=True),
            sublayer_influence(model, prompts, directions, e),
        ),
    }
    chosen = {name: form.choose(k) for name, form in forms.items()}  # before hours are spent on effects
    how = member(Method, neurons)
    if effects is None:
        effects = joined(
            measure(model, prompts, kind, method=method, ablation=ablation, progress=progress, store=store)
            for kind, method in (("heads", Method.EXACT), ("neurons", how))
        )
    mine = prompts.where(prompts.emotions == e.column)
    effects = effects.of([*model.heads, *model.neurons]).on(mine)
    values = effects.by_scenario(e)
    counts = sum(chosen["paper"][0].heads), sum(chosen["paper"][0].neurons)
    circuits = {name: found for name, (_, found) in chosen.items()}
    circuits["total"] = _strongest(effects.components, values.mean(0), counts, effects.resolution)
    if not circuits["total"]:
        raise MeasurementError(
            f"no component of {model.name} supports {e}: no mean effect is above rounding ({effects.resolution:.1g} logits); "
            "check the prompts and the answer words"
        )
    weights = _resamples(len(values), draws, seed)
    sets: dict[str, list[Set]] = {name: [form.choose(k, w)[1] for w in weights] for name, form in forms.items()}
    sets["total"] = [_strongest(effects.components, w @ values, counts, effects.resolution) for w in weights]
    return WangCircuit(
        emotion=e,
        k=k,
        circuits=circuits,
        allocations={name: allocation for name, (allocation, _) in chosen.items()},
        forms=forms,
        effects=effects,
        overlaps={
            (a, b): _overlap(circuits[a], circuits[b], (sets[a], sets[b]), effects.components, len(values), seed)
            for a, b in combinations(FORMS, 2)
        },
        ranks={
            (name, kind): _rank(scores.by_scenario, values[:, [c.kind is kind for c in effects.components]], weights)
            for name, form in forms.items()
            for kind, scores in ((Kind.HEAD, form.heads), (Kind.NEURON, form.neurons))
        },
        notices=(*_notices(forms, chosen), *effects.notices),
    )


def _weighted(values: Array, weights: Array | None) -> Array:
    """Mean over the first axis."""
    result: Array = values.mean(0) if weights is None else np.tensordot(weights, values, 1)
    return result


def _resamples(n: int, draws: int, seed: int) -> Array:
    """Weights ``[draw, scenario]``; none below five scenarios, where no interval is given."""
    if n < MIN_SCENARIOS:
        return np.empty((0, n))
    weights: Array = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws) / n
    return weights


def _strongest(components: tuple[Component, ...], means: Array, counts: tuple[int, int], least: float) -> Set:
    """Heads and neurons of largest mean effect, those above ``least``: what rounding cannot make."""
    found: list[Component] = []
    for kind, count in zip((Kind.HEAD, Kind.NEURON), counts, strict=True):
        index = [i for i, c in enumerate(components) if c.kind is kind and means[i] > least]
        found += [components[i] for i in sorted(index, key=lambda i: -means[i])[:count]]
    return frozenset(found)


def _overlap(
    a: Set, b: Set, resampled: tuple[list[Set], list[Set]], components: tuple[Component, ...], n: int, seed: int
) -> Overlap:
    drawn = [jaccard(x, y) for x, y in zip(*resampled, strict=True)]
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975])) if drawn else (float("nan"), float("nan"))
    return Overlap(jaccard(a, b), low, high, chance_jaccard(a, b, components, seed=seed), n, len(drawn))


def _rank(scores: Array, effects: Array, weights: Array) -> Estimate:
    """Spearman correlation over components, those in layers with a direction; percentile interval over resamples."""
    flat = scores.reshape(len(scores), -1)
    there = ~np.isnan(flat).any(0)
    flat, effects = flat[:, there], effects[:, there]
    n = len(flat)
    value = float(_spearman(flat.mean(0)[None], effects.mean(0)[None])[0])
    drawn = _spearman(weights @ flat, weights @ effects)
    if not len(drawn) or not np.isfinite(drawn).all():
        return Estimate(value, float("nan"), float("nan"), n)
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975]))
    return Estimate(value, low, high, n)


def _spearman(a: Array, b: Array) -> Array:
    """Row by row; NaN where a row is constant."""
    if not len(a):
        return np.empty(0)
    x, y = (rankdata(m, axis=1) for m in (a, b))
    x, y = (m - m.mean(1, keepdims=True) for m in (x, y))
    length = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    result: Array = np.where(length > 0, (x * y).sum(1) / np.where(length > 0, length, 1), np.nan)
    return result


def _notices(forms: Mapping[str, Form], chosen: Mapping[str, tuple[Allocation, Set]]) -> list[str]:
    found = []
    for name, form in forms.items():
        for scores in (form.heads, form.neurons):
            gone = np.flatnonzero(np.isnan(scores.values).any((0, 2)))
            if len(gone):
                layers = ", ".join(str(layer) for layer in gone)
                found.append(
                    f"{name}: no direction in layers {layers}; {scores.kind}s there score 0 and come in order of index"
                )
        gone = np.flatnonzero(np.isnan(form.influence.values).any(0))
        if len(gone):
            places = ", ".join(str(form.influence.sublayers[i]) for i in gone)
            found.append(f"{name}: no direction after {places}; their influence is taken to be 0")
        even = chosen[name][0].even
        found += [f"{name}: no half-layer of the {kind} has a positive influence; all got alike" for kind in even]
        if form.heads.virtual:
            found.append(
                f"{name}: parallel blocks: heads are read in resid_pre + attn_out, a state the model never computes"
            )
    return found
