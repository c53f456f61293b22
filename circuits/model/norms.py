"""Layer norm and RMS norm as values: the same few numbers whatever the family calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import layer_norm, rms_norm

__all__ = ["Norm"]

_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Norm:
    """``weight * centre?(x) / sqrt(mean(centre?(x)²) + eps) + bias`` over the last axis: LayerNorm and RMSNorm alike.

    ``weight`` and ``bias`` are None where the family has none. Half precision is normalised in float32, as everywhere.
    """

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    centred: bool

    @classmethod
    def of(cls, module: Any, cfg: Any) -> Norm:
        """From one of the bridge's normalisation modules."""
        original = module.original_component
        weight = getattr(original, "weight", None)
        bias = getattr(original, "bias", None)
        offset = getattr(module, "uses_weight_offset", getattr(cfg, "rmsnorm_uses_offset", False))
        if weight is not None:
            weight = weight.detach() + 1 if offset else weight.detach()
        eps = getattr(original, "variance_epsilon", None)
        if eps is None:
            eps = getattr(original, "eps", None)
        rms = getattr(module, "uses_rms_norm", getattr(cfg, "uses_rms_norm", False))
        return cls(
            weight=weight,
            bias=None if bias is None else bias.detach(),
            eps=float(cfg.eps if eps is None else eps),
            centred=not bool(rms),
        )

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The normalised ``x``."""
        if self.centred:
            return layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        if x.dtype in _HALF:
            y = rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)
            y = y if self.weight is None else y * self.weight
        else:
            y = rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return y if self.bias is None else y + self.bias

    def centre(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """``x`` without its mean over the last axis, where this norm takes it away."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """``1 / sqrt(mean(x²) + eps)`` of an already centred ``x``."""
        return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def pulled(
        self, x: Float[Tensor, "*batch d_model"], gradient: Float[Tensor, "*many d_model"]
    ) -> Float[Tensor, "*many d_model"]:
        """The gradient at ``x`` of what has ``gradient`` at the normalised ``x``, in closed form.

        With ``m = weight · gradient`` and ``y = C(x) s``: ``s C(m - y mean(y m))``; ``gradient`` may have axes in front.
        """
        y = self.centre(x)
        scale = self.scale(y)
        y = y * scale
        m = gradient if self.weight is None else gradient * self.weight
        along = (m * y).mean(-1, keepdim=True)
        return self.centre(m.addcmul(y, along, value=-1)).mul_(scale)

    def gain(self, like: Tensor) -> Float[Tensor, " d_model"]:
        """The weight, ones where there is none."""
        return torch.ones(like.shape[-1], device=like.device, dtype=like.dtype) if self.weight is None else self.weight

    def shift(self, like: Tensor) -> Float[Tensor, " d_model"]:
        """The bias, zeros where there is none."""
        return torch.zeros(like.shape[-1], device=like.device, dtype=like.dtype) if self.bias is None else self.bias

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Norm:
        """The same norm elsewhere or in another precision."""
        weight = None if self.weight is None else self.weight.to(device, dtype)
        bias = None if self.bias is None else self.bias.to(device, dtype)
        return Norm(weight, bias, self.eps, self.centred)
