"""The focal loss as a user would add it: one class, one formula."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from holdfast.axes.objective import Losses, Objective


class Focal(Objective):
    """Cross-entropy that looks away from what is known already. [Lin et al. 2017, 1708.02002]

    What it does: weighs each token's cross-entropy by (1 - p)^gamma, p being its own probability.

    When it helps: answers most of whose tokens are easy.

    When it fails: wrong labels are hard too, and get the most weight.

    Columns: conversations with answers. Rows may carry `weight`.

    Formula, with l_t = log p(y_t | x, y_<t), [N], and row weights w; p is not a constant in the gradient:

        L = - sum_t w_t (1 - exp(l_t))^gamma l_t / sum_t w_t
    """

    paper: ClassVar[str] = "Lin et al. 2017, arXiv 1708.02002"

    gamma: float = Field(2.0, ge=0, description="How fast easy tokens lose their weight; 0 is sft.")

    def normalizers(self, batch):
        return {"focal": batch.weight}

    def losses(self, policy, batch):
        logps = policy.token_logps(batch)  # [N]
        hard = (1 - logps.exp()).clamp_min(0) ** self.gamma  # fp32 may round p above 1
        metrics = {"hard": (hard.sum().item(), float(len(hard)))}
        return Losses({"focal": -(batch.weights * hard * logps).sum()}, metrics)
