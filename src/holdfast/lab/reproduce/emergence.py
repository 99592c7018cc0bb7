"""Emergence: whether the law, fitted to fine-tuned models, says where a skill appears; in worlds whose law is known."""

from __future__ import annotations

from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import quantity_above

WORLDS = 20
"""Of each seed."""
SIZES = (64, 256, 1024, 4096)
SHOTS = 8
NOISE = 0.015
NEAR = 0.1
"""Nats: what the paper calls a success."""


def measure_worlds(seed: int) -> dict[str, float]:
    """In per cent of the worlds: the truth in the interval, the median within 0.1 nats; and the interval's width."""
    import numpy as np

    from holdfast.methods.analyses.emergence_law import LawPoints, find_mode, interpolate_elbow, sample_posterior

    rng = np.random.default_rng(seed)
    covers, near, widths = [], [], []
    for number in range(WORLDS):
        slope, k, alpha, c = rng.uniform((0.5, 0.08, 0.8, 2.1), (1.2, 0.16, 1.4, 2.5))
        losses, sizes = (part.ravel() for part in np.meshgrid(np.linspace(2.2, 4.4, 8), np.array(SIZES, float)))
        scores = slope * np.maximum(0, k * np.log(sizes) ** alpha + c - losses) + 0.25
        points = LawPoints(losses, sizes, scores + rng.normal(0, NOISE, len(losses)), 0.25)
        draws = sample_posterior(points, find_mode(points, seed=number), seed=number)
        elbows = interpolate_elbow(draws, np.array([float(SHOTS)]), points.ends)[:, 0]
        low, middle, high = np.percentile(elbows, [5, 50, 95])
        truth = k * np.log(SHOTS) ** alpha + c
        covers.append(low <= truth <= high)
        near.append(abs(middle - truth) <= NEAR)
        widths.append(high - low)
    return {
        "covers": 100 * float(np.mean(covers)), "near": 100 * float(np.mean(near)), "width": float(np.mean(widths))
    }  # fmt: skip


EMERGENCE = Study(
    claim="Fine-tuned models of several losses and numbers of rows say within 0.1 nats where a prompt of 8 examples "
    "will do; the interval says how sure that is.",
    paper="Snell et al. 2024, arXiv 2411.16035",
    measure=measure_worlds,
    figures=(
        ("truth in the interval from 5 to 95 % (%)", "not given", "covers"),
        ("median within 0.1 nats of the truth (%)", "its mark of success, met by up to 4 times the compute", "near"),
        ("width of the interval, nats", "not given", "width"),
    ),
    expects=(
        quantity_above("near", 80.0, "the median is within 0.1 nats of the truth"),
        quantity_above("covers", 80.0, "the interval covers the truth"),
    ),
    verdict=lambda values: (
        "Worlds are simulated from the law itself, 32 runs each with noise of 0.015: this says that the fit can be "
        "trusted, not that models follow the law."
    ),
    seeds=3,
)
