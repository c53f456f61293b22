"""What differs between two circuits of one emotion, and whether one has moved away from the other.

Jaccard is the share of all nodes that both have; two empty circuits agree. "Moved" asks for more than a difference: it
must also exceed what resampling the same data would bring (the golden circuit's own bootstrap, the intervals of the effects).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from circuits.circuit.graph import Circuit, Edge, Measured, Node, Weighed
from circuits.errors import RunError, SettingsError
from circuits.model.sites import Kind
from circuits.prompts.emotions import Emotion

__all__ = ["Differences", "EdgeChange", "NodeChange", "Sizes", "common", "differences", "moved", "stability_low"]

Sizes = Mapping[str, int]
"""``layers``, ``heads`` and ``neurons`` of a model."""


@dataclass(frozen=True)
class NodeChange:
    """A node of both circuits: its effect [logits] in the reference and in the new one."""

    name: str
    before: Measured
    after: Measured

    @property
    def change(self) -> float:
        return self.after.effect - self.before.effect

    @property
    def apart(self) -> bool:
        """Whether the two intervals have no value in common; where one is missing nothing speaks against it."""
        return not (self.after.low <= self.before.high and self.before.low <= self.after.high)


@dataclass(frozen=True)
class EdgeChange:
    """An edge of both circuits (source, target, input) and its weights [logits]."""

    key: tuple[str, str, str]
    before: Weighed
    after: Weighed


@dataclass(frozen=True)
class Differences:
    """From a reference to a new circuit: what was gained, what was lost, what was kept and how it changed.

    Attributes:
        aside: components left out because the other circuit's model has no such place.
    """

    emotion: Emotion
    gained: tuple[Node, ...]
    lost: tuple[Node, ...]
    kept: tuple[NodeChange, ...]
    edges_gained: tuple[Edge, ...]
    edges_lost: tuple[Edge, ...]
    edges_kept: tuple[EdgeChange, ...]
    aside: tuple[str, ...] = ()

    @property
    def jaccard(self) -> float:
        """Shared nodes / all nodes; 1 for two empty circuits."""
        return _share(len(self.kept), len(self.gained) + len(self.lost))

    @property
    def edge_jaccard(self) -> float:
        """The same for edges."""
        return _share(len(self.edges_kept), len(self.edges_gained) + len(self.edges_lost))

    @property
    def scale(self) -> float:
        """The reference's largest effect, against which changes are held [logits]."""
        effects = [abs(k.before.effect) for k in self.kept] + [abs(n.effect) for n in self.lost]
        return max((e for e in effects if not math.isnan(e)), default=math.nan)

    def relative(self, kept: NodeChange) -> float:
        """A node's change of effect as a share of the reference's largest effect."""
        return abs(kept.change) / self.scale if self.scale else math.nan

    @property
    def same(self) -> bool:
        """Whether nothing differs, to the last digit."""
        gone = (self.gained, self.lost, self.edges_gained, self.edges_lost, self.aside)
        pairs = [*((k.before, k.after) for k in self.kept), *((k.before, k.after) for k in self.edges_kept)]
        return not any(gone) and all(_equal(before, after) for before, after in pairs)


def _share(both: int, one: int) -> float:
    return both / (both + one) if both + one else 1.0


def _equal(a: tuple[object, ...], b: tuple[object, ...]) -> bool:
    return all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True))


def differences(new: Circuit, golden: Circuit) -> Differences:
    """What ``new`` gained, lost and kept of ``golden``.

    Raises:
        RunError: they are of different emotions.
    """
    if new.emotions != golden.emotions:
        raise RunError(
            f"the circuits of {'+'.join(new.emotions)} and {'+'.join(golden.emotions)} cannot be compared; expected one emotion"
        )
    nodes, old_nodes = {n.name: n for n in new.nodes}, {n.name: n for n in golden.nodes}
    edges, old_edges = {e.key: e for e in new.edges}, {e.key: e for e in golden.edges}
    return Differences(
        new.emotion,
        tuple(n for name, n in nodes.items() if name not in old_nodes),
        tuple(n for name, n in old_nodes.items() if name not in nodes),
        tuple(NodeChange(name, n.own, nodes[name].own) for name, n in old_nodes.items() if name in nodes),
        tuple(e for key, e in edges.items() if key not in old_edges),
        tuple(e for key, e in old_edges.items() if key not in edges),
        tuple(EdgeChange(key, e.own, edges[key].own) for key, e in old_edges.items() if key in edges),
    )


def common(new: Circuit, golden: Circuit, sizes: Sizes) -> Differences:
    """:func:`differences` between the parts that lie within ``sizes``, the smaller of two models in each respect."""

    def inside(node: Node) -> bool:
        c = node.component
        most = {Kind.HEAD: sizes["heads"], Kind.NEURON: sizes["neurons"]}.get(c.kind, math.inf)
        return c.layer < sizes["layers"] and c.index < most

    outside = {n.name for n in (*new.nodes, *golden.nodes) if not inside(n)}

    def part(circuit: Circuit) -> Circuit:
        edges = tuple(e for e in circuit.edges if e.source not in outside and e.target not in outside)
        return replace(circuit, nodes=tuple(n for n in circuit.nodes if n.name not in outside), edges=edges)

    return replace(differences(part(new), part(golden)), aside=tuple(sorted(outside)))


def moved(
    found: Differences, golden: Circuit, *, min_jaccard: float | None = None, max_effect_change: float | None = None
) -> tuple[str, ...]:
    """Why the new circuit counts as moved; empty when it does not.

    * Nodes: their Jaccard is below ``min_jaccard`` and, where the golden circuit's judgement has a ``stability`` (Jaccard
      between itself and circuits found on resampled scenarios), also below its lower 2.5% bound.
    * Effects: a kept node's effect changed by more than ``max_effect_change`` of the golden circuit's largest effect, and the
      two 95% intervals have no value in common (where one has no interval, the size alone decides).

    Raises:
        SettingsError: a bound outside its range.
    """
    for name, value, most in (("min_jaccard", min_jaccard, 1.0), ("max_effect_change", max_effect_change, math.inf)):
        if value is not None and not 0 <= value <= most:
            raise SettingsError(f"{name} is {value}; expected a number from 0{' to 1' if most == 1 else ' on'}")
    reasons = []
    low = stability_low(golden)
    if min_jaccard is not None and found.jaccard < min_jaccard and (low is None or found.jaccard < low):
        noise = "" if low is None else f" and the {low:.2f} that resampling explains"
        reasons.append(
            f"{found.emotion}: Jaccard of nodes {found.jaccard:.2f}, below {min_jaccard:g}{noise} "
            f"({len(found.gained)} gained, {len(found.lost)} lost, {len(found.kept)} kept)"
        )
    if max_effect_change is not None:
        far = [k for k in found.kept if found.relative(k) > max_effect_change and k.apart]
        if far:
            worst = max(far, key=found.relative)
            others = f", and {len(far) - 1} more" if len(far) > 1 else ""
            reasons.append(
                f"{found.emotion}: the effect of {worst.name} went from {_interval(worst.before)} to {_interval(worst.after)} "
                f"logits, {found.relative(worst):.0%} of the largest effect, more than {max_effect_change:.0%}{others}"
            )
    return tuple(reasons)


def stability_low(circuit: Circuit) -> float | None:
    """Lower bound of the circuit's Jaccard with itself under resampling, where the judge measured it."""
    stability = circuit.judgement.get("stability")
    low = stability.get("low") if isinstance(stability, Mapping) else None
    return float(low) if isinstance(low, int | float) and not isinstance(low, bool) else None


def _interval(numbers: Measured) -> str:
    return f"{numbers.effect:+.2f} [{numbers.low:+.2f}, {numbers.high:+.2f}]"
