"""Does the model repair the loss of a top component, and who does it?

The strongest heads and neurons of each emotion, by total and by direct effect on ``select``, are ablated one at a time on
``test`` and followed through everything behind them (circuits/effects/repair.py): repair = direct effect (final norm's scale
frozen) minus total effect, its part due to re-normalising alone, and who compensates. Compensators are picked on ``select``
too, so that what is reported of them on ``test`` is not their luck.

Example: python experiments/repair.py --model embedded --prompts microstories
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from ledger.others import repaired
from rich.console import Console
from rich.markup import escape

import circuits
from circuits.circuit.estimates import Estimate, estimate
from circuits.cli import script
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation, Positions, member
from circuits.effects.repair import Aftermath, Repair
from circuits.effects.statistics import MIN_SCENARIOS, benjamini_hochberg, sign_flip
from circuits.effects.table import resolution
from circuits.errors import SettingsError
from circuits.model.sites import Component, Kind, parse
from circuits.runs.files import write_bytes, write_json
from circuits.runs.ledger import keep_claims
from circuits.show import studies
from circuits.show.report import page
from circuits.show.terminal import watching

VERDICT = {1: "supported", -1: "contradicted", 0: "undecided"}
RANKS = ("direct", "total")
NEURONS_ASKED, NAMED = 5, 3
POOLED = ("repair", "direct", "total", "by_norm", "by_components")


def main(
    model: Annotated[str, typer.Option(help="'embedded', a directory or a hub name.")] = "embedded",
    prompts: Annotated[str, typer.Option(help="A prompt file or shipped set.")] = "microstories",
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/<model>-<prompts>-<hash>.")] = None,
    top: Annotated[int, typer.Option(help="Heads, and neurons, of each emotion and ranking.")] = 5,
    positions: Annotated[str, typer.Option(help="Where components are ablated: all or readout.")] = "all",
) -> None:
    """Ablate top components, take apart what comes of it, name who compensates.

    Example: python experiments/repair.py --model embedded --prompts microstories
    """
    if top < 1:
        raise SettingsError(f"top is {top}; expected at least one component")
    where = member(Positions, positions)
    console = Console(highlight=False)
    loaded, rows = circuits.load(model), circuits.read_prompts(prompts)
    with watching(Console(stderr=True)) as watch:
        run = circuits.discover(loaded, rows, directory=out, watch=watch)
        study = Study(loaded, rows, where)
        study.choose(run, top, watch)
        study.measure(watch)
    lines = study.verdicts()
    for line in lines:
        console.print(escape(line), soft_wrap=True)
    place = run.directory / "figures"
    write_json(place / "repair.json", {**study.as_dict(), "verdicts": lines})
    groups = study.groups() if len(study.table) else {}
    keep_claims(place, "repair", repaired(groups, model=loaded.name, prompts=rows.name))
    write_bytes(place / "repair.csv", study.table.to_csv(index=False).encode())
    figures = [studies.repair_parts(study.groups()), studies.repairs(study.table)] if len(study.table) else []
    if len(study.helpers):
        figures.append(studies.compensators(study.helpers))
    write_bytes(place / "repair.html", page(f"Self-repair in {loaded.name}", figures).encode())
    console.print(f"\nopen {escape(str(place / 'repair.html'))}", soft_wrap=True)


@dataclass
class Study:
    """What is ablated, what came of it.

    Attributes:
        chosen: by emotion, each component with the rankings it is among the first of.
        picked: by emotion and component, the strongest compensators on ``select``.
        table: a row for each emotion and component. helpers: a row for each picked compensator.
        scenarios: the figures ``POOLED`` of every row of the table, ``[row, figure, scenario]``.
    """

    model: circuits.Model
    rows: circuits.Prompts
    positions: Positions
    chosen: dict[circuits.Emotion, dict[Component, list[str]]] = field(default_factory=dict)
    picked: dict[tuple[circuits.Emotion, Component], list[Component]] = field(default_factory=dict)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    helpers: pd.DataFrame = field(default_factory=pd.DataFrame)
    scenarios: np.ndarray = field(default_factory=lambda: np.zeros((0, len(POOLED), 0)))
    remainder: float = 0.0

    def _texts(self, split: str) -> dict[circuits.Emotion, Aftermath]:
        return Aftermath.every(Plan.of(self.model, self.rows.split(split), Ablation.MEAN_SCENARIO), self.positions)

    def choose(self, run: circuits.Run, top: int, watch: Any) -> None:
        """The strongest on ``select``, and who compensates for each there."""
        select = self.rows.split("select")
        components = (*self.model.heads, *self.model.neurons)
        direct = circuits.measure(self.model, select, components, method="direct")
        table = run.effects.table
        exact = set(table.loc[table["method"] == "exact", "component"])
        index = [i for i, name in enumerate(run.effects.components) if name in exact and "." not in name]
        verified = [parse(run.effects.components[i]) for i in index]
        place = {name: i for i, name in enumerate(run.effects.prompt_ids)}
        after = self._texts("select")
        for e in circuits.EMOTIONS:
            mine = [place[row.id] for row in select.rows if row.emotion is e]
            total = run.effects.values[np.ix_(index, mine)][..., e.column].mean(1)
            scores = {"total": (verified, total), "direct": (components, direct.by_scenario(e).mean(0))}
            self.chosen[e] = {}
            for rank, kind in product(RANKS, (Kind.HEAD, Kind.NEURON)):
                some, values = scores[rank]
                order = [i for i in np.argsort(-values, kind="stable") if some[i].kind is kind]
                for i in order[:top]:
                    if values[i] > resolution(direct.clean):
                        self.chosen[e].setdefault(some[i], []).append(rank)
            for done, component in enumerate(self.chosen[e]):
                watch(f"who compensates, {e}", done, len(self.chosen[e]))
                self.picked[e, component] = _compensators(after[e], after[e].of(component))

    def measure(self, watch: Any) -> None:
        """Everything reported, on ``test``."""
        after = self._texts("test")
        rows, helpers, kept = [], [], []
        work = [(e, c) for e, some in self.chosen.items() for c in some]
        for done, (e, c) in enumerate(work):
            watch("ablating on test", done, len(work))
            one = after[e].of(c)
            self.remainder = max(self.remainder, float(np.abs(one.remainder).max()))
            figures = {name: after[e].by_scenario(values) for name, values in _figures(one).items()}
            rows.append({
                "emotion": str(e), "component": c.name, "kind": str(c.kind), "chosen_by": "+".join(self.chosen[e][c]),
                **_columns({name: estimate(values) for name, values in figures.items()}),
                **_columns({"norm_share": _norm_share(figures)}),
                "p": _p(figures["repair"]), "n": figures["repair"].shape[-1], "unit": "logits",
            })  # fmt: skip
            kept.append(np.stack([figures[name] for name in POOLED]))
            helpers += self._helpers(after[e], one)
        self.table, self.helpers = pd.DataFrame(rows), pd.DataFrame(helpers)
        if rows:
            self.scenarios = np.stack(kept)
            tested = self.table["p"].notna()
            self.table["q"] = np.nan
            self.table.loc[tested, "q"] = benjamini_hochberg(self.table.loc[tested, "p"].to_numpy(dtype=np.float64))

    def _helpers(self, after: Aftermath, one: Repair) -> list[dict[str, Any]]:
        units = self.picked[after.emotion, one.component]
        if not units:
            return []
        reactions = after.by_scenario(after.reactions(one.component, units))
        result = []
        for unit, reaction in zip(units, reactions, strict=True):
            written = after.by_scenario(-one.changes[one.units.index(unit)])
            result.append({
                "emotion": str(after.emotion), "component": one.component.name, "unit": unit.name,
                **_columns({"reaction": estimate(reaction), "given_back": estimate(written)}),
                "n": len(reaction),
            })  # fmt: skip
        return result

    # -- what it says --------------------------------------------------------------------------------------------------

    def groups(self) -> dict[str, dict[str, Any]]:
        """Mean repair of each ranking's heads and neurons; the components of all emotions weigh the same."""
        result = {}
        for rank, kind in product(RANKS, ("head", "neuron")):
            rows = np.flatnonzero((self.table["kind"] == kind) & self.table["chosen_by"].str.contains(rank))
            if not len(rows):
                continue
            part, values = self.table.iloc[rows], self.scenarios[rows].mean(0)
            clear = part[part["q"] < 0.05]
            result[f"{kind}s with the largest {rank} effect"] = {
                **{name: estimate(values[i]) for i, name in enumerate(POOLED)},
                "share": estimate(values[:2], lambda means: means[:, 0] / means[:, 1]),
                "components": len(rows), "repaired": int((clear["repair"] > 0).sum()),
                "passed_on": int((clear["repair"] < 0).sum()),
            }  # fmt: skip
        return result

    def verdicts(self) -> list[str]:
        """Plain words, decided by the intervals."""
        if not len(self.table):
            return ["undecided: no component has an effect on any emotion, so there is nothing to ablate"]
        lines = [
            "Do later components and the final norm make up for the loss of a top component? (logits, test scenarios)"
        ]
        for name, found in self.groups().items():
            repair, share = found["repair"], found["share"]
            norm, parts = found["by_norm"], found["by_components"]
            lines.append(
                f"  {name} ({found['components']} over six emotions), n = {repair.n} scenarios: wrote {told(found['direct'])}, "
                f"losing one costs {told(found['total'])}"
            )
            of_it = (
                f", {share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of what was written"
                if repair.sign > 0
                else ""
            )
            lines.append(f"    made up for: {VERDICT[repair.sign]}: repair {told(repair)}{of_it}")
            lines.append(f"    by re-normalising alone: {VERDICT[norm.sign]}: {told(norm)}")
            through = " (they carry its effect on)" if parts.sign < 0 else ""
            lines.append(f"    by later components: {VERDICT[parts.sign]}: {told(parts)}{through}")
            lines.append(
                f"    one by one (q < .05): {found['repaired']} repaired, {found['passed_on']} cost more than they wrote, "
                f"{found['components'] - found['repaired'] - found['passed_on']} neither"
            )
        lines += ["", *self._strongest(), "", *self._who()]
        lines.append(f"largest remainder of the decomposition: {self.remainder:.1e} logits")
        return lines

    def _strongest(self) -> list[str]:
        found = self.table[(self.table["q"] < 0.05) & (self.table["repair"] > 0)]
        if found.empty:
            return ["No component is repaired (q < .05)."]
        lines = ["Repaired most, and what re-normalising alone gives back:"]
        for _, row in found.sort_values("repair", ascending=False).head(8).iterrows():
            share = "–" if np.isnan(row["norm_share_low"]) else (
                f"{row['norm_share']:.0%} [{row['norm_share_low']:.0%}, {row['norm_share_high']:.0%}] of it"
            )  # fmt: skip
            lines.append(
                f"  {row['emotion']} {row['component']}: direct {row['direct']:+.2f}, total {row['total']:+.2f}, repair "
                f"{row['repair']:+.2f} [{row['repair_low']:+.2f}, {row['repair_high']:+.2f}]; norm {row['by_norm']:+.2f} "
                f"[{row['by_norm_low']:+.2f}, {row['by_norm_high']:+.2f}], {share}"
            )
        return lines

    def _who(self) -> list[str]:
        if not len(self.helpers):
            return ["Who compensates: nobody was found on select."]
        held = self.helpers[self.helpers["reaction_low"] > 0]
        lines = [
            f"Who compensates: of {len(self.helpers)} compensators picked on select {len(held)} are confirmed on test "
            "(interval above 0; about 1 in 40 would be by chance)"
        ]
        for _, row in held.sort_values("reaction", ascending=False).head(8).iterrows():
            lines.append(
                f"  {row['emotion']}: {row['unit']} reacts to the loss of {row['component']} with {row['reaction']:+.2f} "
                f"[{row['reaction_low']:+.2f}, {row['reaction_high']:+.2f}], writes {row['given_back']:+.2f} "
                f"[{row['given_back_low']:+.2f}, {row['given_back_high']:+.2f}] itself, n = {row['n']}"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Everything behind words and figures."""
        groups = {
            name: {k: v.as_dict() if isinstance(v, Estimate) else v for k, v in found.items()}
            for name, found in (self.groups() if len(self.table) else {}).items()
        }
        return {
            "unit": "logits", "positions": str(self.positions), "ablation": str(Ablation.MEAN_SCENARIO), "split": "test",
            "groups": groups, "components": self.table.to_dict("records"), "compensators": self.helpers.to_dict("records"),
            "largest_remainder": self.remainder,
        }  # fmt: skip


def _compensators(after: Aftermath, one: Repair) -> list[Component]:
    """The units whose reaction is worth most: of all heads behind, and of the neurons that write most of what is given back."""
    heads = [u for u in one.units if u.kind is Kind.HEAD]
    neurons = [i for i in np.argsort(one.changes.mean(1), kind="stable") if one.units[i].kind is Kind.NEURON]
    asked = [*heads, *(one.units[i] for i in neurons[:NEURONS_ASKED])]
    if not asked:
        return []
    worth = after.reactions(one.component, asked).mean(1)
    return [asked[i] for i in np.argsort(-worth, kind="stable")[:NAMED] if worth[i] > 0]


def _figures(one: Repair) -> dict[str, np.ndarray]:
    """What is told of a component, ``[prompt]`` [logits]; heads and neurons behind it with the sign of what they give back."""
    is_head = np.array([u.kind is Kind.HEAD for u in one.units], dtype=bool)
    return {
        "total": one.total, "direct": one.direct, "renormalised": one.renormalised, "repair": one.repair,
        "by_norm": one.direct - one.renormalised, "by_components": one.renormalised - one.total,
        "heads": -one.changes[is_head].sum(0), "neurons": -one.changes[~is_head].sum(0), "norm": -one.norm,
    }  # fmt: skip


def _norm_share(figures: Mapping[str, np.ndarray]) -> Estimate:
    """Re-normalising's share of the repair; NaN where the repair is not clearly above zero."""
    if estimate(figures["repair"]).sign <= 0:
        return Estimate(float("nan"), float("nan"), float("nan"), len(figures["repair"]))
    both = np.stack([figures["by_norm"], figures["repair"]])
    return estimate(both, lambda means: means[:, 0] / means[:, 1])


def _p(repair: np.ndarray) -> float:
    """Sign-flip p over scenarios; NaN for too few."""
    return float(sign_flip(repair[:, None])[0]) if len(repair) >= MIN_SCENARIOS else float("nan")


def _columns(found: Mapping[str, Estimate]) -> dict[str, float]:
    return {
        key: value
        for name, one in found.items()
        for key, value in ((name, one.value), (f"{name}_low", one.low), (f"{name}_high", one.high))
    }


def told(one: Estimate) -> str:
    """``+0.520 [+0.410, +0.600]``."""
    return f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"


if __name__ == "__main__":
    script(main)
