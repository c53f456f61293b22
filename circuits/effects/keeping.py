"""The metric of parts of a model: everything outside a set of heads and neurons replaced, many sets side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.chunks import chunk_size, in_chunks, threads_for
from circuits.model.anatomy import Model
from circuits.model.readout import Readout
from circuits.model.resuming import Replaced, Resumer, Subsets
from circuits.model.sites import Component, Kind
from circuits.model.steering import Edits

__all__ = ["metric_keeping", "subsets_of"]


def subsets_of(model: Model, kept: Sequence[Collection[Component]]) -> Subsets:
    """Sets of components as masks; components of other kinds are left out of account.

    Raises:
        ComponentError: the model lacks a component.
    """
    heads = torch.zeros(len(kept), model.n_layers, model.n_heads, dtype=torch.bool)
    neurons = torch.zeros(len(kept), model.n_layers, model.d_mlp, dtype=torch.bool)
    for number, members in enumerate(kept):
        for kind, mask in ((Kind.HEAD, heads), (Kind.NEURON, neurons)):
            some = [c for c in members if c.kind is kind]
            # As one comparison of sets: a search asks for thousands of sets, each nearly the whole model.
            if not model.parts.issuperset(some):
                for component in some:
                    model.require(component)
            mask[number, [c.layer for c in some], [c.index for c in some]] = True
    return Subsets(heads.to(model.device), neurons.to(model.device))


@torch.no_grad()
def metric_keeping(
    resume: Resumer, readout: Readout, replaced: Replaced, subsets: Subsets, edits: Edits | None = None
) -> Float[Tensor, "chunk prompt emotion"]:
    """Logit differences [logits] of each subset; ``edits``, one for each, change the stream on the way.

    Raises:
        MeasurementError: memory does not suffice.
    """

    @torch.no_grad()
    def work(start: int, stop: int) -> Tensor:
        changes = None if edits is None else edits.part(start, stop)
        return readout(resume.keeping(subsets.part(start, stop), replaced, changes))

    size = chunk_size(resume.model, resume.tokens.ids.numel())
    with threads_for(resume) as threads:
        found = [part for _, _, part in in_chunks(len(subsets), size, work, threads=threads)]
    return torch.cat(found)
