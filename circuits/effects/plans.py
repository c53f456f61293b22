"""What measuring would cost, for a model that need not be there: its shape, the texts, this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch

from circuits import shipped
from circuits.effects.ablation import batches
from circuits.effects.batch import Plan, texts_in, token_budget
from circuits.effects.calibration import Item, calibrated, price_list
from circuits.effects.chunks import chunk_for
from circuits.effects.kinds import Ablation, Positions
from circuits.effects.price import Dims, Texts
from circuits.errors import SettingsError
from circuits.model.anatomy import Model
from circuits.model.door import EMBEDDED, device_named
from circuits.model.sizes import SHAPES, sizes_of, token_counts
from circuits.prompts.datasets import Prompts, read_prompts

__all__ = ["Priced", "planned", "seconds_for"]

_TEXTS = re.compile(r"(\d{1,6})x(\d{1,5})")
_DEFAULT = "24x20"


@dataclass(frozen=True)
class Priced:
    """A price list and what it is for.

    Attributes:
        rate: operations a second, measured.
        items: by positions.
    """

    name: str
    dims: Dims
    texts: Texts
    what: str
    device: str
    rate: float
    items: dict[Positions, list[Item]]


def planned(model: str, prompts: str | None, texts: str | None, device: str = "auto") -> Priced:
    """The price list of a shape or model directory on prompts, or on so many texts of so many tokens (``"24x20"``).

    Raises:
        ModelLoadError, UnsupportedModelError: no such model or shape.
        PromptError: no such prompts.
        SettingsError: texts that are no number x number.
    """
    place = str(shipped.path("embedded")) if model == EMBEDDED else model
    dims = Dims.of(sizes_of(place))
    target = device_named(device)
    budget = token_budget(dims.d_model, dims.d_mlp, target)
    if texts is None and (prompts is None or model in SHAPES):
        texts = _DEFAULT
    if texts is not None:
        match = _TEXTS.fullmatch(texts)
        if match is None or "0" in match.groups():
            raise SettingsError(f"texts are {texts!r}; expected how many and how long, such as {_DEFAULT}")
        counted, what = (
            Texts.alike(int(match[1]), int(match[2]), budget=budget),
            f"{match[1]} texts of {match[2]} tokens",
        )
    else:
        rows = read_prompts(str(prompts))
        lengths = np.array(token_counts(place, rows.texts))
        counted, what = texts_in(batches(rows, lengths, budget), lengths), f"{rows.name}, {len(rows)} texts"
    rate = calibrated(dims, counted, target)
    threads = torch.get_num_threads() if target.type == "cpu" else 1
    items = {}
    for positions in Positions:
        tokens = max(n * (w if positions is Positions.ALL else 1) for n, w in counted.batches)
        chunk = threads * chunk_for(dims.d_model, dims.d_mlp, tokens, target)
        items[positions] = price_list(dims, counted, rate, positions, chunk=chunk)
    return Priced(model, dims, counted, what, str(target), rate, items)


def seconds_for(model: Model, prompts: Prompts, operations: int) -> float:
    """What so many operations will take on a loaded model, by one second of calibration."""
    texts = Plan.of(model, prompts, Ablation.ZERO).texts()
    return operations / calibrated(Dims.of(model), texts, model.device)
