"""The emergence law fitted to runs: its likeliest parameters, and whether another law predicts runs left out better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from holdfast.methods.analyses.emergence_law import LawPoints, log_posterior


def find_mode(points: LawPoints, starts: int = 5, seed: int = 0) -> np.ndarray:
    """The likeliest parameters [6], by the simplex method from several places."""
    rng = np.random.default_rng(seed)
    modes = []
    for _ in range(starts):
        low, high = np.sort(rng.uniform(points.losses.min(), points.losses.max(), 2))
        start = np.array([rng.uniform(0.2, 2), points.chance, low, high + 1e-3, rng.uniform(0.5, 2), np.log(0.1)])
        modes.append(climb_to_mode(points, start, climbs=3))  # a simplex that has shrunk begins anew
    return max(modes, key=lambda theta: log_posterior(theta[None], points)[0])


def climb_to_mode(points: LawPoints, start: np.ndarray, climbs: int = 1) -> np.ndarray:
    """The likeliest parameters [6] that the simplex method comes to from some."""
    from scipy.optimize import minimize

    def negate_posterior(theta: np.ndarray) -> float:
        value = float(log_posterior(theta[None], points)[0])
        return -value if np.isfinite(value) else 1e10

    for _ in range(climbs):
        start = minimize(
            negate_posterior, start, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-7, "fatol": 1e-9}
        ).x
    return np.asarray(start)


def score_left_out(points: LawPoints, mode: np.ndarray) -> np.ndarray:
    """The log density of each point by the law that was fitted to the others, beginning at the mode of all: [N]."""
    values = []
    for number, score in enumerate(points.scores):
        rest = np.arange(len(points.scores)) != number
        others = replace(points, losses=points.losses[rest], sizes=points.sizes[rest], scores=points.scores[rest])
        theta = climb_to_mode(others, mode)
        elbow = others.find_elbow(theta, points.sizes[[number]])[0]
        forecast = min(points.ceiling, theta[0] * max(0.0, elbow - points.losses[number]) + theta[1])
        values.append(-0.5 * ((score - forecast) / np.exp(theta[5])) ** 2 - theta[5] - 0.5 * np.log(2 * np.pi))
    return np.array(values)


def compare_laws(points: LawPoints, mode: np.ndarray) -> tuple[float, float]:
    """How much better the points' law predicts those left out than a power law: nats a point, and the standard error.

    Args:
        mode: The likeliest parameters of the points' law.
    """
    other = replace(points, law="power")
    better = score_left_out(points, mode) - score_left_out(other, find_mode(other))
    return float(better.mean()), float(better.std(ddof=1) / len(better) ** 0.5)


def describe_other_law(points: LawPoints, mode: np.ndarray) -> str:
    """What the points say of their law beside one whose elbows go with a power of the rows themselves."""
    better, error = compare_laws(points, mode)
    if better < -2 * error:
        return (
            f" A power of the rows, not of their logarithm, predicts runs left out better ({-better:.2f} nats a run)."
        )
    return f" It predicts runs left out {'better than' if better > 2 * error else 'as well as'} a power of the rows."
