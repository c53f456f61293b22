"""How fast does the explorer open, and how fast does it answer?

A run of GPT-2 small's size is drawn at random: 36,864 neurons and 144 heads, six circuits of 500 nodes and 5,000 edges,
effects on 432 prompts (385 MB). Measured, each several times: a new process until the run is open and its first tables are
read, with every file's SHA-256 compared, and that process's peak memory; in headless Chromium the time from the navigation
until the graph is drawn, and from a click until it is drawn anew. Writes ``benchmarks/explorer.json`` and ``.md``.

Example: python experiments/explorer_benchmark.py --repetitions 5
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

FORMAT = "emotion-circuits-explorer-benchmark/1"
BESIDE = "another emotion beside it, twice the nodes and edges"


def main(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("benchmarks"),
    repetitions: Annotated[int, typer.Option(help="Of each measurement.")] = 5,
    run: Annotated[Path | None, typer.Option(help="A run drawn before, instead of a new one.")] = None,
    small: Annotated[bool, typer.Option(help="A small run: whether this works, not how fast.")] = False,
    browser: Annotated[bool, typer.Option(help="Measure the page too.")] = True,
    opening_of: Annotated[str, typer.Option(help="Only open one run and print what it took.", hidden=True)] = "",
    since: Annotated[float, typer.Option(help="When that process was started.", hidden=True)] = 0.0,
    serving_of: Annotated[str, typer.Option(help="Only serve one run.", hidden=True)] = "",
) -> None:
    """Measure, and write explorer.json and explorer.md."""
    if opening_of:
        print(json.dumps(_opening(opening_of, since)))
        return
    if serving_of:
        _serving(serving_of)
        return
    from circuits.errors import MeasurementError
    from circuits.runs.files import write_bytes, write_json

    with tempfile.TemporaryDirectory() as folder:
        place = run or _drawn(Path(folder) / "run", small)
        results: dict[str, Any] = {
            "format": FORMAT,
            "machine": _machine(),
            "run": _size(place),
            "repetitions": repetitions,
        }
        ways = {"opening": False, "opening, nothing cached": True}
        for name, cold in ways.items() if hasattr(os, "posix_fadvise") else [("opening", False)]:
            print(name, flush=True)
            results[name] = _spreads([_opened(place, cold) for _ in range(repetitions)])
        try:
            if not browser:
                raise MeasurementError("it was not asked for")
            results["page"] = _page(place, repetitions)
        except MeasurementError as error:
            results["page"] = {"not measured": str(error)}
            print(f"the page was not measured: {error}", flush=True)
    write_json(out / "explorer.json", results)
    write_bytes(out / "explorer.md", _words(results).encode())
    print(_words(results))


def _drawn(place: Path, small: bool) -> Path:
    from bench.bigrun import Shape, big_run

    print("drawing a run", flush=True)
    tiny = Shape(nodes=12, edges=60, layers=3, heads=2, neurons=20, scenarios=5, width=8, verified=9)
    return big_run(place, tiny if small else Shape()).directory


def _size(place: Path) -> dict[str, Any]:
    from circuits.runs.directory import open_run

    run = open_run(place)
    circuit = run.circuit("anger")
    return {
        **{key: run.manifest["model"][key] for key in ("layers", "heads", "neurons")},
        "nodes": len(circuit.nodes), "edges": len(circuit.edges), "prompts": len(run.effects.prompt_ids),
        "bytes": sum(path.stat().st_size for path in place.rglob("*") if path.is_file()),
    }  # fmt: skip


# -- opening -----------------------------------------------------------------------------------------------------------


def _opening(path: str, since: float) -> dict[str, float]:
    """In a process of its own, started at ``since`` (seconds of the day's clock): what a page shows first."""
    import circuits

    run = circuits.open_run(path)
    opened = time.time()
    run.circuit("anger")
    run.effects.strongest("anger")
    name = run.effects.components[-1]
    run.effects.rows(name)
    run.effects.of_component(name)
    shown = time.time()
    from bench.memory import peak_now

    return {"open": opened - since, "first tables": shown - since, "peak": peak_now()}


def _opened(place: Path, cold: bool) -> dict[str, float]:
    """One opening, the start of the interpreter and all imports counted."""
    from circuits.errors import MeasurementError

    if cold:
        _forget(place)
    words = [sys.executable, __file__, "--opening-of", str(place), "--since", repr(time.time())]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementError(f"the run was not opened: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _forget(place: Path) -> None:
    """Let the system forget the files' contents, so that the disk is read."""
    for path in place.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


# -- the page ----------------------------------------------------------------------------------------------------------


def _serving(path: str) -> None:
    """In a process of its own: the explorer without a model, and its peak memory when it is told to end."""
    from circuits.exploring import explorer
    from circuits.show.explore.serving import serve

    app, _ = explorer(path, live=False)
    serve(app, 0, browser=False, say=lambda text: print(text, flush=True))
    from bench.memory import peak_now

    print(json.dumps({"peak": peak_now()}))


@contextmanager
def _served(place: Path, results: dict[str, Any]) -> Iterator[str]:
    """The address, answered by another process; its peak memory is noted at the end."""
    import signal

    from circuits.errors import MeasurementError

    words = [sys.executable, __file__, "--serving-of", str(place)]
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if not line:
            raise MeasurementError("the explorer did not start; run circuits explore to see why")
        results["server ready"] = time.perf_counter() - start
        yield line[0]
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
        results["server peak"] = json.loads(said.splitlines()[-1])["peak"]
    finally:
        process.kill()
        process.communicate()


def _page(place: Path, repetitions: int) -> dict[str, Any]:
    """First paints and changes, with few edges (what is shown at first) and with all."""
    from bench import pages
    from bench.timing import Spread

    found: dict[str, Any] = {}
    with pages.chromium() as browser, _served(place, found) as address:
        print("the page", flush=True)
        found["browser"] = f"Chromium {browser.version}, headless"
        found["first paint"] = Spread.of(pages.first_paints(browser, address, repetitions)).as_json()
        with pages.opened(browser, address) as (page, _):
            found["shown at first"] = page.inner_text("#counts")
            page.fill("#edge", "1")
            page.wait_for_timeout(1000)
            changes = {"all edges": [pages.clock(page, lambda: page.fill("#edge", "0"))]}
            found["shown then"] = page.inner_text("#counts")
            everything = page.url
            heads = page.locator("#kinds input").first
            changes["heads off and on"] = [pages.clock(page, heads.click) for _ in range(2 * repetitions)]
            for name, control, low in (("least effect", "#effect", "0.02"), ("least edge", "#edge", "0.02")):
                values = [low, "0"] * repetitions
                changes[name] = [pages.clock(page, lambda c=control, v=v: page.fill(c, v)) for v in values]  # type: ignore[misc]
            colour = page.locator("#colour input")
            changes["colour"] = [pages.clock(page, colour.nth((i + 1) % 2).click) for i in range(2 * repetitions)]
            emotions = page.locator("#emotions input")
            changes[BESIDE] = [pages.clock(page, emotions.nth(1).click) for _ in range(2 * repetitions)]
        found["change"] = {name: Spread.of(seconds).as_json() for name, seconds in changes.items()}
        if everything != address:
            found["first paint, all edges"] = Spread.of(pages.first_paints(browser, everything, repetitions)).as_json()
    return found


# -- what is written ---------------------------------------------------------------------------------------------------


def _spreads(found: list[dict[str, float]]) -> dict[str, Any]:
    from bench.timing import Spread

    return {name: Spread.of([one[name] for one in found]).as_json() for name in found[0]}


def _machine() -> dict[str, Any]:
    from circuits.versions import versions

    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = named[0] if named else processor
    load = os.getloadavg()[0]
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system(),
            "load": round(load, 1), "versions": versions()}  # fmt: skip


def _words(results: dict[str, Any]) -> str:
    """The page of results."""
    machine, run, page = results["machine"], results["run"], results["page"]

    def seconds(found: dict[str, float]) -> str:
        return f"{found['median']:.2f} s ({found['low']:.2f} to {found['high']:.2f}, n = {found['n']:.0f})"

    def memory(found: dict[str, float]) -> str:
        return f"{found['median'] / 1e6:.0f} MB (at most {found['high'] / 1e6:.0f})"

    rows = []
    for name in (n for n in ("opening", "opening, nothing cached") if n in results):
        found = results[name]
        rows.append((f"{name}: process until the run is open, hashes compared", seconds(found["open"]), ""))
        rows.append((f"{name}: process until the first tables are read", seconds(found["first tables"]), "< 3 s"))
        rows.append((f"{name}: peak memory", memory(found["peak"]), "< 500 MB"))
    if "not measured" in page:
        rows.append(("the page", f"not measured: {page['not measured']}", ""))
    else:
        rows.append(("server: process until it listens", f"{page['server ready']:.2f} s (n = 1)", ""))
        rows.append(("server: peak memory", f"{page['server peak'] / 1e6:.0f} MB", ""))
        rows.append((f"first paint ({page['shown at first']})", seconds(page["first paint"]), "< 4 s"))
        if "first paint, all edges" in page:
            rows.append((f"first paint ({page['shown then']})", seconds(page["first paint, all edges"]), "< 4 s"))
        rows += [
            (f"change, all edges shown: {name}", seconds(found), "" if name == BESIDE else "< 1 s")
            for name, found in page["change"].items()
        ]
    table = "\n".join(
        f"| {' | '.join(cells)} |" for cells in (("what", "median (range)", "wanted"), ("---",) * 3, *rows)
    )
    size = (
        f"{run['layers']} layers, {run['heads']} heads and {run['neurons']} neurons a layer, {run['prompts']} prompts"
    )
    browser = "" if "not measured" in page else f" {page['browser']}."
    return (
        "# The explorer, measured\n\n"
        f"`make benchmark-explorer`, on {machine['processor']}, {machine['cores']} cores, load {machine['load']} at the start, "
        f"Python {machine['python']}.{browser} A run drawn at random: {size}, circuits of {run['nodes']} nodes and "
        f"{run['edges']} edges, {run['bytes'] / 1e6:.0f} MB. Times of the page are its own clock's, until two frames after "
        f"drawing.\n\n{table}\n"
    )


if __name__ == "__main__":
    from circuits.cli import script

    script(main)
