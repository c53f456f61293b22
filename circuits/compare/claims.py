"""Claims put to the test: what was said, by whom, and what the data say. Every experiment ends in such records.

A verdict follows from an interval and a bar that was set before: *supported* where the whole interval lies on the claimed side
of the bar, *contradicted* where it lies on the other, *undecided* otherwise, and then the record says what would decide it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np

from circuits.circuit.estimates import Estimate
from circuits.errors import RunError

__all__ = ["Claim", "Standing", "claim", "standing", "undecided"]


class Standing(StrEnum):
    """What became of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Claim:
    """One record of the ledger.

    Attributes:
        key: short name, unique in a ledger.
        claim: what is said, in words.
        source: who says it.
        model, prompts: what it was tested on.
        statistic: what was computed, with the bar it has to pass.
        estimate, low, high: its value with a 95% interval; None where there is none.
        unit, n: of the estimate.
        bar, side: what the estimate is claimed to lie ``above`` or ``below``; None and empty without a comparison.
        null: what chance or a baseline gives, in words; empty where the bar says it.
        verdict: see the module.
        reason: what the verdict rests on; of an undecided one what would decide it.
        figure: file beside the ledger in which it can be seen; empty where there is none.
        experiment: what made it.
    """

    key: str
    claim: str
    source: str
    model: str
    prompts: str
    statistic: str
    estimate: float | None
    low: float | None
    high: float | None
    unit: str
    n: int
    bar: float | None
    side: str
    null: str
    verdict: Standing
    reason: str
    figure: str
    experiment: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}

    @classmethod
    def of_dict(cls, value: object) -> Claim:
        """A record as it was written.

        Raises:
            RunError: a field is missing, unknown or of another type, or the verdict is none.
        """
        if not isinstance(value, Mapping):
            raise RunError(f"a claim is {type(value).__name__}; expected an object with the fields of a claim")
        names = [field.name for field in fields(cls)]
        if odd := sorted(set(names) ^ {str(key) for key in value}):
            raise RunError(
                f"a claim with {'unknown' if odd[0] not in names else 'no'} field {odd[0]!r}; expected {', '.join(names)}"
            )
        for name in names:
            given, numbers = value[name], name in ("estimate", "low", "high", "bar")
            fine = given is None or (isinstance(given, int | float) and np.isfinite(given)) if numbers else (
                isinstance(given, int) and not isinstance(given, bool) if name == "n" else isinstance(given, str)
            )  # fmt: skip
            if not fine:
                raise RunError(
                    f"the field {name!r} of a claim is {given!r}; expected {'a number' if numbers or name == 'n' else 'text'}"
                )
        if value["verdict"] not in [str(s) for s in Standing]:
            raise RunError(f"a claim's verdict is {value['verdict']!r}; expected one of {', '.join(Standing)}")
        return cls(**{**{name: value[name] for name in names}, "verdict": Standing(value["verdict"])})


def standing(found: Estimate, bar: float, *, above: bool = True) -> Standing:
    """The verdict of an interval: the claim is that the estimate lies above the bar (or below)."""
    if np.isnan(found.low) or np.isnan(found.high):
        return Standing.UNDECIDED
    if found.low > bar:
        return Standing.SUPPORTED if above else Standing.CONTRADICTED
    if found.high < bar:
        return Standing.CONTRADICTED if above else Standing.SUPPORTED
    return Standing.UNDECIDED


def claim(
    key: str,
    text: str,
    source: str,
    *,
    model: str,
    prompts: str,
    statistic: str,
    found: Estimate,
    bar: float,
    above: bool = True,
    unit: str,
    null: str = "",
    figure: str = "",
    experiment: str,
    doubt: str = "",
) -> Claim:
    """A record with the verdict that its interval gives.

    ``doubt``: why the statistic cannot decide here whatever it is; the claim is then undecided.
    """
    side = "above" if above else "below"
    verdict = Standing.UNDECIDED if doubt else standing(found, bar, above=above)
    if doubt:
        reason = doubt
    elif np.isnan(found.low):
        reason = f"{found.n} scenarios give no interval; five or more would"
    elif verdict is Standing.UNDECIDED:
        reason = f"the interval holds the bar {bar:.3g}; {_needed(found, bar)}"
    else:
        other = "below" if above else "above"
        reason = f"the interval lies {side if verdict is Standing.SUPPORTED else other} the bar {bar:.3g}"
    low, high, value = (None if not np.isfinite(x) else float(x) for x in (found.low, found.high, found.value))
    return Claim(
        key, text, source, model, prompts, f"{statistic}; claimed to lie {side} {bar:.3g}", value, low, high, unit, found.n,
        float(bar), side, null, verdict, reason, figure, experiment,
    )  # fmt: skip


def _needed(found: Estimate, bar: float) -> str:
    """How many scenarios would decide, were the estimate the truth."""
    distance, half = abs(found.value - bar), (found.high - found.low) / 2
    if distance < 1e-9 or not np.isfinite(distance) or half / max(distance, 1e-9) > 30:
        return "so near the bar no number of scenarios of this kind decides"
    return f"about {int(np.ceil(found.n * (half / distance) ** 2)) + 1} scenarios would decide, if the estimate is the truth"


def undecided(
    key: str, text: str, source: str, *, model: str, prompts: str, statistic: str, reason: str, experiment: str
) -> Claim:
    """A record of a claim that could not be tested at all; ``reason`` says what would make it possible."""
    return Claim(
        key,
        text,
        source,
        model,
        prompts,
        statistic,
        None,
        None,
        None,
        "",
        0,
        None,
        "",
        "",
        Standing.UNDECIDED,
        reason,
        "",
        experiment,
    )
