"""Resuming through the model's own blocks, called with the arguments of the clean run: the way that serves every family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from circuits.model.anatomy import Model, Tokens
from circuits.model.laws import short_prompt
from circuits.model.resuming import Change, Instead, Replaced, Resumer, Subsets, Trace
from circuits.model.running import Hook, Recording, final_stream, hook_name, hooked, record
from circuits.model.sites import Half, Kind

__all__ = ["Replay"]


class Replay(Resumer):
    """A clean run entered through the bridge's blocks.

    Blocks are called directly on ``[chunk · prompt, pos, d_model]``; starting the bridge at a layer would run the lower layers
    as well.
    """

    def __init__(self, model: Model, run: Recording, notice: str = "") -> None:
        super().__init__(model, run)
        self.clean = self.picked(run.final)[:, 0]
        self.notice = notice
        self._batched = _batched(model)  # now: it runs the model, which must not happen under a hook of ours

    def after(self, changes: Sequence[Change], *, at_readout: bool) -> Tensor:
        return torch.cat([self._after(change, at_readout) for change in changes])

    def keeping(self, subsets: Subsets, replaced: Replaced) -> Tensor:
        finals = []
        everywhere = replaced.where[..., None] == 0
        for heads, neurons in zip(subsets.heads, subsets.neurons, strict=True):
            changes: dict[str, Hook] = {}
            for layer in range(self.model.n_layers):
                keep = (everywhere | heads[layer])[..., None]
                changes[hook_name(layer, Kind.HEAD)] = _outside(keep, replaced.z[layer])
                if self.model.capabilities.neurons:
                    changes[hook_name(layer, Kind.NEURON)] = _outside(everywhere | neurons[layer], replaced.post[layer])
            with hooked(self.model, changes):
                finals.append(self.picked(final_stream(self.model, self.tokens))[:, 0])
        return torch.stack(finals)

    @torch.enable_grad()
    def trace(self, stream: Tensor, *, layer: int = 0, instead: Instead | None = None) -> Trace:
        found: dict[Kind, list[Tensor]] = {kind: [] for kind in Kind}

        def keep(kind: Kind, here: int) -> Hook:
            def hook(tensor: Tensor) -> Tensor:
                if instead is not None and here == layer and kind is instead.kind:
                    tensor = instead.tensor
                found[kind].append(tensor)
                return tensor  # hook_z is a reshaped view: returning the very tensor keeps it on autograd's path

            return hook

        layers = range(layer, self.model.n_layers)
        kinds = [kind for kind in Kind if kind is not Kind.NEURON or self.model.capabilities.neurons]
        with hooked(self.model, {hook_name(here, kind): keep(kind, here) for here in layers for kind in kinds}):
            for here in layers:
                stream = self._block(here, stream, 1)
        return Trace.of_lists(layer, found, self.picked(stream)[:, 0])

    def _after(self, change: Change, at_readout: bool) -> Tensor:
        layer, chunk, full = change.layer, len(change), change.full
        if at_readout:
            full = full.new_zeros(chunk, *self.run.pre[0].shape)
            rows = torch.arange(full.shape[1], device=full.device)
            full[:, rows, self.tokens.last] = change.full[:, :, 0]
        added = full.flatten(0, 1)
        behind = change.summed and (layer, change.half) in self.run.post_norm
        if change.half is Half.MLP and not behind:
            stream = (self.run.pre[layer + 1] + full).flatten(0, 1)
        else:
            norm = "ln1_post" if change.half is Half.ATTN else "ln2_post"
            place = f"{norm}.hook_in" if behind else "hook_attn_out"
            with hooked(self.model, {f"blocks.{layer}.{place}": lambda tensor: tensor + added}):
                stream = self._block(layer, self.run.pre[layer].repeat(chunk, 1, 1), chunk)
        for above in range(layer + 1, self.model.n_layers):
            stream = self._block(above, stream, chunk)
        return self.picked(stream.view(chunk, -1, *stream.shape[1:]))[:, :, 0]

    def _block(self, layer: int, stream: Tensor, chunk: int) -> Tensor:
        args, kwargs = _repeated(self.run.arguments[layer], chunk, self._batched[layer])
        output = self.model.bridge.blocks[layer](stream, *args, **kwargs)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result


def _outside(keep: Tensor, replaced: Tensor) -> Hook:
    return lambda tensor: torch.where(keep, tensor, replaced)


_BATCHED: WeakKeyDictionary[Model, list[set[str]]] = WeakKeyDictionary()


def _batched(model: Model) -> list[set[str]]:
    """Which arguments of each block have rows for every prompt.

    Found by running texts two and three at a time: what has rows for a prompt grows, whatever the family calls it (ALiBi tables
    have one for every prompt and head).
    """
    if model not in _BATCHED:
        tokens = short_prompt(model.vocab, model.device)
        three = Tokens(*(torch.cat([t, t[:1]]) for t in (tokens.ids, tokens.mask, tokens.last)))
        found = []
        for a, b in zip(record(model, tokens).arguments, record(model, three).arguments, strict=True):
            small, large = _leaves(a), _leaves(b)
            found.append({path for path in small if path in large and large[path].shape[0] > small[path].shape[0]})
        _BATCHED[model] = found
    return _BATCHED[model]


def _leaves(value: Any, path: str = "") -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {path: value} if value.dim() else {}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple | list) else ()
    return {name: leaf for key, item in items for name, leaf in _leaves(item, f"{path}/{key}").items()}


def _repeated(value: Any, chunk: int, batched: set[str], path: str = "") -> Any:
    """Arguments for ``chunk`` copies of the batch."""
    if isinstance(value, Tensor):
        return value.repeat(chunk, *[1] * (value.dim() - 1)) if path in batched else value
    if isinstance(value, dict):
        return {key: _repeated(item, chunk, batched, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_repeated(item, chunk, batched, f"{path}/{i}") for i, item in enumerate(value))
    return value
