"""JSON read strictly and written canonically.

Reading refuses what the standard library lets through: duplicate keys (the last one would win silently), ``NaN`` and
``Infinity`` (not JSON), and nesting deep enough to exhaust the stack. Writing sorts keys, so equal values give equal
bytes and fingerprints can be taken of the text.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NoReturn

__all__ = ["canonical", "fingerprint", "loads"]


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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice")
        result[key] = value
    return result


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
