"""What the machine is told: settings are put back, precision is decided by error, and a few values are remembered."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from circuits.model import machine
from circuits.model.machine import Precision, Recent, keep_memory, precise, precision

CPU = torch.device("cpu")


@pytest.fixture
def undecided() -> Iterator[None]:
    """As in a process that has not decided anything; what the test decides is forgotten behind it."""
    precision.cache_clear()
    keep_memory.cache_clear()
    yield
    precision.cache_clear()
    keep_memory.cache_clear()


@pytest.fixture(params=["highest", "high", "medium"])
def setting(request: pytest.FixtureRequest) -> Iterator[str]:
    """A setting the caller made himself."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


# -- products ----------------------------------------------------------------------------------------------------------


def test_the_callers_precision_is_given_back(setting: str) -> None:
    with precise(CPU):
        assert torch.get_float32_matmul_precision() == precision("cpu").name
    assert torch.get_float32_matmul_precision() == setting


def test_also_after_an_exception(setting: str) -> None:
    seen = []

    def fail() -> None:
        seen.append(torch.get_float32_matmul_precision())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), precise(CPU):
        fail()
    assert seen == [precision("cpu").name]
    assert torch.get_float32_matmul_precision() == setting


def test_also_when_blocks_stand_in_each_other(setting: str) -> None:
    with precise(CPU), pytest.raises(KeyError), precise(CPU):
        raise KeyError
    assert torch.get_float32_matmul_precision() == setting


def test_deciding_leaves_the_setting_and_the_random_numbers_as_they_were(setting: str, undecided: None) -> None:
    state = torch.get_rng_state()
    precision("cpu")
    assert torch.get_float32_matmul_precision() == setting
    assert torch.equal(torch.get_rng_state(), state)


def told(errors: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Errors by setting instead of measured ones; the devices they were asked for are kept."""
    asked: list[str] = []

    def error(name: str, device: str) -> float:
        asked.append(device)
        return errors[name]

    monkeypatch.setattr(machine, "_error", error)
    return asked


@pytest.mark.parametrize(
    ("error", "name"), [(1e-6, "medium"), (4e-6, "medium"), (5e-6, "highest"), (1e-2, "highest"), (float("nan"), "highest")]
)  # fmt: skip
def test_kernels_as_coarse_as_bfloat16_are_seen_by_their_error(
    error: float, name: str, undecided: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told({"highest": 1e-6, "medium": error}, monkeypatch)
    found = precision("cpu")
    assert found == Precision(name, 1e-6 if name == "highest" else error)


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_elsewhere_products_stay_exact_however_small_the_error(
    device: str, undecided: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TF32 passes no test of single neurons, whatever one product says."""
    asked = told({"highest": 1e-6, "medium": 0.0}, monkeypatch)
    assert precision(device) == Precision("highest", 1e-6)
    assert asked == [device]


def test_it_is_decided_once_in_a_process(undecided: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = told({"highest": 1e-6, "medium": 1e-6}, monkeypatch)
    assert precision("cpu") is precision("cpu")
    assert asked == ["cpu", "cpu"]  # both settings, once each


def test_on_this_machine_products_of_a_sweep_are_float32s(undecided: None) -> None:
    """What was decided holds for other products than the one it was decided on."""
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(96, 3072, generator=generator), torch.randn(3072, 200, generator=generator)
    with precise(CPU):
        found = (a @ b).double()
    wanted = a.double() @ b.double()
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 4e-6


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [("", ""), ("musl", "1.2.4"), ("libc", "2.9")])
def test_only_glibc_is_told_to_keep_memory(
    library: tuple[str, str], undecided: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: pytest.fail("another C library was called"))
    assert keep_memory() is False


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_a_library_without_the_setting_is_let_alone(
    error: type[Exception], undecided: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: object) -> object:
        raise error

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(machine.ctypes, "CDLL", missing)
    assert keep_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_glibc_takes_all_three_settings(undecided: None) -> None:
    assert keep_memory() is True


# -- waiting threads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE"), ("", ""), ("PASSIVE", "PASSIVE")]
)
def test_importing_lets_waiting_threads_sleep_unless_told_otherwise(given: str | None, wanted: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    code = "import sys, os, circuits; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    assert done.stdout == f"{wanted} False\n"  # in time: torch reads it when it is imported


# -- values asked for last ---------------------------------------------------------------------------------------------


def test_the_oldest_value_is_forgotten_and_one_asked_for_again_is_not() -> None:
    recent: Recent[str, str] = Recent(2)
    made: list[str] = []

    def get(key: str) -> str:
        return recent.get(key, lambda: made.append(key) or key.upper())  # type: ignore[func-returns-value]

    assert [get(key) for key in "abab"] == list("ABAB")
    assert made == ["a", "b"]
    get("a"), get("c")  # a was asked for after b: b goes
    assert made == ["a", "b", "c"]
    get("a"), get("c")
    assert made == ["a", "b", "c"]
    get("b")
    assert made == ["a", "b", "c", "b"]
    get("c"), get("a")
    assert made == ["a", "b", "c", "b", "a"]


def test_nothing_is_remembered_of_what_failed() -> None:
    recent: Recent[int, int] = Recent(1)

    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        recent.get(0, fail)
    assert recent.get(0, lambda: 5) == 5  # and nothing waits for ever


def test_a_value_that_is_false_or_none_is_a_value() -> None:
    recent: Recent[int, None] = Recent(1)
    assert recent.get(0, lambda: None) is None
    assert recent.get(0, lambda: pytest.fail("made again")) is None


@pytest.mark.parametrize("most", [1, 3, 8])
def test_several_threads_get_their_own_key_s_value_and_no_more_are_kept(most: int) -> None:
    recent: Recent[int, tuple[int, int]] = Recent(most)
    threads, rounds, keys = 8, 400, 10
    together, inside, widest = threading.Barrier(threads), threading.Lock(), [0]

    def work(number: int) -> bool:
        generator = torch.Generator().manual_seed(number)
        wanted = torch.randint(0, keys, (rounds,), generator=generator).tolist()
        together.wait()
        right = True
        for key in wanted:
            right &= recent.get(key, lambda key=key: (key, key * key)) == (key, key * key)
            with inside:
                widest[0] = max(widest[0], len(recent._values))
        return right

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads change hands inside every call
    try:
        with ThreadPoolExecutor(threads) as pool:
            assert all(pool.map(work, range(threads)))
    finally:
        sys.setswitchinterval(before)
    assert len(recent._values) == most
    # Between putting one in and taking another out nobody may look: the lock is held.
    assert widest[0] <= most + 1


def test_values_that_are_weighed_are_kept_up_to_a_weight() -> None:
    recent: Recent[str, str] = Recent(5, len)
    for key in ("ab", "cde"):
        assert recent.get(key, lambda key=key: key) == key
    assert recent.get("ab", lambda: pytest.fail("made again")) == "ab"
    assert recent.get("f", lambda: "f") == "f"  # "cde" was asked for longest ago
    assert list(recent._values) == ["ab", "f"]
    assert recent.get("heavier", lambda: "heavier") == "heavier"  # than all that may be kept: nothing goes for it
    assert list(recent._values) == ["ab", "f"]
    assert recent._weight == 3


def test_a_look_counts_as_asking() -> None:
    recent: Recent[str, str] = Recent(2)
    for key in "ab":
        recent.get(key, lambda key=key: key)
    assert recent.peek("a") == "a"
    assert recent.peek("z") is None
    recent.get("c", lambda: "c")
    assert list(recent._values) == ["a", "c"]


def test_a_slow_value_does_not_keep_others_waiting() -> None:
    recent: Recent[str, str] = Recent(4)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert go_on.wait(10)
        return "slow"

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(recent.get, "s", slow)
        assert begun.wait(10)
        start = time.perf_counter()
        assert recent.get("q", lambda: "quick") == "quick"
        assert time.perf_counter() - start < 5
        go_on.set()
        assert waiting.result(10) == "slow"
