"""Running a model: reading its stream, changing its writes, resuming from the middle.

Reading and changing go through forward hooks that exist only inside a ``with`` or a call and are removed in
``finally``: an exception leaves no hook behind. Two facts about the engine shape this module (TransformerLens 4.3):
an edit of ``hook_resid_mid`` reaches the MLP branch only, so interventions sit at ``hook_z``, ``mlp.hook_post``,
``hook_attn_out`` and ``hook_mlp_out``; and starting at a layer saves nothing, so the block's own arguments are recorded
in one clean run and upper blocks are then called directly (:meth:`Recording.resume`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import MeasurementError
from circuits.model.anatomy import Model, Tokens
from circuits.model.sites import Half, Kind

__all__ = ["Recording", "Streams", "final_stream", "hook_name", "hooked", "record"]

Hook = Callable[[Tensor], Tensor]


def hook_name(layer: int, kind: Kind) -> str:
    """Where components of ``kind`` are read and changed."""
    return {
        Kind.ATTN: f"blocks.{layer}.hook_attn_out",
        Kind.MLP: f"blocks.{layer}.hook_mlp_out",
        Kind.HEAD: f"blocks.{layer}.attn.hook_z",
        Kind.NEURON: f"blocks.{layer}.mlp.hook_post",
    }[kind]


@contextmanager
def hooked(model: Model, changes: Mapping[str, Hook]) -> Iterator[None]:
    """Apply ``changes`` (hook name to a function of the activation) while the block runs."""

    def adapt(change: Hook) -> Callable[..., Tensor]:
        return lambda tensor, hook: change(tensor)

    with model.bridge.hooks(fwd_hooks=[(name, adapt(change)) for name, change in changes.items()]):
        yield


class _Done(Exception):
    """Raised at the final norm: everything wanted has been computed, the unembedding is not."""


def final_stream(model: Model, tokens: Tokens) -> Float[Tensor, "prompt pos d_model"]:
    """The last ``resid_post`` (before the final norm), with whatever hooks are set; skips the unembedding."""
    kept: list[Tensor] = []

    def stop(_module: Any, args: tuple[Tensor, ...]) -> None:
        kept.append(args[0])
        raise _Done

    handle = model.bridge.ln_final.register_forward_pre_hook(stop)
    try:
        model.bridge(tokens.ids, attention_mask=tokens.mask, use_cache=False)
    except _Done:
        return kept[0]
    finally:
        handle.remove()
    raise MeasurementError(f"{model.name} never reached its final norm; this architecture cannot be read")


@dataclass(frozen=True)
class Streams:
    """Activations at every place that writes, for every layer; what was, or what replaces it.

    ``z`` [prompt, pos, head, d_head], ``post`` [prompt, pos, neuron], ``attn_out`` and ``mlp_out`` [prompt, pos, d_model],
    one tensor a layer.
    """

    z: tuple[Tensor, ...]
    post: tuple[Tensor, ...]
    attn_out: tuple[Tensor, ...]
    mlp_out: tuple[Tensor, ...]

    def of(self, kind: Kind) -> tuple[Tensor, ...]:
        return {Kind.HEAD: self.z, Kind.NEURON: self.post, Kind.ATTN: self.attn_out, Kind.MLP: self.mlp_out}[kind]

    def map(self, change: Callable[[Tensor], Tensor]) -> Streams:
        """``change`` applied to every tensor."""
        return Streams(*(tuple(change(t) for t in self.of(kind)) for kind in _ORDER))


_ORDER = (Kind.HEAD, Kind.NEURON, Kind.ATTN, Kind.MLP)


@dataclass(frozen=True)
class Recording:
    """One clean run of a batch: streams, states, and what each block was called with.

    ``pre[l]`` is ``resid_pre`` of layer l and ``pre[n_layers]`` the final stream, [prompt, pos, d_model].
    ``mid[l]`` is the post-attention state: ``resid_mid``, or ``resid_pre + attn_out`` in parallel blocks.
    """

    tokens: Tokens
    streams: Streams
    pre: tuple[Tensor, ...]
    mid: tuple[Tensor, ...]
    embed: Tensor
    post_norm: Mapping[tuple[int, Half], Tensor]
    """Factor [prompt, pos, d_model] of each post-norm, frozen to this run; empty where there are none."""
    arguments: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]

    @property
    def final(self) -> Tensor:
        return self.pre[-1]

    def to(self, dtype: torch.dtype) -> Recording:
        """The same numbers in another precision; what blocks were called with stays."""
        factors = {key: factor.to(dtype) for key, factor in self.post_norm.items()}
        pre, mid = (tuple(t.to(dtype) for t in states) for states in (self.pre, self.mid))
        streams = self.streams.map(lambda t: t.to(dtype))
        return Recording(self.tokens, streams, pre, mid, self.embed.to(dtype), factors, self.arguments)

    def resume(self, model: Model, layer: int, stream: Tensor) -> Tensor:
        """The final stream when block ``layer`` is entered with ``stream`` [prompt, pos, d_model].

        Equal to a full run from that point on: attention masks, rotary angles and positions are those of the clean run.
        """
        for block, (args, kwargs) in zip(model.bridge.blocks[layer:], self.arguments[layer:], strict=True):
            output = block(stream, *args, **kwargs)
            stream = output[0] if isinstance(output, tuple) else output
        return stream

    def through(self, model: Model, layer: int) -> Tensor:
        """Block ``layer`` alone on its clean input, with whatever hooks are set: its ``resid_post``."""
        args, kwargs = self.arguments[layer]
        output = model.bridge.blocks[layer](self.pre[layer], *args, **kwargs)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result


def record(model: Model, tokens: Tokens, *, grad: bool = False) -> Recording:
    """Run ``tokens`` once and keep everything.

    With ``grad`` the tensors stay in the autograd graph, which starts at the embedding's output: parameters that require
    gradients then do no harm and frozen ones no hindrance.

    Raises:
        MeasurementError: an activation is NaN or infinite (layer and place are named).
    """
    kept: dict[str, Tensor] = {}
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def keep(name: str) -> Hook:
        def hook(tensor: Tensor) -> Tensor:
            # hook_z is a reshaped view: returning the very tensor keeps it on autograd's path.
            kept[name] = tensor if grad else tensor.detach()
            return tensor

        return hook

    def remember(layer: int) -> Callable[..., None]:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[layer] = (args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"})
            kept[f"pre.{layer}"] = args[0] if args else kwargs["hidden_states"]

        return hook

    kinds = [kind for kind in _ORDER if kind is not Kind.NEURON or model.capabilities.neurons]
    names = [hook_name(layer, kind) for layer in range(model.n_layers) for kind in kinds]
    changes: dict[str, Hook] = {name: keep(name) for name in names}
    if model.capabilities.sequential:
        changes |= {f"blocks.{layer}.hook_resid_mid": keep(f"mid.{layer}") for layer in range(model.n_layers)}
    if model.capabilities.post_norms:
        for layer in range(model.n_layers):
            for norm in ("ln1_post", "ln2_post"):
                changes[f"blocks.{layer}.{norm}.hook_in"] = keep(f"{norm}.in.{layer}")
                changes[f"blocks.{layer}.{norm}.hook_scale"] = keep(f"{norm}.scale.{layer}")
    handles = [
        block.register_forward_pre_hook(remember(layer), with_kwargs=True)
        for layer, block in enumerate(model.bridge.blocks)
    ]
    if grad:
        changes["embed.hook_out"] = lambda tensor: tensor.detach().requires_grad_(True)
    try:
        with hooked(model, changes), torch.set_grad_enabled(grad):
            final = final_stream(model, tokens)
    finally:
        for handle in handles:
            handle.remove()
    layers = range(model.n_layers)
    if not model.capabilities.neurons:
        kept |= {hook_name(layer, Kind.NEURON): final.new_zeros(*tokens.ids.shape, 0) for layer in layers}
    streams = Streams(*(tuple(kept[hook_name(layer, kind)] for layer in layers) for kind in _ORDER))
    pre = (*(kept[f"pre.{layer}"] for layer in layers), final)
    if model.capabilities.sequential:
        mid = tuple(kept[f"mid.{layer}"] for layer in layers)
    else:
        mid = tuple(pre[layer] + streams.attn_out[layer] for layer in layers)
    for layer in layers:
        for place, tensor in (("attention output", streams.attn_out[layer]), ("MLP output", streams.mlp_out[layer])):
            if not torch.isfinite(tensor.detach()).all():
                raise MeasurementError(
                    f"{model.name}: {place} of layer {layer} is NaN or infinite; try dtype='float32' or check the weights"
                )
    return Recording(
        tokens=tokens,
        streams=streams,
        pre=pre,
        mid=mid,
        embed=pre[0],
        post_norm=_post_norms(model, kept) if model.capabilities.post_norms else {},
        arguments=tuple(calls[layer] for layer in layers),
    )


def _post_norms(model: Model, kept: Mapping[str, Tensor]) -> dict[tuple[int, Half], Tensor]:
    """RMS post-norms as frozen factors: ``weight / scale``, so that ``out = factor * in`` on this run."""
    factors = {}
    for layer in range(model.n_layers):
        for norm, half in (("ln1_post", Half.ATTN), ("ln2_post", Half.MLP)):
            module = getattr(model.bridge.blocks[layer], norm)
            weight = module.weight.detach()
            if getattr(model.bridge.cfg, "rmsnorm_uses_offset", False):
                weight = 1 + weight
            factors[layer, half] = weight / kept[f"{norm}.scale.{layer}"]
    return factors
