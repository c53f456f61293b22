"""A measurement in a directory of its own: priced before it is paid, kept piece by piece, finished once.

``sweep`` is :func:`circuits.measure` for work that takes longer than one likes to lose: killed at any moment, it goes on
where it was and ends with the same bits. The directory then holds ``effects.parquet`` (the table), ``effects.safetensors``
(every effect, prompt by prompt) and ``manifest.json``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits import jsontext
from circuits.prompts.emotions import EMOTIONS
from circuits.runs import files
from circuits.runs.directory import RunWriter, finished_manifest, is_finished, tidy
from circuits.runs.stored import StoredEffects

if TYPE_CHECKING:
    from circuits.effects.kinds import Ablation, Arithmetic, Method, Positions
    from circuits.effects.measure import Progress
    from circuits.effects.table import Effects
    from circuits.model.anatomy import Model
    from circuits.model.sites import Component
    from circuits.prompts.datasets import Prompts

__all__ = ["FORMAT", "Sweep", "open_sweep", "sweep", "write_effects"]

FORMAT = "emotion-circuits-sweep/1"

_WANTED: Mapping[str, Any] = {
    "model": {"name": str}, "prompts": {"name": str}, "asked": dict, "with": dict, "engine": dict,
    "seconds": dict, "notices": list,
}  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """A finished measurement.

    Attributes:
        directory: where it lies.
        manifest: model, prompts, what was asked, with what it was made, how, seconds, notices.
        fresh: False when it had been finished before.
    """

    directory: Path
    manifest: Mapping[str, Any]
    fresh: bool = False

    @cached_property
    def effects(self) -> StoredEffects:
        """The table, and every effect prompt by prompt."""
        place = files.inside
        return StoredEffects(place(self.directory, "effects.parquet"), place(self.directory, "effects.safetensors"))


def open_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Read a finished measurement; torch is not imported.

    Raises:
        RunError: none there, an unfinished one, or one whose files are missing or altered.
    """
    directory = Path(path)
    required = ("effects.parquet", "effects.safetensors")
    return Sweep(directory, finished_manifest(directory, FORMAT, "measure", _WANTED, required))


def sweep(
    model: Model,
    prompts: Prompts,
    components: str | Iterable[str | Component],
    directory: str | os.PathLike[str],
    *,
    method: Method | str = "exact",
    ablation: Ablation | str = "mean_scenario",
    positions: Positions | str = "all",
    steps: int = 5,
    arithmetic: Arithmetic | str = "float32",
    progress: Progress | None = None,
) -> Sweep:
    """Measure into ``directory``; arguments as :func:`circuits.measure`.

    Raises:
        RunError: the directory is a file, holds something else, cannot be written, or another process is writing it.
        ComponentError, MeasurementError, AnswerError, SettingsError: see :func:`circuits.measure`.
    """
    from circuits.effects.kinds import Ablation, Arithmetic, Method, Positions, member
    from circuits.effects.measure import engine, measure, require_sense
    from circuits.effects.task import measured_with

    wanted = model.components(components)
    asked = {
        "method": str(member(Method, method)), "ablation": str(member(Ablation, ablation)),
        "positions": str(member(Positions, positions)), "steps": steps, "components": len(wanted),
        "arithmetic": str(member(Arithmetic, arithmetic)),
    }  # fmt: skip
    # Before anything is written: what is refused leaves no directory behind.
    narrow = asked["arithmetic"] == Arithmetic.BFLOAT16
    require_sense(model, wanted, member(Method, method), steps=steps, narrow=narrow)
    made_with = measured_with(model)
    names = [c.name for c in wanted]
    key = jsontext.fingerprint({"asked": asked, "components": names, "prompts": prompts.fingerprint, "with": made_with})
    place = Path(directory)
    if is_finished(place, key):
        tidy(place)
        return open_sweep(place)
    about = {
        "model": {"name": model.name}, "asked": asked, "with": made_with, "engine": engine(model),
        "prompts": {"name": prompts.name, "fingerprint": prompts.fingerprint, "rows": len(prompts)},
    }  # fmt: skip
    with RunWriter.opened(place, key, about, FORMAT) as writer:
        if writer.finished:  # by another process, since
            return open_sweep(place)
        start = time.perf_counter()
        effects = measure(
            model, prompts, wanted, method=method, ablation=ablation, positions=positions, steps=steps,
            arithmetic=arithmetic, progress=progress, store=writer.shards,
        )  # fmt: skip
        writer.table("effects.parquet", effects.table)
        write_effects(writer, effects)
        seconds = round(max(0.0, time.perf_counter() - start), 3)  # a clock may be set back
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        answers = {str(e): list(ids) for e, ids in effects.answers.items()}
        extra = {
            "seconds": {"measuring": seconds},
            "notices": list(effects.notices),
            "answers": answers,
            "finished": finished,
        }
        return Sweep(place, writer.close(extra), fresh=True)


def write_effects(writer: RunWriter, effects: Effects) -> None:
    """``effects.safetensors``: ``values`` [component, prompt, emotion], ``clean`` [prompt, emotion], and names of the axes."""
    writer.tensors(
        "effects.safetensors",
        {"values": effects.values, "clean": effects.clean},
        {
            "components": [c.name for c in effects.components],
            "methods": [str(m) for m in effects.methods],
            "prompts": list(effects.prompts.ids),
            "emotions": [str(e) for e in EMOTIONS],
            "unit": effects.unit,
        },
    )
