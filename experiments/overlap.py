"""Do emotions share heads more than neurons, and is what they share about emotions at all?

Likeness: every two circuits' Jaccard beside chance (random sets of the same layers) and ceiling (one emotion's own sets from
two halves of the scenarios). Shared nodes are then ablated and all six emotions read, next to random sets of the same layers,
and next to a control task without emotions: which name comes next, made from the same texts (circuits/prompts/control.py; the
micro-world has no pronouns). What is shared is called *mostly about emotions* where the control loses less than half of what
the emotions lose, by the whole interval, and *contradicted* where it loses more than half. Each loss is a share of what the
whole model has over the empty one in that task. Circuits were chosen on ``select``; losses are from ``test``; likeness uses
the per-prompt effects of both.

Example: python experiments/overlap.py --model embedded --prompts microstories
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape

import circuits
from circuits.circuit.estimates import Estimate, estimate, randoms
from circuits.circuit.evaluation import Bench
from circuits.circuit.sharing import Likeness, Losses, likeness, likeness_apart, shared_by
from circuits.circuit.stability import chance_jaccard, jaccard
from circuits.cli import script
from circuits.effects.batch import Plan
from circuits.effects.kinds import Ablation
from circuits.errors import MeasurementError, PromptError, SettingsError
from circuits.model.sites import Component, Kind
from circuits.prompts.control import name_control
from circuits.runs.files import write_bytes, write_json
from circuits.show import studies
from circuits.show.report import page
from circuits.show.terminal import watching

VERDICT = {1: "supported", -1: "contradicted", 0: "undecided"}
KINDS = {"heads": Kind.HEAD, "neurons": Kind.NEURON}
CONTROL = "which name comes next"
HALF = 0.5
Circuits = Mapping[circuits.Emotion, frozenset[Component]]


def main(
    model: Annotated[str, typer.Option(help="'embedded', a directory or a hub name.")] = "embedded",
    prompts: Annotated[str, typer.Option(help="A prompt file or shipped set.")] = "microstories",
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/<model>-<prompts>-<hash>.")] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws of the likeness.")] = 1000,
    random: Annotated[int, typer.Option(help="Random sets beside each shared one.")] = 10,
) -> None:
    """Compare the six circuits, then ablate what they share.

    Example: python experiments/overlap.py --model embedded --prompts microstories
    """
    if draws < 100 or random < 1:
        raise SettingsError(f"draws is {draws} and random {random}; expected at least 100 and 1")
    console = Console(highlight=False)
    loaded, rows = circuits.load(model), circuits.read_prompts(prompts)
    with watching(Console(stderr=True)) as watch:
        run = circuits.discover(loaded, rows, directory=out, watch=watch)
        found = {e: frozenset(run.circuit(str(e)).components) for e in circuits.EMOTIONS}
        study = Study(loaded, rows, {e: some for e, some in found.items() if some}, draws, random, watch)
        if len(study.circuits) >= 2:
            study.compare(run)
            study.ablate()
    lines = study.verdicts()
    for line in (*study.notes, *lines):
        console.print(escape(line), soft_wrap=True)
    place = run.directory / "figures"
    write_json(place / "overlap.json", {**study.results, "notes": study.notes, "verdicts": lines})
    write_bytes(place / "overlap.csv", study.table.to_csv(index=False).encode())
    write_bytes(place / "overlap.html", page(f"What emotions share in {loaded.name}", study.figures()).encode())
    console.print(f"\nopen {escape(str(place / 'overlap.html'))}", soft_wrap=True)


@dataclass
class Study:
    """The six circuits, what was found out about them, and what is to be said of it."""

    model: circuits.Model
    rows: circuits.Prompts
    circuits: Circuits
    draws: int
    random: int
    watch: Any
    results: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    likeness: dict[str, Likeness] = field(default_factory=dict)
    apart: Estimate | None = None

    # -- how alike -----------------------------------------------------------------------------------------------------

    def compare(self, run: circuits.Run) -> None:
        """Likeness of heads and of neurons, and the table of pairs."""
        names = run.effects.components
        own = {name: i for i, name in enumerate(names)}
        lines = []
        for done, (name, kind) in enumerate(KINDS.items()):
            self.watch("comparing circuits", done, len(KINDS))
            components = self.model.heads if kind is Kind.HEAD else self.model.neurons
            index = [own[c.name] for c in components]
            sets = {e: frozenset(c for c in some if c.kind is kind) for e, some in self.circuits.items()}
            sizes = {e: len(some) for e, some in sets.items()}
            values = {e: self._by_scenario(run, e)[:, index] for e in self.circuits}
            try:
                self.likeness[name] = likeness(values, components, sizes, draws=self.draws)
            except MeasurementError as why:
                self.notes.append(f"{name}: no likeness: {why}")
            self.results.setdefault("cut_agrees", {})[name] = self._agreement(run, sets, components, index)
            ceilings = self.likeness[name].ceilings if name in self.likeness else {}
            lines += [
                {
                    "kind": name, "first": str(a), "second": str(b), "size_first": sizes[a], "size_second": sizes[b],
                    "shared": len(sets[a] & sets[b]), "jaccard": jaccard(sets[a], sets[b]),
                    "chance": chance_jaccard(sets[a], sets[b], components),
                    "ceiling": float(np.mean([ceilings.get(a, np.nan), ceilings.get(b, np.nan)])),
                }
                for a, b in combinations(self.circuits, 2)
                if sizes[a] and sizes[b]
            ]  # fmt: skip
        self.table = pd.DataFrame(lines)
        self.results["likeness"] = {name: one.as_dict() for name, one in self.likeness.items()}
        self.results["pairs"] = lines
        if len(self.likeness) == len(KINDS):
            self.apart = likeness_apart(self.likeness["heads"], self.likeness["neurons"])
            self.results["heads_minus_neurons"] = self.apart.as_dict()

    def _agreement(self, run: circuits.Run, sets: Circuits, components: Sequence[Component], index: list[int]) -> float:
        """Mean Jaccard of the circuits with the same cut made on ``select``, where they were chosen.

        Circuits leave out what is strong on average but not significant; the cut does not ask.
        """
        found = []
        for e, some in sets.items():
            best = np.argsort(-self._by_scenario(run, e, "select")[:, index].mean(0), kind="stable")[: len(some)]
            found.append(jaccard(some, [components[i] for i in best]))
        return float(np.mean(found))

    def _by_scenario(self, run: circuits.Run, e: circuits.Emotion, *splits: str) -> np.ndarray:
        """Effects on ``e`` on its own texts of ``select`` and ``test``, ``[scenario, component]``."""
        place = {name: i for i, name in enumerate(run.effects.prompt_ids)}
        splits = splits or ("select", "test")
        mine = [row for row in self.rows.rows if row.emotion is e and row.id in place and row.split in splits]
        values = run.effects.values[:, [place[row.id] for row in mine], e.column].T.astype(np.float64)
        return pd.DataFrame(values).groupby([row.scenario for row in mine], sort=True).mean().to_numpy()

    # -- what for ------------------------------------------------------------------------------------------------------

    def sets(self) -> dict[str, frozenset[Component]]:
        """Shared sets by name; empty ones are left out."""
        every, two = shared_by(self.circuits, len(self.circuits)), shared_by(self.circuits, 2)
        named = {
            "heads in all": {c for c in every if c.kind is Kind.HEAD},
            "heads in 2 or more": {c for c in two if c.kind is Kind.HEAD},
            "neurons in 2 or more": {c for c in two if c.kind is Kind.NEURON},
            "all in 2 or more": two,
            "in one circuit only": shared_by(self.circuits, 1) - two,
        }
        return {name: frozenset(some) for name, some in named.items() if some}

    def ablate(self) -> None:
        """What each shared set costs the emotions and the control."""
        test = self.rows.split("test")
        benches = {
            str(e): bench for e, bench in self._benches(test, Ablation.MEAN_SCENARIO).items() if e in self.circuits
        }
        control, strict = self._control(), dict(self._named(self._benches(test, Ablation.MEAN), self.circuits))
        if control is not None:
            benches |= self._benches_of(control, Ablation.MEAN_SCENARIO)
            strict |= self._benches_of(control, Ablation.MEAN)
        losses = Losses(benches)
        self.notes += [f"{name} is left out: {why}" for name, why in losses.undefined.items()]
        named = self.sets()
        self.results["sets"] = {name: sorted(c.name for c in some) for name, some in named.items()}
        self.results["losses"] = {}
        for done, (name, some) in enumerate(named.items()):
            self.watch("ablating what is shared", done, len(named) + 2)
            others = randoms(self.model, some, count=self.random)
            lost = losses.lost([some, *others])
            common = float(np.mean([len(some & one) / len(some) for one in others]))
            self.results["losses"][name] = self._entry(losses, lost) | {"size": len(some), "random_common": common}
        self.watch("ablating what is shared", len(named), len(named) + 2)
        self.results["belonging"] = self._belonging(losses)
        self.watch("ablating what is shared", len(named) + 1, len(named) + 2)
        try:
            harder = Losses(strict)
            for name, lost in zip(named, harder.lost(list(named.values())), strict=True):
                self.results["losses"][name]["mean_ablation"] = self._entry(harder, lost[None])
        except MeasurementError as why:
            self.notes.append(f"with the data set's mean: {why}")

    def _entry(self, losses: Losses, lost: np.ndarray) -> dict[str, Any]:
        """Losses of a set (the first) and the mean loss of random ones (the rest), by group of tasks."""
        groups = {
            "emotions": [str(e) for e in self.circuits],
            "control": [t for t in losses.tasks if t.startswith("name ")],
        }
        weights = {who: w for who, names in groups.items() if (w := losses.mean_of(names))}
        entry: dict[str, Any] = {"unit": "share of m(M) - m(empty)"}
        for who, some in weights.items():
            entry[who] = losses.share(lost[0], some).as_dict()
            if len(lost) > 1:
                entry[who]["random"] = losses.contrast(lost[1:], [some] * (len(lost) - 1)).value
        entry["each"] = {task: losses.share(lost[0], {task: 1.0}).as_dict() for task in losses.tasks}
        if len(weights) == 2:
            apart = dict(weights["emotions"]) | {task: -w for task, w in weights["control"].items()}
            entry["emotions_minus_control"] = losses.share(lost[0], apart).as_dict()
            entry["control_over_emotions"] = losses.ratio(lost[0], weights["control"], weights["emotions"]).as_dict()
            if len(lost) > 1:
                entry["emotions_minus_control_beyond_random"] = self._beyond(losses, lost, apart).as_dict()
        if "emotions" in weights and len(lost) > 1:
            entry["emotions_minus_random"] = self._beyond(losses, lost, weights["emotions"]).as_dict()
        return entry

    @staticmethod
    def _beyond(losses: Losses, lost: np.ndarray, weights: Mapping[str, float]) -> Estimate:
        """The set's figure minus the mean of the random sets'."""
        others = {task: -w / (len(lost) - 1) for task, w in weights.items()}
        # ``contrast`` averages over sets; here they are summed.
        summed = [{t: w * len(lost) for t, w in one.items()} for one in (weights, *[others] * (len(lost) - 1))]
        return losses.contrast(lost, summed)

    def _belonging(self, losses: Losses) -> dict[str, Any]:
        """Do nodes of two circuits cost those two more than the other four, and nodes of one circuit that one?"""
        every, two = shared_by(self.circuits, len(self.circuits)), shared_by(self.circuits, 2)
        here = [e for e in self.circuits if str(e) in losses.tasks]
        result = {}
        for name, kind in KINDS.items():
            of_pairs = {p: (self.circuits[p[0]] & self.circuits[p[1]]) - every for p in combinations(here, 2)}
            of_one = {(e,): self.circuits[e] - two for e in here}
            for what, owners in (("of two", of_pairs), ("of one", of_one)):
                some = {p: [c for c in nodes if c.kind is kind] for p, nodes in owners.items()}
                some = {p: nodes for p, nodes in some.items() if nodes and len(p) < len(here)}
                if some:
                    weights = [self._against(p, here) for p in some]
                    found = losses.contrast(losses.lost(list(some.values())), weights).as_dict()
                    result[f"{name} {what}"] = {**found, "sets": len(some), "unit": "share of m(M) - m(empty)"}
        return result

    @staticmethod
    def _against(owners: Collection[circuits.Emotion], here: Collection[circuits.Emotion]) -> dict[str, float]:
        others = len(here) - len(owners)
        return {str(e): 1 / len(owners) if e in owners else -1 / others for e in here}

    def _benches(self, prompts: circuits.Prompts, ablation: Ablation) -> dict[circuits.Emotion, Bench]:
        return Bench.every(Plan.of(self.model, prompts, ablation))

    @staticmethod
    def _named(benches: Mapping[circuits.Emotion, Bench], some: Collection[circuits.Emotion]) -> dict[str, Bench]:
        return {str(e): bench for e, bench in benches.items() if e in some}

    def _benches_of(self, control: Control, ablation: Ablation) -> dict[str, Bench]:
        benches = self._benches(control.prompts, ablation)
        return {f"name {name}": benches[e] for e, name in zip(circuits.EMOTIONS, control.names, strict=True)}

    def _control(self) -> Control | None:
        """The control task on ``test``, or None where it cannot be made or the model cannot do it."""
        try:
            made = name_control(self.rows)
        except PromptError as why:
            self.notes.append(f"no control task: {why}")
            return None
        prompts = made.prompts.split("test")
        plan = Plan.of(self.model, prompts, Ablation.MEAN_SCENARIO)
        right = np.zeros(len(prompts))
        for rows in plan.rows:
            right[rows] = plan.clean(rows).cpu().numpy().argmax(1) == prompts.emotions[rows]
        accuracy = estimate(pd.Series(right).groupby(prompts.scenarios).mean().to_numpy())
        self.results["control"] = {
            "task": CONTROL,
            "names": list(made.names),
            "accuracy": accuracy.as_dict(),
            "chance": 1 / 6,
        }
        self.notes.append(
            f"control task, {CONTROL}: the model names the right one of six in {accuracy.value:.1%} "
            f"[{accuracy.low:.1%}, {accuracy.high:.1%}] (chance 16.7%, n = {accuracy.n} scenarios, {len(prompts)} texts)"
        )
        if not accuracy.low > 1 / 6:
            self.notes.append("no control task: the model is not reliably better than chance at it")
            return None
        return Control(prompts, made.names)

    # -- what it says --------------------------------------------------------------------------------------------------

    def verdicts(self) -> list[str]:
        """Plain words, decided by the intervals."""
        if len(self.circuits) < 2:
            return [
                f"undecided: {len(self.circuits)} of the six emotions have a circuit, so there is nothing to compare"
            ]
        lines = ["", "Do emotions share heads more than neurons?"]
        for name, one in self.likeness.items():
            across = f"{one.between.value:.2f} [{one.between.low:.2f}, {one.between.high:.2f}]"
            lines.append(
                f"  {name}: Jaccard across halves {across}, chance {one.chance:.2f}, ceiling {one.ceiling.value:.2f}; "
                f"normalised {interval(one.share)}, n = {one.n} scenarios (the cut and the circuits agree by "
                f"{self.results['cut_agrees'][name]:.2f})"
            )
        if self.apart is None:
            lines.append("  undecided: one of the two kinds could not be compared")
        else:
            lines.append(
                f"  {VERDICT[self.apart.sign]}: normalised likeness of heads minus neurons {interval(self.apart)}"
            )
        lines += ["", "Is what they share about emotions? (loss as a share of the task's own gap, test scenarios)"]
        for name, entry in self.results.get("losses", {}).items():
            lines.append(
                f"  {name} ({entry['size']} nodes, {entry['random_common']:.0%} of them in a random set as well):"
            )
            lines += [f"    {part}" for part in self._told(entry)]
        lines += ["", "Do shared nodes belong to those who share them? (loss of theirs minus loss of the others)"]
        for name, found in self.results.get("belonging", {}).items():
            one = _estimate(found)
            lines.append(
                f"  {name}: {VERDICT[one.sign]}: {interval(one, percent=True)}, {found['sets']} sets, n = {one.n}"
            )
        return lines

    def _told(self, entry: Mapping[str, Any]) -> list[str]:
        parts = []
        for who, label in (("emotions", "six emotions"), ("control", CONTROL)):
            if who in entry:
                parts.append(
                    f"{label}: {interval(_estimate(entry[who]), percent=True)}, random sets {entry[who]['random']:.0%} "
                    f"(n = {entry[who]['n']})"
                )
        if "emotions_minus_random" in entry:
            one = _estimate(entry["emotions_minus_random"])
            parts.append(f"costs emotions more than random sets do: {VERDICT[one.sign]}: {interval(one, percent=True)}")
        if "emotions_minus_control" in entry:
            one = _estimate(entry["emotions_minus_control"])
            beyond = _estimate(entry["emotions_minus_control_beyond_random"])
            parts.append(
                f"emotions minus control {interval(one, percent=True)}; the same beyond random sets "
                f"{interval(beyond, percent=True)}"
            )
            text = f"mostly about emotions: {mostly(entry)}"
            if "control_over_emotions" in entry.get("mean_ablation", {}):
                text += f"; with the data set's mean: {mostly(entry['mean_ablation'])}"
            parts.append(text)
        else:
            parts.append("mostly about emotions: undecided: there is no control")
        return parts

    def figures(self) -> list[Any]:
        """What can be drawn."""
        drawn = []
        if self.likeness:
            drawn.append(studies.likenesses({name: one.as_dict() for name, one in self.likeness.items()}))
        if len(self.table):
            drawn.append(studies.pairs(self.table, list(dict.fromkeys(self.table["kind"]))))
        if self.results.get("losses"):
            drawn.append(studies.shared_losses(self.results["losses"], f"control: {CONTROL}"))
        return drawn


@dataclass(frozen=True)
class Control:
    """The control's test texts and the six names."""

    prompts: circuits.Prompts
    names: tuple[str, ...]


def _estimate(found: Mapping[str, Any]) -> Estimate:
    return Estimate(**{key: found[key] for key in ("value", "low", "high", "n")})


def mostly(entry: Mapping[str, Any]) -> str:
    """Whether a set's loss is mostly the emotions' own, decided by the interval of the control's share of it."""
    one = _estimate(entry["control_over_emotions"])
    if np.isnan(one.low):
        return "undecided: the emotions lose nothing clear"
    word = VERDICT[int(one.high < HALF) - int(one.low > HALF)]
    return f"{word}: the control loses {one.value:.0%} [{one.low:.0%}, {one.high:.0%}] of what the emotions lose"


def interval(one: Estimate, *, percent: bool = False) -> str:
    """``+0.52 [+0.41, +0.60]`` or ``+52.0% [+41.0%, +60.0%]``."""
    numbers = [
        f"{round(x, 3) + 0.0:+.1%}" if percent else f"{round(x, 2) + 0.0:+.2f}" for x in (one.value, one.low, one.high)
    ]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


if __name__ == "__main__":
    script(main)
