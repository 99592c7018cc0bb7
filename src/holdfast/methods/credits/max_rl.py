"""How much better than its group an answer is, for prompts that are seldom solved."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np


from holdfast.axes.credit import Credit
from holdfast.data.rollout_rewards import RolloutRewards
from holdfast.errors import UserError


class MaxRL(Credit):
    """How much better than its group an answer is, in units of the group's mean. [MaxRL, 2026, arXiv 2602.02710]

    What it does: divides the difference from the group's mean by that mean: a success counts the more, the rarer it is,
    as in the gradient of the log-likelihood of succeeding.

    When it helps: hard prompts, solved once in many tries.

    When it fails: rewards must not be negative; a prompt that is never solved teaches nothing.

    Formula, for episode i with return R_i >= 0:

        A_i = (R_i - mean R) / mean R, and 0 where the mean is 0
    """

    paper: ClassVar[str] = "MaxRL, 2026, arXiv 2602.02710"
    compares_group: ClassVar[bool] = True

    def assign_advantages(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        import numpy as np

        returns, means = rollouts.returns, rollouts.group_means()
        if (returns < 0).any():
            raise UserError(
                f"credit max_rl divides by a group's mean and needs rewards of 0 and above; one is {returns.min():g}: "
                "use credit: group"
            )
        return rollouts.spread_evenly(np.where(means > 0, (returns - means) / np.where(means > 0, means, 1), 0.0))
