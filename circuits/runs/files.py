"""Writing files whole and reading them warily.

A file appears under its name complete or not at all: it is written to a temporary neighbour, flushed to disk and renamed. What
is read back may come from a stranger: no pickle, strict JSON, names that stay inside their folder, shapes and numbers checked.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyarrow import ArrowException

from circuits import jsontext
from circuits.errors import RunError
from circuits.jsontext import plain as _plain

__all__ = [
    "inside", "read_bytes", "read_json", "read_rows", "read_slice", "read_table", "read_tensor_header", "read_tensors", "sweep",
    "temporary", "write_bytes", "write_json", "write_table", "write_tensors",
]  # fmt: skip

_SUFFIX = ".writing"
_LONGEST = 200
_GROUP = 20_000
"""Rows of a parquet group: about one layer of GPT-2 in the table of effects."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def inside(directory: Path, name: str) -> Path:
    """``directory / name``, refused unless it stays inside.

    Raises:
        RunError: the name is absolute, climbs, holds odd characters, or leads through a link out of the directory.
    """
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise RunError(
            f"the file name {name[:_LONGEST]!r} is not allowed in a run; expected letters, digits, '.', '_' and '-'"
        )
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise RunError(f"the file {name!r} lies outside its run directory {directory}")
    return path


def write_bytes(path: Path, data: bytes) -> None:
    """Write the whole file or nothing.

    Raises:
        RunError: the disk is full, read-only, or the folder is no folder; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}; free space or choose another --out") from error


def _sync(folder: Path) -> None:
    """Make a rename durable: the directory entry is data of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(directory: Path) -> None:
    """Remove temporary files that a killed process left."""
    for path in directory.rglob(f".*{_SUFFIX}"):
        path.unlink(missing_ok=True)


def temporary(path: Path) -> bool:
    """Whether :func:`sweep` would remove this."""
    return path.name.startswith(".") and path.name.endswith(_SUFFIX)


def write_json(path: Path, value: object) -> None:
    """Readable JSON; NaN and infinity (a value that does not exist) become ``null``."""
    import json

    text = json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8"))


def read_bytes(path: Path, most: int) -> bytes:
    """Raises RunError when the file is missing, no file, or larger than ``most`` bytes."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(most + 1)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{str(path)[:_LONGEST]} cannot be read: {getattr(error, 'strerror', error)}; name a file"
        ) from None
    if len(data) > most:
        raise RunError(f"{path} has more than {most:,} bytes; expected a smaller file")
    return data


def read_json(path: Path) -> Any:
    """Raises RunError when the file is missing, no UTF-8, or no strict JSON."""
    try:
        return jsontext.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; the run is incomplete: run circuits discover again") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}; restore it or run circuits discover again") from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A parquet file, in groups of rows small enough that a reader who wants a few can leave out most."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, row_group_size=_GROUP)
    write_bytes(path, buffer.getvalue())


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Raises RunError when the file is missing, damaged, or lacks a column."""
    return _table(path, columns, {})


def read_rows(path: Path, columns: tuple[str, ...], where: Sequence[tuple[str, str, Any]]) -> pd.DataFrame:
    """These columns of the rows for which all conditions hold, as (column, ``==`` or ``in``, value or values).

    Groups of rows that cannot hold any are not decoded. Raises RunError as :func:`read_table`.
    """
    return _table(path, columns, {"columns": list(columns), "filters": list(where)})


def _table(path: Path, columns: tuple[str, ...], some: Mapping[str, Any]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path, engine="pyarrow", **some)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run circuits discover again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArrowException) as error:
        # The columns' own metadata is JSON that pandas reads without a check.
        raise RunError(f"{path} is not a readable parquet file: {error}; run circuits discover again") from None
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise RunError(f"{path} lacks the column {missing[0]!r}; expected {', '.join(columns)}")
    return table


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, object]) -> None:
    """A safetensors file; metadata values are stored as JSON texts."""
    from safetensors.numpy import save

    plain = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    data = save(plain, metadata={k: jsontext.canonical(_plain(v)) for k, v in metadata.items()})
    # The library writes the metadata in random order; equal contents shall be equal bytes.
    start = 8 + int.from_bytes(data[:8], "little")
    header = jsontext.canonical(jsontext.loads(data[8:start].decode("utf-8"))).encode("utf-8")
    header += b" " * (-len(header) % 8)
    write_bytes(path, len(header).to_bytes(8, "little") + header + data[start:])


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and metadata. Raises RunError when the file is missing or damaged."""
    with _tensors(path) as stream:
        return {name: stream.get_tensor(name) for name in stream.keys()}, _metadata(stream)  # noqa: SIM118 - no mapping


def read_tensor_header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Metadata and shapes; no array is read. Raises RunError when the file is missing or damaged."""
    with _tensors(path) as stream:
        return _metadata(stream), {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118


def read_slice(path: Path, name: str, place: int) -> NDArray[Any]:
    """One array's part at a place of its first axis; nothing else is read.

    Raises RunError when the file is missing or damaged, or has no such array or place.
    """
    with _tensors(path) as stream:
        part = stream.get_slice(name)
        if not part.get_shape() or not 0 <= place < part.get_shape()[0]:
            raise RunError(f"{path}: {name} has shape {part.get_shape()}; expected a place {place} on its first axis")
        found: NDArray[Any] = part[place : place + 1][0]
        return found


def _metadata(stream: Any) -> dict[str, Any]:
    return {k: jsontext.loads(v) for k, v in (stream.metadata() or {}).items()}


@contextlib.contextmanager
def _tensors(path: Path) -> Iterator[Any]:
    """An open safetensors file; what goes wrong inside is a RunError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            yield stream
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run circuits discover again") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} is not a readable safetensors file: {error}; run circuits discover again") from None
