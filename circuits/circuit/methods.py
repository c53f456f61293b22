"""Every way to find a circuit, by name."""

from __future__ import annotations

from collections.abc import Mapping

from circuits.circuit.conditional import Conditional
from circuits.circuit.discovery import Discovery, Random, Ranked
from circuits.circuit.edgemethods import EdgePruning, TopEdges
from circuits.effects.edges import Along
from circuits.effects.kinds import Method
from circuits.errors import SettingsError

__all__ = ["DEFAULT", "METHODS", "method"]

_ALL: tuple[Discovery, ...] = (
    Conditional(),
    Ranked("top_n", None),
    Ranked("single_ablation", Method.EXACT, tested=False),
    Ranked("atp", Method.GRADIENT),
    Ranked("ig_inputs", Method.IG_INPUTS),
    Ranked("ig_activations", Method.IG_ACTIVATIONS),
    Ranked("direct", Method.DIRECT),
    EdgePruning(),
    TopEdges("eap"),
    TopEdges("eap_ig_inputs", steps=5),
    TopEdges("eap_ig_activations", steps=5, along=Along.ACTIVATIONS),
    Random(),
)

METHODS: Mapping[str, Discovery] = {method.name: method for method in _ALL}
"""``conditional`` is the default; ``top_n`` is the plain greedy one; ``edge_pruning`` and the ``eap``
baselines choose edges; the rest are baselines by nodes."""

DEFAULT = "conditional"


def method(name: str, *, patience: int | None = None) -> Discovery:
    """A method by name; ``patience`` is for the default one (:class:`~circuits.circuit.conditional.Conditional`).

    Raises:
        SettingsError: no such method, or patience for one that has none.
    """
    if name not in METHODS:
        raise SettingsError(f"method is {name!r}; expected one of {', '.join(METHODS)}")
    if patience is None:
        return METHODS[name]
    if name != DEFAULT:
        raise SettingsError(f"patience is {patience}, but {name} does not search; expected it with {DEFAULT} alone")
    return Conditional(patience=patience)
