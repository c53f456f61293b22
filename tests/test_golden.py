"""The embedded model's six circuits have not moved: a small walk held against circuits kept in ``tests/golden``.

A change that is meant moves them for good: ``python tests/test_golden.py`` writes them anew, and the commit says why.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import circuits
from circuits.circuit.graph import Circuit
from circuits.prompts.datasets import Prompts, Split
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run
from circuits.settings import Settings
from circuits.testing import assert_same_circuits

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = Settings(verify=16, audit=0, random_circuits=2, patience=2)
SCENARIOS = {Split.FIT: 6, Split.SELECT: 24, Split.TEST: 8}
BOUNDS = {"min_jaccard": 0.8, "max_effect_change": 0.1}


def few() -> Prompts:
    """The first scenarios of every split."""
    prompts = circuits.read_prompts("microstories")
    names = {
        name
        for split, n in SCENARIOS.items()
        for name in list(dict.fromkeys(r.scenario for r in prompts.split(split).rows))[:n]
    }
    return prompts.where(np.array([row.scenario in names for row in prompts.rows]))


def walked(directory: Path) -> Run:
    return circuits.discover(circuits.load("embedded", device="cpu"), few(), SETTINGS, directory)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return walked(tmp_path_factory.mktemp("golden") / "run")


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("e", EMOTIONS)
def test_the_circuit_has_not_moved(run: Run, e: Emotion) -> None:
    golden = circuits.read_circuit(GOLDEN / f"{e}.json")
    assert len(golden.nodes) >= 3
    assert golden.judgement["stability"]["n"] >= 100
    assert_same_circuits(run.circuit(e), golden, **BOUNDS)


def test_a_circuit_that_lost_its_strongest_half_is_noticed(run: Run) -> None:
    golden = circuits.read_circuit(GOLDEN / f"{Emotion.ANGER}.json")
    strongest = sorted(golden.nodes, key=lambda node: -node.effect)[: len(golden.nodes) // 2]
    fewer = replace(golden, nodes=tuple(n for n in golden.nodes if n not in strongest), edges=())
    with pytest.raises(AssertionError, match=r"anger: Jaccard of nodes 0\.5"):
        assert_same_circuits(fewer, golden, **BOUNDS)


def test_effects_that_changed_beyond_their_intervals_are_noticed(run: Run) -> None:
    golden = circuits.read_circuit(GOLDEN / f"{Emotion.ANGER}.json")

    def halved(circuit: Circuit) -> Circuit:
        nodes = (replace(n, effect=n.effect / 2, low=n.low / 2, high=n.high / 2) for n in circuit.nodes)
        return replace(circuit, nodes=tuple(nodes))

    wide = replace(golden, nodes=tuple(replace(n, low=n.effect * 0.9, high=n.effect * 1.1) for n in golden.nodes))
    with pytest.raises(AssertionError, match="logits, 50% of the largest effect"):
        assert_same_circuits(halved(wide), wide, **BOUNDS)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = walked(Path(folder) / "run")
        for e in EMOTIONS:
            (GOLDEN / f"{e}.json").write_bytes((made.directory / f"circuits/{e}.json").read_bytes())
    sys.exit(0)
