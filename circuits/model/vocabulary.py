"""All words a model can say next, seen from the final stream: their probabilities, and what a single write does to them.

The last step of a decoder is a norm and a linear map (a soft cap in some families). For the *logit lens* (nostalgebraist 2020)
of one write the norm is frozen at a given scale: what is left is linear, ``s · C(w) γ W_U`` with ``C`` the norm's centring and
``γ`` its weight, so that the writes of a stream add up to its logits but for the constant biases. Logits mean something
only relative to one another, so the mean over the vocabulary is taken away.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.model.anatomy import Model
from circuits.model.norms import Norm

__all__ = ["Vocabulary"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""How sentence-piece vocabularies write a leading space, which their decoder drops from a single token."""


class Vocabulary:
    """The unembedding of a model with the words of its rows."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._weight: Tensor = model.bridge.unembed.W_U.detach()
        bias: Tensor | None = model.bridge.unembed.b_U
        self._bias = None if bias is None else bias.detach()
        self.norm = Norm.of(model.bridge.ln_final, model.bridge.cfg).to(self._weight.device)
        cap = getattr(model.bridge.cfg, "output_logits_soft_cap", None)
        self._cap = float(cap) if cap is not None and cap > 0 else None

    def __len__(self) -> int:
        """Rows of the unembedding; some tokenizers know fewer words."""
        return int(self._weight.shape[1])

    def word(self, number: int) -> str:
        """A token as people read it, its leading space kept; its raw form where it is no text of its own."""
        tokenizer = self.model.tokenizer
        raw = tokenizer.convert_ids_to_tokens(number) if number < len(tokenizer) else None
        if not raw:
            return f"[{number}]"
        text = str(tokenizer.decode([number], clean_up_tokenization_spaces=False))
        if raw.startswith(_SPACE) and not text.startswith(" "):
            text = f" {text}"
        return str(raw) if not text or _REPLACEMENT in text else text

    def words(self, numbers: Iterable[int]) -> list[str]:
        """The same of several."""
        return [self.word(int(number)) for number in numbers]

    def logits(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Logits of all next words from final streams."""
        found = self.norm(stream.to(self._weight)) @ self._weight
        if self._bias is not None:
            found = found + self._bias
        return found if self._cap is None else self._cap * torch.tanh(found / self._cap)

    def probabilities(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Probabilities of all next words from final streams; they sum to one."""
        return self.logits(stream).double().softmax(-1)

    def scale(self, stream: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """The final norm's scale at final streams."""
        return self.norm.scale(self.norm.centre(stream.to(self._weight)))

    def promoted(self, write: Float[Tensor, "*many d_model"], scale: float) -> Float[Tensor, "*many vocab"]:
        """What writes add to each word's logit [logits] at this scale of the final norm, less the mean over all words.

        Before any soft cap; biases are no write's and stay out.
        """
        columns = self.norm.centre(write.to(self._weight)) * self.norm.gain(self._weight.T)
        found = (columns @ self._weight) * scale
        return found - found.mean(-1, keepdim=True)
