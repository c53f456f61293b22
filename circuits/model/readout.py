"""From the final residual stream to the six logit differences, whole or with a write removed.

The last step of a decoder is a norm and a linear map; only the answer columns of the map are needed. Removing a write
``w`` from the stream ``s`` needs no new pass: with the norm written out, the answer logits of ``s - c·w`` depend on the
inner products ⟨s,s⟩, ⟨s,w⟩, ⟨w,w⟩, ⟨s,u⟩, ⟨w,u⟩ alone (u: answer columns times the norm's weight). That is the direct
effect in closed form (SCIENCE section 5), re-normalisation included.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.anatomy import Model
from circuits.model.norms import Norm
from circuits.prompts.metrics import Answers, answer_tokens

__all__ = ["Readout"]


class Readout:
    """The six logit differences of a model, for one set of answer words.

    Attributes:
        answers: token ids and notices.
    """

    def __init__(self, model: Model, answers: Answers) -> None:
        self.model = model
        self.answers = answers
        self.norm = Norm.of(model.bridge.ln_final, model.bridge.cfg)
        weight, self._bias = model.unembedding(answers.columns)
        self._columns = self.norm.gain(weight.T)[:, None] * weight  # [d_model, answer]
        self._offset = self.norm.shift(weight.T) @ weight + self._bias
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
        return self._capped((x @ self._columns) * self.norm.scale(x) + self._offset)

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
