"""The `number` judge."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import Field

from holdfast.axes.judge import Answer, Judge, Verdict
from holdfast.errors import UserError
from holdfast.methods.judges.numbers import symbolic
from holdfast.methods.judges.numbers.arithmetic import Quantity
from holdfast.methods.judges.numbers.final_number import Found, find_number
from holdfast.methods.judges.text import short


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
        return {**self.model_dump(mode="json"), "math_verify": symbolic.version() if self.symbolic else None}

    @property
    def symbolic(self) -> bool:
        """Whether math-verify compares what is no plain number."""
        return symbolic.installed() if self.math_verify is None else self.math_verify

    def look_ahead(self) -> None:
        if self.math_verify and not symbolic.installed():
            raise UserError("judge number: math_verify needs a package; run pip install math-verify")

    def judge(self, answer: Answer) -> Verdict:
        return self.judge_all([answer])[0]

    def judge_all(self, answers: Sequence[Answer]) -> list[Verdict]:
        self.look_ahead()
        verdicts = [self.compare(answer) for answer in answers]
        open_ones = [i for i, verdict in enumerate(verdicts) if isinstance(verdict, Open)]
        asked = [(verdict.meant.text, verdict.said.text) for verdict in verdicts if isinstance(verdict, Open)]
        for i, verdict in zip(open_ones, symbolic.compare(asked, self.seconds) if asked else (), strict=True):
            verdicts[i] = verdict
        return [verdict for verdict in verdicts if isinstance(verdict, Verdict)]

    def compare(self, answer: Answer) -> Verdict | Open:
        """The verdict as far as exact arithmetic gives one."""
        meant = find_reference(answer.reference)
        if meant is None:
            return Verdict(False, 0.0, f"no number in the reference {short(answer.reference)!r}", failed=True)
        said = find_number(answer.final)
        if said is None:
            if not answer.final.strip():
                return Verdict(False, 0.0, f"no answer; expected {short(meant.text)}")
            return Verdict.doubt(f"no number in the answer; expected {short(meant.text)}")
        if said.quantity is not None and meant.quantity is not None:
            return self.decide(said.quantity, meant.quantity)
        if canonical(said.text) == canonical(meant.text):
            return Verdict(True, 1.0, f"{short(said.text)} is written as the reference")
        if self.symbolic and comparable(said, meant):
            return Open(said, meant)
        doubtful = said if said.quantity is None else meant
        whose = "" if doubtful is said else "the reference "
        return Verdict.doubt(
            f"cannot read {whose}{short(doubtful.text)} ({doubtful.why}); expected {short(meant.text)}"
        )

    def decide(self, said: Quantity, meant: Quantity) -> Verdict:
        """The verdict on two numbers; doubt where only their units or scales tell them apart or make them equal."""
        units = bool(said.unit and meant.unit and said.unit != meant.unit)
        same = self.equal(said.value * said.scale, meant.value * meant.scale)
        if units and not (same and said.value == 0):
            return Verdict.doubt(f"{written(said)} and {written(meant)} have different units")
        if not same and said.percent != meant.percent:  # 50% may be meant as 50 or as 0.5
            one, other = (said, meant) if said.percent else (meant, said)
            same = self.equal(one.value * one.scale / 100, other.value * other.scale)
        if not same and (said.scale == 1) != (meant.scale == 1) and self.equal(said.value, meant.value):
            return Verdict.doubt(f"{written(said)} and {written(meant)} may be the same")
        return Verdict(same, float(same), f"{written(said)} {'equals' if same else 'is not'} {written(meant)}")

    def equal(self, said: Fraction, meant: Fraction) -> bool:
        """Whether two numbers are equal within the tolerance."""
        return abs(said - meant) <= max(Fraction(self.tolerance), abs(meant) / 10**12)

    def usable(self, reference: Any) -> str | None:
        found = find_reference(reference)
        if found is None:
            return "no number in it"
        if found.quantity is None and not (self.symbolic and found.mathematics):
            more = (
                ""
                if self.symbolic or not found.mathematics
                else "; with pip install 'holdfast[math]' it can be compared"
            )
            return f"no plain number in it ({found.why}{more})"
        return None


@dataclass(frozen=True, slots=True)
class Open:
    """An answer and a reference that are not both plain numbers."""

    said: Found
    meant: Found


def find_reference(reference: Any) -> Found | None:
    """The number a reference stands for: itself, or the final number of its text."""
    if isinstance(reference, bool):
        return None
    if isinstance(reference, (int, float)):
        return Found(str(reference), Quantity(Fraction(reference))) if math.isfinite(reference) else None
    return find_number(reference) if isinstance(reference, str) else None


def comparable(said: Found, meant: Found) -> bool:
    """Whether both are mathematics, of the same kind where one could be taken for another."""
    if not (said.mathematics and meant.mathematics):
        return False
    if (said.why == "an equation") != (meant.why == "an equation"):
        return False  # math-verify would take the right side of "2x + 3 = 7" for the answer
    pairs = [re.fullmatch(r"\d+,\d+", one.text.strip()) is not None and one.quantity is None for one in (said, meant)]
    return pairs[0] == pairs[1]  # "3,50" may be a pair, or a number as other countries write it


def canonical(text: str) -> str:
    """An expression without what does not change it: spaces, sizes of brackets, the end of the sentence."""
    text = re.sub(r"\\(?:left|right|[,;:!> ]|q?quad|displaystyle)(?![A-Za-z])|[\s$]", "", text)
    return re.sub(r"\\[dtc]frac", r"\\frac", text).rstrip(".")


def written(quantity: Quantity) -> str:
    """A quantity for people."""
    value = quantity.value * quantity.scale
    exact = str(value.numerator) if value.denominator == 1 and abs(value) < 10**15 else None
    try:
        number = exact or f"{float(value):.12g}"
    except OverflowError:
        number = "a very large number"
    return f"{number}{'%' if quantity.percent else ''}{' ' if quantity.unit else ''}{quantity.unit}"
