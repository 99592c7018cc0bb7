"""No row that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator, Effect
from holdfast.data.rows import Rows


class Decontaminate(Curator):
    """Rows that overlap with what is measured are left out. [Brown et al. 2020, 2005.14165]

    Held against every task of the recipe: the target, the held-out rows, and what is kept. A row is left out if

        its question is one of theirs (case, white space and the mark at its end aside), or
        runs of 13 words in a row stand in both, as many as make up `share` of those of the shorter of the two texts.

    What is form and not content does not count: a run of words in more than 10 rows of either side, or in more than
    half of them, and a question that more than half of the rows ask. System messages count in questions only. The paper
    takes a single run in common (`share: 0`), of texts from the web; rows of one kind share runs by chance, and 70 % is
    what Chowdhery et al. 2022 ask for (2204.02311, of runs of 8).

    It is on by default, for every run, before other curators and again after those that write questions; general rows
    to be rehearsed are held against the tasks when they are opened. `data.decontaminate: false` is without, and naming
    it under `curate` is with these knobs, at that place. The report counts what was left out, `dropped.jsonl` lists it.

    When it helps: whenever a test set may have been copied into the training rows; scores are then of what was learned,
    not of what was seen. When it fails: it does not see a question in other words, or in another language.

    Columns: any.

    Paper: Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C (arXiv 2005.14165).
    """

    paper = "Brown et al. 2020 (2005.14165)"
    effect: ClassVar[Effect] = "select"

    words: int = Field(13, ge=5, description="Words in a row that two texts have in common.")
    share: float = Field(
        0.7, ge=0, le=1, description="Least share of such runs, of the shorter of the two texts; 0: one is enough."
    )

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        reasons = self.find_reasons(rows, context.evaluated)
        reasons = {index: reason for index, reason in reasons.items() if not rows[index].is_replayed}
        if reasons:
            context.note("overlaps with what is measured", len(reasons))
        return context.leave_out(rows, reasons, trace=False)

    def find_reasons(self, rows: Rows, tasks: Mapping[str, Rows]) -> dict[int, str]:
        """By the index of a row why it is left out, replayed rows like others.

        Args:
            tasks: Task to the rows it measures on.
        """
        from holdfast.data.overlap.finder import OverlapFinder

        overlaps = OverlapFinder(tasks, self.words, self.share).find_overlaps(rows)
        return {index: overlap.format_reason(self.words) for index, overlap in overlaps.items()}
