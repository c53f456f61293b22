"""One measurement as a list of shards: independent pieces, each with its price and a key that names all it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.effects.batch import Batch, Plan
from circuits.effects.direct import Direct
from circuits.effects.exact import Exact
from circuits.effects.gradient import Place, Scores, first_order, integrated_activations, integrated_inputs
from circuits.effects.kinds import Arithmetic, Method, Positions
from circuits.effects.price import Dims, groups
from circuits.effects.table import require_finite
from circuits.errors import MeasurementError
from circuits.model.anatomy import Model
from circuits.model.machine import precision
from circuits.model.sites import Component
from circuits.model.ways import ways
from circuits.prompts.emotions import EMOTIONS
from circuits.versions import code, versions

__all__ = ["SAMPLED", "Shard", "Task", "as_numpy", "measured_with"]

_SHARD = {"cpu": 2 * 10**11, "cuda": 2 * 10**13}
"""Operations a shard is worth, at most: seconds of work, which is what a kill can cost."""

SAMPLED = 6
"""Components a shard on which half precision is held against float32."""


@dataclass(frozen=True)
class Shard:
    """Places of some components in the list asked for, the rows of one batch, and what it costs in operations."""

    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    price: int


class Task:
    """One measurement, cut into shards."""

    def __init__(
        self,
        plan: Plan,
        wanted: tuple[Component, ...],
        method: Method,
        positions: Positions,
        steps: int,
        *,
        narrow: bool = False,
    ) -> None:
        self.plan = plan
        self.wanted = wanted
        self.method = method
        self.positions = positions
        self.steps = steps
        self.notices: list[str] = []
        self.errors: list[NDArray[np.float32]] = []
        self._arithmetic = Arithmetic.BFLOAT16 if narrow else Arithmetic.FLOAT32
        self._dims = Dims.of(plan.model)
        self._direct: Direct | None = None
        # Upward, so that a shard's components enter at few layers.
        self._order = sorted(range(len(wanted)), key=lambda place: (wanted[place].layer, wanted[place].kind, place))
        integrated = method in (Method.IG_INPUTS, Method.IG_ACTIVATIONS)
        self._about = {
            "what": "effects",
            **measured_with(plan.model),
            "prompts": plan.prompts.fingerprint,
            "answers": {str(e): list(ids) for e, ids in plan.readout.answers.ids.items()},
            "method": str(method),
            "ablation": str(plan.ablation),
            "positions": str(positions),
            "arithmetic": str(self._arithmetic),
            **({"steps": steps} if integrated else {}),
        }

    @property
    def price(self) -> int:
        """Operations in all."""
        return sum(shard.price for rows in self.plan.rows for shard in self.shards(rows))

    def shards(self, rows: NDArray[np.int64]) -> Iterator[Shard]:
        """The shards of one batch."""
        dims, texts = self._dims, self.plan.texts(rows)
        if self.method is Method.EXACT:
            prices = dims.sweep([self.wanted[place] for place in self._order], texts, self.positions)
            for group in groups(prices, _SHARD[self.plan.model.device.type]):
                places = np.array([self._order[i] for i in group])
                yield Shard(places, rows, sum(prices[i] for i in group))
            return
        once, n_places = dims.gradient(texts, len(EMOTIONS)), len({(c.kind, c.layer) for c in self.wanted})
        at_once = {
            Method.DIRECT: dims.forward(texts) + dims.direct(len(self.wanted), texts),
            Method.GRADIENT: once,
            Method.IG_INPUTS: self.steps * once,
            # On the way of an activation the run is resumed at its layer: half of it, on average.
            Method.IG_ACTIVATIONS: self.steps * n_places * once // 2,
        }
        yield Shard(np.arange(len(self.wanted)), rows, at_once[self.method])

    def key(self, shard: Shard) -> dict[str, Any]:
        """Everything the shard's numbers depend on."""
        ids = self.plan.prompts.ids
        return {
            **self._about,
            "rows": [ids[row] for row in shard.rows],
            "components": [self.wanted[place].name for place in shard.places],
        }

    def made(self, shard: Shard, batch: Batch, step: Callable[[int], None]) -> dict[str, NDArray[Any]]:
        """The shard's tensors, measured: ``values`` [component, prompt, emotion] and ``clean`` [prompt, emotion], logits."""
        some = [self.wanted[place] for place in shard.places]
        values = np.zeros((len(some), len(shard.rows), len(EMOTIONS)), dtype=np.float32)
        if self.method is Method.EXACT:

            def take(places: list[int], found: Tensor) -> None:
                values[np.array(places)] = as_numpy(found)
                step(shard.price * len(places) // len(some))

            Exact(batch, self.positions, self._arithmetic).effects(some, take)
        else:
            self._all_at_once(batch, some, values)
            require_finite(values, some, batch.prompts.ids)  # before anyone keeps them
            step(shard.price)
        made: dict[str, NDArray[Any]] = {"values": values, "clean": as_numpy(batch.clean)}
        if self.method is not Method.DIRECT and batch.resume.notice:
            # Kept with the numbers, so that a resumed measurement says what an uninterrupted one does.
            notice = f"measured by replaying the model's own blocks: {batch.resume.notice}"
            made["notice"] = np.frombuffer(notice.encode(), dtype=np.uint8)
        if self._arithmetic is Arithmetic.BFLOAT16:
            made["error"] = self._error(batch, some, values)
        return made

    def _error(self, batch: Batch, some: list[Component], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Root mean square and largest error of a few effects against float32, as shares of the same of the effects."""
        places = np.unique(np.linspace(0, len(some) - 1, SAMPLED).round().astype(int))
        exact = np.zeros((len(places), *values.shape[1:]), dtype=np.float32)

        def take(where: list[int], found: Tensor) -> None:
            exact[np.array(where)] = as_numpy(found)

        Exact(batch, self.positions).effects([some[i] for i in places], take)
        apart, size = values[places] - exact, np.maximum(np.abs(exact).max(), 1e-30)
        rms = np.sqrt((apart**2).mean()) / np.maximum(np.sqrt((exact**2).mean()), 1e-30)
        return np.array([rms, np.abs(apart).max() / size], dtype=np.float32)

    def _all_at_once(self, batch: Batch, some: list[Component], values: NDArray[np.float32]) -> None:
        """Gradient and direct effects come for a whole layer at a time; the wanted ones are picked out."""
        by_place: dict[Place, list[int]] = {}
        for i, component in enumerate(some):
            by_place.setdefault((component.kind, component.layer), []).append(i)
        scores = self._scores(batch, list(by_place))
        for (kind, layer), members in by_place.items():
            values[np.array(members)] = as_numpy(scores[kind, layer])[[max(0, some[i].index) for i in members]]

    def _scores(self, batch: Batch, places: list[Place]) -> Scores:
        match self.method:
            case Method.GRADIENT:
                return first_order(batch, self.positions, places)
            case Method.IG_INPUTS:
                return integrated_inputs(batch, self.positions, places, self.steps)
            case Method.IG_ACTIVATIONS:
                return integrated_activations(batch, self.positions, places, self.steps)
            case _:
                if self._direct is None:
                    self._direct = Direct(self.plan.model, self.plan.readout, places)
                return self._direct.effects(batch)

    def require(self, shard: Shard, found: Mapping[str, NDArray[Any]]) -> None:
        """Raise MeasurementError unless what a store gave back is such a shard."""
        n = (len(shard.rows), len(EMOTIONS))
        for name, shape in (("values", (len(shard.places), *n)), ("clean", n)):
            array = found.get(name)
            if array is None or array.shape != shape or array.dtype != np.float32:
                what = "missing" if array is None else f"{array.dtype} {array.shape}"
                raise MeasurementError(f"a stored shard's {name} are {what}; expected float32 {shape}: delete it")


def measured_with(model: Model) -> dict[str, Any]:
    """What numbers of a model depend on besides the question: weights, arithmetic, libraries, this package's own code."""
    return {
        "model": model.fingerprint,
        "dtype": str(model.dtype),
        "device": model.device.type,
        "way": ways(model).name,
        "products": precision(model.device.type).name,
        "versions": versions(),
        "code": code(),
    }


def as_numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().to(torch.float32).cpu().numpy()
