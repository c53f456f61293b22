"""Edges among the nodes of one circuit, to first order.

The input of a head is ``resid_pre`` through the attention half only (its queries, keys and values together), the input of a
neuron ``resid_mid`` through the MLP half only, so skip connections do not leak in. The edge u→read-out is u's direct effect, in
closed form. Definitions and method: :mod:`circuits.effects.edges`.

Reference: Syed et al. 2023 (edge attribution patching); Nanda 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuits.effects.edges import Along, scored_edges
from circuits.effects.losses import EMBED, READOUT, Losses, receivers_in, senders_in
from circuits.effects.own import OwnTexts
from circuits.model.anatomy import Model
from circuits.model.readout import Readout
from circuits.model.sites import Component
from circuits.prompts.emotions import Emotion

__all__ = ["EMBED", "edge_scores"]

Scores = dict[tuple[str, str], np.ndarray]


def edge_scores(
    model: Model,
    readout: Readout,
    texts: Sequence[OwnTexts],
    nodes: Sequence[Component],
    e: Emotion,
    *,
    steps: int = 0,
    along: Along = Along.INPUTS,
) -> Scores:
    """First-order scores [logits] of every possible edge among ``embed``, ``nodes`` and the read-out of ``e``.

    ``nodes`` are heads and neurons, ``texts`` those of emotion ``e`` (:func:`circuits.effects.own.own_texts`). Each value
    has one entry per text, in the order of the texts. ``steps`` and ``along`` as in
    :func:`circuits.effects.edges.gradient_edges`.
    The edge from ``embed`` to the read-out passes no node and is left out.
    """
    senders, receivers = senders_in(model, [EMBED, *nodes]), receivers_in(model, [*nodes, READOUT])
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for piece in texts:
        scores = scored_edges(Losses.of_texts(model, readout, piece), senders, receivers, [e], steps=steps, along=along)
        for source, target in scores:
            if (source, target) != (EMBED, READOUT):
                value = scores[source, target][:, 0]
                parts.setdefault((source, str(e) if target == READOUT else target), []).append(value)
    return {edge: np.concatenate(values) for edge, values in parts.items()}
