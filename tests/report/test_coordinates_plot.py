"""Parallel coordinates of a search: where lines cross the axes, which are coloured, and when there is no plot."""

from __future__ import annotations

import re
from typing import Any

import pytest

from holdfast.report.coordinates_plot import parallel_coordinates

SPACE = [
    {"key": "optimizer.learning_rate", "kind": "log", "choices": (), "low": 1e-4, "high": 1e-2},
    {"key": "tuner", "kind": "choice", "choices": ("full", {"name": "lora", "r": 8}), "low": 0.0, "high": 0.0},
]


def make_trial(number: int, rate: float, tuner: Any, gain: float | None) -> dict[str, Any]:
    values = {"optimizer.learning_rate": rate, "tuner": tuner}
    return {"trial": number, "what": f"trial <{number}>", "values": values, "rungs": [{"gain": gain}]}


def make_report() -> dict[str, Any]:
    trials = [
        {"trial": 0, "what": "plain SFT", "values": {}, "rungs": [{"gain": 99.0}]},
        make_trial(2, 1e-4, "full", 0.0),
        make_trial(3, 1e-3, {"r": 8, "name": "lora"}, 10.0),  # a record may have sorted its keys
        make_trial(4, 1e-2, "full", 5.0),
        make_trial(5, 1e-3, "full", None),  # failed
    ]
    return {"space": SPACE, "trials": trials, "best": {"trial": 4}}


def test_lines_go_through_their_values() -> None:
    page = str(parallel_coordinates(make_report()))
    wide = page.partition('class="plot narrow"')[0]
    lines = re.findall(r'<g class="(s\d)"><title>Trial (\d)[^<]*</title><path d="M([^"]*)"', wide)
    assert [(colour, trial) for colour, trial, _ in lines] == [("s2", "2"), ("s1", "3"), ("s0", "4")]  # the winner last
    ways = [[tuple(map(float, point.split())) for point in text.split("L")] for _, _, text in lines]
    xs = [[x for x, _ in way] for way in ways]
    assert xs[0] == xs[1] == xs[2] == sorted(xs[0])
    heights = [[y for _, y in way] for way in ways]
    bottom, top = heights[0][0], heights[2][0]
    assert bottom > top
    assert heights[1][0] == pytest.approx((bottom + top) / 2, abs=0.1)  # 1e-3 is half way by its logarithm
    assert heights[0][1] == heights[2][1] > heights[1][1]  # full below lora
    assert heights[0][2] > heights[2][2] > heights[1][2]
    assert heights[2][2] == pytest.approx((heights[0][2] + heights[1][2]) / 2, abs=0.1)
    assert "trial &lt;3&gt;" in page
    assert "99" not in page  # what was not suggested has no place on the axes
    assert ">lora 8<" in page
    assert not re.search(r"\b(nan|None|inf)\b", page)


def test_too_little_to_see_is_no_plot() -> None:
    report = make_report()
    assert not parallel_coordinates({**report, "trials": report["trials"][:3]})
    assert not parallel_coordinates({**report, "space": SPACE[:1]})
