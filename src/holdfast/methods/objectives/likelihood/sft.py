"""SFT: the cross-entropy of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.methods.objectives.terms.labels import count_labels, label_weights

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy


class SFT(Objective):
    """Supervised fine-tuning: the cross-entropy of the answer tokens. [Ouyang et al. 2022, 2203.02155]

    What it does: raises the probability of every answer token given the true tokens before it. Prompt tokens are read,
    not learned; the end-of-turn token is learned.

    When it helps: always the first thing to try; with answers close to what the model itself would say, it is enough.

    When it fails: answers in a style far from the model's own pull it away from what it knew (see `s3ft`, `sdft`,
    `rft`, `half`, `replay`); few rows for many epochs are memorised.

    Columns: conversations with answers. Rows may carry `weight`.

    Formula, with l_t = log p(y_t | x, y_<t), answers b of n_b tokens, row weights w_b:

        reduction="token":     L = - sum_b w_b sum_t l_bt / sum_b w_b n_b      every token counts alike (as in TRL)
        reduction="sequence":  L = - (1/B) sum_b w_b (1/n_b) sum_t l_bt       every answer counts alike

    Shapes: l is [N], one entry per trained token of the micro-batch; the sums go over the whole batch of all ranks.
    """

    paper: ClassVar[str] = "Ouyang et al. 2022, arXiv 2203.02155"

    reduction: Literal["token", "sequence"] = Field(
        "token", description="token: every trained token counts alike; sequence: every answer counts alike."
    )

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"nll": count_labels(batch, self.reduction)}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        return Losses({"nll": policy.weighted_nll(batch, label_weights(batch, self.reduction))})
