"""Do p-values and intervals keep what they promise?

Planted models with noise: many scenarios are measured once, exactly; samples of them are then judged as if they were all there
is. False findings: in how many samples does any component of a kind reach q < .05 though nothing acts on the emotion
(``null`` models; a ``chain`` whose labels are permuted inside scenarios)? Coverage: how often does a 95% interval hold the mean
over all scenarios? Writes ``benchmarks/calibration.json``.

Example: python experiments/calibration.py --repetitions 200
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.stats import beta

import circuits
from circuits.cli import script
from circuits.effects.statistics import Interval, bootstrap
from circuits.errors import SettingsError
from circuits.model.planted import planted
from circuits.model.sites import Kind
from circuits.runs.files import write_json
from circuits.show.terminal import watching

FORMAT = "emotion-circuits-calibration/1"
ALLOWED, COVERED = 0.06, (0.93, 0.97)
EMOTIONS = circuits.EMOTIONS


def main(
    repetitions: Annotated[int, typer.Option(help="Samples of each sort.")] = 400,
    scenarios: Annotated[int, typer.Option(help="Scenarios measured, from which samples are drawn.")] = 1500,
    sizes: Annotated[str, typer.Option(help="Scenarios in a sample.")] = "16,36",
    out: Annotated[Path, typer.Option(help="Where the numbers go.")] = Path("benchmarks/calibration.json"),
) -> None:
    """Draw, judge, count."""
    if repetitions < 1 or scenarios < 100:
        raise SettingsError(f"repetitions {repetitions}, scenarios {scenarios}; expected at least 1 and 100")
    console = Console(highlight=False)
    rows: list[dict[str, Any]] = []
    with watching(Console(stderr=True)) as watch:
        populations = {
            name: _population(kind, seed, scenarios, watch)
            for name, kind, seed in (("null", "null", 0), ("null, another", "null", 1), ("chain", "chain", 0))
        }
        for size in (int(s) for s in sizes.split(",")):
            for name in ("null", "null, another", "chain, permuted"):
                effects = populations[name.removesuffix(", permuted")]
                rows += _false(name, effects, size, repetitions, watch)
            rows += _coverage("chain", populations["chain"], size, repetitions, watch)
    write_json(out, {"format": FORMAT, "repetitions": repetitions, "scenarios": scenarios, "rows": rows})
    table = Table(
        title=f"share of {repetitions} samples [95%, Clopper-Pearson]", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    for head in ("what", "model", "n", "share", "promised", ""):
        table.add_column(head, no_wrap=True)
    for row in rows:
        share = f"{row['share']:.3f} [{row['low']:.2f}, {row['high']:.2f}]"
        kept = "" if row["kept"] is None else "kept" if row["kept"] else "[red]not kept[/]"
        what = f"{row['what']}, {row['components']}"
        table.add_row(what, row["model"], str(row["n"]), share, row["promised"], kept)
    console.print(table)
    console.print(str(out))


def _population(kind: str, seed: int, scenarios: int, watch: Any) -> circuits.Effects:
    model = planted(kind, seed=seed, scenarios=scenarios)
    components = (*model.model.heads, *model.model.neurons)
    return circuits.measure(
        model.model, model.prompts, components, progress=lambda done, total: watch(f"measuring {kind}", done, total)
    )


def _samples(
    effects: circuits.Effects, size: int, repetitions: int, seed: int
) -> Iterator[tuple[circuits.Emotion, circuits.Effects]]:
    """Scenarios drawn without replacement; the emotions take turns."""
    rng = np.random.default_rng([seed, size])
    places = effects.prompts.scenarios
    for repetition in range(repetitions):
        chosen = rng.choice(int(places.max()) + 1, size, replace=False)
        yield EMOTIONS[repetition % len(EMOTIONS)], effects.on(effects.prompts.where(np.isin(places, chosen)))


def _permuted(effects: circuits.Effects, rng: np.random.Generator) -> circuits.Effects:
    """The same numbers with the emotions of each scenario's texts shuffled."""
    rows = list(effects.prompts.rows)
    for scenario in np.unique(effects.prompts.scenarios):
        index = np.flatnonzero(effects.prompts.scenarios == scenario)
        labels = [rows[i].emotion for i in rng.permutation(index)]
        for i, label in zip(index, labels, strict=True):
            rows[i] = replace(rows[i], emotion=label)
    return replace(effects, prompts=replace(effects.prompts, rows=tuple(rows)))


def _false(name: str, effects: circuits.Effects, size: int, repetitions: int, watch: Any) -> list[dict[str, Any]]:
    """Samples in which anything is found at q < .05."""
    rng = np.random.default_rng(0)
    found: dict[tuple[str, str], list[bool]] = {}
    for number, (e, sample) in enumerate(_samples(effects, size, repetitions, seed=1)):
        watch(f"false findings, {name}, {size} scenarios", number, repetitions)
        summary = (_permuted(sample, rng) if "permuted" in name else sample).summary(e)
        for kind, label in ((Kind.HEAD, "heads"), (Kind.NEURON, "neurons")):
            of_kind = np.array([c.kind is kind for c in effects.components])
            found.setdefault(("q", label), []).append(bool((summary.q[of_kind] < 0.05).any()))
            found.setdefault(("q_sign", label), []).append(bool((summary.q_sign[of_kind] < 0.05).any()))
    return [
        _row(f"finding ({test})", name, label, size, sum(hits), len(hits),
             f"≤ {ALLOWED}" if test == "q" else "–",
             (lambda share: share <= ALLOWED) if test == "q" else None)
        for (test, label), hits in found.items()
    ]  # fmt: skip


def _coverage(name: str, effects: circuits.Effects, size: int, repetitions: int, watch: Any) -> list[dict[str, Any]]:
    """Intervals that hold the mean over all scenarios, over components that act at all."""
    truth = {e: effects.by_scenario(e).mean(0) for e in EMOTIONS}
    acting = {e: np.abs(effects.by_scenario(e)).max(0) > 1e-3 for e in EMOTIONS}
    kinds = {"percentile": Interval.PERCENTILE, "BCa": Interval.BCA}
    held: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number, (e, sample) in enumerate(_samples(effects, size, repetitions, seed=2)):
        watch(f"coverage, {name}, {size} scenarios", number, repetitions)
        values = sample.by_scenario(e)[:, acting[e]]
        for label, kind in kinds.items():
            low, high = bootstrap(values, seed=number, kind=kind)
            held[label] += ((low <= truth[e][acting[e]]) & (truth[e][acting[e]] <= high)).tolist()
    low, high = COVERED
    return [
        _row(f"{kind} interval", name, "acting", size, int(sum(hits)), len(hits),
             f"{low}–{high}", lambda share: low <= share <= high)
        for kind, hits in held.items()
    ]  # fmt: skip


def _row(
    what: str, model: str, components: str, n: int, hits: int, of: int, promised: str, keeps: Any
) -> dict[str, Any]:
    low = float(beta.ppf(0.025, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0
    share = hits / of
    return {
        "what": what, "model": model, "components": components, "n": n, "hits": hits, "of": of, "share": share, "low": low,
        "high": high, "promised": promised, "kept": None if keeps is None else bool(keeps(share)),
    }  # fmt: skip


if __name__ == "__main__":
    script(main)
