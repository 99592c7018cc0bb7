"""Emergence: the law by its golden numbers, simulations it must find again, and worlds in which it must say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from holdfast.errors import UserError
from holdfast.methods.analyses.emergence import Emergence
from holdfast.methods.analyses.emergence_fit import describe_other_law, find_mode
from holdfast.methods.analyses.emergence_law import (
    LawPoints,
    count_sizes_above,
    interpolate_elbow,
    log_posterior,
    sample_posterior,
)
from holdfast.testing.analyses import build_context, build_law_runs

A, B, K, ALPHA, C = 0.9, 0.25, 0.12, 1.3, 2.35


def elbow(size: float) -> float:
    return K * np.log(size) ** ALPHA + C


def simulate(noise: float = 0.015, seed: int = 0, floor: float = B, slope: float = A) -> LawPoints:
    """32 runs: eight models, four numbers of rows."""
    losses, sizes = (part.ravel() for part in np.meshgrid(np.linspace(2.2, 4.4, 8), [64.0, 256.0, 1024.0, 4096.0]))
    scores = slope * np.maximum(0, elbow(sizes) - losses) + floor
    return LawPoints(losses, sizes, scores + np.random.default_rng(seed).normal(0, noise, 32), B)


def truth() -> np.ndarray:
    return np.array([A, B, elbow(64), elbow(4096), ALPHA, np.log(0.015)])


def test_the_law_by_its_ends_is_the_printed_one() -> None:
    for size, value in ((1, C), (8, 2.6608), (64, 3.1153), (4096, 4.2345)):
        assert elbow(size) == pytest.approx(value, abs=5e-5)
        assert interpolate_elbow(truth()[None], np.array([float(size)]), (64, 4096))[0, 0] == pytest.approx(
            value, abs=5e-5
        )


def test_a_line_that_has_reached_all_answers_tells_the_law_no_less() -> None:
    steep = simulate(noise=0.002, slope=2 * A)
    full = LawPoints(steep.losses, steep.sizes, np.minimum(steep.scores, 1.0), B, ceiling=1.0)
    assert (full.scores == 1.0).sum() > 8
    assert find_mode(full, starts=2)[:4] == pytest.approx([2 * A, *truth()[1:4]], abs=0.03)


def test_the_mode_finds_the_law_again_whatever_the_order_and_the_unit_of_scores() -> None:
    points = simulate(noise=0.002)
    mode = find_mode(points)
    assert mode[:5] == pytest.approx(truth()[:5], abs=0.02)
    assert log_posterior(mode[None], points)[0] >= log_posterior(truth()[None], points)[0]
    assert count_sizes_above(points, mode) == 4

    def residuals(theta: np.ndarray) -> np.ndarray:
        return points.scores - points.predict_scores(np.append(theta, 0.0))

    assert mode[:5] == pytest.approx(least_squares(residuals, mode[:5] + 0.01).x, abs=1e-3), "of flat priors"
    order = np.random.default_rng(1).permutation(32)
    turned = LawPoints(points.losses[order], points.sizes[order], points.scores[order], B)
    assert find_mode(turned, starts=2)[:5] == pytest.approx(mode[:5], abs=1e-3)
    halved = LawPoints(points.losses, points.sizes, points.scores / 2 + 0.1, B / 2 + 0.1)
    assert find_mode(halved, starts=2)[2:5] == pytest.approx(mode[2:5], abs=5e-3)


def test_the_posterior_covers_the_truth_where_a_prompt_stands() -> None:
    points = simulate()
    draws = sample_posterior(points, find_mode(points, starts=2))
    few = np.array([8.0])
    low, middle, high = np.percentile(interpolate_elbow(draws, few, points.ends)[:, 0], [5, 50, 95])
    losses, many = np.linspace(2.2, 4.4, 8), np.full(8, 32768.0)
    farther = A * np.maximum(0, elbow(32768) - losses) + B + np.random.default_rng(9).normal(0, 0.015, 8)
    more = LawPoints(
        *(np.concatenate(pair) for pair in ((points.losses, losses), (points.sizes, many), (points.scores, farther))), B
    )
    at = float(interpolate_elbow(find_mode(more, starts=2)[None], few, more.ends)[0, 0])
    assert low < at < high, "a number of rows far above moves it by less than its interval"
    assert low < elbow(8) < high
    assert 0.02 < high - low < 0.4
    assert middle == pytest.approx(elbow(8), abs=0.15)


def test_a_world_of_another_law_is_told_from_this_one() -> None:
    losses, sizes = (part.ravel() for part in np.meshgrid(np.linspace(2.2, 4.2, 5), [64.0, 256.0, 1024.0, 4096.0]))
    scores = A * np.maximum(0, 2.8 + 1.4 * (sizes - 64) / 4032 - losses) + B
    points = LawPoints(losses, sizes, scores + np.random.default_rng(3).normal(0, 0.01, len(losses)), B)
    assert "A power of the rows, not of their logarithm" in describe_other_law(points, find_mode(points, starts=1))


def test_a_skill_that_no_model_has_gets_no_number() -> None:
    """One-sided: the elbow is below every model, and only that is said."""
    context, _ = build_context()
    context.runs = build_law_runs(is_changed=False)
    section = Emergence().measure(context)
    assert "has not emerged" in section.sentence
    assert "below a loss of 1.200" in section.sentence
    assert {line[1] for line in section.table.rows} == {None}


def test_what_the_law_needs_is_said() -> None:
    runs = build_law_runs()
    with pytest.raises(UserError, match="there are 5 and 2"):
        Emergence().read_points([run for run in runs if run.n_rows != 64])
    with pytest.raises(UserError, match=r"64 at 1.2: has not a text among its kept tasks"):
        Emergence(text="other").read_points(runs)
    points = Emergence().read_points(runs)
    assert points.losses[:5].tolist() == pytest.approx([1.2, 1.6, 2.0, 2.3, 2.6])
    assert points.scores[0] == pytest.approx(0.4)
