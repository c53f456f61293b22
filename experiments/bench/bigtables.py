"""Tables of a drawn run: the columns, quantities and rows of the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.circuit.graph import Circuit
from circuits.compare.table import COLUMNS as COMPARISON_COLUMNS
from circuits.compare.table import DOSE_COLUMNS, EFFECT_COLUMNS, HALF_COLUMNS, RATE_COLUMNS
from circuits.effects.table import COLUMNS
from circuits.model.sites import Component, Half, states, sublayer
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["effects", "tables"]

_PARTS = ("heads", "neurons", "rest", "circuit", "random circuits")
_QUANTITIES = (
    ("rotation", "degrees", 20.0), ("plain angle", "degrees", 25.0), ("noise floor", "degrees", 10.0),
    ("decodability", "AUROC", 0.9), ("null maximum", "AUROC", 0.58), ("gain", "AUROC", 0.05), ("written", "residual", 3.0),
    ("effect", "logits", 1.5), ("share", "share of all half-layers' absolute effects", 0.05),
)  # fmt: skip
_ALONE = {"plain angle": "biased by noise: no interval", "noise floor": "one number for the whole set",
          "null maximum": "one number for the whole set"}  # fmt: skip
_SIDES = ("circuit", "direction", "both", "mediated", "random direction", "random circuits", "correlation")
_RATES = ("moved", "attention most", "undecided", "opposed", "hidden")


def effects(
    components: Sequence[Component], means: NDArray[Any], method: str, n: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Like :attr:`circuits.effects.table.Effects.table`; ``means`` is ``[component, emotion]`` [logits]."""
    times, value = len(EMOTIONS), means.ravel()
    half = 0.3 * np.abs(value) + 1e-4
    p = rng.uniform(0.0002, 1, value.shape)
    return pd.DataFrame({
        "component": np.repeat([c.name for c in components], times), "layer": np.repeat([c.layer for c in components], times),
        "kind": np.repeat([str(c.kind) for c in components], times), "index": np.repeat([c.index for c in components], times),
        "emotion": np.tile([str(e) for e in EMOTIONS], len(components)), "effect": value, "low": value - half,
        "high": value + half, "p": p, "q": np.minimum(1, 1.5 * p), "n": n, "method": method, "ablation": "mean_scenario",
        "positions": "readout" if method == "direct" else "all", "unit": "logits",
    })[list(COLUMNS)]  # fmt: skip


def tables(
    layers: int, circuits: Mapping[Emotion, Circuit], n: int, rng: np.random.Generator
) -> dict[str, pd.DataFrame]:
    """``comparison``, ``same_effect``, ``doses``, ``half_layers`` and ``half_layer_rates``."""
    return {
        "comparison": _comparison(layers, circuits, n, rng),
        "same_effect": _same_effect(layers, n, rng),
        "doses": _doses(n, rng),
        "half_layers": _half_layers(layers, n, rng),
        "half_layer_rates": _rates(layers, n, rng),
    }


def _comparison(layers: int, circuits: Mapping[Emotion, Circuit], n: int, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for e, circuit in circuits.items():
        for depth, state in enumerate(states(layers)):
            there = [c.name for c in circuit.components if 2 * c.layer + (c.half is Half.MLP) <= depth]
            items = [(item, "part") for item in _PARTS] + [(name, "node") for name in there]
            shares = rng.normal(0, 0.3, len(items))
            shares[2] = 1 - shares[0] - shares[1]  # heads, neurons and the rest are all there is
            for (item, role), share in zip(items, shares, strict=True):
                cosine = float(rng.uniform(-1, 1)) if role == "node" else np.nan
                rows.append((str(e), state.name, state.layer, str(state.half), item, role, 10 * share, share, share - 0.05,
                             share + 0.05, cosine, n, "residual", ""))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def _same_effect(layers: int, n: int, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for e in EMOTIONS:
        for state in (states(layers)[layers], states(layers)[-1]):
            for onward in (False, True):
                for what in _SIDES:
                    share = 1.0 if what == "circuit" else float(rng.uniform(0, 1))
                    own, ends = (10 * share, 10 * share - 0.5, 10 * share + 0.5), (share - 0.05, share + 0.05)
                    if what == "correlation":
                        own, ends = (share, share - 0.2, share + 0.2), (np.nan, np.nan)
                    elif what.startswith("random"):
                        ends = (np.nan, np.nan)
                    part, unit = (np.nan, "1") if what == "correlation" else (share, "logits")
                    rows.append((str(e), "levelled", state.name, onward, what, *own, part, *ends, n, unit))
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


def _doses(n: int, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for e in map(str, EMOTIONS):
        for dose in (0.05, 0.1, 0.2, 0.4):
            for what, texts in (
                ("direction", "own"), ("direction", "others"), ("circuit", "own"), ("random direction", "own"),
                ("random direction", "others"), ("direction", "neutral"), ("circuit", "neutral"),
            ):  # fmt: skip
                factor = 40 * dose if what == "circuit" else np.nan
                read = {"neutral": ("perplexity",)}.get(
                    texts, (e,) if what.startswith("random") else (*EMOTIONS, "selectivity")
                )
                for one in map(str, read):
                    size = {"perplexity": 1 + dose, e: 8 * dose}.get(one, 2 * dose) * float(rng.uniform(0.9, 1.1))
                    unit = "1" if one == "perplexity" else "logits"
                    rows.append((e, what, dose, factor, texts, one, size, 0.9 * size, 1.1 * size, n, unit))
    return pd.DataFrame(rows, columns=list(DOSE_COLUMNS))


def _half_layers(layers: int, n: int, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for e in EMOTIONS:
        for layer in range(layers):
            for half, state in zip(Half, states(layers)[2 * layer : 2 * layer + 2], strict=True):
                position = "resid_mid" if half is Half.ATTN else "resid_post"
                for quantity, unit, size in _QUANTITIES:
                    value = size * float(rng.uniform(0.8, 1.1))
                    low, high = (np.nan, np.nan) if quantity in _ALONE else (0.9 * value, 1.1 * value)
                    place = (str(e), layer, str(half), sublayer(layer, half).name, state.name, position)
                    rows.append((*place, quantity, value, low, high, unit, n, _ALONE.get(quantity, "")))
    return pd.DataFrame(rows, columns=list(HALF_COLUMNS))


def _rates(layers: int, n: int, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for measure in ("projection", "decodability"):
        for rate in _RATES:
            for e in ("all", *map(str, EMOTIONS)):
                cells = 6 * layers if e == "all" else layers
                value = int(rng.integers(0, cells + 1)) / cells
                counted = rate in ("moved", "undecided", "hidden")
                low, high = (np.nan, np.nan) if counted else (max(0.0, value - 0.1), min(1.0, value + 0.1))
                reason = "a count of verdicts has no interval" if counted else ""
                rows.append((measure, e, rate, value, low, high, cells, "share of cells", n, reason))
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS))
