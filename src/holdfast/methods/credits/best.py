"""The best answers count, and the others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.credit import Credit
from holdfast.data.rollout_rewards import RolloutRewards

if TYPE_CHECKING:
    import numpy as np


class BestCredit(Credit):
    """1 for the best answers, 0 for the others. [Dong et al. 2023, arXiv 2304.06767]

    What it does: of the episodes of each prompt, or of the whole round, a share with the highest returns counts. With
    objective `sft` that is RAFT (method `raft`): rounds of sampling, ranking and supervised fine-tuning on the best,
    from the model of the last round.

    When it helps: rewards that rank answers, on whatever scale; nothing is learned from bad answers, so that little can
    go wrong.

    When it fails: what bad answers have in common is not unlearned. Over the whole round (`among: round`) the easy
    prompts give all answers, and the hard ones none.

    Formula, for the return R_i of episode i among the G of its prompt (or all of the round):

        A_i = 1 if R_i is among the max(1, round(share G)) highest, else 0; of equal ones the first

    Paper's settings (LMFlow, where it is from): share 0.2, so that the best of 5 answers is kept.
    """

    paper: ClassVar[str] = "Dong et al. 2023, arXiv 2304.06767"

    share: float = Field(0.2, gt=0, le=1, description="Of the answers that are compared, those that count.")
    among: Literal["group", "round"] = Field("group", description="What is compared: answers to a prompt, or all.")

    def assign_advantages(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        import numpy as np

        returns, keep = rollouts.returns, np.zeros(len(rollouts.rewards))
        groups = rollouts.groups if self.among == "group" else np.zeros(len(returns))
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            count = max(1, round(self.share * len(members)))
            keep[members[np.argsort(-returns[members], kind="stable")[:count]]] = 1
        return rollouts.spread_evenly(keep)
