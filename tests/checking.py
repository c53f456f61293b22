"""Types and shapes of every function of ``circuits``, checked at each call, at a cost that a whole suite can bear.

jaxtyping's import hook decorates every function with ``jaxtyped(typechecker=beartype)``, which binds the arguments and
calls two more functions at each call: 15 microseconds, most of the suite's time where millions of calls are small.
Here beartype checks arguments and results itself, and jaxtyping's context, in which axes of one name must agree, is
opened only for functions whose annotations name axes. What is refused is the same; ``tests/test_checking.py`` holds it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping

__all__ = ["checked", "install"]


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    """The type that an annotation's text means; anything, where it means nothing at run time (imports for types only)."""
    if not isinstance(annotation, str):
        return annotation

    def stub(value: Any) -> None: ...

    stub.__annotations__ = {"value": annotation}
    try:
        return typing.get_type_hints(stub, names, include_extras=True)["value"]
    except Exception:  # noqa: BLE001 - whatever a foreign annotation raises
        return Any


def _names_axes(annotation: Any) -> bool:
    """Whether a jaxtyping array is anywhere in a type."""
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(_names_axes(inner) for inner in _inner(annotation))


def _inner(annotation: Any) -> tuple[Any, ...]:
    """What a generic type is of; lists of types are those of a Callable's arguments."""
    return tuple(annotation) if isinstance(annotation, list) else typing.get_args(annotation)


def checked(made: Any) -> Any:
    """A function (or a dataclass's way of being made) whose arguments and result are checked at each call."""
    if inspect.isclass(made):
        if dataclasses.is_dataclass(made) and "__init__" in vars(made):
            made.__init__ = checked(made.__init__)  # type: ignore[misc]
        return made
    if isinstance(made, classmethod | staticmethod):
        return type(made)(checked(made.__func__))
    if isinstance(made, property):
        return property(*(part and checked(part) for part in (made.fget, made.fset, made.fdel)))
    made.__annotations__ = {name: _resolved(a, made.__globals__) for name, a in made.__annotations__.items()}
    axes = any(map(_names_axes, made.__annotations__.values()))
    function = beartype.beartype(made)
    return _in_one_context(function) if axes else function


def _in_one_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """Axes of one name have one size among all arguments and the result of a call."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jaxtyping.jaxtyped("context"):
            return function(*args, **kwargs)

    return call


def install(package: str) -> None:
    """Check every module of ``package`` that is imported from now on."""
    plain = jaxtyping.jaxtyped

    def jaxtyped(fn: Any = None, **options: Any) -> Any:
        # The hook writes ``@jaxtyping.jaxtyped(typechecker=...)`` over every function of the package.
        if fn == "context":
            return plain("context")
        return checked if fn is None else checked(fn)

    jaxtyping.jaxtyped = jaxtyped  # type: ignore[assignment]
    jaxtyping.install_import_hook(package, "beartype.beartype")
