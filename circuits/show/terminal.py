"""What a terminal shows: progress with time left, and readable summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from circuits.prompts.emotions import EMOTIONS
from circuits.show.words import in_words, percent, visible

if TYPE_CHECKING:
    from circuits.model.anatomy import Model
    from circuits.prompts.datasets import Prompts
    from circuits.prompts.validation import Finding
    from circuits.runs.directory import Run

__all__ = ["show_findings", "show_model", "show_run", "watching"]

_TOP = 5


def _text(value: object) -> str:
    """Text from data, neither read as markup nor as terminal commands."""
    return escape(visible(value))


@contextmanager
def watching(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A watch for :func:`circuits.discover`: a bar with time left for each step; plain lines where there is no terminal."""
    if not console.is_terminal:
        seen: set[str] = set()

        def line(what: str, done: int, total: int) -> None:
            if what not in seen:
                seen.add(what)
                console.print(_text(what))

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def bar(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for old in tasks.values():
                    progress.update(old, visible=False)
                tasks[what] = progress.add_task(_text(what), total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield bar


def show_run(run: Run, console: Console) -> None:
    """A run in one screen: model, six sentences, strongest components, who writes the directions, what to open."""
    model, prompts = run.manifest["model"], run.manifest["prompts"]
    scenarios = ", ".join(f"{k} {v}" for k, v in prompts["scenarios"].items())
    console.print(
        f"[bold]{_text(model['name'])}[/] on [bold]{_text(prompts['name'])}[/] (scenarios: {_text(scenarios)})",
        soft_wrap=True,
    )
    seconds = sum(run.manifest["seconds"].values())
    console.print(f"{_text(run.directory)} ({seconds:.0f} s of measuring)\n", soft_wrap=True)
    circuits = {e: run.circuit(e) for e in EMOTIONS}
    for circuit in circuits.values():
        console.print(f"• {_text(in_words(circuit))}")
    table = Table(
        title="strongest components: total effect in logits, 95% interval over scenarios; * first-order estimate"
    )
    table.add_column("emotion")
    for rank in range(_TOP):
        table.add_column(f"{rank + 1}")
    for e, circuit in circuits.items():
        best = sorted(circuit.nodes, key=lambda n: -abs(n.effect))[:_TOP]
        cells = [f"{n.name}{'' if n.verified else '*'} {n.effect:+.2f} [{n.low:+.2f}, {n.high:+.2f}]" for n in best]
        table.add_row(str(e), *cells, *[""] * (_TOP - len(cells)))
    console.print(table)
    _show_writers(run, console)
    for notice in run.manifest["notices"]:
        console.print(f"[yellow]note[/] {_text(notice)}")
    console.print(f"\nopen {_text(run.report)}", soft_wrap=True)


def _show_writers(run: Run, console: Console) -> None:
    parts = run.comparison.table
    parts = parts[(parts["role"] == "part")]
    if parts.empty:
        return
    last = str(parts["state"].iloc[-1])
    table = Table(title=f"who writes the emotion direction at {_text(last)}: share of its projection, 95% interval")
    table.add_column("emotion")
    items = ["heads", "neurons", "rest", "circuit", "random circuits"]
    for item in items:
        table.add_column(item)
    for e in EMOTIONS:
        rows = parts[(parts["emotion"] == str(e)) & (parts["state"] == last)].set_index("item")
        cells = []
        for item in items:
            if item not in rows.index:
                cells.append("–")
                continue
            row = rows.loc[item]
            cells.append(f"{percent(row['share'])} [{percent(row['low'])}, {percent(row['high'])}]")
        table.add_row(str(e), *cells)
    console.print(table)


def show_model(model: Model, console: Console) -> None:
    """Laws and capabilities of a model."""
    console.print(_text(repr(model)), soft_wrap=True)
    c = model.capabilities
    console.print(
        f"blocks: {'sequential' if c.sequential else 'parallel (post-attention is defined as resid_pre + attn_out)'}"
    )
    console.print(
        f"MLP: {'gated' if c.gated else 'plain'}; post-norms: {'yes, frozen to the clean run' if c.post_norms else 'none'}"
    )
    table = Table(title="laws: largest relative error on a short prompt")
    for head in ("law", "error", "bound", ""):
        table.add_column(head)
    for law in c.laws:
        table.add_row(
            _text(law.name), f"{law.error:.1e}", f"{law.bound:.0e}", "holds" if law.holds else "[red]fails[/]"
        )
    console.print(table)


def show_findings(prompts: Prompts, findings: tuple[Finding, ...], console: Console) -> None:
    """What the validator says of a prompt set."""
    lexical = prompts.lexical or "lexical undeclared"
    console.print(f"{_text(prompts.name)}: {len(prompts)} texts in {prompts.n_scenarios} scenarios, {lexical}")
    for finding in findings:
        mark = "[red]fault[/]  " if finding.fault else "[yellow]warning[/]"
        console.print(f"{mark} {_text(finding)}")
    if not findings:
        console.print(
            "nothing to mend: no duplicates, no emotion words, complete scenarios, balanced splits and lengths"
        )
