"""A reward model: what an answer is worth, learned from which of two is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.methods.objectives.terms.pairs import reshape_by_row, row_weights

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy


class Reward(Objective):
    """A number for answers, so that the better of two has the higher one. [Ouyang et al. 2022, 2203.02155]

    What it does: trains the model with a head of one number on the token that ends an answer, so that the difference of
    two answers' numbers gives the probability that the first is preferred (Bradley and Terry 1952). The run leaves
    `model/`, `value_head.safetensors`, and both as `reward_model/`, which transformers loads as
    AutoModelForSequenceClassification. Judge `reward_model` scores answers with it: as the reward of online learning,
    in curators, in best-of-n.

    When it helps: people, or a better model, can say which answer is better, and no rule can.

    When it fails: it is right about answers like those it has seen. What is trained against it for long finds answers
    that it likes and nobody else does; hold the model near its base then (online.divergence), and judge by other means.
    The model that is left no longer speaks as its base did; it is there for its number.

    Columns: prompts with `chosen` and `rejected`. Rows may carry `weight`.

    Formula, with r(x, y) = w . h + b of the last hidden state h of the last token; mean over pairs:

        L = -log sigmoid(r(x, chosen) - r(x, rejected)) + center (r(x, chosen) + r(x, rejected))^2

    The second term holds the mean of rewards near 0, which the first leaves open [Eisenstein et al. 2023, 2312.09244].
    w begins at random, of deviation 1 / sqrt(width + 1) [Stiennon et al. 2020, 2009.01325]; b has no part in it and
    stays 0.

    Paper's settings (Appendix C.2): one epoch, rate 9e-6, 64 prompts a step.
    """

    paper: ClassVar[str] = "Ouyang et al. 2022, arXiv 2203.02155"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(9e-6, None, 1.0, 64, "Ouyang et al. 2022")
    rows: ClassVar[Kind] = "pair"
    needs_values: ClassVar[bool] = True
    value_scale: ClassVar[float] = 1.0
    makes_reward_model: ClassVar[bool] = True

    center: float = Field(0.0, ge=0, description="Holds the mean of rewards near 0: weight of their squared sum.")

    def shares_prompts(self) -> bool:
        return False  # the last token of an answer of one token would stand behind another one's

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"preference": float(batch.n_rows)} | ({"center": float(batch.n_rows)} if self.center else {})

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        rewards = self.predict_rewards(policy, batch)  # [P, 2]
        weights, margins = row_weights(batch), rewards[:, 0] - rewards[:, 1]
        sums = {"preference": (bradley_terry_losses(rewards) * weights).sum()}
        if self.center:
            sums["center"] = self.center * (rewards.sum(1).square() * weights).sum()
        count, values = float(len(rewards)), rewards.detach()
        metrics = {
            "rewards/accuracy": ((margins > 0).sum().item(), count),
            "rewards/margin": (margins.detach().sum().item(), count),
            "rewards/chosen": (values[:, 0].sum().item(), count),
            "rewards/rejected": (values[:, 1].sum().item(), count),
        }
        return Losses(sums, metrics)

    def predict_rewards(self, policy: Policy, batch: Batch) -> Tensor:
        """The rewards [P, 2], chosen first; without the head's b, which is the same for all."""
        from holdfast.models.reward_model import last_positions

        assert policy.value_head is not None
        values = policy.predict_values_at(batch, last_positions(batch)) - policy.value_head.bias
        return reshape_by_row(values, batch)


def bradley_terry_losses(rewards: Tensor) -> Tensor:
    """-log of the probability [P] that the first answer of each pair is preferred, by rewards [P, 2]."""
    import torch

    return -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1])
