"""Selective self-rehearsal."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from holdfast.axes.curator import CurationContext, Curator
from holdfast.data.rows import Rows
from holdfast.methods.curators import self_generation


class SSR(Curator):
    """The model's own right answers, else the gold ones. [Gupta et al. 2024, arXiv 2409.04787]

    For each row (x, y) the base model M answers; the judge compares with y:

        y1 ~ M(. | x)    if judge(x, y1, y): target = y1, origin "model"    else: target = y, origin "gold"

    This is `s3ft` without its paraphrases, row for row. It costs half the sampling; more rows keep the gold answer.

    When it helps: the model already answers a good part of the rows. When it fails: it answers few of them, then this
    is plain fine-tuning. Columns: an answer; `reference` if the judge needs something else. Needs a judge; the
    paper's is a larger language model (`judge: llm`).

    Paper: Gupta et al. 2024, "Selective Self-Rehearsal: A Fine-Tuning Approach to Improve Generalization in Large
    Language Models" (arXiv 2409.04787).
    """

    paper = "Gupta et al. 2024 (2409.04787)"
    samples: ClassVar[bool] = True
    judges: ClassVar[bool] = True

    n: int = Field(
        1, ge=1, description="Answers drawn per prompt, the first right one taken; above 1 needs a temperature."
    )

    def samples_per_row(self) -> int:
        return self.n

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        return self_generation.curate_in_stages("ssr", rows, [self_generation.build_own_answer_stage(self.n)], context)
