"""The 95 % intervals hold the truth in 93 to 99 % of simulated measurements, also where little was lost."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.special import ndtri

from holdfast.evaluation.statistics.intervals import Array, Moments, compute_confidence_limits, compute_moments
from holdfast.evaluation.statistics.summary_statistics import Interval, PairedScores, compute_interval


def covered(tasks: list[Moments], truth: float, *, bounded: bool = True) -> float:
    """Share of simulated measurements whose interval holds the truth."""
    ends = compute_confidence_limits(tasks, [1 / len(tasks)] * len(tasks), is_bounded=bounded)
    assert ends is not None
    return float(((ends[0] <= truth) & (truth <= ends[1])).mean())


def flips(n: int, right: float, won: float, lost: float, size: int, rng: np.random.Generator) -> tuple[Array, float]:
    """Differences [size, 1, n] of `size` measurements of n questions, and the true difference.

    Args:
        right: Share that the base answers rightly; won: of the others that the tuned model does; lost: of these not.
    """
    base, luck = rng.random((size, 1, n)) < right, rng.random((size, 1, n))
    return (~base & (luck < won)).astype(float) - (base & (luck < lost)), (1 - right) * won - right * lost


@pytest.mark.parametrize(
    ("n", "right", "won", "lost", "many"),
    [
        (200, 0.5, 0.3, 0.1, True),
        (200, 0.9, 0.2, 0.05, True),
        (200, 0.98, 0.0, 0.02, True),
        # Hardly any question flips here: counts of 0, 1 and 2 are most of what can be seen, and an interval that is not
        # too narrow for one of them is too wide for the others. What must not be is that it covers too little.
        (200, 0.99, 0.0, 0.005, False),
        (100, 0.98, 0.0, 0.01, False),
        (200, 0.58, 0.02, 0.01, False),
        (40, 0.9, 0.2, 0.05, False),
        (200, 0.55, 0.004, 0.002, False),
    ],
)
def test_coverage_of_one_task(n: int, right: float, won: float, lost: float, many: bool):
    drawn, truth = flips(n, right, won, lost, 2000, np.random.default_rng(0))
    assert 0.93 <= covered([compute_moments(drawn)], truth) <= (0.99 if many else 1.0)


def seeds_differ(
    n_seeds: int, n_tasks: int, by: float, size: int, rng: np.random.Generator, gain: float = 0.1
) -> list[Moments]:
    """Measurements of seeds that gain 10 points in the mean and differ by `by` (one standard deviation, all tasks)."""
    shift = rng.normal(0, by, (size, n_seeds, 1))
    tasks = []
    for _ in range(n_tasks):
        hard = rng.standard_normal((size, 1, 200), dtype=np.float32)
        luck = 0.3 * rng.standard_normal((size, n_seeds, 200), dtype=np.float32)
        reach = ndtri(np.clip(0.6 + gain + shift, 0.001, 0.999)) * np.sqrt(1 + 0.3**2)
        tasks.append(compute_moments((hard + luck < reach).astype(float) - (hard < ndtri(0.6))))
    return tasks


@pytest.mark.parametrize(("n_tasks", "by"), list(product((1, 13), (0.0, 0.01, 0.02, 0.05))))
def test_coverage_over_seeds(n_tasks: int, by: float):
    """Two to ten seeds on 200 questions a task, seeds that differ by 0 to 5 points."""
    rng = np.random.default_rng(1)
    found = {s: covered(seeds_differ(s, n_tasks, by, 2000 // n_tasks, rng), 0.1) for s in (2, 3, 5, 10)}
    slack = 0.0 if n_tasks == 1 else 0.018  # one standard error of 154 measurements
    assert all(0.93 - slack <= share <= 0.99 + slack for share in found.values()), found
    if n_tasks == 13:
        assert 0.93 <= np.mean(list(found.values())) <= 0.99


def test_seeds_that_differ_are_not_read_off_the_questions_alone():
    """One seed's interval is of that training run; taken for the method's it is right far too seldom."""
    drawn = seeds_differ(1, 1, 0.05, 1000, np.random.default_rng(2))
    assert covered(drawn, 0.1) < 0.75


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_coverage_of_graded_scores_of_likelihoods_and_of_few_questions(n_seeds: int):
    rng = np.random.default_rng(3)
    for n, bounded in ((5, False), (12, True), (12, False), (60, True)):
        hard = rng.normal(-0.05, 0.1, (2000, 1, n))
        drawn = hard + rng.normal(0, 0.03, (2000, n_seeds, n))
        assert 0.93 <= covered([compute_moments(drawn)], -0.05, bounded=bounded) <= (1.0 if n < 60 else 0.99)


def test_coverage_where_few_flip_in_many_tasks_and_seeds():
    rng = np.random.default_rng(4)
    for n_seeds in (1, 3):
        tasks, truth = [], 0.0
        for lost in (0.0, 0.01, 0.02, 0.04):
            drawn = [flips(100, 0.95, 0.0, lost, 2000, rng) for _ in range(n_seeds)]
            tasks.append(compute_moments(np.concatenate([one for one, _ in drawn], axis=1)))
            truth += drawn[0][1] / 4
        assert covered(tasks, truth) >= 0.93


def test_one_task_of_right_and_wrong_answers_has_the_interval_of_bonett_and_price():
    for n, won, lost in ((200, 0, 0), (200, 7, 2), (40, 0, 1), (4, 0, 0), (30, 30, 0)):
        difference = np.zeros(n)
        difference[:won], difference[won : won + lost] = 1, -1
        more, less = (won + 1) / (n + 2), (lost + 1) / (n + 2)
        half = 1.959964 * np.sqrt((more + less - (more - less) ** 2) / (n + 2))
        found = compute_interval([[PairedScores(tuple(map(str, range(n))), np.zeros(n), difference)]])
        ends = (max(-1, more - less - half), min(1, more - less + half))
        assert (found.low, found.high) == pytest.approx(ends, rel=1e-6)
        assert found.value == pytest.approx((won - lost) / n)


def test_interval_is_that_of_the_moments():
    drawn = np.concatenate([flips(50, 0.8, 0.2, 0.1, 1, np.random.default_rng(5))[0] for _ in range(3)], axis=1)
    one = [PairedScores(tuple(map(str, range(50))), np.zeros(50), seed) for seed in drawn[0]]
    ends = compute_confidence_limits([compute_moments(drawn)], [1.0], is_bounded=True)
    assert ends is not None
    found = compute_interval([[pairs] for pairs in one])
    assert (found.low, found.high) == pytest.approx((ends[0][0], ends[1][0]))
    assert compute_interval([[one[0], one[0]]], [1.0, -1.0]).value == 0
    assert compute_interval([[one[0]]], [2.0]).value == pytest.approx(2 * one[0].compute_delta())


def test_no_interval_claims_what_one_text_cannot_say():
    one = PairedScores(("a",), np.array([-10.0]), np.array([-12.0]), np.array([10.0]))
    assert compute_interval([[one]]) == Interval(pytest.approx(-0.2), None, None)
    single = compute_interval([[PairedScores(("a",), np.array([0.0]), np.array([1.0]))]])
    assert single.low is not None
    assert single.low < 0 < 1 == single.high
