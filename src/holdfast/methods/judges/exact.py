"""The `exact` judge."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.methods.judges.text import PUNCTUATION, describe_unusable_text, reference_texts, shorten_text, squad_words


class Exact(Judge):
    """The answer equals the reference, after the normalisation asked for. [exact match]

    Use it for answers with one right form: labels, commands, JSON, short facts. For free text it rejects nearly
    everything; use `overlap` or `llm` there. A list of references accepts any of them. Of a model that thinks only the
    answer after the thought is compared.

    Benchmarks normalise differently: `normalise: squad` is the exact match of SQuAD and HotpotQA (lower case, no ASCII
    punctuation, no English articles, single spaces), whatever the other settings say.
    """

    strip: bool = Field(True, description="Ignore white space at both ends.")
    collapse_whitespace: bool = Field(True, description="Treat every run of white space as one space.")
    ignore_case: bool = Field(False, description="Treat upper and lower case as equal.")
    ignore_punctuation: bool = Field(False, description="Leave out ASCII punctuation.")
    normalise: Literal["squad"] | None = Field(
        None, description="squad: as SQuAD's exact match, in place of the settings above; default: these settings."
    )

    def judge(self, answer: JudgeRequest) -> Verdict:
        response = self.normalise_text(answer.final_response)
        if any(response == self.normalise_text(reference) for reference in reference_texts(answer.reference)):
            return Verdict(True, 1.0, "equal")
        return Verdict(False, 0.0, f"{shorten_text(response)!r} is not {shorten_text(answer.reference)!r}")

    def read_answer(self, answer: JudgeRequest) -> str | None:
        return self.normalise_text(answer.final_response) or None

    def normalise_text(self, text: str) -> str:
        """`text` as it is compared."""
        if self.normalise == "squad":
            return " ".join(squad_words(text))
        if self.ignore_punctuation:
            text = text.translate(PUNCTUATION)
        if self.ignore_case:
            text = text.casefold()
        if self.collapse_whitespace:
            edges = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
            text = (
                " ".join(text.split())
                if self.strip
                else f"{' ' * bool(edges[0])}{' '.join(text.split())}{' ' * bool(edges[1])}"
            )
        return text.strip() if self.strip else text

    def find_reference_problem(self, reference: Any) -> str | None:
        return describe_unusable_text(reference)
