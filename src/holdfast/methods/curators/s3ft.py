"""Selective self-to-supervised fine-tuning."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from holdfast.axes.curator import CurationContext, Curator
from holdfast.data.chat.prompts import PARAPHRASE, require_slots
from holdfast.data.rows import Rows
from holdfast.methods.curators import self_generation


class S3FT(Curator):
    """The model's own right answers, else paraphrases, else the gold ones. [Gupta et al. 2025, arXiv 2502.08130]

    For each row (x, y) the base model M answers once; the judge compares with y:

        y1 ~ M(. | x)                if judge(x, y1, y): target = y1, origin "model"
        y2 ~ M(. | paraphrase(x, y)) elif judge(x, y2, y): target = y2, origin "paraphrase"
                                     else: target = y, origin "gold"

    Then plain fine-tuning on (x, target) from M. Answers that were cut at the token limit are never taken, even if
    judged right. The prompt in training is x, whatever the model was asked.

    When it helps: many answers are right and the gold ones are written in another hand than the model's; what is
    learned then changes the model less, so it forgets less. When it fails: a judge that passes wrong answers teaches
    them; where the model is already right nearly always this is training on itself, and little is gained.

    Columns: an answer; `reference` if the judge needs something else than the answer (tests, a number).
    Sampling is the recipe's (greedy by default; the paper does not say). Needs a judge.

    Paper: Gupta, Joshi et al. 2025, "Selective Self-to-Supervised Fine-Tuning for Generalization in Large Language
    Models" (arXiv 2502.08130).
    """

    paper = "Gupta et al. 2025 (2502.08130)"
    samples: ClassVar[bool] = True
    judges: ClassVar[bool] = True

    paraphrase: bool = Field(True, description="Have the gold answer paraphrased where the model's own is wrong.")
    n: int = Field(
        1, ge=1, description="Answers drawn per prompt, the first right one taken; above 1 needs a temperature."
    )
    paraphrase_prompt: str = Field(PARAPHRASE, description="Paraphrase request; must contain {question} and {answer}.")

    @field_validator("paraphrase_prompt")
    @classmethod
    def _has_slots(cls, prompt: str) -> str:
        return require_slots(prompt, "question", "answer")

    def samples_per_row(self) -> int:
        return self.n * (1 + self.paraphrase)

    def curate(self, rows: Rows, context: CurationContext) -> Rows:
        stages = [self_generation.build_own_answer_stage(self.n)]
        if self.paraphrase:
            stages.append(self_generation.build_paraphrase_stage(self.paraphrase_prompt, self.n))
        return self_generation.curate_in_stages("s3ft", rows, stages, context)
