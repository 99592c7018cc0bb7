"""KTO: single answers labelled good or bad, judged against what the model does on average."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.data.row_shapes import Column

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy


class KTO(Objective):
    """Kahneman-Tversky optimisation: each answer is good or bad by itself. [Ethayarajh et al. 2024, 2402.01306]

    What it does: raises labelled-good and lowers labelled-bad answers, as gains and losses against a reference point:
    how far the model has moved on answers that belong to other prompts. Gains and losses saturate, as in prospect
    theory, so hopeless and settled rows stop pulling.

    When it helps: thumbs up or down instead of pairs; very unequal numbers of good and bad; noisy labels.

    When it fails: clean pairs say more (`dpo`); a step needs several rows for the reference point (TRL refuses one).
    Keep desirable x (good rows) to undesirable x (bad rows) between 1 and 4/3, by the weights.

    Columns: conversations with answers and `label` (true: good, false: bad). Pairs are taken apart.

    Formula, with D(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t); one D per row, [R]:

        z0 = max(0, mean over the whole step of D(x_i, y_i'))      y_i' the answer of the row before; no gradient
        L  = mean over rows of  desirable   (1 - sigmoid(beta (D - z0)))        for good answers
                                undesirable (1 - sigmoid(beta (z0 - D)))        for bad answers

    z0 estimates the divergence from the reference. Here it is the mean over the step, whatever the micro-batches; the
    authors and TRL take it over each micro-batch, and TRL shifts answers within that. A step of one micro-batch that
    is the whole table gives TRL's number. The paper's value function is the desirable weight minus this loss.

    Paper's settings: beta 0.1, both weights 1, a learning rate 2 to 10 times that of DPO (about 5e-6 for 7B).
    """

    paper: ClassVar[str] = "Ethayarajh et al. 2024, arXiv 2402.01306"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(5e-6, None, 1.0, 64, "Ethayarajh et al. 2024")
    rows: ClassVar[Kind] = "shifted"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0, description="How strongly the reference is held on to; how soon gains saturate.")
    desirable: float = Field(1.0, ge=0, description="Weight of good answers (lambda_D).")
    undesirable: float = Field(1.0, ge=0, description="Weight of bad answers (lambda_U).")

    def value_columns(self) -> tuple[Column, ...]:
        return (Column("label", truth=True),)

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"utility": batch.n_rows}

    def step_statistics(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        return {"divergence": answer_gains(policy, batch.select_roles(1))}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        z0 = batch.step_values["divergence"].all.mean().clamp_min(0)
        mine = batch.select_roles(0)
        gains, good = answer_gains(policy, mine), mine.values["label"]  # [R]
        weights = mine.sequence_weights() * (self.desirable * good + self.undesirable * (1 - good))
        utility = (utility_losses(gains, good, z0, self.beta) * weights).sum()
        return Losses({"utility": utility}, label_metrics(self.beta * gains.detach(), good, self.beta * z0.item()))


def answer_gains(policy: Policy, batch: Batch) -> Tensor:
    """D(y) [S] of each sequence."""
    return batch.sum_per_sequence(policy.token_logps(batch) - policy.reference_logps(batch))


def utility_losses(gains: Tensor, good: Tensor, z0: Tensor | float, beta: float) -> Tensor:
    """The loss [R] of each answer from D(y) `gains` [R] and whether it is `good` (1 or 0) [R]."""
    import torch

    return 1 - torch.sigmoid(beta * (gains - z0) * (2 * good - 1))


def label_metrics(rewards: Tensor, good: Tensor, point: float) -> dict[str, tuple[float, float]]:
    """Metrics of labelled answers from `rewards` [R]: their means by label, and how often on the right side."""
    many, count = good.sum().item(), float(len(good))
    right = (rewards > point) == (good > 0)
    return {
        "rewards/desirable": ((rewards * good).sum().item(), many),
        "rewards/undesirable": ((rewards * (1 - good)).sum().item(), count - many),
        "rewards/accuracy": (right.sum().item(), count),
        "rewards/reference": (point * count, count),
    }
