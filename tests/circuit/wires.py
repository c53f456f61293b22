"""Sets of edges by hooks: one whole forward a reader, in which every sender is set to what this reader sees of it.

No weight is read and no stream is summed up: the model itself makes each reader's stream, norms and all.
"""

from __future__ import annotations

from collections.abc import Collection

import networkx as nx
import torch
from effects.naive import Edit, Naive, place_of
from torch import Tensor

from circuits.effects.kinds import Ablation, Positions
from circuits.model.sites import Component, Half, parse

EMBED_PLACE = "blocks.0.hook_resid_pre"


class Wires:
    """Prompts on a model, run edge set by edge set."""

    def __init__(self, naive: Naive, ablation: Ablation, positions: Positions) -> None:
        self.naive = naive
        places = [
            f"blocks.{layer}.{name}"
            for layer in range(naive.model.n_layers)
            for name in ("attn.hook_z", "mlp.hook_post")
        ]
        where = naive.where(positions)
        self.new: dict[str, Tensor] = {}
        for place in (*places, EMBED_PLACE):
            new = naive.seen(place).clone()
            new[where] = naive.replaced(place, ablation)[where]
            self.new[place] = new

    def metric(self, edges: Collection[tuple[str, str]], e: str) -> Tensor:
        """Logit differences [prompt, emotion] with the edges kept; ``e`` is the name of the read-out."""
        graph = nx.DiGraph(list(edges))
        graph.add_nodes_from(["embed", e])
        live = nx.descendants(graph, "embed") & nx.ancestors(graph, e)
        nodes = sorted(map(parse, live), key=lambda c: (c.layer, c.half is Half.MLP))
        own: dict[Component, Tensor] = {}
        for node in nodes:
            kept: list[Tensor] = []
            edits = self.edits([c for c in own if (c.name, node.name) in edges], own)
            if ("embed", node.name) not in edges:
                edits[EMBED_PLACE] = lambda _: self.new[EMBED_PLACE].clone()
            place = place_of(node)
            edits[place] = _watched(edits[place], kept)
            self.naive.run(edits)
            own[node] = kept[0][:, :, node.index].clone()
        return self.naive.metric(self.edits([c for c in own if (c.name, e) in edges], own))

    def edits(self, senders: list[Component], own: dict[Component, Tensor]) -> dict[str, Edit]:
        """Everything replaced but these senders, which do what they did."""
        result: dict[str, Edit] = {}
        for place, new in self.new.items():
            if place == EMBED_PLACE:
                continue
            value = new.clone()
            for c in senders:
                if place_of(c) == place:
                    value[:, :, c.index] = own[c]
            result[place] = lambda _, value=value: value.clone()
        return result


def _watched(edit: Edit, kept: list[Tensor]) -> Edit:
    def watch(tensor: Tensor) -> Tensor:
        kept.append(tensor.clone())
        return edit(tensor)

    return watch


def random_edges(names: Collection[tuple[str, str]], share: float, seed: int) -> frozenset[tuple[str, str]]:
    """Some of the edges."""
    generator = torch.Generator().manual_seed(seed)
    return frozenset(edge for edge in names if float(torch.rand(1, generator=generator)) < share)
