"""``measure``: effects of components on prompts, by any of the methods, in one shape.

The work is cut into shards: some components on one batch of prompts. A shard depends on nothing but what its key names, so it
may be made anywhere, in any order, once; with a ``store`` a killed measurement goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.effects.batch import Batch, Plan
from circuits.effects.direct import Direct
from circuits.effects.exact import Exact
from circuits.effects.gradient import Place, Scores, by_position, first_order, integrated_activations, integrated_inputs
from circuits.effects.kinds import Ablation, Arithmetic, Method, Positions, member
from circuits.effects.price import READY, Dims, groups
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects, require_finite, resolution
from circuits.errors import MeasurementError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.machine import precision
from circuits.model.readout import Readout
from circuits.model.sites import Component, Kind
from circuits.model.ways import ways
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS
from circuits.versions import code, versions

__all__ = [
    "STEPS",
    "Progress",
    "Store",
    "engine",
    "measure",
    "measure_positions",
    "measured_with",
    "price",
    "require_sense",
]

Progress = Callable[[int, int], None]
"""Called with (work done, work in all) as work goes on, in floating-point operations: what is left is in proportion to time."""

STEPS = 5
"""Midpoints of the integrated gradients, unless told otherwise."""

_SHARD = {"cpu": 2 * 10**11, "cuda": 2 * 10**13}
"""Operations a shard is worth, at most: seconds of work, which is what a kill can cost."""


@runtime_checkable
class Store(Protocol):
    """Where shards are kept between runs; ``circuits.runs`` has one on disk."""

    def get(self, key: Mapping[str, Any]) -> Mapping[str, NDArray[Any]] | None:
        """What was put under ``key``, or None."""

    def put(self, key: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        """Keep ``tensors`` under ``key``, whole or not at all."""


def measure(
    model: Model,
    prompts: Prompts,
    components: str | Iterable[str | Component],
    *,
    method: Method | str = Method.EXACT,
    ablation: Ablation | str = Ablation.MEAN_SCENARIO,
    positions: Positions | str = Positions.ALL,
    steps: int = STEPS,
    arithmetic: Arithmetic | str = Arithmetic.FLOAT32,
    readout: Readout | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
) -> Effects:
    """Effects of ``components`` on all six logit differences, per prompt.

    ``effect = metric(clean) - metric(ablated)`` in logits; positive supports the emotion.

    Args:
        components: ``"sublayers"``, ``"heads"``, ``"neurons"``, or a list of components or their names.
        method: ``exact`` (one resumed run per component), ``gradient`` (first order, all at once), ``ig_inputs`` and
            ``ig_activations`` (integrated gradients), ``direct`` (closed form, downstream frozen).
        ablation: what the activation is replaced by; see :class:`Ablation`.
        positions: where it is replaced; a direct effect only exists at the read-out, whatever is said here.
        steps: midpoints of the integrated gradients.
        arithmetic: ``bfloat16`` for exact effects of heads and half-layers, its error measured and reported in a notice.
        readout: answer tokens, when they differ from ``prompts.answers``.
        progress: called as work goes on.
        store: where finished shards are kept and looked for.

    Raises:
        ComponentError: a component the model lacks.
        MeasurementError: a text beyond the context, an incomplete scenario, a NaN or infinite effect, too little memory, a
            metric that is the same on every text.
        AnswerError: an emotion has no answer token.
        SettingsError: an unknown method, ablation or positions, or no step.
        UnsupportedModelError: neurons of a mixture of experts.
    """
    method, ablation = member(Method, method), member(Ablation, ablation)
    positions = member(Positions, positions)
    if method is Method.DIRECT:
        positions = Positions.READOUT
    wanted = model.components(components)
    narrow = member(Arithmetic, arithmetic) is Arithmetic.BFLOAT16
    require_sense(model, wanted, method, steps=steps, narrow=narrow)
    plan = Plan.of(model, prompts, ablation, readout=readout)
    task = _Task(plan, wanted, method, positions, steps, narrow=narrow)
    values = np.zeros((len(wanted), len(prompts), len(EMOTIONS)), dtype=np.float32)
    clean = np.zeros((len(prompts), len(EMOTIONS)), dtype=np.float32)
    notices: list[str] = []
    done, total, varies = 0, task.price, False

    def step(work: int) -> None:
        nonlocal done
        done += work
        if progress is not None:
            progress(min(done, total), total)

    for rows in plan.rows:
        batch = cache(partial(plan.batch, rows))  # made only where a shard is missing
        for shard in task.shards(rows):
            key = task.key(shard)
            found = store.get(key) if store is not None else None
            if found is None:
                found = task.made(shard, batch(), step)
                if store is not None:
                    store.put(key, found)
            else:
                task.require(shard, found)
                step(shard.price)
            if "error" in found:
                task.errors.append(found["error"])
            if "notice" in found:
                task.notices.append(found["notice"].tobytes().decode("utf-8", "replace"))
            values[np.ix_(shard.places, rows)] = found["values"]
            clean[rows] = found["clean"]
            if not varies:
                _require_varying(plan, found["clean"])
                varies = True
    notices += task.notices
    if task.errors:
        worst = np.max(task.errors, axis=0)
        notices.append(
            f"bfloat16: on up to {_SAMPLED} components a shard effects differ from float32 by {worst[0]:.1%} of their root "
            f"mean square, by {worst[1]:.1%} of the largest at most"
        )
    answers = plan.readout.answers
    if prompts.n_scenarios < MIN_SCENARIOS:
        few = f"{prompts.name} has {prompts.n_scenarios} scenarios; below {MIN_SCENARIOS} no intervals are given"
        notices.append(few)
    return Effects(
        components=wanted, prompts=prompts, values=values, clean=clean, methods=(method,) * len(wanted),
        ablation=ablation, positions=positions, answers=answers.ids, notices=(*answers.notices, *dict.fromkeys(notices)),
    )  # fmt: skip


def _require_varying(plan: Plan, first: NDArray[np.float32]) -> None:
    """Raise MeasurementError where the metric is one number on all texts: nothing moves it, so nothing can be found.

    Asked when the first shard of the first batch is there; other batches are only looked at if that one says nothing.
    """
    if len(set(plan.prompts.texts)) < 2:
        return
    clean = first
    for rows in [*plan.rows[1:], None]:
        fixed = np.ptp(clean, axis=0) <= resolution(clean)
        if not fixed.any():
            return
        if rows is not None:
            clean = np.concatenate([clean, _numpy(plan.clean(rows))])
    e = EMOTIONS[int(np.flatnonzero(fixed)[0])]
    raise MeasurementError(
        f"the metric of {e} is {clean[0, e.column]:.4g} on each of {len(clean)} prompts of {plan.prompts.name!r}; expected "
        "texts that move it: look at the answer words, and whether the texts differ before the read-out"
    )


_SAMPLED = 6


def require_sense(
    model: Model, wanted: tuple[Component, ...], method: Method, *, steps: int = STEPS, narrow: bool = False
) -> None:
    """Raise SettingsError where there is no step, or where rounding would drown what is asked for."""
    if steps < 1:
        raise SettingsError(f"steps is {steps}; expected at least one midpoint")
    if narrow and method is not Method.EXACT:
        raise SettingsError(
            f"arithmetic is bfloat16 and method {method}; expected exact: the others cost no more in float32"
        )
    half = narrow or model.dtype in (torch.bfloat16, torch.float16)
    if half and any(c.kind is Kind.NEURON for c in wanted):
        raise SettingsError(
            "effects of single neurons drown in the rounding of half precision; measure them in float32 (dtype='float32')"
        )


@dataclass(frozen=True)
class _Shard:
    """Places of some components in the list asked for, the rows of one batch, and what it costs in operations."""

    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    price: int


def measure_positions(
    model: Model,
    prompts: Prompts,
    components: str | Iterable[str | Component],
    *,
    ablation: Ablation | str = Ablation.MEAN_SCENARIO,
    positions: Positions | str = Positions.ALL,
) -> NDArray[np.float32]:
    """First-order effects [logits] token by token, ``[component, prompt, pos, emotion]``; NaN behind the end of a text.

    Their sum over tokens is the effect that ``measure(..., method="gradient")`` gives. Arguments and errors as there.
    """
    wanted = model.components(components)
    plan = Plan.of(model, prompts, member(Ablation, ablation))
    where = member(Positions, positions)
    require_sense(model, wanted, Method.GRADIENT)
    values = np.full((len(wanted), len(prompts), int(plan.lengths.max()), len(EMOTIONS)), np.nan, dtype=np.float32)
    by_place: dict[Place, list[int]] = {}
    for i, component in enumerate(wanted):
        by_place.setdefault((component.kind, component.layer), []).append(i)
    for batch in plan.batches():
        real = batch.tokens.mask.bool().cpu().numpy()[..., None]
        for place, members in by_place.items():
            found = _numpy(by_position(batch, where, place))[[max(0, wanted[i].index) for i in members]]
            values[np.ix_(np.array(members), batch.rows, np.arange(found.shape[2]))] = np.where(real, found, np.nan)
    return values


def price(
    model: Model,
    prompts: Prompts,
    components: str | Iterable[str | Component],
    *,
    method: Method | str = Method.EXACT,
    ablation: Ablation | str = Ablation.MEAN_SCENARIO,
    positions: Positions | str = Positions.ALL,
    steps: int = STEPS,
) -> int:
    """Floating-point operations a measurement will take; arguments and errors as :func:`measure`, nothing is run."""
    plan = Plan.of(model, prompts, member(Ablation, ablation))
    task = _Task(plan, model.components(components), member(Method, method), member(Positions, positions), steps)
    return task.price + READY * Dims.of(model).forward(plan.texts())


class _Task:
    """One measurement, cut into shards."""

    def __init__(
        self,
        plan: Plan,
        wanted: tuple[Component, ...],
        method: Method,
        positions: Positions,
        steps: int,
        *,
        narrow: bool = False,
    ) -> None:
        self.plan = plan
        self.wanted = wanted
        self.method = method
        self.positions = positions
        self.steps = steps
        self.notices: list[str] = []
        self.errors: list[NDArray[np.float32]] = []
        self._arithmetic = Arithmetic.BFLOAT16 if narrow else Arithmetic.FLOAT32
        self._dims = Dims.of(plan.model)
        self._direct: Direct | None = None
        # Upward, so that a shard's components enter at few layers.
        self._order = sorted(range(len(wanted)), key=lambda place: (wanted[place].layer, wanted[place].kind, place))
        integrated = method in (Method.IG_INPUTS, Method.IG_ACTIVATIONS)
        self._about = {
            "what": "effects",
            **measured_with(plan.model),
            "prompts": plan.prompts.fingerprint,
            "answers": {str(e): list(ids) for e, ids in plan.readout.answers.ids.items()},
            "method": str(method),
            "ablation": str(plan.ablation),
            "positions": str(positions),
            "arithmetic": str(self._arithmetic),
            **({"steps": steps} if integrated else {}),
        }

    @property
    def price(self) -> int:
        """Operations in all."""
        return sum(shard.price for rows in self.plan.rows for shard in self.shards(rows))

    def shards(self, rows: NDArray[np.int64]) -> Iterator[_Shard]:
        """The shards of one batch."""
        dims, texts = self._dims, self.plan.texts(rows)
        if self.method is Method.EXACT:
            prices = dims.sweep([self.wanted[place] for place in self._order], texts, self.positions)
            for group in groups(prices, _SHARD[self.plan.model.device.type]):
                places = np.array([self._order[i] for i in group])
                yield _Shard(places, rows, sum(prices[i] for i in group))
            return
        once, n_places = dims.gradient(texts, len(EMOTIONS)), len({(c.kind, c.layer) for c in self.wanted})
        at_once = {
            Method.DIRECT: dims.forward(texts) + dims.direct(len(self.wanted), texts),
            Method.GRADIENT: once,
            Method.IG_INPUTS: self.steps * once,
            # On the way of an activation the run is resumed at its layer: half of it, on average.
            Method.IG_ACTIVATIONS: self.steps * n_places * once // 2,
        }
        yield _Shard(np.arange(len(self.wanted)), rows, at_once[self.method])

    def key(self, shard: _Shard) -> dict[str, Any]:
        """Everything the shard's numbers depend on."""
        ids = self.plan.prompts.ids
        return {
            **self._about,
            "rows": [ids[row] for row in shard.rows],
            "components": [self.wanted[place].name for place in shard.places],
        }

    def made(self, shard: _Shard, batch: Batch, step: Callable[[int], None]) -> dict[str, NDArray[Any]]:
        """The shard's tensors, measured: ``values`` [component, prompt, emotion] and ``clean`` [prompt, emotion], logits."""
        some = [self.wanted[place] for place in shard.places]
        values = np.zeros((len(some), len(shard.rows), len(EMOTIONS)), dtype=np.float32)
        if self.method is Method.EXACT:

            def take(places: list[int], found: Tensor) -> None:
                values[np.array(places)] = _numpy(found)
                step(shard.price * len(places) // len(some))

            Exact(batch, self.positions, self._arithmetic).effects(some, take)
        else:
            self._all_at_once(batch, some, values)
            require_finite(values, some, batch.prompts.ids)  # before anyone keeps them
            step(shard.price)
        made: dict[str, NDArray[Any]] = {"values": values, "clean": _numpy(batch.clean)}
        if self.method is not Method.DIRECT and batch.resume.notice:
            # Kept with the numbers, so that a resumed measurement says what an uninterrupted one does.
            notice = f"measured by replaying the model's own blocks: {batch.resume.notice}"
            made["notice"] = np.frombuffer(notice.encode(), dtype=np.uint8)
        if self._arithmetic is Arithmetic.BFLOAT16:
            made["error"] = self._error(batch, some, values)
        return made

    def _error(self, batch: Batch, some: list[Component], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Root mean square and largest error of a few effects against float32, as shares of the same of the effects."""
        places = np.unique(np.linspace(0, len(some) - 1, _SAMPLED).round().astype(int))
        exact = np.zeros((len(places), *values.shape[1:]), dtype=np.float32)

        def take(where: list[int], found: Tensor) -> None:
            exact[np.array(where)] = _numpy(found)

        Exact(batch, self.positions).effects([some[i] for i in places], take)
        apart, size = values[places] - exact, np.maximum(np.abs(exact).max(), 1e-30)
        rms = np.sqrt((apart**2).mean()) / np.maximum(np.sqrt((exact**2).mean()), 1e-30)
        return np.array([rms, np.abs(apart).max() / size], dtype=np.float32)

    def _all_at_once(self, batch: Batch, some: list[Component], values: NDArray[np.float32]) -> None:
        """Gradient and direct effects come for a whole layer at a time; the wanted ones are picked out."""
        by_place: dict[Place, list[int]] = {}
        for i, component in enumerate(some):
            by_place.setdefault((component.kind, component.layer), []).append(i)
        scores = self._scores(batch, list(by_place))
        for (kind, layer), members in by_place.items():
            values[np.array(members)] = _numpy(scores[kind, layer])[[max(0, some[i].index) for i in members]]

    def _scores(self, batch: Batch, places: list[Place]) -> Scores:
        match self.method:
            case Method.GRADIENT:
                return first_order(batch, self.positions, places)
            case Method.IG_INPUTS:
                return integrated_inputs(batch, self.positions, places, self.steps)
            case Method.IG_ACTIVATIONS:
                return integrated_activations(batch, self.positions, places, self.steps)
            case _:
                if self._direct is None:
                    self._direct = Direct(self.plan.model, self.plan.readout, places)
                return self._direct.effects(batch)

    def require(self, shard: _Shard, found: Mapping[str, NDArray[Any]]) -> None:
        """Raise MeasurementError unless what a store gave back is such a shard."""
        n = (len(shard.rows), len(EMOTIONS))
        for name, shape in (("values", (len(shard.places), *n)), ("clean", n)):
            array = found.get(name)
            if array is None or array.shape != shape or array.dtype != np.float32:
                what = "missing" if array is None else f"{array.dtype} {array.shape}"
                raise MeasurementError(f"a stored shard's {name} are {what}; expected float32 {shape}: delete it")


def measured_with(model: Model) -> dict[str, Any]:
    """What numbers of a model depend on besides the question: weights, arithmetic, libraries, this package's own code."""
    return {
        "model": model.fingerprint,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "way": ways(model).name,
        "products": precision(model.device.type).name,
        "versions": versions(),
        "code": code(),
    }


def engine(model: Model) -> dict[str, Any]:
    """How exact effects of a model are made here, and how far that was seen to be true."""
    way, products = ways(model), precision(model.device.type)
    return {
        "way": way.name, "reason": way.reason, "disagreement": way.error, "products": products.name,
        "products_error": products.error, "device": str(model.device), "dtype": str(model.dtype),
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().to(torch.float32).cpu().numpy()
