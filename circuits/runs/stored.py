"""Effects as a run keeps them, read piece by piece.

A run of GPT-2's size has a table of 444,000 rows and 350 MB of effects prompt by prompt. Whoever looks at one component or
one emotion reads only that: the table in the columns and groups of rows that can hold it, the tensor in one slice of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.effects.table import COLUMNS
from circuits.errors import ComponentError, RunError
from circuits.prompts.emotions import EMOTIONS, emotion
from circuits.runs import files

__all__ = ["StoredEffects"]

_METHODS = ("exact", "gradient")
"""Ways of measuring a total effect, the best first. A direct effect is another quantity."""


@dataclass(frozen=True)
class StoredEffects:
    """Effects as a run keeps them; nothing is read before it is asked for.

    Attributes:
        table_path: file of the table.
        path: file of the per-prompt values.
    """

    table_path: Path
    path: Path

    @cached_property
    def table(self) -> pd.DataFrame:
        """All of it: like :attr:`circuits.effects.table.Effects.table`, all methods below one another, on the ``test`` split.

        Raises:
            RunError: the file is missing or damaged.
        """
        return files.read_table(self.table_path, COLUMNS)

    def rows(self, component: str) -> pd.DataFrame:
        """The table's rows of one component, by every method, emotions in order.

        Raises:
            ComponentError: the run has no such component.
            RunError: the file is missing or damaged.
        """
        found = files.read_rows(self.table_path, COLUMNS, [("component", "==", component)])
        if found.empty:
            raise ComponentError(
                f"the run has no component {component[:40]!r}; expected one like L0H1, L0N12 or L0.mlp"
            )
        return found

    def strongest(self, name: str, most: int = 500, kinds: Sequence[str] = ("head", "neuron")) -> pd.DataFrame:
        """The components with the largest total effects on one emotion, by absolute value; equals by place.

        Each component once: its exact effect where there is one, the gradient's elsewhere.

        Args:
            name: of the emotion.
            kinds: some of head, neuron, attn, mlp.

        Raises:
            PromptError: not one of the six emotions.
            RunError: the file is missing or damaged.
        """
        wanted = [("emotion", "==", str(emotion(name))), ("kind", "in", list(kinds)), ("method", "in", list(_METHODS))]
        table = files.read_rows(self.table_path, COLUMNS, wanted)
        exact = table["method"] == _METHODS[0]
        table = table[exact | ~table["component"].isin(table["component"][exact])]
        order = np.lexsort((table["index"], table["kind"], table["layer"], -table["effect"].abs()))
        return table.iloc[order[:most]].reset_index(drop=True)

    def of_component(self, name: str) -> NDArray[np.float32]:
        """Effects of one component ``[prompt, emotion]`` [logits] on ``select`` and ``test``; no others are read.

        Raises:
            ComponentError: the run has no per-prompt effects of it.
            RunError: the file is missing, damaged, or holds something that is no number.
        """
        place = self._places.get(name)
        if place is None:
            raise ComponentError(
                f"the run has no effects of {name[:40]!r} by prompt; expected one of its {len(self._places):,} components"
            )
        values: NDArray[np.float32] = files.read_slice(self.path, "values", place)
        if values.dtype != np.float32:
            raise RunError(f"{self.path} holds values of type {values.dtype}; expected float32")
        if not np.isfinite(values).all():
            prompt, column = np.argwhere(~np.isfinite(values))[0]
            raise RunError(
                f"{self.path}: the effect of {name} on prompt {self.prompt_ids[prompt]!r} ({EMOTIONS[column]}) is "
                f"{values[prompt, column]}; the run was not made by this package"
            )
        return values

    @property
    def values(self) -> NDArray[np.float32]:
        """``[component, prompt, emotion]`` [logits] on ``select`` and ``test``; all of it is read and kept.

        Half-layers and heads are exact, neurons by their best method.
        """
        return self._stored[0]["values"]

    @property
    def components(self) -> tuple[str, ...]:
        return self._axes[0]

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        return self._axes[1]

    @cached_property
    def _stored(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return files.read_tensors(self.path)

    @cached_property
    def _header(self) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
        return files.read_tensor_header(self.path)

    @cached_property
    def _axes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names along the first two axes of the values."""
        axes = []
        for name in ("components", "prompts"):
            found = self._header[0].get(name)
            if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
                raise RunError(f"{self.path} names no {name}; the run was not made by this package")
            axes.append(tuple(found))
        return axes[0], axes[1]

    @cached_property
    def _places(self) -> dict[str, int]:
        """Where each component's values lie.

        Raises:
            RunError: the names are not one to a place.
        """
        expected = (len(self.components), len(self.prompt_ids), len(EMOTIONS))
        found = self._header[1].get("values")
        places = {name: place for place, name in enumerate(self.components)}
        if found != expected or len(places) != expected[0]:
            raise RunError(
                f"{self.path} holds values of shape {found}; its names, {len(places):,} different ones, make {expected}: "
                "the run was not made by this package"
            )
        return places
