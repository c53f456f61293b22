"""Every way to find a circuit, by name."""

from __future__ import annotations

from collections.abc import Mapping

from circuits.circuit.conditional import Conditional
from circuits.circuit.discovery import Discovery, Random, Ranked
from circuits.circuit.edgemethods import EdgePruning, TopEdges
from circuits.effects.edges import Along
from circuits.effects.kinds import Method

__all__ = ["DEFAULT", "METHODS"]

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
