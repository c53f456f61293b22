"""What sets of kept components have in common is computed once, and changes no bit of any of them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import circuits
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.own import own_texts
from circuits.model import partial
from circuits.model.anatomy import Model
from circuits.model.partial import Partial, Silent
from circuits.model.plain import PlainBlock
from circuits.model.plainrun import PlainRun
from circuits.model.resuming import Replaced, Subsets
from circuits.model.running import record
from circuits.model.ways import resumer
from circuits.prompts.datasets import read_prompts
from circuits.prompts.emotions import EMOTIONS


@pytest.fixture(scope="module")
def embedded() -> Model:
    return circuits.load("embedded", device="cpu")


@pytest.fixture
def run(embedded: Model) -> tuple[PlainRun, Replaced]:
    """A clean run of a few texts and what may stand for its components; nothing is remembered of it yet."""
    prompts = read_prompts("microstories").split("test")
    prompts = prompts.where(prompts.scenarios % 12 == 0)
    texts = own_texts(Plan.of(embedded, prompts, Ablation.MEAN_SCENARIO), Positions.ALL)
    (piece,) = texts[EMOTIONS[0]]
    found = resumer(embedded, record(embedded, piece.tokens))
    assert isinstance(found, PlainRun)
    return found, piece.replaced


def sets(model: Model, count: int, seed: int = 0) -> Subsets:
    """Few to most neurons kept, many sets alike below a random layer."""
    generator = torch.Generator().manual_seed(seed)
    heads = torch.rand(count, model.n_layers, model.n_heads, generator=generator) < 0.6
    neurons = torch.rand(count, model.n_layers, model.d_mlp, generator=generator) < torch.rand(
        count, model.n_layers, 1, generator=generator
    )
    for number in range(1, count):
        upto = int(torch.randint(0, model.n_layers + 1, (), generator=generator))
        heads[number, :upto], neurons[number, :upto] = heads[number // 2, :upto], neurons[number // 2, :upto]
        if number % 3 == 0:
            heads[number, upto - 1] = heads[number // 2, upto - 1]
    heads[-1, :2], neurons[-1, :2] = True, True  # begins above the clean run's lower layers
    return Subsets(heads, neurons)


@pytest.mark.parametrize("budget", [0, 200_000, partial.MEMORY])
@torch.no_grad()
def test_remembered_runs_are_the_same_bits(
    run: tuple[PlainRun, Replaced], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, replaced = run
    monkeypatch.setattr(partial, "_MEMORIES", type(partial._MEMORIES)())
    monkeypatch.setattr(partial, "MEMORY", budget)
    some = sets(plain.model, 40)
    silent = Silent(replaced, plain.tokens.mask)
    for number in range(len(some)):
        one = some.part(number, number + 1)
        fresh = Partial(plain, one, silent)
        fresh.__dict__["_memory"] = None
        assert torch.equal(plain.keeping(one, replaced), fresh.final()), number
    kept = partial._MEMORIES[plain.model]
    assert kept._weight == sum(partial._bytes(value) for value in kept._values.values()) <= budget


@torch.no_grad()
def test_a_component_taken_from_the_top_costs_only_what_lies_above(
    run: tuple[PlainRun, Replaced], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, replaced = run
    mixed: Counter[int] = Counter()

    def counted(block: PlainBlock, *given: object, of=PlainBlock.mixed) -> torch.Tensor:
        mixed[next(i for i, one in enumerate(plain.blocks) if one is block)] += 1
        return of(block, *given)

    monkeypatch.setattr(PlainBlock, "mixed", counted)
    heads = torch.ones(1, plain.model.n_layers, plain.model.n_heads, dtype=torch.bool)
    neurons = torch.ones(1, plain.model.n_layers, plain.model.d_mlp, dtype=torch.bool)
    heads[0, 0, 0] = False
    for layer in range(plain.model.n_layers):
        for head in range(1, plain.model.n_heads):
            other = heads.clone()
            other[0, layer, head] = False
            plain.keeping(Subsets(other, neurons), replaced)
    # Attention of layer 0 reads the clean stream in all twelve; in layer 1 all but those of layer 0 are alike, and so on.
    assert mixed == {0: 1, 1: 3 + 1, 2: 3 + 3 + 1}


@torch.no_grad()
def test_another_replacement_is_another_run(run: tuple[PlainRun, Replaced]) -> None:
    plain, replaced = run
    one = sets(plain.model, 1)
    first = plain.keeping(one, replaced)
    other = Replaced(tuple(t * 0 for t in replaced.z), replaced.post, replaced.where)
    assert not torch.equal(plain.keeping(one, other), first)
    assert torch.equal(plain.keeping(one, replaced), first)


def test_nothing_is_remembered_of_a_graph(run: tuple[PlainRun, Replaced]) -> None:
    plain, replaced = run
    one = sets(plain.model, 1)
    partial._MEMORIES.pop(plain.model, None)
    with torch.enable_grad():
        plain.keeping(one, replaced)
    assert plain.model not in partial._MEMORIES


@torch.no_grad()
def test_padding_may_count_as_replaced(run: tuple[PlainRun, Replaced]) -> None:
    plain, replaced = run
    assert (plain.tokens.mask == 0).any()  # there is padding
    one = sets(plain.model, 3)
    short = Replaced(replaced.z, replaced.post, replaced.where)
    found = plain.keeping(one, short)
    strict = Silent(short, plain.tokens.mask)
    assert strict.everywhere
    strict.everywhere = False
    torch.testing.assert_close(Partial(plain, one, strict).final(), found, rtol=1e-5, atol=1e-4)
