"""The benchmark's numbers as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

__all__ = ["growth_figure", "markdown"]

TARGETS = {
    ("heads", "all"): {"S": 6, "M": 3.3, "L": 2.4}, ("neurons", "all"): {"S": 9, "M": 4},
    ("heads", "readout"): {"S": 50, "M": 40, "L": 35}, ("neurons", "readout"): {"S": 100, "M": 50},
}  # fmt: skip
"""How many times faster than the naive way this engine is meant to be."""


def markdown(results: Mapping[str, Any]) -> str:
    """Everything a reader compares."""
    machine = results["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['versions']['torch']}, float32; "
        f"{results['repetitions']} interleaved rounds, median [smallest, largest]. Matrix rate in torch's default "
        "precision; sweeps use faster products where these were seen to be as exact. Difference in units of the largest effect "
        "at these positions. Memory of a process that holds this shape alone (and what the sweep added to a model and batch "
        "that are ready; +0: less than making the model took).",
        "",
    ]
    for threads, part in results["threads"].items():
        lines += [
            f"**{threads} thread{'s' if threads != '1' else ''}** (products: {part['matrix_rate'] / 1e9:.0f} GFLOP/s)", "",
            *_header("shape", "components", "ablated at", "naive, all", "ours, all", "ratio", "target", "difference",
                     "of the matrix rate", "peak memory"),
        ]  # fmt: skip
        for name, shape in part["shapes"].items():
            lines += [_row(name, row, shape["memory"]) for row in shape["exact"]]
        lines += [
            "", *_header("shape", "one forward", "gradient, one metric", "six metrics", "direct effects",
                         "`measure` of all heads, start to end", "TransformerLens patching, heads",
                         "TransformerLens attribution"),
        ]  # fmt: skip
        for name, shape in part["shapes"].items():
            lines.append(_estimates(name, shape))
        lines.append("")
        closed = [(name, shape["wang_heads"]) for name, shape in part["shapes"].items() if "wang_heads" in shape]
        if closed:
            lines += _header(
                "shape", "importance of heads in their own layer", "naive, all", "ours, all", "ratio", "difference"
            )
            lines += [_closed(name, row) for name, row in closed]
            lines.append("")
    if "growth" in results:
        exponents = "; ".join(f"{axis} {grown['exponent']:.2f}" for axis, grown in results["growth"].items())
        lines += [f"Growth of time with operations (exponent; 1 is in proportion): {exponents}.", ""]
    return "\n".join(lines)


def _header(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def _row(name: str, row: Mapping[str, Any], memory: Mapping[str, int]) -> str:
    where = "every token" if row["positions"] == "all" else "read-out"
    place = f"{row['components']}, {row['positions']}"
    target = TARGETS.get((row["components"], row["positions"]), {}).get(name)
    sampled = "" if row["ours_sampled"] == row["number"] else f" ({row['ours_sampled']} run)"
    cells = [
        name, f"{row['number']:,} {row['components']}", where,
        f"{_time(row['all_naive_seconds'])} ({row['naive_sampled']} run)",
        f"{_time(row['all_ours_seconds'])}{sampled}", f"{_spread(row['ratio'])}×", "–" if target is None else f"{target}×",
        f"{row['difference']:.0e}", f"{100 * row['share_of_matrix_rate']:.0f}%",
        f"{memory[place] / 1e6:.0f} MB (+{(memory[place] - memory['ready']) / 1e6:.0f})",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _closed(name: str, row: Mapping[str, Any]) -> str:
    cells = [
        name, f"{row['heads']} heads, {row['texts']} texts", _time(row["seconds"]["naive"]["median"]),
        _time(row["seconds"]["ours"]["median"]), f"{_spread(row['ratio'])}×", f"{row['difference']:.1g}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _estimates(name: str, shape: Mapping[str, Any]) -> str:
    forwards, others, whole = shape["estimates"]["in_forwards"], shape["others"], shape["whole"]
    cells = [
        name, _time(shape["estimates"]["forward_seconds"]["median"]), f"{_spread(forwards['gradient, one metric'])} forwards",
        f"{_spread(forwards['gradient, six metrics'])} forwards",
        f"{10 * forwards['ten direct']['median']:.1f}% of a forward, the first {100 * forwards['direct']['median']:.1f}%",
        f"{_time(whole['seconds'])}, naively {_time(whole['naive_seconds'])} ({whole['ratio']:.1f}×)",
        f"{_spread(others['patching_over_ours'])}× ours", f"{_spread(others['attribution_over_ours'])}× ours",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _spread(spread: Mapping[str, float]) -> str:
    low, middle, high = (spread[key] for key in ("low", "median", "high"))
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def _time(seconds: float) -> str:
    for size, unit in ((1, "s"), (1e-3, "ms")):
        if seconds >= size and seconds < 300:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def growth_figure(growth: Mapping[str, Any]) -> go.Figure:
    """Seconds against size, next to what the operations say (scaled to the largest)."""
    figure = make_subplots(cols=len(growth), rows=1, subplot_titles=list(growth))
    for column, (_, grown) in enumerate(growth.items(), start=1):
        sizes, medians = grown["size"], [s["median"] for s in grown["seconds"]]
        spread = {
            "array": [s["high"] - s["median"] for s in grown["seconds"]],
            "arrayminus": [s["median"] - s["low"] for s in grown["seconds"]],
        }
        first = column == 1
        figure.add_scatter(x=sizes, y=medians, error_y=spread, name="seconds (median, range)", mode="markers+lines",
                           line_color="#3b6ea8", showlegend=first, col=column, row=1)  # fmt: skip
        theory = [medians[-1] * o / grown["operations"][-1] for o in grown["operations"]]
        figure.add_scatter(x=sizes, y=theory, name="operations, scaled", mode="lines", line={"color": "#999", "dash": "dot"},
                           showlegend=first, col=column, row=1)  # fmt: skip
        figure.update_xaxes(type="log", tickvals=sizes, col=column, row=1)
        figure.update_yaxes(
            type="log", exponentformat="none", col=column, row=1, **({"title": "seconds"} if first else {})
        )
    figure.update_layout(
        template="plotly_white", legend={"orientation": "h", "y": -0.2}, margin={"t": 40, "b": 60, "l": 60, "r": 20}
    )
    return figure
