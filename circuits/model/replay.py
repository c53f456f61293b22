"""Resuming through the model's own blocks, called with the arguments of the clean run: the way that serves every family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from circuits.errors import UnsupportedModelError
from circuits.model.anatomy import Model, Tokens
from circuits.model.laws import short_prompt
from circuits.model.resuming import Branches, Change, Instead, Replaced, Resumer, Slopes, Subsets, Trace
from circuits.model.running import Hook, Recording, final_stream, hook_name, hooked, record
from circuits.model.sites import Half, Input, Kind
from circuits.model.steering import Edits, edit_hooks

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

    def keeping(self, subsets: Subsets, replaced: Replaced, edits: Edits | None = None) -> Tensor:
        finals = []
        everywhere = replaced.where[..., None] == 0
        for number, (heads, neurons) in enumerate(zip(subsets.heads, subsets.neurons, strict=True)):
            changes: dict[str, Hook] = {}
            for layer in range(self.model.n_layers):
                keep = (everywhere | heads[layer])[..., None]
                changes[hook_name(layer, Kind.HEAD)] = _outside(keep, replaced.z[layer])
                if self.model.capabilities.neurons:
                    changes[hook_name(layer, Kind.NEURON)] = _outside(everywhere | neurons[layer], replaced.post[layer])
            if edits is not None:
                changes |= edit_hooks(self.model, edits.part(number, number + 1))
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

    def branches(self, stream: Tensor, *, layer: int = 0, instead: Instead | None = None) -> _Branches:
        return _Branches(self, stream, None if instead is None else (layer, instead))

    def reheard(self, place: Input, streams: Tensor) -> Change:
        _require_whole(self, place)
        component, chunk = place.component, len(streams)
        layer, half = component.layer, component.half
        kept: list[Tensor] = []
        hooks: dict[str, Hook] = {hook_name(layer, component.kind): _kept_in(kept)}
        pre = self.run.pre[layer]
        entered = streams.flatten(0, 1)
        if half is Half.MLP and self.model.capabilities.sequential:
            # The MLP reads ``resid_pre + attn_out``; what attention puts out is made to fit the streams it shall read.
            out = entered - pre.repeat(chunk, 1, 1)
            hooks[hook_name(layer, Kind.ATTN)] = lambda _tensor: out
            entered = pre.repeat(chunk, 1, 1)
        with hooked(self.model, hooks), torch.no_grad():
            self._block(layer, entered, chunk)
        found = kept[0].view(chunk, -1, *kept[0].shape[1:])
        gain = found - self.run.streams.of(component.kind)[layer]
        if component.kind is Kind.MLP:
            return Change(layer, half, gain)
        if component.kind is Kind.HEAD:
            write = self.model.W_O(layer)[None, component.index]
            return Change(layer, half, gain[:, :, :, component.index], write.expand(chunk, -1, -1))
        write = self.model.W_out(layer)[None, component.index, None]
        return Change(layer, half, gain[..., component.index, None], write.expand(chunk, -1, -1))

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


def _require_whole(replay: Replay, place: Input) -> None:
    if place.part is not None:
        raise UnsupportedModelError(
            f"{replay.model.name} cannot tell {place} from the head's other inputs: {replay.notice}; name the whole head"
        )


def _kept_in(kept: list[Tensor]) -> Hook:
    def hook(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor  # hook_z is a reshaped view: returning the very tensor keeps it on autograd's path

    return hook


def _exchanged(keep: Hook | None, given: Tensor) -> Hook:
    def hook(tensor: Tensor) -> Tensor:
        if keep is not None:
            keep(tensor)
        return given

    return hook


class _Branches(Branches):
    """A run through the bridge's blocks under autograd: each slope is a backward through one half-layer."""

    @torch.enable_grad()
    def __init__(self, replay: Replay, stream: Tensor, instead: tuple[int, Instead] | None = None) -> None:
        self.replay = replay
        self.instead = instead
        model = replay.model
        self.kinds = [kind for kind in (Kind.HEAD, Kind.NEURON, Kind.MLP) if kind is not Kind.NEURON or model.d_mlp]
        layers = range(model.n_layers)
        self.writes: dict[Kind, list[Tensor]] = {kind: [] for kind in self.kinds}
        self.pre: list[Tensor] = []
        self.mid: list[Tensor] = []
        hooks = {hook_name(layer, kind): _kept_in(self.writes[kind]) for layer in layers for kind in self.kinds}
        if model.capabilities.sequential:
            hooks |= {f"blocks.{layer}.hook_resid_mid": _kept_in(self.mid) for layer in layers}
        stream = stream.detach().requires_grad_(True)
        if instead is not None:
            # Its own value is still kept, in front of what takes its place, so that places stay in order.
            place = hook_name(instead[0], instead[1].kind)
            hooks[place] = _exchanged(hooks.get(place), instead[1].tensor)
        with hooked(model, hooks):
            for layer in layers:
                self.pre.append(stream)
                stream = replay._block(layer, stream, 1)
        self.final = replay.picked(stream)[:, 0]

    def pull(self, metric: Tensor, *, keep: bool) -> _Slopes:
        tensors = [tensor for kind in self.kinds for tensor in self.writes[kind]]
        # Slopes go through the graph again. In front of a given activation they are zero.
        given = self.instead is not None
        found = torch.autograd.grad(metric, tensors, retain_graph=True, materialize_grads=given)
        count = len(self.pre)
        return _Slopes(self, {k: found[i * count : (i + 1) * count] for i, k in enumerate(self.kinds)})


class _Slopes(Slopes):
    def __init__(self, run: _Branches, gradients: dict[Kind, tuple[Tensor, ...]]) -> None:
        self._run = run
        self._gradients = gradients

    @torch.enable_grad()
    def at(self, inputs: Sequence[Input]) -> Tensor:
        run = self._run
        found = []
        for one in inputs:
            _require_whole(run.replay, one)
            kind, layer, index = one.component.kind, one.component.layer, one.component.index
            part = (slice(None), slice(None), index) if kind is not Kind.MLP else ()
            local = (run.writes[kind][layer][part] * self._gradients[kind][layer][part]).sum()
            after = one.component.half is Half.MLP and run.replay.model.capabilities.sequential
            source = run.mid[layer] if after else run.pre[layer]
            found.append(torch.autograd.grad(local, source, retain_graph=True)[0])
        return torch.stack(found)


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
