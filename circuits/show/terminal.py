"""What a terminal shows: progress with time left, and readable summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from circuits.prompts.emotions import EMOTIONS
from circuits.show.words import amount, counts, duration, in_words, percent, screened, visible

if TYPE_CHECKING:
    from circuits.effects.plans import Priced
    from circuits.model.anatomy import Model
    from circuits.prompts.datasets import Prompts
    from circuits.prompts.validation import Finding
    from circuits.runs.directory import Run
    from circuits.runs.sweep import Sweep

__all__ = ["show_findings", "show_model", "show_plan", "show_run", "show_sweep", "watching"]

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
    sizes = [c.judgement["n"] for c in circuits.values() if c.nodes]
    n = f"n = {counts(sizes)} " if sizes else ""
    table = Table(
        title=f"strongest components: total effect in logits, 95% interval over {n}scenarios; * first-order estimate"
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
    console.print(_text(screened(run.manifest["screen"])))
    skipped = run.manifest["judge"].get("skipped")
    if skipped is not None:
        console.print(f"not measured, to save time: {_text(skipped)}")
    for notice in run.manifest["notices"]:
        console.print(f"[yellow]note[/] {_text(notice)}")
    console.print(f"\nopen {_text(run.report)}", soft_wrap=True)


def _show_writers(run: Run, console: Console) -> None:
    parts = run.comparison.table
    parts = parts[(parts["role"] == "part")]
    if parts.empty:
        return
    last = str(parts["state"].iloc[-1])
    n = counts(parts.loc[parts["state"] == last, "n"])
    title = f"who writes the emotion direction at {_text(last)}: share of its projection, 95% interval over n = {n} scenarios"
    table = Table(title=title)
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


def show_sweep(sweep: Sweep, console: Console) -> None:
    """A finished measurement: what was asked, the strongest components of each emotion, what to open."""
    m = sweep.manifest
    asked = m["asked"]
    if not sweep.fresh:
        console.print(f"this measurement was finished before: {_text(sweep.directory)}", soft_wrap=True)
    console.print(
        f"[bold]{_text(m['model']['name'])}[/] on [bold]{_text(m['prompts']['name'])}[/]: {asked['components']} components, "
        f"{_text(asked['method'])}, ablation {_text(asked['ablation'])}, positions {_text(asked['positions'])} "
        f"({duration(sum(m['seconds'].values()))})",
        soft_wrap=True,
    )
    effects = sweep.effects.table
    n = counts(effects["n"])
    table = Table(title=f"strongest components: effect in logits, 95% interval over n = {n} scenarios; * q < .05")
    table.add_column("emotion")
    for rank in range(_TOP):
        table.add_column(f"{rank + 1}")
    for e in EMOTIONS:
        rows = effects[effects["emotion"] == str(e)]
        best = rows.reindex(rows["effect"].abs().sort_values(ascending=False).index)[:_TOP]
        columns = (best[name] for name in ("component", "q", "effect", "low", "high"))
        cells = [
            f"{_text(name)}{'*' if q < 0.05 else ''} {effect:+.2f} [{low:+.2f}, {high:+.2f}]"
            for name, q, effect, low, high in zip(*columns, strict=True)
        ]
        table.add_row(str(e), *cells, *[""] * (_TOP - len(cells)))
    console.print(table)
    for notice in m["notices"]:
        console.print(f"[yellow]note[/] {_text(notice)}")
    console.print(f"\n{_text(sweep.directory / 'effects.parquet')}", soft_wrap=True)


def show_plan(priced: Priced, console: Console) -> None:
    """What measuring would cost."""
    d = priced.dims
    console.print(
        f"[bold]{_text(priced.name)}[/]: {d.layers} layers, d_model {d.d_model}, {d.heads} heads ({d.kv_heads} key-value), "
        f"{d.d_mlp} neurons a layer{', gated' if d.gated else ''}; {_text(priced.what)}",
        soft_wrap=True,
    )
    console.print(f"this machine ({_text(priced.device)}): {amount(priced.rate, 'FLOP/s')}, measured for one second")
    for positions, items in priced.items.items():
        where = "every token" if positions == "all" else "the read-out token only"
        table = Table(
            title=f"ablated at {where}", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title_justify="left"
        )
        for head in ("what", "number", "forwards", "FLOP", "time", "memory"):
            table.add_column(head, justify="left" if head == "what" else "right", no_wrap=True)
        for i in items:
            table.add_row(
                i.what, f"{i.components:,}", f"{i.forwards:,.0f}", amount(i.operations, "").strip(), duration(i.seconds),
                amount(i.memory, "B"),
            )  # fmt: skip
        console.print(table)
    console.print(
        "forwards: in units of one pass over all texts (naively, one a component); memory from above, float32 weights included",
        soft_wrap=True,
    )


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
    from circuits.model.ways import ways

    way = ways(model)
    if way.blocks is None:
        console.print(f"exact effects: by replaying the model's own blocks ({_text(way.reason)})", soft_wrap=True)
    else:
        console.print(f"exact effects: in plain blocks, which agree with the model's own to {way.error:.0e}")
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
        mark = "[red]fault[/]  " if finding.fault else "note   " if finding.note else "[yellow]warning[/]"
        console.print(f"{mark} {_text(finding)}")
    if all(finding.note for finding in findings):
        words = "" if findings else "no emotion words, "
        console.print(f"nothing to mend: no duplicates, {words}complete scenarios, balanced splits and lengths")
