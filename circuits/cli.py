"""The command line: one verb per command. Heavy imports happen inside commands, so that ``--help`` is instant."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from circuits import shipped
from circuits.errors import CircuitsError

if TYPE_CHECKING:
    from circuits.model.anatomy import Model
    from circuits.prompts.datasets import Prompts

__all__ = ["app", "main", "script"]

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
        str, typer.Option(help=f"A .jsonl file, or {', '.join(shipped.PROMPT_SETS[:-1])} or {shipped.PROMPT_SETS[-1]}.")
    ] = "microstories",
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/<model>-<prompts>-<hash>.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="JSON file of answer words by emotion, instead of the shipped ones.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 (needed for single neurons), bfloat16 …")] = "float32",
    ablation: Annotated[str, typer.Option(help="mean_scenario, mean, zero or resample.")] = "mean_scenario",
    positions: Annotated[str, typer.Option(help="all or readout.")] = "all",
    verify: Annotated[int, typer.Option(help="Neurons measured exactly, per emotion, at least.")] = 32,
    audit: Annotated[int, typer.Option(help="Further neurons measured exactly, to bound how many were missed.")] = 64,
    target: Annotated[float, typer.Option(help="Faithfulness a circuit must reach on the select split.")] = 0.8,
    random_circuits: Annotated[int, typer.Option(help="Random circuits each circuit is judged beside.")] = 100,
    method: Annotated[
        str, typer.Option(help="How circuits are found: conditional, top_n, edge_pruning, or a baseline such as atp.")
    ] = "conditional",
    patience: Annotated[
        int | None, typer.Option(help="How long to search, in multiples of measuring what is tried once; 20 is long.")
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Also completeness and minimality, and all random circuits everywhere.")
    ] = False,
    alpha: Annotated[float, typer.Option(help="Largest q-value of a component that may join a circuit.")] = 0.05,
    edge_share: Annotated[
        float, typer.Option(help="Smallest edge kept, as a share of the strongest into the same node.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the random circuits.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, however long it takes.")] = False,
) -> None:
    """Find and judge the six circuits, compare them with the linear directions, and write a run directory.

    A killed walk resumes where it was; a finished one is shown again at once.
    """
    from circuits.effects.kinds import Ablation, Positions, member
    from circuits.settings import Settings

    settings = Settings(
        ablation=member(Ablation, ablation), positions=member(Positions, positions), verify=verify, audit=audit,
        target=target,
        random_circuits=random_circuits, method=method, patience=patience, thorough=thorough,
        alpha=alpha, edge_share=edge_share, seed=seed,
    )  # fmt: skip
    rows = _prompts(prompts, answers)
    from circuits.show.terminal import show_run, watching

    loaded = _loaded(model, device, dtype)
    from circuits.walk import discover as walk
    from circuits.walk import price

    _agree(loaded, rows, price(loaded, rows, settings), yes)
    with watching(_err) as watch:
        run = walk(loaded, rows, settings, out, watch=watch)
    if not run.fresh:
        from circuits.show.words import visible

        _err.print(f"this run was finished before: {escape(visible(run.directory))}", soft_wrap=True)
    show_run(run, _out)


@app.command(epilog="Example: circuits measure --components heads --positions readout --out runs/heads")
def measure(
    components: Annotated[
        str, typer.Option(help="heads, neurons, sublayers, or names such as L0H1,L2N17,L1.mlp.")
    ] = "heads",
    out: Annotated[
        Path | None, typer.Option(help="Directory; default runs/<model>-<prompts>-<method>-<components>.")
    ] = None,
    model: Annotated[str, typer.Option(help="'embedded', a local directory, or a hub name such as gpt2.")] = "embedded",
    prompts: Annotated[str, typer.Option(help="A .jsonl file or the name of a shipped set.")] = "microstories",
    answers: Annotated[Path | None, typer.Option(help="JSON file of answer words by emotion.")] = None,
    method: Annotated[str, typer.Option(help="exact, gradient, ig_inputs, ig_activations or direct.")] = "exact",
    ablation: Annotated[str, typer.Option(help="mean_scenario, mean, zero or resample.")] = "mean_scenario",
    positions: Annotated[str, typer.Option(help="all or readout.")] = "all",
    steps: Annotated[int, typer.Option(help="Midpoints of integrated gradients.")] = 5,
    arithmetic: Annotated[
        str, typer.Option(help="float32, or bfloat16 for heads and half-layers (its error is measured).")
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 (needed for single neurons), bfloat16 …")] = "float32",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, however long it takes.")] = False,
) -> None:
    """Measure the effect of each component on all six emotions, prompt by prompt, into a directory of open files.

    The price is printed first. Killed at any moment, the same command goes on where it was.
    """
    from circuits.effects.kinds import Ablation, Method, Positions, member

    chosen = member(Method, method), member(Ablation, ablation), member(Positions, positions)
    rows = _prompts(prompts, answers)
    loaded = _loaded(model, device, dtype)
    wanted: str | list[str] = components if components in ("heads", "neurons", "sublayers") else components.split(",")
    from circuits.effects.measure import price
    from circuits.runs.sweep import sweep
    from circuits.show.terminal import show_sweep, watching

    place = (
        out or Path("runs") / f"{Path(model).name}-{Path(prompts).stem}-{chosen[0]}-{components.replace(',', '-')[:40]}"
    )
    operations = price(loaded, rows, wanted, method=chosen[0], ablation=chosen[1], positions=chosen[2], steps=steps)
    _agree(loaded, rows, operations, yes)
    with watching(_err) as watch:
        result = sweep(
            loaded, rows, wanted, place, method=chosen[0], ablation=chosen[1], positions=chosen[2], steps=steps,
            arithmetic=arithmetic,
            progress=lambda done, total: watch(f"{components}, {method}", done, total),
        )  # fmt: skip
    show_sweep(result, _out)


@app.command(epilog="Examples: circuits plan --model embedded --prompts microstories\n\n"
             "circuits plan --shape llama-3.2-3b --texts 480x20")  # fmt: skip
def plan(
    model: Annotated[
        str, typer.Option(help="'embedded' or a local directory; only its configuration is read.")
    ] = "embedded",
    prompts: Annotated[str, typer.Option(help="A .jsonl file or the name of a shipped set.")] = "microstories",
    shape: Annotated[
        str | None, typer.Option(help="A well-known shape instead of a model: gpt2-small, llama-3.2-3b …")
    ] = None,
    texts: Annotated[
        str | None, typer.Option(help="So many texts of so many tokens instead of prompts: 24x20.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
) -> None:
    """Say what measuring would cost: forwards, operations, time on this machine, memory. Nothing is measured.

    Time comes from one second of the same arithmetic on this machine.
    """
    from circuits.effects.plans import planned
    from circuits.show.terminal import show_plan

    show_plan(planned(shape or model, None if shape else prompts, texts, device), _out)


@app.command(epilog="Example: circuits show runs/embedded-microstories-1a2b3c4d")
def show(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Show a finished run in the terminal."""
    from circuits.runs.directory import open_run
    from circuits.show.terminal import show_run

    show_run(open_run(run), _out)


@app.command(epilog="Examples: circuits explore\n\n"
             "circuits explore runs/gpt2-situations-1a2b3c4d --model gpt2 --port 8070 --no-browser")  # fmt: skip
def explore(
    run: Annotated[Path | None, typer.Argument(help="A run directory; the newest of runs/ when left out.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port on 127.0.0.1; 8050, or the next free one, when left out.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    model: Annotated[
        str | None,
        typer.Option(help="The run's model, for what is computed live, where it does not come with the package."),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="The run's prompts, where they do not come with the package.")
    ] = None,
) -> None:
    """Walk through a run in the browser: graph, circuit and vector, what if, judge, compare, export. Ctrl-C ends it."""
    from circuits.exploring import explore as shown

    shown(
        run,
        port=port,
        browser=browser,
        model=model,
        prompts=prompts,
        say=lambda text: _out.print(escape(text), soft_wrap=True),
    )


@app.command(epilog="Examples: circuits compare runs/before runs/after --html differences.html\n\n"
             "Example: circuits compare runs/new runs/golden --min-jaccard 0.8 --max-effect-change 0.1")  # fmt: skip
def compare(
    new: Annotated[Path, typer.Argument(help="A run directory, or a circuit's file (.json, .graphml, .gexf).")],
    golden: Annotated[Path, typer.Argument(help="The run directory or circuit's file it is held against.")],
    min_jaccard: Annotated[
        float | None,
        typer.Option(
            help="Fail when the share of nodes that both circuits have is below this and, where GOLDEN knows its own "
            "Jaccard under resampling, also below the lower 2.5% bound of that."
        ),
    ] = None,
    max_effect_change: Annotated[
        float | None,
        typer.Option(
            help="Fail when a node of both circuits changed its effect by more than this share of GOLDEN's largest effect "
            "and the two 95% intervals have no value in common."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Draw the differences on this page.")] = None,
) -> None:
    """Say what differs between the circuits of two runs: two models, two prompt sets, two settings.

    With a bound, exit status 1 and a reason for each circuit that moved beyond its own resampling noise. Different models are
    matched by what both have.
    """
    from circuits.runs.exporting import keep_page
    from circuits.runs.sides import compare as compared
    from circuits.runs.sides import side
    from circuits.show.differences import differences_page, show_differences
    from circuits.show.words import visible

    found = compared(side(new), side(golden))
    reasons = found.moved(min_jaccard, max_effect_change)
    show_differences(found, _out)
    if html is not None:
        keep_page(html, differences_page(found))
        _out.print(f"open {escape(visible(html))}", soft_wrap=True)
    for reason in reasons:
        _err.print(f"[red]moved[/] {escape(visible(reason))}", soft_wrap=True)
    if reasons:
        raise typer.Exit(1)


@app.command(epilog="Example: circuits export runs/embedded-microstories-1a2b3c4d --format gexf --out graphs")
def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    format: Annotated[str, typer.Option(help="json, graphml, gexf, mib or csv (two tables).")] = "graphml",
) -> None:
    """Write a run's circuits for other programs: Gephi, Cytoscape, yEd, networkx, MIB's evaluation, spreadsheets."""
    from circuits.runs.directory import open_run
    from circuits.runs.exporting import export as written
    from circuits.show.words import visible

    for path in written(open_run(run), format, out):
        _out.print(escape(visible(path)), soft_wrap=True)


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


def _prompts(prompts: str, answers: Path | None) -> Prompts:
    from circuits.prompts.datasets import read_answers, read_prompts

    rows = read_prompts(prompts)
    return rows if answers is None else rows.with_answers(read_answers(answers))


def _loaded(model: str, device: str, dtype: str) -> Model:
    _err.print("loading the model")
    from circuits.model.door import load

    return load(model, device=device, dtype=dtype)


_LONG = 600
"""Seconds from which on a terminal is asked first."""
_ROUGHLY = 2 * 10**10
"""Operations a second any machine manages: below ten minutes at this rate nothing need be asked, or measured."""


def _agree(model: Model, prompts: Prompts, operations: int, yes: bool) -> None:
    """Name the price of long work before it is paid, and on a terminal ask."""
    if operations / _ROUGHLY < _LONG:
        return
    from circuits.effects.plans import seconds_for
    from circuits.show.words import duration

    seconds = seconds_for(model, prompts, operations)
    _err.print(f"{operations:.2g} operations, about {duration(seconds)} on this machine")
    if seconds >= _LONG and not yes and sys.stdin.isatty():
        typer.confirm("Go on? (--yes does not ask)", abort=True)


def main() -> None:
    """Entry point: our own errors become one readable line and exit status 2, unless ``--debug`` is given."""
    debug = "--debug" in sys.argv[1:]
    if debug:
        # Accepted anywhere on the line, as people add it to the command that failed.
        sys.argv = [sys.argv[0], "--debug", *(a for a in sys.argv[1:] if a != "--debug")]
    _answered(app, debug)


def script(command: Callable[..., None]) -> None:
    """A function as a command of its own, with its arguments as options: what the experiments are."""
    _answered(lambda: typer.run(command))


def _answered(run: Callable[[], object], debug: bool = False) -> None:
    try:
        run()
    except CircuitsError as error:
        if debug:
            raise
        from circuits.show.words import visible

        _err.print(f"[red]error:[/] {escape(visible(error))}", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
