"""``measure``: effects of components on prompts, by any of the methods, in one shape.

The work is cut into shards: some components on one batch of prompts. A shard depends on nothing but what its key names, so it
may be made anywhere, in any order, once; with a ``store`` a killed measurement goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from circuits.effects.batch import Plan
from circuits.effects.gradient import Place, by_position
from circuits.effects.kinds import Ablation, Arithmetic, Method, Positions, member
from circuits.effects.price import READY, Dims
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects, resolution
from circuits.effects.task import SAMPLED, Task, as_numpy
from circuits.errors import MeasurementError, SettingsError
from circuits.model.anatomy import Model
from circuits.model.machine import precision
from circuits.model.readout import Readout
from circuits.model.sites import Component, Kind
from circuits.model.ways import ways
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

__all__ = ["STEPS", "Progress", "Store", "engine", "measure", "measure_positions", "price", "require_sense"]

Progress = Callable[[int, int], None]
"""Called with (work done, work in all) as work goes on, in floating-point operations: what is left is in proportion to time."""

STEPS = 5
"""Midpoints of the integrated gradients, unless told otherwise."""


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
    task = Task(plan, wanted, method, positions, steps, narrow=narrow)
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
            f"bfloat16: on up to {SAMPLED} components a shard effects differ from float32 by {worst[0]:.1%} of their root "
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
            clean = np.concatenate([clean, as_numpy(plan.clean(rows))])
    e = EMOTIONS[int(np.flatnonzero(fixed)[0])]
    raise MeasurementError(
        f"the metric of {e} is {clean[0, e.column]:.4g} on each of {len(clean)} prompts of {plan.prompts.name!r}; expected "
        "texts that move it: look at the answer words, and whether the texts differ before the read-out"
    )


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
            found = as_numpy(by_position(batch, where, place))[[max(0, wanted[i].index) for i in members]]
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
    task = Task(plan, model.components(components), member(Method, method), member(Positions, positions), steps)
    return task.price + READY * Dims.of(model).forward(plan.texts())


def engine(model: Model) -> dict[str, Any]:
    """How exact effects of a model are made here, and how far that was seen to be true."""
    way, products = ways(model), precision(model.device.type)
    return {
        "way": way.name, "reason": way.reason, "disagreement": way.error, "products": products.name,
        "products_error": products.error, "device": str(model.device), "dtype": str(model.dtype),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
