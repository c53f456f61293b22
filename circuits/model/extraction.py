"""Fitting plain blocks to a model: parts are read off the bridge, conventions are found by trying them.

Families differ in conventions that no weight shows: how rotary tables pair dimensions, by what scores are scaled, which
nonlinearity is meant. Each is chosen here because it reproduces what the model's own block computed in a clean run, never
because of a name. A model in which some block cannot be reproduced is replayed through its own modules instead
(:mod:`circuits.model.resuming`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from circuits.model.anatomy import Model
from circuits.model.norms import Norm
from circuits.model.plain import ACTIVATIONS, Linears, PlainBlock, Rotation, Shape, Surroundings, tables
from circuits.model.running import Recording

__all__ = ["CLOSE", "NoFit", "block_of", "mask_of", "surroundings"]

CLOSE = {torch.float32: 1e-5, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest deviation, relative to the largest value, at which two computations count as the same. In float64 many families
still round to float32 in norms and softmax."""


class NoFit(Exception):
    """A block computes something that plain blocks do not; the message says what was tried."""


def deviation(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest value; infinite where something is not finite."""
    error = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    return error if error == error else float("inf")


def mask_of(run: Recording, layer: int) -> Tensor:
    """The additive attention mask ``[prompt, 1, pos, pos]`` a block was called with.

    Raises:
        NoFit: there is none.
    """
    args, kwargs = run.arguments[layer]
    n_pos = run.tokens.ids.shape[1]
    for value in (kwargs.get("attention_mask"), *args):
        if isinstance(value, Tensor) and value.dim() == 4 and value.shape[-2:] == (n_pos, n_pos):
            if value.dtype is torch.bool:
                break  # True may mean kept or masked
            return value
    raise NoFit(f"layer {layer} is called without an additive attention mask")


def surroundings(run: Recording, layer: int, rotation: Rotation) -> Surroundings:
    """What the plain form of a block needs to know of a clean run."""
    found = run.arguments[layer][1].get("position_embeddings")
    cos = sin = None
    if rotation is not Rotation.NONE:
        if not (isinstance(found, tuple | list) and len(found) == 2 and all(t.dim() == 3 for t in found)):
            raise NoFit(f"layer {layer} is called without rotary tables")
        cos, sin = tables(rotation, *found)
    return Surroundings(mask_of(run, layer), cos, sin, run.tokens.last)


@torch.no_grad()
def block_of(model: Model, layer: int, run: Recording) -> PlainBlock:
    """The plain form of one block, equal to the model's own on a clean run.

    Raises:
        NoFit: no combination of conventions reproduces what the block computed.
    """
    if not model.capabilities.neurons:
        raise NoFit("a mixture of experts")
    bare = _read(model, layer)
    close = CLOSE[model.dtype]
    stream, real = run.pre[layer], run.tokens.mask.bool()
    worst: list[tuple[float, str]] = []

    def same(what: str, found: Tensor, wanted: Tensor) -> bool:
        error = deviation(found[real], wanted[real])
        if error > close:
            worst.append((error, f"{what} off by {error:.1g}"))
        return error <= close

    z = run.streams.z[layer]
    for candidate in _attentions(model, bare, layer, run):
        around = surroundings(run, layer, candidate.rotation)
        if same(f"heads with rotation {candidate.rotation}", candidate.mixed(stream[None], around)[0], z):
            break
    else:
        tried = f": {min(worst)[1]}" if worst else ""
        raise NoFit(f"layer {layer}: its attention follows no known convention{tried}")
    attn_out = candidate.behind(True, candidate.summed(z))
    if not same("attention output", attn_out, run.streams.attn_out[layer]):
        raise NoFit(f"layer {layer}: {worst[-1][1]}")
    read = run.mid[layer] if bare.sequential else stream
    for activation in ACTIVATIONS:
        whole = replace(candidate, activation=activation)
        if same("neurons", whole.activations(read), run.streams.post[layer]) and _alike_far_out(
            model, layer, activation
        ):
            break
    else:
        raise NoFit(f"layer {layer}: neurons match no known activation")
    if not same("block", whole(stream[None], around)[0], run.pre[layer + 1]):
        raise NoFit(f"layer {layer}: {worst[-1][1]}")
    return whole


def _alike_far_out(model: Model, layer: int, activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether a nonlinearity is the module's own also where the recorded run never went (some are clipped there)."""
    original = getattr(model.bridge.blocks[layer].mlp, "original_component", None)
    names = ("act_fn", "activation_fn", "act", "activation", "act_func", "gelu_impl")
    own = next((f for f in (getattr(original, name, None) for name in names) if callable(f)), None)
    if own is None:
        return True  # nothing to ask; the recorded run has to do
    x = torch.linspace(-60, 60, 2401, device=model.device, dtype=model.dtype)
    return deviation(activation(x.clone()), own(x.clone())) <= CLOSE[model.dtype]


def _attentions(model: Model, bare: PlainBlock, layer: int, run: Recording) -> Iterator[PlainBlock]:
    """Blocks that differ in how attention is scaled and turned, likeliest first."""
    original = model.bridge.blocks[layer].attn.original_component
    plain = bare.shape.d_head**-0.5
    named = getattr(original, "scaling", None)
    scales = dict.fromkeys(s for s in (named, plain, plain / (layer + 1), 1.0) if isinstance(s, float))
    given = run.arguments[layer][1].get("position_embeddings")
    width = given[0].shape[-1] if isinstance(given, tuple | list) else 0
    rotations = []
    if width:
        rotations = [Rotation.HALVES, Rotation.PAIRS, Rotation.PAIRS_RELAID] if width % 2 == 0 else []
        rotations += [Rotation.PAIRS_SPREAD] if 2 * width <= bare.shape.d_head else []
    for rotation in (*rotations, Rotation.NONE):
        for scale in scales:
            yield replace(bare, rotation=rotation, scale=scale)


def _read(model: Model, layer: int) -> PlainBlock:
    """Weights and norms of a block; conventions are still open."""
    block, cfg = model.bridge.blocks[layer], model.bridge.cfg
    attn, mlp = block.attn, block.mlp

    def norm(module: Any) -> Norm | None:
        if module is None or isinstance(module.original_component, torch.nn.Identity):
            return None
        return Norm.of(module, cfg)

    def child(owner: Any, name: str) -> Any:
        return owner._modules.get(name)

    sequential = model.capabilities.sequential
    first, second = norm(child(block, "ln1")), norm(child(block, "ln2"))
    q, k, v = (getattr(attn, f"W_{name}") for name in "QKV")
    if any(t is None or t.dim() != 3 for t in (q, k, v)):
        raise NoFit(f"layer {layer}: no separate query, key and value weights")
    shape = Shape(q.shape[0], k.shape[0], q.shape[2])
    if shape.heads % shape.kv_heads or v.shape != k.shape:
        raise NoFit(f"layer {layer}: {shape.heads} heads over {shape.kv_heads} key-value heads")
    norm_q, norm_k = norm(child(attn, "q_norm")), norm(child(attn, "k_norm"))
    flat = norm_q is not None and norm_q.weight is not None and norm_q.weight.numel() == shape.heads * shape.d_head
    original = attn.original_component
    cap = getattr(original, "attn_logit_softcapping", None)
    gate, value = getattr(mlp, "W_gate", None), mlp.W_in
    ups = [(value, mlp.b_in)] if gate is None else [(gate, mlp.b_gate), (value, mlp.b_in)]
    return PlainBlock(
        shape=shape,
        sequential=sequential,
        norm_attn=first,
        norm_mlp=first if second is None and not sequential else second,
        post_attn=norm(child(block, "ln1_post")),
        post_mlp=norm(child(block, "ln2_post")),
        norm_q=norm_q,
        norm_k=norm_k,
        flat_qk=flat,
        qkv=Linears(
            [(_matrix(w), _vector(getattr(attn, f"b_{n}"))) for n, w in zip("QKV", (q, k, v), strict=True)], fused=True
        ),
        out=(model.W_O(layer).reshape(-1, model.d_model), _vector(attn.b_O)),
        rotation=Rotation.NONE,
        scale=1.0,
        cap=None if cap is None else float(cap),
        up=Linears([(w.detach(), _vector(b)) for w, b in ups]),
        activation=ACTIVATIONS[0],
        down=(model.W_out(layer), _vector(mlp.b_out)),
    )


def _matrix(weight: Tensor) -> Tensor:
    """``[head, d_model, d_head]`` as one matrix ``[d_model, head · d_head]``; a view where the layout allows."""
    return weight.detach().permute(1, 0, 2).flatten(1)


def _vector(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().reshape(-1)
