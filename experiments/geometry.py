"""How do the six emotion directions lie to each other, from half-layer to half-layer?

Six vectors of equal length centred on their mean have an average pairwise cosine of -0.2 whatever the model does; only
departures from that are about the model. Intervals are over scenarios (the directions are estimated again on resampled
scenarios); the 15 pairs of each state are not adjusted for their number.

Example: python experiments/geometry.py --model embedded --prompts microstories
"""

from __future__ import annotations

from itertools import combinations
from typing import Annotated

import numpy as np
import typer
from ledger.others import closest_pair
from rich.console import Console
from rich.markup import escape

import circuits
from circuits.cli import script
from circuits.directions.estimators import group_means
from circuits.runs.files import write_bytes, write_json
from circuits.runs.ledger import keep_claims
from circuits.show import figures
from circuits.show.report import page
from circuits.show.terminal import watching

PAIRS = tuple(combinations(circuits.EMOTIONS, 2))


def main(
    model: Annotated[str, typer.Option(help="'embedded', a directory or a hub name.")] = "embedded",
    prompts: Annotated[str, typer.Option(help="A prompt file or shipped set.")] = "microstories",
    draws: Annotated[int, typer.Option(help="Bootstrap draws over scenarios.")] = 1000,
) -> None:
    """Cosines between the six contrast directions at both positions of every layer."""
    console = Console(highlight=False)
    loaded, rows = circuits.load(model), circuits.read_prompts(prompts)
    with watching(Console(stderr=True)) as watch:
        run = circuits.discover(loaded, rows, watch=watch)
        watch("reading the stream", 0, 1)
        fit = circuits.capture(loaded, rows.split("fit"))
    means = group_means(fit, fit.values)
    deviations = means - means.mean(1, keepdims=True)  # [group, emotion, state, d_model]
    found = cosines(deviations.mean(0))
    rng = np.random.default_rng(0)
    resampled = np.stack(
        [cosines(deviations[rng.integers(0, len(deviations), len(deviations))].mean(0)) for _ in range(draws)]
    )
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    n = len(deviations)
    console.print(
        f"cosines of the six directions, 95% interval over n = {n} scenarios; centred vectors of equal length average -0.20"
    )
    for place, state in enumerate(loaded.states):
        pairs = sorted(range(len(PAIRS)), key=lambda i: found[i, place])
        ends = [tell(pairs[-1], place, found, low, high), tell(pairs[0], place, found, low, high)]
        differ = int(((low[:, place] > -0.2) | (high[:, place] < -0.2)).sum())
        console.print(
            f"  {state}: closest {ends[0]}; furthest {ends[1]}; {differ} of {len(PAIRS)} pairs differ from -0.2"
        )
    directions = circuits.estimate_directions(loaded, rows.split("fit"))
    names = [s.name for s in loaded.states]
    place = run.directory / "figures"
    figure = figures.cosines(directions.vectors, names, names[:: max(1, len(names) // 4)])
    write_bytes(place / "geometry.html", page(f"Geometry in {loaded.name}", [figure]).encode())
    table = {
        "pairs": [[str(a), str(b)] for a, b in PAIRS],
        "states": names,
        "cosine": found,
        "low": low,
        "high": high,
        "n": n,
    }
    write_json(place / "geometry.json", table)
    middle = loaded.n_layers - 1
    told = closest_pair(deviations, middle, names[middle], model=loaded.name, prompts=rows.name)
    keep_claims(place, "geometry", told)
    console.print(f"\nopen {escape(str(place / 'geometry.html'))}", soft_wrap=True)


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine of every pair at every state, [pair, state]; NaN where a direction has no length."""
    lengths = np.linalg.norm(vectors, axis=-1)
    rows = []
    for a, b in PAIRS:
        product = lengths[a.column] * lengths[b.column]
        inner = (vectors[a.column] * vectors[b.column]).sum(-1)
        rows.append(np.divide(inner, product, out=np.full_like(inner, np.nan), where=product > 0))
    return np.stack(rows)


def tell(pair: int, place: int, found: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """One pair with its interval."""
    a, b = PAIRS[pair]
    return f"{a}-{b} {found[pair, place]:+.2f} [{low[pair, place]:+.2f}, {high[pair, place]:+.2f}]"


if __name__ == "__main__":
    script(main)
