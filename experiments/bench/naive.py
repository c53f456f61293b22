"""The naive way, one hooked forward a component, and what TransformerLens itself offers for the same question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from circuits.effects.batch import Batch
from circuits.effects.kinds import Positions
from circuits.model.sites import Component, Kind
from circuits.prompts.emotions import EMOTIONS

__all__ = ["attribution_tool", "hooked", "patching_tool", "zeroed_heads"]

_PLACE = {Kind.HEAD: "attn.hook_z", Kind.NEURON: "mlp.hook_post"}


def _metrics(batch: Batch, logits: Tensor) -> Tensor:
    rows = torch.arange(len(logits))
    answers = batch.readout.answers
    contrast = torch.tensor(answers.contrast(), dtype=logits.dtype)
    return logits[rows, batch.tokens.last][:, list(answers.columns)] @ contrast


@torch.no_grad()
def hooked(batch: Batch, components: Sequence[Component], positions: Positions) -> Tensor:
    """Effects [component, prompt, emotion] by one hooked forward each; the clean run is given."""
    ids, mask = batch.tokens.ids, batch.tokens.mask
    rows = torch.arange(len(ids))

    def ablated(component: Component) -> Tensor:
        new = batch.replaced.of(component.kind)[component.layer][:, :, component.index]

        def edit(tensor: Tensor, hook: Any) -> Tensor:
            tensor = tensor.clone()
            if positions is Positions.ALL:
                tensor[:, :, component.index] = new
            else:
                last = batch.tokens.last
                tensor[rows, last, component.index] = new[rows, last]
            return tensor

        place = f"blocks.{component.layer}.{_PLACE[component.kind]}"
        return _metrics(batch, batch.model.bridge.run_with_hooks(ids, attention_mask=mask, fwd_hooks=[(place, edit)]))

    return torch.stack([batch.clean - ablated(component) for component in components])


@torch.no_grad()
def patching_tool(batch: Batch) -> Tensor:
    """``transformer_lens.patching``: every head replaced at every token, all six metrics, ``[layer, head, emotion]``."""
    from transformer_lens import patching

    model = batch.model
    cache = {f"blocks.{layer}.attn.hook_z": z for layer, z in enumerate(batch.replaced.z)}

    def metric(column: int) -> Any:
        return lambda logits: _metrics(batch, logits)[:, column].mean()

    metrics = {str(e): metric(e.column) for e in EMOTIONS}
    found = patching.get_act_patch_attn_head_out_all_pos(model.bridge, batch.tokens.ids, cache, metrics)
    values = found.values if hasattr(found, "values") else found
    return batch.clean.mean(0) - torch.as_tensor(values).reshape(len(EMOTIONS), model.n_layers, model.n_heads).permute(
        1, 2, 0
    )


def attribution_tool(batch: Batch, column: int) -> None:
    """``transformer_lens.tools.analysis.attribution_patching``: nodes by first order, one metric, text by text."""
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    ids, columns = batch.tokens.ids, list(batch.readout.answers.columns)
    contrast = torch.tensor(batch.readout.answers.contrast(), dtype=batch.model.dtype)[:, column]
    attribution_patch(batch.model.bridge, ids, ids.roll(1, 0), lambda logits: logits[0, -1, columns] @ contrast)


@torch.no_grad()
def zeroed_heads(batch: Batch, vectors: Tensor) -> Tensor:
    """Wang's head importance, one forward a head and one without: drops of the MLP's input along ``vectors`` [layer, d_model].

    ``[prompt, layer, head]``, read at the head's own layer and the read-out token.
    """
    ids, mask, model = batch.tokens.ids, batch.tokens.mask, batch.model

    def projections(layer: int, index: int | None) -> list[Tensor]:
        """Of all layers without a head gone, of the head's layer otherwise."""
        found: dict[int, Tensor] = {}

        def keep(here: int) -> Any:
            def hook(tensor: Tensor, hook: Any) -> None:
                found[here] = batch.tokens.at_readout(tensor) @ vectors[here]

            return hook

        def gone(tensor: Tensor, hook: Any) -> Tensor:
            tensor = tensor.clone()
            tensor[:, :, index] = 0
            return tensor

        layers = range(model.n_layers) if index is None else (layer,)
        hooks = [(f"blocks.{here}.mlp.hook_in", keep(here)) for here in layers]
        hooks += [] if index is None else [(f"blocks.{layer}.attn.hook_z", gone)]
        model.bridge.run_with_hooks(ids, attention_mask=mask, fwd_hooks=hooks)
        return [found[here] for here in layers]

    clean = projections(0, None)
    drops = [[clean[layer] - projections(layer, i)[0] for i in range(model.n_heads)] for layer in range(model.n_layers)]
    return torch.stack([torch.stack(some, 1) for some in drops], 1)
