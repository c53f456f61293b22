"""What the page knows: a run, its circuits and texts, and the model where it is at hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from circuits import jsontext
from circuits.circuit.graph import Circuit
from circuits.circuit.matched import Sizes
from circuits.errors import CircuitsError, RunError
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs import files
from circuits.runs.directory import Run
from circuits.show.explore.scene import Layout, Random, layout, random_circuits

__all__ = ["Desk", "Living", "Text"]

RANDOM_SHOWN = 3
"""Random circuits that can be drawn behind a found one."""
_MOST_TEXTS = 64 * 2**20


@runtime_checkable
class Living(Protocol):
    """The model at hand, as :class:`circuits.live.Live` gives it."""

    def selection(self, emotion: Any, names: Sequence[str], *, count: int = 20, seed: int = 0) -> Any: ...
    def what_if(self, text_or_id: str, factors: Mapping[str, float], *, top: int = 10) -> Any: ...
    def look(self, text_or_id: str, name: str) -> Any: ...
    def lens(self, name: str, emotion: Any = None, *, top: int = 10) -> Any: ...


Text = Mapping[str, str]
"""A prompt as the run keeps it: id, scenario, emotion, split, text."""


class Desk:
    """One run being looked at.

    Attributes:
        run: the run.
        absent: why the model is not at hand; empty while it loads or when it is.
    """

    def __init__(self, run: Run, wake: Callable[[Run], Living] | None = None, why: str = "") -> None:
        self.run = run
        self.circuits: Mapping[Emotion, Circuit] = {e: run.circuit(e) for e in EMOTIONS}
        self.absent = why
        self._living: Living | None = None
        self._thread: threading.Thread | None = None
        if wake is not None:
            self._thread = threading.Thread(target=self._load, args=(wake,), daemon=True)
            self._thread.start()

    def _load(self, wake: Callable[[Run], Living]) -> None:
        try:
            self._living = wake(self.run)
        except (CircuitsError, OSError, RuntimeError, ImportError) as error:
            self.absent = str(error)

    @property
    def live(self) -> Living | None:
        """The model, or None while it loads and where it is not at hand."""
        return self._living

    @property
    def state(self) -> str:
        """In words, for the page."""
        if self._living is not None:
            return "model at hand"
        if self.absent:
            return f"model not at hand: {self.absent}"
        return "model is loading" if self._thread is not None else "model not at hand"

    def wait(self, seconds: float) -> None:
        """Wait for the model, for tests and notebooks."""
        if self._thread is not None:
            self._thread.join(seconds)

    def require_run(self) -> None:
        """Raise RunError when the run was removed since the page was opened."""
        if not (self.run.directory / "manifest.json").is_file():
            raise RunError(
                f"the run {self.run.directory} was removed or moved while this page was open; open another one"
            )

    @property
    def layers(self) -> int:
        return int(self.run.manifest["model"]["layers"])

    @property
    def sizes(self) -> Sizes:
        model = self.run.manifest["model"]
        return Sizes(int(model["heads"]), int(model["neurons"]))

    @cached_property
    def nulls(self) -> Mapping[Emotion, tuple[Random, ...]]:
        """The first random circuits each circuit was judged beside."""
        seed = int(self.run.manifest["settings"].get("seed", 0))
        return {e: random_circuits(c, self.sizes, seed, RANDOM_SHOWN) for e, c in self.circuits.items()}

    @cached_property
    def layout(self) -> Layout:
        more = [c for some in self.nulls.values() for one in some for c in one.components]
        return layout(self.circuits, self.layers, self.sizes, more)

    @cached_property
    def texts(self) -> Mapping[str, Text]:
        """The run's prompts by id.

        Raises:
            RunError: the file is missing, too large, or no prompts.
        """
        path = files.inside(self.run.directory, "prompts.jsonl")
        found: dict[str, Text] = {}
        try:
            for line in files.read_bytes(path, _MOST_TEXTS).decode("utf-8").splitlines():
                row = jsontext.loads(line)
                found[str(row["id"])] = {key: str(row[key]) for key in ("id", "scenario", "emotion", "split", "text")}
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} holds no prompts: {error}; run circuits discover again") from None
        return found

    def effects_of(self, name: str) -> pd.DataFrame:
        """Rows of one component in the table of effects."""
        return self.run.effects.rows(name)

    def acting(self, name: str, e: Emotion) -> list[tuple[Text, float]]:
        """Effect of a component on an emotion's own test texts [logits], largest first."""
        values = self.run.effects.of_component(name)
        pairs = []
        for prompt, value in zip(self.run.effects.prompt_ids, np.asarray(values)[:, e.column], strict=True):
            text = self.texts.get(prompt)
            if text is not None and text["emotion"] == str(e) and text["split"] == "test":
                pairs.append((text, float(value)))
        return sorted(pairs, key=lambda pair: -pair[1])

    def siblings(self) -> list[str]:
        """Names of other runs beside this one, newest first."""
        parent = self.run.directory.resolve().parent
        try:
            found = [
                p
                for p in parent.iterdir()
                if (p / "manifest.json").is_file() and p.name != self.run.directory.resolve().name
            ]
        except OSError:
            return []
        return [p.name for p in sorted(found, key=lambda p: -_time(p))][:200]

    def beside(self, name: str) -> Path:
        """The directory of a run beside this one.

        Raises:
            RunError: there is none of that name.
        """
        if name not in self.siblings():
            raise RunError(f"there is no run {name[:80]!r} beside this one; expected one of those listed")
        return self.run.directory.resolve().parent / name


def _time(path: Path) -> float:
    try:
        return (path / "manifest.json").stat().st_mtime
    except OSError:
        return 0.0
