"""Do the methods find circuits that are known? Every method on every planted kind, beside the truth.

Planted models (small) of every kind and seed; each method looks for the six circuits on ``select``. Nodes: precision, recall,
AUROC, exact recovery. Edges: the same. Forwards taken, beside the bound said before. Then CPR and CMD of every method on the
embedded model. Writes ``truth.json`` (raw values of every seed), ``truth.md`` and ``truth.svg``. What is finished is not run
again unless the code it was made with has changed.

Example: python experiments/truth.py --kinds redundant,backup --methods conditional,ig_inputs --seeds 3
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench import embedded_curves, planted, truth_table
from bench.pool import among, side_by_side, with_time
from rich.console import Console

from circuits.circuit.methods import METHODS
from circuits.cli import script
from circuits.errors import SettingsError
from circuits.model.planted import PlantedKind
from circuits.prompts.emotions import EMOTIONS
from circuits.runs.files import read_json, write_bytes
from circuits.show.terminal import watching

FORMAT = "emotion-circuits-truth/1"
KINDS = tuple(kind.value for kind in PlantedKind)

Cell = dict[str, Any]


def main(
    seeds: Annotated[int, typer.Option(help="Seeds of every kind, from 0 on.")] = 10,
    kinds: Annotated[str, typer.Option(help="Planted kinds, with commas; all without it.")] = "",
    methods: Annotated[str, typer.Option(help="Methods, with commas; all without it.")] = "",
    jobs: Annotated[int, typer.Option(help="Processes, one thread each; 0: one a core.")] = 0,
    embedded: Annotated[bool, typer.Option(help="CPR and CMD on the embedded model as well.")] = True,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("benchmarks"),
) -> None:
    """Look for planted circuits with every method, and say how close each comes.

    Example, everything: python experiments/truth.py

    Example, two methods where parts stand in for each other: python experiments/truth.py --kinds redundant,backup
    --methods conditional,ig_inputs --seeds 3 --no-embedded

    Example, tables again from what is finished: the same command once more.
    """
    wanted_kinds = among(kinds, KINDS, "planted kind")
    wanted = among(methods, tuple(METHODS), "method")
    if seeds < 1 or jobs < 0:
        raise SettingsError(f"seeds {seeds}, jobs {jobs}; expected at least 1 seed, and 0 or more jobs")
    jobs = jobs or os.cpu_count() or 1
    kept = _Kept(out / "truth.json")
    have = {(c["method"], c["kind"], c["seed"]) for c in kept.cells}
    todo = [
        (kind, seed, [m for m in wanted if (m, kind, seed) not in have])
        for seed in range(seeds)
        for kind in wanted_kinds
    ]
    todo = [job for job in todo if job[2]]
    with watching(Console(stderr=True)) as watch:
        say = with_time(watch, "planted models")
        for done, cells in enumerate(side_by_side(planted.measured, todo, jobs), start=1):
            kept.add(cells=cells)
            say(done, len(todo))
        if embedded:
            known = {(c["method"], c["emotion"]) for c in kept.curves}
            missing = [(m, e) for m in wanted for e in EMOTIONS if (m, str(e)) not in known]
            say = with_time(watch, "embedded model")
            torch.set_num_threads(jobs)
            for done, cell in enumerate(embedded_curves.measured(missing) if missing else (), start=1):
                kept.add(curves=[cell])
                say(done, len(missing))
    found = kept.results()
    kept.write()
    text = truth_table.markdown(found, sum(float(c["seconds"]) for c in (*kept.cells, *kept.curves)))
    write_bytes(out / "truth.md", text.encode())
    height = 150 + 34 * len(found.methods)
    try:
        write_bytes(out / "truth.svg", truth_table.figure(found).to_image("svg", width=1500, height=height))
    except (RuntimeError, ValueError) as error:
        print(f"no truth.svg: {error}", file=sys.stderr, flush=True)
    print(text)


class _Kept:
    """The file of raw values: what is still true of the code is kept, and written after every step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: list[Cell] = []
        self.curves: list[Cell] = []
        if not path.is_file():
            return
        read = read_json(path)
        if not isinstance(read, dict) or read.get("format") != FORMAT:
            raise SettingsError(
                f"{path} is no file of this experiment (expected format {FORMAT}); move it or give another --out"
            )
        for name, module in (("cells", planted), ("curves", embedded_curves)):
            valid = [
                c for c in read[name] if c["method"] in METHODS and c["made_with"] == module.made_with(c["method"])
            ]
            if old := len(read[name]) - len(valid):
                text = f"{path}: {old} {name} were made with other code or versions and are discarded"
                print(text, file=sys.stderr, flush=True)
            setattr(self, name, valid)

    def add(self, *, cells: Sequence[Cell] = (), curves: Sequence[Cell] = ()) -> None:
        self.cells += [_short(cell) for cell in cells]
        self.curves += [_short(cell) for cell in curves]
        self.write()

    def results(self) -> truth_table.Results:
        """Everything there is, in the order of the methods and kinds."""
        have = {c["method"] for c in (*self.cells, *self.curves)}
        kinds = {c["kind"] for c in self.cells}
        ordered = tuple(m for m in METHODS if m in have), tuple(k for k in KINDS if k in kinds)
        return truth_table.Results(*ordered, tuple(self.cells), tuple(self.curves))

    def write(self) -> None:
        """One cell a line, so that a difference can be read."""
        self.cells.sort(key=lambda c: (list(METHODS).index(c["method"]), KINDS.index(c["kind"]), c["seed"]))
        self.curves.sort(
            key=lambda c: (list(METHODS).index(c["method"]), [str(e) for e in EMOTIONS].index(c["emotion"]))
        )
        parts = {
            "summary": [_short(row) for row in self.results().summary()],
            "cells": self.cells,
            "curves": self.curves,
        }
        lines = [f'{{"format": {json.dumps(FORMAT)}']
        for name, rows in parts.items():
            written = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
            lines.append(f',\n"{name}": [\n{written}\n]')
        write_bytes(self.path, ("".join(lines) + "}\n").encode())


def _short(value: Any) -> Any:
    """Numbers to six digits; those that do not exist are null."""
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_short(one) for one in value]
    if isinstance(value, bool) or not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if abs(value) < float("inf") else None


if __name__ == "__main__":
    script(main)
