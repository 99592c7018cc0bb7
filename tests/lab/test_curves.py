"""Curves of claims on one rule and another: read from the runs' measurements, drawn on the claim's page."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.task import ItemResult, TaskInfo
from holdfast.lab.reproduce.curves import curve_of
from holdfast.lab.reproduce.memorizes import POINTS
from holdfast.report.reproduction_page import render_reproduction

RIGHT = {"base": (5, 4), "step-000002": (3, 2), "step-000004": (4, 1), "final": (8, 2)}
"""Right answers of both tasks at each measurement: of 10 questions, while training of the first 5."""


def write_run(folder: Path, more: int) -> str:
    """A run's measurements; `more` of the questions are right at its end."""
    for when, counts in RIGHT.items():
        for name, count in zip(("points-ten", "points-rank"), counts, strict=True):
            right, total = count + (more if when == "final" else 0), 5 if when.startswith("step") else 10
            items = [ItemResult(str(i), "q", "a", "a", float(i < right), i < right, True, 1) for i in range(total)]
            task: Any = SimpleNamespace(name=name, info=TaskInfo(name, "generate", "target"))
            ResultsStore(folder / "eval" / when).write_items(task, "f", items)
    return str(folder)


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, Any]:
    tasks = {name: {"base": 50.0, "tuned": 70.0} for name in ("points-ten", "points-rank")}
    points = [{"step": 0}, {"step": 2}, {"step": 6}]
    return {
        label: {"dirs": [write_run(tmp_path / label / str(seed), -seed) for seed in range(2)],
                "curves": [points, points], "tasks": tasks}
        for label in ("sft", "rl")
    }  # fmt: skip


def test_a_curve_is_the_mean_of_the_seeds_on_the_questions_of_the_looks(arms: dict[str, Any]) -> None:
    assert curve_of("sft", "points-ten")(arms) == ("100.0 > 60.0 > 80.0 > 100.0", None, None)
    assert curve_of("rl", "points-rank")(arms)[0] == "80.0 > 40.0 > 20.0 > 30.0"


def test_the_page_of_the_claim_draws_both_rules_and_the_ends(arms: dict[str, Any]) -> None:
    assert POINTS.draw is not None
    inside, outside, ends = POINTS.draw(arms)
    first = outside["series"][0]
    assert first["points"] == [[0, 80], [2, 40], [4, 20], [6, 30]]
    assert first["spans"][-1] == [20, 40]
    assert [one["name"] for one in ends["series"]] == ["sft", "rl", "start"]
    check = {"what": "rl gains", "delta": 3.0, "low": 1.0, "high": 5.0, "margin": 2.0, "by": "more",
             "outcome": "cannot tell", "reasons": ["too few <seeds>"]}  # fmt: skip
    row = {"what": "trained rule, sft", "paper": "rises", "ours": "+1.0", "low": 0.5, "high": 1.5}
    page = render_reproduction({
        "name": "sft-memorizes", "claim": "One & other.", "paper": "Chu", "rows": [row], "outcome": "cannot tell",
        "checks": [check], "verdict": "", "seeds": 2, "budget": "6 steps", "points": True,
        "versions": {"holdfast": "1"}, "plots": [inside, outside, ends], "comparison": "shared/report.html",
    })  # fmt: skip
    assert page.count("<svg") == 3
    assert len(re.findall(r'class="whisker"', page)) == 2 * 2 * 4, "at every point of both arms under both rules"
    assert "Out of distribution: points-rank" in page
    assert "cannot be told here" in page
    assert "too few &lt;seeds&gt;" in page
    assert "[+0.5, +1.5]" in page
    assert "<script" not in page
