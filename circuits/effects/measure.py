"""``measure``: effects of components on prompts, by any of three methods, in one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from circuits.effects.batch import Batch, Plan
from circuits.effects.direct import direct_effect
from circuits.effects.exact import Exact
from circuits.effects.gradient import first_order
from circuits.effects.kinds import Ablation, Method, Positions, member
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.effects.table import Effects
from circuits.model.anatomy import Model
from circuits.model.readout import Readout
from circuits.model.sites import Component
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

__all__ = ["Progress", "measure"]

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) as work goes on."""


def measure(
    model: Model,
    prompts: Prompts,
    components: str | Iterable[str | Component],
    *,
    method: Method | str = Method.EXACT,
    ablation: Ablation | str = Ablation.MEAN_SCENARIO,
    positions: Positions | str = Positions.ALL,
    readout: Readout | None = None,
    progress: Progress | None = None,
) -> Effects:
    """Effects of ``components`` on all six logit differences, per prompt.

    ``effect = metric(clean) - metric(ablated)`` in logits; positive supports the emotion.

    Args:
        components: ``"sublayers"``, ``"heads"``, ``"neurons"``, or a list of components or their names.
        method: ``exact`` (one resumed run per component), ``gradient`` (first order, all at once), ``direct`` (closed form,
            downstream frozen).
        ablation: what the activation is replaced by; see :class:`Ablation`.
        positions: where it is replaced; a direct effect only exists at the read-out, whatever is said here.
        readout: answer tokens, when they differ from ``prompts.answers``.
        progress: called after each step.

    Raises:
        ComponentError: a component the model lacks.
        MeasurementError: a text beyond the context, an incomplete scenario, a NaN or infinite effect.
        AnswerError: an emotion has no answer token.
        SettingsError: an unknown method, ablation or positions.
    """
    method, ablation = member(Method, method), member(Ablation, ablation)
    positions = member(Positions, positions)
    wanted = model.components(components)
    plan = Plan.of(model, prompts, ablation, readout=readout)
    values = np.zeros((len(wanted), len(prompts), len(EMOTIONS)), dtype=np.float32)
    clean = np.zeros((len(prompts), len(EMOTIONS)), dtype=np.float32)
    steps = len(plan) * (len(wanted) if method is Method.EXACT else 1)
    done = 0

    def step(count: int = 1) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, steps)

    for batch in plan.batches(grad=method is Method.GRADIENT):
        clean[batch.rows] = _numpy(batch.clean)
        if method is Method.EXACT:

            def take(places: list[int], found: Tensor, rows: np.ndarray = batch.rows) -> None:
                values[np.ix_(np.array(places), rows)] = _numpy(found)
                step(len(places))

            Exact(batch, positions).effects(wanted, take)
        else:
            _all_at_once(batch, wanted, method, positions, values)
            step()
    notices = plan.readout.answers.notices
    if prompts.n_scenarios < MIN_SCENARIOS:
        few = f"{prompts.name} has {prompts.n_scenarios} scenarios; below {MIN_SCENARIOS} no intervals are given"
        notices = (*notices, few)
    return Effects(
        components=wanted,
        prompts=prompts,
        values=values,
        clean=clean,
        methods=(method,) * len(wanted),
        ablation=ablation,
        positions=Positions.READOUT if method is Method.DIRECT else positions,
        answers=plan.readout.answers.ids,
        notices=notices,
    )


def _all_at_once(
    batch: Batch, wanted: tuple[Component, ...], method: Method, positions: Positions, values: np.ndarray
) -> None:
    """Gradient and direct effects come for a whole layer at a time; the wanted ones are picked out."""
    scores = first_order(batch, positions) if method is Method.GRADIENT else {}
    by_layer: dict[tuple[str, int], list[int]] = {}
    for i, component in enumerate(wanted):
        by_layer.setdefault((component.kind, component.layer), []).append(i)
    for members in by_layer.values():
        kind, layer = wanted[members[0]].kind, wanted[members[0]].layer
        found = scores[kind][layer] if method is Method.GRADIENT else direct_effect(batch, kind, layer)
        index = [max(0, wanted[i].index) for i in members]
        values[np.ix_(np.array(members), batch.rows)] = _numpy(found)[index]


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).cpu().numpy()
