"""Self-distillation fine-tuning."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from holdfast.axes.curator import CurationContext, Curator
from holdfast.data.chat.prompts import PARAPHRASE, require_slots
from holdfast.data.rows import Rows
from holdfast.methods.curators import self_generation


class SDFT(Curator):
    """The gold answers in the model's own words. [Yang et al. 2024, arXiv 2402.13669]

    For each row (x, y) the base model M rewrites the gold answer; if the judge finds the answer unharmed it is used:

        y2 ~ M(. | paraphrase(x, y))    if judge(x, y2, y): target = y2, origin "paraphrase"
                                        else: target = y, origin "gold"

    This is `s3ft` without the model's own answers.

    When it helps: the gold answers are right but foreign to the model. When it fails: a model that cannot rewrite
    without breaking the answer leaves the gold ones. Columns: an answer. Needs a judge.

    Paper: Yang et al. 2024, "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning" (arXiv
    2402.13669). Not the later "SDFT" of arXiv 2601.19897 (on-policy distillation).
    """

    paper = "Yang et al. 2024 (2402.13669)"
    samples: ClassVar[bool] = True
    judges: ClassVar[bool] = True

    n: int = Field(
        1, ge=1, description="Paraphrases drawn per row, the first right one taken; above 1 needs a temperature."
    )
    paraphrase_prompt: str = Field(PARAPHRASE, description="Paraphrase request; must contain {question} and {answer}.")

    @field_validator("paraphrase_prompt")
    @classmethod
    def _has_slots(cls, prompt: str) -> str:
        return require_slots(prompt, "question", "answer")

    def samples_per_row(self) -> int:
        return self.n

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        stages = [self_generation.build_paraphrase_stage(self.paraphrase_prompt, self.n)]
        return self_generation.curate_in_stages("sdft", rows, stages, context)
