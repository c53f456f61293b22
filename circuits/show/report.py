"""The report of a run, one HTML file: what was found in plain words, then graphs, curves, tables, and how it was done.

It is made from what the run keeps, so that the page a walk writes and the page made later of the same run are the same. All
text that comes from data (names, notices, prompts) is escaped: a run may come from a stranger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.circuit.graph import Circuit
from circuits.compare.together import Compared
from circuits.directions.vectors import Directions
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run
from circuits.show import figures, tables
from circuits.show.beside import effects_in_words
from circuits.show.dosed import doses_in_words
from circuits.show.methods import methods
from circuits.show.page import Page, datum, page
from circuits.show.words import counts, in_words, shortened

__all__ = ["Told", "page", "report", "report_of"]

_KEPT = ("vectors", "norms", "split_half")


@dataclass(frozen=True)
class Told:
    """All that a report tells, as plain values.

    Attributes:
        effects: table of effects on ``test``.
        writers, same_effect, doses, half_layers, rates: tables of the comparison.
        notices: of the half-layers and doses.
        skipped: what the comparison left out; empty where nothing was.
        directions: ``vectors``, ``norms`` and ``split_half`` by estimator, the first is the one drawn.
        states: the axis ``state`` of these.
        n: scenarios the directions come from.
    """

    manifest: Mapping[str, Any]
    circuits: Mapping[Emotion, Circuit]
    effects: pd.DataFrame
    writers: pd.DataFrame
    same_effect: pd.DataFrame
    doses: pd.DataFrame
    half_layers: pd.DataFrame
    rates: pd.DataFrame
    notices: Sequence[str]
    skipped: str
    directions: Mapping[str, Mapping[str, NDArray[Any]]]
    states: Sequence[str]
    n: int


def report(
    manifest: Mapping[str, Any],
    circuits: Mapping[Emotion, Circuit],
    table: pd.DataFrame,
    compared: Compared,
    directions: Sequence[Directions],
) -> str:
    """The page as text, from the walk's own values."""
    return _written(
        Told(
            manifest, circuits, table, compared.writers.table, compared.effects.table, compared.doses, compared.halves.table,
            compared.halves.rates, compared.notes, compared.skipped,
            {d.estimator: {k: getattr(d, k).astype(np.float32) for k in _KEPT} for d in directions},  # as the run keeps them
            [s.name for s in directions[0].states], directions[0].n,
        )
    )  # fmt: skip


def report_of(run: Run) -> str:
    """The page as text, from a finished run: the same that lies in it, in this version's words.

    Raises:
        RunError: a file of the run is damaged.
    """
    arrays, about = run.directions
    estimators = [e for e in ("contrast", "grand_mean", "probe") if f"{e}.vectors" in arrays]
    compared = run.manifest.get("compared", {})
    return _written(
        Told(
            run.manifest, {e: run.circuit(str(e)) for e in EMOTIONS}, run.effects.table, run.comparison.table,
            run.same_effect.table, run.doses, run.half_layers, run.half_layer_rates, compared.get("notices", ()),
            compared.get("skipped", ""),
            {e: {k: arrays[f"{e}.{k}"] for k in _KEPT} for e in estimators},
            [str(s) for s in about["states"]], int(about["n"]),
        )
    )  # fmt: skip


def _written(told: Told) -> str:
    name = told.manifest["model"]["name"]
    result = Page(f"Emotion circuits of {shortened(name, 120)}")
    for part in (_summary, _graphs, _curves, _beside, _tables, _methods):
        part(result, told)
    return result.html()


def _summary(result: Page, told: Told) -> None:
    model, prompts = told.manifest["model"], told.manifest["prompts"]
    result.section("In plain words", "summary")
    scenarios = ", ".join(f"{datum(k)} {datum(v)}" for k, v in prompts["scenarios"].items())
    found = [c for c in told.circuits.values() if c.nodes]
    result.add(f"<p>{_first(found, len(told.circuits))}</p>")
    for notice in told.manifest["notices"]:
        result.add(f"<p class=notice>{datum(notice, 600)}</p>")
    lines = "".join(f"<li>{datum(in_words(c), 600)}.</li>" for c in told.circuits.values())
    result.add(f"<ul>{lines}</ul>")
    result.add(tables.summary(told.circuits))
    result.add(
        f"<p class=note>Model {datum(model['name'])}: {model['layers']} layers, {model['heads']} heads and "
        f"{model['neurons']} neurons a layer. Prompts {datum(prompts['name'])} ({datum(prompts['lexical'])}), scenarios: "
        f"{scenarios}. Every number is from the test split unless it says otherwise. Brackets are 95% intervals over "
        "scenarios. Effects are in logits; positive supports the emotion.</p>"
    )


def _first(found: Sequence[Circuit], asked: int) -> str:
    """What came out, in a sentence: how many circuits, how much they keep, and how many are better than chance."""
    if not found:
        return f"No circuit was found for any of {asked} emotions."
    shares = [c.judgement["faithfulness"] for c in found]
    sizes = [len(c.nodes) for c in found]
    better = sum(c.judgement["random_p"] < 0.05 for c in found)
    low, high = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    n = counts(int(c.judgement["n"]) for c in found)
    kept = f"{low}%" if low == high else f"{low} to {high}%"
    return (
        f"<b>{len(found)} of {asked}</b> emotions have a circuit. With {counts(sizes)} heads and neurons they keep "
        f"<b>{kept}</b> of what the model adds for their emotion on unseen texts (n = {n} scenarios; intervals below). "
        f"<b>{better}</b> of the {len(found)} are better than random circuits of the same shape (p &lt; .05)."
    )


def _graphs(result: Page, told: Told) -> None:
    result.section("The circuits", "circuits")
    result.add(
        "<p class=note>Rows are half-layers, tokens below, the read-out above. Size is the effect of a node. Solid marks are "
        "exact, hollow ones first-order estimates. Lines are exact weights of direct paths; blue supports, orange opposes.</p>"
    )
    for e, circuit in told.circuits.items():
        if circuit.nodes:
            result.figure(figures.circuit_graph(circuit, told.manifest["model"]["layers"]))
        else:
            result.add(f"<h3>{e}</h3><p>{datum(circuit.judgement.get('undefined', 'no circuit'), 600)}</p>")


def _curves(result: Page, told: Told) -> None:
    together = told.manifest["judge"]
    result.section("How good are they?", "judged")
    result.figure(figures.faithfulness(told.circuits))
    if any("curve" in c.judgement for c in told.circuits.values()):
        result.figure(figures.curves(told.circuits))
    result.figure(figures.sublayers(told.effects))
    if "specificity" in together:
        result.add("<h3>Whose circuit is it?</h3>")
        result.figure(figures.specificity(together["specificity"]))
        result.add(tables.shared(together))


def _beside(result: Page, told: Told) -> None:
    result.section("Circuit and direction", "directions")
    for e in EMOTIONS:
        drawn = list(_one_beside(told, e))
        if drawn:
            result.add(f"<h3>Circuit and direction of {e}</h3>")
        for figure in drawn:
            result.figure(figure)
        if (told.same_effect["emotion"] == str(e)).any():
            result.add(f"<p>{datum(effects_in_words(told.same_effect, e), 1000)}</p>")
        if (told.doses["emotion"] == str(e)).any():
            result.figure(figures.doses(told.doses, e))
            result.add(f"<p>{datum(doses_in_words(told.doses, e), 1000)}</p>")
    result.add("<h3>What one reading per layer would get wrong</h3>")
    if len(told.rates):
        result.figure(figures.misattribution(told.rates))
    for notice in told.notices:
        result.add(f"<p class=note>{datum(notice, 600)}</p>")
    if told.skipped:
        result.add(f"<p class=note>Not measured, to save time: {datum(told.skipped, 600)}.</p>")
    result.add("<h3>How the directions lie to each other</h3>")
    first = next(iter(told.directions.values()))
    result.figure(figures.cosines(first["vectors"], list(told.states)))


def _one_beside(told: Told, e: Emotion) -> Iterator[Any]:
    if (told.writers["emotion"] == str(e)).any():
        yield figures.writers(told.writers, e)
    if (told.half_layers["emotion"] == str(e)).any():
        yield figures.half_layers(told.half_layers, e, told.writers)
    if (told.same_effect["emotion"] == str(e)).any():
        yield figures.same_effect(told.same_effect, e)


def _tables(result: Page, told: Told) -> None:
    result.section("Tables", "tables")
    result.add("<p class='note screen'>A click on a column's name sorts by it; so do Tab and Enter.</p>")
    result.add(tables.judged(told.circuits))
    skipped = told.manifest["judge"].get("skipped")
    if skipped:
        result.add(f"<p class=note>Not measured, to save time: {datum(skipped, 600)}.</p>")
    for circuit in told.circuits.values():
        if circuit.nodes:
            result.add(tables.nodes(circuit))
    for estimator, arrays in told.directions.items():
        result.add(tables.split_half(estimator, arrays["split_half"], arrays["norms"], told.states, told.n))
    result.add(tables.reliability(told.manifest["reliability"]))


def _methods(result: Page, told: Told) -> None:
    result.section("Methods, and how to repeat it", "methods")
    result.add(methods(told.manifest))
