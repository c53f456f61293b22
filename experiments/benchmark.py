"""How fast are exact effects, beside one hooked forward a component?

One process, one run: models of three shapes with random weights and the embedded model, 24 texts. In every round the naive way
and ours take turns. *Ready* means that the clean run, its replacement values and the plain blocks are there; *whole* is
``circuits.measure`` from texts to table beside naive forwards. Where the naive way would take hours, some components are
run and the rest scaled, on both sides alike. Writes ``benchmarks/results.json``, a table (``benchmarks/table.md``) and the
growth picture.

Example: python experiments/benchmark.py --shapes S,M --repetitions 5
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")

import json
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from bench import growth, naive, table
from bench.memory import peak_now, peaks
from bench.shapes import SHAPES, random_model, random_prompts
from bench.timing import Spread, interleaved, matrix_rate

import circuits
from circuits.cli import script
from circuits.compare.wang.contributions import head_importance
from circuits.directions.estimators import estimate_directions
from circuits.effects.batch import Batch, Plan
from circuits.effects.direct import Direct
from circuits.effects.exact import Exact
from circuits.effects.gradient import first_order
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.price import Dims, Texts
from circuits.errors import SettingsError
from circuits.model.anatomy import Model
from circuits.model.machine import precision
from circuits.model.sites import Component, Half, Kind
from circuits.model.ways import ways
from circuits.runs.files import write_bytes, write_json
from circuits.versions import versions

FORMAT = "emotion-circuits-benchmark/1"
TOKENS = 20
NAIVE = 8
"""Components run naively in a round."""
OURS = {"S": (16, 256), "M": (36, 96), "L": (36, 24), "embedded": (16, 128)}
"""Heads and neurons run by us in a round: all heads but those of L, of which three in each layer on average."""


def main(
    shapes: Annotated[str, typer.Option(help="Which of S, M, L, embedded.")] = "S,M,L,embedded",
    repetitions: Annotated[int, typer.Option(help="Interleaved rounds.")] = 5,
    threads: Annotated[str, typer.Option(help="Numbers of threads to try; 0 is all cores.")] = "1,0",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("benchmarks"),
    grow: Annotated[bool, typer.Option(help="Measure growth with prompts, components and layers.")] = True,
    memory_of: Annotated[str, typer.Option(help="Only print what one shape takes in memory.", hidden=True)] = "",
) -> None:
    """Measure, and write results.json, table.md and growth.svg."""
    if memory_of:
        torch.set_num_threads(int(threads))
        print(json.dumps(_memory(memory_of)))
        return
    wanted = shapes.split(",")
    for name in wanted:
        if name not in (*SHAPES, "embedded"):
            raise SettingsError(f"no shape {name!r}; expected some of {', '.join((*SHAPES, 'embedded'))}")
    cores = torch.get_num_threads()
    counts = sorted({cores if int(n) == 0 else int(n) for n in threads.split(",")})
    results: dict[str, Any] = {"format": FORMAT, "machine": _machine(cores), "repetitions": repetitions, "threads": {}}
    with tempfile.TemporaryDirectory() as folder:
        models = {name: _model(Path(folder), name) for name in wanted}
        for count in counts:
            torch.set_num_threads(count)
            rate = matrix_rate(count)
            part: dict[str, Any] = {"matrix_rate": rate, "shapes": {}}
            results["threads"][str(count)] = part
            for name, model in models.items():
                _say(f"{count} threads, {name}")
                part["shapes"][name] = _shape(name, model, rate, repetitions)
                write_json(out / "results.json", results)
    torch.set_num_threads(cores)
    if grow:
        _say("growth")
        results["growth"] = growth.grown(repetitions)
        write_json(out / "results.json", results)
    # What is shown is what was written.
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    text = table.markdown(results)
    write_bytes(out / "table.md", text.encode())
    print(text)
    if grow:
        try:
            write_bytes(
                out / "growth.svg", table.growth_figure(results["growth"]).to_image("svg", width=900, height=330)
            )
        except (RuntimeError, ValueError) as error:
            _say(f"no growth.svg: {error}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _machine(cores: int) -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line]
        if cpu.is_file()
        else []
    )
    products = precision("cpu")
    return {
        "processor": names[0] if names else platform.processor(), "cores": cores, "system": platform.platform(terse=True),
        "versions": versions(), "products": products.name, "products_error": products.error, "device": "cpu",
    }  # fmt: skip


def _model(folder: Path, name: str) -> Model:
    return circuits.load("embedded") if name == "embedded" else random_model(folder / name, SHAPES[name][1]())


def _plan(name: str, model: Model) -> tuple[Plan, Batch, circuits.Prompts]:
    """24 texts in one batch."""
    if name == "embedded":
        split = circuits.read_prompts("microstories").split("test")
        prompts = split.where(np.arange(len(split)) < 24)
    else:
        prompts = random_prompts(4, TOKENS)
    plan = Plan.of(model, prompts, Ablation.MEAN_SCENARIO)
    (batch,) = plan.batches()
    return plan, batch, prompts


def _chosen(name: str, model: Model) -> dict[str, tuple[tuple[Component, ...], tuple[Component, ...]]]:
    """What we run in a round, and what of it is run naively."""
    rng = np.random.default_rng(0)
    return {
        kind: (ours := _some(rng, components, count), _some(rng, ours, NAIVE))
        for kind, components, count in zip(("heads", "neurons"), (model.heads, model.neurons), OURS[name], strict=True)
    }


def _memory(name: str) -> dict[str, int]:
    """Peaks [bytes] of this process: readiness, then sweeps; the smaller ones first, as a peak never falls."""
    with tempfile.TemporaryDirectory() as folder:
        model = _model(Path(folder), name)
        _, batch, _ = _plan(name, model)
        chosen = _chosen(name, model)
        _ = batch.resume
        found = {"ready": peak_now()}
        for positions in (Positions.READOUT, Positions.ALL):
            for kind, (ours, _) in chosen.items():
                Exact(batch, positions).effects(ours, lambda places, values: None)
                found[f"{kind}, {positions}"] = peak_now()
    return found


def _shape(name: str, model: Model, rate: float, repetitions: int) -> dict[str, Any]:
    plan, batch, prompts = _plan(name, model)
    chosen = _chosen(name, model)
    rows = [
        row for positions in Positions
        for row in _rows(batch, plan.texts(), chosen, positions, rate, repetitions)
    ]  # fmt: skip
    return {
        "what": SHAPES[name][0] if name in SHAPES else "the embedded model", "way": ways(model).name,
        "texts": len(prompts), "tokens": int(batch.tokens.ids.shape[1]), "exact": rows,
        "memory": peaks(__file__, name, torch.get_num_threads()),
        "whole": _whole(batch, plan, prompts), "estimates": _estimates(batch, repetitions),
        "others": _others(name, batch, repetitions), "wang_heads": _wang_heads(name, batch, prompts, repetitions),
    }  # fmt: skip


def _some(rng: np.random.Generator, components: Sequence[Component], count: int) -> tuple[Component, ...]:
    places = rng.choice(len(components), min(count, len(components)), replace=False)
    return tuple(components[i] for i in sorted(places))


def _rows(
    batch: Batch, texts: Texts, chosen: Mapping[str, tuple[Sequence[Component], Sequence[Component]]], positions: Positions,
    rate: float, repetitions: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every kind at one sort of positions: the naive way and ours in turns."""
    exact, rows, largest = Exact(batch, positions), [], 0.0
    for kind, (ours, slow) in chosen.items():
        found: dict[Component, torch.Tensor] = {}

        def take(places: list[int], values: torch.Tensor, ours: Any = ours, found: Any = found) -> None:
            found.update(zip([ours[p] for p in places], values, strict=True))

        def sweep(ours: Any = ours, take: Any = take) -> None:
            exact.effects(ours, take)

        def naively(slow: Any = slow) -> torch.Tensor:
            return naive.hooked(batch, slow, positions)

        seconds = interleaved({"naive": naively, "ours": sweep}, repetitions)
        each = {"naive": [t / len(slow) for t in seconds["naive"]], "ours": [t / len(ours) for t in seconds["ours"]]}
        wanted = naively()
        largest = max(largest, float(torch.stack(list(found.values())).abs().max()))
        operations = sum(Dims.of(batch.model).sweep(ours, texts, positions))
        whole = len(batch.model.components(kind))
        rows.append({
            "components": kind, "positions": str(positions), "number": whole, "ours_sampled": len(ours),
            "naive_sampled": len(slow),
            "naive_seconds_each": Spread.of(each["naive"]).as_json(),
            "ours_seconds_each": Spread.of(each["ours"]).as_json(),
            "ratio": Spread.of([n / o for n, o in zip(each["naive"], each["ours"], strict=True)]).as_json(),
            "all_naive_seconds": Spread.of(each["naive"]).median * whole,
            "all_ours_seconds": Spread.of(each["ours"]).median * whole,
            # In units of the largest effect of any component measured at these positions.
            "difference": float((torch.stack([found[c] for c in slow]) - wanted).abs().max()) / largest,
            "share_of_matrix_rate": operations / Spread.of(seconds["ours"]).median / rate,
        })  # fmt: skip
    return rows


def _whole(batch: Batch, plan: Plan, prompts: circuits.Prompts) -> dict[str, Any]:
    """``measure`` of all heads, from texts to effects, beside the clean run and one forward a head (scaled)."""
    model = batch.model
    seconds = _once(lambda: circuits.measure(model, prompts, "heads"))
    slow = model.heads[:: max(1, len(model.heads) // NAIVE)]
    ready = _once(lambda: plan.batch(np.arange(len(prompts))))
    each = _once(lambda: naive.hooked(batch, slow, Positions.ALL)) / len(slow)
    naively = ready + each * len(model.heads)
    return {"seconds": seconds, "naive_seconds": naively, "ratio": naively / seconds}


def _once(do: Callable[[], Any]) -> float:
    (seconds,) = interleaved({"": do}, 1, warm=False)[""]
    return seconds


def _estimates(batch: Batch, repetitions: int) -> dict[str, Any]:
    """Gradients and direct effects in units of one forward."""
    model = batch.model
    places = [(kind, layer) for kind in Kind for layer in range(model.n_layers)]
    own = [(kind, layer) for kind in (Kind.HEAD, Kind.NEURON) for layer in range(model.n_layers)]
    direct = Direct(model, batch.readout, own)

    @torch.no_grad()
    def forward() -> None:
        model.bridge(batch.tokens.ids, attention_mask=batch.tokens.mask)

    work: dict[str, Callable[[], Any]] = {
        "forward": forward,
        "gradient, one metric": lambda: first_order(batch, Positions.ALL, places, circuits.EMOTIONS[:1]),
        "gradient, six metrics": lambda: first_order(batch, Positions.ALL, places),
        "direct": lambda: direct.effects(batch),
        "ten direct": lambda: [direct.effects(batch) for _ in range(10)],
    }
    seconds = interleaved(work, max(repetitions, 7))
    forwards = {
        name: Spread.of([t / f for t, f in zip(seconds[name], seconds["forward"], strict=True)]).as_json()
        for name in ("gradient, one metric", "gradient, six metrics", "direct", "ten direct")
    }  # fmt: skip
    return {"forward_seconds": Spread.of(seconds["forward"]).as_json(), "in_forwards": forwards}


def _others(name: str, batch: Batch, repetitions: int) -> dict[str, Any]:
    """TransformerLens' own tools on the same texts: all heads by patching, all nodes by attribution."""
    long = name == "L"  # minutes each
    exact = Exact(batch, Positions.ALL)
    heads = batch.model.heads
    places = [(kind, layer) for kind in Kind for layer in range(batch.model.n_layers)]
    effects = torch.zeros(len(heads), len(batch.tokens), len(circuits.EMOTIONS))

    theirs: list[torch.Tensor] = []

    def ours() -> None:
        def take(where: list[int], found: torch.Tensor) -> None:
            effects[where] = found

        exact.effects(heads, take)

    seconds = interleaved(
        {
            "patching": lambda: theirs.append(naive.patching_tool(batch)), "our heads": ours,
            "attribution": lambda: naive.attribution_tool(batch, 0),
            "our gradient": lambda: first_order(batch, Positions.ALL, places, circuits.EMOTIONS[:1]),
        },
        1 if long else repetitions, warm=not long,
    )  # fmt: skip
    wanted = theirs[-1].flatten(0, 1)
    apart = float((effects.mean(1) - wanted).abs().max() / wanted.abs().max())

    def ratio(slow: str, fast: str) -> dict[str, float]:
        return Spread.of([a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]).as_json()

    return {
        "seconds": {what: Spread.of(times).as_json() for what, times in seconds.items()},
        "patching_over_ours": ratio("patching", "our heads"), "patching_difference": apart,
        "attribution_over_ours": ratio("attribution", "our gradient"),
    }  # fmt: skip


def _wang_heads(name: str, batch: Batch, prompts: circuits.Prompts, repetitions: int) -> dict[str, Any]:
    """Head importance at the head's own layer: one forward a head beside the closed form, on the texts of one emotion."""
    model, e = batch.model, circuits.EMOTIONS[0]
    directions = estimate_directions(model, prompts)
    own = Plan.of(model, prompts.where(prompts.emotions == e.column), Ablation.ZERO)
    (texts,) = own.batches()
    mid = [place for place, state in enumerate(directions.states) if state.half is Half.ATTN]
    vectors = torch.tensor(directions.vectors[e.column, mid], dtype=model.dtype)
    found: dict[str, Any] = {}
    long = name == "L"
    seconds = interleaved(
        {
            "naive": lambda: found.update(naive=naive.zeroed_heads(texts, vectors).numpy()),
            "ours": lambda: found.update(ours=head_importance(model, prompts, directions, e).values),
        },
        1 if long else repetitions, warm=not long,
    )  # fmt: skip
    return {
        "heads": len(model.heads), "texts": len(own.prompts),
        "seconds": {what: Spread.of(times).as_json() for what, times in seconds.items()},
        "ratio": Spread.of([n / o for n, o in zip(seconds["naive"], seconds["ours"], strict=True)]).as_json(),
        "difference": float(np.abs(found["naive"] - found["ours"]).max() / np.abs(found["naive"]).max()),
    }  # fmt: skip


if __name__ == "__main__":
    script(main)
