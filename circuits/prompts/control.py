"""An unrelated control task out of the same texts: which name comes next, instead of which feeling.

Made for sets whose texts end "… <Name> <word>" with the name told before, as in ``microstories``. Each text is cut before the
name, and the person told of is called by six names in turn, in an otherwise equal text; whoever read the story knows which
of the six may follow. The six names take the places of the six emotions, so that metric, ablation and statistics are the
same to the letter: ``mean_scenario`` then takes away what differs by *name*, and nothing about feelings differs at all.
(Pronouns would be the usual choice; the micro-world has none.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from circuits.errors import PromptError
from circuits.prompts.datasets import Prompt, Prompts
from circuits.prompts.emotions import EMOTIONS

__all__ = ["NameControl", "name_control"]


@dataclass(frozen=True)
class NameControl:
    """The control task.

    Attributes:
        prompts: the same scenarios and splits; the "emotion" of a row stands for a name, whose one answer word it is.
        names: the six names, in the order of the emotions whose places they take.
    """

    prompts: Prompts
    names: tuple[str, ...]


def name_control(prompts: Prompts) -> NameControl:
    """The control made of ``prompts``.

    Of scenario number i the text of emotion ``i mod 6`` is used. Other persons get names that are none of the six.

    Raises:
        PromptError: a text does not end with a name that was told before, or there are too few names.
    """
    scenarios: dict[str, list[Prompt]] = {}
    for row in prompts.rows:
        scenarios.setdefault(row.scenario, []).append(row)
    chosen = [_row(rows, number) for number, rows in enumerate(scenarios.values())]
    told = [_asked(prompts, row) for row in chosen]
    names = sorted({name for name, _ in told})
    if len(names) < len(EMOTIONS):
        raise PromptError(
            f"{prompts.name!r} asks about {len(names)} persons ({', '.join(names)}); expected at least {len(EMOTIONS)} names "
            "to make a control task of: use a set such as microstories"
        )
    six, rest = names[: len(EMOTIONS)], names[len(EMOTIONS) :]
    rows: list[dict[str, object]] = []
    for number, (row, (asked, stem)) in enumerate(zip(chosen, told, strict=True)):
        others = [name for name in names if name != asked and _has(stem, name)]
        if len(others) > len(rest):
            raise PromptError(
                f"{row.id!r} tells of {len(others)} other persons and only {len(rest)} names are left for them; expected "
                "shorter stories or more names"
            )
        away = {name: rest[(number + place) % len(rest)] for place, name in enumerate(others)}
        for e, name in zip(EMOTIONS, six, strict=True):
            rows.append({
                "id": f"{row.scenario}-{name}", "scenario": row.scenario, "emotion": str(e), "split": str(row.split),
                "text": _renamed(stem, {asked: name, **away}), "lexical": "implicit",
            })  # fmt: skip
    answers = {str(e): [name] for e, name in zip(EMOTIONS, six, strict=True)}
    return NameControl(Prompts.of(rows, name=f"{prompts.name}, names", answers=answers), tuple(six))


def _row(rows: list[Prompt], number: int) -> Prompt:
    wanted = EMOTIONS[number % len(EMOTIONS)]
    return next((row for row in rows if row.emotion is wanted), rows[0])


def _asked(prompts: Prompts, row: Prompt) -> tuple[str, str]:
    """The asked person's name, and the text before it."""
    words = row.text.split(" ")
    name, stem = (words[-2], " ".join(words[:-2])) if len(words) > 2 else ("", "")
    if not (name.isalpha() and name[0].isupper() and _has(stem, name)):
        raise PromptError(
            f"{row.id!r} of {prompts.name!r} does not end with a name told before and one word more (it ends "
            f"{' '.join(words[-2:])!r}), so no control task can be made of it: use a set such as microstories"
        )
    return name, stem


def _has(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def _renamed(text: str, names: dict[str, str]) -> str:
    """All at once, so that a new name is not renamed again."""
    pattern = "|".join(re.escape(name) for name in names)
    return re.sub(rf"\b({pattern})\b", lambda found: names[found[0]], text)
