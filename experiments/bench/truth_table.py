"""What ``make truth`` found, as tables, a picture and plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bench.embedded_curves import apart
from bench.planted import TARGET
from bench.recovery import clopper_pearson, mean_over_seeds
from circuits.circuit.curves import BUDGETS
from circuits.circuit.methods import DEFAULT
from circuits.prompts.emotions import EMOTIONS

__all__ = ["Results", "figure", "markdown", "targets"]

Cell = Mapping[str, Any]
NULL = "null"
EXACT, AUROC, FALSE = 0.95, 0.98, 0.05
"""Least share of seeds whose circuits are all exact, least edge AUROC, largest share of null circuits that hold anything."""
REPAIRED = ("redundant", "backup")
INSIDE = "  "
RIVALS = ("single_ablation", "ig_inputs", "eap_ig_inputs")


@dataclass(frozen=True)
class Results:
    """Cells of planted models and of the embedded model, methods and kinds in the order they are shown."""

    methods: tuple[str, ...]
    kinds: tuple[str, ...]
    cells: tuple[Cell, ...]
    curves: tuple[Cell, ...]

    def of(self, method: str, kind: str) -> list[Cell]:
        """The cells of a method and kind, one a seed."""
        found = [cell for cell in self.cells if (cell["method"], cell["kind"]) == (method, kind)]
        return sorted(found, key=lambda cell: int(cell["seed"]))

    def by_seed(self, method: str, kind: str, figure: str) -> list[float]:
        """Mean over the emotions, for each seed; values that do not exist are left out."""
        rows = [[float(v) for v in cell[figure] if v is not None] for cell in self.of(method, kind)]
        return [float(np.mean(row)) if row else float("nan") for row in rows]

    def mean(self, method: str, kind: str, figure: str) -> tuple[float, float, float]:
        """Mean over seeds with its interval."""
        return mean_over_seeds(self.by_seed(method, kind, figure))

    def whole_seeds(self, method: str, kind: str) -> tuple[int, int]:
        """Seeds in which all six circuits are exact, and seeds."""
        cells = self.of(method, kind)
        return sum(all(cell["exact"]) for cell in cells), len(cells)

    @property
    def planted(self) -> tuple[str, ...]:
        """Kinds with a circuit."""
        return tuple(kind for kind in self.kinds if kind != NULL)

    def summary(self) -> list[dict[str, Any]]:
        """Every mean, for the file."""
        figures = ("exact", "precision", "recall", "auroc", "auroc_of_size", "edges_exact", "edges_precision", "edges_recall",
                   "edges_auroc", "forwards", "bound", "edges_forwards")  # fmt: skip
        rows = []
        for method in self.methods:
            for kind in self.kinds:
                hits, of = self.whole_seeds(method, kind)
                if of:
                    row: dict[str, Any] = {"method": method, "kind": kind, "seeds": of, "seeds_exact": hits}
                    row["seeds_exact_interval"] = clopper_pearson(hits, of)
                    rows.append(row | {figure: self.mean(method, kind, figure) for figure in figures})
        return rows


def markdown(found: Results, seconds: float) -> str:
    """Everything a reader compares."""
    seeds = sorted({int(cell["seed"]) for cell in found.cells})
    steps = [
        f"Planted models with known circuits, small size, {len(seeds)} seeds × {len(EMOTIONS)} emotions a cell; made by "
        f"`make truth` in {seconds / 60:.0f} minutes of computing. Choices on `select`, target 80%. The seed is the unit: "
        "means over seeds with 95% bootstrap intervals (none where all seeds agree). How edges are scored and forwards counted "
        "stands in `experiments/bench/planted.py`.",
        "",
        "**Node recovery**: circuits that have every true node and no other; behind the dot, seeds of which all six have "
        f"(of {len(seeds)} seeds, {_intervals(len(seeds))}). `null` has no node: what is not 100% are false discoveries. "
        "That even `random` has few is the gate all share: no circuit where the whole model is within two standard errors "
        "of the empty one.", "",
        *_table(found, found.kinds, lambda m, k: _share(found, m, k)), "",
        "**Edge AUROC**, over all direct paths of the model (.5: says nothing).", "",
        *_table(found, found.planted, lambda m, k: _figure(found.mean(m, k, "edges_auroc"), 3)), "",
        "**Forwards** of one emotion alone (behind the stroke, the bound said before); edges not counted.", "",
        *_table(found, found.kinds, lambda m, k: _cost(found, m, k)), "",
        "**Means over the kinds with a circuit.** Precision of what found nothing does not exist and is left out. AUROC of "
        "nodes by the method's own ranking, and by the size of its scores whatever their sign (a clipping or inhibiting neuron "
        "has a negative score, and ranks last where supporters are wanted).", "",
        *_overall(found),
    ]  # fmt: skip
    if found.curves:
        steps += ["", *_embedded(found)]
    return "\n".join(["# Truth", "", *steps, "", "## Targets", "", *map(_bullet, targets(found)), ""])


def _bullet(line: str) -> str:
    return f"{INSIDE}* {line.strip()}" if line.startswith(INSIDE) else f"* {line}"


def _intervals(of: int) -> str:
    return "Clopper–Pearson " + "; ".join(
        f"{hits}: [{100 * low:.0f}%, {100 * high:.0f}%]"
        for hits in sorted({of, max(0, of - 1), of // 2, 0}, reverse=True)
        for low, high in [clopper_pearson(hits, of)]
    )


def _table(found: Results, kinds: Sequence[str], cell: Any) -> list[str]:
    lines = ["| method | " + " | ".join(f"`{kind}`" for kind in kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for method in found.methods:
        cells = [cell(method, kind) if found.of(method, kind) else "" for kind in kinds]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return lines


def _share(found: Results, method: str, kind: str) -> str:
    hits, _ = found.whole_seeds(method, kind)
    mean, low, high = found.mean(method, kind, "exact")
    between = "" if np.isnan(low) or low == high else f" [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{100 * mean:.0f}%{between} · {hits}"


def _figure(values: tuple[float, float, float], digits: int) -> str:
    mean, low, high = values
    if np.isnan(mean):
        return "–"
    between = (
        "" if np.isnan(low) or round(low, digits) == round(high, digits) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    )
    return f"{mean:.{digits}f}{between}"


def _cost(found: Results, method: str, kind: str) -> str:
    return f"{found.mean(method, kind, 'forwards')[0]:.0f} / {found.mean(method, kind, 'bound')[0]:.0f}"


def _overall(found: Results) -> list[str]:
    heads = {
        "precision": "node precision", "recall": "recall", "auroc": "AUROC", "auroc_of_size": "AUROC of size",
        "edges_precision": "edge precision", "edges_recall": "recall", "edges_auroc": "AUROC",
        "edges_forwards": "forwards for edges",
    }  # fmt: skip
    lines = ["| method | " + " | ".join(heads.values()) + " |", "|---" * (len(heads) + 1) + "|"]
    for method in found.methods:
        cells = []
        for figure in heads:
            means = [found.mean(method, kind, figure)[0] for kind in found.planted if found.of(method, kind)]
            real = [value for value in means if not np.isnan(value)]
            cells.append(f"{np.mean(real):.{0 if figure == 'edges_forwards' else 3}f}" if real else "–")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return lines


def targets(found: Results) -> list[str]:
    """Whether each target is met, in plain words; misses with what was missing or too much."""
    lines = []
    for kind in found.planted:
        if not found.of(DEFAULT, kind):
            continue
        hits, of = found.whole_seeds(DEFAULT, kind)
        low, high = clopper_pearson(hits, of)
        circuits = f"{sum(sum(cell['exact']) for cell in found.of(DEFAULT, kind))} of {of * len(EMOTIONS)} circuits"
        word = "met" if hits >= EXACT * of else "MISSED"
        lines.append(
            f"{word}: `{kind}`, every node and no other in all six circuits in {hits} of {of} seeds "
            f"[{100 * low:.0f}%, {100 * high:.0f}%], {circuits} (target {100 * EXACT:.0f}% of seeds)"
            f"{_able(found, kind)}"
        )
        lines += _misses(found, kind)
        mean, least, most = found.mean(DEFAULT, kind, "edges_auroc")
        word = "met" if mean >= AUROC else "MISSED"
        lines.append(f"{word}: `{kind}`, edge AUROC {_figure((mean, least, most), 4)} (target {AUROC})")
    cells = found.of(DEFAULT, NULL)
    if cells:
        wrong, of = sum(size > 0 for cell in cells for size in cell["size"]), len(EMOTIONS) * len(cells)
        low, high = clopper_pearson(sum(any(cell["size"]) for cell in cells), len(cells))
        word = "met" if wrong <= FALSE * of else "MISSED"
        lines.append(
            f"{word}: `null`, something found in {wrong} of {of} emotions × seeds (target at most {100 * FALSE:.0f}%); "
            f"seeds with a finding: [{100 * low:.0f}%, {100 * high:.0f}%]"
        )
    for kind in REPAIRED:
        for rival in RIVALS:
            lines += _above(found, kind, rival)
    return lines


def _able(found: Results, kind: str) -> str:
    """Of the circuits that can be found: a true circuit below the target must be filled up by whoever keeps to the target."""
    pairs = [
        (true, exact)
        for cell in found.of(DEFAULT, kind)
        for true, exact in zip(cell["true_faithfulness"], cell["exact"], strict=True)
    ]
    able = [exact for true, exact in pairs if true is not None and true >= TARGET]
    if len(able) == len(pairs):
        return ""
    return f"; of the {len(able)} circuits that themselves reach the target of {100 * TARGET:.0f}% on `select`, {sum(able)}"


def _misses(found: Results, kind: str) -> list[str]:
    lines = []
    for cell in found.of(DEFAULT, kind):
        for i, e in enumerate(EMOTIONS):
            if cell["exact"][i]:
                continue
            what = " and ".join(
                f"{word} {', '.join(names) if isinstance(names, list) else f'{names} nodes'}"
                for word, names in (("without", cell["missing"][i]), ("with", cell["extra"][i]))
                if names
            )
            true = cell["true_faithfulness"][i]
            below = true is not None and true < TARGET
            why = ", below the target: a search that keeps to it has to add something" if below else ""
            kept = "has no faithfulness" if true is None else f"keeps {100 * true:.2f}% on `select`{why}"
            lines.append(f"{INSIDE}`{kind}`, seed {cell['seed']}, {e}: {what}; the true circuit {kept}")
    return lines


def _above(found: Results, kind: str, rival: str) -> list[str]:
    ours, theirs = found.of(DEFAULT, kind), found.of(rival, kind)
    both = sorted({int(c["seed"]) for c in ours} & {int(c["seed"]) for c in theirs})
    if not both:
        return []
    lines = []
    figures = {
        "exact": "exact circuits", "auroc": "node AUROC", "auroc_of_size": "node AUROC by size of score",
        "edges_auroc": "edge AUROC",
    }  # fmt: skip
    for figure, what in figures.items():
        values = [
            float(
                np.mean([x for x in one[figure] if x is not None])
                - np.mean([x for x in other[figure] if x is not None])
            )
            for seed in both
            for one in ours
            for other in theirs
            if one["seed"] == other["seed"] == seed
        ]
        mean, low, high = mean_over_seeds(values)
        sure = low > 0
        word = ("met" if sure else "MISSED") if figure == "exact" else ("above" if sure else "not clearly above")
        lines.append(f"{word}: `{kind}`, {what}, `{DEFAULT}` less `{rival}`: {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    return lines


def _embedded(found: Results) -> list[str]:
    lines = [
        "## The embedded model", "",
        "Nobody knows its circuits. Rankings from `select`, curves on `test` (36 scenarios). CPR: area under faithfulness "
        "against the share of heads and neurons kept (more is better, .999 is all there is); CMD: area of |1 − faithfulness| "
        "(less is better). A ranking that puts what opposes the emotion last keeps more than the model does at half its size: "
        "that raises CPR above .999, and CMD with it.", "",
        "| method | figure | " + " | ".join(map(str, EMOTIONS)) + " |", "|---" * (len(EMOTIONS) + 2) + "|",
    ]  # fmt: skip
    cell_of = {(cell["method"], cell["emotion"]): cell for cell in found.curves}
    for method in found.methods:
        mine = [cell_of.get((method, str(e))) for e in EMOTIONS]
        if not any(mine):
            continue
        for name in ("cpr", "cmd"):
            cells = ["" if c is None else _figure((c[name]["value"], c[name]["low"], c[name]["high"]), 3) for c in mine]
            lines.append(f"| `{method}` | {name.upper()} | " + " | ".join(cells) + " |")
        cells = ["" if c is None else "{:.3f} / {:.3f}".format(*_parts(c)) for c in mine]
        lines.append(f"| `{method}` | short of 1 / over 1 | " + " | ".join(cells) + " |")
        cells = ["" if c is None else f"{c['forwards']:,.0f} / {c['bound']:,.0f}; {c['size']}" for c in mine]
        lines.append(f"| `{method}` | forwards / bound; nodes chosen | " + " | ".join(cells) + " |")
    lines += ["", _why(found.curves), ""]
    for e in EMOTIONS:
        own = cell_of.get((DEFAULT, str(e)))
        if own is not None:
            lines += [f"* {line}" for line in _beside(own, [c for c in found.curves if c["emotion"] == str(e)])]
    return lines


def _parts(cell: Cell) -> tuple[float, float]:
    """Areas between the curve and 1, below and above it."""
    missing = BUDGETS[-1] - BUDGETS[0] - cell["cpr"]["value"]
    return max(0.0, (cell["cmd"]["value"] + missing) / 2), max(0.0, (cell["cmd"]["value"] - missing) / 2)


def _beside(own: Cell, others: Sequence[Cell]) -> list[str]:
    """Whether the default is as good as every baseline by both areas, and where it is not, by how much."""
    behind = []
    for cell in others:
        if cell["method"] == own["method"]:
            continue
        cpr, cmd = apart(own, cell)
        if cpr.value < 0:
            sure = "" if cpr.high < 0 else ", not clear"
            behind.append(f"CPR {cpr.value:+.4f} [{cpr.low:+.4f}, {cpr.high:+.4f}] against `{cell['method']}`{sure}")
        if cmd.value > 0:
            sure = "" if cmd.low > 0 else ", not clear"
            behind.append(f"CMD {cmd.value:+.4f} [{cmd.low:+.4f}, {cmd.high:+.4f}] against `{cell['method']}`{sure}")
    start = f"{own['emotion']}: `{DEFAULT}`"
    if not behind:
        return [f"{start} has CPR at least and CMD at most that of every baseline."]
    return [f"{start} is not as good as every baseline: {'; '.join(behind)}; elsewhere it is at least as good."]


def _why(curves: Sequence[Cell]) -> str:
    """What the two areas of a default that is behind consist of."""
    own = [c for c in curves if c["method"] == DEFAULT]
    spent = sum(bool(c["notice"]) for c in own)
    return (
        "CPR is .999, less what a curve falls short of 1, plus what it exceeds 1; CMD is the sum of both. Rankings by signed "
        "effect exceed 1 for half of the axis, as what opposes the emotion is left for the end; the default's hardly does. "
        "Where it also falls short by more, a likely reason is: it ranks its members by the largest effect in any "
        "world and the rest by the size of single effects, of either sign, which is no order for adding nodes one by one (not "
        "tested). "
        f"{spent} of its {len(own)} searches stopped at their budget."
    )


def figure(found: Results) -> go.Figure:
    """Three heat maps side by side: exact circuits, edge AUROC, forwards."""
    panels = (
        (
            "circuits with every node and no other",
            found.kinds,
            "exact",
            "Blues",
            lambda v: f"{100 * v:.0f}%",
            (0.0, 1.0),
        ),
        ("edge AUROC", found.planted, "edges_auroc", "Blues", lambda v: f"{v:.2f}".replace("0.", "."), (0.5, 1.0)),
        ("forwards of one emotion", found.kinds, "forwards", "Oranges", lambda v: f"{v:.0f}", None),
    )
    picture = make_subplots(
        cols=3, rows=1, subplot_titles=[panel[0] for panel in panels], shared_yaxes=True, horizontal_spacing=0.025,
        column_widths=[len(panel[1]) for panel in panels],
    )  # fmt: skip
    for column, (_, kinds, name, colours, text, ends) in enumerate(panels, start=1):
        values = np.array(
            [[found.mean(m, k, name)[0] if found.of(m, k) else np.nan for k in kinds] for m in found.methods]
        )
        shown = np.log10(np.maximum(values, 1)) if ends is None else values
        low, high = ends or (0.0, float(np.nanmax(shown)) * 1.3)
        words = [["" if np.isnan(v) else text(v) for v in row] for row in values]
        names = ["null: nothing" if kind == NULL and column == 1 else kind for kind in kinds]
        picture.add_heatmap(
            z=shown, x=names, y=list(found.methods), text=words, texttemplate="%{text}", colorscale=colours, zmin=low,
            zmax=high, showscale=False, xgap=2, ygap=2, hoverongaps=False, row=1, col=column,
        )  # fmt: skip
        picture.update_xaxes(tickangle=-40, showgrid=False, row=1, col=column)
        picture.update_yaxes(autorange="reversed", showgrid=False, row=1, col=column)
    picture.update_layout(
        template="plotly_white", font={"family": "system-ui, sans-serif", "size": 12, "color": "#222"},
        margin={"l": 120, "r": 20, "t": 40, "b": 100},
    )  # fmt: skip
    return picture
