"""A verdict is what an interval and a bar say, and records come back from files as they were, or are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.circuit.estimates import Estimate
from circuits.compare.claims import Claim, Standing, claim, standing, undecided
from circuits.errors import RunError
from circuits.runs.ledger import keep_claims, read_claims
from circuits.show.ledger import intervals, ledger_page, ledger_table

NAN = float("nan")


def record(key: str = "k", found: Estimate | None = None, **rest) -> Claim:
    given_ = {"bar": 0.5, "unit": "share", "model": "m", "prompts": "p", "statistic": "s", "experiment": "x"} | rest
    return claim(key, "heads do it", "someone", found=found or Estimate(0.9, 0.8, 1.0, 20), **given_)


@pytest.mark.parametrize(
    ("low", "high", "above", "verdict"),
    [
        (0.6, 0.9, True, "supported"), (0.1, 0.4, True, "contradicted"), (0.4, 0.6, True, "undecided"),
        (0.6, 0.9, False, "contradicted"), (0.1, 0.4, False, "supported"), (NAN, NAN, True, "undecided"),
        (0.5, 0.9, True, "undecided"), (0.1, 0.5, True, "undecided"),
    ],
)  # fmt: skip
def test_the_verdict_is_the_side_of_the_bar_the_whole_interval_lies_on(low, high, above, verdict) -> None:
    assert standing(Estimate((low + high) / 2, low, high, 20), 0.5, above=above) == verdict


@given(st.floats(-5, 5), st.floats(0.01, 3), st.floats(-5, 5), st.booleans())
def test_turning_the_claim_round_turns_the_verdict_round(value: float, half: float, bar: float, above: bool) -> None:
    found = Estimate(value, value - half, value + half, 10)
    turned = {Standing.SUPPORTED: Standing.CONTRADICTED, Standing.CONTRADICTED: Standing.SUPPORTED}
    one, other = standing(found, bar, above=above), standing(found, bar, above=not above)
    assert other is turned.get(one, Standing.UNDECIDED)


def test_what_is_undecided_says_what_would_decide_it() -> None:
    one = record(found=Estimate(0.6, 0.4, 0.8, 20))
    assert one.verdict is Standing.UNDECIDED
    # An interval twice too wide: four times as many scenarios as 20, and what rounding up adds.
    assert "about 82 scenarios would decide" in one.reason
    assert "no number of scenarios" in record(found=Estimate(0.5, 0.4, 0.6, 20)).reason
    assert "five or more would" in record(found=Estimate(0.9, NAN, NAN, 3)).reason
    assert record(doubt="no such state").reason == "no such state"
    assert record(doubt="no such state").verdict is Standing.UNDECIDED
    none = undecided("k", "t", "s", model="m", prompts="p", statistic="s", reason="because", experiment="x")
    assert (none.estimate, none.verdict, none.n) == (None, Standing.UNDECIDED, 0)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    some = [record("a"), record("b", Estimate(0.2, NAN, NAN, 3))]
    keep_claims(tmp_path, "one", some)
    keep_claims(tmp_path, "two", [record("c", above=False)])
    assert read_claims(tmp_path) == [*some, record("c", above=False)]
    keep_claims(tmp_path, "one", some[:1])
    assert [one.key for one in read_claims(tmp_path)] == ["a", "c"]
    keep_claims(tmp_path, "three", [record("a")])
    with pytest.raises(RunError, match=r"'a' is in .* twice"):
        read_claims(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": "many"}, "'n' of a claim is 'many'"),
        ({"n": True}, "'n' of a claim is True"),
        ({"estimate": "0.9"}, "'estimate' of a claim is '0.9'"),
        ({"verdict": "proven"}, "verdict is 'proven'"),
        ({"claim": None}, "'claim' of a claim is None"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"key": ...}, "no field 'key'"),
    ],
)
def test_records_of_strangers_are_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    value = {k: v for k, v in (record().as_dict() | change).items() if v is not ...}
    path = keep_claims(tmp_path, "one", [])
    path.write_text(json.dumps({"format": "emotion-circuits-claims/1", "claims": [value]}))
    with pytest.raises(RunError, match=message):
        read_claims(tmp_path)
    head = '{"format": "emotion-circuits-claims/1", "claims": '
    for text, wrong in (
        ('{"format": 1}', "no file of claims"),
        (head + "3}", "no file"),
        (head + "[3]}", "a claim is int"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=wrong):
            read_claims(tmp_path)


def test_the_page_shows_every_claim_and_escapes_what_strangers_wrote() -> None:
    bad = "<script>alert(1)</script>"
    some = [record("a"), record("b", Estimate(0.1, 0.0, 0.2, 9), null=bad, model=bad), record("c", doubt=bad)]
    page = ledger_page(some, f"Claims {bad}")
    assert bad not in page
    assert page.count("alert(1)") >= 3
    for text in (
        "3 claims: 1 supported, 1 contradicted, 1 undecided",
        "0.9 [0.8, 1] share, n = 20",
        "0.1 [0, 0.2] share, n = 9",
    ):
        assert text in page
    figure = intervals(some)
    marks = {str(y): float(x) for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    assert marks == pytest.approx({"a": 4, "b": -4, "c": 4})  # .4 from the bar, half an interval is .1
    (below,) = intervals([record("d", Estimate(0.1, 0.0, 0.2, 9), above=False)]).data
    assert list(below.x) == pytest.approx([4])
    (far,) = intervals([record("e", Estimate(0.9, 0.899, 0.901, 9))]).data
    assert (list(far.x), list(far.marker.symbol)) == ([12], ["triangle-right"])
    table = ledger_table(some).splitlines()
    assert len(table) == 2 + len(some)
    assert all(line.count(" | ") == 5 for line in table[2:])
    assert "no number" in ledger_page(
        [undecided("k", "t", "s", model="m", prompts="p", statistic="s", reason="r", experiment="x")], "t"
    )
