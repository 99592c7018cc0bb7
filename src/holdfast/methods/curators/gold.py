"""Train on the rows as they are."""

from __future__ import annotations

from holdfast.axes.curator import CurationContext, Curator
from holdfast.data.rows import RowMap, Rows
from holdfast.data.trace import record_decision


class Gold(Curator):
    """The rows as they are: plain supervised fine-tuning. [Ouyang et al. 2022, arXiv 2203.02155]

    The control every other curator is compared with. Helps when the answers are short or the model could not have found
    them; fails, by forgetting, when they are written in a way the model itself would not write.

    Columns: any.
    """

    paper = "Ouyang et al. 2022 (2203.02155)"

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        context.note("gold kept", len(rows))
        return RowMap(rows, lambda row: record_decision(row, "gold", row))
