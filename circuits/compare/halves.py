"""What attention and what the MLP of each layer do to an emotion: half-layer resolution (SCIENCE section 7.2).

For each of the 2L half-layers, between the state before and the state after it (before the first stands the embedding):

* how far it turns the direction (:mod:`.rotation`);
* what it adds to held-out decodability: AUROC after minus before, scenarios in folds, the same resamples on both sides;
* what it writes on the direction at its layer's ``resid_post``, made of other scenarios (:mod:`.projecting`);
* what ablating it costs (exact total effect), and its share of all that half-layers cost.

Then what reading once per layer would have got wrong (:mod:`.attribution`). In parallel blocks no state lies between the
halves: ``resid_pre + attn_out`` stands for it and every row says so. What is written is not touched by that, as both halves add
to one sum; rotation and decodability are those of "attention first", an order the model does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits import jsontext
from circuits.compare.attribution import LAYER_COLUMNS, Changes, layer_rows, rate_rows
from circuits.compare.projecting import Written, written
from circuits.compare.rotation import Rotation, rotation
from circuits.compare.table import HALF_COLUMNS, RATE_COLUMNS
from circuits.directions.decoding import Folds, auroc, null_maxima, resampled
from circuits.directions.estimators import contrast, deviations, rounding
from circuits.effects.kinds import Method
from circuits.effects.measure import measure
from circuits.effects.statistics import MIN_SCENARIOS, tail_of
from circuits.effects.table import Effects
from circuits.errors import DirectionError, MeasurementError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.reading import Readings, capture
from circuits.model.sites import Half, State, sublayer
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

__all__ = ["QUANTITIES", "HalfLayers", "half_layers"]

Array = NDArray[np.float64]

QUANTITIES = {
    "rotation": "degrees",
    "plain angle": "degrees",
    "noise floor": "degrees",
    "decodability": "AUROC",
    "null maximum": "AUROC",
    "gain": "AUROC",
    "written": "residual",
    "effect": "logits",
    "share": "share of all half-layers' absolute effects",
}
"""What is said of every half-layer and emotion, with its unit."""

_FOLDS = 5
_SAME = 1e-9
_DRAWS = 1000
_NO_DIRECTION = "no direction: the six texts of a scenario do not differ by emotion {where}"
_NO_TURN = "a direction is not told from noise in every resample"
_CONSTANT = "one number for the whole set"


@dataclass(frozen=True)
class HalfLayers:
    """Half-layers one by one.

    Attributes:
        table: one row per emotion, half-layer and quantity (:data:`QUANTITIES`), columns
            :data:`circuits.compare.table.HALF_COLUMNS`. ``low`` and ``high`` are a 95% bootstrap interval over ``n`` scenarios.
            A value or interval that does not exist is NaN and ``reason`` says why. ``position`` tells a ``resid_mid`` that
            exists from the virtual one of a parallel block.
        layers: one row per measure (``projection``, ``decodability``), emotion and layer: whole and halves, which did most.
        rates: how often one reading per layer would be wrong, by measure and emotion; see :mod:`circuits.compare.attribution`.
        sequential: False where ``resid_mid`` is virtual.
        notices: what the reader should know.
    """

    table: pd.DataFrame
    layers: pd.DataFrame
    rates: pd.DataFrame
    sequential: bool
    notices: tuple[str, ...]

    def rate(self, measure: str, rate: str, emotion: str = "all") -> dict[str, Any]:
        """One row of ``rates``.

        Raises:
            MeasurementError: there is no such row.
        """
        wanted = {"measure": measure, "rate": rate, "emotion": str(emotion)}
        rows = self.rates[np.logical_and.reduce([self.rates[name] == value for name, value in wanted.items()])]
        if len(rows) != 1:
            known = {name: sorted(set(self.rates[name])) for name in wanted}
            raise MeasurementError(f"no rate {wanted}; expected some of {known}")
        return {str(k): v for k, v in rows.iloc[0].items()}

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; numbers that do not exist are None."""
        tables = {"table": self.table, "layers": self.layers, "rates": self.rates}
        found = {name: jsontext.plain(table.to_dict("records")) for name, table in tables.items()}
        return {**found, "sequential": self.sequential, "notices": list(self.notices)}


def half_layers(
    model: Model, prompts: Prompts, *, effects: Effects | None = None, permutations: int = 200, seed: int = 0
) -> HalfLayers:
    """Rotation, decodability, projection and causal share of every half-layer, with contrast directions (Wang et al. 2025).

    Directions and scores come from different scenarios of ``prompts``, so one set serves for both; give the ``test`` split
    where circuits are reported beside it.

    Args:
        effects: exact effects of all half-layers, measured on (at least) these prompts; by default they are measured here.
        permutations: label permutations of the null of decodability.

    Raises:
        DirectionError: fewer than five scenarios, or none complete.
        MeasurementError: the effects are not exact or do not cover the prompts.
        ComponentError: the effects lack a half-layer.
        SettingsError: fewer than 20 permutations.
    """
    if permutations < 20:
        raise SettingsError(f"permutations is {permutations}; expected 20 at least for the 95th percentile of a null")
    if prompts.n_scenarios < MIN_SCENARIOS:
        raise DirectionError(f"{prompts.name!r} has {prompts.n_scenarios} scenarios; expected {MIN_SCENARIOS} at least")
    whole = measure(model, prompts, model.sublayers) if effects is None else effects.on(prompts).of(model.sublayers)
    estimated = [c for c, m in zip(whole.components, whole.methods, strict=True) if m is not Method.EXACT]
    if estimated:
        raise MeasurementError(
            f"the effect of {estimated[0]} is an estimate; expected exact effects of half-layers, gradients miss early ones"
        )
    study = _Study.of(model, prompts, permutations, seed)
    records = [*study.rotations(), *study.decoding(), *study.written(), *_causal(whole, seed)]
    projection, decodability = study.projection_changes(), study.decodability_changes()
    return HalfLayers(
        table=_tidy(records, model),
        layers=pd.DataFrame([*layer_rows(projection), *layer_rows(decodability)], columns=list(LAYER_COLUMNS)),
        rates=pd.DataFrame([*rate_rows(projection), *rate_rows(decodability)], columns=list(RATE_COLUMNS)),
        sequential=model.capabilities.sequential,
        notices=_notices(model, prompts, study),
    )


Record = tuple[int, int, str, float, float, float, int, str]
"""emotion column, half-layer number, quantity, value, low, high, n, reason"""


@dataclass(frozen=True)
class _Study:
    """What all quantities are made of; state 0 is the embedding, half-layer h lies between states h and h + 1."""

    defined: NDArray[np.bool_]  # [emotion, state]
    turns: Rotation
    auroc: Array  # [emotion, state]
    draws: Array  # [draw, emotion, state], of the AUROC
    null: Array  # [emotion], 95th percentile of the largest AUROC
    wrote: Written
    rounding: Array  # [state], length that is none
    n: int  # scenarios that are decoded
    complete: int  # scenarios with all six emotions
    seed: int

    @classmethod
    def of(cls, model: Model, prompts: Prompts, permutations: int, seed: int) -> _Study:
        readings = capture(model, prompts, embed=True)
        apart, scenarios = deviations(readings)
        floor = rounding(readings)
        defined = np.linalg.norm(apart.mean(0), axis=-1) > floor
        folds = Folds.of(prompts, _FOLDS)

        def firm(some: Readings) -> Array:
            """Contrast directions; none, so that all texts tie, where they are rounding."""
            vectors = contrast(some)
            return np.where((np.linalg.norm(vectors, axis=-1) > floor)[..., None], vectors, 0)

        scores = folds.scores(readings, firm)
        rng = np.random.default_rng(seed)
        maxima = null_maxima(readings, lambda r: folds.scores(r, firm), permutations, rng)
        return cls(
            defined=defined,
            turns=rotation(apart, scenarios, defined, seed=seed),
            auroc=auroc(scores, prompts.emotions),
            draws=resampled(scores, prompts, rng),
            null=np.quantile(maxima, 0.95, axis=0),
            wrote=written(apart, scenarios, defined, seed=seed),
            rounding=floor,
            n=prompts.n_scenarios,
            complete=len(np.unique(scenarios)),
            seed=seed,
        )

    @property
    def halves(self) -> int:
        return int(self.auroc.shape[1]) - 1

    def rotations(self) -> list[Record]:
        turns, records = self.turns, []
        for e in EMOTIONS:
            for h in range(self.halves):
                at = (e.column, h)
                missing = [where for where, s in (("before", h), ("after", h + 1)) if not self.defined[e.column, s]]
                reason = _NO_DIRECTION.format(where=" and ".join(missing) + " it") if missing else ""
                fixed = reason or _CONSTANT
                turned = reason or (_NO_TURN if np.isnan(turns.low[at]) else "")
                low, high = turns.low[at], turns.high[at]
                records += [
                    (*at, "rotation", turns.turned[at], low, high, turns.n, turned),
                    (
                        *at,
                        "plain angle",
                        turns.plain[at],
                        np.nan,
                        np.nan,
                        turns.n,
                        reason or "biased by noise: no interval",
                    ),
                    (*at, "noise floor", turns.floor[at], np.nan, np.nan, turns.n, fixed),
                ]
        return records

    def decoding(self) -> list[Record]:
        tail, records = tail_of(self.n), []
        gained = np.diff(self.draws, axis=2)
        ends = np.quantile(self.draws, [tail, 1 - tail], axis=0)
        gains = np.quantile(gained, [tail, 1 - tail], axis=0)
        for e in EMOTIONS:
            for h in range(self.halves):
                at, after = (e.column, h), (e.column, h + 1)
                gain = self.auroc[after] - self.auroc[at]
                records += [
                    (*at, "decodability", self.auroc[after], ends[0][after], ends[1][after], self.n, ""),
                    (*at, "null maximum", self.null[e.column], np.nan, np.nan, self.n, _CONSTANT),
                    (*at, "gain", gain, gains[0][at], gains[1][at], self.n, ""),
                ]
        return records

    def written(self) -> list[Record]:
        tail, records, value = tail_of(self.wrote.n), [], self.wrote.value
        low, high = np.quantile(self.wrote.draws, [tail, 1 - tail], axis=0)
        for e in EMOTIONS:
            for h in range(self.halves):
                at = (e.column, h)
                reason = _NO_DIRECTION.format(where="after this layer") if np.isnan(value[at]) else ""
                records.append((*at, "written", value[at], low[at], high[at], self.wrote.n, reason))
        return records

    def projection_changes(self) -> Changes:
        """What the halves of each layer write on the direction after it."""
        value, draws = self.wrote.value, self.wrote.draws
        missing = {
            (int(e), int(h) // 2): _NO_DIRECTION.format(where="after it") for e, h in np.argwhere(np.isnan(value))
        }
        size = np.abs(np.stack([value[:, ::2] + value[:, 1::2], value[:, ::2], value[:, 1::2]]))
        return Changes(
            measure="projection", unit="residual", attn=value[:, ::2], mlp=value[:, 1::2], attn_draws=draws[..., ::2],
            mlp_draws=draws[..., 1::2], n=self.wrote.n, reasons=missing, possible=size > self.rounding[2::2],
        )  # fmt: skip

    def decodability_changes(self) -> Changes:
        """What the halves of each layer add to the AUROC.

        Where neither side exceeds the null's maximum there is nothing to gain or lose: a bootstrap of given scores does not
        know that directions made of noise would come out otherwise on other scenarios.
        """
        value, draws = np.diff(self.auroc, axis=1), np.diff(self.draws, axis=2)
        told = self.auroc > self.null[:, None]
        before, between, after = told[:, :-1:2], told[:, 1::2], told[:, 2::2]
        possible = np.stack([before | after, before | between, between | after])
        return Changes(
            measure="decodability", unit="AUROC", attn=value[:, ::2], mlp=value[:, 1::2], attn_draws=draws[..., ::2],
            mlp_draws=draws[..., 1::2], n=self.n, reasons={},
            possible=possible & (np.abs(np.stack([value[:, ::2] + value[:, 1::2], value[:, ::2], value[:, 1::2]])) > _SAME),
        )  # fmt: skip


def _causal(effects: Effects, seed: int) -> list[Record]:
    """Exact effects, and each as a share of the sum of all half-layers' absolute effects."""
    records: list[Record] = []
    for e in EMOTIONS:
        values = effects.by_scenario(e)  # [scenario, half-layer]
        n = len(values)
        if n < MIN_SCENARIOS:
            raise MeasurementError(f"{e} has {n} scenarios; expected {MIN_SCENARIOS} at least for an interval")
        tail = tail_of(n)
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_DRAWS) / n
        mean, draws = values.mean(0), weights @ values
        total = np.abs(mean).sum()
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        acts = np.abs(mean).max() > effects.resolution
        shares = np.quantile(draws / np.abs(draws).sum(1, keepdims=True), [tail, 1 - tail], axis=0) if acts else None
        for h, value in enumerate(mean):
            records.append((e.column, h, "effect", float(value), low[h], high[h], n, ""))
            share = (value / total, *shares[:, h], n, "") if shares is not None else (
                np.nan, np.nan, np.nan, n, "no half-layer has an effect beyond rounding"
            )  # fmt: skip
            records.append((e.column, h, "share", *share))
    return records


def _tidy(records: list[Record], model: Model) -> pd.DataFrame:
    """Rows by emotion and half-layer, quantities in their order."""
    order = list(QUANTITIES)
    rows = []
    for e, h, quantity, value, low, high, n, reason in sorted(records, key=lambda r: (r[0], r[1], order.index(r[2]))):
        half = list(Half)[h % 2]
        state = State(h // 2, half)
        rows.append(
            {
                "emotion": str(EMOTIONS[e]), "layer": state.layer, "half": str(half),
                "half_layer": sublayer(state.layer, half).name, "state": state.name,
                "position": _position(half, model.capabilities.sequential), "quantity": quantity, "value": float(value),
                "low": float(low), "high": float(high), "unit": QUANTITIES[quantity], "n": n, "reason": reason,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(HALF_COLUMNS))


def _position(half: Half, sequential: bool) -> str:
    if half is Half.MLP:
        return "resid_post"
    return "resid_mid" if sequential else "resid_pre + attn_out (virtual)"


def _notices(model: Model, prompts: Prompts, study: _Study) -> tuple[str, ...]:
    notices = []
    if not model.capabilities.sequential:
        notices.append(
            f"{model.name} has parallel blocks: resid_mid does not exist, resid_pre + attn_out stands for it; rotation and "
            "decodability of its halves are those of attention taken first"
        )
    if study.complete < study.n:
        notices.append(
            f"{prompts.name}: {study.n - study.complete} of {study.n} scenarios lack an emotion; directions leave them out"
        )
    return tuple(notices)
