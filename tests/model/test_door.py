"""The model door: what it lets in obeys the laws and is Hugging Face's model; what it refuses is named, without a guess."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from families import EXPERTS, FAMILIES, REFUSED, make_model_directory, save_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from circuits.errors import LawError, MeasurementError, ModelLoadError, UnsupportedModelError
from circuits.model import door
from circuits.model.anatomy import Model
from circuits.model.door import load
from circuits.model.laws import short_prompt
from circuits.model.sites import Half

ModelOf = Callable[[str], Model]
WEIGHT = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_directory(tmp_path_factory.mktemp("door") / "llama", "llama")


@pytest.fixture
def directory(llama: Path, tmp_path: Path) -> Path:
    """A copy of a good directory, to be spoilt."""
    return shutil.copytree(llama, tmp_path / "model")


def edit_weights(directory: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(directory / "model.safetensors")
    edit(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def edit_config(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# -- what comes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_obeys_the_laws_and_is_hugging_faces_model(family: str, model_of: ModelOf) -> None:
    model = model_of(family)
    laws = {law.name: law for law in model.capabilities.laws}
    assert {law.bound for law in laws.values()} == {1e-4}
    assert all(law.error < 1e-4 for law in laws.values())
    for name in ("final stream = sum of all writes", "logits = our read-out of the final stream",
                 "logits = Hugging Face's logits", "layer 2: mlp_out = sum of neurons + b_out"):  # fmt: skip
        assert name in laws
    original = AutoModelForCausalLM.from_pretrained(model.name, attn_implementation="eager").eval()
    tokens = short_prompt(model.vocab, model.device)
    real = tokens.mask.bool()
    with torch.no_grad():
        theirs = original(tokens.ids, attention_mask=tokens.mask).logits[real]
        ours = model.bridge(tokens.ids, attention_mask=tokens.mask, use_cache=False)[real]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    d_mlp = 64 if family in ("bloom", "mpt") else 24  # these have no size of their own: four times the width
    assert (model.n_layers, model.n_heads, model.d_mlp, model.d_model, model.vocab) == (3, 4, d_mlp, 16, 80)


@pytest.mark.parametrize(
    ("family", "sequential", "post_norms", "gated"),
    [
        ("gpt2", True, False, False), ("llama", True, False, True), ("qwen3", True, False, True),
        ("neox", False, False, False), ("neox_sequential", True, False, False),
        ("gemma2", True, True, True), ("opt", True, False, False),
    ],
)  # fmt: skip
def test_capabilities(family: str, sequential: bool, post_norms: bool, gated: bool, model_of: ModelOf) -> None:
    found = model_of(family).capabilities
    assert (found.sequential, found.post_norms, found.gated) == (sequential, post_norms, gated)


def test_an_existing_bridge_is_taken_as_it_is(model_of: ModelOf) -> None:
    first = model_of("llama")
    second = load(first.bridge)
    assert second.bridge is first.bridge
    assert second.fingerprint == first.fingerprint
    # Only Hugging Face's own logits, taken before wrapping, are missing.
    assert {law.name for law in first.capabilities.laws} - {law.name for law in second.capabilities.laws} == {
        "logits = Hugging Face's logits"
    }


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-6), ("bfloat16", 5e-2)])
def test_other_dtypes(dtype: str, bound: float, llama: Path) -> None:
    model = load(llama, device="cpu", dtype=dtype)
    assert model.dtype is getattr(torch, dtype)
    assert {law.bound for law in model.capabilities.laws} == {bound}


def test_the_fingerprint_is_of_weights_and_words(directory: Path, llama: Path) -> None:
    first = load(llama, device="cpu").fingerprint
    assert load(directory, device="cpu").fingerprint == first
    edit_weights(directory, lambda w: w[WEIGHT][2].add_(1e-3))
    second = load(directory, device="cpu").fingerprint
    text = (directory / "tokenizer.json").read_text()
    (directory / "tokenizer.json").write_text(text.replace('"angry"', '"cross"'))
    assert len({first, second, load(directory, device="cpu").fingerprint}) == 3


def test_loading_leaves_the_loaders_settings_as_they_were(llama: Path) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load(llama, device="cpu")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_texts_are_padded_right_and_long_ones_refused(model_of: ModelOf) -> None:
    model = model_of("llama")
    tokens = model.encode(["Tom felt", "Tom saw Mia and felt"])
    lengths = [len(model.token_ids(text)) for text in ("Tom felt", "Tom saw Mia and felt")]
    assert tokens.mask.sum(1).tolist() == lengths
    assert tokens.last.tolist() == [n - 1 for n in lengths]
    assert tokens.ids[0, : lengths[0]].tolist() == model.token_ids("Tom felt")
    extra = len(model.token_ids("Tom")) - 1
    assert model.encode(["Tom " * (32 - extra)]).ids.shape == (1, 32)
    with pytest.raises(MeasurementError, match=r"'s0-fear' has 33 tokens; .* reads at most 32; shorten the text"):
        model.encode(["Tom", "Tom " * (33 - extra)], ["s0-anger", "s0-fear"])
    with pytest.raises(MeasurementError, match="text 0 has 33 tokens"):
        model.encode(["Tom " * (33 - extra)])
    with pytest.raises(MeasurementError, match="no text to encode"):
        model.encode([])


# -- laws --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "law"),
    [
        ("W_O", "layer 0: attn_out = sum of heads + b_O"),
        ("W_out", "layer 0: mlp_out = sum of neurons + b_out"),
        ("unembedding", "logits = our read-out of the final stream"),
    ],
)
@pytest.mark.parametrize("family", ["llama", "neox", "gemma2"])
def test_a_broken_law_is_refused_by_name(
    family: str, method: str, law: str, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = model_of(family).bridge
    right = getattr(Model, method)

    def scaled(self: Model, *args: Any) -> Any:
        value = right(self, *args)
        return (value[0] * 1.01, value[1]) if isinstance(value, tuple) else value * 1.01

    monkeypatch.setattr(Model, method, scaled)
    with pytest.raises(LawError, match=f"breaks the law «{law.replace('+', '.')}»: relative error 0.0.*at most 1e-04"):
        load(bridge)


def test_a_bias_left_out_breaks_a_law(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = model_of("gpt2").bridge
    parameter = bridge.blocks[1].mlp.b_out
    before = parameter.detach().clone()
    monkeypatch.setattr(Model, "bias", lambda self, layer, half: torch.zeros(self.d_model))
    try:
        with torch.no_grad():
            parameter.copy_(torch.ones_like(parameter))
        with pytest.raises(LawError, match=f"«layer 1: {Half.MLP}_out = sum of neurons"):
            load(bridge)
    finally:
        with torch.no_grad():
            parameter.copy_(before)


def test_a_wrapper_that_changes_the_model_is_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = door._wrapped

    def changed(name: str, location: str, original: Any, tokenizer: Any, dtype: torch.dtype) -> Any:
        with torch.no_grad():
            original.model.norm.weight.mul_(1.01)
        return right(name, location, original, tokenizer, dtype)

    monkeypatch.setattr(door, "_wrapped", changed)
    with pytest.raises(LawError, match="breaks the law «logits = Hugging Face's logits»"):
        load(llama, device="cpu")


# -- names -------------------------------------------------------------------------------------------------------------


def refused(name: Any, error: type[Exception], message: str, **options: str) -> None:
    start = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        load(name, **{"device": "cpu", **options})
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)


def test_an_unknown_name_offline_says_what_is_set() -> None:
    refused(
        "no-such-model", ModelLoadError, "'no-such-model' is not a local directory.*HF_HUB_OFFLINE is set; unset it"
    )


def test_an_unknown_name_without_a_network_says_so_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    asked = []
    monkeypatch.setattr(door, "_reachable", lambda endpoint: asked.append(endpoint) or False)
    refused("nobody/no-such-model", ModelLoadError, "nor in the local cache, and the model hub cannot be reached")
    assert asked == [huggingface_hub.constants.ENDPOINT]


def test_the_probe_finds_out_whether_someone_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert door._reachable(f"http://127.0.0.1:{port}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        assert door._reachable("https://hub.invalid")
    assert not door._reachable(f"http://127.0.0.1:{port}")
    assert not door._reachable("https://hub.invalid")


def test_the_probe_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(address: tuple[str, int], timeout: float) -> socket.socket:
        assert timeout <= 5
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    assert not door._reachable("https://hub.invalid")


@pytest.mark.parametrize("name", ["", " ", "a" * 300, "a\nb", "\0", "owner/na me", "a--b", "é"])
def test_an_impossible_name_is_refused(name: str) -> None:
    refused(name, ModelLoadError, "name is empty|is neither a directory nor a possible hub name")


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere", "~nobody-of-this-name", __file__]
)
def test_a_path_that_is_no_directory_is_refused(name: str) -> None:
    refused(name, ModelLoadError, r"is not a directory; expected one with config\.json and \*\.safetensors")


@pytest.mark.parametrize("thing", [None, 3, object()])
def test_something_that_is_no_bridge_is_refused(thing: object) -> None:
    refused(thing, UnsupportedModelError, "expected a decoder-only TransformerBridge")


def test_unknown_dtype_and_device(llama: Path) -> None:
    refused(llama, ModelLoadError, "unknown dtype 'int8'; expected one of float32, float64", dtype="int8")
    for device in ("tpu9", "cuda:99", "meta", ""):
        refused(llama, ModelLoadError, f"device '{device}' cannot be used", device=device)


# -- directories -------------------------------------------------------------------------------------------------------


def without_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def only_pickles(directory: Path) -> None:
    without_weights(directory)
    (directory / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")


def halved(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def only(model_type: str, **fields: Any) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        (directory / "config.json").write_text(json.dumps({"model_type": model_type, **fields}))
        save_file({"x": torch.zeros(1)}, directory / "model.safetensors", metadata={"format": "pt"})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (without_weights, ModelLoadError, r"has no weights; expected at least one \*\.safetensors"),
        (only_pickles, ModelLoadError, r"holds only pickled weights \(pytorch_model\.bin\), which could run code"),
        (halved, ModelLoadError, "cannot be loaded: .*header"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), ModelLoadError, "cannot be loaded: .*header"),
        (lambda d: (d / "config.json").unlink(), ModelLoadError, r"has no config\.json"),
        (lambda d: (d / "config.json").write_text("{"), ModelLoadError, "cannot be read as JSON"),
        (lambda d: (d / "config.json").write_bytes(b"\xff"), ModelLoadError, "cannot be read as JSON"),
        (lambda d: (d / "config.json").write_text("[" * 10**5), ModelLoadError, "cannot be read as JSON: .*deeply"),
        (lambda d: (d / "config.json").write_text("[]"), ModelLoadError, "names no model_type"),
        (lambda d: (d / "config.json").write_text("{}"), ModelLoadError, "names no model_type"),
        (lambda d: (d / "tokenizer.json").unlink(), ModelLoadError, "has no tokenizer"),
        (lambda d: (d / "tokenizer.json").write_text("{"), ModelLoadError, "cannot be loaded: "),
        (only("no_such_kind"), ModelLoadError, "cannot be loaded: .*no_such_kind"),
        (only("mamba"), UnsupportedModelError, r"\(mamba\) has recurrent blocks"),
        (only("jamba"), UnsupportedModelError, r"\(jamba\) has recurrent blocks"),
        (only("t5"), UnsupportedModelError, r"\(t5\) is an encoder-decoder; expected a decoder-only model"),
        (lambda d: edit_weights(d, lambda w: w.pop(WEIGHT)), ModelLoadError, f"lacks 1 weights, the first is {WEIGHT}"),
        (lambda d: edit_weights(d, lambda w: w[WEIGHT][2].fill_(torch.nan)), ModelLoadError,
         f"the weight {WEIGHT} holds NaN or infinity"),
        (lambda d: edit_weights(d, lambda w: w[WEIGHT][2].fill_(torch.inf)), ModelLoadError,
         f"the weight {WEIGHT} holds NaN or infinity"),
        (lambda d: edit_weights(d, lambda w: w.update({WEIGHT: torch.zeros(3, 5)})), ModelLoadError,
         rf"the weight {WEIGHT} has shape \(3, 5\) but config\.json asks for \(24, 16\)"),
    ],
)  # fmt: skip
def test_a_spoilt_directory_is_refused(
    spoil: Callable[[Path], object], error: type[Exception], message: str, directory: Path
) -> None:
    spoil(directory)
    refused(directory, error, message)


@pytest.mark.parametrize("family", EXPERTS)
def test_a_mixture_of_experts_has_heads_and_half_layers_but_no_neurons(family: str, model_of: ModelOf) -> None:
    model = model_of(family)
    assert not model.capabilities.neurons
    assert model.neurons == ()
    assert len(model.components("heads")) == 12
    assert len(model.components("sublayers")) == 6
    laws = {law.name for law in model.capabilities.laws}
    assert "layer 2: attn_out = sum of heads + b_O" in laws
    assert "layer 2: mlp_out = sum of neurons + b_out" not in laws
    assert "final stream = sum of all writes" in laws
    for wanted in ("neurons", ["L0H1", "L1N0"]):
        with pytest.raises(
            UnsupportedModelError, match="is a mixture of experts; neurons are not defined there: measure heads"
        ):
            model.components(wanted)


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_whose_bridge_does_not_compute_the_model_is_refused(family: str, tmp_path: Path) -> None:
    refused(
        make_model_directory(tmp_path, family), UnsupportedModelError, "breaks the law|cannot be run through its bridge"
    )


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(vocab_size=80, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    refused(tmp_path, UnsupportedModelError, "breaks the law")


@pytest.mark.parametrize("model_type", ["llama", "mine"])
def test_a_models_own_code_never_runs(model_type: str, directory: Path) -> None:
    marker = directory / "ran"
    code = "from pathlib import Path\nPath({!r}).touch()\nfrom transformers import LlamaConfig as C, {} as M\n"
    (directory / "modeling.py").write_text(code.format(str(marker), "LlamaForCausalLM"))
    (directory / "tokenization.py").write_text(code.format(str(marker), "PreTrainedTokenizerFast"))
    classes = {"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.M"}
    edit_config(directory, auto_map=classes, model_type=model_type)
    path = directory / "tokenizer_config.json"
    auto = {"auto_map": {"AutoTokenizer": ["tokenization.M", "tokenization.M"]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **auto}))
    if model_type == "llama":
        assert load(directory, device="cpu").n_layers == 3  # a stock architecture needs no code of its own
    else:
        refused(directory, ModelLoadError, "cannot be loaded: .*custom code")
    assert not marker.exists()


def test_a_pickle_beside_safetensors_is_not_read(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"no pickle")
    assert load(directory, device="cpu").n_layers == 3
