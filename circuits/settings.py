"""What a walk may be told, with defaults that suit a small model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from circuits.effects.kinds import Ablation, Positions, member
from circuits.errors import SettingsError

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Settings of :func:`circuits.discover`.

    Attributes:
        ablation: what an ablated activation is replaced by.
        positions: where it is replaced.
        verify: neurons measured exactly per emotion at least, the strongest by gradient on ``fit``; more where the list of the
            strongest is not stable yet.
        audit: neurons of the rest measured exactly as well, to bound how many were missed.
        target: faithfulness on ``select`` a circuit must reach; the smallest such circuit is chosen.
        alpha: largest q-value (false discovery rate) of a component that may join a circuit.
        method: how circuits are found, one of :data:`circuits.circuit.methods.METHODS`.
        patience: how long the default method may search, in multiples of measuring every component tried once; None: a few
            seconds' worth of arithmetic an emotion on a small processor.
        random_circuits: size- and layer-matched random circuits each circuit is judged beside.
        thorough: also measure completeness and minimality, and give every figure its full number of random circuits.
        edge_share: smallest edge kept, as a share of the strongest edge into the same node.
        seed: of the random circuits (bootstraps and permutations have fixed seeds of their own).

    Raises:
        SettingsError: a value outside its range.
    """

    ablation: Ablation = Ablation.MEAN_SCENARIO
    positions: Positions = Positions.ALL
    verify: int = 32
    audit: int = 64
    target: float = 0.8
    alpha: float = 0.05
    method: str = "conditional"
    patience: int | None = None
    random_circuits: int = 100
    thorough: bool = False
    edge_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ablation", member(Ablation, self.ablation))
        object.__setattr__(self, "positions", member(Positions, self.positions))
        ranges = {
            "verify": (0, 10**9), "audit": (0, 10**9), "target": (0.01, 2.0), "alpha": (0.0, 1.0),
            "random_circuits": (1, 10**6), "patience": (1, 10**6), "edge_share": (0.0, 1.0), "seed": (0, 2**32 - 1),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if name == "patience" and value is None:
                continue
            whole = isinstance(high, int)
            if (
                isinstance(value, bool)
                or not isinstance(value, int if whole else int | float)
                or not low <= value <= high
            ):
                kind_of = "a whole number" if whole else "a number"
                raise SettingsError(f"{name} is {value!r}; expected {kind_of} from {low} to {high}")

        if not isinstance(self.thorough, bool):
            raise SettingsError(f"thorough is {self.thorough!r}; expected True or False")
        if not isinstance(self.method, str):
            raise SettingsError(f"method is {self.method!r}; expected the name of one")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests and fingerprints."""
        return {k: str(v) if isinstance(v, str) else v for k, v in asdict(self).items()}
