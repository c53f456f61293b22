"""A shard is given back bit for bit or not at all, and never for a question other than its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_rows
from families import ANSWERS, load_family, make_model_directory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save, save_file

from circuits import jsontext
from circuits.effects import task as measuring
from circuits.effects.measure import measure
from circuits.effects.table import Effects
from circuits.errors import MeasurementError, RunError
from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.model.machine import Precision
from circuits.model.readout import Readout
from circuits.model.ways import Ways
from circuits.prompts.datasets import Prompts
from circuits.runs.shards import Shards

KEY = {"what": "effects", "components": ["L0H1"], "rows": ["a", "b"], "steps": 5, "text": "é\u2028"}
OTHER = {**KEY, "components": ["L0H2"]}
VALUES = {"values": np.arange(12, dtype=np.float32).reshape(1, 2, 6), "clean": np.full((2, 6), -0.5, np.float32)}
REMEDY = "delete it and run again: it is made anew"

Arrays = Mapping[str, NDArray[Any]]


def same(first: Arrays, second: Arrays) -> bool:
    """Equal names, types, shapes and bits; NaN equals the NaN of the same bits."""
    return first.keys() == second.keys() and all(
        a.dtype == second[name].dtype and a.shape == second[name].shape and a.tobytes() == second[name].tobytes()
        for name, a in first.items()
    )


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(tmp_path / "parts")


@pytest.fixture
def path(shards: Shards) -> Path:
    """The file of a shard."""
    shards.put(KEY, VALUES)
    return shards.path(KEY)


# -- round trip --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 6), (2, 3, 6)])
def test_a_shard_comes_back_bit_for_bit(dtype: str, shape: tuple[int, ...], shards: Shards) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    turned = {"values": array, "turned": array.T, "strided": np.repeat(array[None], 4, 0)[::2]}
    shards.put(KEY, turned)
    found = shards.get(KEY)
    assert found is not None
    assert same(found, turned)
    shards.put(KEY, VALUES)  # and can be put again
    assert same(shards.get(KEY) or {}, VALUES)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(lambda n: n != "__metadata__")
ARRAY = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.dictionaries(st.text(max_size=6), JSON, max_size=4), tensors=st.dictionaries(NAMES, ARRAY, max_size=3))
def test_any_key_and_any_arrays_come_back(
    key: dict[str, Any], tensors: dict[str, NDArray[Any]], shards: Shards
) -> None:
    shards.path(key).unlink(missing_ok=True)
    assert shards.get(key) is None
    shards.put(key, tensors)
    assert same(shards.get(key) or {}, tensors)
    assert shards.get({**key, "another": 1}) is None


def test_what_does_not_exist_is_kept_as_it_is(shards: Shards) -> None:
    odd = np.array([math.nan, -math.nan, math.inf, -0.0, 5e-324], dtype=np.float64)
    odd = np.concatenate([odd, np.array([0x7FF0000000000001], dtype=np.uint64).view(np.float64)])  # a signalling NaN
    shards.put(KEY, {"values": odd})
    assert same(shards.get(KEY) or {}, {"values": odd})


def test_an_absent_key_has_no_shard(shards: Shards, path: Path) -> None:
    assert shards.get(OTHER) is None
    assert Shards(shards.folder / "nowhere").get(KEY) is None
    assert not (shards.folder / "nowhere").exists()


def test_equal_shards_are_equal_bytes(shards: Shards, path: Path) -> None:
    before = path.read_bytes()
    shards.put(dict(reversed(KEY.items())), dict(reversed(VALUES.items())))
    assert path.read_bytes() == before
    assert [p.name for p in shards.folder.iterdir()] == [path.name]


# -- damage ------------------------------------------------------------------------------------------------------------


def read(shards: Shards, path: Path) -> bool:
    """Whether the damaged file is still read, with the right numbers; refused by name and with the remedy, else."""
    try:
        found = shards.get(KEY)
    except RunError as error:
        found, said = None, str(error)
    if found is None:
        assert str(path) in said
        assert REMEDY in said
        return False
    assert same(found, VALUES)
    return True


def unread(data: bytes) -> set[int]:
    """Places in a shard's file that nothing reads: the plain words of its key, kept for people, and padding."""
    start = 8 + int.from_bytes(data[:8], "little")
    about = data.index(b'"about":"')
    end = data.index(b'","key":', about)
    padding = range(len(data[:start].rstrip(b" ")), start)
    return {*range(about, end), *padding}


def test_no_flipped_bit_gives_other_numbers(shards: Shards, path: Path) -> None:
    whole = path.read_bytes()
    harmless = unread(whole)
    flips = [1 << bit for bit in range(8)] + [0xFF]
    for place in range(len(whole)):
        for flip in flips:
            damaged = bytearray(whole)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            assert not read(shards, path) or place in harmless, (place, flip, whole[place - 20 : place + 20])


def test_no_truncation_is_read(shards: Shards, path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not read(shards, path), length
    for more in (b"\0", b" ", whole):
        path.write_bytes(whole + more)
        assert not read(shards, path), more


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4))
def test_no_patchwork_gives_other_numbers(edits: list[tuple[float, int, bytes]], shards: Shards) -> None:
    shards.put(KEY, VALUES)
    data = bytearray(shards.path(KEY).read_bytes())
    for place, cut, patch in edits:
        start = int(place * len(data))
        data[start : start + cut] = patch
    shards.path(KEY).write_bytes(data)
    read(shards, shards.path(KEY))


ABOUT = {"key": json.dumps(jsontext.fingerprint(KEY)), "about": "{}"}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"a text\n", b"{}", b"\x80\x04N.", bytes(8), (2).to_bytes(8, "little") + b"{}", (2**63).to_bytes(8, "little"),
        save(VALUES), save({}, metadata=ABOUT), save(VALUES, metadata=ABOUT), save(VALUES, metadata={"key": "no JSON"}),
        save(VALUES, metadata={**ABOUT, "sha256": "null"}), save(VALUES, metadata={**ABOUT, "key": '{"a":1,"a":1}'}),
        save(VALUES, metadata={**ABOUT, "about": "[" * 10**5}), save(VALUES, metadata={**ABOUT, "sha256": "[]"}),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_foreign_file_is_refused(content: bytes, shards: Shards, path: Path) -> None:
    path.write_bytes(content)
    assert not read(shards, path)


def test_a_renamed_shard_is_refused(shards: Shards, path: Path) -> None:
    path.rename(shards.path(OTHER))
    with pytest.raises(
        RunError, match=f"the shard .*{shards.path(OTHER).name} belongs to another measurement; {REMEDY}"
    ):
        shards.get(OTHER)
    shards.path(OTHER).unlink()  # the remedy
    assert shards.get(OTHER) is None


# -- what a shard's key depends on -------------------------------------------------------------------------------------


class Kept:
    """A store in memory that counts."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[dict[str, Any], Arrays]] = {}
        self.asked: list[dict[str, Any]] = []
        self.made = 0

    def get(self, key: Mapping[str, Any]) -> Arrays | None:
        self.asked.append(dict(key))
        return self.kept.get(jsontext.fingerprint(key), (None, None))[1]

    def put(self, key: Mapping[str, Any], tensors: Arrays) -> None:
        self.made += 1
        self.kept[jsontext.fingerprint(key)] = (dict(key), tensors)


COMPONENTS = ("L0H1", "L1H2", "L2.attn")


def rows(**changes: object) -> list[dict[str, Any]]:
    """Two scenarios' texts, the first one changed."""
    made: list[dict[str, Any]] = tiny_rows(2)
    made[0] = {**made[0], **changes}
    return made


def prompts_of(**changes: object) -> Prompts:
    return Prompts.of(rows(**changes), name="tiny", answers=ANSWERS)


@pytest.fixture(scope="module")
def model(model_of: Callable[[str], Model]) -> Model:
    return model_of("gpt2")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same model but for the smallest possible change of one weight."""
    directory = make_model_directory(tmp_path_factory.mktemp("other"), "gpt2")
    weights = load_file(directory / "model.safetensors")
    weight = weights["transformer.h.2.mlp.c_fc.weight"]
    weight[0, 0] = np.nextafter(weight[0, 0], np.float32(1e9))
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return load(directory, device="cpu")


def equal(first: Effects, second: Effects) -> bool:
    return same({"v": first.values, "c": first.clean}, {"v": second.values, "c": second.clean})


def test_nothing_changes_when_the_same_is_asked_again(model: Model, tmp_path: Path) -> None:
    store = Kept()
    first = measure(model, prompts_of(), COMPONENTS, store=store)
    made, asked = store.made, store.asked[:]
    again = load_family(tmp_path, "gpt2")  # the same weights from another place
    for m in (model, again):
        assert equal(measure(m, prompts_of(), COMPONENTS, store=store), first)
    renamed = Prompts.of(rows(), name="other", answers=ANSWERS)
    assert equal(measure(model, renamed, COMPONENTS, store=store), first)
    assert store.made == made > 0
    assert store.asked == asked * 4


def test_what_the_reader_should_know_is_kept_with_the_numbers(model_of: Callable[[str], Model]) -> None:
    store, replayed = Kept(), model_of("bloom")
    first, again = (measure(replayed, prompts_of(), ("L0H1", "L1H2"), store=store) for _ in range(2))
    assert store.made == 1
    assert "measured by replaying the model's own blocks" in first.notices[0]
    assert again.notices == first.notices


ANOTHER_TEXT = str(tiny_rows(2)[0]["text"]).replace("Tom felt", "Mia felt")
OTHER_ANSWERS = {**ANSWERS, "fear": ["sad"], "sadness": ["afraid"]}

VARIANTS: dict[str, dict[str, Any]] = {
    "method": {"method": "gradient"},
    "ablation": {"ablation": "mean"},
    "zero": {"ablation": "zero"},
    "positions": {"positions": "readout"},
    "arithmetic": {"arithmetic": "bfloat16"},
    "text": {"prompts": prompts_of(text=ANOTHER_TEXT)},
    "id": {"prompts": prompts_of(id="x")},
    "neutral": {"prompts": prompts_of(neutral="the box Tom felt")},
    "answers": {"prompts": Prompts.of(rows(), name="tiny", answers=OTHER_ANSWERS)},
    "components": {"components": ("L0H1", "L1H2", "L2.mlp")},
    "order": {"components": ("L1H2", "L0H1", "L2.attn")},
}  # fmt: skip


@pytest.mark.parametrize("change", [*VARIANTS, "weights", "readout"])
def test_what_is_changed_is_made_anew(change: str, model: Model, other_model: Model) -> None:
    store, plain = Kept(), {"prompts": prompts_of(), "components": COMPONENTS}
    first = measure(model, **plain, store=store)
    keys, made = set(store.kept), store.made
    asked = {**plain, **VARIANTS.get(change, {})}
    if change == "readout":
        asked["readout"] = Readout.of(model, VARIANTS["answers"]["prompts"].answers)
    changed = other_model if change == "weights" else model
    found = measure(changed, **asked, store=store)
    if change != "order":  # the same components in another order are the same question
        assert store.made == 2 * made
        assert len(store.kept) == 2 * len(keys)
    assert equal(found, measure(changed, **asked))
    assert equal(measure(model, **plain, store=store), first)  # and the old ones are there still


@pytest.mark.parametrize("method", ["exact", "gradient", "direct", "ig_inputs", "ig_activations"])
def test_steps_count_where_there_are_steps(method: str, model: Model) -> None:
    store, integrated = Kept(), method.startswith("ig_")
    measure(model, prompts_of(), COMPONENTS, method=method, steps=2, store=store)
    made = store.made
    found = measure(model, prompts_of(), COMPONENTS, method=method, steps=3, store=store)
    assert store.made == (2 * made if integrated else made)
    assert equal(found, measure(model, prompts_of(), COMPONENTS, method=method, steps=3))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("versions", lambda: {**dict.fromkeys(("emotion-circuits", "transformers"), "0"), "torch": "0.0.1"}),
        ("code", lambda: "0" * 64),
        ("precision", lambda device: Precision("other", 0.0)),
        ("ways", lambda model: Ways(None, "because", 0.0)),
    ],
)
def test_shards_of_another_library_code_or_way_are_not_read(
    name: str, changed: Callable[..., Any], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Kept()
    first = measure(model, prompts_of(), COMPONENTS, store=store)
    made = store.made
    for key, (about, _) in list(store.kept.items()):
        spoilt = {"values": np.full((3, 12, 6), 7, np.float32), "clean": np.full((12, 6), 7, np.float32)}
        store.kept[key] = (about, spoilt)  # stale numbers that would be noticed
    monkeypatch.setattr(measuring, name, changed)
    assert equal(measure(model, prompts_of(), COMPONENTS, store=store), first)
    assert store.made == 2 * made


def test_on_disk_too_a_changed_question_reads_no_stale_shard(model: Model, shards: Shards) -> None:
    measure(model, prompts_of(), COMPONENTS, store=shards)
    for asked in ({"prompts": VARIANTS["text"]["prompts"]}, {"prompts": prompts_of(), "ablation": "zero"}):
        found = measure(model, components=COMPONENTS, store=shards, **asked)
        assert equal(found, measure(model, components=COMPONENTS, **asked))


# -- what a store gives back is not trusted ----------------------------------------------------------------------------


def given_back(edit: Callable[[dict[str, NDArray[Any]]], object], model: Model) -> None:
    store = Kept()
    measure(model, prompts_of(), COMPONENTS, store=store)
    for about, tensors in store.kept.values():
        spoilt = {name: array.copy() for name, array in tensors.items()}
        edit(spoilt)
        store.kept[jsontext.fingerprint(about)] = (about, spoilt)
    measure(model, prompts_of(), COMPONENTS, store=store)


def holed(tensors: dict[str, NDArray[Any]], value: float) -> None:
    tensors["values"][1, 3, 2] = value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_named_and_never_averaged_away(value: float, model: Model) -> None:
    name = tiny_rows(2)[3]["id"]
    with pytest.raises(MeasurementError, match=f"the effect of .* on prompt '{name}' .* is -?(nan|inf)"):
        given_back(lambda tensors: holed(tensors, value), model)


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t.pop("values"), lambda t: t.pop("clean"), lambda t: t.update(values=t["values"][:-1]),
        lambda t: t.update(values=t["values"].astype(np.float64)), lambda t: t.update(clean=t["clean"][0]),
    ],
)  # fmt: skip
def test_a_shard_of_another_shape_is_refused(edit: Callable[[dict[str, NDArray[Any]]], object], model: Model) -> None:
    with pytest.raises(MeasurementError, match=r"a stored shard's .* are .*; expected float32 .*: delete it"):
        given_back(edit, model)


def test_a_shard_that_cannot_be_written_is_a_named_error(shards: Shards) -> None:
    shards.folder.mkdir()
    shards.path(KEY).mkdir()  # a folder in its place
    assert shards.get(KEY) is None
    with pytest.raises(RunError, match=r"cannot write .*\.safetensors"):
        shards.put(KEY, VALUES)
    assert list(shards.folder.glob(".*")) == []
