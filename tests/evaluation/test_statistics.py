"""The error bars: identities hold exactly, and the intervals cover what they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from holdfast.evaluation.statistics.summary_statistics import (
    Interval,
    PairedScores,
    compute_interval,
    mark_pareto_front,
    mcnemar_p_value,
    noise_floor,
)


def pairs(base: np.ndarray, tuned: np.ndarray, tokens: np.ndarray | None = None) -> PairedScores:
    return PairedScores(
        tuple(str(i) for i in range(len(base))), np.asarray(base, float), np.asarray(tuned, float), tokens
    )


def test_base_against_base_is_exactly_nothing():
    rng = np.random.default_rng(0)
    right = pairs(same := rng.integers(0, 2, 37), same)
    text = pairs(ll := -rng.gamma(50, 2, 31), ll, rng.integers(20, 90, 31).astype(float))
    for runs in ([[right]], [[right]] * 3, [[right, right]] * 2):
        found = compute_interval(runs)
        assert found.value == 0
        assert found.low == -found.high < 0, "37 questions that did not flip leave it open whether one in 37 would"
    for runs in ([[text]], [[text, text]] * 3):
        assert compute_interval(runs) == Interval(0.0, None, None), (
            "the same likelihoods are the same model: nothing varies"
        )
    assert mcnemar_p_value(0, 0) == 1.0


@pytest.mark.parametrize(("won", "lost"), [(0, 1), (3, 3), (1, 9), (12, 4), (40, 61), (600, 500)])
def test_mcnemar_is_the_exact_binomial_test(won: int, lost: int):
    tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1))
    assert mcnemar_p_value(won, lost) == pytest.approx(min(1.0, 2 * tail / 2 ** (won + lost)), rel=1e-9)
    assert mcnemar_p_value(won, lost) == mcnemar_p_value(lost, won)


def test_interval_agrees_with_the_normal_one_on_many_items():
    rng = np.random.default_rng(2)
    one = pairs(rng.normal(0, 0.2, 4000), rng.normal(0.02, 0.2, 4000))
    difference = one.tuned - one.base
    half = 1.96 * difference.std() / np.sqrt(4000)
    found = compute_interval([[one]])
    assert found.value == pytest.approx(difference.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.01)


def test_pairing_matters():
    """Two models that agree on hard and easy items differ far less uncertainly than the items themselves vary."""
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2, 400).astype(float)
    tuned = base.copy()
    tuned[np.flatnonzero(base)[:12]] = 0
    found = compute_interval([[pairs(base, tuned)]])
    assert found.high < 0 < noise_floor(pairs(base, tuned))
    assert found.high - found.low < noise_floor(pairs(base, tuned))


def test_seeds_share_questions_when_they_answered_the_same():
    """The same result from five seeds is one result on n questions, not five."""
    rng = np.random.default_rng(4)
    one = pairs(np.zeros(50), rng.normal(0, 0.3, 50))
    other = PairedScores(tuple(f"other{i}" for i in range(50)), one.base, one.tuned)
    single, crossed, nested = (width(compute_interval(runs)) for runs in ([[one]], [[one]] * 5, [[one], [other]] * 2))
    assert crossed == pytest.approx(single, rel=0.01)
    assert nested < 0.85 * single


def width(found: Interval) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_likelihood_is_counted_per_token_or_as_a_share_of_the_base():
    tokens = np.array([10.0, 30.0])
    one = pairs(-2.0 * tokens, -3.0 * tokens, tokens)
    assert one.compute_figure(one.base) == pytest.approx(-2)
    assert one.compute_delta() == pytest.approx(-1)
    assert compute_interval([[one]]) == Interval(pytest.approx(-1), None, None), (
        "both texts say the same: nothing varies"
    )
    share = replace(one, relative=True)
    assert share.compute_delta() == pytest.approx(0.5)
    assert compute_interval([[share]]).low is None


def test_noise_floor_is_what_two_draws_differ_by():
    rng = np.random.default_rng(5)
    floor = noise_floor(pairs(base := (rng.random(4000) < 0.7), base)) * np.sqrt(4000 / 150)
    two = (rng.random((2, 4000, 150)) < 0.7).mean(-1)
    assert (np.abs(two[0] - two[1]) <= floor).mean() == pytest.approx(0.95, abs=0.02)
    tokens = rng.integers(20, 60, 3000).astype(float)
    ll = -tokens * rng.normal(2, 0.3, 3000)
    text = pairs(ll, ll, tokens)
    picks = rng.integers(3000, size=(2, 2000, 100))
    figures = ll[picks].sum(-1) / tokens[picks].sum(-1)
    assert (np.abs(figures[0] - figures[1]) <= noise_floor(text) * np.sqrt(30)).mean() == pytest.approx(0.95, abs=0.02)


def test_pareto_front():
    points = [(10.0, 2.0), (12.0, 2.0), (12.0, 2.0), (5.0, 0.5), (4.0, 0.6), (15.0, 9.0)]
    assert mark_pareto_front(points) == [False, True, True, True, False, True]
