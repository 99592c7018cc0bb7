"""An objective over whole rankings, with a row shape of its own, as a reader of the paper would add it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.objective import Losses, Objective
from holdfast.data.row_shapes import RowShape, with_last_answer
from holdfast.data.rows import Message, Row
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy


class RankedShape(RowShape):
    """The prompt with each of `meta.ranked`, the best first."""

    name: ClassVar[str] = "ranked"
    needs: ClassVar[str] = "ranked answers"
    columns: ClassVar[tuple[str, ...]] = ("ranked",)
    holds_answers: ClassVar[bool] = True

    def build_sequences(self, row: Row, where: str, before: Row) -> list[list[Message]]:
        ranked = row.meta.get("ranked")
        if not isinstance(ranked, list) or len(ranked) < 2:
            raise UserError(f"{where} has no ranked answers; add a column ranked, a list with the best first")
        return [with_last_answer(row, text) for text in ranked]


class PRO(Objective):
    """Each answer against all worse ones. [Song et al. 2023, arXiv 2306.17492]"""

    paper: ClassVar[str] = "Song et al. 2023, arXiv 2306.17492"
    rows: ClassVar[RowShape] = RankedShape()

    beta: float = Field(1.0, gt=0, description="Scale of the mean log-probabilities.")

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"ranking": batch.n_rows}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        means = batch.sum_per_sequence(policy.token_logps(batch)) / batch.label_counts()  # [S]
        begins = (batch.roles == 0).nonzero()[:, 0].tolist()
        rows = means.tensor_split(begins[1:])  # [answers] of each row, the best first
        each = [-(self.beta * m[k:]).log_softmax(0)[0] for m in rows for k in range(len(m) - 1)]
        return Losses({"ranking": sum(each, means.new_zeros(()))})
