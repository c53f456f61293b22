"""What a reader looked at, kept under a name beside the run's results: ``views/<name>.json``.

A view is no result: the manifest does not list it, and a run with views is the run it was. It holds the key of the run it was
made on and is refused on any other. Views may come from a stranger, like all of a run.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from circuits import jsontext
from circuits.errors import RunError
from circuits.runs import files
from circuits.runs.directory import Run

__all__ = [
    "DEEPEST",
    "FORMAT",
    "LARGEST",
    "LONGEST",
    "MOST",
    "View",
    "list_views",
    "load_view",
    "remove_view",
    "save_view",
]

FORMAT = "emotion-circuits-view/1"
LARGEST = 256 * 1024
"""Bytes of a view's state as JSON."""
LONGEST = 60
"""Letters of a name."""
MOST = 200
"""Views of one run."""
DEEPEST = 32
"""Lists and objects of a state inside one another."""

_FOLDER = "views"
_ENDING = ".json"
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9 _-]*[A-Za-z0-9_-])?", re.ASCII)
_KEYS = {"format", "name", "key", "saved", "state"}


@dataclass(frozen=True)
class View:
    """One saved view.

    Attributes:
        key: of the run it was made on.
        saved: when, ISO 8601, UTC.
        state: what the page needs to show it again: JSON values.
    """

    name: str
    key: str
    saved: str
    state: Mapping[str, Any]


def save_view(run: Run, name: str, state: Mapping[str, Any]) -> View:
    """Keep ``state`` under ``name``; a view of this name is replaced, whole or not at all.

    Raises:
        RunError: the name is not allowed, the state is no plain JSON object, too large or nested too deeply, the run has
            :data:`MOST` views already, or its directory cannot be written.
    """
    path = _path(run, name)
    there = list_views(run)
    if name not in there and len(there) >= MOST:
        raise RunError(f"the run has {len(there)} views; expected at most {MOST}: remove one, {there[0]!r} say")
    alike = [other for other in there if other != name and other.lower() == name.lower()]
    if alike:  # one file on some disks
        raise RunError(f"the view {name!r} differs from {alike[0]!r} in capitals only; choose another name")
    text = jsontext.canonical(_state(state, f"the state of {name!r}"))
    view = View(name, _key(run), datetime.now(UTC).isoformat(timespec="seconds"), jsontext.loads(text))
    value = {"format": FORMAT, "name": name, "key": view.key, "saved": view.saved, "state": view.state}
    try:
        files.write_bytes(path, (jsontext.canonical(value) + "\n").encode("utf-8"))
    except RunError as error:
        raise RunError(
            f"the view {name!r} is not kept: {getattr(error.__cause__, 'strerror', error)}; copy the run to where you may write"
        ) from error
    return view


def load_view(run: Run, name: str) -> View:
    """The view of a name.

    Raises:
        RunError: no such view, another run's, another version's, or a damaged file.
    """
    path = _path(run, name)
    if not path.is_file():  # nor a pipe, which would never end
        raise RunError(
            f"the run has no view {name!r}; expected one of {', '.join(map(repr, list_views(run))) or 'none'}"
        )
    try:
        value = jsontext.loads(files.read_bytes(path, LARGEST + 4096).decode("utf-8"))
    except ValueError as error:
        raise RunError(f"the view {name!r} cannot be read: {error}; remove it") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise RunError(f"the view {name!r} has format {str(found)[:60]!r}; expected {FORMAT!r}: remove it")
    if set(value) != _KEYS or not all(isinstance(value[key], str) for key in ("name", "key", "saved")):
        raise RunError(
            f"the view {name!r} was altered: expected {', '.join(sorted(_KEYS))}, all but the state texts; remove it"
        )
    if value["name"] != name:
        raise RunError(f"the view {name!r} was renamed: inside it is {value['name'][:LONGEST]!r}; save it again")
    if value["key"] != _key(run):
        raise RunError(
            f"the view {name!r} belongs to the run {value['key'][:64]!r}; this one is {_key(run)!r}: open that run"
        )
    try:
        datetime.fromisoformat(value["saved"])
    except ValueError:
        raise RunError(f"the view {name!r} was altered: saved is {value['saved'][:60]!r}; expected a time") from None
    return View(name, value["key"], value["saved"], _state(value["state"], f"the state of {name!r}"))


def list_views(run: Run) -> tuple[str, ...]:
    """Names of the views, sorted; what is inside is looked at by :func:`load_view`.

    Raises:
        RunError: the folder cannot be read, or holds far more than :data:`MOST` files.
    """
    folder = files.inside(run.directory, _FOLDER)
    if not os.path.lexists(folder):
        return ()
    try:
        found = list(islice(folder.iterdir(), 10 * MOST))
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror}; remove it") from error
    if len(found) == 10 * MOST:
        raise RunError(f"{folder} holds {10 * MOST} files or more; expected at most {MOST} views: remove some")
    names = (
        path.name.removesuffix(_ENDING).replace(".", " ")
        for path in found
        if path.name.endswith(_ENDING) and path.is_file()
    )
    return tuple(sorted(name for name in names if _allowed(name)))


def remove_view(run: Run, name: str) -> None:
    """Forget a view.

    Raises:
        RunError: no such view, or it cannot be removed.
    """
    path = _path(run, name)
    try:
        path.unlink()
    except OSError as error:
        raise RunError(f"the view {name!r} cannot be removed: {error.strerror}") from error
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # where it was the last one


def _allowed(name: str) -> bool:
    return len(name) <= LONGEST and _NAME.fullmatch(name) is not None


def _path(run: Run, name: str) -> Path:
    if not _allowed(name):
        raise RunError(
            f"a view cannot be named {name[: LONGEST + 1]!r}; expected 1 to {LONGEST} letters, digits, '-', '_', spaces inside"
        )
    # Names of files hold no spaces here, names of views no dots.
    return files.inside(run.directory, f"{_FOLDER}/{name.replace(' ', '.')}{_ENDING}")


def _key(run: Run) -> str:
    key = run.manifest.get("key")
    if not isinstance(key, str) or not key:
        raise RunError(
            f"the manifest of {run.directory} has the key {key!r}; expected a text: the run was not made by this package"
        )
    return key


def _state(state: object, what: str) -> Mapping[str, Any]:
    """``state``, found to be a JSON object of a bounded size.

    Raises:
        RunError: it is not.
    """
    if not isinstance(state, Mapping):
        raise RunError(f"{what} is a {type(state).__name__}; expected an object")
    if not jsontext.shallow(state, DEEPEST):
        raise RunError(f"{what} is nested more than {DEEPEST} deep; expected less")
    _require_plain(state, what)
    try:
        size = len(jsontext.canonical(state).encode("utf-8"))
    except ValueError as error:  # NaN, half a surrogate pair, a number of thousands of digits
        raise RunError(f"{what} is no JSON: {error}") from None
    if size > LARGEST:
        raise RunError(f"{what} has {size:,} bytes; expected at most {LARGEST:,}")
    return state


def _require_plain(value: object, what: str) -> None:
    """Raise RunError unless ``value`` is JSON as it is: nothing is turned into a text, so what is loaded is what was saved."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise RunError(f"{what} has the key {str(key)[:60]!r}, a {type(key).__name__}; expected texts as keys")
            _require_plain(inner, what)
    elif isinstance(value, list):
        for inner in value:
            _require_plain(inner, what)
    elif value is not None and not isinstance(value, str | int | float):
        raise RunError(f"{what} holds a {type(value).__name__}; expected numbers, texts, lists, objects")
