"""The error bars: identities hold exactly, and the intervals cover what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from holdfast.evaluation.statistics import Pairs, interval, mcnemar, noise_floor, pareto


def pairs(base: np.ndarray, tuned: np.ndarray, tokens: np.ndarray | None = None) -> Pairs:
    return Pairs(tuple(str(i) for i in range(len(base))), np.asarray(base, float), np.asarray(tuned, float), tokens)


def test_base_against_base_is_exactly_nothing():
    rng = np.random.default_rng(0)
    right = pairs(same := rng.integers(0, 2, 37), same)
    text = pairs(ll := -rng.gamma(50, 2, 31), ll, rng.integers(20, 90, 31).astype(float))
    for runs in ([[right]], [[text]], [[right, text]], [[right, text]] * 3):
        found = interval(runs, resamples=500)
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize(("won", "lost"), [(0, 1), (3, 3), (1, 9), (12, 4), (40, 61), (600, 500)])
def test_mcnemar_is_the_exact_binomial_test(won: int, lost: int):
    assert mcnemar(won, lost) == pytest.approx(binomtest(won, won + lost).pvalue, rel=1e-9)
    assert mcnemar(won, lost) == mcnemar(lost, won)


def test_interval_is_seeded_and_independent_of_chunks(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    one = pairs(rng.random(60), rng.random(60))
    whole = interval([[one]], resamples=2000)
    assert whole == interval([[one]], resamples=2000)
    assert whole != interval([[one]], resamples=2000, seed=1)
    monkeypatch.setattr("holdfast.evaluation.statistics._CHUNK", 60 * 100)
    assert whole == interval([[one]], resamples=2000)  # one stream of draws, cut anywhere


def test_interval_agrees_with_the_normal_one_on_many_items():
    rng = np.random.default_rng(2)
    one = pairs(rng.normal(0, 1, 4000), rng.normal(0.1, 1, 4000))
    difference = one.tuned - one.base
    half = 1.96 * difference.std() / np.sqrt(4000)
    found = interval([[one]], resamples=4000)
    assert found.value == pytest.approx(difference.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_pairing_matters():
    """Two models that agree on hard and easy items differ far less uncertainly than the items themselves vary."""
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2, 400).astype(float)
    tuned = base.copy()
    tuned[np.flatnonzero(base)[:12]] = 0
    found = interval([[pairs(base, tuned)]], resamples=2000)
    assert found.high < 0 < noise_floor(pairs(base, tuned))
    assert found.high - found.low < noise_floor(pairs(base, tuned))


def coverage(draw, truth: float, trials: int = 300) -> float:
    """Share of simulated measurements whose interval holds the truth."""
    found = [interval(draw(np.random.default_rng(t)), resamples=400, seed=t) for t in range(trials)]
    return sum(f.low <= truth <= f.high for f in found) / trials


def test_coverage_of_one_task():
    def draw(rng: np.random.Generator) -> list[list[Pairs]]:
        base = rng.random(80) < 0.5
        tuned = np.where(rng.random(80) < 0.3, rng.random(80) < 0.7, base)  # E[tuned - base] = 0.3 * 0.2
        return [[pairs(base, tuned)]]

    assert 0.9 <= coverage(draw, 0.06) <= 0.985


def test_coverage_of_the_mean_over_tasks():
    def draw(rng: np.random.Generator) -> list[list[Pairs]]:
        return [[pairs(np.zeros(n), rng.normal(shift, 1, n)) for n, shift in ((30, 0.2), (120, -0.4), (60, -0.1))]]

    assert 0.9 <= coverage(draw, -0.1) <= 0.985


def test_coverage_over_seeds_needs_the_seeds_to_be_drawn_too():
    """Each seed's run is shifted by luck of its own: intervals from items alone often miss the truth."""

    def draw(rng: np.random.Generator) -> list[list[Pairs]]:
        hardness = rng.normal(0, 0.5, 100)
        return [
            [pairs(np.zeros(100), 0.1 + luck + hardness + rng.normal(0, 0.3, 100))] for luck in rng.normal(0, 0.15, 5)
        ]

    def pooled(rng: np.random.Generator) -> list[list[Pairs]]:
        seeds = draw(rng)
        return [[pairs(np.zeros(500), np.concatenate([s[0].tuned for s in seeds]))]]

    assert 0.88 <= coverage(draw, 0.1, 200) <= 0.99
    assert coverage(pooled, 0.1, 200) < 0.75


def test_seeds_share_questions_when_they_answered_the_same():
    """The same result from five seeds is one result on n questions, not five."""
    rng = np.random.default_rng(4)
    one = pairs(np.zeros(50), rng.normal(0, 1, 50))
    other = Pairs(tuple(f"other{i}" for i in range(50)), one.base, one.tuned)
    single, crossed, nested = (interval(runs, resamples=4000) for runs in ([[one]], [[one]] * 5, [[one], [other]] * 2))
    assert crossed.high - crossed.low == pytest.approx(single.high - single.low, rel=0.06)
    assert nested.high - nested.low < 0.85 * (single.high - single.low)


def test_likelihood_is_counted_per_token_or_as_a_share_of_the_base():
    tokens = np.array([10.0, 30.0])
    one = pairs(-2.0 * tokens, -3.0 * tokens, tokens)
    assert one.figure(one.base) == pytest.approx(-2)
    assert one.delta() == pytest.approx(-1)
    assert interval([[one]], resamples=50).low == pytest.approx(-1)
    share = replace(one, relative=True)
    assert share.delta() == pytest.approx(0.5)
    assert interval([[share]], resamples=50).high == pytest.approx(0.5)


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
    assert pareto(points) == [False, True, True, True, False, True]
