"""Rules of the house, read off the source: who may import whom, who touches what, and how large a module may grow."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from conftest import LONGEST

import circuits

ROOT = Path(circuits.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py"))
ROOMS = ("prompts", "model", "directions", "effects", "circuit", "compare", "runs", "show")
LEAVES = ("errors", "jsontext", "shipped", "settings", "versions")
TOP = ("walk", "live", "exploring", "cli", "testing", "__main__")
LARGEST = 420

PUBLIC = [
    "EMOTIONS", "Ablation", "Certified", "Circuit", "CircuitsError", "Component", "Directions", "Effects", "Emotion",
    "Live", "Method", "Model", "Planted", "Positions", "Prompts", "Run", "Settings", "Sweep", "__version__", "allocate",
    "capture", "certify", "contrast", "discover", "dose_response", "estimate_directions", "explore", "figures", "grand_mean",
    "half_layers", "head_importance", "influence_slope", "load", "measure", "measure_positions", "neuron_contributions",
    "open_run", "open_sweep", "planted", "probe", "read_circuit", "read_prompts", "same_effect", "several_mechanisms",
    "sublayer_influence", "sweep", "testing", "validate_prompts", "wang_circuit",
]  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module given by its dotted parts below the package; '' is the package itself."""
    return parts[0] if parts else ""


def typing_only(tree: ast.Module) -> set[ast.stmt]:
    """Statements inside ``if TYPE_CHECKING``: never executed."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    return {inner for block in blocks for inner in ast.walk(block) if isinstance(inner, ast.stmt)}


def imports_of(path: Path, *, executed_only: bool = False) -> list[str]:
    """Dotted names of everything a module imports, at any depth of nesting."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = typing_only(tree) if executed_only else set()
    found = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} uses a relative import"
            found.append(node.module or "")
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_there_is_something_to_check():
    assert {path.parent.name for path in MODULES} >= set(ROOMS)
    assert len(MODULES) > 40


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_its_own_and_earlier_rooms(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = room_of(parts)
    if own in (*TOP, "__init__"):
        return
    for imported in imports_of(path, executed_only=True):
        if not (imported == "circuits" or imported.startswith("circuits.")):
            continue
        rest = tuple(imported.split(".")[1:])
        other = room_of(rest)
        if own in LEAVES:
            allowed = other in ("", "errors", "__version__") or (
                own == "settings" and rest[:2] in {("effects",), ("effects", "kinds")}
            )
        elif other in LEAVES or other in ("", "__version__"):
            allowed = True
        else:
            allowed = other in ROOMS and ROOMS.index(other) <= ROOMS.index(own)
        assert allowed, f"{name_of(path)} imports {imported}"


def importers(library: str) -> set[str]:
    """Rooms in which a library is imported."""
    return {
        path.relative_to(ROOT).parts[0]
        for path in MODULES
        if any(name == library or name.startswith(f"{library}.") for name in imports_of(path))
    }


def test_transformer_lens_has_one_door():
    assert importers("transformer_lens") == {"model"}


def test_plots_are_drawn_in_one_room():
    assert importers("plotly") | importers("dash") | importers("dash_cytoscape") == {"show"}


def test_planted_models_are_planted_in_the_model_room():
    assert importers("transformers") <= {"model"}


def writes_in(tree: ast.Module) -> list[str]:
    """Calls that put something on the disk, as text."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        method = isinstance(node.func, ast.Attribute)
        if name == "open":
            modes = [*node.args[0 if method else 1 :], *(k.value for k in node.keywords if k.arg == "mode")]
            text = [m.value for m in modes if isinstance(m, ast.Constant) and isinstance(m.value, str)]
            if any(re.fullmatch(r"[rwaxbt+]+", mode) and set(mode) & set("wax+") for mode in text):
                found.append(ast.unparse(node))
        elif name in {
            "write_text", "write_bytes", "to_parquet", "to_csv", "to_json", "to_pickle", "save", "save_file", "savez",
            "savetxt", "save_pretrained", "write_html", "write_image", "write_table", "write_graphml", "mkdir", "makedirs",
            "unlink", "rmtree", "replace_file", "symlink_to", "touch", "dump",
        }:  # fmt: skip
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "source",
    ["open(p, 'w')", "open(p, mode='ab')", "Path(p).open('x')", "p.write_text('')", "t.to_parquet(p)", "np.save(p, x)",
     "torch.save(x, p)"],
)  # fmt: skip
def test_a_write_is_seen(source):
    assert writes_in(ast.parse(source)) == [source]


@pytest.mark.parametrize(
    "source", ["open(p)", "open(p, 'rb')", "Path(p).open()", "p.read_text()", "text.replace('a', 'b')"]
)
def test_a_read_is_not_taken_for_a_write(source):
    assert writes_in(ast.parse(source)) == []


def test_only_one_room_writes_files():
    found = {}
    for path in MODULES:
        calls = writes_in(ast.parse(path.read_text(encoding="utf-8")))
        # Circuit.to_json and its like return values; only what belongs to a file or a library writes.
        calls = [call for call in calls if not re.search(r"\bcircuit\.to_json\(\)", call)]
        if calls:
            found[name_of(path)] = calls
    assert any(name.startswith("runs/") for name in found)
    outside = {name: calls for name, calls in found.items() if not name.startswith("runs/")}
    # The run writer's own methods are called from the walk.
    outside = {name: [c for c in calls if not c.startswith("writer.")] for name, calls in outside.items()}
    assert {name: calls for name, calls in outside.items() if calls} == {}


def test_the_public_names_are_these_and_each_exists():
    assert circuits.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(circuits, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        circuits.nothing  # noqa: B018
    assert dir(circuits) == sorted(PUBLIC)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_small_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LARGEST
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "types"}
    if path.name != "__init__.py":
        assert ast.get_docstring(ast.parse(text)), "no module docstring"


def test_the_files_that_are_begun_first_exist_and_are_named_once():
    assert [name for name in LONGEST if not (Path(__file__).parent / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)


def test_no_two_test_files_have_the_same_name():
    # Without packages pytest would import one for the other, and only where both are collected: never in a run of one folder.
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
