"""From the final residual stream to the six logit differences, whole or with a write removed.

The last step of a decoder is a norm and a linear map; only the answer columns of the map are needed. Removing a write
``w`` from the stream ``s`` needs no new pass: with the norm written out, the answer logits of ``s - c·w`` depend on the
inner products ⟨s,s⟩, ⟨s,w⟩, ⟨w,w⟩, ⟨s,u⟩, ⟨w,u⟩ alone (u: answer columns times the norm's weight). That is the direct
effect in closed form (SCIENCE section 5), re-normalisation included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.anatomy import Model
from circuits.prompts.metrics import Answers, answer_tokens

__all__ = ["Readout"]


@dataclass(frozen=True)
class _FinalNorm:
    """``weight * centre?(x) / sqrt(mean(centre?(x)²) + eps) + bias``: RMSNorm and LayerNorm alike."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    eps: float
    centred: bool

    @classmethod
    def of(cls, model: Model) -> _FinalNorm:
        module = model.bridge.ln_final
        original = module.original_component
        weight = getattr(original, "weight", None)
        bias = getattr(original, "bias", None)
        zeros = torch.zeros(model.d_model, device=model.device, dtype=model.dtype)
        weight = zeros + 1 if weight is None else weight.detach()
        if getattr(model.bridge.cfg, "rmsnorm_uses_offset", False):
            weight = weight + 1
        eps = getattr(original, "variance_epsilon", None)
        if eps is None:
            eps = getattr(original, "eps", None)
        return cls(
            weight=weight,
            bias=zeros if bias is None else bias.detach(),
            eps=float(model.bridge.cfg.eps if eps is None else eps),
            centred=not bool(model.bridge.cfg.uses_rms_norm),
        )

    def centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


class Readout:
    """The six logit differences of a model, for one set of answer words.

    Attributes:
        answers: token ids and notices.
    """

    def __init__(self, model: Model, answers: Answers) -> None:
        self.model = model
        self.answers = answers
        self.norm = _FinalNorm.of(model)
        weight, self._bias = model.unembedding(answers.columns)
        self._columns = self.norm.weight[:, None] * weight  # [d_model, answer]
        self._offset = self.norm.bias @ weight + self._bias
        cap = getattr(model.bridge.cfg, "output_logits_soft_cap", None)
        self._cap = float(cap) if cap is not None and cap > 0 else None
        self._contrast = torch.tensor(answers.contrast(), device=model.device, dtype=model.dtype)
        self._means = torch.tensor(answers.means(), device=model.device, dtype=model.dtype)

    @classmethod
    def of(cls, model: Model, words: object) -> Readout:
        """For answer words by emotion (``prompts.answers``).

        Raises:
            AnswerError: an emotion is left without an answer token.
        """
        return cls(model, answer_tokens(model.token_ids, words))  # type: ignore[arg-type]

    def logits(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch answer"]:
        """Answer logits of final streams."""
        x = self.norm.centre(stream)
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.norm.eps)
        return self._capped((x @ self._columns) * scale + self._offset)

    def __call__(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch emotion"]:
        """The six logit differences [logits] of final streams."""
        return self.logits(stream) @ self._contrast

    def emotion_logits(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch emotion"]:
        """Each emotion's mean answer logit; their argmax is the six-way answer."""
        return self.logits(stream) @ self._means

    def without(
        self,
        stream: Float[Tensor, "prompt d_model"],
        amount: Float[Tensor, "prompt component"],
        writes: Float[Tensor, "component d_model"],
    ) -> Float[Tensor, "prompt component emotion"]:
        """Logit differences of ``stream - amount * write``, each component alone, in closed form."""
        x, w = self.norm.centre(stream), self.norm.centre(writes)
        square = x.pow(2).sum(-1, keepdim=True) - 2 * amount * (x @ w.T) + amount.pow(2) * w.pow(2).sum(-1)
        # The difference of large squares can fall a rounding error below zero.
        scale = torch.rsqrt(square.clamp_min(0) / x.shape[-1] + self.norm.eps)
        raw = (x @ self._columns)[:, None] - amount[..., None] * (w @ self._columns)
        return self._capped(raw * scale[..., None] + self._offset) @ self._contrast

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)
