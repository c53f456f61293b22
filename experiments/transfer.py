"""Do the emotion directions of written scenarios carry over to real text that people labelled?

Directions are estimated on the ``fit`` split of a prompt set, by all three estimators, and held fixed. Each real text is read
at its last token (or as the mean over its tokens), at both positions of every layer, and ordered by its projection on each
direction: the area under the curve, one emotion against the other five, with a 95% interval over texts and a null of
labels permuted among texts of the same ending and length, that keeps the largest area over states. Emotions have equally many
texts. The state named for an emotion was chosen on one half of its texts; all figures are of the other half. .50 means that
nothing carries over; what endings and lengths alone give is told beside it.

The file is given by you and stays where it is: tab-separated, columns text and emotions (labels of Ekman's or Plutchik's
scheme, several separated by commas; only texts with exactly one of the six are used).

Example: python experiments/transfer.py --model gpt2 --prompts situations --labelled comments.tsv
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from html import escape as html_escape
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from ledger.others import carried
from rich.console import Console
from rich.markup import escape

import circuits
from circuits.cli import script
from circuits.directions.estimators import directions_from
from circuits.directions.transfer import Transfer, transfer
from circuits.directions.vectors import Directions
from circuits.effects.kinds import member
from circuits.effects.statistics import benjamini_hochberg
from circuits.errors import DirectionError, SettingsError
from circuits.model.reading import read_texts
from circuits.model.words import require_words, unknown_words
from circuits.prompts.labelled import LEAST, Labelled, balanced, read_labelled, surface
from circuits.runs.files import write_bytes, write_json
from circuits.runs.ledger import keep_claims
from circuits.show import figures
from circuits.show.report import page
from circuits.show.terminal import watching
from circuits.versions import code, versions

ESTIMATORS = (circuits.contrast, circuits.grand_mean, circuits.probe)
MOST_TOKENS = 256
Watch = Callable[[str, int, int], None]


class Read(StrEnum):
    """Where a text is read."""

    LAST = "last"
    """At its last token, as the scenarios are."""
    MEAN = "mean"
    """The mean over its tokens from the second on."""


def main(
    labelled: Annotated[Path, typer.Option(help="Tab-separated text with columns text and emotions.")],
    model: Annotated[str, typer.Option(help="'embedded', a directory or a hub name.")] = "embedded",
    prompts: Annotated[
        str, typer.Option(help="A prompt file or shipped set the directions come from.")
    ] = "microstories",
    limit: Annotated[
        int, typer.Option(help=f"Texts of each emotion, at most; half of them choose a state. At least {LEAST}.")
    ] = 400,
    read: Annotated[str, typer.Option(help="Where a text is read: last (token) or mean (over tokens).")] = "last",
    ending: Annotated[str, typer.Option(help="Put behind every text before it is read, such as ' I feel'.")] = "",
    draws: Annotated[int, typer.Option(help="Bootstrap draws, and permutations.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of drawing texts, halves, draws and permutations.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default runs/transfer-<model>-<prompts>-<labelled>.")
    ] = None,
) -> None:
    """Order real text by the directions of written scenarios.

    Example: python experiments/transfer.py --model gpt2 --prompts situations --labelled comments.tsv
    """
    if draws < 100 or seed < 0:
        raise SettingsError(f"draws is {draws} and seed {seed}; expected at least 100 and 0")
    where = member(Read, read)
    console = Console(highlight=False)
    everything = read_labelled(labelled)  # before the model: it is the quicker of the two to be wrong
    rows = circuits.read_prompts(prompts)
    loaded = circuits.load(model)
    most = min(loaded.n_ctx, MOST_TOKENS)
    with watching(Console(stderr=True)) as watch:
        watch("drawing texts", 0, 1)
        texts = balanced(everything, lambda text: len(loaded.token_ids(text + ending)) <= most, limit, seed=seed)
        study = Study(loaded, rows, texts, where, ending)
        study.estimate(watch)
        study.order(watch, draws, seed)
    study.notes.insert(0, told(everything, texts, most))
    place = out or Path("runs") / f"transfer-{slug(model)}-{slug(rows.name)}-{slug(texts.name)}"
    for line in (*study.notes, *study.verdicts()):
        console.print(escape(line), soft_wrap=True)
    settings = {"limit": limit, "read": str(where), "ending": ending, "draws": draws, "seed": seed, "most_tokens": most}
    write_json(place / "results.json", study.as_dict() | {"settings": settings, "versions": versions(), "code": code()})
    write_bytes(place / "transfer.csv", study.table().to_csv(index=False).encode())
    keep_claims(place, "transfer", carried(study.results, model=loaded.name, prompts=f"{rows.name} → {texts.name}"))
    write_bytes(place / "transfer.html", page(f"{rows.name} → {texts.name} in {loaded.name}", study.figures()).encode())
    console.print(f"\nopen {escape(str(place / 'transfer.html'))}", soft_wrap=True)


@dataclass
class Study:
    """Directions of one prompt set in one model, the texts they are tried on, and what came of it."""

    model: circuits.Model
    rows: circuits.Prompts
    texts: Labelled
    read: Read
    ending: str = ""

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        self.directions: dict[str, Directions] = {}
        self.results: dict[str, Transfer] = {}

    def estimate(self, watch: Watch) -> None:
        """Directions on ``fit`` by every estimator that these prompts allow; why another is left out is noted."""
        fit = self.rows.split("fit")
        require_words(self.model, fit)
        watch("reading the scenarios", 0, 1)
        readings = circuits.capture(self.model, fit)
        for done, estimator in enumerate(ESTIMATORS):
            watch("estimating directions", done, len(ESTIMATORS))
            try:
                self.directions[estimator.__name__] = directions_from(self.model, readings, estimator)
            except DirectionError as why:
                self.notes.append(f"{estimator.__name__} is left out: {why}")
        if not self.directions:
            raise DirectionError(f"no estimator finds directions in {self.rows.name!r}: {self.notes[-1]}")

    def order(self, watch: Watch, draws: int, seed: int) -> None:
        """Read the texts once, project them on every direction, and judge the order."""
        known = [(len(unknown_words(self.model, text)), len(text.split())) for text in self.texts.texts]
        if self.model.whole_words:
            lost = sum(n for n, _ in known)
            clean = sum(n == 0 for n, _ in known)
            self.notes.append(
                f"{self.model.name} has a vocabulary of whole words and does not know {lost:,} words of these texts "
                f"({clean} of {len(known)} texts hold only words it knows): what exceeds .50 is spelling, length or punctuation"
            )
        scores = self._scores(watch)
        alike = surface(self.texts.texts)
        for done, (name, directions) in enumerate(self.directions.items()):
            watch("resampling texts", done, len(self.directions))
            self.results[name] = transfer(
                directions, scores[name], self.texts.emotions, alike, draws=draws, permutations=draws, seed=seed
            )

    def _scores(self, watch: Watch) -> dict[str, np.ndarray]:
        """Projections ``[text, state, emotion]`` by estimator; texts of like length are read together."""
        texts = [text + self.ending for text in self.texts.texts]
        order = np.argsort([len(self.model.token_ids(text)) for text in texts], kind="stable")
        names = [f"text {i + 1} drawn from {self.texts.name}" for i in order]
        shape = (len(texts), len(self.model.states), len(circuits.EMOTIONS))
        scores = {name: np.empty(shape) for name in self.directions}
        done = 0
        for last, mean in read_texts(self.model, [texts[i] for i in order], names):
            watch("reading real text", done, len(texts))
            states = last if self.read is Read.LAST else mean
            for name, directions in self.directions.items():
                found = np.einsum("psd,esd->pse", states, directions.vectors)
                scores[name][order[done : done + len(states)]] = found
            done += len(states)
        return scores

    # -- what is said of it --------------------------------------------------------------------------------------------

    def q(self) -> dict[str, np.ndarray]:
        """Benjamini–Hochberg q of each estimator's six tests, all estimators taken together."""
        flat = benjamini_hochberg(np.concatenate([found.p for found in self.results.values()]))
        parts = np.split(flat, len(self.results))
        return dict(zip(self.results, parts, strict=True))

    def verdicts(self) -> list[str]:
        """A line for each estimator and emotion."""
        lines = []
        for name, found in self.results.items():
            q = self.q()[name]
            lines.append(f"{name}: AUROC at the state chosen on the other half, 95% interval over texts")
            lines += [f"  {verdict(found, e, float(q[e.column]))}" for e in circuits.EMOTIONS]
        return lines

    def table(self) -> pd.DataFrame:
        """One row for each estimator, emotion and state."""
        rows = []
        for name, found in self.results.items():
            q = self.q()[name]
            for e in circuits.EMOTIONS:
                for place, state in enumerate(found.states):
                    i = (e.column, place)
                    rows.append({
                        "labelled": self.texts.name, "prompts": self.rows.name, "model": self.model.name,
                        "read": str(self.read), "estimator": name, "emotion": str(e),
                        "state": state.name, "layer": state.layer, "half": str(state.half),
                        "auroc": found.auroc[i], "low": found.low[i], "high": found.high[i],
                        "surface_alone": found.null[i],
                        "null_95": found.threshold[e.column], "p_over_states": found.p[e.column], "q": q[e.column],
                        "chosen": place == found.chosen[e.column], "n": found.n[e.column], "n_rest": found.rest[e.column],
                    })  # fmt: skip
        return pd.DataFrame(rows)

    def figures(self) -> list[Any]:
        """A figure for each estimator."""
        at = "last token" if self.read is Read.LAST else "mean over tokens"
        titles = {
            name: html_escape(
                f"{name}: {self.rows.name} → {self.texts.name}, {at} ({found.n[0]} texts an emotion; dotted: null, 95%)"
            )
            for name, found in self.results.items()
        }
        return [
            figures.onset(f.auroc, f.low, f.high, f.threshold, [s.name for s in f.states], titles[name])
            for name, f in self.results.items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything behind the figures but the texts."""
        return {
            "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "prompts": {"name": self.rows.name, "fingerprint": self.rows.fingerprint, "split": "fit"},
            "labelled": {
                "name": self.texts.name, "fingerprint": self.texts.fingerprint, "left_out": self.texts.left_out,
                "counts": {str(e): n for e, n in self.texts.counts.items()},
            },
            "unit": "AUROC, one emotion against the other five",
            "notes": self.notes,
            "verdicts": self.verdicts(),
            "estimators": {name: self._as_dict(name, found) for name, found in self.results.items()},
        }  # fmt: skip

    def _as_dict(self, name: str, found: Transfer) -> dict[str, Any]:
        arrays = {key: getattr(found, key) for key in ("auroc", "low", "high", "null", "threshold", "p", "n", "rest")}
        chosen = {str(e): found.at_chosen(e)[0].name for e in circuits.EMOTIONS}
        split_half = self.directions[name].split_half
        states = [s.name for s in found.states]
        return {"states": states, "chosen": chosen, "q": self.q()[name], "split_half_cosine": split_half, **arrays}


def verdict(found: Transfer, e: circuits.Emotion, q: float) -> str:
    """One line: does the direction order texts of this emotion, how well, against what."""
    state, value, low, high, null = found.at_chosen(e)
    row = e.column
    best = float(np.nanmax(found.auroc[row]))
    word = "carries over" if q < 0.05 and low > max(0.5, null) else "reversed" if high < min(0.5, null) else "not shown"
    return (
        f"{e}: {word}: {value:.2f} [{low:.2f}, {high:.2f}] at {state}, surface alone {null:.2f} "
        f"(n = {found.n[row]} texts against {found.rest[row]}; "
        f"largest over states {best:.2f}, null {found.threshold[row]:.2f}, p {found.p[row]:.3f}, q {q:.3f})"
    )


def told(everything: Labelled, drawn: Labelled, most: int) -> str:
    """What was used of the file and what was not, by reason."""
    counts = ", ".join(f"{e} {n}" for e, n in everything.counts.items())
    reasons: Mapping[str, int] = {**drawn.left_out}
    left = "; ".join(f"{reason}: {n:,}" for reason, n in reasons.items() if n)
    return (
        f"{drawn.name}: {len(everything):,} texts carry exactly one of the six ({counts}); {len(drawn) // 6} of each are used, "
        f"of at most {most} tokens. Left out: {left}"
    )


def slug(name: str) -> str:
    """A name as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(name).name).strip("-.")[:40] or "unnamed"


if __name__ == "__main__":
    script(main)
