"""How much better than its group an answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.credit import Credit
from holdfast.data.rollout_rewards import RolloutRewards

if TYPE_CHECKING:
    import numpy as np


class GroupCredit(Credit):
    """How much better than the mean of its group an answer is. [Shao et al. 2024, arXiv 2402.03300]

    What it does: every token of an episode gets its return less the mean return of the episodes of the same prompt.

    When it helps: several answers to each prompt, and no value model to train.

    When it fails: groups whose answers are all equally good teach nothing. Scaling by the group's own deviation gives
    prompts that are nearly always, or nearly never, solved the largest weight per answer.

    Formula, for episode i of a group of G with return R_i:

        A_i = (R_i - mean R) / (std R + 1e-4)    std with G - 1               scale: group
        A_i =  R_i - mean R                                                   scale: none [Liu et al. 2025, 2503.20783]
        A_i = (R_i - mean R) / std of these over the round                    scale: batch [Liu et al. 2025, 2508.08221]
    """

    paper: ClassVar[str] = "Shao et al. 2024, arXiv 2402.03300"
    compares_group: ClassVar[bool] = True

    scale: Literal["group", "none", "batch"] = Field("group", description="What differences are divided by.")

    def assign_advantages(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        import numpy as np

        better = rollouts.returns - rollouts.group_means()
        if self.scale == "group":
            _, index = np.unique(rollouts.groups, return_inverse=True)
            squares, sizes = np.bincount(index, better**2), np.bincount(index)
            better = better / (np.sqrt(squares / np.maximum(sizes - 1, 1)) + 1e-4)[index]
        elif self.scale == "batch" and better.any():
            better = better / better.std()
        return rollouts.spread_evenly(better)
