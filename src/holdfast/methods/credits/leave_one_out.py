"""How much better than the other answers to its prompt an answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np


from holdfast.axes.credit import Credit
from holdfast.data.rollout_rewards import RolloutRewards


class LeaveOneOut(Credit):
    """How much better than the mean of the others an answer is. [Ahmadian et al. 2024, arXiv 2402.14740]

    What it does: every token of an episode gets its return less the mean return of the other episodes of the prompt,
    which depends on none of its own draws: the policy gradient stays unbiased.

    When it helps: few answers to a prompt; from two on.

    When it fails: a prompt with one answer has nothing to be compared with, and teaches nothing.

    Formula, for episode i of a group of G with return R_i:

        A_i = R_i - mean over j != i of R_j = G / (G - 1) (R_i - mean R)
    """

    paper: ClassVar[str] = "Ahmadian et al. 2024, arXiv 2402.14740"
    compares_group: ClassVar[bool] = True

    def assign_advantages(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        import numpy as np

        sizes = rollouts.group_sizes()
        return rollouts.spread_evenly((rollouts.returns - rollouts.group_means()) * sizes / np.maximum(sizes - 1, 1))
