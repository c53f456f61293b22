"""Records that ``make onset``, ``geometry``, ``repair`` and ``transfer`` end in, for ``make claims`` to collect."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from circuits.circuit.estimates import Estimate, estimate
from circuits.compare.claims import Claim, claim, undecided
from circuits.directions.decoding import Decodability
from circuits.directions.transfer import Transfer
from circuits.effects.statistics import MIN_SCENARIOS
from circuits.prompts.emotions import EMOTIONS
from ledger.linear import WANG, weakest

__all__ = ["carried", "closest_pair", "onset", "repaired"]

OWN = "a question of this toolkit"
MCGRATH = "McGrath et al. 2023 (arXiv 2307.15771)"


def onset(found: Mapping[str, Decodability], words: Mapping[str, str], *, model: str) -> list[Claim]:
    """Can every emotion be read off the last state? One record for each way of decoding, by key; ``words`` say which way."""
    records = []
    for key, result in found.items():
        one, null = weakest(result, len(result.states) - 1)
        records.append(claim(
            f"onset-{key}", f"every emotion can be read off the last state, {words[key]}", WANG, model=model,
            prompts=words[key], found=one, bar=null, unit="AUROC", experiment="onset", figure="onset.html",
            statistic=f"held-out AUROC at {result.states[-1]} of the emotion that is decoded worst, one against the rest",
            null=f"95th percentile of the largest AUROC over states when emotions are permuted in scenarios: {null:.2f}",
        ))  # fmt: skip
    return records


def closest_pair(
    deviations: np.ndarray, place: int, state: str, *, model: str, prompts: str, seed: int = 0
) -> list[Claim]:
    """Does the closest pair of directions lie closer than six equidistant ones? Picked on one half of the scenarios, measured
    on the other, as the largest of fifteen is too large by chance.

    Args:
        deviations: every scenario's six vectors minus their mean, ``[scenario, emotion, state, d_model]``.
        place: the state.
    """
    common: dict[str, Any] = {"model": model, "prompts": f"{prompts}, fit", "experiment": "geometry"}
    text, statistic = (
        "some emotions' directions lie closer together than those of others by mid-depth",
        f"cosine of the closest pair at {state}, picked on the other half of the scenarios",
    )
    n = len(deviations)
    if n < 2 * MIN_SCENARIOS:
        reason = f"{n} scenarios in two halves; {2 * MIN_SCENARIOS} would give an interval"
        return [undecided("geometry-closest", text, WANG, statistic=statistic, reason=reason, **common)]
    order = np.random.default_rng(seed).permutation(n)
    pick, test = (deviations[part, :, place] for part in (order[: n // 2], order[n // 2 :]))
    pairs = list(combinations(range(len(EMOTIONS)), 2))
    mean = pick.mean(0)
    a, b = pairs[int(np.argmax([_cosine(mean[a], mean[b]) for a, b in pairs]))]
    both = np.moveaxis(test[:, [a, b]], 0, -1).reshape(-1, len(test))

    def cosine(means: np.ndarray) -> np.ndarray:
        first, second = np.split(means, 2, axis=1)
        return _cosine(first, second)

    return [claim(
        "geometry-closest", text, WANG, found=estimate(both, cosine), bar=-0.2, unit="cosine", figure="geometry.html",
        statistic=f"{statistic} ({EMOTIONS[a]}–{EMOTIONS[b]})",
        null="six centred directions of equal length have a mean cosine of -0.2 whatever they are", **common,
    )]  # fmt: skip


def _cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    result: np.ndarray = (first * second).sum(-1) / (np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1))
    return result


def carried(results: Mapping[str, Transfer], *, model: str, prompts: str) -> list[Claim]:
    """Do directions found on written scenarios order real labelled text? One record for each estimator and emotion."""
    records = []
    for name, found in results.items():
        for e in EMOTIONS:
            text = f"the direction of {e} found on written scenarios orders real labelled texts ({name})"
            common: dict[str, Any] = {
                "model": model, "prompts": prompts, "experiment": "transfer",
                "statistic": "AUROC over texts, one emotion against the rest, at a state chosen on other texts",
            }  # fmt: skip
            state, value, low, high, null = found.at_chosen(e)
            if np.isnan(value):
                reason = "there is no such direction in this model; one that tells the emotion apart would have it"
                records.append(undecided(f"transfer-{name}-{e}", text, OWN, reason=reason, **common))
                continue
            n = int(found.n[e.column] + found.rest[e.column])
            records.append(claim(
                f"transfer-{name}-{e}", text, OWN, found=Estimate(value, low, high, n), bar=null, unit=f"AUROC at {state}",
                null=f"what length, spelling and punctuation alone give: {null:.2f}", figure="transfer.html", **common,
            ))  # fmt: skip
    return records


def repaired(groups: Mapping[str, Mapping[str, Any]], *, model: str, prompts: str) -> list[Claim]:
    """Is the loss of a top component made up for? One record for each group of ``make repair``, or one that says why none."""
    common: dict[str, Any] = {"model": model, "prompts": f"{prompts}, test", "experiment": "repair"}
    text = "the rest of the model makes up for part of the loss of a top component"
    statistic = "direct effect (final norm's scale frozen) minus total effect"
    if not groups:
        reason = "no component has an effect on any emotion; a model that tells them apart would have one"
        return [undecided("repair", text, MCGRATH, statistic=statistic, reason=reason, **common)]
    records = []
    for name, group in groups.items():
        repair: Estimate = group["repair"]
        what = f"{name}, {group['components']} over six emotions"
        records.append(claim(
            f"repair-{'-'.join(name.split()[i] for i in (0, 4))}", f"{text} ({name})", MCGRATH, found=repair, bar=0.0,
            unit="logits", statistic=f"mean of {statistic} ({what})", null="0 where nothing reacts", figure="repair.html",
            **common,
        ))  # fmt: skip
    return records
