"""Learning rates chosen on a validation split: which rates, which questions, and which of them is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.evaluation.statistics.rates import find_rate_beyond
from holdfast.lab.reproduce import claim_of
from holdfast.lab.reproduce.base import COMMON, fingerprint_settings, merge_settings
from holdfast.lab.reproduce.sweep import (
    choose_rate,
    describe_arms,
    plan_rate,
    spread_rates,
    write_validation_file,
)
from holdfast.recipe.loader import resolve_any
from holdfast.skills.rows import FRESH, lab_rows

ZEPHYR = claim_of("zephyr")


def test_an_arm_is_swept_about_its_own_rate_and_one_with_stages_in_the_last() -> None:
    recipe = merge_settings(COMMON, ZEPHYR.common)
    assert list(spread_rates(ZEPHYR.arms["sft"], recipe, (3, 1, 0.3))) == [3e-4, 1e-3, 3e-3]
    plans = spread_rates(ZEPHYR.arms["zephyr"], recipe, ZEPHYR.rates)
    assert list(plans) == [3e-5, 1e-4, 3e-4]
    for rate, overrides in plans.items():
        assert [s.optimizer.learning_rate for s in resolve_any(recipe, overrides).recipe.stages] == [1e-3, rate]


def test_validation_questions_are_none_that_a_verdict_counts(tmp_path: Path) -> None:
    lines = write_validation_file(tmp_path / "rows.jsonl", "story-graded", 20).read_text(encoding="utf-8").splitlines()
    asked = {json.loads(line)["messages"][0]["content"] for line in lines}
    judged = {row.prompt[0]["content"] for row in lab_rows("lab:story-graded", "test", 20, FRESH)}
    assert len(asked) == len(judged) == 20
    assert not asked & judged


def test_the_rate_that_scored_best_is_taken_and_said(tmp_path: Path) -> None:
    plans = {rate: [f"optimizer.learning_rate={rate:g}"] for rate in (1e-4, 3e-4, 1e-3)}
    arm = choose_rate(plans, {1e-3: 70.0, 3e-4: 81.5, 1e-4: 81.5})
    assert (arm.rate, arm.overrides) == (1e-4, plans[1e-4])
    (tmp_path / "report.json").write_text(
        json.dumps({"training": {"trained_tokens": 600, "tokens": 2000}}), encoding="utf-8"
    )
    (row,) = describe_arms({"dpo": arm}, [{"method": "dpo", "dirs": [str(tmp_path)]}])
    said = "0.0001 (validation 0.0001: 81.5, 0.0003: 81.5, 0.001: 70.0); 600 of 2,000 tokens trained on"
    assert (row["what"], row["ours"]) == ("learning rate, dpo", said)


def test_an_arm_goes_on_beyond_the_outermost_rate_while_it_gains_there() -> None:
    assert find_rate_beyond({1e-3: 10.0, 3e-3: 30.0, 1e-2: 50.0}) == pytest.approx(0.033)
    assert find_rate_beyond({1e-2: 50.0, 1e-3: 10.0, 2e-3: 30.0}) == pytest.approx(0.05), "by the last step"
    assert find_rate_beyond({1e-3: 10.0, 1.2e-3: 30.0}) == pytest.approx(2.4e-3), "at least twice"
    assert find_rate_beyond({1e-4: 30.0, 3e-4: 10.0, 1e-3: 0.0}) == pytest.approx(3.3e-5), "and downwards"
    for level in ({1e-3: 10.0, 1e-2: 11.5}, {1e-4: 0.0, 1e-3: 5.0, 1e-2: 4.0}, {1e-3: 5.0}, {}):
        assert find_rate_beyond(level) is None
    recipe = merge_settings(COMMON, ZEPHYR.common)
    assert plan_rate(ZEPHYR.arms["zephyr"], recipe, 9e-4)[-1].endswith("optimizer.learning_rate=0.0009")


def test_settings_are_told_apart() -> None:
    assert len({fingerprint_settings(claim_of(name)) for name in ("tpo", "rft", "uft", "rpo", "cpo")}) == 5
