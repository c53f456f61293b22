"""From the final residual stream to the six logit differences, whole or with a write removed.

The last step of a decoder is a norm and a linear map; only the answer columns of the map are needed. Removing a write
``w`` from the stream ``s`` needs no new pass: with the norm written out, the answer logits of ``s - c·w`` depend on the
inner products ⟨s,s⟩, ⟨s,w⟩, ⟨w,w⟩, ⟨s,u⟩, ⟨w,u⟩ alone (u: answer columns times the norm's weight). That is the direct
effect in closed form (SCIENCE section 5), re-normalisation included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.anatomy import Model
from circuits.model.norms import Norm
from circuits.model.plain import affine
from circuits.prompts.metrics import Answers, answer_tokens

__all__ = ["Readout", "Writes"]


@dataclass(frozen=True)
class Writes:
    """Write vectors, their squared lengths (centred where the final norm centres), and what they add to each column."""

    vectors: Float[Tensor, "component d_model"]
    squares: Float[Tensor, " component"]
    columns: Float[Tensor, "column component"]


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
        self.norm = self.norm.to(weight.device)
        self._unembedding = weight
        self._columns = self.norm.gain(weight.T)[:, None] * weight  # [d_model, answer]
        self._offset = self.norm.shift(weight.T) @ weight + self._bias
        cap = getattr(model.bridge.cfg, "output_logits_soft_cap", None)
        self._cap = float(cap) if cap is not None and cap > 0 else None
        self._contrast = torch.tensor(answers.contrast(), device=weight.device, dtype=model.dtype)
        self._means = torch.tensor(answers.means(), device=weight.device, dtype=model.dtype)

    @property
    def device(self) -> torch.device:
        """Where the unembedding lies."""
        return self._columns.device

    @classmethod
    def of(cls, model: Model, words: object) -> Readout:
        """For answer words by emotion (``prompts.answers``).

        Raises:
            AnswerError: an emotion is left without an answer token.
        """
        return cls(model, answer_tokens(model.token_ids, words))  # type: ignore[arg-type]

    def logits(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch answer"]:
        """Answer logits of final streams."""
        x = self.norm.centre(stream.to(self._columns))
        return self._capped((x @ self._columns) * self.norm.scale(x) + self._offset)

    def __call__(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch emotion"]:
        """The six logit differences [logits] of final streams."""
        if self._cap is not None:
            return self.logits(stream) @ self._contrast
        return affine(self.norm(stream.to(self._columns)), *self._six)

    def emotion_logits(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch emotion"]:
        """Each emotion's mean answer logit; their argmax is the six-way answer."""
        return self.logits(stream) @ self._means

    def prepared(self, writes: Float[Tensor, "component d_model"]) -> Writes:
        """What :meth:`loss` needs to know of write vectors; worth keeping where they serve many prompts."""
        centred = self.norm.centre(writes)
        columns = self._columns if self._cap is not None else self._linear[0]
        return Writes(writes, centred.pow(2).sum(-1), (centred @ columns).T.contiguous())

    def loss(
        self,
        stream: Float[Tensor, "prompt d_model"],
        amount: Float[Tensor, "prompt component"],
        writes: Writes,
    ) -> Float[Tensor, "prompt emotion component"]:
        """Logit differences of ``stream`` minus those of ``stream - amount * write``, each component alone, in closed form."""
        x = self.norm.centre(stream.to(self._columns))
        # ⟨C(x), C(w)⟩ = ⟨C(x), w⟩: what is centred already takes the mean out of the other.
        square = torch.addcmul(x.pow(2).sum(-1, keepdim=True), amount, x @ writes.vectors.T, value=-2)
        square.addcmul_(amount.square(), writes.squares)
        # The difference of large squares can fall a rounding error below zero.
        scale = square.clamp_min_(0).div_(x.shape[-1]).add_(self.norm.eps).rsqrt_()[:, None]
        # Without a cap the metric is linear in the logits: six columns instead of one for each answer.
        columns, offset = (self._columns, self._offset) if self._cap is not None else self._linear
        raw = torch.addcmul((x @ columns)[..., None], amount[:, None], writes.columns, value=-1)
        if self._cap is None:
            return torch.addcmul((self(stream) - offset)[..., None], raw, scale, value=-1, out=raw)
        left = self._capped(torch.addcmul(offset[:, None], raw, scale).transpose(1, 2)) @ self._contrast
        return self(stream)[..., None] - left.transpose(1, 2)

    @property
    def capped(self) -> bool:
        """Whether a soft cap stands behind the unembedding, so that the metric is not linear behind the norm."""
        return self._cap is not None

    def columns(self, writes: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many emotion"]:
        """What writes add to the six logit differences at a norm's scale of one (no soft cap): linear in ``writes``."""
        return self.norm.centre(writes.to(self._columns)) @ self._linear[0]

    def scale(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """The final norm's scale at final streams; times :meth:`columns` it gives logits."""
        return self.norm.scale(self.norm.centre(stream.to(self._columns)))

    @cached_property
    def _six(self) -> tuple[Tensor, Tensor]:
        """Columns and offset of the six metrics behind the final norm."""
        return self._unembedding @ self._contrast, self._bias @ self._contrast

    @cached_property
    def _linear(self) -> tuple[Tensor, Tensor]:
        """The same with the norm's weight and bias inside, for streams that are only centred and scaled."""
        return self._columns @ self._contrast, self._offset @ self._contrast

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)
