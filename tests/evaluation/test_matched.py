"""Losses at equal gain: read off between learning rates, or at the best of them; and their paired difference."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.evaluation.statistics.matched import (
    GainPoint,
    RateResult,
    common_gain,
    compare_at_matched_gain,
    find_gain_point,
)
from holdfast.evaluation.statistics.paired import MeasuredRun
from holdfast.evaluation.task import ItemResult, TaskInfo
from holdfast.lab.reproduce.rule import Arm, decide_expectation, loses_less, loses_no_more

TARGET, KEEP = TaskInfo("new", "generate", "target"), TaskInfo("old", "generate")
N = 400


def ladder(*corners: tuple[float, float]) -> list[RateResult]:
    return [RateResult(k + 1.0, [], gain, loss) for k, (gain, loss) in enumerate(corners)]


def arm_of(by_rate: dict[float, list[MeasuredRun]], rate: float) -> Arm:
    return Arm(by_rate[rate], {}, at_rates={other: Arm(runs, {}) for other, runs in by_rate.items()})


def test_the_loss_is_read_off_the_line_or_at_the_best_rate():
    half, full = ladder((8, 1), (20, 8), (30, 22)), ladder((10, 2), (30, 9), (28, 20))
    assert common_gain({"half": half, "full": full}) == 30
    assert find_gain_point(half, 14) == GainPoint((0.5, 0.5, 0.0), pytest.approx(7 / 12), pytest.approx(4.5))
    assert find_gain_point(half, 4) == GainPoint((0.5, 0.0, 0.0), pytest.approx(1 / 8), pytest.approx(0.5)), (
        "from the base on"
    )
    assert find_gain_point(full, 29).loss == pytest.approx(9 - 0.35), "of two places the one that loses less"
    assert find_gain_point(half, 31) is None
    assert find_gain_point(half, 14, "front") == GainPoint((0.0, 1.0, 0.0), 0.0, 8)
    assert find_gain_point(full, 28, "front").weights == (0.0, 1.0, 0.0)


def items(share: float, rng: np.random.Generator, hard: np.ndarray) -> list[ItemResult]:
    right = hard + rng.normal(0, 0.02, N) < share
    return [ItemResult(str(i), "q", "said", "ref", float(ok), bool(ok), True, 5) for i, ok in enumerate(right)]


def runs(gain: float, loss: float, number: int, seeds: int = 3) -> list[MeasuredRun]:
    """Runs that gain and lose about so many points; hard questions are hard for all."""
    hard = {name: np.random.default_rng(k).random(N) for k, name in enumerate(("new", "old"))}
    out = []
    for seed in range(seeds):
        rng = np.random.default_rng(100 * number + seed)
        base, tuned = (
            {"new": items(new, rng, hard["new"]), "old": items(old, rng, hard["old"])}
            for new, old in ((0.4, 0.9), (0.4 + gain / 100, 0.9 - loss / 100))
        )
        if out:
            base = out[0].base  # type: ignore[assignment]
        out.append(MeasuredRun([TARGET, KEEP], base, tuned, seed))
    return out


def test_a_method_that_only_learns_less_does_not_keep_more_at_equal_gain():
    """Half as far along the same way: at the stated rate it loses less, at equal gain as much."""
    full = {1e-3: runs(20, 6, 1), 2e-3: runs(40, 12, 2)}
    half = {1e-3: runs(10, 3, 3), 2e-3: runs(20, 6, 4), 4e-3: runs(38, 11.4, 5)}
    found = compare_at_matched_gain([TARGET, KEEP], {"full": full, "half": half})
    assert found is not None
    assert found["gain"] == pytest.approx(38, abs=2)
    assert [row["loss"] for row in found["methods"]] == pytest.approx([11.4, 11.4], abs=2)
    one = found["methods"][1]["versus"]["full"]
    assert one["low"] < 0 < one["high"]
    assert one["delta"] == pytest.approx(found["methods"][1]["loss"] - found["methods"][0]["loss"])
    arms = {
        "full": arm_of(full, 2e-3),
        "half": arm_of(half, 2e-3),
    }
    assert decide_expectation(loses_less("half", "full"), arms)["outcome"] == "held"
    assert decide_expectation(loses_less("half", "full", at="gain"), arms)["outcome"] != "held"
    assert "at equal gain of 3" in decide_expectation(loses_no_more("half", "full", at="gain"), arms)["what"]


def test_a_method_that_keeps_more_does_so_at_equal_gain():
    bad, good = {1e-3: runs(15, 10, 6), 3e-3: runs(40, 30, 7)}, {1e-3: runs(20, 1, 8), 3e-3: runs(36, 3, 9)}
    found = compare_at_matched_gain([TARGET, KEEP], {"bad": bad, "good": good})
    assert found is not None
    assert found["methods"][1]["versus"]["bad"]["reading"] == "less"
    arms = {
        "bad": arm_of(bad, 1e-3),
        "good": arm_of(good, 1e-3),
    }
    for at in ("gain", "front"):
        assert decide_expectation(loses_less("good", "bad", at=at), arms)["outcome"] == "held", at


def test_where_one_gains_nothing_there_is_no_equal_gain():
    stuck = {1e-4: runs(-5, 1, 10), 1e-3: runs(-9, 2, 11)}
    found = compare_at_matched_gain([TARGET, KEEP], {"stuck": stuck, "good": {1e-3: runs(20, 1, 12)}})
    assert found is not None
    assert found["gain"] is None
    assert [row["loss"] for row in found["methods"]] == [None, None]
    arms = {
        "a": arm_of(stuck, 1e-4),
        "b": arm_of(stuck, 1e-4),
    }
    said = decide_expectation(loses_less("a", "b", at="gain"), arms)
    assert (said["outcome"], said["reasons"]) == (
        "cannot tell", ["there is no gain that both reach at these learning rates"],
    )  # fmt: skip
