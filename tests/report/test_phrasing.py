from __future__ import annotations

import math
from typing import Any

import pytest

from holdfast.report import phrasing, ranking


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
    assert phrasing.format_signed(value) == shown


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
    assert phrasing.format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("p", "shown"), [(0.0004, "<0.001"), (0.0042, "0.004"), (0.031, "0.03"), (1.0, "1.00"), (None, "\u2013")]
)
def test_pvalue(p: float | None, shown: str) -> None:
    assert phrasing.format_pvalue(p) == shown


def test_count() -> None:
    assert [phrasing.format_count(v) for v in (0, 999, 12345, 4_120_576, 7e9)] == [
        "0",
        "999",
        "12,345",
        "4.1 M",
        "7.0 B",
    ]


def test_a_loss_is_positive_and_more_of_it_is_worse() -> None:
    loss = {"delta": 4.0, "low": 2.0, "high": 6.0}
    assert phrasing.change_of({**loss, "worst": "x"}) == {**loss, "unit": "points"}
    assert [phrasing.interval_direction(2.0, 6.0, is_loss=lost) for lost in (False, True)] == ["up", "down"]
    assert [phrasing.interval_direction(-6.0, -2.0, is_loss=lost) for lost in (False, True)] == ["down", "up"]
    assert phrasing.interval_direction(-1.0, 1.0, is_loss=True) == "flat"


@pytest.mark.parametrize(
    ("value", "shown"), [(2.857142, "2.86 epochs"), (3.0, "3 epochs"), (1.0, "1 epoch"), (0.5, "0.5 epochs")]
)
def test_epochs(value: float, shown: str) -> None:
    assert phrasing.format_epochs(value) == shown


@pytest.mark.parametrize(
    ("name", "data", "shown"),
    [
        ("test", {"train": "data/snips.jsonl", "test": 0.1}, "held-out rows of snips.jsonl"),
        ("test", {"train": "data/snips.jsonl", "test": "data/ask.jsonl"}, "ask.jsonl"),
        (
            "test",
            {"train": ["a/one.jsonl", {"path": "two.jsonl"}], "test": 0.1},
            "held-out rows of one.jsonl and 1 more",
        ),
        ("story", {"train": "lab:story"}, "story"),
        ("test", None, "test"),
    ],
)
def test_held_out_rows_go_by_their_data(name: str, data: Any, shown: str) -> None:
    assert phrasing.label_of({"name": name}, {"data": data} if data else None) == shown


def test_a_reason_becomes_a_sentence() -> None:
    said = phrasing.make_sentence("the target fell by -20.5 points (95 %: -46.7 to 3.3); max-loss is 1")
    assert said == "The target fell by \u221220.5 points (95 %: \u221246.7 to 3.3); max-loss is 1."


def _result(gain: Any, loss: Any) -> dict[str, Any]:
    tasks = [
        {"name": "story", "role": "target", "n": 200, "base": 40.0, "tuned": 50.0, "delta": 10.0},
        {"name": "strings", "role": "keep", "n": 200, "base": 80.0, "tuned": 60.0, "delta": -20.0},
        {"name": "sums", "role": "keep", "n": 200, "base": 80.0, "tuned": 80.0, "delta": 0.0},
    ]
    return {"tasks": tasks, "gain": gain, "loss": loss}


def test_verdict_gained_and_lost() -> None:
    found = _result(
        {"delta": 12.3, "low": 8.0, "high": 16.0}, {"delta": 4.1, "low": 2.0, "high": 6.0, "worst": "strings"}
    )
    assert phrasing.describe_result(found) == (
        "Gained 12.3 points on the target (95 % interval 8.0 to 16.0) and lost 4.1 elsewhere (2.0 to 6.0); "
        "most on strings: 20.0."
    )


def test_verdict_does_not_claim_what_the_interval_does_not_show() -> None:
    found = _result({"delta": 1.0, "low": -2.0, "high": 4.0}, {"delta": 0.5, "low": -0.5, "high": 1.5, "worst": "none"})
    assert phrasing.describe_result(found) == (
        "Shows no clear change on the target (+1.0 points, 95 % interval \u22122.0 to +4.0; 200 questions are too few "
        "to tell) and shows no clear loss elsewhere (0.5 lost, \u22120.5 to 1.5)."
    )


def test_verdict_the_other_way_round() -> None:
    found = _result(
        {"delta": -3.0, "low": -5.0, "high": -1.0}, {"delta": -0.8, "low": -1.4, "high": -0.2, "worst": "none"}
    )
    assert phrasing.describe_result(found) == (
        "Lost 3.0 points on the target (95 % interval 1.0 to 5.0) and gained 0.8 elsewhere (0.2 to 1.4)."
    )


def test_verdict_nothing_measured(unchanged: dict[str, Any]) -> None:
    assert (
        phrasing.describe_result(_result(None, None))
        == "No target was measured; what it lost elsewhere was not measured."
    )
    assert phrasing.describe_result(unchanged) == (
        "Changed nothing on the target and changed nothing elsewhere. For this training run: seeds not varied."
    )


def test_few_questions_without_a_flip_are_too_few_to_tell() -> None:
    nothing = {"delta": 0.0, "low": 0.0, "high": 0.0}
    tasks = [{"name": name, "role": role, "n": 8, "delta": 0.0} for name, role in (("a", "target"), ("b", "keep"))]
    said = phrasing.describe_result({"tasks": tasks, "gain": nothing, "loss": {**nothing, "worst": "b"}})
    assert said == (
        "Flipped no answer on the target (8 questions are too few to tell) and "
        "flipped no answer elsewhere (8 questions are too few to tell)."
    )
    assert phrasing.format_bracket(0.0, 0.0) == ""
    seen = [{**task, "won": 0, "lost": 0} for task in tasks]
    wide, small = ({"delta": 0.0, "low": -end, "high": end} for end in (27.7, 0.7))
    said = phrasing.describe_result({"tasks": seen, "gain": wide, "loss": {**small, "worst": "b"}})
    assert said == (
        "Flipped no answer on the target (8 questions are too few to tell) and changed nothing elsewhere (at most 0.7 "
        "points)."
    )


def test_one_training_run_is_called_one() -> None:
    found = _result({"delta": 12.3, "low": 8.0, "high": 16.0}, {"delta": 4.1, "low": 2.0, "high": 6.0, "worst": "sums"})
    assert phrasing.describe_result({**found, "training": {"steps": 3}}).endswith(
        " For this training run: seeds not varied."
    )
    assert "seeds" not in phrasing.describe_result(found), "two models compared were not trained here"


def test_comparison_verdict(compare: dict[str, Any]) -> None:
    said = ranking.describe_ranking(compare)
    assert said.startswith(
        "Gains most: sft (+18.4 on the target, 7.6 lost elsewhere). Loses least of those that gain: ssr"
    )
    assert said.endswith("Behind: half, lora.")
    assert ranking.describe_limits(compare) == ""
    one = {"runs": [run for run in compare["runs"] if run["method"] == "s3ft"]}
    assert ranking.describe_ranking(one) == "Measured: s3ft (+17.6 on the target, 1.9 lost elsewhere)."
    assert "none can be placed" in ranking.describe_ranking({"runs": []})


def placed(method: str, gain: float, loss: float, front: bool, width: float = 0.4) -> dict[str, Any]:
    spans = [{"delta": v, "low": v - width, "high": v + width} for v in (gain, loss)]
    return {"method": method, "gain": spans[0], "loss": spans[1], "pareto": front}


def test_what_gains_nothing_and_loses_something_is_behind_the_base() -> None:
    runs = [placed("a", 9.0, 3.0, True), placed("b", 5.0, 2.0, True), placed("c", -4.0, 1.0, False)]
    assert ranking.describe_ranking({"runs": runs}) == (
        "Gains most: a (+9.0 on the target, 3.0 lost elsewhere). Loses least of those that gain: b (+5.0 on the "
        "target, 2.0 lost elsewhere). Behind the base: c lost 4.0 on the target and lost 1.0 elsewhere."
    )
    assert ranking.describe_ranking({"runs": runs[2:]}) == (
        "No method is ahead of the base: c lost 4.0 on the target and lost 1.0 elsewhere."
    )
    flat = ranking.describe_ranking({"runs": [placed("d", -0.4, 0.3, False)]})
    assert flat == (
        "No method is ahead of the base: d shows no clear change on the target (\u22120.4) and shows no clear loss "
        "elsewhere (0.3)."
    )


def test_what_overlaps_is_not_called_behind() -> None:
    clear = [placed("a", 9.0, 3.0, True), placed("d", 8.9, 4.5, False)]
    assert ranking.describe_ranking({"runs": clear}).endswith("Behind: d.")
    wide = [placed("a", 9.0, 3.0, True, 8.0), placed("d", 8.0, 4.0, False, 8.0)]
    assert ranking.describe_ranking({"runs": wide}).endswith("d cannot be told apart from a: the intervals overlap.")
    assert ranking.describe_limits({"runs": wide}).startswith("One seed each")
    front = [placed("a", 9.0, 3.0, True, 2.5), placed("b", 5.0, -2.0, True, 2.0)]
    assert "; their gains cannot be told apart." in ranking.describe_ranking({"runs": front})
    assert "which may be chance" in ranking.describe_ranking({"runs": [placed("a", 1.0, -1.0, True, 4.0)]})


def test_methods_go_by_gain_and_those_without_one_last() -> None:
    runs = [{"method": "x", "gain": None}, placed("a", 1.0, 0.0, True), placed("b", 2.0, 0.0, True)]
    assert [run["method"] for run in ranking.rank_methods(runs)] == ["b", "a", "x"]


def test_methods_that_gained_most_at_their_outermost_rate_are_named_with_one_beyond_it() -> None:
    def method(name: str, *gains: float) -> dict[str, object]:
        rates = [
            {"rate": rate, "gain": gain, "loss": 1.0} for rate, gain in zip((1e-4, 3e-4, 1e-3), gains, strict=True)
        ]
        return {"method": name, "loss": 1.0, "rates": rates, "versus": {"sft": {}}}

    methods = [method("sft", 5, 30, 20), method("lora", 0, 4, 25), method("dpo", 9, 6, 0), method("half", 8, 9, 10)]
    table = {"gain": None, "unit": "points", "margin": 2.0, "methods": methods}
    assert ranking.matched_words({"matched": table}) == [
        "no gain that every method reaches: one gained nothing at any of its learning rates",
        "gained most at the outermost learning rate: lora (try 0.0033 too), dpo (try 3.3e-05 too)",
    ]
