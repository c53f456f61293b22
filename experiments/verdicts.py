"""One direction, several mechanisms: is the verdict right where the truth is planted?

``composite`` has one direction and two circuits, ``forked`` one writer and two readers, ``two_directions`` two directions,
``chain`` (its scenarios split at random) one circuit, ``null`` nothing. Each is judged with many seeds, another emotion for
each. Writes ``verdicts.json`` and ``verdicts.md``; what is finished is not run again unless its code has changed.

Example: python experiments/verdicts.py --kinds forked,chain --seeds 10
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from bench.contexts import TRUE, judged, made_with
from bench.pool import among, side_by_side, with_time
from rich.console import Console
from scipy.stats import binomtest

from circuits.cli import script
from circuits.compare.mechanisms import Verdict
from circuits.errors import SettingsError
from circuits.runs.files import read_json, write_bytes
from circuits.show.terminal import watching

FORMAT = "emotion-circuits-verdicts/1"
RIGHT, WRONG = 0.95, 0.05


def main(
    seeds: Annotated[int, typer.Option(help="Seeds of every kind, from 0 on.")] = 40,
    kinds: Annotated[str, typer.Option(help="Planted kinds, with commas; all five without it.")] = "",
    scenarios: Annotated[int, typer.Option(help="Scenarios of each context, a third in each split.")] = 144,
    jobs: Annotated[int, typer.Option(help="Processes, one thread each; 0: one a core.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("benchmarks"),
) -> None:
    """Judge planted contexts and count right and wrong verdicts.

    Example, everything: python experiments/verdicts.py

    Example, how much data it takes: python experiments/verdicts.py --scenarios 48 --out runs/verdicts-48
    """
    wanted = among(kinds, tuple(TRUE), "planted kind with contexts")
    if seeds < 1 or jobs < 0 or scenarios < 15:
        raise SettingsError(
            f"seeds {seeds}, jobs {jobs}, scenarios {scenarios}; expected at least 1 seed, 0 or more jobs, 15 scenarios or more"
        )
    path, made = out / "verdicts.json", made_with(scenarios)
    cells = _kept(path, made)
    have = {(c["kind"], c["seed"]) for c in cells}
    todo = [(kind, seed, scenarios) for seed in range(seeds) for kind in wanted if (kind, seed) not in have]
    with watching(Console(stderr=True)) as watch:
        say = with_time(watch, "planted contexts")
        for done, cell in enumerate(side_by_side(judged, todo, jobs or os.cpu_count() or 1), start=1):
            cells.append(cell)
            _write(path, cells)
            say(done, len(todo))
    _write(path, cells)
    text = markdown(cells)
    write_bytes(out / "verdicts.md", text.encode())
    print(text)


def _kept(path: Path, made: str) -> list[dict[str, Any]]:
    """What is still true of the code."""
    if not path.is_file():
        return []
    read = read_json(path)
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise SettingsError(f"{path} is no file of this experiment (expected format {FORMAT}); give another --out")
    return [cell for cell in read["cells"] if cell["made_with"] == made]


def _write(path: Path, cells: list[dict[str, Any]]) -> None:
    cells.sort(key=lambda c: (list(TRUE).index(c["kind"]), c["seed"]))
    lines = ",\n".join(json.dumps(_plain(cell), ensure_ascii=False, allow_nan=False) for cell in cells)
    write_bytes(path, f'{{"format": {json.dumps(FORMAT)},\n"cells": [\n{lines}\n]}}\n'.encode())


def _plain(value: Any) -> Any:
    """Six digits; numbers that do not exist are null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else None
    return value


def share(count: int, n: int) -> str:
    """``39 of 40 (98% [87, 100])`` with a Clopper-Pearson interval."""
    interval = binomtest(count, n).proportion_ci(method="exact")
    return f"{count} of {n} ({count / n:.0%} [{interval.low:.0%}, {interval.high:.0%}])"


def markdown(cells: Sequence[dict[str, Any]]) -> str:
    """The table, the targets, and every verdict that was not right."""
    found = [kind for kind in TRUE if any(c["kind"] == kind for c in cells)]
    counted = {kind: Counter(c["verdict"] for c in cells if c["kind"] == kind) for kind in found}
    names = [*map(str, Verdict), "refused"]
    size = "/".join(sorted({str(c["scenarios"]) for c in cells}))
    seconds = sum(c["seconds"] for c in cells)
    lines = [
        "# Verdicts", "",
        f"Planted models in two contexts of {size} scenarios each; made by `make verdicts` in {seconds / 60:.0f} minutes of "
        "computing. A row is what is planted, a column what was said; right verdicts in bold. *Wrong with evidence* is any "
        "verdict but the right one and *not decidable*.", "",
        f"| planted | {' | '.join(names)} | right | wrong with evidence |", f"|---|{'---|' * (len(names) + 2)}",
    ]  # fmt: skip
    targets = []
    for kind in found:
        n, right = sum(counted[kind].values()), counted[kind][str(TRUE[kind])]
        none = counted[kind]["refused"] + counted[kind][str(Verdict.NOT_DECIDABLE)]
        wrong = n - none - (0 if TRUE[kind] is Verdict.NOT_DECIDABLE else right)
        row = [f"**{counted[kind][v]}**" if v == str(TRUE[kind]) else str(counted[kind][v]) for v in names]
        lines.append(f"| `{kind}` | {' | '.join(row)} | {share(right, n)} | {share(wrong, n)} |")
        met = [right / n >= RIGHT, wrong / n <= WRONG]
        targets.append(
            f"* {'met' if met[0] else 'MISSED'}: `{kind}` right in {right / n:.0%} (target {RIGHT:.0%}); "
            f"{'met' if met[1] else 'MISSED'}: wrong with evidence in {wrong / n:.0%} (target at most {WRONG:.0%})"
        )
    rest = [c for c in cells if c["verdict"] != c["true"]]
    lines += ["", *targets, ""]
    lines += [f"* `{c['kind']}`, seed {c['seed']}, {c['emotion']}: {c['verdict']}: {c['reason']}" for c in rest]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    script(main)
