"""The run a user means who names none."""

from __future__ import annotations

from pathlib import Path

from circuits.errors import RunError
from circuits.runs.directory import FORMAT, MANIFEST
from circuits.runs.files import read_json

__all__ = ["newest_run"]


def newest_run(folder: Path) -> Path:
    """The directory of the finished run that was written last.

    Raises:
        RunError: the folder holds none; how to make one is said.
    """
    found = [path for path in sorted(folder.glob(f"*/{MANIFEST}")) if _finished(path)]
    if not found:
        raise RunError(
            f"there is no finished run in {str(folder)!r} yet; make one with: circuits discover (or make discover)"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def _finished(path: Path) -> bool:
    """Sweeps and half-written runs lie in the same folder; what cannot be read is passed over."""
    try:
        manifest = read_json(path)
    except RunError:
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT and manifest.get("status") == "finished"
