"""Which trial is better: feasible before infeasible, feasible ones by gain, others by how far they are off.

Trials that are alike in that go by what held-out answers cost them: at the first rung few have solved anything.

The order is Deb's for constrained problems (Deb 2000, "An efficient constraint handling method for genetic
algorithms"). What was lost is known up to an interval, so a limit is held against one end of it: early in a run, when a
few steps and questions say little, against the optimistic one; in the end against the pessimistic one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STRICT = -1.28
"""At the last rung loss + 1.28 standard errors must keep to the limit: the upper end of an 80 % interval."""


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """What a trial came to.

    Args:
        gain: On what it is chosen by; not a number where it failed.
        loss: On the kept tasks, in points; 0 where nothing is kept.
        error: Standard error of the loss.
        bits: A token of the held-out answers takes, where they are measured: what tells apart trials that gain alike,
            as most do that solve nothing yet.
    """

    gain: float
    loss: float = 0.0
    error: float = 0.0
    bits: float = 0.0

    @property
    def is_failed(self) -> bool:
        """Whether there is nothing to compare."""
        return not (math.isfinite(self.gain) and math.isfinite(self.loss))

    def compute_violation(self, max_loss: float | None, z: float) -> float:
        """By how much the loss less z standard errors is above the limit; infinite where the trial failed."""
        if self.is_failed:
            return math.inf
        return 0.0 if max_loss is None else max(0.0, self.loss - z * self.error - max_loss)


FAILED = TrialOutcome(math.nan, math.nan)


def list_strictness(rungs: int) -> list[float]:
    """The z of each rung: from 1 at the first, falling evenly to 0 at the last but one, then `STRICT`."""
    return [*(float(z) for z in np.linspace(1.0, 0.0, rungs - 1)), STRICT] if rungs > 2 else [1.0, STRICT][2 - rungs :]


def sort_key(outcome: TrialOutcome, max_loss: float | None, z: float) -> tuple[float, float, float]:
    """Smaller is better; among equals the earlier trial comes first, as sorting is stable."""
    violation = outcome.compute_violation(max_loss, z)
    if outcome.is_failed:
        return violation, math.inf, math.inf
    return violation, -outcome.gain if violation == 0 else 0.0, outcome.bits


def rank_outcomes(outcomes: Sequence[TrialOutcome], max_loss: float | None, z: float) -> list[int]:
    """The places of outcomes in a list, the best first."""
    return sorted(range(len(outcomes)), key=lambda place: sort_key(outcomes[place], max_loss, z))


def count_promotions(trials: int, reduce: int, finalists: int) -> int:
    """How many of the trials of a rung go on to the next: one of `reduce`, but enough for the finals."""
    return min(trials, max(math.ceil(trials / reduce), finalists))
