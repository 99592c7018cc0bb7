"""95 % intervals of a mean of paired differences over questions, tasks and training seeds, from sums over questions.

Three things vary, and each has its own part of the variance: which questions were asked, which seed trained, and both
together (a question that one seed happens to get right). Questions are crossed with seeds where every seed answered the
same ones. Everything is arithmetic on arrays whose leading axes are kept, so that thousands of simulated measurements
are one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Array = NDArray[np.float64]
LEVEL = 0.975
"""The quantile that 95 % two-sided intervals use."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What an interval needs to know of the differences of one task; leading axes may be repeated measurements.

    Args:
        n: Questions of a seed.
        deltas: Mean difference of each seed; [..., S].
        squares: Sum over questions of the squared difference, averaged over the seeds before; [...].
        n_changed: Questions on which any seed differs from the base; [...].
        within: Variance of the mean over questions and seeds that both together make; [...].
        is_crossed: Whether all seeds answered the same questions.
        binary: Whether every difference is -1, 0 or 1.
    """

    n: int
    deltas: Array
    squares: Array
    n_changed: Array
    within: Array
    is_crossed: bool = True
    binary: bool = False

    @property
    def mean(self) -> Array:
        """Over seeds; [...]."""
        return self.deltas.mean(-1)


def compute_moments(differences: Array, *, is_crossed: bool = True) -> Moments:
    """The moments of differences [..., S, n] of S seeds on n questions each.

    Args:
        is_crossed: Column i is the same question for every seed; else each seed had n questions of its own.
    """
    n_seeds, n = differences.shape[-2:]
    deltas = differences.mean(-1)  # [..., S]
    if not is_crossed:
        spread = ((differences - deltas[..., None]) ** 2).sum(-1) / max(1, n - 1) / n  # [..., S]
        within = spread.sum(-1) / n_seeds**2
        squares = (differences**2).sum((-2, -1)) / n_seeds
        n_changed = (differences != 0).sum((-2, -1)) / n_seeds
        return Moments(n, deltas, squares, n_changed, within, is_crossed=False)
    middle = differences.mean(-2)  # [..., n]
    rest = differences - middle[..., None, :] - deltas[..., None] + deltas.mean(-1)[..., None, None]
    # Zero for one seed, whose rest is zero: what it shares with the questions is in their variance already.
    within = (rest**2).sum((-2, -1)) / max(1, (n - 1) * (n_seeds - 1)) / (n * n_seeds)
    binary = n_seeds == 1 and bool(np.isin(differences, (-1.0, 0.0, 1.0)).all())
    return Moments(
        n, deltas, (middle**2).sum(-1), (differences != 0).any(-2).sum(-1), within, binary=binary
    )  # fmt: skip


def compute_confidence_limits(
    tasks: Sequence[Moments], weights: Sequence[float], *, is_bounded: bool, level: float = LEVEL
) -> tuple[Array, Array] | None:
    """Ends of the 95 % interval of the weighted sum of the tasks' mean differences; each [...].

    Args:
        weights: Of the tasks: 1 / T each for their mean.
        level: That of each end: 0.9 gives the one-sided 90 % limits.
        is_bounded: Differences lie in [-1, 1], and most may be exactly 0 (scores); else any number (likelihoods).

    Questions of bounded scores: one flip each way is added to what was seen, shared between the tasks [Bonett and Price
    2012, Statistical Methods in Medical Research 21]. For right and wrong answers of one task and seed that is their
    interval exactly; it has a width where nothing flipped, 1.4 points of 200 questions. For graded scores a flip is as
    large as the differences that were seen, the more of them there are, and 1 before any was.

    Questions of likelihoods: Student's interval, with Satterthwaite's degrees of freedom over tasks of unequal size.

    Seeds: their means' variance with Student's quantile of S - 1 degrees of freedom, added in quadrature to that of the
    questions [Howe 1974, JASA 69; Zou and Donner 2008, Statistics in Medicine 27], from which the part that the seeds'
    means show already is taken. One quantile for the sum (Satterthwaite) covers 0.87 to 0.90 with two seeds: their
    variance, of one degree of freedom, is often seen far too small, and then its quantile is too.
    Returns:
        `None` where no interval can be given: one text, or likelihoods that did not change at all.
    """
    if not is_bounded and any(task.n < 2 for task in tasks):
        return None
    shares = np.abs(weights) / np.sum(np.abs(weights)) if is_bounded else np.zeros(len(weights))
    flip = (sum(task.squares for task in tasks) + 1) / (sum(task.n_changed for task in tasks) + 1)
    middle, question_variance, flip_variance, within, slack = (np.zeros(tasks[0].mean.shape) for _ in range(5))
    for task, weight, share in zip(tasks, weights, shares, strict=True):
        n = task.n + 2 * share
        mean = task.mean * task.n / n
        variance = ((task.squares + 2 * share * flip) / n - mean**2) / (n if is_bounded else n - 1)
        variance = np.maximum(variance, 0) if task.is_crossed else task.within + 2 * share * flip / n**2
        middle, question_variance = middle + weight * mean, question_variance + weight**2 * variance
        flip_variance, within = flip_variance + weight**2 * 2 * share * flip / n**2, within + weight**2 * task.within
        slack = slack + (weight**2 * variance) ** 2 / max(1, task.n - 1)
    if all(task.binary for task in tasks):
        quantile = np.asarray(ndtri(level))
    else:
        quantile = stdtrit(
            np.divide(question_variance**2, slack, out=np.full_like(question_variance, 1e9), where=slack > 0), level
        )
    half = _compute_half_width(tasks, weights, quantile, question_variance, flip_variance, within, level)
    if not is_bounded and not np.all(half > 1e-12 * (1 + np.abs(middle))):
        return None  # rounding aside, nothing varies
    return middle - half, middle + half


def _compute_half_width(
    tasks: Sequence[Moments],
    weights: Sequence[float],
    quantile: Array,
    question_variance: Array,
    flip_variance: Array,
    within: Array,
    level: float,
) -> Array:
    """Half of the interval's width, from the variance that the questions make and that of the seeds; [...].

    Args:
        quantile: For the questions' part.
        question_variance: Variance of the sum over questions; added: how much of it comes from flips that were not
            seen.
        within: How much of it the seeds' means show too.
    """
    seeds = sum(weight * task.deltas for task, weight in zip(tasks, weights, strict=True))
    n_seeds = np.shape(seeds)[-1]
    if n_seeds == 1:
        return quantile * np.sqrt(question_variance)
    between = stdtrit(n_seeds - 1, level) * np.sqrt(np.var(seeds, axis=-1, ddof=1) / n_seeds)
    if not all(
        task.is_crossed for task in tasks
    ):  # seeds with questions of their own show the whole variance: the larger
        return np.maximum(between, quantile * np.sqrt(question_variance))
    return np.hypot(quantile * np.sqrt(np.maximum(question_variance - within, flip_variance)), between)
