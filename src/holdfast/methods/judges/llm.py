"""The `llm` judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr, field_validator

from holdfast.axes.engine import Request, Sample, SampleFn, SamplingParams
from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.data.chat.prompts import JUDGE, fill_template, question_of, reference_text, require_slots
from holdfast.data.rows import fingerprint_json
from holdfast.data.thoughts import final_answer
from holdfast.errors import UserError

VERDICT = re.compile(r"\b(?:verdict|judge?ment|final answer|correct)\b\W{1,5}(yes|no)\b", re.IGNORECASE)
WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class LLM(Judge):
    """A language model says whether the answer agrees with the reference. [Zheng et al. 2023, arXiv 2306.05685]

    For free text that no rule can check. It asks one question per answer, greedily, through any sampling engine, and
    reads yes or no: after "verdict:" or "correct:" if the reply says that, else the first of the two words. A reply
    without either is a failed verdict, never a pass. The whole question and the reply stand in the reason. A model
    judging makes mistakes: check a labelled sample before trusting it, for wrong passes are taught.

    Papers: Zheng et al. 2023 (arXiv 2306.05685); as the judge of SSR and S3FT, Gupta et al. 2024 and 2025 (2409.04787,
    2502.08130).
    """

    paper = "Gupta et al. 2025 (2502.08130); Zheng et al. 2023 (2306.05685)"
    needs_engine: ClassVar[bool] = True

    prompt: str = Field(JUDGE, description="The question; must contain {question}, {reference} and {response}.")
    engine: str | None = Field(
        None, description="native, transformers, vllm or a URL; default: the engine that samples."
    )
    model: str | None = Field(None, description="The judging model; default: the base model itself.")
    max_tokens: int = Field(64, ge=1, description="Longest reply.")

    _draw: SampleFn | None = PrivateAttr(None)

    @field_validator("prompt")
    @classmethod
    def _require_slots(cls, prompt: str) -> str:
        return require_slots(prompt, "question", "reference", "response")

    def with_engine(self, draw: SampleFn) -> LLM:
        copy = self.model_copy()
        copy._draw = draw
        return copy

    def judge(self, answer: JudgeRequest) -> Verdict:
        return self.judge_all([answer])[0]

    def judge_all(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        if self._draw is None:
            raise UserError("judge llm: needs a model to ask, which only a run has; choose another judge here")
        prompts = [self.build_prompt(a) for a in answers]
        keys = [f"judge:{fingerprint_json(prompt)[:24]}" for prompt in prompts]
        unique = dict(zip(keys, prompts, strict=True))
        requests = [Request(key, [{"role": "user", "content": prompt}]) for key, prompt in unique.items()]
        replies = self._draw(requests, SamplingParams(max_tokens=self.max_tokens))
        return [parse_verdict(replies[key][0], prompt) for key, prompt in zip(keys, prompts, strict=True)]

    def build_prompt(self, answer: JudgeRequest) -> str:
        """The prompt put to the judging model."""
        reference = reference_text(answer.reference)
        return fill_template(
            self.prompt, question=question_of(answer.prompt), reference=reference, response=answer.final_response
        )

    def find_reference_problem(self, reference: Any) -> str | None:
        return None if reference not in (None, "", [], {}) else "no reference"


def parse_verdict(reply: Sample, prompt: str) -> Verdict:
    """The verdict in a judging model's reply; the reason keeps reply and prompt."""
    reason = f"reply: {reply.text.strip()}\nprompt: {prompt}"
    text = final_answer(reply.text)
    words = VERDICT.findall(text)[-1:] or WORD.findall(text)[:1]
    if not words:
        return Verdict(False, 0.0, f"neither yes nor no; {reason}", failed=True)
    is_right = words[0].lower() == "yes"
    return Verdict(is_right, float(is_right), reason)
