"""The `overlap` judge."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.methods.judges.text import SCRIPT_WITHOUT_SPACES, describe_unusable_text, reference_texts, squad_words

ASCII_WORD = re.compile(r"[a-z0-9]+")
ANY_WORD = re.compile(rf"[{SCRIPT_WITHOUT_SPACES}]|[^\W_{SCRIPT_WITHOUT_SPACES}]+")


class Overlap(Judge):
    """Words shared with the reference, as token F1 or ROUGE-L. [Rajpurkar et al. 2016, arXiv 1606.05250]

    For short free-text answers. The score is the F measure with the best of the references; an answer passes from
    `threshold` on. Word overlap does not see a missing "not": for correctness that matters, use `llm` or `exact`.

    `f1` normalises as SQuAD's evaluation script does: lower case, no ASCII punctuation, no English articles. `rouge_l`
    takes words as the package rouge-score does without stemming: runs of a-z and 0-9, lower-cased. References that
    have none of these (other scripts) are compared by their own letters, Chinese and Japanese letter by letter.
    Of a model that thinks only the answer after the thought is compared.

    Papers: Rajpurkar et al. 2016 (arXiv 1606.05250) for F1 as in SQuAD, Lin 2004 (ROUGE) for ROUGE-L.
    """

    paper = "Rajpurkar et al. 2016 (1606.05250); Lin 2004 (ROUGE)"

    metric: Literal["f1", "rouge_l"] = Field(
        "f1", description="f1: shared words, any order; rouge_l: longest common subsequence."
    )
    threshold: float = Field(0.5, gt=0, le=1, description="Smallest score that passes.")

    def judge(self, answer: JudgeRequest) -> Verdict:
        measure: Callable[[str, str], float] = token_f1 if self.metric == "f1" else rouge_l
        response = answer.final_response
        score = max((measure(response, reference) for reference in reference_texts(answer.reference)), default=0.0)
        return Verdict(score >= self.threshold, score, f"{self.metric} {score:.3f}, threshold {self.threshold:g}")

    def find_reference_problem(self, reference: Any) -> str | None:
        return describe_unusable_text(reference)


def token_f1(response: str, reference: str) -> float:
    """F1 of the multisets of words (`squad_words`); 1 if both are empty, 0 if one is."""
    response_words, reference_words = squad_words(response), squad_words(reference)
    if not response_words or not reference_words:
        return float(response_words == reference_words)
    return f_measure(
        sum((Counter(response_words) & Counter(reference_words)).values()), len(response_words), len(reference_words)
    )


def rouge_l(response: str, reference: str) -> float:
    """F measure of the longest common subsequence of words (`rouge_words`), as `rougeL` of the package rouge-score."""
    latin = ASCII_WORD.search(reference.lower()) is not None
    response_words, reference_words = rouge_words(response, latin), rouge_words(reference, latin)
    return f_measure(common_subsequence(response_words, reference_words), len(response_words), len(reference_words))


def rouge_words(text: str, latin: bool = True) -> list[str]:
    """Words as rouge-score takes them without stemming: runs of a-z and 0-9 of the lower-cased text.

    Args:
        latin: False for texts that have no such word, which rouge-score would take for empty: then runs of letters and
            digits of any script, Chinese and Japanese letter by letter.
    """
    return (ASCII_WORD if latin else ANY_WORD).findall(text.lower())


def common_subsequence(one: Sequence[str], two: Sequence[str]) -> int:
    """The length of the longest common subsequence, bit-parallel (Hyyrö 2004): one pass, integers as bit vectors."""
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    mask = (1 << len(one)) - 1
    row = mask  # bit i is 0 where the length grows with word i
    for word in two:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & mask
    return len(one) - row.bit_count()


def f_measure(overlap: int, response_length: int, reference_length: int) -> float:
    """Harmonic mean of precision shared / said and recall shared / meant."""
    return 2 * overlap / (response_length + reference_length) if overlap else 0.0
