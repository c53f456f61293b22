"""What a number was made with, as one word: versions, settings, and the source of all code that could have touched it.

Only modules a computation can reach by its imports count, so that a new figure or file format does not cost an hour of
measuring again; what is reached is read off the source, not off what happened to be loaded.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path

from circuits.versions import versions

__all__ = ["fingerprint", "reached"]

PACKAGE = "circuits"
LISTS = frozenset({"circuits.circuit.methods"})
"""Modules that only list others: a method does not depend on the methods beside it."""


def fingerprint(roots: Iterable[str], *facts: object) -> str:
    """Hash of everything ``roots`` (dotted modules) reach, the libraries' versions and some facts."""
    digest = hashlib.sha256()
    for name in sorted(reached(tuple(sorted(set(roots))))):
        path = _file(name)
        digest.update(f"{name}\n".encode() + (path.read_bytes() if path else b""))
    libraries = {name: number for name, number in versions().items() if name != "emotion-circuits"}
    digest.update(json.dumps([libraries, *map(str, facts)], sort_keys=True).encode())
    return digest.hexdigest()[:16]


@functools.cache
def reached(roots: tuple[str, ...]) -> frozenset[str]:
    """Modules of the package (and the roots) that are imported, directly or not, at any depth of nesting."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found and _file(name):
            found.add(name)
            waiting += [other for other in _imports(name) if other.startswith(f"{PACKAGE}.") and other not in LISTS]
    return frozenset(found)


@functools.cache
def _file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None  # a name inside a module
    return Path(spec.origin) if spec and spec.origin else None


@functools.cache
def _imports(name: str) -> tuple[str, ...]:
    path, names = _file(name), []
    assert path is not None
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)
