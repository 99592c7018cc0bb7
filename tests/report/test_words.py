from __future__ import annotations

import math
from typing import Any

import pytest

from holdfast.report import words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12.34, "+12.3"),
        (-4.06, "\u22124.1"),
        (0.0, "0.0"),
        (-0.04, "0.0"),
        (0.04, "0.0"),
        (None, "\u2013"),
        (math.nan, "\u2013"),
    ],
)
def test_signed(value: float | None, shown: str) -> None:
    assert words.signed(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (1.25, "1.2 s"),
        (42, "42 s"),
        (59.7, "1 min 00 s"),
        (483.3, "8 min 03 s"),
        (3840, "1 h 04 min"),
        (None, "\u2013"),
    ],
)
def test_duration(seconds: float | None, shown: str) -> None:
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(
    ("p", "shown"), [(0.0004, "<0.001"), (0.0042, "0.004"), (0.031, "0.03"), (1.0, "1.00"), (None, "\u2013")]
)
def test_pvalue(p: float | None, shown: str) -> None:
    assert words.pvalue(p) == shown


def test_count() -> None:
    assert [words.count(v) for v in (0, 999, 12345, 4_120_576, 7e9)] == ["0", "999", "12,345", "4.1 M", "7.0 B"]


def test_loss_turned_to_a_change() -> None:
    assert words.change({"delta": 4.0, "low": 2.0, "high": 6.0}, lost=True) == {
        "delta": -4.0,
        "low": -6.0,
        "high": -2.0,
        "unit": "points",
    }


def _result(gain: Any, loss: Any) -> dict[str, Any]:
    tasks = [{"name": "strings", "role": "keep", "base": 80.0, "tuned": 60.0, "delta": -20.0}]
    return {"tasks": tasks, "gain": gain, "loss": loss}


def test_verdict_gained_and_lost() -> None:
    found = _result(
        {"delta": 12.3, "low": 8.0, "high": 16.0}, {"delta": 4.1, "low": 2.0, "high": 6.0, "worst": "strings"}
    )
    assert words.verdict(found) == (
        "Gained 12.3 points on the target (95 % interval 8.0 to 16.0) and lost 4.1 elsewhere (2.0 to 6.0); "
        "worst: strings \u221220.0."
    )


def test_verdict_does_not_claim_what_the_interval_does_not_show() -> None:
    found = _result({"delta": 1.0, "low": -2.0, "high": 4.0}, {"delta": 0.5, "low": -0.5, "high": 1.5, "worst": "none"})
    assert words.verdict(found) == (
        "Shows no clear change on the target (+1.0, 95 % interval \u22122.0 to 4.0) "
        "and shows no clear loss elsewhere (\u22120.5, \u22121.5 to 0.5)."
    )


def test_verdict_the_other_way_round() -> None:
    found = _result(
        {"delta": -3.0, "low": -5.0, "high": -1.0}, {"delta": -0.8, "low": -1.4, "high": -0.2, "worst": "none"}
    )
    assert words.verdict(found) == (
        "Lost 3.0 points on the target (95 % interval 1.0 to 5.0) and gained 0.8 elsewhere (0.2 to 1.4)."
    )


def test_verdict_nothing_measured(unchanged: dict[str, Any]) -> None:
    assert words.verdict(_result(None, None)) == "No target was measured; what it lost elsewhere was not measured."
    assert words.verdict(unchanged) == "Changed nothing on the target and changed nothing elsewhere."


def test_compare_verdict(compare: dict[str, Any]) -> None:
    said = words.compare_verdict(compare)
    assert said.startswith("Gains most: sft (+18.4 on the target, \u22127.6 elsewhere). Loses least: ssr (")
    assert said.endswith("Behind the front: lora, half.")
    one = {"runs": [run for run in compare["runs"] if run["method"] == "s3ft"]}
    assert words.compare_verdict(one) == "Measured: s3ft (+17.6 on the target, \u22121.9 elsewhere)."
    assert "none can be placed" in words.compare_verdict({"runs": []})


def placed(method: str, gain: float, loss: float, front: bool) -> dict[str, Any]:
    spans = {"low": -99.0, "high": 99.0}
    return {"method": method, "gain": {"delta": gain, **spans}, "loss": {"delta": loss, **spans}, "pareto": front}


def test_what_gains_nothing_and_loses_something_is_behind_the_base() -> None:
    runs = [placed("a", 9.0, 3.0, True), placed("b", 5.0, 2.0, True), placed("c", -4.0, 1.0, False)]
    assert words.compare_verdict({"runs": runs}) == (
        "Gains most: a (+9.0 on the target, \u22123.0 elsewhere). Loses least of those that gain: b (+5.0 on the "
        "target, \u22122.0 elsewhere). Behind the base, with nothing gained: c (\u22124.0 on the target, \u22121.0 "
        "elsewhere)."
    )
    assert words.compare_verdict({"runs": runs[2:]}) == (
        "No method is ahead of the base, by their means: c (\u22124.0 on the target, \u22121.0 elsewhere)."
    )
    only = words.compare_verdict({"runs": [runs[0], placed("d", 8.0, 4.0, False), runs[2]]})
    assert only.startswith("Ahead: a (+9.0 on the target, \u22123.0 elsewhere). Behind the front: d. Behind the base")
