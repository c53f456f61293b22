"""Editing the stream is what hooks at the blocks' own inputs do, in every sort of block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import CORE, REPLAYED

from circuits.effects.keeping import metric_keeping, subsets_of
from circuits.model.readout import Readout
from circuits.model.resuming import Replaced
from circuits.model.running import final_stream, hook_name, hooked, record
from circuits.model.sites import Kind
from circuits.model.steering import Edits
from circuits.model.ways import resumer


def edits_at(model, tokens, depths, *, count=2, reference=None, add=0.0, same=True, where=None, seed=0) -> Edits:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 2 * model.n_layers, model.d_model)
    read, write, added = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
    for depth in depths:
        for chunk in range(count):
            one, other, third = torch.randn(3, model.d_model, generator=generator)
            read[chunk, depth] = one / one.norm()
            write[chunk, depth] = (one if same else other) / (one if same else other).norm()
            added[chunk, depth] = add * third
    return Edits(read, write, added, reference, tokens.mask.float() if where is None else where)


def everything(run) -> Replaced:
    return Replaced(run.streams.z, run.streams.post, run.tokens.mask.float())


def changed(edits: Edits, number: int, depth: int, stream: torch.Tensor) -> torch.Tensor:
    """The definition, written out."""
    read, write, add = edits.read[number, depth], edits.write[number, depth], edits.add[number, depth]
    there = torch.zeros_like(stream) if edits.reference is None else edits.reference[depth]
    new = stream - ((stream - there) * read).sum(-1, keepdim=True) * write + add
    return torch.where(edits.where[..., None] == 1, new, stream)


def naive(model, tokens, run, edits: Edits, number: int) -> torch.Tensor:
    """``resid_post`` through the next block's input; ``resid_mid`` of one layer alone, through what attention puts out."""
    changes = {}
    for depth in range(2 * model.n_layers):
        layer = depth // 2
        if not edits.read[number, depth].any() and not edits.add[number, depth].any():
            continue
        if depth % 2:
            name = f"blocks.{layer + 1}.hook_in" if layer + 1 < model.n_layers else ""
            if name:
                changes[name] = lambda t, d=depth: changed(edits, number, d, t)
        else:
            gain = changed(edits, number, depth, run.mid[layer]) - run.mid[layer]
            changes[hook_name(layer, Kind.ATTN)] = lambda t, gain=gain: t + gain
    with hooked(model, changes), torch.no_grad():
        final = final_stream(model, tokens)
    last = 2 * model.n_layers - 1
    if edits.read[number, last].any() or edits.add[number, last].any():
        final = changed(edits, number, last, final)
    return tokens.at_readout(final)


@pytest.fixture
def ready(model_of, tiny_prompts):
    def get(family: str):
        model = model_of(family)
        tokens = model.encode(tiny_prompts.texts[:6])
        run = record(model, tokens)
        return model, tokens, run, resumer(model, run)

    return get


@pytest.mark.parametrize("family", [*CORE, *REPLAYED])
@pytest.mark.parametrize("depths", [(0,), (1,), (2,), (4,), (5,), (1, 3, 5)])
def test_edits_are_what_hooks_do(ready, family: str, depths: tuple[int, ...]) -> None:
    model, tokens, run, resume = ready(family)
    edits = edits_at(model, tokens, depths, add=0.5, same=False)
    kept = subsets_of(model, [(*model.heads, *model.neurons)] * 2)
    found = resume.keeping(kept, everything(run), edits)
    clean = tokens.at_readout(run.final)
    for number in range(2):
        wanted = naive(model, tokens, run, edits, number)
        assert (wanted - clean).abs().max() > 1e-2
        torch.testing.assert_close(found[number], wanted, rtol=2e-4, atol=2e-4)


def test_a_direction_projected_out_is_gone_and_the_rest_stays(ready) -> None:
    model, tokens, run, resume = ready("llama")
    last = 2 * model.n_layers - 1
    edits = edits_at(model, tokens, (last,), count=1)
    kept = subsets_of(model, [(*model.heads, *model.neurons)])
    found = resume.keeping(kept, everything(run), edits)[0]
    v = edits.read[0, last]
    assert (found @ v).abs().max() < 1e-4
    clean = tokens.at_readout(run.final)
    torch.testing.assert_close(found, clean - (clean @ v)[:, None] * v, rtol=1e-4, atol=1e-4)


def test_the_projection_of_a_reference_takes_its_place(ready) -> None:
    model, tokens, run, resume = ready("gpt2")
    depth = 2 * model.n_layers - 1
    reference = tuple(
        torch.randn(*run.final.shape, generator=torch.Generator().manual_seed(1)) for _ in range(depth + 1)
    )
    edits = edits_at(model, tokens, (depth,), count=1, reference=reference)
    kept = subsets_of(model, [(*model.heads, *model.neurons)])
    found = resume.keeping(kept, everything(run), edits)[0]
    v = edits.read[0, depth]
    torch.testing.assert_close(found @ v, tokens.at_readout(reference[depth]) @ v, rtol=1e-4, atol=1e-4)


def test_only_asked_for_positions_change(ready) -> None:
    model, tokens, run, resume = ready("gpt2")
    nowhere = edits_at(model, tokens, (1, 2), add=3.0, where=torch.zeros(*tokens.ids.shape))
    kept = subsets_of(model, [(*model.heads, *model.neurons)] * 2)
    found = resume.keeping(kept, everything(run), nowhere)
    torch.testing.assert_close(found, resume.clean.expand_as(found), rtol=1e-5, atol=1e-5)


def test_without_a_change_the_clean_run_comes_back(ready) -> None:
    model, tokens, run, resume = ready("llama")
    nothing = edits_at(model, tokens, ())
    kept = subsets_of(model, [(*model.heads, *model.neurons)] * 2)
    for edits in (nothing, None):
        found = resume.keeping(kept, everything(run), edits)
        torch.testing.assert_close(found, resume.clean.expand_as(found), rtol=0, atol=0)


def test_alternatives_side_by_side_are_each_alone(ready, tiny_prompts) -> None:
    model, tokens, run, resume = ready("gpt2")
    readout = Readout.of(model, tiny_prompts.answers)
    edits = edits_at(model, tokens, (2, 3), count=3)
    sets = [(*model.heads, *model.neurons), model.heads, (*model.heads[:5], *model.neurons[:40])]
    together = metric_keeping(resume, readout, everything(run), subsets_of(model, sets), edits).numpy()
    for number, some in enumerate(sets):
        alone = metric_keeping(
            resume, readout, everything(run), subsets_of(model, [some]), edits.part(number, number + 1)
        ).numpy()
        np.testing.assert_allclose(together[number], alone[0], rtol=1e-4, atol=1e-4)
