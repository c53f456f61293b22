"""A run directory is whole and unaltered, or an error; one writer at a time; a killed one resumes."""

from __future__ import annotations

import copy
import errno
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuits.circuit.graph import Circuit, Edge, Node
from circuits.compare.table import COLUMNS as COMPARISON_COLUMNS
from circuits.compare.table import DOSE_COLUMNS, EFFECT_COLUMNS, HALF_COLUMNS, RATE_COLUMNS
from circuits.effects.table import COLUMNS
from circuits.errors import CircuitsError, PromptError, RunError
from circuits.model.sites import parse
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs import files
from circuits.runs.directory import FORMAT, Run, RunWriter, open_run
from circuits.show.words import screened

KEY = "k" * 64
PART = {"what": "effects", "components": ["L0H1"]}
VALUES = {"values": np.arange(6, dtype=np.float32).reshape(2, 3), "clean": np.array([1.0])}


JUDGEMENT = {
    "faithfulness": 0.75, "faithfulness_low": 0.5, "faithfulness_high": None, "metric_whole": 2.0,
    "metric_empty": 0.0,
    "reached": True, "n": 6,
    "random": [0.5, 0.25], "random_mean": 0.375, "random_p": 0.25, "random_n": 2, "mean_ablation": {"n": 6},
}  # fmt: skip
ABOUT = {
    "model": {"name": "m", "layers": 2, "heads": 2, "neurons": 3}, "versions": {}, "settings": {}, "seconds": {},
    "prompts": {"name": "p", "lexical": "implicit", "scenarios": {"fit": 2}}, "reliability": {}, "engine": {}, "judge": {},
    "screen": {"neurons": 6, "verified": 1, "audit": None},
}  # fmt: skip


def circuit_of(e: Emotion = Emotion.FEAR) -> Circuit:
    nan = math.nan
    nodes = (
        Node(parse("L0H1"), 0.5, 0.25, 0.75, 0.01, True, 0.125),
        Node(parse("L1N2"), -0.5, nan, nan, nan, False, 0.0),
    )
    edges = (Edge("L1N2", str(e), -0.5, -1.0, 0.0, "direct"), Edge("embed", "L0H1", 0.25, nan, nan, "gradient"))
    return Circuit(e, nodes, edges, JUDGEMENT)


def fill(writer: RunWriter) -> Run:
    """A small run with everything :func:`open_run` asks for."""
    if writer.shards.get(PART) is None:
        writer.shards.put(PART, VALUES)
    writer.table("effects.parquet", pd.DataFrame({c: [1.0] for c in COLUMNS}))
    writer.tensors("effects.safetensors", VALUES, {"components": ["L0H1"], "prompts": ["a", "b"]})
    writer.table("comparison.parquet", pd.DataFrame({c: [1.0] for c in COMPARISON_COLUMNS}))
    for name, columns in (
        ("same_effect", EFFECT_COLUMNS),
        ("doses", DOSE_COLUMNS),
        ("half_layers", HALF_COLUMNS),
        ("half_layer_rates", RATE_COLUMNS),
    ):
        writer.table(f"{name}.parquet", pd.DataFrame({c: [1.0] for c in columns}))
    for e in EMOTIONS:
        writer.json(f"circuits/{e}.json", circuit_of(e).to_json())
    writer.graphml("circuits/fear.graphml", circuit_of())
    writer.text("report.html", "<p>é</p>")
    return writer.finish({"notices": []})


def made(directory: Path, key: str = KEY) -> Run:
    with RunWriter.opened(directory, key, ABOUT) as writer:
        return fill(writer)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("runs") / "run").directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be spoilt."""
    return shutil.copytree(finished, tmp_path / "run")


def edit_manifest(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    edit(manifest)
    (run / "manifest.json").write_text(json.dumps(manifest))


# -- what is written is read back --------------------------------------------------------------------------------------


def test_a_finished_run_is_read_back(finished: Path) -> None:
    run = open_run(finished)
    assert not run.fresh
    assert run.manifest["format"] == FORMAT
    assert run.manifest["status"] == "finished"
    assert run.manifest["model"] == ABOUT["model"]
    assert run.circuit("fear").names == {"L0H1", "L1N2"}
    assert tuple(run.effects.table.columns) == COLUMNS
    assert run.effects.components == ("L0H1",)
    assert run.effects.prompt_ids == ("a", "b")
    np.testing.assert_array_equal(run.effects.values, VALUES["values"])
    assert tuple(run.comparison.table.columns) == COMPARISON_COLUMNS
    assert run.report.read_text(encoding="utf-8") == "<p>é</p>"
    assert not (finished / "parts").exists()
    with pytest.raises(PromptError, match="unknown emotion 'joy'"):
        run.circuit("joy")


def test_the_manifest_lists_every_file(finished: Path) -> None:
    there = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    assert set(open_run(finished).manifest["files"]) == there - {"manifest.json", ".lock"}


def test_reading_a_run_imports_no_numerical_stack(finished: Path) -> None:
    code = """
        import sys, circuits
        run = circuits.open_run(sys.argv[1])
        run.circuit("fear"), run.effects.table, run.effects.values, run.comparison.table
        print([m for m in ("torch", "transformers", "transformer_lens", "plotly", "sklearn") if m in sys.modules])
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    out = subprocess.run([sys.executable, "-c", code, str(finished)], capture_output=True, text=True, timeout=60)
    assert (out.stdout.strip(), out.stderr) == ("[]", "")


# -- what is missing, altered or foreign is refused --------------------------------------------------------------------


def drop(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).unlink()


def listing(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda run: edit_manifest(run, edit)


def turned_byte(run: Path) -> None:
    data = bytearray((run / "effects.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "effects.safetensors").write_bytes(data)


def linked_out(run: Path) -> None:
    shutil.move(run / "report.html", run.parent / "elsewhere")
    (run / "report.html").symlink_to(run.parent / "elsewhere")


def halved_manifest(run: Path) -> None:
    text = (run / "manifest.json").read_text()
    (run / "manifest.json").write_text(text[: len(text) // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("report.html"), r"report\.html is listed but missing"),
        (drop("circuits/fear.json"), r"fear\.json is listed but missing"),
        (drop("manifest.json"), r"is no run directory: it has no manifest\.json"),
        (turned_byte, r"effects\.safetensors was altered after the run: its SHA-256 differs"),
        (lambda run: (run / "report.html").write_text(""), r"report\.html was altered after the run"),
        (linked_out, r"the file 'report\.html' lies outside its run directory"),
        (halved_manifest, r"manifest\.json cannot be read"),
        (lambda run: (run / "manifest.json").write_bytes(b"\xff"), r"manifest\.json cannot be read"),
        (lambda run: (run / "manifest.json").write_text("[" * 10**5), r"manifest\.json cannot be read: .*deeply"),
        (lambda run: (run / "manifest.json").write_text("[]"), "is no manifest of this version; expected format"),
        (listing(lambda m: m.update(format="emotion-circuits-run/0")), "is no manifest of this version"),
        (listing(lambda m: m.pop("format")), "is no manifest of this version"),
        (listing(lambda m: m.update(status="running")), "is half written; run circuits discover with the same settings"),
        (listing(lambda m: m.pop("status")), "is half written"),
        (listing(lambda m: m.pop("files")), "lists no files"),
        (listing(lambda m: m.update(files=["report.html"])), "lists no files"),
        (listing(lambda m: m["files"].pop("effects.parquet")), r"does not list effects\.parquet"),
        (listing(lambda m: m["files"].pop("circuits/surprise.json")), r"does not list circuits/surprise\.json"),
        (listing(lambda m: m["files"].update({"../x": "0"})), r"the file name '\.\./x' is not allowed in a run"),
        (listing(lambda m: m["files"].update({"/etc/passwd": "0"})), "the file name '/etc/passwd' is not allowed"),
        (listing(lambda m: m["files"].update({"a" * 300: "0"})), "is not allowed in a run"),
        (listing(lambda m: m["files"].update({"circuits": "0"})), "circuits is listed but missing"),
        (listing(lambda m: m["files"].update({"report.html": None})), r"report\.html was altered"),
    ],
)  # fmt: skip
def test_a_spoilt_run_is_refused(spoil: Callable[[Path], object], message: str, run: Path) -> None:
    assert open_run(run).manifest["status"] == "finished"
    spoil(run)
    with pytest.raises(RunError, match=message):
        open_run(run)


@pytest.mark.parametrize("name", ["nowhere", "a" * 300, "a\0b", "file"])
def test_no_directory_is_no_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match=r"no run directory .*; make one with: circuits discover --out"):
        open_run(tmp_path / name)


def test_a_file_that_cannot_be_read_is_a_named_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from circuits.runs import directory

    def refuse(path: Path, mode: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(directory, "open", refuse, raising=False)
    with pytest.raises(RunError, match="cannot be read: Input/output error"):
        open_run(run)


AUDIT = {"drawn": 4, "rest": 9, "missed": 0, "upper": 4, "n": 3, "rank": [0.9, 0.8, 1.0], "slope": [None, None, None]}


def test_an_audit_is_read_back_and_said_in_words(run: Path) -> None:
    edit_manifest(run, lambda m: m["screen"].update(audit=AUDIT))
    said = screened(open_run(run).manifest["screen"])
    assert "Of 4 others" in said
    assert "at most 4 of the other 9" in said
    assert "– [–, –] times the gradient's, rank correlation 0.90 [0.80, 1.00] (fit split, n = 3 scenarios)" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drawn": None}, "audit: drawn is a NoneType"),
        ({"rank": 0.9}, "audit: rank is 0.9; expected a figure and its interval"),
        ({"slope": [1.0, 2.0]}, "slope is .* expected a figure and its interval"),
        ({"slope": [1.0, "x", 2.0]}, "slope is .*; expected numbers"),
    ],
)
def test_an_audit_of_another_shape_is_refused(change: dict[str, Any], message: str, run: Path) -> None:
    edit_manifest(run, lambda m: m["screen"].update(audit={**AUDIT, **change}))
    with pytest.raises(RunError, match=message):
        open_run(run)


# -- where a run may be written ----------------------------------------------------------------------------------------


def refused(directory: Path, message: str, key: str = KEY) -> None:
    with pytest.raises(RunError, match=message), RunWriter.opened(directory, key, ABOUT):
        pytest.fail("the directory was opened")


def test_a_file_is_no_output_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"mine")
    refused(tmp_path / "run", "the output directory .* is a file; choose another --out")
    assert (tmp_path / "run").read_bytes() == b"mine"


def test_a_file_on_the_way_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file" / "run", "cannot write to .*; choose another --out")


def test_a_name_too_long_is_a_named_error(tmp_path: Path) -> None:
    refused(tmp_path / ("a" * 300), "cannot write to .*; choose another --out")


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_bytes(b"mine")
    refused(tmp_path, "is not empty and holds no run; choose an empty or new directory")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_of_something_else_is_left_alone(run: Path) -> None:
    before = (run / "manifest.json").read_bytes()
    refused(run, "holds a run of another model, prompt set, setting or version", key="other")
    assert (run / "manifest.json").read_bytes() == before
    open_run(run)


@pytest.mark.parametrize("content", ["", "{", "[" * 10**5])
def test_a_damaged_manifest_is_not_written_over(content: str, run: Path) -> None:
    (run / "manifest.json").write_text(content)
    refused(run, r"manifest\.json cannot be read")
    assert (run / "manifest.json").read_text() == content


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("where", ["mkdir", "lock"])
def test_a_directory_that_cannot_be_written_is_a_named_error(
    where: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuits.runs import directory

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    if where == "mkdir":
        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        monkeypatch.setattr(directory, "open", refuse, raising=False)
    refused(tmp_path / "run", f"cannot write to .*: {os.strerror(code)}; choose another --out")


def test_a_second_writer_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with RunWriter.opened(tmp_path / "run", KEY, ABOUT) as writer:
        temporary = tmp_path / "run" / f".x.1{files._SUFFIX}"
        temporary.write_bytes(b"being written")
        refused(tmp_path / "run", "another process is writing .*; wait for it or choose another --out")
        assert temporary.exists()
        fill(writer)
    made(tmp_path / "run")  # the lock is gone with its holder


def test_a_writer_in_another_process_is_noticed_and_its_death_frees_the_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        refused(tmp_path / "run", "another process is writing")
        other.kill()
    open_run(made(tmp_path / "run").directory)


def _contend(directory: Path, results: Any) -> None:
    for _ in range(8):
        try:
            made(directory)
            results.put("made")
        except RunError as error:
            results.put("refused" if "another process is writing" in str(error) else str(error))


def test_many_writers_at_once_leave_one_whole_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    results = context.Queue()
    writers = [context.Process(target=_contend, args=(tmp_path / "run", results)) for _ in range(4)]
    for writer in writers:
        writer.start()
    outcomes = [results.get(timeout=60) for _ in range(4 * 8)]
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert set(outcomes) <= {"made", "refused"}
    assert "made" in outcomes
    open_run(tmp_path / "run")


# -- interruption ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a signal does: nothing in the writer catches it."""


@contextmanager
def failing(number: int, error: BaseException) -> Iterator[list[int]]:
    """The disk fails for good from the ``number``-th sync, rename or new file on; yields the count of such steps."""
    count = [0]

    def wrapped(right: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] >= number:
                raise error
            return right(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", wrapped(lambda descriptor: None))
        patch.setattr(os, "replace", wrapped(os.replace))
        patch.setattr(files, "open", wrapped(open), raising=False)
        yield count


def contents(run: Path) -> dict[str, bytes]:
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def steps_of_a_run(directory: Path) -> int:
    with failing(10**9, OSError()) as count:
        made(directory)
    return count[0]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), Killed()],
    ids=["full", "killed"],
)
def test_a_run_interrupted_anywhere_is_never_half_written_and_resumes(
    error: BaseException, tmp_path: Path, finished: Path
) -> None:
    whole = contents(finished)
    steps = steps_of_a_run(tmp_path / "count")
    assert steps == 4 * (1 + 1 + 7 + 6 + 1 + 1 + 1)  # manifest, part, tables, circuits, graph, report, manifest
    for number in range(1, steps + 1):
        place = tmp_path / f"run{number}"
        expected = RunError if isinstance(error, OSError) else Killed
        with failing(number, error), pytest.raises(expected):
            made(place)
        for name, data in contents(place).items():
            if name.endswith(files._SUFFIX):
                assert isinstance(error, Killed)
            elif name == "manifest.json":
                assert json.loads(data)["status"] == ("finished" if number == steps else "running")
            elif not name.startswith("parts/"):
                assert data == whole[name]
        if 8 < number < steps:
            assert any(name.startswith("parts/") for name in contents(place))  # measured, not yet safely elsewhere
        if number < steps:
            with pytest.raises(RunError, match=r"half written|no manifest|no run directory"):
                open_run(place)
        assert made(place).fresh
        assert contents(place) == whole
        shutil.rmtree(place)


def test_temporary_files_of_a_killed_process_are_swept_at_the_next_opening(tmp_path: Path) -> None:
    (tmp_path / "run" / "parts").mkdir(parents=True)
    stale = [tmp_path / "run" / f".x.1{files._SUFFIX}", tmp_path / "run" / "parts" / f".y.1{files._SUFFIX}"]
    for path in stale:
        path.write_bytes(b"half")
    with RunWriter.opened(tmp_path / "run", KEY, ABOUT):
        assert not any(path.exists() for path in stale)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_a_part_is_kept_for_a_later_writer(tmp_path: Path) -> None:
    with RunWriter.opened(tmp_path / "run", KEY, ABOUT) as writer:
        assert writer.shards.get(PART) is None
        writer.shards.put(PART, VALUES)
    with RunWriter.opened(tmp_path / "run", KEY, ABOUT) as writer:
        stored = writer.shards.get(PART)
        assert stored is not None
        assert stored.keys() == VALUES.keys()
        for name, array in VALUES.items():
            np.testing.assert_array_equal(stored[name], array)
        assert writer.shards.get({**PART, "components": ["L0H2"]}) is None


# -- circuits as JSON --------------------------------------------------------------------------------------------------


def test_a_run_of_a_version_that_gave_no_doses_has_none(run: Path) -> None:
    assert len(open_run(run).doses) == 1
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    del manifest["files"]["doses.parquet"]
    (run / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    (run / "doses.parquet").unlink()
    older = open_run(run)
    assert older.doses.empty
    assert tuple(older.doses.columns) == DOSE_COLUMNS
    assert len(older.half_layers) == 1


def test_a_circuit_survives_json_and_missing_intervals_become_null(tmp_path: Path) -> None:
    circuit = circuit_of()
    files.write_json(tmp_path / "fear.json", circuit.to_json())
    text = (tmp_path / "fear.json").read_text()
    assert "NaN" not in text
    stored = json.loads(text)
    assert [n["low"] for n in stored["nodes"] if n["id"] == "L1N2"] == [None]
    read = Circuit.from_json(files.read_json(tmp_path / "fear.json"))
    # NaN is not equal to itself, so the comparison is of texts.
    assert repr(read) == repr(circuit)
    assert read.components == circuit.components


def test_an_empty_circuit_survives_json() -> None:
    circuit = Circuit(Emotion.ANGER, (), (), {"undefined": "nothing", "reached": False})
    assert Circuit.from_json(json.loads(json.dumps(circuit.to_json()))) == circuit


JSON = json.loads(json.dumps(files._plain(circuit_of().to_json())))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(format="emotion-circuits/0"), "not a circuit of this package"),
        (lambda d: d["graph"].update(emotion="joy"), "unknown emotion 'joy'"),
        (lambda d: d["graph"].update(emotion=["fear"]), "unknown emotion|malformed"),
        (lambda d: d["graph"].clear(), "a circuit file is malformed: KeyError 'emotion'"),
        (lambda d: d.update(nodes=None), "malformed"),
        (lambda d: d["nodes"].append(3), "malformed"),
        (lambda d: d["nodes"][1].update(id="../x"), r"unknown component '\.\./x'"),
        (lambda d: d["nodes"][1].update(id=7), "malformed"),
        (lambda d: d["nodes"][1].update(effect="0.5"), "effect is '0.5'; expected a number"),
        (lambda d: d["nodes"][1].update(effect=True), "effect is True; expected a number"),
        (lambda d: d["nodes"][1].update(effect=10**400), "effect is too large for a number"),
        (lambda d: d["nodes"][1].pop("q"), "malformed: KeyError 'q'"),
        (lambda d: d["nodes"].append(d["nodes"][1]), "lists a node twice"),
        (
            lambda d: d["edges"][0].update(source="L9H9"),
            "an edge names the node 'L9H9', which the circuit does not have",
        ),
        (lambda d: d["edges"][0].update(target=[]), "malformed"),
        (lambda d: d["edges"][0].pop("kind"), "malformed"),
        (lambda d: d.pop("judgement"), "malformed"),
        (lambda d: d.update(judgement=[1]), "judgement is a list; expected an object"),
    ],
)
def test_a_malformed_circuit_is_refused(edit: Callable[[Any], object], message: str) -> None:
    data = copy.deepcopy(JSON)
    edit(data)
    with pytest.raises(CircuitsError, match=message):
        Circuit.from_json(data)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=4)
    | st.sampled_from(["component", "embed", "fear", "L0H1", "L00001H1", "L1N2", "emotion-circuits/1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*before, key))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(list(paths(JSON))), VALUE), min_size=1, max_size=3))
def test_any_json_gives_a_circuit_or_a_named_error(edits: list[tuple[tuple[Any, ...], Any]]) -> None:
    root: dict[str, Any] = {"it": copy.deepcopy(JSON)}
    for path, value in edits:
        place: Any = root
        try:
            for key in ("it", *path)[:-1]:
                place = place[key]
            place[("it", *path)[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier edit took the place away
    try:
        circuit = Circuit.from_json(root["it"])
    except CircuitsError:
        return
    assert Circuit.from_json(files._plain(circuit.to_json())).names == circuit.names
