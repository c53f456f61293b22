"""Path patching as loops over hooks: one input reads another stream, three or four forwards an edge, no weight is read.

A head's part is isolated by recording the half-layer's queries (or keys, values) on the changed stream, putting them into a
run on the clean stream, and keeping what this one head then mixes: heads that share keys and values stay apart that way.
"""

from __future__ import annotations

import torch
from effects.naive import Naive, part_of, place_of
from torch import Tensor

from circuits.effects.kinds import Ablation, Positions
from circuits.effects.losses import EMBED, READOUT
from circuits.model.sites import Component, Half, Input, Kind, Part, parse, parse_input

__all__ = ["PARTS", "answers_of", "loss_of", "patched", "reachable", "slope"]

PARTS = tuple(Part)


def loss_of(naive: Naive, sender: str, ablation: Ablation, positions: Positions = Positions.ALL) -> Tensor:
    """What the stream loses when the sender is replaced [prompt, pos, d_model]."""
    if sender != EMBED:
        return naive.written(parse(sender), ablation, positions)
    place = "blocks.0.hook_resid_pre"
    return (naive.seen(place) - naive.replaced(place, ablation)) * naive.where(positions)[..., None]


def reachable(naive: Naive, sender: str, receiver: str) -> bool:
    if sender == EMBED or receiver == READOUT:
        return True
    first, second = parse(sender), parse_input(receiver).component
    if first.layer != second.layer:
        return first.layer < second.layer
    return naive.model.capabilities.sequential and first.half is Half.ATTN and second.half is Half.MLP


def runs(naive: Naive, edits: dict, see: tuple[str, ...]) -> dict[str, Tensor]:
    """Activations at ``see`` under edits, on autograd's path where it is recorded."""
    seen: dict[str, Tensor] = {}

    def change(tensor: Tensor, hook: object, edit: object) -> Tensor:
        return edit(tensor)  # type: ignore[operator]

    def keep(tensor: Tensor, hook: object, name: str) -> Tensor:
        seen[name] = tensor
        return tensor

    def hooked(function: object, value: object) -> object:
        return lambda tensor, hook: function(tensor, hook, value)  # type: ignore[operator]

    hooks = [(name, hooked(change, edit)) for name, edit in edits.items()] + [(n, hooked(keep, n)) for n in see]
    seen["logits"] = naive.model.bridge.run_with_hooks(naive.ids, attention_mask=naive.mask, fwd_hooks=hooks)
    return seen


def source_of(naive: Naive, component: Component) -> str:
    after = component.half is Half.MLP and naive.model.capabilities.sequential
    return f"blocks.{component.layer}.hook_resid_{'mid' if after else 'pre'}"


def activation(naive: Naive, receiver: Input, gain: Tensor, given: dict) -> Tensor:
    """The whole activation at the receiver's place when its input reads the stream plus ``gain``, under edits ``given``."""
    component, place = receiver.component, place_of(receiver.component)
    edits = given | {source_of(naive, component): lambda x: x + gain}
    if receiver.part is None:
        return runs(naive, edits, (place,))[place]
    projection = f"blocks.{component.layer}.attn.hook_{receiver.part}"
    changed = runs(naive, edits, (projection,))[projection]
    return runs(naive, given | {projection: lambda _: changed}, (place,))[place]


def patched(naive: Naive, receiver: Input, gain: Tensor, given: dict | None = None) -> Tensor:
    """Logits when one input alone reads the stream plus ``gain``, everything above recomputed; clean, or under edits."""
    given = given or {}
    wanted, part = activation(naive, receiver, gain, given), part_of(receiver.component)

    def patch(tensor: Tensor) -> Tensor:
        if receiver.component.kind is Kind.MLP:
            return wanted
        tensor = tensor.clone()
        tensor[part] = wanted[part]
        return tensor

    return runs(naive, given | {place_of(receiver.component): patch}, ())["logits"]


def answers_of(naive: Naive, logits: Tensor) -> Tensor:
    """Logit differences [prompt, emotion] of full logits, as :meth:`Naive.metric` but on autograd's path."""
    rows = []
    for row, last in enumerate(naive.last):
        means = torch.stack([logits[row, last, ids].double().mean() for ids in naive.answers])
        rows.append(means - (means.sum() - means) / 5)
    return torch.stack(rows)


def slope(naive: Naive, receiver: Input, given: dict | None = None) -> Tensor:
    """Gradient of each metric at the receiver's own input [emotion, prompt, pos, d_model], by autograd through the hooks."""
    zero = torch.zeros_like(naive.seen("blocks.0.hook_resid_pre")).requires_grad_(True)
    with torch.enable_grad():
        metric = answers_of(naive, patched(naive, receiver, zero, given)).sum(0)
        return torch.stack([torch.autograd.grad(metric[e], zero, retain_graph=e < 5)[0] for e in range(6)])
