"""One planted model in two contexts, and the verdict on one of its emotions beside the truth."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from typing import Any

import numpy as np
import torch

from bench.reach import fingerprint
from circuits.compare.mechanisms import Verdict, several_mechanisms
from circuits.errors import MeasurementError
from circuits.model.planted import Planted, planted
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

__all__ = ["TRUE", "contexts", "judged", "made_with"]

TRUE = {
    "composite": Verdict.DIFFERENT_CIRCUITS,
    "forked": Verdict.DIFFERENT_READERS,
    "two_directions": Verdict.DIFFERENT_DIRECTIONS,
    "chain": Verdict.SAME_CIRCUIT,
    "null": Verdict.NOT_DECIDABLE,
}


def made_with(scenarios: int) -> str:
    """Fingerprint of the verdicts' code and of the planted models."""
    return fingerprint(["circuits.compare.mechanisms", "circuits.model.planted", __name__], scenarios)


def contexts(kind: str, seed: int, scenarios: int) -> tuple[Planted, Prompts, Prompts]:
    """A model with the contexts of its kind; of one that has none, a random half of the scenarios each."""
    own = kind in ("composite", "forked", "two_directions")
    made = planted(kind, seed=seed, scenarios=scenarios if own else 2 * scenarios)
    prompts = made.prompts
    if own:
        valence = np.array([row.valence for row in prompts.rows])
        a, b = (prompts.where(valence == name) for name in made.by_context)
        return made, a, b
    half = np.random.default_rng(seed).permutation(prompts.n_scenarios) < prompts.n_scenarios // 2
    return made, prompts.where(half[prompts.scenarios]), prompts.where(~half[prompts.scenarios])


def judged(kind: str, seed: int, scenarios: int) -> dict[str, Any]:
    """A cell: the verdict on one emotion (another one for each seed)."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    e = EMOTIONS[seed % len(EMOTIONS)]
    cell: dict[str, Any] = {
        "kind": kind, "seed": seed, "emotion": str(e), "scenarios": scenarios, "made_with": made_with(scenarios),
        "true": str(TRUE[kind]),
    }  # fmt: skip
    made, a, b = contexts(kind, seed, scenarios)
    try:
        found = several_mechanisms(made.model, a, b, e)
    except MeasurementError as error:
        # Contexts that cannot be matched are refused: no verdict, and counted as none.
        return {**cell, "verdict": "refused", "reason": str(error), "seconds": round(time.perf_counter() - start, 2)}
    one = found.as_dict()
    kept = {key: one[key] for key in ("verdict", "reason", "state", "cosine", "interaction", "power")}
    return {**cell, **kept, "pairs": len(found.matching or ()), "seconds": round(time.perf_counter() - start, 2)}
