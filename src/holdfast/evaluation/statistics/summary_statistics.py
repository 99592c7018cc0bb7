"""Error bars of a before-and-after comparison: everything is paired, because both models answered the same questions.

All functions take scores in [0, 1] (or log-likelihoods in nats) and return differences in the same unit; only
`summary.py` turns them into points and bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.evaluation.statistics.intervals import (
    LEVEL,
    Array,
    Moments,
    compute_confidence_limits,
    compute_moments,
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference (tuned - base) and its 95 % interval; the ends are `None` where none can be given."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class PairedScores:
    """What two models scored on the same questions.

    Args:
        ids: The questions, in order.
        base, tuned: Scores in [0, 1], or log-likelihoods in nats when `sizes` is given; [n].
        sizes: Bytes or tokens of each text; [n]. Then a model's figure is the sum of its log-likelihoods over the sum
            of sizes, in nats per byte or token, instead of the mean score, and differences have no bound.
        relative: Differences are shares of the base's figure: tuned / base - 1.
    """

    ids: tuple[str, ...]
    base: np.ndarray
    tuned: np.ndarray
    sizes: np.ndarray | None = None
    relative: bool = False

    @property
    def is_bounded(self) -> bool:
        """Whether the difference on a question lies between -1 and 1."""
        return self.sizes is None and not self.relative

    def compute_figure(self, scores: np.ndarray) -> float:
        """One model's figure on the whole task."""
        return float(scores.mean() if self.sizes is None else scores.sum() / self.sizes.sum())

    def compute_delta(self) -> float:
        """Figure of the tuned model minus that of the base, or its share of the base's."""
        if self.relative:
            return float(self.tuned.sum() / self.base.sum() - 1)
        return self.compute_figure(self.tuned - self.base)

    def question_influences(self) -> np.ndarray:
        """What each question adds to `delta`, which is their mean; of a ratio of sums its linearisation; [n]."""
        if self.relative:
            delta = self.compute_delta()
            return delta + (self.tuned - (1 + delta) * self.base) / self.base.mean()
        difference = self.tuned - self.base
        if self.sizes is None:
            return difference
        delta = self.compute_delta()
        return delta + (difference - delta * self.sizes) / self.sizes.mean()

    def score_spread(self) -> float:
        """Standard deviation over questions of the base's score (of its linearisation, where sizes differ)."""
        if self.sizes is None:
            return float(self.base.std())
        residuals = self.base - self.compute_figure(self.base) * self.sizes
        return float(residuals.std() / self.sizes.mean())


def compute_interval(
    runs: Sequence[Sequence[PairedScores]], weights: Sequence[float] | None = None, level: float = LEVEL
) -> Interval:
    """Mean difference over tasks and over seeds, with its 95 % interval.

    Args:
        runs: `runs[seed][task]`, tasks of one unit. With one seed the interval is of the questions alone: of *this*
            training run. Seeds that answered the same questions share them (they are crossed, not nested: a hard
            question is hard for every seed).
        weights: Of the tasks, for another sum than their mean, in which each counts the same.
        level: That of each end; 0.975 makes an interval of 95 %.

    How the ends come about, and from whom: `intervals.confidence_limits`.
    """
    n_tasks = len(runs[0])
    shares = [1 / n_tasks] * n_tasks if weights is None else list(weights)
    over_seeds = np.mean([[pairs.compute_delta() for pairs in tasks] for tasks in runs], axis=0)  # [T]
    value = float(np.dot(shares, over_seeds))
    is_bounded = all(pairs.is_bounded for tasks in runs for pairs in tasks)
    ends = compute_confidence_limits(
        [_compute_task_moments([tasks[t] for tasks in runs]) for t in range(n_tasks)],
        shares,
        is_bounded=is_bounded,
        level=level,
    )
    if ends is None:
        return Interval(value, None, None)
    low, high = (float(end) for end in ends)
    if is_bounded:
        most = sum(map(abs, shares))
        low, high = max(low, -most), min(high, most)
    return Interval(value, min(low, value), max(high, value))


def _compute_task_moments(seeds: Sequence[PairedScores]) -> Moments:
    """The moments of one task over the seeds' runs."""
    first = seeds[0]
    is_crossed = all(pairs.ids == first.ids for pairs in seeds)
    differences = [np.asarray(pairs.question_influences(), dtype=float) for pairs in seeds]
    if is_crossed or len({len(one) for one in differences}) == 1:
        return compute_moments(np.stack(differences), is_crossed=is_crossed)
    return _pool_moments(differences)


def _pool_moments(differences: Sequence[Array]) -> Moments:
    """The moments where each seed had questions of its own, and another number of them."""
    each = [compute_moments(one[None]) for one in differences]
    n_seeds = len(each)
    spread = [one.var() / max(1, len(one) - 1) for one in differences]
    return Moments(
        n=min(one.n for one in each),
        deltas=np.array([one.mean for one in each]),
        squares=np.mean([one.squares for one in each], axis=0),
        n_changed=np.mean([one.n_changed for one in each], axis=0),
        within=np.asarray(sum(spread) / n_seeds**2),
        is_crossed=False,
    )


def mcnemar_p_value(wins: int, losses: int) -> float:
    """Exact two-sided p-value of McNemar's test: that `won` against `lost` flips come from a fair coin.

    McNemar 1947; the exact form is the two-sided binomial (sign) test on the items that changed. No change: 1.
    """
    from scipy.stats import binomtest  # half a second to import: only where something is decided

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def noise_floor(pairs: PairedScores) -> float:
    """How far two measurements of the *same* model differ (95 %) when each draws its own n questions.

    1.96 * sqrt(2 * variance / n), with the variance of the base's scores over questions. Greedy decoding is
    deterministic, so asking the same questions again gives exactly the same figures; what remains uncertain is which
    questions were asked. A difference below this floor could not have been seen without pairing; the paired interval
    is usually narrower.
    """
    return 1.96 * float(np.sqrt(2 / len(pairs.ids))) * pairs.score_spread()


def mark_pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (gain, loss) points no other beats, by being at least as good in both and better in one."""
    return [not any(g >= gain and ls <= loss and (g > gain or ls < loss) for g, ls in points) for gain, loss in points]
