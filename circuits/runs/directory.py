"""A run directory: what one walk found, in open formats, read back without the model's libraries.

``manifest.json`` is written first with status ``running`` and last, with the SHA-256 of every other file, with status
``finished``: a run is either whole and unaltered or an error. Intermediate measurements lie in ``parts/`` under the hash of all
they depend on, so that a killed walk resumes; they are removed when the run is finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from circuits.circuit.formats import to_graphml
from circuits.circuit.graph import Circuit
from circuits.compare.table import COLUMNS as COMPARISON_COLUMNS
from circuits.compare.table import DOSE_COLUMNS, EFFECT_COLUMNS, HALF_COLUMNS, RATE_COLUMNS, Comparison, SameEffect
from circuits.errors import RunError
from circuits.prompts.emotions import EMOTIONS, emotion
from circuits.runs import files
from circuits.runs.shards import Shards
from circuits.runs.stored import StoredEffects

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Run",
    "RunWriter",
    "StoredEffects",
    "finished_manifest",
    "is_finished",
    "open_run",
    "tidy",
]

FORMAT = "emotion-circuits-run/1"

MANIFEST = "manifest.json"
_PARTS = "parts"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: where it lies.
        manifest: fingerprints, settings, versions, times, notices.
        fresh: False when nothing had to be computed because the run was finished already.
    """

    directory: Path
    manifest: Mapping[str, Any]
    fresh: bool = False

    def circuit(self, name: str) -> Circuit:
        """The circuit of one emotion.

        Raises:
            PromptError: not one of the six.
            RunError: the file is damaged.
        """
        file = self._file(f"circuits/{emotion(name)}.json")
        circuit = Circuit.from_json(files.read_json(file))
        if circuit.nodes:
            _require(circuit.judgement, _JUDGEMENT, str(file))
        return circuit

    @cached_property
    def effects(self) -> StoredEffects:
        """Tables and per-prompt effects, read when they are asked for."""
        return StoredEffects(self._file("effects.parquet"), self._file("effects.safetensors"))

    @cached_property
    def comparison(self) -> Comparison:
        return Comparison(files.read_table(self._file("comparison.parquet"), COMPARISON_COLUMNS))

    @cached_property
    def same_effect(self) -> SameEffect:
        """Circuit and direction ablated side by side."""
        return SameEffect(files.read_table(self._file("same_effect.parquet"), EFFECT_COLUMNS))

    @cached_property
    def doses(self) -> pd.DataFrame:
        """What adding the direction and driving the circuit does: :attr:`circuits.compare.dose.Doses.table`.

        Without rows where it was not measured; ``circuits discover --thorough`` does. Runs of versions that could not have no
        such file.
        """
        if "doses.parquet" not in self.manifest["files"]:
            return pd.DataFrame(columns=list(DOSE_COLUMNS))
        return files.read_table(self._file("doses.parquet"), DOSE_COLUMNS)

    @cached_property
    def half_layers(self) -> pd.DataFrame:
        """What every half-layer does to the directions: :attr:`circuits.compare.halves.HalfLayers.table`."""
        return files.read_table(self._file("half_layers.parquet"), HALF_COLUMNS)

    @cached_property
    def half_layer_rates(self) -> pd.DataFrame:
        """How often one reading per layer would be wrong about the half: :attr:`circuits.compare.halves.HalfLayers.rates`."""
        return files.read_table(self._file("half_layer_rates.parquet"), RATE_COLUMNS)

    @cached_property
    def directions(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays ``<estimator>.vectors|norms|split_half`` and their metadata."""
        return files.read_tensors(self._file("directions.safetensors"))

    @property
    def report(self) -> Path:
        return self._file("report.html")

    def _file(self, name: str) -> Path:
        return files.inside(self.directory, name)


def open_run(path: str | os.PathLike[str]) -> Run:
    """Read a finished run; neither torch nor the model's libraries are imported.

    Raises:
        RunError: no run there, an unfinished one, or one whose files are missing or altered.
    """
    tables = ("effects", "comparison", "same_effect", "half_layers", "half_layer_rates")
    required = (*(f"{name}.parquet" for name in tables), *(f"circuits/{e}.json" for e in EMOTIONS))
    directory = Path(path)
    return Run(directory, finished_manifest(directory, FORMAT, "discover", _MANIFEST, required))


def finished_manifest(
    directory: Path, kind: str, command: str, wanted: Mapping[str, Any], required: Sequence[str]
) -> dict[str, Any]:
    """The manifest of a finished directory of a kind, whose files are all there and unaltered.

    Args:
        command: of the command line that makes such directories, for what to do next.
        wanted: keys and types the manifest must have.
        required: files it must list.

    Raises:
        RunError: nothing there, something else, unfinished, or files missing or altered.
    """
    again = f"remove the directory and run circuits {command} again"
    if not os.path.isdir(directory):  # pathlib raises on a name too long to exist
        raise RunError(f"no run directory {str(directory)!r}; make one with: circuits {command} --out {directory}")
    if not (directory / MANIFEST).is_file():
        raise RunError(f"{directory} is no run directory: it has no {MANIFEST}; make a run with circuits {command}")
    manifest = files.read_json(directory / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != kind:
        raise RunError(f"{directory / MANIFEST} is no manifest of this version; expected format {kind!r}")
    if manifest.get("status") != "finished":
        raise RunError(
            f"the run in {directory} is half written; run circuits {command} with the same settings to finish it"
        )
    _require(manifest, wanted, str(directory / MANIFEST))
    if kind == FORMAT:
        _require_audit(manifest["screen"]["audit"], f"{directory / MANIFEST}: screen: audit")
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise RunError(f"{directory / MANIFEST} lists no files; {again}")
    for name, digest in listed.items():
        file = files.inside(directory, str(name))
        if not file.is_file():
            raise RunError(f"{file} is listed but missing; {again}")
        if _digest(file) != digest:
            raise RunError(f"{file} was altered after the run: its SHA-256 differs; restore it, or {again}")
    for name in required:
        if name not in listed:
            raise RunError(f"{directory / MANIFEST} does not list {name}; {again}")
    return manifest


_NUMBER = (int, float)

_MANIFEST: Mapping[str, Any] = {
    "model": {"name": str, "layers": int, "heads": int, "neurons": int},
    "prompts": {"name": str, "lexical": str, "scenarios": dict},
    "settings": dict,
    "versions": dict,
    "seconds": dict,
    "notices": list,
    "screen": {"neurons": int, "verified": int, "audit": (dict, type(None))},
    "reliability": dict,
    "engine": dict,
    "judge": dict,
}
_AUDIT: Mapping[str, Any] = dict.fromkeys(("drawn", "rest", "missed", "upper", "n"), int)
_JUDGEMENT: Mapping[str, Any] = {
    "reached": bool,
    "random": list,
    **dict.fromkeys(
        ("faithfulness", "metric_whole", "metric_empty", "random_mean", "random_p", "random_n", "n"), _NUMBER
    ),
    # An interval needs five scenarios.
    **dict.fromkeys(("faithfulness_low", "faithfulness_high"), (*_NUMBER, type(None))),
}


def _require(found: object, wanted: Any, where: str) -> None:
    """Raise RunError unless ``found`` has the keys and types of ``wanted``: a run may come from a stranger."""
    if not isinstance(wanted, Mapping):
        if not isinstance(found, wanted):
            raise RunError(
                f"{where} is a {type(found).__name__}; expected another type: the run was not made by this package"
            )
        return
    if not isinstance(found, Mapping):
        raise RunError(f"{where} is a {type(found).__name__}; expected an object")
    for key, kind in wanted.items():
        if key not in found:
            raise RunError(f"{where} lacks {key!r}; the run was not made by this version of the package")
        _require(found[key], kind, f"{where}: {key}")
    for key in ("seconds", "random"):
        values = found.get(key, ())
        if not all(isinstance(v, _NUMBER) for v in (values.values() if isinstance(values, Mapping) else values)):
            raise RunError(f"{where}: {key} holds something that is no number; the run was not made by this package")


def _require_audit(found: Mapping[str, Any] | None, where: str) -> None:
    """Raise RunError unless an audit, where there is one, holds its counts and figures with intervals."""
    if found is None:
        return
    _require(found, _AUDIT, where)
    for name in ("rank", "slope"):
        figure = found.get(name)
        if not isinstance(figure, list) or len(figure) != 3:
            raise RunError(f"{where}: {name} is {figure!r}; expected a figure and its interval")
        if not all(x is None or isinstance(x, _NUMBER) for x in figure):
            raise RunError(f"{where}: {name} is {figure!r}; expected numbers")


def is_finished(directory: Path, key: str) -> bool:
    """Whether a directory's manifest says that the run of this key is finished.

    Raises:
        RunError: it cannot be read.
    """
    if not os.path.isfile(directory / MANIFEST):
        return False
    found = files.read_json(directory / MANIFEST)
    return isinstance(found, dict) and found.get("key") == key and found.get("status") == "finished"


def tidy(directory: Path) -> None:
    """Remove the parts of a finished run whose writer was killed before it could; where that is impossible they stay."""
    if (directory / _PARTS).is_dir():
        with contextlib.suppress(OSError), open(directory / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory / _PARTS, ignore_errors=True)


def _require_ours(directory: Path, key: str) -> None:
    """Raise RunError unless a directory is new, empty, or holds a run of this key."""
    if os.path.isfile(directory / MANIFEST):
        found = files.read_json(directory / MANIFEST)
        theirs = found.get("key") if isinstance(found, dict) else None
        if theirs != key:
            raise RunError(
                f"{directory} holds a run of another model, prompt set, setting or version; "
                "choose another --out or remove it"
            )
    elif _foreign(directory) and not os.path.isfile(directory / MANIFEST):  # it may have appeared meanwhile
        raise RunError(f"{directory} is not empty and holds no run; choose an empty or new directory")


def _foreign(directory: Path) -> bool:
    """Whether a directory holds files that are no run's."""
    try:
        found = list(directory.iterdir()) if os.path.isdir(directory) else []
    except OSError as error:
        raise RunError(f"{directory} cannot be read: {error.strerror}; choose another --out") from error
    return any(p.name not in (".lock", _PARTS) and not files.temporary(p) for p in found)


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror}; remove the directory and run discover again"
        ) from None


class RunWriter:
    """Fills a run directory; one process at a time.

    Attributes:
        directory: the run directory.
        key: hash of everything the run depends on.
        finished: whether a run of this key lay there finished when the directory was locked.
    """

    def __init__(self, directory: Path, key: str, about: Mapping[str, Any], kind: str = FORMAT) -> None:
        self.directory = directory
        self.key = key
        self._format = kind
        self._about = dict(about)
        self._files: dict[str, str] = {}
        self._begun = False
        self.finished = False

    @classmethod
    @contextmanager
    def opened(cls, directory: Path, key: str, about: Mapping[str, Any], kind: str = FORMAT) -> Iterator[RunWriter]:
        """Lock ``directory`` and mark it as running; ``kind`` is the format its manifest names.

        What lies there finished under the same key stays so until something is written.

        Raises:
            RunError: it is a file, cannot be written, holds something else, or another process is writing it.
        """
        if os.path.exists(directory) and not directory.is_dir():
            raise RunError(f"the output directory {str(directory)!r} is a file; choose another --out")
        _require_ours(directory, key)  # before anything is made there
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = open(directory / ".lock", "a")  # noqa: SIM115 - held until the end
        except OSError as error:
            raise RunError(f"cannot write to {directory}: {error.strerror}; choose another --out") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"another process is writing {directory}; wait for it or choose another --out") from None
            _require_ours(directory, key)  # again: another process may have written there since
            files.sweep(directory)
            writer = cls(directory, key, about, kind)
            writer.finished = is_finished(directory, key)
            if not writer.finished:
                writer._begin()
            yield writer

    def json(self, name: str, value: object) -> None:
        files.write_json(self._path(name), value)
        self._done(name)

    def table(self, name: str, table: pd.DataFrame) -> None:
        files.write_table(self._path(name), table)
        self._done(name)

    def tensors(self, name: str, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, object]) -> None:
        files.write_tensors(self._path(name), tensors, metadata)
        self._done(name)

    def graphml(self, name: str, circuit: Circuit) -> None:
        self.text(name, to_graphml(circuit))

    def text(self, name: str, text: str) -> None:
        files.write_bytes(self._path(name), text.encode("utf-8"))
        self._done(name)

    @property
    def shards(self) -> Shards:
        """Where intermediate measurements are kept, each under everything it depends on."""
        return Shards(self.directory / _PARTS)

    def finish(self, extra: Mapping[str, Any]) -> Run:
        """Write the final manifest and drop the intermediate parts."""
        return Run(self.directory, self.close(extra), fresh=True)

    def close(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Write the final manifest, drop the intermediate parts, and give the manifest back."""
        self._manifest("finished", {**extra, "files": dict(sorted(self._files.items()))})
        shutil.rmtree(self.directory / _PARTS, ignore_errors=True)
        manifest: dict[str, Any] = files.read_json(self.directory / MANIFEST)
        return manifest

    def _manifest(self, status: str, extra: Mapping[str, Any]) -> None:
        value = {"format": self._format, "status": status, "key": self.key, **self._about, **extra}
        files.write_json(self.directory / MANIFEST, value)

    def _begin(self) -> None:
        """Mark the directory as running, once."""
        if not self._begun:
            self._manifest("running", {})
            self._begun = True

    def _path(self, name: str) -> Path:
        """Where a file is about to be written."""
        self._begin()
        return files.inside(self.directory, name)

    def _done(self, name: str) -> None:
        self._files[name] = _digest(files.inside(self.directory, name))
