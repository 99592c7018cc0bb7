"""UFT: demonstrations and scored answers in one stage, by one loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.axes.objective_settings import ObjectiveSettings
from holdfast.data.row_shapes import Column
from holdfast.methods.objectives.scored.una import single_answer_losses

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.data.rows import Rows
    from holdfast.models.policy import Policy


class UFT(Objective):
    """Unified fine-tuning: demonstrations are answers with the highest score. [Wang et al. 2024, 2410.21438]

    What it does: treats supervised fine-tuning and alignment as one task. A demonstration is an answer of score 1, an
    alignment row has its own score, and the implicit reward of each is pulled to it as in `una`, in one stage from the
    pre-trained model, which is the reference. The aim is that alignment does not undo what demonstrations taught.

    When it helps: both demonstrations and scored answers exist, and SFT followed by alignment forgets the first: on a
    small table, with the paper's beta, two stages left 26 % of what was taught and one stage 67 % (`holdfast reproduce
    uft-table`). Aligning as well (`uft-scores`) takes scores that agree with the demonstrations.

    When it fails: a large beta, with which a demonstration's target of 1 pulls for ever (at 0.5 the table turns
    round). Nothing is learned from demonstrations as fast as by SFT: at the start the gradient is -beta / 4 per token
    instead of -1, so use an adaptive optimizer and a larger learning rate; as beta D grows it fades, which keeps the
    model near the reference. A mean over rows: the mixture decides what counts (the paper: one to one).

    Columns: conversations with answers, and `score` from 0 to 1 where there is one; without it a row is a
    demonstration, of score 1. Pairs are taken apart (their scores: `meta.score_chosen`, `meta.score_rejected`). Rows
    without any demonstration, and pairs without scores, are refused.

    Formula, with D(y) = sum_t log p(y_t | x, y_<t) - log p_ref(y_t | x, y_<t), r the score; one D per row [R]:

        L = mean over rows of (sigmoid(beta D) - r)^2

    The paper calls the loss of demonstrations equivalent to SFT; it shares the direction of the gradient for a row,
    not the optimum.

    Paper's settings: beta 0.01, low-rank updates of a 7B model, learning rate 3e-5, 20,000 demonstrations with
    20,000 scored answers.
    """

    paper: ClassVar[str] = "Wang et al. 2024, arXiv 2410.21438"
    settings: ClassVar[ObjectiveSettings] = ObjectiveSettings(
        3e-6, 3e-5, 2.0, 64, "Wang et al. 2024 (adapters); base weights a tenth"
    )
    rows: ClassVar[Kind] = "single"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.01, gt=0, description="How much log-probability a unit of reward is worth.")

    def value_columns(self) -> tuple[Column, ...]:
        return (Column("score", low=0, high=1, default=1.0),)

    def find_rows_problem(self, rows: Rows) -> str | None:
        rows_without_score = [row for row in rows if row.score is None and "score" not in row.meta]
        if any(row.label is False for row in rows_without_score):
            return (
                "has rejected answers without a score, which uft would take for demonstrations; give pairs "
                "score_chosen and score_rejected (from 0 to 1), or use dpo or kto"
            )
        if rows_without_score:
            return None
        return (
            "has a score for every answer and no demonstrations, without which uft is una with another beta; add rows "
            "with an answer and no score (data.train takes several files), or use una"
        )

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"reward": batch.n_rows}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        return single_answer_losses(policy, batch, batch.values["score"], self.beta, "mse")
