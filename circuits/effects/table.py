"""What was measured: effects per component, prompt and emotion, and the table people read.

Values are kept per prompt; everything else is derived. A row of :attr:`Effects.table` is the effect of one component on
one emotion: the mean, over scenarios, of ``metric(clean) - metric(ablated)`` of that emotion *on the texts of that
emotion*. Positive means the component supports the emotion. (On the other five emotions' texts the same component may
push the other way; those numbers are in :attr:`Effects.values`.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.statistics import (
    MIN_SCENARIOS,
    Reliability,
    Summary,
    emotion_permutation,
    split_half,
    summarise,
)
from circuits.errors import ComponentError, MeasurementError
from circuits.model.sites import Component
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.prompts.metrics import UNIT

__all__ = ["COLUMNS", "Effects", "joined", "require_finite", "resolution"]

COLUMNS = (
    "component", "layer", "kind", "index", "emotion", "effect", "low", "high",
    "p", "q", "n", "method", "ablation", "positions", "unit",
)  # fmt: skip

_EPS = float(np.finfo(np.float32).eps)


def resolution(clean: NDArray[np.float32]) -> float:
    """Smallest difference [logits] of metrics of this size that float32 arithmetic can tell from none."""
    return 64 * _EPS * max(1.0, float(np.abs(clean).max()))


def require_finite(values: NDArray[np.float32], components: Sequence[Component], prompts: Sequence[str]) -> None:
    """Raise MeasurementError naming component and prompt of the first effect that is NaN or infinite."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        component, prompt, e = bad[0]
        raise MeasurementError(
            f"the effect of {components[component]} on prompt {prompts[prompt]!r} ({EMOTIONS[e]}) is "
            f"{values[component, prompt, e]}; measure in float32 or drop the prompt"
        )


@dataclass(frozen=True)
class Effects:
    """Effects of components on prompts.

    Attributes:
        components: the axis ``component``.
        prompts: the axis ``prompt``.
        values: ``[component, prompt, emotion]``, in logits.
        clean: the metric without ablation, ``[prompt, emotion]``, in logits.
        methods: how each component was measured.
        answers: answer token ids by emotion.
        notices: what the user should know (words dropped, groups too small).
    """

    components: tuple[Component, ...]
    prompts: Prompts
    values: NDArray[np.float32]
    clean: NDArray[np.float32]
    methods: tuple[Method, ...]
    ablation: Ablation
    positions: Positions
    answers: Mapping[Emotion, tuple[int, ...]]
    notices: tuple[str, ...] = ()
    unit: str = UNIT

    def __post_init__(self) -> None:
        shape = (len(self.components), len(self.prompts), len(EMOTIONS))
        if self.values.shape != shape or len(self.methods) != shape[0] or self.clean.shape != shape[1:]:
            raise MeasurementError(f"effects have shape {self.values.shape}; expected {shape}")
        require_finite(self.values, self.components, self.prompts.ids)

    @property
    def resolution(self) -> float:
        """Smallest effect [logits] that float32 arithmetic can tell from none."""
        return resolution(self.clean)

    def on(self, prompts: Prompts) -> Effects:
        """The same effects on fewer prompts.

        Raises:
            MeasurementError: a prompt was never measured.
        """
        rows = {name: i for i, name in enumerate(self.prompts.ids)}
        missing = [name for name in prompts.ids if name not in rows]
        if missing:
            raise MeasurementError(f"prompt {missing[0]!r} was not measured; expected prompts of {self.prompts.name!r}")
        index = [rows[name] for name in prompts.ids]
        return replace(self, prompts=prompts, values=self.values[:, index], clean=self.clean[index])

    def of(self, components: Iterable[Component]) -> Effects:
        """The same effects of fewer components."""
        place = {c: i for i, c in enumerate(self.components)}
        wanted = tuple(components)
        for component in wanted:
            if component not in place:
                raise ComponentError(f"{component} was not measured; expected one of {len(place)} measured components")
        index = [place[c] for c in wanted]
        return replace(
            self, components=wanted, values=self.values[index], methods=tuple(self.methods[i] for i in index)
        )

    def by_scenario(self, e: Emotion) -> NDArray[np.float64]:
        """Effects on emotion ``e`` over its own texts, ``[scenario, component]``.

        Raises:
            MeasurementError: no prompt of this emotion.
        """
        rows = np.flatnonzero(self.prompts.emotions == e.column)
        if not len(rows):
            raise MeasurementError(f"{self.prompts.name!r} has no prompts of {e}; expected at least one")
        scenarios, place = np.unique(self.prompts.scenarios[rows], return_inverse=True)
        total = np.zeros((len(scenarios), len(self.components)))
        np.add.at(total, place, self.values[:, rows, e.column].T.astype(np.float64))
        return total / np.bincount(place)[:, None]

    def by_row(self, e: Emotion) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
        """Effects on ``e`` on the texts of every emotion, ``[group, emotion, component]``, and the scenario of every group.

        A second text of an emotion in a group counts with the first. None where some group lacks an emotion.
        """
        groups = self.prompts.groups
        shape = (int(groups.max()) + 1, len(EMOTIONS))
        place = groups * len(EMOTIONS) + self.prompts.emotions
        count = np.bincount(place, minlength=shape[0] * shape[1])
        if (count == 0).any():
            return None
        total = np.zeros((len(count), len(self.components)))
        np.add.at(total, place, self.values[:, :, e.column].T.astype(np.float64))
        _, first = np.unique(groups, return_index=True)
        return (total / count[:, None]).reshape(*shape, -1), self.prompts.scenarios[first]

    def reliability(self, e: Emotion) -> Reliability:
        """How well two halves of the scenarios agree on all components' effects on ``e``."""
        return split_half(self.by_scenario(e), seed=e.column)

    def summary(self, e: Emotion, *, permuted: bool = True) -> Summary:
        """Mean, interval, p and q over scenarios of every component's effect on ``e``.

        ``p_sign`` is a sign-flip test over scenarios: does the mean differ from zero? ``p`` asks for a finding: where the
        ablation compares inside scenarios it is the larger of this and a permutation of the emotions inside scenarios, because
        effects of single neurons are skewed, sign flips assume symmetry, and what acts alike on all texts is no emotion's own.
        Without ``permuted`` it is the sign flips' alone.

        The q-values adjust over components of one kind and method: heads among heads, neurons measured exactly (few, picked
        on other texts) among themselves, first-order ones among themselves.
        """
        values = self.by_scenario(e)
        n = len(self.components)
        rows = self.by_row(e) if permuted and self.ablation in (Ablation.MEAN_SCENARIO, Ablation.RESAMPLE) else None
        columns = {name: np.empty(n) for name in ("mean", "low", "high", "p", "q", "p_sign", "q_sign")}
        families = [(c.kind, m) for c, m in zip(self.components, self.methods, strict=True)]
        for family in dict.fromkeys(families):
            index = [i for i, f in enumerate(families) if f == family]
            by_emotion = None
            if rows is not None and len(values) >= MIN_SCENARIOS:
                some, scenarios = rows
                by_emotion = emotion_permutation(
                    some[..., index], e.column, scenarios, seed=e.column, resolution=self.resolution
                )
            part = summarise(values[:, index], seed=e.column, resolution=self.resolution, by_emotion=by_emotion)
            for name, column in columns.items():
                column[index] = getattr(part, name)
        return Summary(**columns, n=values.shape[0])

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per component and emotion, components in order, emotions inside; columns ``COLUMNS``.

        ``n`` counts scenarios. ``low`` and ``high`` are a 95% bootstrap interval, ``p`` a permutation test, ``q``
        Benjamini–Hochberg over the components of the same kind; all four NaN with fewer than five scenarios.
        """
        frames = []
        for e in EMOTIONS:
            s = self.summary(e)
            frames.append(
                pd.DataFrame(
                    {
                        "component": [c.name for c in self.components],
                        "layer": [c.layer for c in self.components],
                        "kind": [str(c.kind) for c in self.components],
                        "index": [c.index for c in self.components],
                        "emotion": str(e),
                        "effect": s.mean,
                        "low": s.low,
                        "high": s.high,
                        "p": s.p,
                        "q": s.q,
                        "n": s.n,
                        "method": [str(m) for m in self.methods],
                        "ablation": str(self.ablation),
                        "positions": str(self.positions),
                        "unit": self.unit,
                    }
                )
            )
        both = pd.concat(frames, keys=range(len(frames)), names=["e", "c"])
        return both.sort_index(level=["c", "e"]).reset_index(drop=True)[list(COLUMNS)]


def joined(parts: Iterable[Effects]) -> Effects:
    """Effects of different components on the same prompts, one after the other.

    Raises:
        MeasurementError: the parts differ in prompts, ablation, positions or unit.
    """
    items = list(parts)
    first = items[0]
    for other in items[1:]:
        same = other.prompts.ids == first.prompts.ids and other.ablation is first.ablation
        if not same or other.positions is not first.positions or other.unit != first.unit:
            raise MeasurementError("effects of different prompts, ablations, positions or units cannot be joined")
    return replace(
        first,
        components=tuple(c for part in items for c in part.components),
        values=np.concatenate([part.values for part in items]),
        methods=tuple(m for part in items for m in part.methods),
        notices=tuple(dict.fromkeys(n for part in items for n in part.notices)),
    )
