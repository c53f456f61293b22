"""A finished run of any size, with plausible random numbers and no model: for benchmarks and tests of what shows runs.

Everything a walk writes is there and hangs together: a circuit's nodes are the strongest of the table, their effects are those
of the table, effects prompt by prompt scatter around them. Hostile runs carry, wherever a run carries text from elsewhere, text
that a page may take for markup (:mod:`bench.hostile`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import bigtables, hostile
from circuits import jsontext
from circuits.circuit.graph import EMBED, Circuit, Edge, Measured, Node
from circuits.errors import SettingsError
from circuits.model.sites import Component, Half, Kind, head, neuron, states, sublayer
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run, RunWriter
from circuits.settings import Settings

__all__ = ["Shape", "big_run"]

_SPLITS = ("fit", "select", "test")
_BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_PAGE = "<!doctype html><html lang=en><meta charset=utf-8><title>A drawn run</title><p>Drawn at random: no report.</p></html>\n"


@dataclass(frozen=True)
class Shape:
    """How large: by default GPT-2 small, 36 scenarios a split, circuits of 500 nodes and 5,000 edges."""

    nodes: int = 500
    edges: int = 5000
    layers: int = 12
    heads: int = 12
    neurons: int = 3072
    scenarios: int = 36
    width: int = 768
    verified: int = 400

    @cached_property
    def sublayers(self) -> tuple[Component, ...]:
        return tuple(sublayer(layer, half) for layer in range(self.layers) for half in Half)

    @cached_property
    def all_heads(self) -> tuple[Component, ...]:
        return tuple(head(layer, i) for layer in range(self.layers) for i in range(self.heads))

    @cached_property
    def all_neurons(self) -> tuple[Component, ...]:
        return tuple(neuron(layer, i) for layer in range(self.layers) for i in range(self.neurons))


def big_run(folder: Path, shape: Shape | None = None, *, seed: int = 0, hostile: bool = False) -> Run:
    """Write a finished run into ``folder`` (new or empty).

    Raises:
        SettingsError: more nodes than there are heads and neurons, or more edges than nodes can have.
        RunError: the folder cannot be used.
    """
    shape = shape or Shape()
    drawn = _Drawn(shape, np.random.default_rng(seed), hostile)
    with RunWriter.opened(folder, jsontext.fingerprint([repr(shape), seed, hostile]), drawn.about()) as writer:
        drawn.write_effects(writer)
        circuits = {e: drawn.circuit(e) for e in EMOTIONS}
        for e, circuit in circuits.items():
            writer.json(f"circuits/{e}.json", circuit.to_json())
            if not hostile:  # XML holds no control characters
                writer.graphml(f"circuits/{e}.graphml", circuit)
        drawn.write_directions(writer)
        for name, table in bigtables.tables(shape.layers, circuits, shape.scenarios, drawn.rng).items():
            writer.table(f"{name}.parquet", drawn.spoilt(table))
        writer.text("prompts.jsonl", "".join(jsontext.canonical(row) + "\n" for row in drawn.prompts()))
        writer.text("report.html", _PAGE)
        return writer.finish(drawn.found(circuits))


class _Drawn:
    """The random numbers of one run, and what is made of them."""

    def __init__(self, shape: Shape, rng: np.random.Generator, spoil: bool) -> None:
        self.shape, self.rng, self.spoil = shape, rng, spoil
        # Heavy tails: few components matter, most hardly.
        self.heads = _tails(rng, len(shape.all_heads), 0.4)
        self.neurons = _tails(rng, len(shape.all_neurons), 0.01)
        self.halves = np.abs(_tails(rng, len(shape.sublayers), 2.0))
        strength = np.abs(self.neurons).max(1)
        self.verified = np.sort(np.argsort(-strength)[: min(shape.verified, len(strength))])
        self._calls = 0

    def text(self, mild: str) -> str:
        """A text from elsewhere."""
        if not self.spoil:
            return mild
        self._calls += 1
        return hostile.text(self._calls, mild)

    def spoilt(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with hostile reasons."""
        if self.spoil and "reason" in table:
            return table.assign(reason=[hostile.text(i, str(reason)) for i, reason in enumerate(table["reason"])])
        return table

    # -- prompts and effects -------------------------------------------------------------------------------------------

    def prompts(self) -> list[dict[str, Any]]:
        """Rows in order of splits, scenarios, emotions."""
        rows = []
        for number, split in enumerate(_SPLITS):
            for scenario in range(number * self.shape.scenarios, (number + 1) * self.shape.scenarios):
                for e in EMOTIONS:
                    mild = f"In scenario {scenario} something happened that people would feel {e} about. Ben felt"
                    text = hostile.text(len(rows), mild) if self.spoil else mild
                    name = hostile.text(scenario, f"s{scenario:03d}") if self.spoil else f"s{scenario:03d}"
                    rows.append(
                        {"id": f"{name}-{e}", "scenario": name, "split": split, "emotion": str(e), "text": text}
                    )
        return rows

    def write_effects(self, writer: RunWriter) -> None:
        shape, best = self.shape, self.neurons
        exact = best[self.verified] * self.rng.uniform(0.9, 1.3, (len(self.verified), 1))
        verified = [shape.all_neurons[i] for i in self.verified]
        parts = [
            (shape.sublayers, self.halves, "exact"), (shape.all_heads, self.heads, "exact"), (verified, exact, "exact"),
            (shape.all_neurons, best, "gradient"), (shape.all_heads, self.heads * 0.3, "direct"),
            (shape.all_neurons, best * 0.3, "direct"),
        ]  # fmt: skip
        table = [bigtables.effects(*part, shape.scenarios, self.rng) for part in parts]
        writer.table("effects.parquet", pd.concat(table, ignore_index=True))
        self.exact = dict(zip(verified, exact, strict=True))
        rest = np.setdiff1d(np.arange(len(best)), self.verified)
        means = np.concatenate([self.halves, self.heads, exact, best[rest]])
        components = (*shape.sublayers, *shape.all_heads, *verified, *(shape.all_neurons[i] for i in rest))
        methods = ["exact"] * (len(components) - len(rest)) + ["gradient"] * len(rest)
        rows = [row for row in self.prompts() if row["split"] != "fit"]
        own = np.array(
            [[1.0 if row["emotion"] == str(e) else -0.2 for e in EMOTIONS] for row in rows], dtype=np.float32
        )
        values = self.rng.standard_normal((len(components), len(rows), len(EMOTIONS)), dtype=np.float32)
        scale = np.abs(means).astype(np.float32)[:, None, :]
        values *= 0.5 * scale
        values += means.astype(np.float32)[:, None, :] * own
        clean = (9 * own + self.rng.standard_normal(own.shape)).astype(np.float32)
        about = {
            "components": [c.name for c in components], "methods": methods, "prompts": [row["id"] for row in rows],
            "emotions": [str(e) for e in EMOTIONS], "unit": "logits",
        }  # fmt: skip
        writer.tensors("effects.safetensors", {"values": values, "clean": clean}, about)

    def write_directions(self, writer: RunWriter) -> None:
        names = [s.name for s in states(self.shape.layers)]
        arrays = {}
        for estimator in ("contrast", "grand_mean", "probe"):
            vectors = self.rng.standard_normal((len(EMOTIONS), len(names), self.shape.width)).astype(np.float32)
            arrays[f"{estimator}.vectors"] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
            arrays[f"{estimator}.norms"] = self.rng.uniform(1, 20, vectors.shape[:2]).astype(np.float32)
            arrays[f"{estimator}.split_half"] = self.rng.uniform(0.5, 1, vectors.shape[:2]).astype(np.float32)
        about = {"states": names, "emotions": [str(e) for e in EMOTIONS], "n": self.shape.scenarios, "split": "fit"}
        writer.tensors("directions.safetensors", arrays, {**about, "model": "m" * 64, "prompts": "p" * 64})

    # -- circuits ------------------------------------------------------------------------------------------------------

    def circuit(self, e: Emotion) -> Circuit:
        """The strongest heads and neurons, a fifth of them heads where there are as many, and edges among them."""
        shape, count = self.shape, min(self.shape.nodes // 5, len(self.heads))
        heads = np.argsort(-np.abs(self.heads[:, e.column]))[:count]
        neurons = np.argsort(-np.abs(self.neurons[:, e.column]))[: shape.nodes - count]
        if len(heads) + len(neurons) < shape.nodes:
            raise SettingsError(
                f"nodes is {shape.nodes}; expected at most {len(heads) + len(neurons)} heads and neurons"
            )
        some = [(shape.all_heads[i], self.heads[i], True) for i in heads]
        for i in neurons:
            component = shape.all_neurons[i]
            some.append((component, self.exact.get(component, self.neurons[i]), component in self.exact))
        nodes = [self._node(component, effects, exact, e) for component, effects, exact in some]
        nodes.sort(key=lambda n: -abs(n.effect))
        return Circuit(e, tuple(nodes), self._edges(nodes, e), self._judgement([n.component for n in nodes]))

    def _node(self, component: Component, effects: NDArray[Any], exact: bool, e: Emotion) -> Node:
        def measured(one: Emotion) -> Measured:
            value = float(effects[one.column])
            half = 0.3 * abs(value) + 0.001
            return Measured(value, value - half, value + half, float(self.rng.uniform(0, 0.05)), exact, 0.3 * value)

        return Node(component, *measured(e), effects={other: measured(other) for other in EMOTIONS if other is not e})

    def _edges(self, nodes: Sequence[Node], e: Emotion) -> tuple[Edge, ...]:
        """Each node reads the embedding and writes the read-out; the rest joins earlier half-layers to later ones."""
        # Where sums of many effects would go: heavy tails again.
        depth = np.array([2 * n.component.layer + (n.component.kind is Kind.NEURON) for n in nodes])
        sources, targets = np.nonzero(depth[:, None] < depth[None, :])
        wanted = self.shape.edges - 2 * len(nodes)
        if not 0 <= wanted <= len(sources):
            most = len(sources) + 2 * len(nodes)
            raise SettingsError(
                f"edges is {self.shape.edges}; expected {2 * len(nodes)} to {most} for {len(nodes)} nodes"
            )
        chosen = self.rng.choice(len(sources), wanted, replace=False)
        ends = [(EMBED, n.name, "exact") for n in nodes] + [(n.name, str(e), "direct") for n in nodes]
        kinds = ("exact", "exact", "gradient", "conditional")
        ends += [(nodes[sources[i]].name, nodes[targets[i]].name, kinds[place % 4]) for place, i in enumerate(chosen)]
        weights = _tails(self.rng, len(ends), 0.2)[:, 0]
        edges = [
            Edge(source, target, float(w), float(w - 0.2 * abs(w)), float(w + 0.2 * abs(w)), kind)
            for (source, target, kind), w in zip(ends, weights, strict=True)
        ]
        return tuple(sorted(edges, key=lambda edge: -abs(edge.weight)))

    def _judgement(self, nodes: Sequence[Component]) -> dict[str, Any]:
        n, rng, settings = self.shape.scenarios, self.rng, Settings()
        total = len(self.heads) + len(self.neurons)
        random = rng.normal(0, 0.03, settings.random_circuits)
        shares = np.minimum(1.0, np.array(_BUDGETS) * 20)
        often = {c.name: float(rng.uniform(0.5, 1)) for c in nodes}

        def estimate(value: float, **more: Any) -> dict[str, Any]:
            return {"value": value, "low": value - 0.02, "high": value + 0.02, "n": n, **more}

        def beside(value: float) -> dict[str, Any]:
            return estimate(value, random_mean=0.01, random_low=-0.05, random_high=0.08, random_n=10, p=1 / 11)

        return {
            "target": 0.8, "unit": "logits", "method": self.text("conditional"), "faithfulness_select_in_sample": 0.81,
            "complement_select_in_sample": 0.02, "reached": True, "forwards_bound": 166.0, "forwards": 104.0,
            "notice": self.text("the search stopped at its budget"), "accuracy": 0.9, "accuracy_n": n, "size": len(nodes),
            "metric_whole": 10.0, "metric_empty": 0.5, "metric_circuit": 8.1, "faithfulness": 0.8, "faithfulness_low": 0.78,
            "faithfulness_high": 0.82, "n": n, "random": [float(x) for x in random], "random_mean": float(random.mean()),
            "random_low": float(np.quantile(random, 0.025)), "random_high": float(np.quantile(random, 0.975)),
            "random_n": len(random), "random_p": 1 / (1 + len(random)), "complement": estimate(0.03),
            "curve": {
                "budgets": list(_BUDGETS), "sizes": [max(1, int(np.ceil(b * total))) for b in _BUDGETS],
                "faithfulness": [estimate(float(x)) for x in shares], "cpr": estimate(0.9), "cmd": estimate(0.1),
                "area": "trapezoid over the budget axis",
            },
            "stability": {
                "mean": 0.9, "low": 0.8, "high": 1.0, "n": 200, "chance": 0.01, "ceiling": 0.8, "size": len(nodes),
                "scenarios": n, "often": often,
            },
            "language": {
                "clean": estimate(4.0), "ablated": estimate(160.0), "ratio": beside(40.0), "tokens": 5000, "texts": 6 * n,
                "unit": "perplexity",
            },
            "ablations": {"mean": beside(0.76), "zero": {"undefined": self.text("the model does not tell it apart")}},
        }  # fmt: skip

    # -- the manifest --------------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        shape, text = self.shape, self.text
        return {
            "model": {
                "name": text("drawn"), "fingerprint": text("m" * 64), "layers": shape.layers, "d_model": shape.width,
                "heads": shape.heads, "neurons": shape.neurons, "dtype": text("torch.float32"), "device": "cpu",
                "sequential": True, "post_norms": False, "gated": False, "worst_law": 1e-6,
            },
            "prompts": {
                "name": text("drawn"), "fingerprint": "p" * 64, "rows": 3 * 6 * shape.scenarios, "lexical": text("implicit"),
                "scenarios": dict.fromkeys(_SPLITS, shape.scenarios), "declared_splits": True,
            },
            "settings": {k: text(v) if isinstance(v, str) and self.spoil else v for k, v in Settings().as_dict().items()},
            "versions": {"emotion-circuits": text("0.1.0"), "torch": text("2.13.0")},
            "machine": {"python": "3.11", "system": text("Linux"), "processors": 2},
        }  # fmt: skip

    def found(self, circuits: dict[Emotion, Circuit]) -> dict[str, Any]:
        """What only a finished run's manifest says."""
        n, text = self.shape.scenarios, self.text
        three = [0.95, 0.9, 0.99]
        audit = {
            "drawn": 64, "rest": len(self.neurons), "missed": 0, "upper": 64, "n": n, "exact_for_all": 10**12, "rank": three,
            "slope": three, "thresholds": {str(e): 0.05 for e in EMOTIONS}, "warnings": [text("none to speak of")],
        }  # fmt: skip
        answers: dict[str, list[Any]] = {str(e): [316, 414, 478] for e in EMOTIONS}
        if self.spoil:
            answers = {str(e): [*hostile.TEXTS] for e in EMOTIONS}
        kinds = ("half-layers, exact", "heads, exact", "neurons, gradient")
        return {
            "answers": answers,
            "notices": [*hostile.TEXTS] if self.spoil else ["this run was drawn at random"],
            "screen": {
                "neurons": len(self.neurons), "verified": len(self.verified), "rounds": [16, 32],
                "listed": {str(e): [c.name for c in circuits[e].components if c.kind is Kind.NEURON][:8] for e in EMOTIONS},
                "audit": audit,
            },
            "reliability": {kind: {str(e): [0.95, 0.9, 0.99, 0.97] for e in EMOTIONS} for kind in kinds},
            "engine": {"way": "plain", "reason": text(""), "device": "cpu", "dtype": "torch.float32", "threads": 2},
            "judge": _together(circuits, n, text, self.rng),
            "compared": {"notices": [text("no more")], "skipped": text("much")},
            "seconds": {"directions": 2.0, "circuits": 50.0, "tables": 4.0},
            "finished": "2026-01-01T00:00:00+00:00",
        }  # fmt: skip


def _together(
    circuits: dict[Emotion, Circuit], n: int, text: Callable[[str], str], rng: np.random.Generator
) -> dict[str, Any]:
    """What the judge says of all circuits together."""
    pairs = [(a, b) for a in EMOTIONS for b in EMOTIONS]
    names = {e: c.names for e, c in circuits.items()}
    loss = {(a, b): float(rng.uniform(5, 8) + 3 * (a is b)) for a, b in pairs}
    core = frozenset.intersection(*names.values())
    jaccard = {
        f"{a}:{b}": {"value": len(names[a] & names[b]) / len(names[a] | names[b]), "chance": 0.01}
        for i, a in enumerate(EMOTIONS) for b in EMOTIONS[i + 1 :]
    }  # fmt: skip
    others = {e: frozenset().union(*(some for other, some in names.items() if other is not e)) for e in EMOTIONS}
    return {
        "specificity": {
            "unit": "logits", "random_n": 5,
            "loss": {f"{a}:{b}": {"value": x, "low": x - 0.4, "high": x + 0.4, "n": n} for (a, b), x in loss.items()},
            "random": {f"{a}:{b}": {"mean": 0.5, "high": 0.9} for a, b in pairs},
            "own_beyond_others": {str(e): {"value": 0.2, "low": 0.1, "high": 0.3, "n": n} for e in EMOTIONS},
        },
        "overlap": {
            "core": sorted(core), "only": {str(e): sorted(names[e] - others[e]) for e in EMOTIONS}, "jaccard": jaccard,
            "chance_core": 0.01, "p_core": 0.001, "n": 6,
        },
        "skipped": text("completeness and minimality"),
    }  # fmt: skip


def _tails(rng: np.random.Generator, count: int, scale: float) -> NDArray[np.float64]:
    """Effects ``[count, emotion]`` of which few are large."""
    return scale * rng.standard_t(3, (count, len(EMOTIONS))) * rng.lognormal(0, 1, (count, 1))
