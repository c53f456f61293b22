"""Shards on disk: pieces of a measurement under the hash of everything they depend on.

A shard is written whole (:func:`circuits.runs.files.write_tensors`), named by its key, and carries key and checksum inside:
one of another model, prompt file, setting or library is never asked for, and a damaged or renamed one is an error, not a
number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits import jsontext
from circuits.errors import RunError
from circuits.runs import files

__all__ = ["Shards"]

_REMEDY = "delete it and run again: it is made anew"


@dataclass(frozen=True)
class Shards:
    """Shards in one folder. Whoever writes there holds the run directory's lock."""

    folder: Path

    def path(self, key: Mapping[str, Any]) -> Path:
        """Where the shard of this key lies or would lie."""
        return self.folder / f"{jsontext.fingerprint(key)[:32]}.safetensors"

    def get(self, key: Mapping[str, Any]) -> dict[str, NDArray[Any]] | None:
        """The shard, or None where it has to be made.

        Raises:
            RunError: the file is damaged, or holds a shard of another key.
        """
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            tensors, metadata = files.read_tensors(path)
        except RunError as error:
            raise RunError(f"the shard {path} cannot be read; {_REMEDY} ({error})") from None
        if metadata.get("key") != jsontext.fingerprint(key):
            raise RunError(f"the shard {path} belongs to another measurement; {_REMEDY}")
        if metadata.get("sha256") != _content(tensors):
            raise RunError(f"the shard {path} is damaged: its content differs from its checksum; {_REMEDY}")
        return tensors

    def put(self, key: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        """Keep a shard, whole or not at all.

        Raises:
            RunError: it cannot be written.
        """
        about = {"key": jsontext.fingerprint(key), "sha256": _content(tensors), "about": dict(key)}
        files.write_tensors(self.path(key), tensors, about)


def _content(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
