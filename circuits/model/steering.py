"""Changing the stream itself at its states: taking a direction out, or adding one, at both half-layer positions.

A state is no component, so this is no ablation of anything the model has; it is what work on directions does (Arditi et al.
2024, directional ablation; Sofroniew et al. 2026, steering). At a post-attention position the change enters with what
attention writes, so that the skip connection carries it as well as the MLP's input; in parallel blocks, where the MLP does not
read that state, it reaches the layers above alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import UnsupportedModelError
from circuits.model.anatomy import Model
from circuits.model.running import Hook, hook_name
from circuits.model.sites import Kind

__all__ = ["Edits", "edit_hooks"]


@dataclass(frozen=True)
class Edits:
    """What happens to the stream at every state, several alternatives side by side (the axis ``chunk``).

    ``h' = h - ⟨h - reference, read⟩ · write + add`` where ``where`` is 1.

    Attributes:
        read: what is looked for, unit vectors; zero where nothing is taken out, ``[chunk, state, d_model]``.
        write: along what it is taken out, ``[chunk, state, d_model]``: the same vectors to project a direction out.
        add: what is added [residual units], ``[chunk, state, d_model]``.
        reference: by state, the stream whose projection is put in the place of what is taken out, ``[prompt, pos, d_model]``;
            None: nothing is.
        where: ``[prompt, pos]``.
    """

    read: Float[Tensor, "chunk state d_model"]
    write: Float[Tensor, "chunk state d_model"]
    add: Float[Tensor, "chunk state d_model"]
    reference: tuple[Tensor, ...] | None
    where: Float[Tensor, "prompt pos"]

    def __len__(self) -> int:
        return int(self.read.shape[0])

    def part(self, start: int, stop: int) -> Edits:
        """Some of the alternatives."""
        some = slice(start, stop)
        return Edits(self.read[some], self.write[some], self.add[some], self.reference, self.where)

    def at(self, depth: int, stream: Tensor, picked: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The stream ``[chunk, prompt, pos, d_model]`` at one state, changed.

        ``picked`` takes ``[prompt, pos, ..]`` to the positions the stream has, where these are not all.
        """
        there = (self.read[:, depth], self.write[:, depth], self.add[:, depth])
        read, write, add = (t.to(stream)[:, None, None] for t in there)
        taken, added = bool(read.any()), bool(add.any())
        if not taken and not added:
            return stream
        pick = picked or (lambda tensor: tensor)
        where = pick(self.where[..., None]).to(stream)
        change = add.expand(len(add), 1, 1, stream.shape[-1])
        if taken:
            lost = stream @ read.transpose(-1, -2)
            if self.reference is not None:
                lost = lost - pick(self.reference[depth]).to(stream) @ read.transpose(-1, -2)
            change = change - lost * write
        return torch.addcmul(stream, where, change)


def edit_hooks(model: Model, edits: Edits) -> dict[str, Hook]:
    """Hooks that change the stream at both positions of every layer, by changing what the halves write; one alternative.

    Raises:
        UnsupportedModelError: while running, if a block computes its halves in another order than it adds them.
    """
    stream: list[Tensor] = []
    passed = [0]

    def entered(tensor: Tensor) -> Tensor:
        stream[:] = [tensor]
        passed[0] = 0
        return tensor

    def written(depth: int) -> Hook:
        def hook(tensor: Tensor) -> Tensor:
            if passed[0] != depth:
                raise UnsupportedModelError(
                    f"{model.name} computes its half-layers in another order than it adds them; its stream cannot be edited"
                )
            passed[0] = depth + 1
            before = stream[0]
            stream[:] = [edits.at(depth, (before + tensor)[None])[0]]
            return stream[0] - before

        return hook

    hooks: dict[str, Hook] = {"blocks.0.hook_in": entered}
    for layer in range(model.n_layers):
        hooks[hook_name(layer, Kind.ATTN)] = written(2 * layer)
        hooks[hook_name(layer, Kind.MLP)] = written(2 * layer + 1)
    return hooks
