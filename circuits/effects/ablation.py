"""What a component's activation is replaced by when it is ablated (SCIENCE section 5).

Replacement values live in three position classes, each with its own mean: the first token (an attention sink), the
read-out token, and the rest, because texts of a scenario differ in length. Padding never counts. The same values play
the part of the corrupt run in gradient and edge scores, so that every estimator answers the same question.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.kinds import Ablation
from circuits.errors import MeasurementError
from circuits.model.anatomy import Tokens
from circuits.model.running import Streams
from circuits.model.sites import Kind
from circuits.prompts.datasets import Prompts
from circuits.prompts.emotions import EMOTIONS

__all__ = ["DatasetMeans", "batches", "replaced_embedding", "replacement", "require_complete"]


_FIRST, _REST, _READOUT = 0, 1, 2
_KINDS = (Kind.HEAD, Kind.NEURON, Kind.ATTN, Kind.MLP)


def _class_means(tensor: Float[Tensor, "prompt pos *site"], tokens: Tokens) -> Float[Tensor, "prompt 3 *site"]:
    """Each text's own mean in each position class; NaN where a text has no token of the class."""
    means = []
    for place in (_FIRST, _REST, _READOUT):
        weight = (tokens.place == place).to(tensor)
        total = torch.einsum("bp,bp...->b...", weight, tensor)
        count = weight.sum(1).reshape(-1, *[1] * (total.dim() - 1))
        means.append(torch.where(count > 0, total / count.clamp_min(1), torch.nan))
    return torch.stack(means, 1)


@dataclass
class DatasetMeans:
    """Mean over all texts of each text's class means; filled batch by batch, then used by ``Ablation.MEAN``."""

    totals: dict[Kind, list[Tensor]]
    counts: Float[Tensor, " 3"]

    @classmethod
    def over(cls, batches: Iterable[tuple[Streams, Tokens]]) -> DatasetMeans:
        """Accumulate over clean runs."""
        result: DatasetMeans | None = None
        for streams, tokens in batches:
            totals = {}
            for kind in _KINDS:
                totals[kind] = [_class_means(t, tokens).nan_to_num().sum(0) for t in streams.of(kind)]
            present = torch.stack([(tokens.place == place).any(1).sum() for place in (_FIRST, _REST, _READOUT)])
            if result is None:
                result = cls(totals, present.to(totals[Kind.MLP][0]))
            else:
                result.counts += present.to(result.counts)
                for kind in _KINDS:
                    for layer, total in enumerate(totals[kind]):
                        result.totals[kind][layer] += total
        if result is None:
            raise MeasurementError("the mean of no prompts was asked for; expected at least one prompt")
        return result

    def of(self, kind: Kind, layer: int) -> Float[Tensor, "3 *site"]:
        total = self.totals[kind][layer]
        return total / self.counts.to(total.device).clamp_min(1).reshape(-1, *[1] * (total.dim() - 1))


def replacement(
    streams: Streams,
    tokens: Tokens,
    prompts: Prompts,
    ablation: Ablation,
    means: DatasetMeans | None = None,
) -> Streams:
    """Replacement values for every place that writes, in the shape of ``streams``.

    ``prompts`` are the rows of this batch, whole groups (scenario and valence) together; ``means`` is needed for
    ``Ablation.MEAN`` alone. Padding keeps its own value.

    Raises:
        MeasurementError: a group lacks an emotion although the ablation compares inside groups.
    """
    if ablation is Ablation.ZERO:
        return streams.map(torch.zeros_like)
    if ablation is Ablation.MEAN:
        if means is None:
            raise MeasurementError("mean ablation needs the data set's means; measure with circuits.measure")
        return Streams(
            *(
                tuple(
                    _spread(
                        means.of(kind, layer).expand(len(tokens), *means.of(kind, layer).shape), t, tokens.on(t.device)
                    )
                    for layer, t in enumerate(streams.of(kind))
                )
                for kind in _KINDS
            )
        )
    require_complete(prompts)
    groups = torch.tensor(prompts.groups, device=tokens.ids.device)
    if ablation is Ablation.MEAN_SCENARIO:
        alike = _begin_alike(tokens, groups)

        def mean(t: Tensor) -> Tensor:
            there, place = tokens.on(t.device), groups.to(t.device)
            return _kept_first(_spread(_group_means(_class_means(t, there), place), t, there), t, alike.to(t.device))

        return streams.map(mean)
    partners = torch.tensor(_partners(prompts), device=tokens.ids.device)
    return streams.map(lambda t: _resampled(t, tokens.on(t.device), groups.to(t.device), partners.to(t.device)))


def _begin_alike(tokens: Tokens, groups: Tensor) -> Tensor:
    """Which texts ``[prompt]`` begin with the same token as all others of their group, and go on after it."""
    first = tokens.ids[:, 0]
    lead = torch.zeros(int(groups.max()) + 1, dtype=first.dtype, device=first.device)
    lead[groups] = first
    other = torch.zeros_like(lead, dtype=torch.bool)
    other[groups[(first != lead[groups]) | (tokens.last == 0)]] = True
    return ~other[groups]


def _kept_first(replaced: Tensor, clean: Tensor, alike: Tensor) -> Tensor:
    """A first token sees only itself, so where all texts begin alike its mean is itself: exactly, not up to rounding."""
    replaced[alike, 0] = clean[alike, 0]
    return replaced


def replaced_embedding(
    embed: Float[Tensor, "prompt pos d_model"], tokens: Tokens, prompts: Prompts, ablation: Ablation
) -> Float[Tensor, "prompt pos d_model"]:
    """What stands for the embedding in edge scores: compared inside groups, as nothing else of a text is shared.

    ``mean`` takes the group's mean as well: the data set's mean embedding would mix unrelated words.
    """
    if ablation is Ablation.ZERO:
        return torch.zeros_like(embed)
    if ablation is not Ablation.MEAN:
        require_complete(prompts)
    groups = torch.tensor(prompts.groups, device=embed.device)
    if ablation is Ablation.RESAMPLE:
        partners = torch.tensor(_partners(prompts), device=embed.device)
        return _resampled(embed, tokens, groups, partners)
    return _spread(_group_means(_class_means(embed, tokens), groups), embed, tokens)


def _spread(
    values: Float[Tensor, "prompt 3 *site"], tensor: Float[Tensor, "prompt pos *site"], tokens: Tokens
) -> Float[Tensor, "prompt pos *site"]:
    """Class means put back at every position of their class."""
    place = tokens.place.clamp_min(0)
    rows = torch.arange(len(tokens), device=place.device)[:, None]
    real = (tokens.mask == 1).reshape(*place.shape, *[1] * (tensor.dim() - 2))
    return torch.where(real, values[rows, place], tensor)


def _group_means(values: Float[Tensor, "prompt 3 *site"], groups: Tensor) -> Float[Tensor, "prompt 3 *site"]:
    """Mean over the rows of each prompt's group that have the class at all."""
    present = (~values.isnan()).to(values)
    total = torch.zeros(int(groups.max()) + 1, *values.shape[1:], device=values.device, dtype=values.dtype)
    count = torch.zeros_like(total)
    total.index_add_(0, groups, values.nan_to_num())
    count.index_add_(0, groups, present)
    return (total / count.clamp_min(1))[groups]


def _partners(prompts: Prompts) -> list[int]:
    """For every row another row of its group: emotions shifted cyclically, by 1 to 5 in turn from group to group.

    A fixed rule instead of a draw: every ordered pair of emotions occurs about equally often, and the result does not
    depend on how prompts were batched.
    """
    by_group: dict[tuple[str, str], dict[int, int]] = {}
    for row, prompt in enumerate(prompts.rows):
        by_group.setdefault(prompt.group, {}).setdefault(prompt.emotion.column, row)
    partners = []
    for prompt in prompts.rows:
        name = "\n".join(prompt.group).encode("utf-8", "surrogatepass")
        shift = 1 + sum(name) % (len(EMOTIONS) - 1)
        partners.append(by_group[prompt.group][(prompt.emotion.column + shift) % len(EMOTIONS)])
    return partners


def _resampled(
    tensor: Float[Tensor, "prompt pos *site"], tokens: Tokens, groups: Tensor, partners: Tensor
) -> Float[Tensor, "prompt pos *site"]:
    fallback = _spread(_group_means(_class_means(tensor, tokens), groups), tensor, tokens)
    positions = torch.arange(tensor.shape[1], device=tensor.device)[None]
    source = tokens.last[partners][:, None] - (tokens.last[:, None] - positions)
    # The first token stands for the first token, unless it is the read-out of a one-token text.
    first = (positions == 0) & (tokens.last[:, None] > 0)
    source = torch.where(first, 0, source)
    usable = (tokens.mask == 1) & (first | (positions == tokens.last[:, None]) | (source >= 1))
    # At padding the source may lie beyond either end; what is taken there is masked below.
    taken = tensor[partners[:, None], source.clamp(0, tensor.shape[1] - 1)]
    shape = (*usable.shape, *[1] * (tensor.dim() - 2))
    return torch.where(usable.reshape(shape), taken, fallback)


def require_complete(prompts: Prompts) -> None:
    """Raise MeasurementError unless every group has all six emotions."""
    found: dict[tuple[str, str], set[int]] = {}
    for row in prompts.rows:
        found.setdefault(row.group, set()).add(row.emotion.column)
    for (scenario, _), columns in found.items():
        if len(columns) < len(EMOTIONS):
            missing = ", ".join(e for e in EMOTIONS if e.column not in columns)
            raise MeasurementError(
                f"scenario {scenario!r} lacks {missing}; comparing inside scenarios needs all six: "
                "complete the scenario, drop it, or use ablation='mean' or 'zero'"
            )


def batches(prompts: Prompts, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Row numbers in batches of whole groups, each at most ``budget`` padded tokens (one group may exceed it).

    Groups of like length go together: padding is computed like text, and a long group would pad a whole batch of short ones.
    """
    order: dict[int, list[int]] = {}
    for row, group in enumerate(prompts.groups):
        order.setdefault(int(group), []).append(row)
    result: list[list[int]] = []
    width = 0
    for rows in sorted(order.values(), key=lambda rows: int(lengths[rows].max())):
        longest = int(lengths[rows].max())
        if result and max(width, longest) * (len(result[-1]) + len(rows)) <= budget:
            result[-1].extend(rows)
            width = max(width, longest)
        else:
            result.append(list(rows))
            width = longest
    return [np.array(rows) for rows in result]
