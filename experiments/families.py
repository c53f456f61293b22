"""On which families do the laws hold, and are exact effects those of one hooked forward a component?

Tiny random models of every family the tests know: the largest relative error of each law, and over all ablations and
positions the largest difference between ``circuits.measure`` and naive hooks, in units of the largest effect. Writes
``docs/families.md``.

Example: python experiments/families.py --out docs/families.md
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS, EXPERTS, FAMILIES, REFUSED, load_family

import circuits
from circuits.cli import script
from circuits.effects.kinds import Ablation, Positions
from circuits.errors import CircuitsError
from circuits.model.anatomy import Model
from circuits.model.sites import Component, neuron
from circuits.model.ways import ways
from circuits.runs.files import write_bytes
from circuits.show.terminal import watching
from circuits.versions import versions

NEURONS = 4
"""Neurons of each layer that are compared."""


def main(
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("docs/families.md"),
) -> None:
    """Load, check, measure both ways, compare."""
    prompts = circuits.Prompts.of(tiny_rows(3), name="three", answers=ANSWERS)
    known = sorted((*FAMILIES, *EXPERTS))
    lines, laws, refused, replayed = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, watching(Console(stderr=True)) as watch:
        for number, family in enumerate(known):
            watch(family, number, len(known) + len(REFUSED))
            model = load_family(Path(folder) / family, family)
            errors: dict[str, float] = {}
            for law in model.capabilities.laws:
                name = re.sub(r"^layer \d+: ", "", law.name)
                errors[name] = max(errors.get(name, 0.0), law.error)
            laws = laws or list(errors)
            way = ways(model)
            if way.blocks is None:
                replayed.append(f"* `{family}`: {way.reason}")
            kept = [_short(errors.get(law)) for law in laws]
            cells = [f"`{family}`", *kept, way.name, *_differences(model, prompts)]
            lines.append("| " + " | ".join(cells) + " |")
        for number, family in enumerate(REFUSED, start=len(known)):
            watch(family, number, len(known) + len(REFUSED))
            try:
                load_family(Path(folder) / family, family)
            except CircuitsError as error:
                refused.append(f"* `{family}`: {str(error).replace(folder, '').replace(os.sep + family, family)}")
    heads = ["family", *laws, "resumed", "heads", "neurons", "half-layers"]
    made_with = versions()
    text = [
        "# Families", "",
        "Tiny random models of stock architectures, booted from local directories. First columns, the laws: largest relative "
        "error over layers on a short prompt. Last three: largest difference between exact effects and one hooked forward a "
        "component, over four ablations and both sorts of positions, in units of the largest effect measured "
        f"({len(prompts)} texts; all heads and half-layers, {NEURONS} neurons a layer). Made by `make families` with "
        f"transformer_lens {made_with['transformer_lens']}, transformers {made_with['transformers']}, "
        f"torch {made_with['torch']}.", "",
        "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *lines, "",
        "`plain`: upper blocks are run as plain tensors, found to agree with the model's own. `replay`: the model's own blocks "
        "are called again:", "", *replayed, "", "Refused, with the reason:", "", *refused, "",
    ]  # fmt: skip
    write_bytes(out, "\n".join(text).encode())
    print(out)


def _short(error: float | None) -> str:
    return "–" if error is None else f"{error:.0e}" if error else "0"


def _differences(model: Model, prompts: circuits.Prompts) -> list[str]:
    """Heads, neurons, half-layers: the largest difference over everything, or why there is none."""
    naive = Naive(model, prompts)
    kinds: dict[str, tuple[Component, ...]] = {"heads": model.heads}
    if model.capabilities.neurons:
        kinds["neurons"] = tuple(neuron(layer, i) for layer in range(model.n_layers) for i in range(NEURONS))
    kinds["half-layers"] = model.sublayers
    worst = dict.fromkeys(kinds, 0.0)
    for ablation in Ablation:
        for positions in Positions:
            found, wanted = {}, {}
            for name, components in kinds.items():
                found[name] = circuits.measure(
                    model, prompts, components, ablation=ablation, positions=positions
                ).values
                wanted[name] = naive.effects(components, ablation, positions).numpy()
            largest = max(np.abs(values).max() for values in wanted.values())
            for name in kinds:
                worst[name] = max(worst[name], float(np.abs(found[name] - wanted[name]).max() / largest))
    return [f"{worst[name]:.0e}" if name in worst else "refused" for name in ("heads", "neurons", "half-layers")]


if __name__ == "__main__":
    script(main)
