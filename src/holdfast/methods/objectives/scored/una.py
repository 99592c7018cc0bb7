"""UNA: pull the implicit reward of an answer to the score somebody gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.data.row_shapes import PAIR, SINGLE, Column
from holdfast.methods.objectives.preference.dpo import pair_losses
from holdfast.methods.objectives.terms.pairs import compute_gains, pair_metrics, row_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import RowShape
    from holdfast.models.policy import Policy


AUTHORS = "Wang et al. 2024 (adapters); base weights a tenth"
SCORES = ObjectiveSettings(3e-6, 3e-5, 2.0, 64, AUTHORS)
LABELS = ObjectiveSettings(5e-7, 5e-6, 2.0, 64, AUTHORS)
"""For pairs too."""


class UNA(Objective):
    """Unified alignment: one loss for pairs, labels and scores. [Wang et al. 2024, 2408.15339]

    What it does: squashes how much more likely an answer became than under the reference into a score between 0 and 1,
    and pulls that to the answer's own score, from a reward model, a judge or a person. Pairs and plain labels are the
    same with coarser scores.

    When it helps: answers with graded scores, which pairs and labels throw away; one answer per prompt is enough. The
    paper also scores samples of the policy with a reward model, in place of PPO: score and rows are then made anew.

    When it fails: a score of 0.5 means "stay as you are", so scores must be centred there; no policy fits arbitrary
    scores at once, since probabilities sum to 1 (the paper's offset c is left at 0; shift your scores). With mse the
    gradient at the start is tiny, beta / 2 (score - 1/2) per token: an adaptive optimizer is needed.

    Columns: form "score": conversations with answers and `score` from 0 to 1; "binary": with `label`, true or false;
    "pair": prompts with `chosen` and `rejected`. Pairs are taken apart for the first two.

    Formula, with D(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t), r the score, or 1 and 0 for a true and
    a false label, u = sigmoid(beta D); one D per row [R]; mean over rows:

        score, binary    (u - r)^2                                   loss="mse"
                         - r log u - (1 - r) log(1 - u)              loss="bce"
        pair             - log sigmoid(beta (D(chosen) - D(rejected)))     which is `dpo`

    The authors sum the two answers of a prompt; here each is a row of its own and counts alike.

    Paper's settings: beta 0.03 for scores and pairs, 0.01 for labels; low-rank updates of a 7B model, learning rate
    3e-5 for scores and 5e-6 otherwise, 2 epochs.
    """

    paper: ClassVar[str] = "Wang et al. 2024, arXiv 2408.15339"
    settings: ClassVar[ObjectiveSettings] = SCORES
    needs_reference: ClassVar[bool] = True

    form: Literal["score", "binary", "pair"] = Field("score", description="What is known of the answers.")
    loss: Literal["mse", "bce"] = Field("mse", description="How far a score is from the implicit one.")
    beta: float = Field(0.03, gt=0, description="How much log-probability a unit of reward is worth.")

    @model_validator(mode="after")
    def _loss_is_used(self) -> Self:
        if self.form == "pair" and self.loss != "mse":
            raise ValueError("loss has no effect on pairs; leave it out, or use form: binary")
        return self

    @classmethod
    def settings_of(cls, knobs: Mapping[str, Any]) -> ObjectiveSettings:
        return SCORES if knobs.get("form", "score") == "score" else LABELS

    def row_shape(self) -> RowShape:
        return PAIR if self.form == "pair" else SINGLE

    def value_columns(self) -> tuple[Column, ...]:
        columns_by_form = {
            "score": (Column("score", low=0, high=1),),
            "binary": (Column("label", truth=True),),
            "pair": (),
        }
        return columns_by_form[self.form]

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"reward": batch.n_rows}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        if self.form != "pair":
            return single_answer_losses(policy, batch, batch.values[self.value_columns()[0].name], self.beta, self.loss)
        gains, s, lengths = compute_gains(policy, batch)  # [P, 2]
        values = pair_losses(gains, lengths, "sigmoid", self.beta) * row_weights(batch)
        return Losses({"reward": values.sum()}, pair_metrics(s, self.beta * gains, gains))


def single_answer_losses(
    policy: Policy, batch: Batch, scores: Tensor, beta: float, loss: Literal["mse", "bce"]
) -> Losses:
    """The losses of single answers with `scores` [R]."""
    import torch

    gains, _, _ = compute_gains(policy, batch)
    gains = gains[:, 0]  # [R]
    values = score_losses(gains, scores, beta, loss) * row_weights(batch)
    implicit, count = torch.sigmoid(beta * gains.detach()), float(len(gains))
    metrics = {
        "score/implicit": (implicit.sum().item(), count),
        "score/error": ((implicit - scores).abs().sum().item(), count),
    }
    return Losses({"reward": values.sum()}, metrics)


def score_losses(gains: Tensor, scores: Tensor, beta: float, loss: Literal["mse", "bce"] = "mse") -> Tensor:
    """The loss of each answer from D(y) `gains` and `scores`, of one shape."""
    import torch
    from torch.nn.functional import logsigmoid

    if loss == "mse":
        return (torch.sigmoid(beta * gains) - scores).square()
    return -scores * logsigmoid(beta * gains) - (1 - scores) * logsigmoid(-beta * gains)
