"""Sizes without weights: what a price is made from is what the loaded model turns out to be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers as t
from families import CORE, EXPERTS, FAMILIES

from circuits.effects.kinds import Positions
from circuits.effects.price import Dims, Texts
from circuits.errors import ModelLoadError, UnsupportedModelError
from circuits.model.anatomy import Model
from circuits.model.sizes import SHAPES, Sizes, sizes_of, token_counts

ModelOf = Callable[[str], Model]
FIELDS = ("layers", "d_model", "heads", "kv_heads", "d_head", "d_mlp", "gated", "vocab")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_alone_tells_the_sizes_of_the_loaded_model(
    family: str, model_of: ModelOf, tmp_path: Path
) -> None:
    model = model_of(family)
    shutil.copy(Path(model.name) / "config.json", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]  # there is no weight to be read
    found, wanted = sizes_of(str(tmp_path)), Dims.of(model)
    assert {f: getattr(found, f) for f in FIELDS} == {f: getattr(wanted, f) for f in FIELDS}


def test_a_price_by_configuration_is_never_below_that_of_the_loaded_model(model_of: ModelOf) -> None:
    """What no configuration says, turned keys and parallel halves, is taken to be the dearer one."""
    texts = Texts.alike(6, 10)
    for family in CORE:
        model = model_of(family)
        guess, known = Dims.of(sizes_of(model.name)), Dims.of(model)
        for positions in Positions:
            prices = [sum(d.sweep([*model.heads, *model.sublayers], texts, positions)) for d in (guess, known)]
            assert prices[0] >= prices[1], family
            assert prices[0] <= 1.5 * prices[1], family
        assert guess.forward(texts) == known.forward(texts)


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_have_no_price_and_say_so(family: str, model_of: ModelOf) -> None:
    with pytest.raises(UnsupportedModelError, match="mixture of experts; expected a dense MLP"):
        sizes_of(model_of(family).name)


# -- what cannot be priced ---------------------------------------------------------------------------------------------


def test_a_directory_without_a_configuration_is_named_with_the_shapes_there_are(tmp_path: Path) -> None:
    for bad in (str(tmp_path), str(tmp_path / "nowhere"), "", "gpt5"):
        with pytest.raises(ModelLoadError, match=r"is no directory with a config\.json; .*gpt2-small.*llama-3\.1-8b"):
            sizes_of(bad)


@pytest.mark.parametrize(
    "text",
    ["{", "", "[]", "{}", '{"model_type": 3}', '{"model_type": "no_such_family"}', "\x00",
     '{"model_type": "gpt2", "n_layer": "three"}'],
)  # fmt: skip
def test_a_broken_configuration_is_one_named_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"the configuration in .* cannot be used: ") as caught:
        sizes_of(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        lambda: t.T5Config(vocab_size=80, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4),
        lambda: t.MambaConfig(vocab_size=80, hidden_size=16, num_hidden_layers=2, state_size=4),
        lambda: t.CLIPConfig(),
    ],
    ids=["encoder-decoder", "recurrent", "pictures"],
)
def test_an_unsupported_architecture_is_refused_by_name(config: Callable[[], object], tmp_path: Path) -> None:
    config().save_pretrained(tmp_path)
    with pytest.raises((ModelLoadError, UnsupportedModelError)) as caught:
        sizes_of(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_tokenizer_that_is_missing_is_a_named_error(tmp_path: Path, model_of: ModelOf) -> None:
    shutil.copy(Path(model_of("llama").name) / "config.json", tmp_path)
    with pytest.raises(ModelLoadError, match=r"the tokenizer in .* cannot be used"):
        token_counts(str(tmp_path), ["the dog"])
    assert token_counts(model_of("llama").name, ["the dog", "the dog ran home"]) == [2, 4]


# -- shapes by name ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions"),
    [("gpt2-small", 84.93), ("gpt2-xl", 1474.6), ("llama-3.2-1b", 973.1), ("llama-3.2-3b", 2818.6), ("llama-3.1-8b", 6979.3)],
)  # fmt: skip
def test_shapes_have_the_published_number_of_weights(name: str, millions: float) -> None:
    """In the blocks, without biases and norms: what is left of 124M, 1.56B, 1.24B, 3.2B and 8.03B without embeddings."""
    dims = Dims.of(SHAPES[name])
    assert dims.parameters / 1e6 == pytest.approx(millions, rel=1e-3)
    published = {"gpt2-small": 124.4, "gpt2-xl": 1557.6, "llama-3.2-1b": 1235.8, "llama-3.2-3b": 3212.7,
                 "llama-3.1-8b": 8030.3}[name]  # fmt: skip
    # GPT-2 and the small Llamas tie the unembedding to the embedding; GPT-2 learns 1,024 positions, biases and norms.
    embeddings = dims.vocab * dims.d_model * (2 if name == "llama-3.1-8b" else 1)
    if name.startswith("gpt2"):
        embeddings += 1024 * dims.d_model + dims.layers * (9 * dims.d_model + dims.d_mlp)
    assert (dims.parameters + embeddings) / 1e6 == pytest.approx(published, rel=2e-3)


def test_every_shape_is_whole_and_prices_follow_its_size() -> None:
    costs = {}
    for name, shape in SHAPES.items():
        assert isinstance(shape, Sizes)
        assert sizes_of(name) is shape
        assert shape.heads % shape.kv_heads == 0
        assert shape.heads * shape.d_head == shape.d_model
        assert shape.gated is name.startswith("llama")
        costs[name] = Dims.of(shape).forward(Texts.alike(6, 20))
    assert (
        costs["gpt2-small"] < costs["llama-3.2-1b"] < costs["gpt2-xl"] < costs["llama-3.2-3b"] < costs["llama-3.1-8b"]
    )
