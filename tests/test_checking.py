"""The run-time check of types and shapes refuses what jaxtyping's own hook refuses."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import checking
import pytest
import torch
from checking import checked
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import circuits.model.sites

refused = pytest.raises(TypeCheckError)


@checked
def product(
    a: Float[Tensor, "row inner"], b: Float[Tensor, "inner column"], times: int = 1
) -> Float[Tensor, "row column"]:
    return a @ b if times else a


def test_axes_of_one_name_have_one_size_among_arguments_and_result() -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    assert product(a, b).shape == (2, 4)
    assert product(b, torch.ones(4, 2)).shape == (3, 2)  # every call has axes of its own
    with refused:
        product(a, a)
    with refused:
        product(a, b, times=0)
    with refused:
        product(a.int(), b)
    with refused:
        product(a, b, times="once")


def test_axes_are_found_deep_inside_a_type() -> None:
    @checked
    def deep(a: Float[Tensor, " n"], found: dict[str, tuple[Float[Tensor, " n"], int]] | None) -> None: ...

    @checked
    def later(a: Float[Tensor, " n"], made: Callable[[Float[Tensor, " n"]], int]) -> Sequence[Float[Tensor, " n"]]:
        return [torch.ones(made(a))]

    deep(torch.ones(2), None)
    deep(torch.ones(2), {"x": (torch.ones(2), 1)})
    with refused:
        deep(torch.ones(2), {"x": (torch.ones(3), 1)})
    assert len(later(torch.ones(2), len)) == 1
    with refused:
        later(torch.ones(2), lambda a: 3)


def test_one_calls_axes_are_not_anothers() -> None:
    @checked
    def twice(a: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        once(torch.ones(len(a) + 1))
        return a if len(a) > 1 else torch.ones(2)

    @checked
    def once(a: Float[Tensor, " n"]) -> None: ...

    assert len(twice(torch.ones(3))) == 3
    with refused:
        twice(torch.ones(1))


@checked
@dataclass(frozen=True)
class Pair:
    left: Float[Tensor, " n"]
    right: Float[Tensor, " n"]
    name: str = ""

    @property
    @checked
    def size(self) -> int:
        return len(self.left) if self.name else None  # type: ignore[return-value]

    @classmethod
    @checked
    def of(cls, both: Float[Tensor, " n"]) -> Pair:
        return cls(both, both)


def test_so_are_dataclasses_properties_and_class_methods() -> None:
    assert Pair(torch.ones(2), torch.ones(2), "x").size == 2
    with refused:
        Pair(torch.ones(2), torch.ones(3))
    with refused:
        Pair(torch.ones(2), torch.ones(2), name=1)
    with refused:
        _ = Pair.of(torch.ones(2)).size
    with refused:
        Pair.of([1.0])


def test_a_generator_is_checked_for_being_one() -> None:
    @checked
    def counted(n: int) -> Iterator[int]:
        yield from range(n)

    assert list(counted(3)) == [0, 1, 2]
    with refused:
        list(counted("3"))


def scaled(factor: float) -> Callable[..., object]:
    @checked
    def inner(x: Float[Tensor, " n"], y: Float[Tensor, " n"], *, twice: bool) -> Float[Tensor, " n"]:
        """Its own words."""
        out = (x + y) * factor
        return torch.stack([out, out]) if twice else out

    return inner


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_functions_of_one_code_share_a_check_and_each_keeps_its_own_values(factor: float) -> None:
    before, inner, other, x = len(checking._known), scaled(factor), scaled(5.0), torch.ones(3)
    assert len(checking._known) - before <= 1
    assert inner(x, x, twice=False).tolist() == [2 * factor] * 3
    assert other(x, x, twice=False).tolist() == [10.0] * 3
    for wrong in ({"y": [1.0, 1.0, 1.0]}, {"y": torch.ones(4)}, {"twice": True}, {"twice": 1}):
        with refused:
            inner(**{"x": x, "y": x, "twice": False, **wrong})
    with pytest.raises(TypeError, match="twice"):
        inner(x, x)
    assert inner(x, x, twice=False).tolist() == [2 * factor] * 3  # nothing is left behind of those that were refused
    assert (inner.__name__, inner.__doc__) == ("inner", "Its own words.")


def test_one_that_calls_another_of_its_kind_gets_its_own_values() -> None:
    def nested(depth: int) -> Callable[[int], list[int]]:
        @checked
        def inner(n: int) -> list[int]:
            below = nested(depth - 1)(n) if depth else []
            return [*below, depth * n]

        return inner

    assert nested(3)(2) == [0, 2, 4, 6]


def test_a_default_is_checked_where_it_is_another_one_each_time() -> None:
    def made(value: object) -> Callable[..., object]:
        @checked
        def inner(x: int = value) -> int:  # type: ignore[assignment]
            return x

        return inner

    assert made(3)() == 3
    with refused:
        made("three")()


def test_the_library_is_checked_by_it() -> None:
    with refused:
        circuits.model.sites.head("0", 1)
    with refused:
        circuits.model.sites.Component(0, "head", 1)
    with refused:
        circuits.model.sites.parse(3)


def test_nothing_is_kept_alive_by_being_checked() -> None:
    class Large:
        pass

    def around(large: Large) -> Callable[[int], object]:
        @checked
        def inner(n: int) -> object:
            return large

        return inner

    large = Large()
    inner = around(large)
    assert inner(1) is large
    gone = weakref.ref(large)
    del large, inner
    gc.collect()
    assert gone() is None
