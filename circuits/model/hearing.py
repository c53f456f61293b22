"""What an MLP hears of the attention half of its own layer, whole and with each head gone, from one forward.

A head adds one write to the stream, at one token, and nothing else of its layer's attention depends on it. So the state
after attention with the head's value mix set to zero is known once the clean run is: the write is taken from the heads'
sum, the norm behind the sum (where there is one) is applied anew, and so is the norm in front of the MLP. Both change
their scale; nothing is frozen. That is what running the model once per head finds, layer by layer.

Parallel blocks have no such state: their MLP reads ``resid_pre``, which no head of the layer reaches. There
``resid_pre + attn_out`` through the MLP's norm stands for it, and :attr:`Heard.virtual` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import MeasurementError, UnsupportedModelError
from circuits.model.anatomy import Model, Tokens
from circuits.model.extraction import CLOSE, deviation
from circuits.model.norms import Norm
from circuits.model.running import Hook, final_stream, hook_name, hooked
from circuits.model.sites import Kind
from circuits.prompts.datasets import Prompts

__all__ = ["Heard", "heard"]

_BATCH = 64


@dataclass(frozen=True)
class Heard:
    """Post-attention states of one layer at the read-out token of some prompts, in float64.

    Attributes:
        rows: the prompts' row numbers, first and one behind the last.
        stream: the state in the stream, ``[prompt, d_model]``.
        normed: the same behind the norm in front of the MLP; the state itself where there is no such norm.
        virtual: the model never computes this state (parallel blocks).
    """

    rows: tuple[int, int]
    layer: int
    stream: Float[Tensor, "prompt d_model"]
    normed: Float[Tensor, "prompt d_model"]
    virtual: bool
    _pre: Float[Tensor, "prompt d_model"]
    _total: Float[Tensor, "prompt d_model"]
    _z: Float[Tensor, "prompt head d_head"]
    _write: Float[Tensor, "head d_head d_model"]
    _behind: Norm | None
    _front: Norm | None

    def without(self) -> tuple[Float[Tensor, "prompt head d_model"], Float[Tensor, "prompt head d_model"]]:
        """``stream`` and ``normed`` with each head zeroed, every norm on the way computed anew."""
        writes = torch.einsum("phd,hdm->phm", self._z, self._write)
        if self._behind is None:
            stream = self.stream[:, None] - writes
        else:
            stream = self._pre[:, None] + self._behind(self._total[:, None] - writes)
        return stream, stream if self._front is None else self._front(stream)


@torch.no_grad()
def heard(model: Model, prompts: Prompts) -> Iterator[Heard]:
    """Every layer's post-attention states at the read-out token, batch by batch; one forward a batch.

    Raises:
        UnsupportedModelError: the norms read off the model do not give what its MLPs are given.
        MeasurementError: a text beyond the context, or a state that is NaN or infinite (the layer is named).
    """
    norms = [_norms(model, layer) for layer in range(model.n_layers)]
    for first in range(0, len(prompts), _BATCH):
        tokens = model.encode(prompts.texts[first : first + _BATCH], prompts.ids[first : first + _BATCH])
        kept = _kept(model, tokens)
        for layer, (behind, front) in enumerate(norms):
            yield _layer(model, kept, (first, first + len(tokens)), layer, behind, front)


def _kept(model: Model, tokens: Tokens) -> dict[str, Tensor]:
    """Activations at the read-out by hook name, from one forward."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(tensor: Tensor) -> Tensor:
            kept[name] = tokens.on(tensor.device).at_readout(tensor.detach()).double()
            return tensor

        return hook

    names = []
    for layer in range(model.n_layers):
        block = f"blocks.{layer}"
        names += [f"{block}.hook_resid_pre", hook_name(layer, Kind.HEAD), hook_name(layer, Kind.ATTN)]
        names += [f"{block}.mlp.hook_in", *([f"{block}.ln1_post.hook_in"] if model.capabilities.post_norms else [])]
    with hooked(model, {name: keep(name) for name in names}):
        final_stream(model, tokens)
    return kept


def _layer(
    model: Model, kept: dict[str, Tensor], rows: tuple[int, int], layer: int, behind: Norm | None, front: Norm | None
) -> Heard:
    block = f"blocks.{layer}"
    pre, out = kept[f"{block}.hook_resid_pre"], kept[hook_name(layer, Kind.ATTN)]
    stream = pre + out
    normed = stream if front is None else front(stream)
    if not bool(torch.isfinite(normed).all()):
        raise MeasurementError(
            f"{model.name}: the state after attention of layer {layer} is NaN or infinite; try dtype='float32' or check "
            "the weights"
        )
    read = stream if model.capabilities.sequential else pre
    wanted = kept[f"{block}.mlp.hook_in"]
    error = deviation(read if front is None else front(read), wanted)
    # In float64 many families round to float32 inside their norms.
    if error > max(CLOSE[model.dtype], CLOSE[torch.float32]):
        raise UnsupportedModelError(
            f"{model.name}: the norm in front of the MLP of layer {layer} gives another input than the MLP gets (relative "
            f"difference {error:.1g}); the closed form of head importance does not hold for this family: use effects instead"
        )
    total = kept[f"{block}.ln1_post.hook_in"] if behind is not None else out
    return Heard(
        rows=rows, layer=layer, stream=stream, normed=normed, virtual=not model.capabilities.sequential, _pre=pre,
        _total=total, _z=kept[hook_name(layer, Kind.HEAD)], _write=model.W_O(layer).double(), _behind=behind, _front=front,
    )  # fmt: skip


def _norms(model: Model, layer: int) -> tuple[Norm | None, Norm | None]:
    """The norm behind the heads' sum and the one in front of the MLP, in float64."""
    block, cfg = model.bridge.blocks[layer], model.bridge.cfg

    def norm(name: str) -> Norm | None:
        module = block._modules.get(name)
        if module is None or isinstance(module.original_component, torch.nn.Identity):
            return None
        return Norm.of(module, cfg).to(dtype=torch.float64)

    front = norm("ln2")
    if front is None and not model.capabilities.sequential:
        front = norm("ln1")  # both halves of a parallel block may share one norm
    return norm("ln1_post") if model.capabilities.post_norms else None, front
