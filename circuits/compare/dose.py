"""The reverse: add the direction, or drive the circuit as hard, and see what the six emotions and the language do.

A dose is a share of the stream's own norm at the state: ``h' = h + dose · mean ‖h‖ · v_e`` (Sofroniew et al. 2026 steer in
these units). The circuit is amplified by the same norm: its components write ``1 + factor`` times what they add to their
replacement values, with the factor at which that is ``dose · mean ‖h‖`` of further writing at the state. Random unit vectors
of the same dose are the null.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.circuit.cost import Neutral
from circuits.circuit.estimates import Estimate, estimate
from circuits.circuit.evaluation import Bench
from circuits.compare.steered import Job, amplified, by_scenario, steered
from circuits.compare.table import DOSE_COLUMNS
from circuits.directions.vectors import Directions
from circuits.effects.own import OwnTexts
from circuits.errors import MeasurementError, SettingsError
from circuits.model.anatomy import Tokens
from circuits.model.resuming import Resumer
from circuits.model.running import Hook, Streams, hook_name, record
from circuits.model.sites import Component, Half, Kind, State
from circuits.model.steering import Edits, edit_hooks
from circuits.prompts.emotions import EMOTIONS, Emotion

__all__ = ["DOSES", "Doses", "dose_response"]

Array = NDArray[np.float64]

DOSES = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Doses:
    """What adding does.

    ``table`` has one row per emotion, ``what`` (``direction``, ``circuit``, ``random direction``), ``dose`` (share of the
    stream's norm), ``texts`` (``own``: the emotion's own; ``others``: those of the other five; ``neutral``) and ``read``:

    - an emotion: change of its logit difference [logits];
    - ``selectivity``: change of the added emotion's minus the largest change of another's [logits];
    - ``perplexity``: on neutral texts, as a multiple of the clean model's.

    ``factor`` is what the circuit is amplified by, NaN in other rows. Intervals: 95%, scenarios (or neutral texts) resampled;
    of random directions the 2.5th and 97.5th percentile over directions.
    """

    table: pd.DataFrame
    state: State
    norm: float
    """Mean norm of the state at the read-out token [residual units]."""
    notes: tuple[str, ...]


def dose_response(
    benches: Mapping[Emotion, Bench],
    directions: Directions,
    circuits: Mapping[Emotion, Collection[Component]],
    state: State,
    *,
    doses: Sequence[float] = DOSES,
    neutral: Neutral | None = None,
    emotions: Collection[Emotion] = EMOTIONS,
    count: int = 5,
    seed: int = 0,
) -> Doses:
    """Add the directions of ``emotions`` at ``state`` at every token, and amplify their circuits by the same norm.

    On neutral texts, where a circuit may hardly write, it is amplified by the same factors: what that costs the language is
    what such a factor costs, not what such a norm does.

    Raises:
        DirectionError: directions of another model.
        MeasurementError: no emotion has a direction at the state.
        SettingsError: no dose, one that is not a number above zero, or fewer than one random direction.
    """
    model = next(iter(benches.values())).model
    directions.require(model)
    if not doses or not all(np.isfinite(d) and d > 0 for d in doses):
        raise SettingsError(
            f"doses are {tuple(doses)}; expected shares of the stream's norm above zero, such as {DOSES}"
        )
    if count < 1:
        raise SettingsError(f"the number of random directions is {count}; expected at least 1")
    wanted = [e for e in EMOTIONS if e in emotions]
    some = [e for e in wanted if state in directions.states and directions.defined(state, e)]
    if not some:
        raise MeasurementError(f"no emotion has a direction at {state}; use a later state")
    sizes = [
        _state(resume, state).norm(dim=-1) for bench in benches.values() for resume in bench.resumers
    ]  # fmt: skip
    norm = float(torch.cat(sizes).double().mean())
    place = directions.states.index(state)
    random = np.random.default_rng(seed).standard_normal((count, model.d_model))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    rows: list[dict[str, object]] = []
    notes = [
        f"{e} has no direction at {state}: nothing was added, and its circuit was not driven"
        for e in wanted
        if e not in some
    ]
    nothing = _changes(benches, random, place, doses, norm, model.n_layers)
    for e in some:
        v = directions.at(state, e)
        added = _changes(benches, v[None], place, doses, norm, model.n_layers)
        base = {"emotion": str(e), "factor": np.nan}
        for number, dose in enumerate(doses):
            for texts in ("own", "others"):
                rows += _rows({**base, "what": "direction", "dose": dose, "texts": texts}, e, added, texts, number)
                rows += _random_rows({**base, "dose": dose, "texts": texts}, e, nothing, texts, number)
        factors = (
            _factors(benches[e], circuits.get(e, ()), state, [dose * norm for dose in doses]) if e in benches else None
        )
        if factors is None:
            writes = (
                f"no component of {e}'s circuit writes before {state}" if circuits.get(e) else f"{e} has no circuit"
            )
            notes.append(f"{writes}; it cannot be amplified there")
        else:
            changed = amplified(benches[e], [circuits[e]] * len(doses), factors) - steered(benches[e], [Job()])
            own = {e: by_scenario(benches[e], changed)[None]}
            for number, dose in enumerate(doses):
                here = {**base, "what": "circuit", "dose": dose, "factor": factors[number], "texts": "own"}
                rows += _rows(here, e, own, "own", number)
        if neutral is not None:
            rows += _language(neutral, e, v, circuits.get(e, ()), factors, state, doses, norm)
    return Doses(pd.DataFrame(rows, columns=list(DOSE_COLUMNS)), state, norm, tuple(notes))


def _changes(
    benches: Mapping[Emotion, Bench], vectors: Array, place: int, doses: Sequence[float], norm: float, n_layers: int
) -> dict[Emotion, Array]:
    """Change of the six logit differences on each bench's texts, ``[vector, dose, scenario, emotion]``."""
    jobs = [Job()]
    for v in vectors:
        for dose in doses:
            add = np.zeros((2 * n_layers, len(v)))
            add[place] = dose * norm * v
            jobs.append(Job(add=add))
    result = {}
    for f, bench in benches.items():
        values = by_scenario(bench, steered(bench, jobs))
        result[f] = (values[1:] - values[0]).reshape(len(vectors), len(doses), *values.shape[1:])
    return result


def _chosen(found: Mapping[Emotion, Array], e: Emotion, texts: str) -> Array:
    """``[vector, dose, scenario, emotion]``: own texts, or the mean over the others' where scenarios are shared."""
    wanted = [values for f, values in found.items() if (f is e) == (texts == "own")]
    if not wanted:
        return np.zeros((*next(iter(found.values())).shape[:2], 0, len(EMOTIONS)))
    if len({len(v[0, 0]) for v in wanted}) == 1:
        result: Array = np.mean(wanted, axis=0)
        return result
    return np.concatenate(wanted, axis=2)


def _rows(
    base: dict[str, object], e: Emotion, found: Mapping[Emotion, Array], texts: str, number: int
) -> list[dict[str, object]]:
    values = _chosen(found, e, texts)
    if not values.shape[2]:
        return []
    here = values[0, number]
    rest = [f.column for f in EMOTIONS if f is not e]
    named = [(str(f), estimate(here[:, f.column])) for f in EMOTIONS]
    named.append((
        "selectivity",
        estimate(here.T, lambda means: means[:, e.column] - means[:, rest].max(1)),
    ))  # fmt: skip
    return [{**base, "read": read, **one.as_dict(), "unit": "logits"} for read, one in named]


def _random_rows(
    base: dict[str, object], e: Emotion, found: Mapping[Emotion, Array], texts: str, number: int
) -> list[dict[str, object]]:
    values = _chosen(found, e, texts)
    if not values.shape[2]:
        return []
    means = values[:, number].mean(1)[:, e.column]
    low, high = np.quantile(means, [0.025, 0.975])
    return [{
        **base, "what": "random direction", "read": str(e), "value": float(means.mean()), "low": float(low),
        "high": float(high), "n": len(means), "unit": "logits",
    }]  # fmt: skip


def _state(resume: Resumer, state: State) -> Tensor:
    """The state at the read-out, ``[prompt, d_model]``."""
    run = resume.run
    return resume.tokens.at_readout(run.mid[state.layer] if state.half is Half.ATTN else run.pre[state.layer + 1])


@torch.no_grad()
def _factors(bench: Bench, circuit: Collection[Component], state: State, norms: Sequence[float]) -> list[float] | None:
    """What the circuit has to be amplified by to write so much more at the state; None where it writes nothing there."""
    early = [c for c in circuit if State(c.layer, c.half).depth <= state.depth]
    lengths = [
        _written(bench, piece, resume, early).norm(dim=-1)
        for piece, resume in zip(bench.texts, bench.resumers, strict=True)
    ]
    length = float(torch.cat(lengths).double().mean())
    if length < 1e-6 * max(norms):
        return None
    return [one / length for one in norms]


def _written(bench: Bench, piece: OwnTexts, resume: Resumer, circuit: Sequence[Component]) -> Tensor:
    """What the components write at the read-out beyond their replacement values, ``[prompt, d_model]``."""
    model, run, tokens = bench.model, resume.run, resume.tokens
    total = torch.zeros(len(tokens), model.d_model, dtype=torch.float64)
    for c in circuit:
        own, new = (run.streams.z, piece.z) if c.kind is Kind.HEAD else (run.streams.post, piece.post)
        gain = tokens.at_readout(own[c.layer] - new[c.layer])[:, c.index]
        weight = model.W_O(c.layer)[c.index] if c.kind is Kind.HEAD else model.W_out(c.layer)[c.index][None]
        write = (gain if c.kind is Kind.HEAD else gain[:, None]) @ weight
        if (c.layer, c.half) in run.post_norm:
            write = write * tokens.at_readout(run.post_norm[c.layer, c.half])
        total += write.double().cpu()
    return total


def _language(
    neutral: Neutral,
    e: Emotion,
    v: Array,
    circuit: Collection[Component],
    factors: Sequence[float] | None,
    state: State,
    doses: Sequence[float],
    norm: float,
) -> list[dict[str, object]]:
    """Perplexity on neutral texts as a multiple of the clean model's."""
    model, counts = neutral.model, neutral.counts
    clean = neutral.losses()
    rows: list[dict[str, object]] = []

    def ratio(means: Array) -> Array:
        result: Array = np.exp((means[:, 0] - means[:, 1]) / means[:, 2])
        return result

    def row(what: str, dose: float, factor: float, losses: Array) -> None:
        one: Estimate = estimate(np.stack([losses, clean, counts]), ratio)
        rows.append({"emotion": str(e), "what": what, "dose": dose, "factor": factor, "texts": "neutral", "read": "perplexity",
                     **one.as_dict(), "unit": "1"})  # fmt: skip

    for number, dose in enumerate(doses):
        add = torch.zeros(1, 2 * model.n_layers, model.d_model, dtype=model.dtype)
        add[0, state.depth] = torch.as_tensor(dose * norm * v)
        add = add.to(model.device)

        def steering(tokens: Tokens, _replaced: Streams, add: Tensor = add) -> dict[str, Hook]:
            nothing = torch.zeros_like(add)
            return edit_hooks(model, Edits(nothing, nothing, add, None, tokens.mask.to(add)))

        row("direction", dose, float("nan"), neutral.losses(change=steering))
        if factors is not None:
            factor = factors[number]

            def driving(tokens: Tokens, replaced: Streams, factor: float = factor) -> dict[str, Hook]:
                return _driving(record(model, tokens).streams, replaced, circuit, factor)

            row("circuit", dose, factor, neutral.losses(change=driving))
    return rows


def _driving(clean: Streams, replaced: Streams, circuit: Collection[Component], factor: float) -> dict[str, Hook]:
    """Hooks that put components ``1 + factor`` times as far from their replacement values as they are in the clean run."""
    places: dict[tuple[int, Kind], list[int]] = {}
    for c in circuit:
        places.setdefault((c.layer, c.kind), []).append(c.index)

    def made(own: Tensor, new: Tensor, index: list[int]) -> Hook:
        driven = own[:, :, index] + factor * (own[:, :, index] - new[:, :, index].to(own))

        def hook(tensor: Tensor) -> Tensor:
            tensor = tensor.clone()
            tensor[:, :, index] = driven.to(tensor)
            return tensor

        return hook

    return {
        hook_name(layer, kind): made(clean.of(kind)[layer], replaced.of(kind)[layer], index)
        for (layer, kind), index in places.items()
    }
