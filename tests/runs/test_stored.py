"""Effects of a run, piece by piece: what reading all of it gives, and nothing else is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bench.bigrun import Shape, big_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuits.effects.table import COLUMNS
from circuits.errors import CircuitsError, ComponentError, PromptError, RunError
from circuits.prompts.emotions import EMOTIONS
from circuits.runs import files
from circuits.runs.directory import Run, open_run
from circuits.runs.stored import StoredEffects

SHAPE = Shape(nodes=6, edges=16, layers=2, heads=2, neurons=30, scenarios=5, width=8, verified=7)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    found = open_run(big_run(tmp_path_factory.mktemp("big") / "run", SHAPE).directory)
    assert (len(found.effects.table), len(found.effects.values)) == (
        6 * (4 + 2 * (4 + 60) + 7),
        4 + 4 + 60,
    )  # both are kept
    return found


@pytest.fixture
def pieces(run: Run, monkeypatch: pytest.MonkeyPatch) -> StoredEffects:
    """Effects of which nothing may be read as a whole."""

    def refuse(*_: object) -> None:
        raise AssertionError("the whole was read")

    monkeypatch.setattr(files, "read_tensors", refuse)
    monkeypatch.setattr(files, "read_table", refuse)
    return StoredEffects(run.effects.table_path, run.effects.path)


@pytest.mark.parametrize("name", ["L0.attn", "L1.mlp", "L0H1", "L1N29", "L0N0"])
def test_rows_of_a_component_are_those_of_the_table(name: str, run: Run, pieces: StoredEffects) -> None:
    table = run.effects.table
    expected = table[table["component"] == name].reset_index(drop=True)
    assert len(expected) >= len(EMOTIONS)
    found = pieces.rows(name)
    assert tuple(found.columns) == COLUMNS
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected)


@pytest.mark.parametrize("e", EMOTIONS)
@pytest.mark.parametrize("kinds", [("head", "neuron"), ("attn", "mlp"), ("neuron",)])
def test_the_strongest_are_those_that_sorting_by_hand_gives(
    e: str, kinds: tuple[str, ...], run: Run, pieces: StoredEffects
) -> None:
    best: dict[str, tuple[float, str]] = {}
    for row in run.effects.table.to_dict("records"):
        if row["emotion"] == e and row["kind"] in kinds and row["method"] != "direct":
            name = row["component"]
            if name not in best or row["method"] == "exact":
                best[name] = row["effect"], row["method"]
    order = sorted(best, key=lambda name: -abs(best[name][0]))
    found = pieces.strongest(e, 9, kinds)
    assert list(found["component"]) == order[:9]
    assert [tuple(row) for row in found[["effect", "method"]].to_numpy()] == [best[name] for name in order[:9]]
    everything = pieces.strongest(e, kinds=kinds)
    assert list(everything["component"]) == order
    if "neuron" in kinds:
        assert {"exact", "gradient"} <= set(everything["method"])


def test_effects_of_a_component_are_one_slice(run: Run, pieces: StoredEffects) -> None:
    assert pieces.components == run.effects.components
    assert pieces.prompt_ids == run.effects.prompt_ids
    for place, name in enumerate(run.effects.components):
        found = pieces.of_component(name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, run.effects.values[place])


def test_only_groups_that_can_hold_a_row_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    monkeypatch.setattr(files, "_GROUP", 100)
    files.write_table(
        tmp_path / "t.parquet", pd.DataFrame({"component": [f"L{i // 100}H0" for i in range(1000)], "x": range(1000)})
    )
    assert pyarrow.parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups == 10
    found = files.read_rows(tmp_path / "t.parquet", ("component", "x"), [("component", "==", "L3H0")])
    assert list(found["x"]) == list(range(300, 400))


@pytest.mark.parametrize("name", ["L9H9", "", "x" * 10_000, "L0H1 ", "' or 1=1", "\0", "L0.attn/../x"])
def test_an_unknown_component_is_said(name: str, pieces: StoredEffects) -> None:
    for ask in (pieces.rows, pieces.of_component):
        with pytest.raises(ComponentError, match="the run has no") as raised:
            ask(name)
        assert len(str(raised.value)) < 300


def test_an_unknown_emotion_is_said(pieces: StoredEffects) -> None:
    with pytest.raises(PromptError, match="joy"):
        pieces.strongest("joy")


# -- what a stranger's run may hold ------------------------------------------------------------------------------------


def tensors(path: Path, values: np.ndarray, **metadata: object) -> StoredEffects:
    about: dict[str, object] = {"components": ["L0H0", "L0H1"], "prompts": ["a", "b", "c"]}
    files.write_tensors(path / "e.safetensors", {"values": values}, about | metadata)
    return StoredEffects(path / "e.parquet", path / "e.safetensors")


VALUES = np.arange(36, dtype=np.float32).reshape(2, 3, 6)


def one_nan(value: float) -> np.ndarray:
    values = VALUES.copy()
    values[1, 2, 3] = value
    return values


@pytest.mark.parametrize(
    ("values", "metadata", "message"),
    [
        (one_nan(np.nan), {}, r"the effect of L0H1 on prompt 'c' \(happiness\) is nan"),
        (one_nan(-np.inf), {}, r"the effect of L0H1 on prompt 'c' \(happiness\) is -inf"),
        (VALUES.astype(np.float64), {}, "holds values of type float64; expected float32"),
        (VALUES.astype(np.int32), {}, "holds values of type int32; expected float32"),
        (VALUES[:1], {}, r"holds values of shape \(1, 3, 6\); its names, 2 different ones, make \(2, 3, 6\)"),
        (VALUES[:, :, :5], {}, r"shape \(2, 3, 5\)"),
        (VALUES, {"components": ["L0H1", "L0H1"]}, "its names, 1 different ones"),
        (VALUES, {"components": "L0H1"}, "names no components"),
        (VALUES, {"prompts": [1, 2, 3]}, "names no prompts"),
    ],
)
def test_what_does_not_fit_is_refused(
    values: np.ndarray, metadata: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=message):
        tensors(tmp_path, values, **metadata).of_component("L0H1")


def test_a_nan_elsewhere_does_not_matter(tmp_path: Path) -> None:
    np.testing.assert_array_equal(tensors(tmp_path, one_nan(np.nan)).of_component("L0H0"), VALUES[0])


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tensors(tmp_path, VALUES).path
    for name, place in (("values", 2), ("values", -1), ("nothing", 0)):
        with pytest.raises(RunError):
            files.read_slice(path, name, place)
    files.write_tensors(path, {"point": np.array(1.0)}, {})
    with pytest.raises(RunError, match="expected a place 0 on its first axis"):
        files.read_slice(path, "point", 0)


def asks(effects: StoredEffects) -> list[Callable[[], object]]:
    return [
        lambda: effects.rows("L0H1"), lambda: effects.strongest("fear"), lambda: effects.of_component("L0H1"),
        lambda: effects.components, lambda: effects.table, lambda: effects.values,
    ]  # fmt: skip


def test_missing_files_are_said(tmp_path: Path) -> None:
    for ask in asks(StoredEffects(tmp_path / "no.parquet", tmp_path / "no.safetensors")):
        with pytest.raises(RunError, match=r"no\.(parquet|safetensors) is missing"):
            ask()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 400))
def test_altered_bytes_give_effects_or_a_named_error(
    run: Run, tmp_path: Path, edits: list[tuple[int, int]], cut: int
) -> None:
    copies = []
    for source in (run.effects.table_path, run.effects.path):
        data = bytearray(source.read_bytes())
        # Headers lie at the start of one and at the end of the other.
        for place, value in edits:
            data[place % 2000 if source.suffix == ".safetensors" else -1 - place % 6000] = value
        copies.append(tmp_path / source.name)
        copies[-1].write_bytes(data[: len(data) - max(0, cut - 350)])
    for ask in asks(StoredEffects(*copies)):
        try:
            ask()
        except CircuitsError:
            continue


def test_a_run_with_a_single_group_of_rows_is_read(run: Run, tmp_path: Path) -> None:
    """As runs were written before."""
    run.effects.table.to_parquet(tmp_path / "e.parquet", index=False)
    shutil.copy(run.effects.path, tmp_path / "e.safetensors")
    older = StoredEffects(tmp_path / "e.parquet", tmp_path / "e.safetensors")
    pd.testing.assert_frame_equal(older.strongest("anger"), run.effects.strongest("anger"))
