"""Choosing how a model's clean runs are resumed: in plain blocks where they reproduce the model, else by replay.

Compared block by block and with changed writes when a model is first measured; compared again on every batch that is
measured (:class:`~circuits.model.plainrun.PlainRun` refuses a clean run it does not reproduce). Where the comparison fails the
run is replayed and the reason kept for the reader, so that the two ways cannot part unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from circuits.errors import UnsupportedModelError
from circuits.model.anatomy import Model
from circuits.model.extraction import CLOSE, NoFit, block_of, deviation
from circuits.model.laws import short_prompt
from circuits.model.plain import PlainBlock
from circuits.model.plainrun import PlainRun
from circuits.model.replay import Replay
from circuits.model.resuming import Change, Resumer
from circuits.model.running import Recording, record
from circuits.model.sites import Half

__all__ = ["Ways", "resumer", "resumer_in", "ways"]


@dataclass(frozen=True)
class Ways:
    """How a model can be resumed: its plain blocks, or why there are none.

    ``error`` is the largest relative difference found when both ways were compared.
    """

    blocks: tuple[PlainBlock, ...] | None
    reason: str
    error: float

    @property
    def name(self) -> str:
        """``plain`` or ``replay``."""
        return "plain" if self.blocks is not None else "replay"


_FOUND: WeakKeyDictionary[Model, Ways] = WeakKeyDictionary()


@torch.no_grad()
def resumer(model: Model, run: Recording) -> Resumer:
    """The faster way that reproduces this run."""
    found = ways(model)
    if found.blocks is None:
        return Replay(model, run, found.reason)
    try:
        return PlainRun(model, run, found.blocks)
    except NoFit as why:
        return Replay(model, run, str(why))


@torch.no_grad()
def resumer_in(exact: Resumer, dtype: torch.dtype) -> Resumer:
    """A clean run's plain way in another precision, from blocks that were seen to reproduce this very run in its own.

    They are cast each time: a copy kept would not know of weights that were changed, and half precision is too coarse to tell.

    Raises:
        UnsupportedModelError: the run is replayed, which knows its own precision only, or does not survive the other.
    """
    name = exact.model.name
    if not isinstance(exact, PlainRun):
        raise UnsupportedModelError(f"{name} cannot be measured in {dtype}: {exact.notice}; measure in float32")
    try:
        return PlainRun(exact.model, exact.run.to(dtype), tuple(block.to(dtype) for block in exact.blocks))
    except NoFit as why:
        raise UnsupportedModelError(f"{name} cannot be measured in {dtype}: {why}; measure in float32") from None


@torch.no_grad()
def ways(model: Model) -> Ways:
    """What was found when the model was first asked for; compared once, then remembered."""
    if model not in _FOUND:
        _FOUND[model] = _compared(model)
    return _FOUND[model]


def _compared(model: Model) -> Ways:
    run = record(model, short_prompt(model.vocab, model.device))
    try:
        blocks = tuple(block_of(model, layer, run) for layer in range(model.n_layers))
        plain = PlainRun(model, run, blocks)
    except NoFit as why:
        return Ways(None, str(why), float("nan"))
    error = _disagreement(plain, Replay(model, run))
    bound = CLOSE[model.dtype] * model.n_layers**0.5
    if error > bound:
        return Ways(
            None, f"plain blocks answer a changed write differently (by {error:.1g}; at most {bound:.1g})", error
        )
    return Ways(blocks, "", error)


def _disagreement(first: Resumer, second: Resumer) -> float:
    """Largest relative difference between two ways, over random changes as large as the stream itself."""
    worst = 0.0
    for changes in _probes(first.model, first.run):
        found, wanted = (way.after(changes, at_readout=False) for way in (first, second))
        worst = max(worst, deviation(found, wanted))
        there = [Change(c.layer, c.half, first.picked(c.amount), c.write) for c in changes]
        found, wanted = (way.after(there, at_readout=True) for way in (first, second))
        worst = max(worst, deviation(found, wanted))
    return worst


def _probes(model: Model, run: Recording) -> Iterator[list[Change]]:
    """Changes of every sort, at the bottom, in the middle and at the top, and such that go up together."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(run.pre[0])

    together = []
    for layer in sorted({0, model.n_layers // 2, model.n_layers - 1}):
        size = float(run.pre[layer].std())
        for half in Half:
            for rank in (1, 2, 0):
                amount = noise(2, *run.tokens.ids.shape, rank or model.d_model) * run.tokens.mask[..., None]
                write = noise(2, rank, model.d_model) * size if rank else None
                change = Change(layer, half, amount if rank else amount * size, write)
                together.append(change)
                yield [change]
    yield together
