"""Results in plain words, numbers first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from circuits.circuit.graph import Circuit
from circuits.model.sites import Kind

__all__ = [
    "amount",
    "counts",
    "decimal",
    "duration",
    "in_words",
    "percent",
    "ranged",
    "screened",
    "shortened",
    "visible",
]


def visible(text: object) -> str:
    """``text`` with control characters and marks that turn the reading direction spelled out.

    What comes from a file must not steer the terminal, nor show one name and mean another.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def shortened(text: object, most: int = 200) -> str:
    """``text`` made :func:`visible`, cut after ``most`` characters with its whole length said."""
    whole = str(text)
    if len(whole) <= most:
        return visible(whole)
    return f"{visible(whole[:most])}… ({len(whole):,} characters)"


def percent(value: Any) -> str:
    """``0.8`` as ``80%``; a missing number as a dash."""
    return "–" if value is None or value != value else f"{round(100 * value)}%"


def decimal(value: Any, places: int = 2) -> str:
    """``0.80``; a missing number as a dash."""
    return "–" if value is None or value != value else f"{value:.{places}f}"


def ranged(value: Any, low: Any, high: Any, say: Callable[[Any], str] = decimal) -> str:
    """``0.80 [0.71, 0.86]``, or with ``say=percent`` ``80% [71%, 86%]``."""
    return f"{say(value)} [{say(low)}, {say(high)}]"


def counts(numbers: Iterable[int]) -> str:
    """``36``, or ``30 to 36``."""
    found = sorted(numbers)
    return " to ".join(str(n) for n in dict.fromkeys((found[0], found[-1])))


def duration(seconds: float) -> str:
    """``7 s``, ``12 min``, ``3 h 20 min``, ``17 days``."""
    if seconds < 1:
        return f"{seconds:.1g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86400:
        minutes = round(seconds / 60)
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{seconds / 86400:,.0f} days"


def amount(value: int | float, unit: str) -> str:
    """``1.3 GB``, ``450 TFLOP``: three digits at most, powers of a thousand."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:,.3g} E{unit}"


def in_words(circuit: Circuit) -> str:
    """One sentence a reader can quote: what was found, on how much data, next to chance."""
    j = circuit.judgement
    e = str(circuit.emotion)
    if not circuit.nodes:
        return f"{e}: nothing found. {j.get('undefined', 'no component supports it reliably')}"
    heads = sum(n.component.kind is Kind.HEAD for n in circuit.nodes)
    neurons = len(circuit.nodes) - heads
    reached = "" if j["reached"] else " (the target was not reached)"
    if 1 / (1 + j["random_n"]) >= 0.05:
        chance = ": too few of them to tell it from chance (20 are needed)"
    else:
        chance = "" if j["random_p"] < 0.05 else ": no better than chance, so no evidence of a circuit"
    gap = j["metric_whole"] - j["metric_empty"]
    return (
        f"{e}: {heads} heads and {neurons} neurons keep {percent(j['faithfulness'])} "
        f"[{percent(j['faithfulness_low'])}, {percent(j['faithfulness_high'])}] of the {gap:.2f} logits the model adds "
        f"on {j['n']} unseen scenarios{reached}; {j['random_n']} random circuits of the same shape keep "
        f"{percent(j['random_mean'])} on average, {percent(max(j['random']))} at most{chance}"
    )


def screened(screen: Mapping[str, Any]) -> str:
    """What the screen of neurons by gradient was worth, in a sentence or two."""
    first = f"neurons: {screen['neurons']} screened by gradient, {screen['verified']} verified exactly"
    audit = screen["audit"]
    if audit is None:
        return f"{first}; no others were sampled."
    slope, rank = (_with_interval(audit[name]) for name in ("slope", "rank"))
    return (
        f"{first}. Of {audit['drawn']} others, drawn at random and measured exactly, {audit['missed']} are stronger than "
        f"the weakest on a list of the strongest, so at most {audit['upper']} of the other {audit['rest']} are (95%). Exact "
        f"effects are {slope} times the gradient's, rank correlation {rank} (fit split, n = {audit['n']} scenarios)."
    )


def _with_interval(found: Sequence[float | None]) -> str:
    """``1.18 [1.02, 1.31]``; a dash for a figure that does not exist."""
    value, low, high = ("–" if x is None else f"{x:.2f}" for x in found)
    return f"{value} [{low}, {high}]"
