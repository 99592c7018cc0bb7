"""The `number` judge."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import Field

from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.errors import UserError
from holdfast.methods.judges.numbers import symbolic
from holdfast.methods.judges.numbers.arithmetic import Quantity
from holdfast.methods.judges.numbers.final_number import FinalAnswer, find_number
from holdfast.methods.judges.text import shorten_text


class Number(Judge):
    r"""The final numbers of answer and reference are equal. [GSM8K: Cobbe et al. 2021, arXiv 2110.14168]

    The final number stands in the last `\boxed{}`, `<answer>` or after the last `####` (GSM8K), else behind the last
    "answer is" or "answer:" (also in other languages), else it is the last number of the text. Read exactly are signs,
    decimals, thousands (1,234; `8{,}000`; `70\,000`; 1 234), fractions, mixed numbers (1 1/2), sums and products, whole
    powers (`3\times10^5`), even roots, percent (50% is 50 or 0.5), currency and units (of which 5 km is not 5 m).

    Other mathematics (roots, pi, variables, tuples, intervals, sets) is compared by the package math-verify where that
    is installed (`pip install 'holdfast[math]'`), in a process of its own with a time limit. Without it the verdict is
    "unreadable" unless both sides are written alike: no number is ever taken out of an expression. Unreadable answers
    count as not right and are reported apart from wrong. Of a model that thinks, what it says after the thought is
    read; of answers beyond 32,768 characters the end.
    """

    tolerance: float = Field(
        1e-6, ge=0, description="Largest difference from the reference that still counts as equal."
    )
    math_verify: bool | None = Field(
        None,
        description="Compare what is no plain number with the math-verify package; default: where it is installed.",
    )
    seconds: float = Field(5.0, gt=0, description="Time for one comparison by math-verify.")

    @property
    def identity(self) -> Any:
        return {
            **self.model_dump(mode="json"),
            "math_verify": symbolic.installed_version() if self.uses_math_verify else None,
        }

    @property
    def uses_math_verify(self) -> bool:
        """Whether math-verify compares what is no plain number."""
        return symbolic.is_installed() if self.math_verify is None else self.math_verify

    def check_ready(self) -> None:
        if self.math_verify and not symbolic.is_installed():
            raise UserError("judge number: math_verify needs a package; run pip install math-verify")

    def read_answer(self, answer: JudgeRequest) -> str | None:
        number = find_number(answer.final_response)
        if number is None or number.quantity is None:
            return None if number is None else canonical_form(number.text)
        return f"{number.quantity.value * number.quantity.scale}{number.quantity.unit}"

    def judge(self, answer: JudgeRequest) -> Verdict:
        return self.judge_all([answer])[0]

    def judge_all(self, answers: Sequence[JudgeRequest]) -> list[Verdict]:
        self.check_ready()
        verdicts = [self.compare_exactly(answer) for answer in answers]
        open_ones = [i for i, verdict in enumerate(verdicts) if isinstance(verdict, OpenComparison)]
        pairs = [
            (verdict.reference.text, verdict.answer.text) for verdict in verdicts if isinstance(verdict, OpenComparison)
        ]
        for i, verdict in zip(open_ones, symbolic.compare_pairs(pairs, self.seconds) if pairs else (), strict=True):
            verdicts[i] = verdict
        return [verdict for verdict in verdicts if isinstance(verdict, Verdict)]

    def compare_exactly(self, answer: JudgeRequest) -> Verdict | OpenComparison:
        """The verdict as far as exact arithmetic gives one."""
        reference = find_reference(answer.reference)
        if reference is None:
            return Verdict(False, 0.0, f"no number in the reference {shorten_text(answer.reference)!r}", failed=True)
        number = find_number(answer.final_response)
        if number is None:
            if not answer.final_response.strip():
                return Verdict(False, 0.0, f"no answer; expected {shorten_text(reference.text)}")
            return Verdict.as_unreadable(f"no number in the answer; expected {shorten_text(reference.text)}")
        if number.quantity is not None and reference.quantity is not None:
            return self.compare_quantities(number.quantity, reference.quantity)
        if canonical_form(number.text) == canonical_form(reference.text):
            return Verdict(True, 1.0, f"{shorten_text(number.text)} is written as the reference")
        if self.uses_math_verify and are_comparable(number, reference):
            return OpenComparison(number, reference)
        doubtful = number if number.quantity is None else reference
        whose = "" if doubtful is number else "the reference "
        return Verdict.as_unreadable(
            f"cannot read {whose}{shorten_text(doubtful.text)} ({doubtful.why}); expected "
            f"{shorten_text(reference.text)}"
        )

    def compare_quantities(self, answer: Quantity, reference: Quantity) -> Verdict:
        """The verdict on two numbers; doubt where only their units or scales tell them apart or make them equal."""
        units = bool(answer.unit and reference.unit and answer.unit != reference.unit)
        same = self.are_equal(answer.value * answer.scale, reference.value * reference.scale)
        if units and not (same and answer.value == 0):
            return Verdict.as_unreadable(
                f"{format_quantity(answer)} and {format_quantity(reference)} have different units"
            )
        if not same and answer.percent != reference.percent:  # 50% may be meant as 50 or as 0.5
            one, other = (answer, reference) if answer.percent else (reference, answer)
            same = self.are_equal(one.value * one.scale / 100, other.value * other.scale)
        if not same and (answer.scale == 1) != (reference.scale == 1) and self.are_equal(answer.value, reference.value):
            return Verdict.as_unreadable(f"{format_quantity(answer)} and {format_quantity(reference)} may be the same")
        return Verdict(
            same,
            float(same),
            f"{format_quantity(answer)} {'equals' if same else 'is not'} {format_quantity(reference)}",
        )

    def are_equal(self, answer: Fraction, reference: Fraction) -> bool:
        """Whether two numbers are equal within the tolerance."""
        return abs(answer - reference) <= max(Fraction(self.tolerance), abs(reference) / 10**12)

    def find_reference_problem(self, reference: Any) -> str | None:
        number = find_reference(reference)
        if number is None:
            return "no number in it"
        if number.quantity is None and not (self.uses_math_verify and number.is_mathematical):
            more = (
                ""
                if self.uses_math_verify or not number.is_mathematical
                else "; with pip install 'holdfast[math]' it can be compared"
            )
            return f"no plain number in it ({number.why}{more})"
        return None


@dataclass(frozen=True, slots=True)
class OpenComparison:
    """An answer and a reference that are not both plain numbers."""

    answer: FinalAnswer
    reference: FinalAnswer


def find_reference(reference: Any) -> FinalAnswer | None:
    """The number a reference stands for: itself, or the final number of its text."""
    if isinstance(reference, bool):
        return None
    if isinstance(reference, (int, float)):
        return FinalAnswer(str(reference), Quantity(Fraction(reference))) if math.isfinite(reference) else None
    return find_number(reference) if isinstance(reference, str) else None


def are_comparable(answer: FinalAnswer, reference: FinalAnswer) -> bool:
    """Whether both are mathematics, of the same kind where one could be taken for another."""
    if not (answer.is_mathematical and reference.is_mathematical):
        return False
    if (answer.why == "an equation") != (reference.why == "an equation"):
        return False  # math-verify would take the right side of "2x + 3 = 7" for the answer
    pairs = [
        re.fullmatch(r"\d+,\d+", one.text.strip()) is not None and one.quantity is None for one in (answer, reference)
    ]
    return pairs[0] == pairs[1]  # "3,50" may be a pair, or a number as other countries write it


def canonical_form(text: str) -> str:
    """An expression without what does not change it: spaces, sizes of brackets, the end of the sentence."""
    text = re.sub(r"\\(?:left|right|[,;:!> ]|q?quad|displaystyle)(?![A-Za-z])|[\s$]", "", text)
    return re.sub(r"\\[dtc]frac", r"\\frac", text).rstrip(".")


def format_quantity(quantity: Quantity) -> str:
    """A quantity for people."""
    value = quantity.value * quantity.scale
    exact = str(value.numerator) if value.denominator == 1 and abs(value) < 10**15 else None
    try:
        number = exact or f"{float(value):.12g}"
    except OverflowError:
        number = "a very large number"
    return f"{number}{'%' if quantity.percent else ''}{' ' if quantity.unit else ''}{quantity.unit}"
