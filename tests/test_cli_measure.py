"""The command line measures into a directory, names a price without measuring, and asks before what is dear."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from test_cli import Circuits
from test_cli import circuits as circuits  # the fixtures
from test_cli import model as model
from test_cli import prompts as prompts

from circuits import cli
from circuits.effects import plans
from circuits.prompts.emotions import EMOTIONS
from circuits.runs.directory import MANIFEST
from circuits.runs.sweep import open_sweep

# -- measure, plan -----------------------------------------------------------------------------------------------------


def test_measuring_writes_a_directory_and_shows_intervals_and_again_is_quick(
    model: Path, prompts: Path, circuits: Circuits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_out", Console(highlight=False, emoji=False, width=200))
    out = tmp_path / "[red]out"
    words = ("measure", "--components", "L0H1,L1.mlp,L1N3", "--model", model, "--prompts", prompts, "--out", out)
    found = circuits(*words, "--device", "cpu", "--positions", "readout")
    assert (found.status, found.err) == (0, "loading the model\nL0H1,L1.mlp,L1N3, exact\n")
    assert f"{model} on [bold]mine: 3 components, exact, ablation mean_scenario, positions readout (" in found.out
    assert "strongest components: effect in logits, 95% interval over n = 18 scenarios" in found.out
    for e in EMOTIONS:
        (line,) = [line for line in found.out.splitlines() if str(e) in line.split()[:2]]
        assert len(re.findall(r"(?:L0H1|L1\.mlp|L1N3)\*? [+-]\d\.\d\d \[[+-]\d\.\d\d, [+-]\d\.\d\d\]", line)) == 3
    assert found.out.endswith(f"{out}/effects.parquet\n")
    sweep = open_sweep(out)
    assert set(sweep.effects.table["component"]) == {"L0H1", "L1.mlp", "L1N3"}
    assert (out / "effects.safetensors").is_file()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}
    again = circuits(*words, "--device", "cpu", "--positions", "readout")
    assert (again.status, again.err) == (0, "loading the model\n")  # nothing is measured
    assert again.out == f"this measurement was finished before: {out}\n{found.out}"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"} == before
    other = circuits(*words, "--device", "cpu", "--positions", "all")
    assert other.status == 2
    assert "holds a run of another model, prompt set, setting or version" in other.err


def test_a_plan_names_the_price_of_everything(circuits: Circuits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "calibrated", lambda dims, texts, device: 1e11)  # not this test's business
    found = circuits("plan", "--shape", "gpt2-small", "--texts", "24x20", "--device", "cpu")
    assert (found.status, found.err) == (0, "")
    assert found.out.startswith(
        "gpt2-small: 12 layers, d_model 768, 12 heads (12 key-value), 3072 neurons a layer; 24 texts of 20"
    )
    assert "this machine (cpu): 100 GFLOP/s" in found.out
    for where in ("every token", "the read-out token only"):
        part = found.out.split(f"ablated at {where}")[1]
        assert re.search(r"what +number +forwards +FLOP +time +memory", part)
        unit = r"[\d.]+ [MGTP] +[\d.]+ (?:s|min|h)[\d min]* +[\d.]+ [MG]B"
        for row in (
            r"heads, exact +144 +[\d,]+ ",
            r"neurons, exact +36,864 +[\d,]+ ",
            r"half-layers, exact +24 +[\d,]+ ",
        ):
            assert re.search(row + " *" + unit, part), (row, part)


# -- a price that is asked about ---------------------------------------------------------------------------------------


@pytest.fixture
def dear(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Any work counts as long, on a terminal or not; the questions asked, and ``answer`` given to each."""

    def set_up(*, terminal: bool, answer: bool) -> list[str]:
        asked: list[str] = []

        def confirm(text: str, *, abort: bool) -> None:
            asked.append(text)
            if abort and not answer:
                raise cli.typer.Abort

        monkeypatch.setattr(cli, "_LONG", 0)
        monkeypatch.setattr(cli, "_ROUGHLY", 1)
        monkeypatch.setattr(plans, "calibrated", lambda dims, texts, device: 1e9)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr(cli.typer, "confirm", confirm)
        return asked

    return set_up


@pytest.mark.parametrize("command", ["discover", "measure"])
def test_no_to_the_price_leaves_nothing_behind(
    command: str, model: Path, prompts: Path, circuits: Circuits, dear: Callable[..., list[str]], tmp_path: Path
) -> None:
    asked = dear(terminal=True, answer=False)
    found = circuits(command, "--model", model, "--prompts", prompts, "--out", tmp_path / "out", "--device", "cpu")
    assert found.status == 1
    assert asked == ["Go on? (--yes does not ask)"]
    assert re.search(r"\d operations, about [\d.]+ (s|min) on this machine\n", found.err)
    assert "Traceback" not in found.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("terminal", "words"), [(True, ["--yes"]), (False, []), (False, ["--yes"])])
def test_nobody_is_asked_who_said_yes_or_is_no_terminal(
    terminal: bool, words: list[str], model: Path, prompts: Path, circuits: Circuits, dear: Callable[..., list[str]],
    tmp_path: Path,
) -> None:  # fmt: skip
    asked = dear(terminal=terminal, answer=False)
    where = ("--model", model, "--prompts", prompts, "--device", "cpu")
    found = circuits("measure", "--components", "L0H1", *where, "--out", tmp_path / "out", *words)
    assert (found.status, asked) == (0, [])
    assert "operations, about " in found.err  # the price is named all the same
    assert (tmp_path / "out" / MANIFEST).is_file()
    assert open_sweep(tmp_path / "out").manifest["asked"]["components"] == 1


def test_yes_goes_on(
    model: Path, prompts: Path, circuits: Circuits, dear: Callable[..., list[str]], tmp_path: Path
) -> None:
    asked = dear(terminal=True, answer=True)
    found = circuits("measure", "--components", "L0H1", "--model", model, "--prompts", prompts, "--device", "cpu",
                     "--out", tmp_path / "out")  # fmt: skip
    assert (found.status, len(asked)) == (0, 1)
    assert open_sweep(tmp_path / "out").directory == tmp_path / "out"
