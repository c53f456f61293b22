"""Types and shapes of every function of ``circuits``, checked at each call, at a cost that a whole suite can bear.

jaxtyping's own import hook costs most of the suite's time. Its decorator binds the arguments and calls two more functions
at each call (15 microseconds, where millions of calls are small), and while it loads one of our modules, Python looks for
the bytecode of every module imported from there, such as SciPy's, under another name, and compiles it again.
Here beartype checks arguments and results itself, and jaxtyping's context, in which axes of one name must agree, is
opened only for functions whose annotations name axes. What is refused is the same; ``tests/test_checking.py`` holds it.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import threading
import typing
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import beartype
import jaxtyping

__all__ = ["checked", "install"]

_NAME = "__checked__"

_CHECK = beartype.beartype(conf=beartype.BeartypeConf(violation_type=jaxtyping.TypeCheckError))
"""What is refused raises what the hook of jaxtyping raises, a TypeError: what the code itself does with one is tested too."""


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
    return _of_all_its_kind(made) if _repeats(made) else _function(made, made.__globals__)


def _function(made: Callable[..., Any], names: dict[str, Any]) -> Callable[..., Any]:
    made.__annotations__ = {name: _resolved(a, names) for name, a in made.__annotations__.items()}
    axes = any(map(_names_axes, made.__annotations__.values()))
    function = _CHECK(made)
    return _in_one_context(function) if axes else function


def _repeats(made: Any) -> bool:
    """Whether it is a function inside a function whose check is the same each time it is made.

    A hook is made anew for every layer of every run, and beartype compiles each check. A default may be another one each
    time and is checked too; annotations that are no text may be other objects.
    """
    return (
        "<locals>" in made.__qualname__
        and made.__defaults__ is None
        and made.__kwdefaults__ is None
        and not inspect.isgeneratorfunction(made)
        and all(isinstance(hint, str) for hint in made.__annotations__.values())
    )


_known: dict[CodeType, Callable[..., Any]] = {}
_asked = threading.local()


def _of_all_its_kind(made: Any) -> Callable[..., Any]:
    """The check that was compiled for the first function of this code, around this one."""
    if made.__code__ not in _known:

        @functools.wraps(_emptied(made))
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            function, _asked.function = _asked.function, None
            return function(*args, **kwargs)

        _known[made.__code__] = _function(stand_in, made.__globals__)
    check = _known[made.__code__]

    @functools.wraps(made)
    def call(*args: Any, **kwargs: Any) -> Any:
        _asked.function = made  # read as soon as the arguments are found right, before anything else is called
        return check(*args, **kwargs)

    return call


def _emptied(made: Any) -> Any:
    """The function without what it closes over: a check lives as long as the process and must keep no model alive."""
    cells = tuple(CellType() for _ in made.__code__.co_freevars) or None
    hollow: Any = FunctionType(made.__code__, made.__globals__, made.__name__, closure=cells)
    hollow.__qualname__, hollow.__module__, hollow.__doc__ = made.__qualname__, made.__module__, made.__doc__
    hollow.__annotations__ = made.__annotations__
    return hollow


def _in_one_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """Axes of one name have one size among all arguments and the result of a call."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jaxtyping.jaxtyped("context"):
            return function(*args, **kwargs)

    return call


class _Decorated(ast.NodeTransformer):
    """Functions with the check innermost, so that it sees the annotations; classes with it outermost, after ``@dataclass``."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list.append(ast.copy_location(ast.Name(_NAME, ast.Load()), node))
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, ast.copy_location(ast.Name(_NAME, ast.Load()), node))
        return self.generic_visit(node)


class _Loader(SourceFileLoader):
    """Decorates a module's source each time: bytecode on disk is that of the bare module."""

    def get_code(self, fullname: str) -> CodeType:
        tree = _Decorated().visit(ast.parse(self.get_data(self.path), self.path))
        code: CodeType = compile(tree, self.path, "exec", dont_inherit=True)
        return code

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[_NAME] = checked
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._package and not fullname.startswith(f"{self._package}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install(package: str) -> None:
    """Check every module of ``package`` that is imported from now on."""
    loaded = sorted(name for name in sys.modules if name == package or name.startswith(f"{package}."))
    if loaded:
        raise RuntimeError(f"{', '.join(loaded)} are imported already and would go unchecked; install the check first")
    sys.meta_path.insert(0, _Finder(package))
