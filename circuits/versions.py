"""What numbers were made with: versions of the libraries, and a hash of this package's own source."""

from __future__ import annotations

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

__all__ = ["code", "versions"]

_PACKAGES = ("emotion-circuits", "transformer_lens", "transformers", "torch", "numpy")


def versions() -> dict[str, str]:
    """Version by package."""
    from circuits import __version__

    return {name: __version__ if name == "emotion-circuits" else version(name) for name in _PACKAGES}


@functools.cache
def code() -> str:
    """SHA-256 of this package's source: a mended bug must not be answered with the old numbers."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()
