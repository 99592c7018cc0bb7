"""Error bars of a before-and-after comparison: everything is paired, because both models answered the same questions.

All functions take scores in [0, 1] (or log-likelihoods in nats) and return differences in the same unit; only
`summary.py` turns them into points and bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

RESAMPLES = 10_000
_CHUNK = 4_000_000  # drawn item numbers held at once: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference (tuned - base) and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """What two models scored on the same questions.

    Args:
        ids: The questions, in order.
        base, tuned: Scores, or log-likelihoods in nats when `sizes` is given; [n].
        sizes: Bytes or tokens of each text; [n]. Then a model's figure is the sum of its log-likelihoods over the sum
            of sizes, in nats per byte or token, instead of the mean score.
        relative: Differences are shares of the base's figure: tuned / base - 1.
    """

    ids: tuple[str, ...]
    base: np.ndarray
    tuned: np.ndarray
    sizes: np.ndarray | None = None
    relative: bool = False

    def figure(self, scores: np.ndarray) -> float:
        """One model's figure on the whole task."""
        return float(scores.mean() if self.sizes is None else scores.sum() / self.sizes.sum())

    def delta(self) -> float:
        """Figure of the tuned model minus that of the base, or its share of the base's."""
        if self.relative:
            return float(self.tuned.sum() / self.base.sum() - 1)
        return self.figure(self.tuned - self.base)

    def resampled(self, chosen: np.ndarray) -> np.ndarray:
        """`delta` on each of R draws of the questions; [R, n] item numbers to [R]."""
        if self.relative:
            return self.tuned[chosen].sum(axis=1) / self.base[chosen].sum(axis=1) - 1
        difference = (self.tuned - self.base)[chosen]
        if self.sizes is None:
            return difference.mean(axis=1)
        return difference.sum(axis=1) / self.sizes[chosen].sum(axis=1)

    def spread(self) -> float:
        """Standard deviation over questions of the base's score (of its linearisation, where sizes differ)."""
        if self.sizes is None:
            return float(self.base.std())
        residuals = self.base - self.figure(self.base) * self.sizes
        return float(residuals.std() / self.sizes.mean())


def interval(runs: Sequence[Sequence[Pairs]], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean difference over tasks and over seeds, with its 95 % percentile bootstrap interval.

    Args:
        runs: `runs[seed][task]`. One seed and one task: the paired bootstrap. One seed, many tasks: the questions are
            drawn again within each task and the tasks' differences averaged, each task counting the same. Many seeds:
            hierarchical; seeds are drawn again, then questions. Seeds that answered the same questions share the
            draw of questions (they are crossed, not nested: a hard question is hard for every seed).
        resamples: Bootstrap draws.
        seed: Of the draws; the same input always gives the same interval.

    With S seeds a plain bootstrap underestimates their variance by (S - 1) / S; deviations from the mean over seeds are
    widened by its inverse root. With two or three seeds the interval is still somewhat too narrow.
    Efron & Tibshirani 1993, An Introduction to the Bootstrap; Davison & Hinkley 1997, section 3.8.
    """
    n_tasks = len(runs[0])
    value = float(np.mean([[pairs.delta() for pairs in tasks] for tasks in runs]))
    rng = np.random.default_rng(seed)
    widest = max(len(pairs.ids) for tasks in runs for pairs in tasks)
    step = max(1, min(resamples, _CHUNK // widest))
    draws = [
        _over_seeds(
            sum(
                (_one_task([tasks[t] for tasks in runs], min(step, resamples - start), rng) for t in range(n_tasks)),
                np.zeros(()),
            )
            / n_tasks,
            rng,
        )
        for start in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(draws), [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _one_task(seeds: Sequence[Pairs], size: int, rng: np.random.Generator) -> np.ndarray:
    """Differences of one task on `size` draws of its questions; [S, R]."""
    crossed = all(pairs.ids == seeds[0].ids for pairs in seeds)
    chosen = rng.integers(len(seeds[0].ids), size=(size, len(seeds[0].ids)))
    rows = []
    for number, pairs in enumerate(seeds):
        if number and not crossed:
            chosen = rng.integers(len(pairs.ids), size=(size, len(pairs.ids)))
        rows.append(pairs.resampled(chosen))
    return np.stack(rows)


def _over_seeds(deltas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean over seeds drawn again for each of the R resamples; [S, R] to [R]."""
    n_seeds, size = deltas.shape
    if n_seeds == 1:
        return deltas[0]
    middle = deltas.mean(axis=0)
    widened = middle + (deltas - middle) * np.sqrt(n_seeds / (n_seeds - 1))
    return np.take_along_axis(widened, rng.integers(n_seeds, size=(n_seeds, size)), axis=0).mean(axis=0)


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test: that `won` against `lost` flips come from a fair coin.

    McNemar 1947; the exact form is the two-sided binomial (sign) test on the items that changed. No change: 1.
    """
    flips = won + lost
    tail = sum(comb(flips, k) for k in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**flips)


def noise_floor(pairs: Pairs) -> float:
    """How far two measurements of the *same* model differ (95 %) when each draws its own n questions.

    1.96 * sqrt(2 * variance / n), with the variance of the base's scores over questions. Greedy decoding is
    deterministic, so asking the same questions again gives exactly the same figures; what remains uncertain is which
    questions were asked. A difference below this floor could not have been seen without pairing; the paired interval
    is usually narrower.
    """
    return 1.96 * float(np.sqrt(2 / len(pairs.ids))) * pairs.spread()


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (gain, loss) points no other beats, by being at least as good in both and better in one."""
    return [not any(g >= gain and ls <= loss and (g > gain or ls < loss) for g, ls in points) for gain, loss in points]
