"""Files that come with the package: prompt sets, word lists, the embedded model.

In a checkout they lie in ``data/`` beside the package; in an installed wheel inside it.
"""

from __future__ import annotations

from pathlib import Path

from circuits.errors import CircuitsError

__all__ = ["PROMPT_SETS", "path"]

PROMPT_SETS = (
    "microstories", "microstories_plain", "microstories_explicit", "situations", "first_person", "third_person", "explicit",
)  # fmt: skip
"""Prompt sets that can be asked for by name."""

_PACKAGE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Where the shipped file or folder ``name`` lies.

    Raises:
        CircuitsError: the installation lacks it.
    """
    for root in (_PACKAGE / "data", _PACKAGE.parent / "data"):
        candidate = root / name
        if candidate.exists():
            return candidate
    raise CircuitsError(
        f"the shipped file {name!r} is missing beside {_PACKAGE}; reinstall the package or restore data/ from source"
    )
