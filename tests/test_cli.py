"""The command line: help without the numerical stack, one readable line for every bad input, text that cannot do harm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_rows
from families import ANSWERS, make_model_directory

from circuits import cli, shipped
from circuits.errors import CircuitsError, RunError
from circuits.prompts.emotions import EMOTIONS
from circuits.runs.directory import open_run


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Circuits = Callable[..., Result]


@pytest.fixture
def circuits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Circuits:
    """``circuits(*words)`` as typed, in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["circuits", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            sys.exit(cli.main())
        code = left.value.code
        return Result(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("cli") / "[red]tiny", "llama")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "[bold]mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(18)))
    return path


QUICK = ("--verify", 2, "--random-circuits", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def run(model: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by typing, in a process of its own."""
    directory = tmp_path_factory.mktemp("cli") / "run"
    words = ["discover", "--model", model, "--prompts", prompts, "--out", directory, *QUICK]
    found = typed(*words)
    assert found.status == 0, found.err
    assert "loading the model\n" in found.err
    assert "heads, exact\n" in found.err
    assert f"open {directory}/report.html" in found.out
    return directory


def typed(*words: object, code: str = "from circuits.cli import main; main()") -> Result:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=240, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


# -- help --------------------------------------------------------------------------------------------------------------

LISTING = """
import atexit, sys
from circuits.cli import main
heavy = ("torch", "pandas", "plotly", "transformers", "transformer_lens", "networkx", "scipy", "sklearn", "numpy")
atexit.register(lambda: print([m for m in heavy if m in sys.modules]))
main()
"""


@pytest.mark.parametrize("words", [("--help",), ("discover", "--help"), ("--version",)])
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    found = typed(*words, code=LISTING)
    assert (found.status, found.err) == (0, "")
    assert found.out.splitlines()[-1] == "[]"
    assert len(found.out) > 4


def test_help_names_every_command_with_an_example(circuits: Circuits) -> None:
    shown = circuits("--help").out
    for command in ("discover", "measure", "plan", "show", "compare", "export", "check", "prompts"):
        assert command in shown
        assert re.search("Examples?: circuits", circuits(command, "--help").out)


def test_no_words_show_the_help_and_unknown_ones_are_refused(circuits: Circuits) -> None:
    assert "Usage" in circuits().out + circuits().err
    for words in (("dance",), ("show",), ("discover", "--seed", "x"), ("discover", "--no-such")):
        found = circuits(*words)
        assert found.status == 2
        assert "Traceback" not in found.err


def test_the_version(circuits: Circuits) -> None:
    from circuits import __version__

    assert circuits("--version").out == f"{__version__}\n"


# -- bad input ---------------------------------------------------------------------------------------------------------


def bad_line(path: Path) -> Path:
    path.write_text('{"id": 1}\n')
    return path


BAD: list[tuple[str, Callable[[Path], tuple[object, ...]], str]] = [
    ("prompts", lambda d: (d / "nowhere.jsonl",), "no prompt file .*microstories_plain"),
    ("prompts", lambda d: (bad_line(d / "x.jsonl"),), r"x\.jsonl line 1 lacks the field 'scenario'"),
    ("prompts", lambda d: (d,), "no prompt file"),
    ("prompts", lambda d: ("a" * 5000,), "no prompt file"),
    ("prompts", lambda d: (bad_line(d / "a\nb\x1b[31m[red].jsonl"),), r"a\\nb\\x1b\[31m\[red\]\.jsonl line 1 lacks"),
    ("show", lambda d: (d / "nowhere",), "no run directory .*; make one with: circuits discover --out"),
    ("show", lambda d: (d,), r"is no run directory: it has no manifest\.json"),
    ("show", lambda d: (bad_line(d / "x.jsonl"),), "no run directory"),
    ("compare", lambda d: (d / "nowhere", d / "nowhere"), "no run directory"),
    ("compare", lambda d: (bad_line(d / "x.json"), d), r"x\.json: not a circuit of this package"),
    ("export", lambda d: (d, "--out", d), "is no run directory"),
    ("check", lambda d: ("no-such-model",), "is not a local directory nor in the local cache"),
    ("check", lambda d: (d,), r"has no config\.json"),
    ("check", lambda d: (d / "nowhere",), "is not a directory"),
    ("check", lambda d: ("x" * 5000,), "is neither a directory nor a possible hub name"),
    ("check", lambda d: ("embedded", "--dtype", "int8"), "unknown dtype 'int8'"),
    ("check", lambda d: ("embedded", "--device", "tpu9"), "device 'tpu9' cannot be used"),
    ("discover", lambda d: ("--prompts", d / "nowhere"), "no prompt file"),
    ("discover", lambda d: ("--ablation", "noise"), "ablation is 'noise'; expected one of zero, mean, mean_scenario"),
    ("discover", lambda d: ("--positions", "first"), "positions is 'first'; expected one of all, readout"),
    ("discover", lambda d: ("--target", "5"), r"target is 5\.0; expected a number from 0\.01 to 2\.0"),
    ("discover", lambda d: ("--verify", "-1"), "verify is -1; expected a whole number"),
    ("discover", lambda d: ("--random-circuits", "0"), "random_circuits is 0; expected"),
    ("discover", lambda d: ("--seed", "-1"), "seed is -1; expected"),
    ("discover", lambda d: ("--answers", d / "nowhere"), "answer words cannot be read from"),
    ("discover", lambda d: ("--answers", bad_line(d / "x.json")), "answer words for anger are None"),
    ("discover", lambda d: ("--model", d / "nowhere"), "is not a directory"),
    ("discover", lambda d: ("--model", ""), "the model name is empty"),
    (
        "measure",
        lambda d: ("--components", "L9H0", "--out", d / "o"),
        "embedded has no component L9H0; expected layers 0-",
    ),
    ("measure", lambda d: ("--components", "L0H1,L0H1", "--out", d / "o"), "L0H1 is listed twice"),
    ("measure", lambda d: ("--components", "everything", "--out", d / "o"), "'everything'"),
    (
        "measure",
        lambda d: ("--method", "guess", "--out", d / "o"),
        "method is 'guess'; expected one of exact, gradient",
    ),
    ("measure", lambda d: ("--positions", "first"), "positions is 'first'; expected one of all, readout"),
    ("measure", lambda d: ("--ablation", "noise"), "ablation is 'noise'; expected one of zero, mean, mean_scenario"),
    ("measure", lambda d: ("--arithmetic", "int8", "--out", d / "o"), "arithmetic is 'int8'; expected one of float32"),
    (
        "measure",
        lambda d: ("--method", "ig_inputs", "--steps", "0", "--out", d / "o"),
        "steps is 0; expected at least one",
    ),
    (
        "plan",
        lambda d: ("--shape", "nonsense"),
        "'nonsense' is no directory with a config.json; .*gpt2-small, .*llama-3",
    ),
    ("plan", lambda d: ("--shape", "gpt2-small", "--texts", "24"), "texts are '24'; expected how many and how long"),
    ("plan", lambda d: ("--model", d), "is no directory with a config.json"),
    ("plan", lambda d: ("--prompts", d / "nowhere"), "no prompt file"),
    ("plan", lambda d: ("--device", "tpu9"), "device 'tpu9' cannot be used"),
]


@pytest.mark.parametrize(("command", "words", "message"), BAD, ids=[f"{c}{i}" for i, (c, _, _) in enumerate(BAD)])
def test_bad_input_is_one_readable_line_and_status_2(
    command: str, words: Callable[[Path], tuple[object, ...]], message: str, circuits: Circuits, tmp_path: Path
) -> None:
    found = circuits(command, *words(tmp_path))
    lines = found.err.splitlines()
    assert found.status == 2
    assert lines[:-1] == (["loading the model"] if lines[0].startswith("loading") else [])
    assert re.match(f"error: .*{message}", lines[-1])
    assert found.out == ""
    assert found.err.endswith("\n")
    assert found.err.replace("\n", "").isprintable()
    assert not (tmp_path / "o").exists()


def test_an_output_that_is_a_file_is_refused(model: Path, prompts: Path, circuits: Circuits, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    found = circuits("discover", "--model", model, "--prompts", prompts, "--out", tmp_path / "out", *QUICK)
    assert found.status == 2
    assert found.err.splitlines()[1:] == [
        f"error: the output directory '{tmp_path}/out' is a file; choose another --out"
    ]
    assert (tmp_path / "out").read_bytes() == b"mine"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_keeps_the_traceback_wherever_it_is_said(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["show", str(tmp_path)]
    words.insert(place, "--debug")
    monkeypatch.setattr(sys, "argv", ["circuits", *words])
    with pytest.raises(RunError, match="is no run directory"):
        cli.main()


def test_a_traceback_is_printed_only_with_debug(tmp_path: Path) -> None:
    plain, debug = typed("show", tmp_path), typed("show", tmp_path, "--debug")
    assert plain.status == 2
    assert "Traceback" not in plain.err
    assert plain.err.count("\n") == 1
    assert debug.status == 1
    assert "Traceback (most recent call last)" in debug.err
    assert "circuits.errors.RunError" in debug.err


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from circuits.runs import directory

    def broken(path: Path) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(directory, "open_run", broken)
    monkeypatch.setattr(sys, "argv", ["circuits", "show", str(tmp_path)])
    with pytest.raises(ZeroDivisionError):
        cli.main()
    assert not issubclass(ZeroDivisionError, CircuitsError)


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped.PROMPT_SETS)
def test_shipped_prompts_pass(name: str, circuits: Circuits) -> None:
    found = circuits("prompts", name)
    assert found.status == 0
    assert found.out.startswith(f"{name}: ")
    assert "nothing to mend" in found.out


def test_a_fault_gives_status_1_and_a_warning_0(circuits: Circuits, tmp_path: Path) -> None:
    rows = tiny_rows(6)
    for number, row in enumerate(rows):
        row["text"] = f"case {number} Tom felt"
    path = tmp_path / "[red]mine.jsonl"
    path.write_text("\n".join(map(json.dumps, [{k: v for k, v in row.items() if k != "lexical"} for row in rows])))
    found = circuits("prompts", path)
    assert found.status == 0
    assert "warning 'lexical' is not declared" in found.out
    assert found.out.startswith("[red]mine: 36 texts in 6 scenarios, lexical undeclared\n")
    rows[0]["text"] = "case 0 [/] angry\x1b[2J felt"
    rows[0]["id"] = "\x1b[31m[/red]id"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = circuits("prompts", path)
    assert found.status == 1
    assert "fault   emotion words in a set declared implicit: \\x1b[31m[/red]id (angry)" in found.out
    assert "\x1b" not in found.out


# -- check, discover, show ---------------------------------------------------------------------------------------------


def test_check_shows_laws_and_capabilities(model: Path, circuits: Circuits) -> None:
    found = circuits("check", model, "--device", "cpu")
    assert found.status == 0
    assert f"Model('{model}', 3 layers, 4 heads, 24 neurons a layer" in found.out
    assert "blocks: sequential" in found.out
    assert "MLP: gated; post-norms: none" in found.out
    assert "final stream = sum of all writes" in found.out
    assert found.out.count("holds") == 3 * 4 + 3
    assert "fails" not in found.out


def test_show_says_the_same_as_discover(run: Path, circuits: Circuits, model: Path) -> None:
    found = circuits("show", run)
    assert found.status == 0
    assert found.out.startswith(f"{model} on [bold]mine (scenarios: fit 6, select 6, test 6)\n")
    for e in EMOTIONS:
        assert f"• {e}: " in found.out
    for notice in open_run(run).manifest["notices"]:
        assert re.sub(r"\s+", " ", notice) in re.sub(r"\s+", " ", found.out)
    assert "who writes the emotion direction at L2.post" in found.out
    assert found.out.endswith(f"open {run}/report.html\n")


def test_a_run_compared_with_itself_has_not_moved(run: Path, circuits: Circuits, tmp_path: Path) -> None:
    page = tmp_path / "[red]page.html"
    found = circuits("compare", run, run, "--min-jaccard", 1, "--max-effect-change", 0, "--html", page)
    assert (found.status, found.err) == (0, "")
    assert found.out.startswith(f"{run} beside {run}\n")
    assert found.out.endswith(f"open {page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_moved_circuit_gives_status_1_and_a_reason(run: Path, circuits: Circuits, tmp_path: Path) -> None:
    golden = tmp_path / "fear.json"
    data = json.loads((run / "circuits/fear.json").read_text())
    data["nodes"] = [n for n in data["nodes"] if n["role"] != "component"]
    data["nodes"].append({
        "id": "L0H0", "role": "component", "kind": "head", "effect": 1.0, "low": None, "high": None, "q": None, "direct": 0.0,
        "verified": True,
    })  # fmt: skip
    golden.write_text(json.dumps({**data, "edges": []}))
    assert circuits("compare", run, golden).status == 0
    found = circuits("compare", golden, run, "--min-jaccard", 1)
    assert found.status == 1
    assert found.err.startswith("moved fear: Jaccard of nodes ")
    assert found.err.count("\n") == 1


def test_export_writes_a_file_an_emotion(run: Path, circuits: Circuits, tmp_path: Path) -> None:
    found = circuits("export", run, "--format", "gexf", "--out", tmp_path / "[red]graphs")
    assert found.status == 0
    assert found.out.split() == [f"{tmp_path}/[red]graphs/{e}.gexf" for e in EMOTIONS]


def test_discovering_again_shows_the_finished_run(run: Path, model: Path, prompts: Path, circuits: Circuits) -> None:
    found = circuits("discover", "--model", model, "--prompts", prompts, "--out", run, *QUICK)
    assert found.status == 0
    assert found.err == f"loading the model\nthis run was finished before: {run}\n"
    assert found.out == circuits("show", run).out


def test_other_answer_words_are_another_run(
    run: Path, model: Path, prompts: Path, circuits: Circuits, tmp_path: Path
) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({**ANSWERS, "fear": ["afraid", "found"]}))
    found = circuits("discover", "--model", model, "--prompts", prompts, "--out", run, "--answers", answers, *QUICK)
    assert found.status == 2
    assert "holds a run of another model, prompt set, setting or version" in found.err


def test_an_altered_run_is_not_shown(run: Path, circuits: Circuits) -> None:
    report = run / "report.html"
    whole = report.read_bytes()
    try:
        report.write_bytes(whole[:-1])
        found = circuits("show", run)
    finally:
        report.write_bytes(whole)
    assert (found.status, found.out) == (2, "")
    assert re.match(r"error: .*report\.html was altered after the run", found.err)
