"""What the claims are tested on: a model, a prompt set, its run, and what is read once for several claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import circuits
from circuits.errors import CircuitsError
from circuits.model.reading import Readings
from circuits.model.words import require_words

__all__ = ["Study"]


@dataclass
class Study:
    """One model and one prompt set."""

    model: circuits.Model
    prompts: circuits.Prompts
    run: circuits.Run
    watch: Callable[[str, int, int], None]
    _readings: dict[str, Readings] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def middle(self) -> int:
        """The state half-way: the MLP position of the layer before the middle."""
        return self.model.n_layers - 1

    def readings(self, prompts: circuits.Prompts) -> Readings:
        """States of all texts, read once."""
        if prompts.name not in self._readings:
            self._readings[prompts.name] = circuits.capture(self.model, prompts)
        return self._readings[prompts.name]

    def matched(self, what: str) -> circuits.Prompts | None:
        """The set matched to this one that tells the same otherwise (``explicit``), if there is one the model can read."""
        names = {"explicit": {"microstories": "microstories_explicit", "situations": "explicit"}}
        name = names.get(what, {}).get(self.prompts.name)
        return None if name is None else self.readable(name)

    def readable(self, name: str) -> circuits.Prompts | None:
        """A prompt set by name; None, and a note of why, where the model cannot read it."""
        try:
            prompts = circuits.read_prompts(name)
            require_words(self.model, prompts)
            self.readings(prompts)
        except CircuitsError as error:
            self.unreadable[name] = str(error)
            return None
        return prompts
