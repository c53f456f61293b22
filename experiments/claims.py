"""Claims about emotion in language models, put to the test: supported, contradicted or undecided, each with its number.

Runs ``discover`` (resumable) and ``overlap`` where they are missing, tests every claim on held-out scenarios and collects the
records of all experiments into ``claims.json`` and a page. A claim that the data cannot decide is reported as undecided, with
what would decide it.

Example: python experiments/claims.py --model embedded --prompts microstories
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import overlap
import typer
from ledger.causal import explained, few_neurons, one_mechanism, shared, tried
from ledger.linear import decodable, geometry, turning
from ledger.study import Study
from rich.console import Console
from rich.markup import escape

import circuits
from circuits.cli import script
from circuits.compare.halves import half_layers
from circuits.runs.files import read_json, write_bytes, write_json
from circuits.runs.ledger import keep_claims, read_claims
from circuits.show.ledger import ledger_page, ledger_table
from circuits.show.terminal import watching


def main(
    model: Annotated[str, typer.Option(help="'embedded', a directory or a hub name.")] = "embedded",
    prompts: Annotated[str, typer.Option(help="The set to test on.")] = "microstories",
    skip_overlap: Annotated[bool, typer.Option("--skip-overlap", help="Leave out what make overlap decides.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run directory; made if it is not there.")] = None,
) -> None:
    """Test every claim and write the ledger.

    Example: python experiments/claims.py --model gpt2 --prompts situations
    """
    console = Console(highlight=False)
    loaded, rows = circuits.load(model), circuits.read_prompts(prompts)
    with watching(Console(stderr=True)) as watch:
        run = circuits.discover(loaded, rows, directory=out, watch=watch)
    place = run.directory / "figures"
    if not skip_overlap and not (place / "overlap.json").is_file():
        overlap.main(model=model, prompts=prompts, out=run.directory)
    with watching(Console(stderr=True)) as watch:
        study = Study(loaded, rows, run, watch)
        pairs = {
            "explicit": (rows.name, {"microstories": "microstories_explicit"}.get(rows.name, "explicit")),
            "person": ("first_person", "third_person"),
        }
        steps = [
            ("decodability", lambda: decodable(study)),
            ("geometry", lambda: geometry(study)),
            ("turning", lambda: turning(study, half_layers(loaded, rows.split("test")))),
            ("few-neurons", lambda: few_neurons(study)),
            ("explained", lambda: explained(study)),
            ("explicit", lambda: one_mechanism(
                study, "explicit-implicit", "one direction serves said and inferred emotion, with one circuit",
                "Sofroniew et al. 2026", rows, study.readable(pairs["explicit"][1]), pairs["explicit"])),
            ("person", lambda: one_mechanism(
                study, "person", "first-person and third-person feeling share a direction and a circuit",
                "Sofroniew et al. 2026", *(study.readable(name) for name in pairs["person"]), pairs["person"])),
        ]  # fmt: skip
        records = []
        for done, (what, step) in enumerate(steps):
            watch("testing claims", done, len(steps))
            records += tried(what, step, study)
        watch("testing claims", len(steps), len(steps))
    keep_claims(place, "claims", records)
    if (place / "overlap.json").is_file():
        keep_claims(place, "overlap", shared(study, read_json(place / "overlap.json")))
    found = read_claims(place)
    write_json(place / "claims.json", [one.as_dict() for one in found])
    write_bytes(place / "claims.html", ledger_page(found, f"Claims, tested on {loaded.name}").encode())
    write_bytes(place / "claims.md", ledger_table(found).encode())
    for one in found:
        number = "" if one.estimate is None else f" {one.estimate:.3g}"
        if one.low is not None:
            number += f" [{one.low:.3g}, {one.high:.3g}] {one.unit}, n = {one.n}"
        console.print(f"[bold]{one.verdict}[/]: {escape(one.claim)}:{escape(number)}", soft_wrap=True)
    console.print(f"\nopen {escape(str(place / 'claims.html'))}", soft_wrap=True)


if __name__ == "__main__":
    script(main)
