"""Two sides of a comparison: each a run directory, or one circuit in a file.

Runs of different models may be compared: components are then matched by their place (layer and number), as far as both models
have it. That is meaningful where one model comes from the other (a fine-tune, a quantisation, a library upgrade); between
unrelated models equal numbers mean nothing, and the notices say so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.circuit.differences import Differences, Sizes, common, differences, moved
from circuits.circuit.formats import LARGEST, READERS
from circuits.circuit.graph import Circuit
from circuits.errors import RunError
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run, open_run
from circuits.runs.files import read_bytes

__all__ = ["Compared", "Side", "compare", "read_circuit", "side"]


@dataclass(frozen=True)
class Side:
    """Circuits by emotion, and what is known of how they were found (nothing, for a circuit alone)."""

    name: str
    circuits: Mapping[Emotion, Circuit]
    manifest: Mapping[str, Any] | None = None

    @property
    def sizes(self) -> Sizes | None:
        if self.manifest is None:
            return None
        return {key: int(self.manifest["model"][key]) for key in ("layers", "heads", "neurons")}


@dataclass(frozen=True)
class Compared:
    """What differs between two sides, emotion by emotion, and what a reader must know about them."""

    new: Side
    golden: Side
    found: Mapping[Emotion, Differences]
    notices: tuple[str, ...]

    def moved(self, min_jaccard: float | None, max_effect_change: float | None) -> tuple[str, ...]:
        """Why circuits count as moved; see :func:`circuits.circuit.differences.moved`."""
        bounds = {"min_jaccard": min_jaccard, "max_effect_change": max_effect_change}
        return tuple(r for e, d in self.found.items() for r in moved(d, self.golden.circuits[e], **bounds))


def side(of: Circuit | Run | str | os.PathLike[str]) -> Side:
    """A circuit, a run, or the path of either.

    Raises:
        RunError: nothing there, or something else.
    """
    if isinstance(of, Circuit):
        return Side("a circuit", {of.emotion: of})
    if not isinstance(of, Run):
        path = Path(of)
        if path.suffix in READERS and not os.path.isdir(path):
            circuit = read_circuit(path)
            return Side(str(path), {circuit.emotion: circuit})
        of = open_run(path)
    return Side(str(of.directory), {e: of.circuit(e) for e in EMOTIONS}, of.manifest)


def read_circuit(path: str | os.PathLike[str]) -> Circuit:
    """A circuit from a file; its ending says the format (.json, .graphml, .gexf).

    Raises:
        RunError: missing, too large, another ending, or no circuit.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise RunError(f"{str(path)[:200]!r} ends in {path.suffix!r}; expected one of {', '.join(READERS)}")
    data = read_bytes(path, LARGEST)
    try:
        return READERS[path.suffix](data)
    except RunError as error:
        raise RunError(f"{path}: {error}") from None


def compare(new: Side, golden: Side) -> Compared:
    """Emotion by emotion, those that both sides have.

    Raises:
        RunError: they share no emotion.
    """
    shared = [e for e in EMOTIONS if e in new.circuits and e in golden.circuits]
    if not shared:
        raise RunError(
            f"{new.name} has {', '.join(new.circuits)} and {golden.name} has {', '.join(golden.circuits)}; expected an emotion "
            "that both have"
        )
    pairs = {e: (new.circuits[e], golden.circuits[e]) for e in shared}
    if new.sizes is None or golden.sizes is None:
        return Compared(new, golden, {e: differences(*pair) for e, pair in pairs.items()}, ())
    smaller = {key: min(new.sizes[key], golden.sizes[key]) for key in ("layers", "heads", "neurons")}
    found = {e: common(*pair, smaller) for e, pair in pairs.items()}
    return Compared(new, golden, found, _notices(new, golden, found))


def _notices(new: Side, golden: Side, found: Mapping[Emotion, Differences]) -> tuple[str, ...]:
    """What else differs between two runs."""
    a, b = new.manifest or {}, golden.manifest or {}
    notices = []
    for key, what in (("model", "models"), ("prompts", "prompt sets")):
        if a[key].get("fingerprint") != b[key].get("fingerprint") or a[key]["name"] != b[key]["name"]:
            notices.append(f"different {what}: {a[key]['name']} and {b[key]['name']}")
            if key == "model":
                notices[-1] += (
                    "; components are matched by layer and number, which means something only if one model comes from the other"
                )
    for key, what in (("settings", "setting"), ("versions", "version of")):
        notices += [
            f"different {what} {name}: {a[key].get(name)} and {b[key].get(name)}"
            for name in sorted({*a[key], *b[key]})
            if a[key].get(name) != b[key].get(name)
        ]
    aside = sorted({name for d in found.values() for name in d.aside})
    if aside:
        notices.append(
            f"left out, because one of the models has no such place: {', '.join(aside[:5])}"
            + (f" and {len(aside) - 5} more" if len(aside) > 5 else "")
        )
    return tuple(notices)
