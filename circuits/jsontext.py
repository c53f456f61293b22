"""JSON read strictly and written canonically.

Reading refuses what the standard library lets through: duplicate keys (the last one would win silently), ``NaN`` and
``Infinity`` (not JSON), and nesting deep enough to exhaust the stack. Writing sorts keys, so equal values give equal
bytes and fingerprints can be taken of the text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from circuits.errors import RunError

__all__ = ["canonical", "fingerprint", "loads", "plain", "shallow"]


def loads(text: str) -> Any:
    """Parse ``text``.

    Raises:
        ValueError: not JSON, a duplicate key, a non-finite number, or nesting beyond what can be parsed.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise ValueError("the value is nested too deeply") from None


def canonical(value: Any) -> str:
    """The one compact text of ``value``: sorted keys, no spaces, non-finite numbers refused.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical text, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def plain(value: object) -> Any:
    """JSON values out of numpy scalars, enums, tuples and paths; a number that does not exist becomes None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return value
    raise RunError(f"a {type(value).__name__} cannot be written as JSON; expected numbers, texts, lists, objects")


def shallow(value: object, most: int) -> bool:
    """Whether lists and objects are nested at most ``most`` deep; a plain value is 0 deep."""
    level = [value]
    for _ in range(most + 1):
        inner: list[object] = []
        for one in level:
            if isinstance(one, Mapping):
                inner += one.values()
            elif isinstance(one, list | tuple):
                inner += one
            else:
                continue
            inner.append(None)  # an empty list is a level too
        if not inner:
            return True
        level = inner
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = dict(pairs)
    if len(result) == len(pairs):
        return result
    result.clear()
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice")
        result[key] = value
    return result


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
