"""Two ways up, one answer: plain blocks reproduce the model's own for every change, or are not used, and the reader is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from conftest import tiny_rows
from effects.naive import Naive
from families import ANSWERS, CORE, FAMILIES, REPLAYED, load_family

from circuits.effects.batch import Plan
from circuits.effects.exact import Exact
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.measure import engine, measure
from circuits.model.anatomy import Model
from circuits.model.plainrun import PlainRun
from circuits.model.replay import Replay
from circuits.model.resuming import Change, Instead, Replaced, Resumer, Subsets
from circuits.model.running import Recording, record
from circuits.model.sites import Half, Kind
from circuits.model.ways import resumer, ways
from circuits.prompts.datasets import Prompts

ModelOf = Callable[[str], Model]
PLAIN = [
    f for f in FAMILIES if f not in REPLAYED and (f in CORE or f in ("falcon", "gemma3", "glm", "gptj", "olmo2", "phi"))
]
"""One of every convention; that both ways equal naive hooks is held over all families in ``test_exact``."""
CLOSE = 1e-5


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    """18 texts in three scenarios of unequal lengths."""
    return Prompts.of(tiny_rows(3), name="three", answers=ANSWERS)


def both(model: Model, texts: tuple[str, ...]) -> tuple[PlainRun, Replay]:
    """The same clean run, ready both ways."""
    blocks = ways(model).blocks
    assert blocks is not None
    with torch.no_grad():
        run = record(model, model.encode(texts))
        return PlainRun(model, run, blocks), Replay(model, run)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, beyond: torch.Tensor | float = 0.0) -> None:
    """Equal to a hundred-thousandth of the largest, where the wanted also differs from what it would be without a change."""
    assert found.shape == wanted.shape
    assert float((wanted - beyond).abs().max()) > 1e-3 * float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=CLOSE * float(wanted.abs().max()))


# -- plain and replayed ------------------------------------------------------------------------------------------------


def some_changes(run: Recording, d_model: int) -> Iterator[Change]:
    """Random changes in every layer and half: in one direction, in three, and of the whole output; none at padding.

    In turn they spare the first token and do not.
    """
    generator = torch.Generator().manual_seed(3)
    number = 0

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    for layer in range(len(run.pre) - 1):
        size = float(run.pre[layer].std())
        for half in Half:
            for rank in (1, 3, 0):
                where, number = run.tokens.mask.clone(), number + 1
                where[:, 0] = (number + layer) % 2
                amount = noise(2, *where.shape, rank or d_model) * where[..., None]
                write = noise(2, rank, d_model) * size if rank else None
                yield Change(layer, half, amount if rank else amount * size, write)


@pytest.mark.parametrize("family", PLAIN)
@torch.no_grad()
def test_plain_blocks_answer_every_change_as_the_models_own_do(
    family: str, model_of: ModelOf, prompts: Prompts
) -> None:
    model = model_of(family)
    plain, replay = both(model, prompts.texts[:7])
    changes = list(some_changes(plain.run, model.d_model))
    for change in changes:
        wanted = replay.after([change], at_readout=False)
        assert_close(plain.after([change], at_readout=False), wanted, replay.clean)
        there = Change(change.layer, change.half, plain.picked(change.amount), change.write)
        wanted = replay.after([there], at_readout=True)
        assert_close(plain.after([there], at_readout=True), wanted, replay.clean)
    # Of these some spare the first token, and none may be answered as if all did.
    wanted = replay.after(changes, at_readout=False)
    assert_close(plain.after(changes, at_readout=False), wanted, replay.clean)


@pytest.mark.parametrize("family", PLAIN)
@torch.no_grad()
def test_and_every_set_of_kept_components(family: str, model_of: ModelOf, prompts: Prompts) -> None:
    model = model_of(family)
    plain, replay = both(model, prompts.texts[:7])
    generator = torch.Generator().manual_seed(4)
    heads = torch.rand(4, model.n_layers, model.n_heads, generator=generator) < 0.5
    neurons = torch.rand(4, model.n_layers, model.d_mlp, generator=generator) < 0.5
    heads[0], neurons[0] = False, False  # nothing kept
    neurons[1] = torch.rand(model.n_layers, model.d_mlp, generator=generator) < 0.1  # a few
    streams, mask = plain.run.streams, plain.run.tokens.mask
    replaced = Replaced(
        tuple(t + t.std() * torch.randn(t.shape, generator=generator) for t in streams.z),
        tuple(t + t.std() * torch.randn(t.shape, generator=generator) for t in streams.post),
        mask.float(),
    )
    wanted = replay.keeping(Subsets(heads, neurons), replaced)
    assert_close(plain.keeping(Subsets(heads, neurons), replaced), wanted, replay.clean)
    for number in range(4):  # alone, where few neurons are computed alone
        one = Subsets(heads[number : number + 1], neurons[number : number + 1])
        assert_close(plain.keeping(one, replaced), wanted[number : number + 1], replay.clean)
    spared = replace(replaced, where=replaced.where * (torch.arange(mask.shape[1]) % 2))  # every other token stays
    for some in (slice(None), slice(0, 1), slice(1, 2)):
        sets = Subsets(heads[some], neurons[some])
        assert_close(plain.keeping(sets, spared), replay.keeping(sets, spared), replay.clean)
    everything = Subsets(torch.ones_like(heads), torch.ones_like(neurons))
    torch.testing.assert_close(
        plain.keeping(everything, replaced)[2], replay.clean, rtol=0, atol=CLOSE * float(replay.clean.abs().max())
    )


def gradients(way: Resumer, layer: int, kind: Kind | None) -> dict[str, torch.Tensor]:
    """Final stream of a traced run, and the gradient of a fixed function of it by every write at the read-out."""
    run = way.run
    stream = run.pre[layer].detach().clone().requires_grad_(True)
    instead = None
    if kind is not None:
        place = run.streams.of(kind)[layer].detach()
        instead = Instead(kind, (place * 0.7).requires_grad_(True))
    trace = way.trace(stream, layer=layer, instead=instead)
    weights = torch.linspace(-1, 1, trace.final.numel()).view_as(trace.final)
    found = {"final": trace.final.detach()}
    # Writes below the one that was replaced do not reach the answer at all.
    names = [(k, n) for k in Kind for n in range(len(trace.of(k))) if instead is None or n > 0 or k is kind]
    tensors = [trace.of(k)[n] for k, n in names]
    for (k, n), gradient in zip(names, torch.autograd.grad((trace.final * weights).sum(), tensors), strict=True):
        whole = gradient.flatten(2)
        found[f"{k}{n}"] = (whole if whole.shape[1] == 1 else way.picked(whole)).clone()
    return found


@pytest.mark.parametrize(
    ("layer", "kind"), [(0, None), (1, Kind.HEAD), (1, Kind.NEURON), (1, Kind.MLP), (2, Kind.HEAD)]
)
@pytest.mark.parametrize("family", [f for f in CORE if f in PLAIN])
def test_and_every_gradient(family: str, layer: int, kind: Kind | None, model_of: ModelOf, prompts: Prompts) -> None:
    plain, replay = both(model_of(family), prompts.texts[:7])
    found, wanted = gradients(plain, layer, kind), gradients(replay, layer, kind)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=0,
            atol=5e-5 * float(value.abs().max()),
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("positions", list(Positions))
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox", "bloom"])
def test_how_many_go_up_side_by_side_does_not_matter(
    family: str, positions: Positions, model_of: ModelOf, prompts: Prompts
) -> None:
    model = model_of(family)
    batch = next(Plan.of(model, prompts, Ablation.MEAN_SCENARIO).batches())
    components = (*model.heads[::2], *model.neurons[::7], *model.sublayers)
    found = {}
    for size in (1, 2, 5, len(components), 10_000):
        values = torch.full((len(components), len(prompts), 6), float("nan"))

        def take(places: list[int], some: torch.Tensor, values: torch.Tensor = values) -> None:
            values[places] = some

        Exact(batch, positions).effects(components, take, size=size)
        found[size] = values
    for size, values in found.items():
        # Logits of size ten are rounded to about 1e-6 before their difference is taken, whatever the effect.
        atol = 1e-6 * max(float(found[1].abs().max()), float(batch.clean.abs().max()))
        torch.testing.assert_close(values, found[1], rtol=0, atol=atol, msg=lambda text, size=size: f"{size}: {text}")


# -- replayed, and said so ---------------------------------------------------------------------------------------------


def assert_naive(model: Model, prompts: Prompts) -> tuple[str, ...]:
    """Effects are the hooked forward's; what the reader is told."""
    components = (*model.heads[::5], *model.neurons[::18], *model.sublayers[::2], model.sublayers[-1])
    told: list[str] = []
    for positions in Positions:
        found = measure(model, prompts, components, positions=positions)
        wanted = Naive(model, prompts).effects(components, Ablation.MEAN_SCENARIO, positions).numpy()
        assert np.abs(wanted).max() > 1e-2
        np.testing.assert_allclose(found.values, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())
        told += [notice for notice in found.notices if "replaying" in notice]
    assert len(set(told)) <= 1
    return tuple(told)


@pytest.mark.parametrize("family", REPLAYED)
def test_a_replayed_family_says_why(family: str, model_of: ModelOf, prompts: Prompts) -> None:
    model = model_of(family)
    found = ways(model)
    assert (found.name, found.blocks) == ("replay", None)
    assert found.reason.startswith("layer ")
    assert engine(model)["reason"] == found.reason
    (notice,) = set(assert_naive(model, prompts))
    assert notice == f"measured by replaying the model's own blocks: {found.reason}"


@pytest.mark.parametrize("family", CORE)
def test_a_fitted_family_says_how_well(family: str, model_of: ModelOf) -> None:
    found = ways(model_of(family))
    assert (found.name, found.reason) == ("plain", "")
    assert 0 < found.error < CLOSE
    assert ways(model_of(family)) is found


def varied(family: str, directory: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Model:
    """A family with some settings of its configuration changed."""
    config = families._CONFIGS[family]()
    for name, value in fields.items():
        setattr(config, name, value)
    monkeypatch.setitem(families._CONFIGS, "varied", lambda: config)
    return load_family(directory / "varied", "varied")


@pytest.mark.parametrize(
    ("family", "fields", "reason"),
    [
        ("llama", {"hidden_act": "tanh"}, "neurons match no known activation"),
        ("gpt2", {"activation_function": "mish"}, "neurons match no known activation"),
        ("llama", {"hidden_act": "relu2"}, ""),
        ("llama", {"hidden_act": "gelu_10"}, "neurons match no known activation"),
        ("gpt2", {"activation_function": "quick_gelu"}, ""),
        ("gpt2", {"activation_function": "gelu"}, ""),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, ""),
        ("llama", {"attention_bias": True, "mlp_bias": True}, ""),
        # ALiBi: something is added to the scores that is no mask.
        ("falcon", {"alibi": True}, "layer 0: .* off by"),
    ],
)  # fmt: skip
def test_a_convention_is_found_by_trying_or_the_model_is_replayed(
    family: str, fields: dict[str, Any], reason: str, prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = varied(family, tmp_path, monkeypatch, **fields)
    if reason:
        assert ways(model).name == "replay"
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(ways(model).reason)
        assert all(ways(model).reason in notice for notice in assert_naive(model, prompts))
    else:
        assert ways(model).name == "plain"
        assert assert_naive(model, prompts) == ()


def test_blocks_that_answer_a_changed_write_differently_are_not_used(
    prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean run says nothing about what only a change brings out."""
    model = load_family(tmp_path / "llama", "llama")
    right = PlainRun.after

    def wrong(self: PlainRun, changes: list[Change], *, at_readout: bool) -> torch.Tensor:
        return right(self, changes, at_readout=at_readout) * (1 + 1e-4 * at_readout)

    monkeypatch.setattr(PlainRun, "after", wrong)
    found = ways(model)
    assert found.name == "replay"
    assert found.reason.startswith("plain blocks answer a changed write differently (by 0.0001; at most ")
    assert assert_naive(model, prompts)


# -- a model that changed after it was fitted --------------------------------------------------------------------------

WRITTEN = [
    # Query, key and value weights lie in a copy of their own: the plain blocks are stale, and must be refused.
    ("gpt2", "h.1.*attn.q.", 0.3, True), ("gpt2", "h.2.*attn.v.", 1e-3, True), ("llama", "layers.2.*v_proj", 0.3, True),
    ("llama", "layers.1.*k_proj", 1e-3, True), ("neox", "layers.2.*attention.k.", 0.3, True),
    ("gemma2", "layers.1.*input_layernorm", 0.3, True),  # its weight is kept plus one
    # These are read where they lie.
    ("gpt2", "h.1.*mlp.*c_fc", 0.3, False), ("llama", "layers.1.*down_proj", 0.3, False),
    ("neox", "layers.1.*dense_4h_to_h", 0.3, False), ("gemma2", "layers.1.*gate_proj", 0.3, False),
    ("llama", "layers.1.*input_layernorm", 0.3, False), ("llama", "lm_head", 0.3, False), ("gemma2", "model.norm", 0.3, False),
    ("gpt2", "ln_f", 0.3, False),
]  # fmt: skip


def write_to(model: Model, pattern: str, amount: float) -> None:
    """Noise on a weight where it lies, as an editing or training step leaves it."""
    parts = pattern.split("*")
    named = model.bridge.original_model.named_parameters()
    parameter = next(p for name, p in named if all(part in name for part in parts) and name.endswith("weight"))
    with torch.no_grad():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * amount)


@pytest.mark.parametrize(("family", "pattern", "amount", "stale"), WRITTEN)
def test_weights_written_to_afterwards_are_what_is_measured(
    family: str, pattern: str, amount: float, stale: bool, prompts: Prompts, tmp_path: Path
) -> None:
    model = load_family(tmp_path / family, family)
    before = measure(model, prompts, "heads")
    assert before.notices[-1].startswith("three has 3 scenarios")
    assert not any("replaying" in notice for notice in before.notices)
    fingerprint = model.fingerprint
    write_to(model, pattern, amount)
    assert np.abs(measure(model, prompts, "heads").values - before.values).max() > 1e-5
    told = assert_naive(model, prompts)
    assert all("plain blocks give another final stream on this batch" in notice for notice in told)
    assert bool(told) is stale
    assert model.fingerprint != fingerprint


def test_a_module_that_begins_to_compute_something_else_is_replayed(prompts: Prompts, tmp_path: Path) -> None:
    model = load_family(tmp_path / "llama", "llama")
    run = record(model, model.encode(prompts.texts))
    assert isinstance(resumer(model, run), PlainRun)
    query = model.bridge.blocks[1].attn.q.original_component
    handle = query.register_forward_hook(lambda module, args, output: output + output.tanh())
    try:
        assert assert_naive(model, prompts)
    finally:
        handle.remove()
    assert assert_naive(model, prompts) == ()
