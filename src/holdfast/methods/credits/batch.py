"""What is still to come, against the mean of the round."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.credit import Credit
from holdfast.data.rollout_rewards import RolloutRewards, whiten_labels

if TYPE_CHECKING:
    import numpy as np


class BatchCredit(Credit):
    """What is still to come, against the whole round's mean and deviation. [Hu et al. 2025, arXiv 2501.03262]

    What it does: every token gets the sum of the rewards from it on, whitened over all tokens of the round
    (REINFORCE++). With `baseline` the mean of its group is taken off the return first, and the rewards' order within an
    answer does not count.

    When it helps: one answer to a prompt, or groups too small for a deviation of their own.

    When it fails: prompts of different difficulty are compared with each other, unless `baseline` is set.

    Formula, for label t with rewards r (the divergence already taken off them):

        R_t = sum over s >= t of r_s            baseline: R_t = R_i - mean of the group
        A_t = (R_t - mean) / sqrt(max(var, 1e-8))    over all labels of the round, population variance
    """

    paper: ClassVar[str] = "Hu et al. 2025, arXiv 2501.03262"

    baseline: bool = Field(False, description="Take the group's mean off the return of an answer first.")

    @property
    def compares_group(self) -> bool:  # type: ignore[override]
        """With a baseline it does."""
        return self.baseline

    def assign_advantages(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        if self.baseline:
            return whiten_labels(rollouts.spread_evenly(rollouts.returns - rollouts.group_means()), floor=1e-8)
        return whiten_labels(rollouts.rewards_to_come(), floor=1e-8)
