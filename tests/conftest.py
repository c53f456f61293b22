"""Shapes and types are checked at run time in every test: the hook must be set before ``circuits`` is imported."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network

import checking

checking.install("circuits")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import ANSWERS, CORE, CUES, FAMILIES, REPLAYED, WORDS, load_family, make_model_directory

from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

torch.set_num_threads(1)  # tests run side by side, one to a core


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Tiny random models by family, each loaded once per session."""
    made: dict[str, Model] = {}

    def get(family: str) -> Model:
        if family not in made:
            made[family] = load_family(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def double(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """GPT-2 in float64 from end to end (other families round to float32 in norms and softmax)."""
    return load(make_model_directory(tmp_path_factory.mktemp("double"), "gpt2"), device="cpu", dtype="float64")


def tiny_rows(scenarios: int = 6, *, neutral: bool = True) -> list[dict[str, object]]:
    """Matched scenarios of unequal lengths whose cue word alone differs by emotion."""
    rows: list[dict[str, object]] = []
    for s in range(scenarios):
        filler = " ".join(WORDS[(s * 3 + i) % 20] for i in range(3 + s % 3))
        for number, e in enumerate(EMOTIONS):
            # An extra word in some rows: position classes must cope with unequal lengths.
            extra = " then" if (s + number) % 4 == 0 else ""
            rows.append({
                "id": f"s{s}-{e}", "scenario": f"s{s}", "emotion": str(e), "lexical": "implicit",
                "text": f"{filler} {CUES[e][s % 3]}{extra} Tom felt", "split": ("fit", "select", "test")[s % 3],
                **({"neutral": f"{filler} box Tom felt"} if neutral else {}),
            })  # fmt: skip
    return rows


@pytest.fixture(scope="session")
def tiny_prompts() -> Prompts:
    """36 texts in six scenarios."""
    return Prompts.of(tiny_rows(), name="tiny", answers=ANSWERS)


LONGEST = (
    "experiments/test_tour.py", "model/test_planted_kinds.py", "circuit/test_edgemethods.py", "test_walk.py",
    "effects/test_certify.py",
    "laws/test_recovery.py", "test_golden.py", "test_experiments.py", "runs/test_disk.py", "circuit/test_conditional.py",
    "effects/test_edges.py", "effects/test_integrated.py", "test_cli.py", "show/test_report.py",
)  # fmt: skip
"""Begun first: a file is run by one worker, and one that is begun last keeps the others waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first. A test of one more family than those that differ in kind is for ``make test-all`` alone."""
    place = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and call.params.get("family", "gpt2") in set(FAMILIES) - {*CORE, *REPLAYED[:1]}:
            item.add_marker(pytest.mark.exhaustive)


def pytest_collection_finish() -> None:
    """What was imported stays: going through its million objects at each collection would take half a second."""
    gc.collect()
    gc.freeze()
