"""What CPO, SimPO, TPO and TPO-L share: a gap between two answers without a reference, and the likelihood of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.methods.objectives.terms.pair_objective import Comparison, PairObjective, ScoredPairs

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch

MarginLoss = Literal["sigmoid", "hinge"]


class MarginObjective(PairObjective):
    """Pairs judged by `answer_rewards` against `target_margin`, beside the negative log-likelihood of the answer
    `nll_role`.
    """

    nll_role: ClassVar[int] = 0
    """Role of the answer whose likelihood is raised: 0 chosen, 2 gold."""

    loss: MarginLoss = Field("sigmoid", description="How the gap is judged: see the formula.")
    beta: float = Field(0.1, gt=0, description="How much a gap in log-probability counts.")
    alpha: float = Field(1.0, ge=0, description="Weight of the negative log-likelihood.")
    nll: Literal["token", "sum"] = Field(
        "token", description="token: mean over all tokens, as it is run; sum: over each answer, as printed."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of pairs thought to be labelled the wrong way."
    )

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> Self:
        if self.label_smoothing and self.loss == "hinge":
            raise ValueError("label_smoothing has no effect on hinge; use sigmoid")
        return self

    def answer_rewards(self, s: Tensor, lengths: Tensor) -> Tensor:
        """What is compared, [P, roles], of log-probabilities and lengths of the answers."""
        raise self._build_missing_error("rewards")

    def target_margin(self) -> float:
        """By how much chosen must lead."""
        return 0.0

    def normalizers(self, batch: Batch) -> dict[str, float]:
        nll_count = batch.count_labels(self.nll_role) if self.nll == "token" else batch.n_rows
        return {"preference": batch.n_rows, "nll": nll_count}

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        rewards = self.answer_rewards(pairs.answer_logps, pairs.lengths)
        preference = pairs.weighted_sum(margin_losses(rewards, self.target_margin(), self.loss, self.label_smoothing))
        nll_mask = pairs.batch.roles[pairs.batch.sequence] == self.nll_role  # [N]
        nll = -(pairs.logps * pairs.batch.weights)[nll_mask].sum()
        return Comparison({"preference": preference, "nll": self.alpha * nll}, rewards)


def margin_losses(rewards: Tensor, margin: float, loss: MarginLoss = "sigmoid", smoothing: float = 0.0) -> Tensor:
    """The loss [P] of each row from `rewards` [P, 2 or more], chosen first, rejected second."""
    from torch.nn.functional import logsigmoid

    z = rewards[:, 0] - rewards[:, 1] - margin
    if loss == "hinge":
        return (1 - z).relu()
    return -(1 - smoothing) * logsigmoid(z) - smoothing * logsigmoid(-z)
