"""The `overlap` judge."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from holdfast.judges.base import Answer, Judge, Verdict
from holdfast.judges.text import PUNCTUATION, texts, unusable_text


class Overlap(Judge):
    """Words shared with the reference, as token F1 or ROUGE-L. [Rajpurkar et al. 2016, arXiv 1606.05250]

    For short free-text answers. The score is the F measure with the best of the references; an answer passes from
    `threshold` on. Word overlap does not see a missing "not": for correctness that matters, use `llm` or `exact`.

    Papers: Rajpurkar et al. 2016 (arXiv 1606.05250) for F1 as in SQuAD, Lin 2004 (ROUGE) for ROUGE-L.
    """

    paper = "Rajpurkar et al. 2016 (1606.05250); Lin 2004 (ROUGE)"

    metric: Literal["f1", "rouge_l"] = Field(
        "f1", description="f1: shared words, any order; rouge_l: longest common subsequence."
    )
    threshold: float = Field(0.5, gt=0, le=1, description="Smallest score that passes.")

    def judge(self, answer: Answer) -> Verdict:
        measure: Callable[[str, str], float] = token_f1 if self.metric == "f1" else rouge_l
        score = max((measure(answer.response, reference) for reference in texts(answer.reference)), default=0.0)
        return Verdict(score >= self.threshold, score, f"{self.metric} {score:.3f}, threshold {self.threshold:g}")

    def usable(self, reference: Any) -> str | None:
        return unusable_text(reference)


def squad_words(text: str) -> list[str]:
    """Words as SQuAD compares them: lower case, no punctuation, no English articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()


def token_f1(response: str, reference: str) -> float:
    """F1 of the multisets of words; 1 if both are empty, 0 if one is."""
    said, meant = squad_words(response), squad_words(reference)
    if not said or not meant:
        return float(said == meant)
    return f_measure(sum((Counter(said) & Counter(meant)).values()), len(said), len(meant))


def rouge_l(response: str, reference: str) -> float:
    """F measure of the longest common subsequence of words (lower case, letters and digits of any script)."""
    said, meant = (re.findall(r"[^\W_]+", text.lower()) for text in (response, reference))
    row = [0] * (len(meant) + 1)
    for word in said:
        diagonal = 0
        for j, other in enumerate(meant, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return f_measure(row[-1], len(said), len(meant))


def f_measure(shared: int, said: int, meant: int) -> float:
    """Harmonic mean of precision shared / said and recall shared / meant."""
    return 2 * shared / (said + meant) if shared else 0.0
