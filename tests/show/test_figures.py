"""Every figure of ``circuits.figures`` on a stored run: drawn from the run and from its parts alike, or a readable error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from stored import stored

import circuits
from circuits import figures
from circuits.errors import CircuitsError, DirectionError, MeasurementError, PromptError, RunError
from circuits.prompts.emotions import EMOTIONS, Emotion
from circuits.runs.directory import Run
from circuits.show.dosed import doses_in_words

E = Emotion.FEAR
CROSS = pd.DataFrame(
    [
        {"role": role, "nodes": nodes, "size": 2, "context": context, "value": value, "low": value - 0.1, "high": value + 0.1,
         "n": 24}
        for role in ("writers", "readers")
        for nodes, context, value in (("a_only", "A", 0.9), ("a_only", "B", 0.1), ("all", "A", 1.0), ("all", "B", 0.8))
    ]
)  # fmt: skip
DOSES = pd.DataFrame(
    [
        {"emotion": "fear", "what": what, "dose": dose, "factor": np.nan, "texts": texts, "read": read, "value": value * dose,
         "low": value * dose - 0.1, "high": value * dose + 0.2, "n": n, "unit": "logits"}
        for dose in (0.1, 0.4)
        for what, texts, read, value, n in (
            ("direction", "others", "fear", 7.0, 24), ("direction", "others", "anger", 1.0, 24),
            ("direction", "others", "selectivity", 5.0, 24), ("direction", "own", "fear", 1.0, 24),
            ("circuit", "own", "fear", 2.0, 24), ("random direction", "others", "fear", 0.5, 5),
            ("direction", "neutral", "perplexity", 3.0, 9), ("circuit", "neutral", "perplexity", 60.0, 9),
        )
    ]
)  # fmt: skip
MECHANISMS = SimpleNamespace(cross=CROSS, emotion=E, verdict="same direction, different circuits")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return stored(tmp_path_factory)[1]


def onset() -> go.Figure:
    values = np.full((6, 2), 0.8)
    return figures.onset(values, values - 0.1, values + 0.1, np.full(6, 0.6), ["L0.mid", "L0.post"], "onset")


def test_every_public_figure_is_drawn_from_the_run(run: Run) -> None:
    drawn = {
        "circuit_graph": figures.circuit_graph(run.circuit(E)),
        "components": figures.components(run, E),
        "cosines": figures.cosines(run),
        "curves": figures.curves(run),
        "doses": figures.doses(DOSES, E),
        "faithfulness": figures.faithfulness(run),
        "half_layers": figures.half_layers(run, "fear"),
        "mechanisms": figures.mechanisms(MECHANISMS),
        "misattribution": figures.misattribution(run),
        "onset": onset(),
        "same_effect": figures.same_effect(run, E),
        "specificity": figures.specificity(run),
        "sublayers": figures.sublayers(run),
        "writers": figures.writers(run, E),
    }
    assert set(drawn) == set(figures.__all__) - {"EMOTION_COLOURS"}
    for name, figure in drawn.items():
        assert isinstance(figure, go.Figure), name
        assert len(figure.data) > 0, name
        assert figure.layout.title.text, name
        assert figure.layout.font.size == 14, name
        assert getattr(circuits.figures, name).__doc__, name


def test_a_part_gives_the_same_figure_as_the_run(run: Run) -> None:
    found = {e: run.circuit(e) for e in EMOTIONS}
    arrays, about = run.directions
    pairs = [
        (figures.faithfulness(run), figures.faithfulness(found)),
        (figures.curves(run), figures.curves(found)),
        (figures.specificity(run), figures.specificity(run.manifest["judge"]["specificity"])),
        (figures.sublayers(run), figures.sublayers(run.effects.table)),
        (figures.components(run, E), figures.components(run.effects.table, "fear")),
        (figures.writers(run, E), figures.writers(run.comparison.table, E)),
        (figures.half_layers(run, E), figures.half_layers(run.half_layers, E, run.comparison.table)),
        (figures.same_effect(run, E), figures.same_effect(run.same_effect.table, E)),
        (figures.misattribution(run), figures.misattribution(run.half_layer_rates)),
        (figures.cosines(run), figures.cosines(arrays["contrast.vectors"], list(about["states"]))),
    ]
    for of_run, of_part in pairs:
        assert of_run.to_json() == of_part.to_json()


def test_doses_are_drawn_with_their_intervals_and_said() -> None:
    figure = figures.doses(DOSES, "fear")
    drawn = {(t.name, t.yaxis): t for t in figure.data}
    others, own = ", texts of the other five", ", the emotion's own texts"
    values = {key: list(t.y) for key, t in drawn.items()}
    assert values == {
        ("direction added" + others, "y"): pytest.approx([0.7, 2.8]),
        ("direction added" + others, "y2"): pytest.approx([0.5, 2.0]),
        ("direction added" + own, "y"): pytest.approx([0.1, 0.4]),
        ("circuit driven as hard" + own, "y"): pytest.approx([0.2, 0.8]),
        (f"5 random directions{others} (bars: 95% of them)", "y"): pytest.approx([0.05, 0.2]),
        ("direction added, neutral texts", "y3"): pytest.approx([0.3, 1.2]),
        ("circuit driven by the same factor, neutral texts", "y3"): pytest.approx([6.0, 24.0]),
    }
    for t in drawn.values():
        np.testing.assert_allclose(t.error_y.array, [0.2, 0.2])
        np.testing.assert_allclose(t.error_y.arrayminus, [0.1, 0.1])
    assert "(n = 24 scenarios)" in figure.layout.title.text
    assert "on 9 neutral texts" in figure.layout.annotations[2].text
    assert doses_in_words(DOSES, E) == (
        "With 0.40 of the stream's norm added along fear's direction, texts of the other five move by 2.80 [2.70, 3.00] logits "
        "towards fear and perplexity on neutral texts is 1.20 [1.10, 1.40] times the clean model's; with the circuit driven "
        "as hard, fear's own texts move by 0.80 [0.70, 1.00] logits and, by the same factor on neutral texts, perplexity is "
        "24.00 [23.90, 24.20] times the clean model's (n = 24 scenarios, 9 neutral texts)."
    )
    silent = DOSES[DOSES["texts"] != "neutral"]
    assert "No neutral texts" in figures.doses(silent, E).layout.annotations[2].text
    assert "neutral" not in doses_in_words(silent, E)
    assert doses_in_words(DOSES, Emotion.ANGER) == ""
    assert doses_in_words(DOSES[DOSES["read"] == "anger"], E) == ""


def test_a_graph_has_a_mark_for_every_node_and_a_row_for_every_half_layer(run: Run) -> None:
    circuit = run.circuit(E)
    figure = figures.circuit_graph(circuit, run.manifest["model"]["layers"])
    names = {name for trace in figure.data if trace.mode == "markers+text" for name in trace.text}
    assert names == {*circuit.names, "embed", "fear"}
    assert len(figure.layout.yaxis.ticktext) == 2 * run.manifest["model"]["layers"] + 2
    heights = list(figure.layout.yaxis.tickvals)
    assert heights == sorted(heights)
    with pytest.raises(RunError, match="the model is said to have 1 layers"):
        figures.circuit_graph(circuit, 1)


def test_crowded_rows_give_every_name_its_room(run: Run) -> None:
    """Names of one rank lie further apart than they are wide on a page 680 wide, and ranks than names are high."""
    from dataclasses import replace

    circuit = run.circuit(E)
    neuron = next(n for n in circuit.nodes if n.component.kind == "neuron")
    crowd = tuple(replace(neuron, component=replace(neuron.component, index=i), effect=1 / (i + 1)) for i in range(40))
    figure = figures.circuit_graph(replace(circuit, nodes=crowd, edges=()), neuron.component.layer + 1)
    trace = next(t for t in figure.data if t.mode == "markers+text" and len(t.text) == 40)
    across, up = 560 / 2.3, figure.layout.height / (figure.layout.yaxis.range[1] + 0.6)
    for i in range(40):
        for j in range(i):
            apart = abs(trace.x[i] - trace.x[j]) * across, abs(trace.y[i] - trace.y[j]) * up
            assert apart[0] > 45 or apart[1] > 14


def test_the_strongest_components_are_exact_where_they_were_measured_so(run: Run) -> None:
    table = run.effects.table
    figure = figures.components(run, E, most=5)
    shown = [name for trace in figure.data for name in trace.y]
    assert len(shown) == len(set(shown)) == 5
    rows = table[(table["emotion"] == "fear") & table["kind"].isin(["head", "neuron"]) & (table["method"] == "exact")]
    strongest = rows.loc[rows["effect"].abs().idxmax()]
    trace = next(t for t in figure.data if strongest["component"] in t.y)
    place = list(trace.y).index(strongest["component"])
    assert trace.x[place] == strongest["effect"]
    assert "exact" in trace.name
    assert trace.error_x.array[place] == pytest.approx(strongest["high"] - strongest["effect"])


def test_cross_ablation_shows_both_contexts_and_roles() -> None:
    figure = figures.mechanisms(MECHANISMS)
    assert [(t.name, tuple(t.y)) for t in figure.data] == [("context A", (0.9, 1.0)), ("context B", (0.1, 0.8))] * 2
    assert "n = 24 scenarios" in figure.layout.title.text


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda run: figures.writers(run, "joy"), PromptError, "joy"),
        (lambda run: figures.writers(run.comparison.table.iloc[:0], E), RunError, "no rows about fear"),
        (lambda run: figures.same_effect(run.same_effect.table.iloc[:0], E), RunError, "no rows about fear"),
        (lambda run: figures.doses(run, E), RunError, "no rows about fear: no doses .circuits discover --thorough"),
        (lambda run: figures.components(run.effects.table.query("kind == 'attn'"), E), RunError, "measure some"),
        (lambda run: figures.misattribution(run.half_layer_rates.iloc[:0]), RunError, "too few test scenarios"),
        (
            lambda run: figures.misattribution(run.half_layer_rates[run.half_layer_rates["emotion"] != "fear"]),
            RunError,
            "no row of projection of fear; expected one of each measure and emotion",
        ),
        (lambda run: figures.cosines(run, estimator="pca"), DirectionError, "expected one of contrast"),
        (lambda run: figures.cosines(run, wanted=["L9.mid"]), DirectionError, r"L9\.mid"),
        (lambda run: figures.cosines(np.zeros((6, 2, 4))), DirectionError, "names of their states"),
        (lambda run: figures.curves({}), RunError, "none of the circuits"),
        (
            lambda run: figures.mechanisms(SimpleNamespace(cross=pd.DataFrame(), emotion=E, verdict="not decidable")),
            MeasurementError,
            "nothing was cross-ablated: not decidable",
        ),
    ],
)
def test_what_cannot_be_drawn_says_why(run: Run, call: Any, error: type[CircuitsError], words: str) -> None:
    with pytest.raises(error, match=words):
        call(run)


def test_a_run_without_a_matrix_says_so(run: Run) -> None:
    from dataclasses import replace

    with pytest.raises(RunError, match="found no circuit"):
        figures.specificity(replace(run, manifest={**run.manifest, "judge": {}}))
