"""The definitions of SCIENCE section 5 as loops: one hooked forward a component, nothing clever, nothing shared.

Only the bridge and the tokenizer of the model under test are used; positions, replacement values, metric and effects are
written out here once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from circuits.effects.kinds import Ablation, Positions
from circuits.model.anatomy import Model
from circuits.model.sites import Component, Half, Kind
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

Edit = Callable[[Tensor], Tensor]

PLACE = {
    Kind.HEAD: "attn.hook_z",
    Kind.NEURON: "mlp.hook_post",
    Kind.ATTN: "hook_attn_out",
    Kind.MLP: "hook_mlp_out",
}


def place_of(component: Component) -> str:
    return f"blocks.{component.layer}.{PLACE[component.kind]}"


def part_of(component: Component) -> tuple:
    """Index of the component's own part of the activation at its place."""
    if component.kind in (Kind.HEAD, Kind.NEURON):
        return (slice(None), slice(None), component.index)
    return (slice(None), slice(None))


class Naive:
    """Prompts on a model, measured the slow way. Every emotion's answer must be one single-token word or several."""

    def __init__(self, model: Model, prompts: Prompts) -> None:
        self.model, self.prompts = model, prompts
        texts = [model.tokenizer(text)["input_ids"] for text in prompts.texts]
        self.last = [len(text) - 1 for text in texts]
        width = max(self.last) + 1
        self.ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
        self.mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
        self.answers = [[model.tokenizer.convert_tokens_to_ids(w) for w in prompts.answers[e]] for e in EMOTIONS]
        self._seen: dict[str, Tensor] = {}
        self._replaced: dict[tuple[str, Ablation], Tensor] = {}
        self._clean: Tensor | None = None

    # -- running ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def run(self, edits: Mapping[str, Edit] | None = None, *, see: tuple[str, ...] = ()) -> tuple[Tensor, dict]:
        """Full logits under ``edits`` (hook name to function), and the activations at the places in ``see``."""
        seen: dict[str, Tensor] = {}

        def keep(tensor: Tensor, hook: object, name: str) -> None:
            seen[name] = tensor.clone()

        def change(tensor: Tensor, hook: object, edit: Edit) -> Tensor:
            return edit(tensor)

        hooks = [(name, partial(change, edit=edit)) for name, edit in (edits or {}).items()]
        hooks += [(name, partial(keep, name=name)) for name in see]
        logits = self.model.bridge.run_with_hooks(self.ids, attention_mask=self.mask, fwd_hooks=hooks)
        return logits, seen

    def seen(self, place: str) -> Tensor:
        """The clean activation at a place."""
        if place not in self._seen:
            self._seen |= self.run(see=(place,))[1]
        return self._seen[place]

    def metric(self, edits: Mapping[str, Edit] | None = None) -> Tensor:
        """Logit difference [prompt, emotion] in float64, from the full logits, by loops."""
        logits = self.run(edits)[0].double()
        result = []
        for row, last in enumerate(self.last):
            values = logits[row, last].tolist()
            means = [sum(values[i] for i in ids) / len(ids) for ids in self.answers]
            result.append([means[e] - sum(means[other] for other in range(6) if other != e) / 5 for e in range(6)])
        return torch.tensor(result, dtype=torch.float64)

    @property
    def clean(self) -> Tensor:
        if self._clean is None:
            self._clean = self.metric()
        return self._clean

    # -- replacement values ----------------------------------------------------------------------------------------

    def rows_of(self, row: int) -> list[int]:
        """The rows of the same scenario at the same valence."""
        group = (self.prompts.rows[row].scenario, self.prompts.rows[row].valence)
        return [i for i, p in enumerate(self.prompts.rows) if (p.scenario, p.valence) == group]

    def partner(self, row: int) -> int:
        """The row a ``resample`` takes from: emotions shifted by 1 + (sum of the group's bytes mod 5)."""
        prompt = self.prompts.rows[row]
        shift = 1 + sum(f"{prompt.scenario}\n{prompt.valence}".encode()) % 5
        wanted = EMOTIONS[(EMOTIONS.index(prompt.emotion) + shift) % 6]
        return next(i for i in self.rows_of(row) if self.prompts.rows[i].emotion is wanted)

    def class_mean(self, values: Tensor, rows: list[int], row: int, pos: int) -> Tensor:
        """Mean over ``rows`` in the position class that ``pos`` has in ``row``."""
        if pos == self.last[row]:
            found = [values[i, self.last[i]] for i in rows]
        elif pos == 0:
            found = [values[i, 0] for i in rows if self.last[i] > 0]
        else:
            found = [values[i, 1 : self.last[i]].mean(0) for i in rows if self.last[i] > 1]
        return torch.stack(found).mean(0)

    def replaced(self, place: str, ablation: Ablation) -> Tensor:
        """What the activation at ``place`` becomes, at every real token."""
        key = (place, ablation)
        if key not in self._replaced:
            self._replaced[key] = self._replacement(self.seen(place), ablation)
        return self._replaced[key]

    def _replacement(self, values: Tensor, ablation: Ablation) -> Tensor:
        result = values.clone()
        everyone = list(range(len(self.last)))
        for row, last in enumerate(self.last):
            own = self.rows_of(row)
            for pos in range(last + 1):
                if ablation is Ablation.ZERO:
                    result[row, pos] = 0
                elif ablation is Ablation.MEAN:
                    result[row, pos] = self.class_mean(values, everyone, row, pos)
                elif ablation is Ablation.MEAN_SCENARIO:
                    result[row, pos] = self.class_mean(values, own, row, pos)
                else:
                    other = self.partner(row)
                    source = self.last[other] - (last - pos)
                    if pos == 0 < last:
                        source = 0
                    if pos == 0 or source >= 1:
                        result[row, pos] = values[other, source]
                    else:
                        result[row, pos] = self.class_mean(values, own, row, pos)
        return result

    def where(self, positions: Positions) -> Tensor:
        """[prompt, pos]: True where an ablation applies."""
        result = torch.zeros_like(self.ids, dtype=torch.bool)
        for row, last in enumerate(self.last):
            for pos in range(last + 1) if positions is Positions.ALL else [last]:
                result[row, pos] = True
        return result

    # -- effects ---------------------------------------------------------------------------------------------------

    def ablation(
        self, component: Component, ablation: Ablation, positions: Positions = Positions.ALL, *, share: float = 1.0
    ) -> Edit:
        """The edit that moves a component ``share`` of the way from its clean to its replaced activation."""
        place, part = place_of(component), part_of(component)
        clean, replaced = self.seen(place)[part], self.replaced(place, ablation)[part]
        new = replaced if share == 1 else clean + share * (replaced - clean)
        where = self.where(positions)

        def edit(tensor: Tensor) -> Tensor:
            tensor = tensor.clone()
            part_of_it = tensor[part].clone()
            part_of_it[where] = new[where]
            tensor[part] = part_of_it
            return tensor

        return edit

    def effect(
        self, component: Component, ablation: Ablation, positions: Positions = Positions.ALL, *, share: float = 1.0
    ) -> Tensor:
        """``metric(clean) - metric(ablated)`` [prompt, emotion] of one component, by one forward."""
        edit = self.ablation(component, ablation, positions, share=share)
        return self.clean - self.metric({place_of(component): edit})

    def effects(self, components: tuple[Component, ...], ablation: Ablation, positions: Positions) -> Tensor:
        return torch.stack([self.effect(c, ablation, positions) for c in components])

    def written(self, component: Component, ablation: Ablation, positions: Positions = Positions.ALL) -> Tensor:
        """What the stream loses when the component alone is replaced, post-norms frozen [prompt, pos, d_model].

        Found by running the half-layer with the component replaced and looking at the sum before any post-norm: no
        weight matrix is read.
        """
        block, half = f"blocks.{component.layer}", "attn" if component.half is Half.ATTN else "mlp"
        out = f"{block}.hook_{half}_out"
        norm = f"{block}.{'ln1_post' if half == 'attn' else 'ln2_post'}.hook_in"
        edit = self.ablation(component, ablation, positions)
        if component.kind in (Kind.ATTN, Kind.MLP) or not self.model.capabilities.post_norms:
            ablated = self.run({place_of(component): edit}, see=(out,))[1][out]
            return self.seen(out) - (edit(self.seen(out)) if component.index < 0 else ablated)
        ablated = self.run({place_of(component): edit}, see=(norm,))[1][norm]
        return (self.seen(norm) - ablated) * (self.seen(out) / self.seen(norm))
