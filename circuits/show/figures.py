"""Figures for notebooks, the report and pictures: one name each, and each gives a plotly figure back.

Most take a finished :class:`~circuits.runs.directory.Run`, or the part of one that they draw: ``faithfulness(run)`` and
``faithfulness({Emotion.ANGER: circuit})`` are both meant. Colours are told apart with the common colour-vision deficiencies
(Okabe & Ito 2008). Solid marks are exact effects, hollow ones first-order estimates. Points and bars carry their 95%
intervals; heat maps show estimates alone, or say the interval in the cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from circuits.circuit.graph import Circuit
from circuits.errors import DirectionError, RunError
from circuits.prompts.emotions import EMOTIONS, Emotion, emotion
from circuits.runs.directory import Run
from circuits.show import beside, crossed, dosed, graphs, halves, judged, vectors
from circuits.show.style import EMOTION_COLOURS
from circuits.show.vectors import onset

__all__ = [
    "EMOTION_COLOURS",
    "circuit_graph",
    "components",
    "cosines",
    "curves",
    "doses",
    "faithfulness",
    "half_layers",
    "mechanisms",
    "misattribution",
    "onset",
    "same_effect",
    "specificity",
    "sublayers",
    "writers",
]

Circuits = Mapping[Emotion, Circuit]
"""Circuits by emotion."""


def circuit_graph(circuit: Circuit, n_layers: int | None = None, *, most: int = 40) -> go.Figure:
    """The circuit rising through the half-layers: embedding below, read-out above, a row for each half-layer.

    Size is the effect [logits], lines are exact direct paths [logits], blue supports and orange opposes.

    Args:
        n_layers: of the model; without it rows end at the circuit's last layer.
        most: nodes drawn, the strongest; the title says how many were left out.

    Raises:
        RunError: a node lies in a layer beyond ``n_layers``.
    """
    deepest = max((c.layer for c in circuit.components), default=0) + 1
    if n_layers is not None and n_layers < deepest:
        raise RunError(
            f"{circuit.emotion} has a node in layer {deepest - 1}, and the model is said to have {n_layers} layers"
        )
    return graphs.circuit_graph(circuit, n_layers or deepest, most=most)


def components(found: Run | pd.DataFrame, e: Emotion | str, *, most: int = 20) -> go.Figure:
    """The heads and neurons with the largest total effect on an emotion [logits], strongest above, with 95% intervals.

    Args:
        found: a run, or a table such as :attr:`circuits.effects.table.Effects.table`.
        most: how many.

    Raises:
        RunError: the table has no head or neuron for the emotion.
        PromptError: not one of the six.
    """
    table = found.effects.table if isinstance(found, Run) else found
    return vectors.components(_rows(table, emotion(str(e)), "total effects"), emotion(str(e)), most=most)


def faithfulness(found: Run | Circuits) -> go.Figure:
    """Each circuit's faithfulness on ``test`` with its interval, above the random circuits of the same shape."""
    return judged.faithfulness(_circuits(found))


def curves(found: Run | Circuits) -> go.Figure:
    """Faithfulness of the tops of each emotion's ranking, budget by budget, with intervals; CPR and CMD in the legend.

    Raises:
        RunError: no circuit has a curve.
    """
    circuits = _circuits(found)
    if not any("curve" in c.judgement for c in circuits.values()):
        raise RunError("none of the circuits has a faithfulness curve; nothing was found, or another tool judged them")
    return judged.curves(circuits)


def specificity(found: Run | Mapping[str, Any]) -> go.Figure:
    """What ablating each circuit (row) costs each emotion (column) [logits], beside random circuits of the row's shape.

    Raises:
        RunError: the run has no matrix, because it found no circuit.
    """
    matrix = found.manifest["judge"].get("specificity") if isinstance(found, Run) else found
    if matrix is None:
        raise RunError("this run has no specificity matrix: it found no circuit for any emotion")
    return judged.specificity(matrix)


def sublayers(found: Run | pd.DataFrame) -> go.Figure:
    """Exact total effect of every half-layer on every emotion [logits]."""
    return vectors.sublayers(found.effects.table if isinstance(found, Run) else found)


def cosines(
    found: Run | NDArray[np.floating[Any]],
    states: list[str] | None = None,
    wanted: Sequence[str] | None = None,
    *,
    estimator: str = "contrast",
) -> go.Figure:
    """Cosines between the six directions at some states; -0.2 is what six centred vectors have.

    Args:
        found: a run, or unit vectors ``[emotion, state, d_model]``, of which ``states`` names the second axis.
        wanted: states to show; without it the first, the middle and the last.
        estimator: of a run's directions: contrast, probe, or grand_mean.

    Raises:
        DirectionError: an unknown state or estimator, or vectors without names for their states.
    """
    if isinstance(found, Run):
        arrays, about = found.directions
        if f"{estimator}.vectors" not in arrays:
            known = sorted(name.split(".")[0] for name in arrays if name.endswith(".vectors"))
            raise DirectionError(f"no directions by {estimator!r} in this run; expected one of {', '.join(known)}")
        array, names = arrays[f"{estimator}.vectors"], [str(s) for s in about["states"]]
    elif states is None:
        raise DirectionError("vectors came without the names of their states; give them as the second argument")
    else:
        array, names = found, states
    picks = list(wanted or dict.fromkeys((names[0], names[len(names) // 2], names[-1])))
    unknown = [s for s in picks if s not in names]
    if unknown:
        raise DirectionError(f"no directions at {unknown[0]!r}; expected some of {', '.join(names)}")
    return vectors.cosines(array, names, picks)


def writers(found: Run | pd.DataFrame, e: Emotion | str) -> go.Figure:
    """Who writes the direction at each state: shares of its emotion-centred projection, with intervals.

    Raises:
        RunError: nothing was compared for the emotion.
        PromptError: not one of the six.
    """
    table = found.comparison.table if isinstance(found, Run) else found
    return vectors.writers(_rows(table, emotion(str(e)), "a comparison"), emotion(str(e)))


def half_layers(found: Run | pd.DataFrame, e: Emotion | str, writers: pd.DataFrame | None = None) -> go.Figure:
    """One emotion, half-layer by half-layer: rotation of its direction [degrees], held-out decodability [AUROC], who wrote it
    [share], causal effect [share], with 95% intervals.

    Args:
        found: a run, or :attr:`circuits.compare.halves.HalfLayers.table`.
        writers: the table of a comparison, for the third row; a run brings its own.

    Raises:
        RunError: half-layers were not told apart for the emotion.
        PromptError: not one of the six.
    """
    if isinstance(found, Run):
        found, writers = found.half_layers, found.comparison.table if writers is None else writers
    return halves.half_layers(_rows(found, emotion(str(e)), "half-layers"), emotion(str(e)), writers)


def misattribution(found: Run | pd.DataFrame) -> go.Figure:
    """In how many of the layers that change an emotion attention did most of it, so that "the MLP did it" is wrong.

    Raises:
        RunError: half-layers were not told apart.
    """
    rates = found.half_layer_rates if isinstance(found, Run) else found
    if not len(rates):
        raise RunError("half-layers were not told apart in this run: it has too few test scenarios")
    return halves.misattribution(rates)


def same_effect(found: Run | pd.DataFrame, e: Emotion | str) -> go.Figure:
    """Losses [logits] of one emotion when circuit, direction, both, or random ones are taken away, with 95% intervals.

    Raises:
        RunError: they were not held side by side for the emotion.
        PromptError: not one of the six.
    """
    table = found.same_effect.table if isinstance(found, Run) else found
    return beside.effects(_rows(table, emotion(str(e)), "circuit and direction side by side"), emotion(str(e)))


def doses(found: Run | pd.DataFrame, e: Emotion | str) -> go.Figure:
    """What adding the direction and driving the circuit as hard do to the six emotions and to language, with 95% intervals.

    Args:
        found: a run made with ``--thorough``, or :attr:`circuits.compare.dose.Doses.table`.

    Raises:
        RunError: it was not measured for the emotion.
        PromptError: not one of the six.
    """
    table = found.doses if isinstance(found, Run) else found
    return dosed.doses(
        _rows(table, emotion(str(e)), "doses (circuits discover --thorough measures them)"), emotion(str(e))
    )


def mechanisms(found: Any) -> go.Figure:
    """What ablating the nodes of one context's circuit costs each context, as shares of ``m(M) - m(∅)``, with 95% intervals.

    Args:
        found: a :class:`circuits.compare.mechanisms.Mechanisms`.

    Raises:
        MeasurementError: nothing was cross-ablated, because it was not decidable before that.
    """
    return crossed.mechanisms(found.cross, found.emotion, str(found.verdict))


def _circuits(found: Run | Circuits) -> Circuits:
    return {e: found.circuit(str(e)) for e in EMOTIONS} if isinstance(found, Run) else found


def _rows(table: pd.DataFrame, e: Emotion, what: str) -> pd.DataFrame:
    """The table, if it says anything about the emotion."""
    if not (table["emotion"] == str(e)).any():
        raise RunError(f"the table has no rows about {e}: no {what}; the run's notices say why")
    return table
