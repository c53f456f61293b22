"""From which half-layer on can each emotion be read off the residual stream?

Within a prompt set (directions and scores from different scenarios) and across sets (directions from one, scores on the other),
against a null that permutes labels inside scenarios and keeps the maximum over states. Onset is the first state from which on
*every* later state exceeds that null.

Example: python experiments/onset.py --model embedded --prompts microstories --across situations
"""

from __future__ import annotations

from html import escape as html_escape
from typing import Annotated

import typer
from ledger.others import onset
from rich.console import Console
from rich.markup import escape

import circuits
from circuits.cli import script
from circuits.directions.decoding import Decodability, across, within
from circuits.runs.files import write_bytes, write_json
from circuits.runs.ledger import keep_claims
from circuits.show import figures
from circuits.show.report import page
from circuits.show.terminal import watching


def main(
    model: Annotated[str, typer.Option(help="'embedded', a directory or a hub name.")] = "embedded",
    prompts: Annotated[str, typer.Option(help="The set to decode in.")] = "microstories",
    other: Annotated[str, typer.Option("--across", help="The set to transfer to.")] = "situations",
    permutations: Annotated[int, typer.Option(help="Label permutations of the null.")] = 200,
) -> None:
    """Decode each emotion at both positions of every layer."""
    console = Console(highlight=False)
    loaded = circuits.load(model)
    here, there = circuits.read_prompts(prompts), circuits.read_prompts(other)
    with watching(Console(stderr=True)) as watch:
        run = circuits.discover(loaded, here, watch=watch)
        watch("reading the stream", 0, 2)
        near, far = circuits.capture(loaded, here), circuits.capture(loaded, there)
        watch(f"decoding within {here.name}", 0, 3)
        inside = within(near, loaded.states, permutations=permutations)
        watch(f"decoding within {there.name}", 1, 3)
        inside_other = within(far, loaded.states, permutations=permutations)
        watch(f"decoding {here.name} → {there.name}", 2, 3)
        transfer = across(near, far, loaded.states, permutations=permutations)
    ways = {
        "within": (f"within {here.name}", inside),
        "within-other": (f"within {there.name}", inside_other),
        "across": (f"from {here.name} to {there.name}", transfer),
    }
    results = dict(ways.values())
    parts = []
    for name, result in results.items():
        console.print(f"\n[bold]{escape(name)}[/] (AUROC one against the rest, 95% interval, n = {result.n} scenarios)")
        for e in circuits.EMOTIONS:
            console.print(f"  {verdict(result, e)}")
        states = [s.name for s in result.states]
        parts.append(figures.onset(result.auroc, result.low, result.high, result.threshold, states, html_escape(name)))
    place = run.directory / "figures"
    write_bytes(place / "onset.html", page(f"Onset in {loaded.name}", parts).encode())
    write_json(place / "onset.json", {name: as_json(r) for name, r in results.items()})
    words = {key: name for key, (name, _) in ways.items()}
    keep_claims(place, "onset", onset({key: found for key, (_, found) in ways.items()}, words, model=loaded.name))
    console.print(f"\nopen {escape(str(place / 'onset.html'))}", soft_wrap=True)


def verdict(result: Decodability, e: circuits.Emotion) -> str:
    """One line: where the emotion becomes decodable, how well, against what."""
    row, state = e.column, result.onset(e)
    at = result.states.index(state) if state is not None else int(result.auroc[row].argmax())
    number = f"{result.auroc[row, at]:.2f} [{result.low[row, at]:.2f}, {result.high[row, at]:.2f}]"
    null = f"null maximum {result.threshold[row]:.2f}"
    if state is None:
        return f"{e}: not reliably decodable (best {number} at {result.states[at]}; {null})"
    return f"{e}: decodable from {state} on ({number} there; {null})"


def as_json(result: Decodability) -> dict[str, object]:
    """Everything behind the figure."""
    onsets = {str(e): str(state) if (state := result.onset(e)) else None for e in circuits.EMOTIONS}
    arrays = {name: getattr(result, name) for name in ("auroc", "low", "high", "threshold")}
    return {"states": [s.name for s in result.states], "onset": onsets, "n": result.n, **arrays}


if __name__ == "__main__":
    script(main)
