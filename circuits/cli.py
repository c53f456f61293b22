"""The command line: one verb per command. Heavy imports happen inside commands, so that ``--help`` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from circuits.errors import CircuitsError

__all__ = ["app", "main"]

app = typer.Typer(
    name="circuits",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Find the circuits that carry emotion inside a language model, judge them, and show them.\n\n"
    "Example: circuits discover --model embedded --prompts microstories",
)
_out = Console(highlight=False, emoji=False)
_err = Console(stderr=True, highlight=False, emoji=False)


def _version(wanted: bool) -> bool:
    if wanted:
        from circuits import __version__

        _out.print(__version__)
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


@app.command(epilog="Example: circuits discover --model ./my-model --prompts my.jsonl --out runs/mine")
def discover(
    model: Annotated[str, typer.Option(help="'embedded', a local directory, or a hub name such as gpt2.")] = "embedded",
    prompts: Annotated[
        str, typer.Option(help="A .jsonl file, or microstories, microstories_plain, situations.")
    ] = "microstories",
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/<model>-<prompts>-<hash>.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="JSON file of answer words by emotion, instead of the shipped ones.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 (needed for single neurons), bfloat16 …")] = "float32",
    ablation: Annotated[str, typer.Option(help="mean_scenario, mean, zero or resample.")] = "mean_scenario",
    positions: Annotated[str, typer.Option(help="all or readout.")] = "all",
    verify: Annotated[int, typer.Option(help="Neurons measured exactly, per emotion.")] = 32,
    target: Annotated[float, typer.Option(help="Faithfulness a circuit must reach on the select split.")] = 0.8,
    random_circuits: Annotated[int, typer.Option(help="Random circuits each circuit is judged beside.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the random circuits.")] = 0,
) -> None:
    """Find and judge the six circuits, compare them with the linear directions, and write a run directory.

    A killed walk resumes where it was; a finished one is shown again at once.
    """
    from circuits.effects.kinds import Ablation, Positions, member
    from circuits.settings import Settings

    settings = Settings(
        ablation=member(Ablation, ablation), positions=member(Positions, positions), verify=verify, target=target,
        random_circuits=random_circuits, seed=seed,
    )  # fmt: skip
    from circuits.prompts.datasets import read_answers, read_prompts

    rows = read_prompts(prompts)
    if answers is not None:
        rows = rows.with_answers(read_answers(answers))
    from circuits.show.terminal import show_run, watching

    _err.print("loading the model")
    from circuits.model.door import load
    from circuits.walk import discover as walk

    loaded = load(model, device=device, dtype=dtype)
    with watching(_err) as watch:
        run = walk(loaded, rows, settings, out, watch=watch)
    if not run.fresh:
        from circuits.show.words import visible

        _err.print(f"this run was finished before: {escape(visible(run.directory))}", soft_wrap=True)
    show_run(run, _out)


@app.command(epilog="Example: circuits show runs/embedded-microstories-1a2b3c4d")
def show(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Show a finished run in the terminal."""
    from circuits.runs.directory import open_run
    from circuits.show.terminal import show_run

    show_run(open_run(run), _out)


@app.command(epilog="Example: circuits check gpt2")
def check(
    model: Annotated[str, typer.Argument(help="'embedded', a local directory, or a hub name.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16, float16.")] = "float32",
) -> None:
    """Check a model's conservation laws and say what can be measured on it."""
    from circuits.model.door import load
    from circuits.show.terminal import show_model

    show_model(load(model, device=device, dtype=dtype), _out)


@app.command(epilog="Example: circuits prompts data/situations.jsonl")
def prompts(file: Annotated[str, typer.Argument(help="A .jsonl file or the name of a shipped set.")]) -> None:
    """Validate a prompt file: duplicates, emotion words, incomplete scenarios, splits, lengths.

    Exit status 1 when there is a fault, 2 when the file cannot be read.
    """
    from circuits.prompts.datasets import read_prompts
    from circuits.prompts.validation import validate_prompts
    from circuits.show.terminal import show_findings

    rows = read_prompts(file)
    findings = validate_prompts(rows)
    show_findings(rows, findings, _out)
    if any(finding.fault for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Entry point: our own errors become one readable line and exit status 2, unless ``--debug`` is given."""
    debug = "--debug" in sys.argv[1:]
    if debug:
        # Accepted anywhere on the line, as people add it to the command that failed.
        sys.argv = [sys.argv[0], "--debug", *(a for a in sys.argv[1:] if a != "--debug")]
    try:
        app()
    except CircuitsError as error:
        if debug:
            raise
        from circuits.show.words import visible

        _err.print(f"[red]error:[/] {escape(visible(error))}", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
