"""The whole walk: from a model and prompts to six judged circuits beside the linear directions, in a run directory."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from circuits import jsontext, shipped
from circuits.circuit.graph import Circuit
from circuits.circuit.judge import Plans, elsewhere, judge
from circuits.circuit.methods import method
from circuits.compare.together import Compared, compare
from circuits.directions.estimators import contrast, directions_from, grand_mean, probe
from circuits.directions.vectors import Directions
from circuits.effects.ablation import require_complete
from circuits.effects.batch import Plan
from circuits.effects.certify import Certified, certify
from circuits.effects.kinds import Ablation, Method, Positions
from circuits.effects.measure import engine, measure
from circuits.effects.price import READY, Dims
from circuits.effects.table import Effects, joined
from circuits.errors import MeasurementError, RunError
from circuits.model.anatomy import Model
from circuits.model.reading import capture
from circuits.model.sites import Component, Kind
from circuits.prompts.datasets import Prompts, Split, read_prompts
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run, RunWriter, is_finished, open_run, tidy
from circuits.runs.sweep import write_effects
from circuits.settings import Settings
from circuits.show.report import report
from circuits.versions import code, versions

__all__ = ["Watch", "discover", "price", "run_key"]

Watch = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


def discover(
    model: Model,
    prompts: Prompts,
    settings: Settings | None = None,
    directory: str | os.PathLike[str] | None = None,
    *,
    watch: Watch | None = None,
) -> Run:
    """Find and judge the circuit of each emotion, and hold it against the emotion's direction.

    Directions come from the ``fit`` split, circuits are chosen on ``select``, every reported number is measured on ``test``.
    Everything is written to ``directory`` (default ``runs/<model>-<prompts>-<hash>``); a killed walk resumes there, and a
    finished run with the same model, prompts, settings and versions is returned as it is (``run.fresh`` is False).

    Raises:
        PromptError: a split is empty.
        RunError: the directory cannot be used.
        MeasurementError, AnswerError, DirectionError: see :func:`circuits.measure` and :func:`circuits.estimate_directions`.
    """
    settings = settings or Settings()
    if model.dtype not in (torch.float32, torch.float64):
        raise MeasurementError(
            f"{model.name} is loaded in {model.dtype}; single-neuron effects drown in its rounding: use dtype='float32'"
        )
    model.require_neurons()  # a circuit is made of heads and neurons
    # Everything that can be wrong with the prompts is found before a directory is made.
    plans = _plans(model, prompts, settings)
    key = run_key(model, prompts, settings)
    place = Path(directory) if directory is not None else Path("runs") / f"{_slug(model)}-{_slug(prompts)}-{key[:8]}"
    if is_finished(place, key):
        tidy(place)
        return open_run(place)
    with RunWriter.opened(place, key, _about(model, prompts, settings)) as writer:
        if writer.finished:  # by another process, since
            return open_run(place)
        return _Walk(model, prompts, settings, plans, writer, watch or (lambda what, done, total: None)).run()


def price(model: Model, prompts: Prompts, settings: Settings) -> int:
    """Floating-point operations of a whole walk, estimated from above; nothing is run.

    Raises:
        PromptError: a split is empty.
        MeasurementError, AnswerError: the prompts cannot be measured.
    """
    measured, positions = prompts.split(Split.SELECT, Split.TEST), Positions(settings.positions)
    plan = Plan.of(model, measured, Ablation(settings.ablation))
    dims, texts = Dims.of(model), plan.texts()
    everything = Plan.of(model, prompts, Ablation(settings.ablation)).texts()
    exact = sum(dims.sweep((*model.sublayers, *model.heads), texts, positions))
    # The dearest neurons are those of the first layer.
    top = min(len(model.neurons), settings.verify * len(EMOTIONS))
    neurons = top * dims.exact(model.neurons[0], texts, positions) if top else 0
    # Each emotion has a sixth of the texts. Heads tried, screened neurons and the budget of the search; 60 for the edges.
    tried = min(len(model.heads) + 67, len(model.heads) + len(model.neurons))
    searched = 60 + (2 if settings.patience is None else settings.patience) * tried
    judged = 2 * settings.random_circuits + 6 * (settings.random_circuits if settings.thorough else 15)
    more = (
        2 * (51 + 20) + 12 * settings.random_circuits + 22 * (20 + settings.random_circuits) + 60
        if settings.thorough
        else 0
    )
    circuits = (searched + judged + more) * dims.forward(texts)
    return exact + neurons + circuits + dims.gradient(everything, len(EMOTIONS)) + 10 * READY * dims.forward(everything)


def run_key(model: Model, prompts: Prompts, settings: Settings) -> str:
    """Hash of everything the numbers depend on: model, prompts, settings, library versions, this package's code."""
    parts = [model.fingerprint, prompts.fingerprint, settings.as_dict(), versions(), str(model.dtype), code()]
    return jsontext.fingerprint(parts)


def _plans(model: Model, prompts: Prompts, settings: Settings) -> Plans:
    """The walks through the splits; fails on texts too long, words without tokens, empty splits, incomplete scenarios."""
    parts = {split: prompts.split(split) for split in Split}
    ablation = Ablation(settings.ablation)
    for part in parts.values():
        require_complete(part)  # directions compare inside scenarios whatever the ablation
    plans = {split: Plan.of(model, part, ablation) for split, part in parts.items()}
    test = plans[Split.TEST]
    others = {
        other: Plan.of(model, parts[Split.TEST], other, readout=test.readout)
        for other in (Ablation.MEAN_SCENARIO, Ablation.MEAN, Ablation.ZERO)
        if other is not ablation
    }
    method(settings.method, patience=settings.patience)  # known before anything is made
    return Plans(select=plans[Split.SELECT], test=test, others=others)


@dataclass
class _Walk:
    """One walk: the steps in order, each a plain function of the library, timed."""

    model: Model
    prompts: Prompts
    settings: Settings
    plans: Plans
    writer: RunWriter
    watch: Watch
    times: dict[str, float] = field(default_factory=dict)

    def run(self) -> Run:
        measured = self.prompts.split(Split.SELECT, Split.TEST)
        with self._step("directions"):
            directions = self._directions()
        with self._step("direct effects"):
            everything = (*self.model.heads, *self.model.neurons)
            direct = measure(
                self.model, measured, everything, method=Method.DIRECT, ablation=Ablation(self.settings.ablation)
            )
        with self._step("half-layers"):
            sublayers = self._measured("sublayers, exact", self.model.sublayers, measured, Method.EXACT)
        with self._step("heads"):
            heads = self._measured("heads, exact", self.model.heads, measured, Method.EXACT)
        with self._step("screen"):
            everywhere = self._measured("neurons, gradient", self.model.neurons, self.prompts, Method.GRADIENT)
            screen = everywhere.on(measured)
        with self._step("verify and audit"):
            certified = self._certified(everywhere)
        with self._step("neurons, exact"):
            verified = self._measured("top neurons, exact", certified.verified, measured, Method.EXACT)
        best = joined([heads, *_best(screen, verified)])
        with self._step("circuits"):
            verdict = judge(self.prompts, best, direct, self.settings, self.plans, self.watch, store=self.writer.shards)
            judged = verdict.judged
            circuits = {e: one.circuit for e, one in judged.items()}
        with self._step("comparison"):
            compared = compare(
                self.plans.test, verdict.benches, directions[0],
                {e: circuit.components for e, circuit in circuits.items()}, {e: j.random for e, j in judged.items()},
                sublayers, thorough=self.settings.thorough, watch=self.watch,
            )  # fmt: skip
        together = jsontext.plain(verdict.together)
        del verdict  # its benches are large, and others are made
        with self._step("other ablations"):
            circuits = elsewhere(circuits, self.settings, self.plans, self.watch)
        with self._step("tables"):
            test = self.prompts.split(Split.TEST)
            parts = [e.on(test).table for e in (sublayers, heads, *([verified] if verified else []), screen, direct)]
            table = pd.concat(parts, ignore_index=True)
        extra = {
            "answers": {str(e): list(ids) for e, ids in heads.answers.items()},
            "notices": list(dict.fromkeys((*heads.notices, *self._doubts(certified), *_shortfalls(circuits)))),
            "screen": _screened(certified),
            "reliability": _reliability([sublayers, heads, screen]),
            "engine": engine(self.model),
            "judge": together,
            "compared": {"notices": list(compared.notes), "skipped": compared.skipped},
        }
        return self._write(joined([sublayers, best]), table, directions, circuits, compared, extra)

    def _directions(self) -> list[Directions]:
        readings = capture(self.model, self.prompts.split(Split.FIT))
        estimators = [contrast, probe] if readings.neutral is None else [contrast, grand_mean, probe]
        result = []
        for done, estimator in enumerate(estimators):
            self.watch(f"directions, {estimator.__name__}", done, len(estimators))
            result.append(directions_from(self.model, readings, estimator))
        return result

    def _measured(
        self, what: str, components: tuple[Component, ...], prompts: Prompts, method: Method
    ) -> Effects | Any:
        """Effects measured in shards that survive a kill; None for no components."""
        if not components:
            return None
        return measure(
            self.model, prompts, components, method=method, ablation=self.settings.ablation,
            positions=self.settings.positions, store=self.writer.shards,
            progress=lambda done, total: self.watch(what, done, total),
        )  # fmt: skip

    def _certified(self, screen: Effects) -> Certified:
        """The strongest neurons of each emotion, found on ``fit``.

        Screened where they are not tested: on ``select`` only the screened ones then count as tested, which leaves the
        permutation test enough resolution among tens of thousands of neurons.
        """
        fit = self.prompts.split(Split.FIT)
        return certify(
            self.model, fit, self.model.neurons, verify=self.settings.verify, audit=self.settings.audit,
            ablation=self.settings.ablation, positions=self.settings.positions, seed=self.settings.seed,
            screen=screen.on(fit), store=self.writer.shards, progress=self.watch,
        )  # fmt: skip

    def _doubts(self, certified: Certified) -> list[str]:
        """Why the screen by gradient may have missed neurons, and what certainty would cost."""
        audit = certified.audit
        if audit is None or not audit.warnings:
            return []
        measured = self.prompts.split(Split.SELECT, Split.TEST)
        positions = Positions(self.settings.positions)
        texts = Plan.of(self.model, measured, Ablation(self.settings.ablation)).texts()
        rate = sum(Dims.of(self.model).sweep(self.model.heads, texts, positions)) / max(self.times["heads"], 1e-3)
        hours = audit.exact_for_all / rate / 3600
        return [
            f"neurons: the gradient is not to be trusted here: {'; '.join(audit.warnings)}. Exact effects of all "
            f"{len(self.model.neurons)} would take about {hours:.1g} h: circuits measure --components neurons"
        ]

    def _write(
        self,
        best: Effects,
        table: pd.DataFrame,
        directions: list[Directions],
        circuits: dict[Emotion, Circuit],
        compared: Compared,
        extra: dict[str, Any],
    ) -> Run:
        self.watch("writing", 0, 1)
        writer = self.writer
        writer.table("effects.parquet", table)
        write_effects(writer, best)
        arrays = {
            f"{d.estimator}.{name}": getattr(d, name).astype(np.float32)
            for d in directions
            for name in ("vectors", "norms", "split_half")
        }
        about = {
            "states": [s.name for s in self.model.states],
            "emotions": [str(e) for e in EMOTIONS],
            "n": directions[0].n,
        }
        writer.tensors(
            "directions.safetensors",
            arrays,
            {**about, "model": directions[0].model, "prompts": directions[0].prompts, "split": "fit"},
        )
        for e, circuit in circuits.items():
            writer.json(f"circuits/{e}.json", circuit.to_json())
            writer.graphml(f"circuits/{e}.graphml", circuit)
        writer.table("comparison.parquet", compared.writers.table)
        writer.table("same_effect.parquet", compared.effects.table)
        writer.table("doses.parquet", compared.doses)
        writer.table("half_layers.parquet", compared.halves.table)
        writer.table("half_layer_rates.parquet", compared.halves.rates)
        writer.text("prompts.jsonl", _lines(self.prompts))
        writer.json("answers.json", {str(e): list(words) for e, words in self.prompts.answers.items()})
        seconds = {name: round(value, 3) for name, value in self.times.items()}
        manifest = {**_about(self.model, self.prompts, self.settings), **extra, "seconds": seconds, "key": writer.key}
        writer.text("report.html", report(manifest, circuits, table, compared, directions))
        return writer.finish({**extra, "seconds": seconds, "finished": datetime.now(UTC).isoformat(timespec="seconds")})

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.watch(name, 0, 1)
        start = time.perf_counter()
        yield
        self.times[name] = max(0.0, time.perf_counter() - start)


def _best(screen: Effects, verified: Effects | None) -> list[Effects]:
    """Neurons: the exact effect where there is one, the gradient elsewhere."""
    if verified is None:
        return [screen]
    exact = set(verified.components)
    rest = [c for c in screen.components if c not in exact]
    return [verified, screen.of(rest)] if rest else [verified]


def _screened(certified: Certified) -> dict[str, Any]:
    """What the screen by gradient was worth, measured on ``fit``."""
    return {
        "neurons": len(certified.effects.components),
        "verified": len(certified.verified),
        "rounds": list(certified.rounds),
        "listed": {str(e): [c.name for c in some] for e, some in certified.listed.items()},
        "audit": None if certified.audit is None else certified.audit.as_dict(),
    }


def _reliability(parts: list[Effects]) -> dict[str, dict[str, list[float]]]:
    """Split-half reliability of every score vector: half, its 95% range over splits, and of all scenarios."""
    result: dict[str, dict[str, list[float]]] = {}
    for part in parts:
        name = f"{'half-layers' if part.components[0].index < 0 else f'{part.components[0].kind}s'}, {part.methods[0]}"
        found = {str(e): part.reliability(e) for e in EMOTIONS}
        result[name] = {e: [r.half, r.low, r.high, r.whole] for e, r in found.items()}
    return result


def _shortfalls(circuits: dict[Emotion, Circuit]) -> list[str]:
    """What a reader must not overlook."""
    notices = []
    for e, circuit in circuits.items():
        if "undefined" in circuit.judgement:
            notices.append(f"{e}: no circuit: {circuit.judgement['undefined']}")
        elif not circuit.judgement["reached"]:
            notices.append(f"{e}: what was found misses the target faithfulness; it is shown")
    said: dict[str, list[str]] = {}
    for e, circuit in circuits.items():
        if circuit.judgement.get("notice"):
            said.setdefault(circuit.judgement["notice"], []).append(str(e))
    notices += [f"{', '.join(some)}: {notice}" for notice, some in said.items()]
    return notices


def _about(model: Model, prompts: Prompts, settings: Settings) -> dict[str, Any]:
    kinds = {Kind.HEAD: model.n_heads, Kind.NEURON: model.d_mlp}
    return {
        "model": {
            "name": model.name, "fingerprint": model.fingerprint, "layers": model.n_layers, "d_model": model.d_model,
            "heads": kinds[Kind.HEAD], "neurons": kinds[Kind.NEURON], "dtype": str(model.dtype), "device": str(model.device),
            "sequential": model.capabilities.sequential, "post_norms": model.capabilities.post_norms,
            "gated": model.capabilities.gated, "worst_law": max((law.error for law in model.capabilities.laws), default=0.0),
        },
        "prompts": {
            "name": prompts.name, "fingerprint": prompts.fingerprint, "rows": len(prompts),
            "lexical": str(prompts.lexical) if prompts.lexical else "undeclared",
            "scenarios": {str(s): prompts.split(s).n_scenarios for s in Split}, "declared_splits": prompts.declared_splits,
            "shipped": _shipped(prompts),
        },
        "settings": settings.as_dict(),
        "versions": versions(),
        "machine": {"python": platform.python_version(), "system": platform.system(), "processors": os.cpu_count() or 0},
    }  # fmt: skip


def _lines(prompts: Prompts) -> str:
    """The prompts as a file that gives the same prompts when it is read."""
    about = {} if prompts.lexical is None else {"lexical": str(prompts.lexical)}
    rows = [
        {
            "id": r.id, "scenario": r.scenario, "emotion": str(r.emotion), "split": str(r.split), "text": r.text, **about,
            **({"valence": r.valence} if r.valence else {}), **({} if r.neutral is None else {"neutral": r.neutral}),
        }
        for r in prompts.rows
    ]  # fmt: skip
    return "".join(jsontext.canonical(row) + "\n" for row in rows)


def _shipped(prompts: Prompts) -> bool:
    """Whether these are the shipped prompts of their name, every row and answer word of them."""
    return prompts.name in shipped.PROMPT_SETS and read_prompts(prompts.name).fingerprint == prompts.fingerprint


def _slug(thing: Model | Prompts) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", Path(thing.name).name).strip("-").lower()[:40]
    if not name:
        raise RunError(f"no directory name can be made of {thing.name!r}; give one with --out")
    return name
