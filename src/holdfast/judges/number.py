"""The `number` judge."""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic import Field

from holdfast.errors import UserError
from holdfast.judges.base import Answer, Judge, Verdict
from holdfast.judges.text import short

CURRENCY = "$€£¥₹"
DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,300})(?:\.\d{1,300})?(?:[eE][-+]?\d{1,3})?|\.\d{1,300}"
NUMBER = re.compile(
    rf"""(?<![\w.]) (?P<sign>(?<!\d\s)[-+\u2212\u2013])? (?:[{CURRENCY}]\s?)? (?P<inner>[-\u2212])?
    (?: \\[dt]?frac\s*\{{\s*(?P<top>[-\u2212]?(?:{DIGITS}))\s*\}}\s*\{{\s*(?P<bottom>{DIGITS})\s*\}}
      | (?P<whole>{DIGITS}) (?:\s?/\s?(?P<under>{DIGITS}))? )""",
    re.VERBOSE,
)
"""A number: sign, currency, thousands commas, decimals, exponent, fraction (3/4 or \\frac{3}{4}). Not inside a word."""

FINAL = (
    re.compile(r"####\s*([^\n]+)"),
    re.compile(r"\banswer\b[^\n\d]{0,40}?(?:\bis\b|:|=)\s*([^\n]+)", re.IGNORECASE),
)
"""Where a final answer is announced, most certain first; the last occurrence counts."""


class Number(Judge):
    r"""The final numbers of answer and reference are equal. [GSM8K: Cobbe et al. 2021, arXiv 2110.14168]

    The final number is the first one after the last `####` (GSM8K), else in the last `\boxed{}`, else after the last
    "answer is" or "answer:", else the last number of the text. Commas, signs, currency and percent signs (50% is 50),
    decimals, exponents and fractions are understood. With `math_verify: true` the package math-verify compares the
    expressions symbolically instead (sets, intervals, roots).
    """

    tolerance: float = Field(
        1e-6, ge=0, description="Largest difference from the reference that still counts as equal."
    )
    math_verify: bool = Field(False, description="Compare symbolic expressions with the math-verify package.")

    def judge(self, answer: Answer) -> Verdict:
        if self.math_verify:
            return symbolic(answer)
        said, meant = final_number(answer.response), reference_number(answer.reference)
        if meant is None:
            return Verdict(False, 0.0, f"no number in the reference {short(answer.reference)!r}", failed=True)
        if said is None:
            return Verdict(False, 0.0, f"no number in the answer; expected {meant:.12g}")
        same = said == meant or abs(said - meant) <= max(self.tolerance, 1e-12 * abs(meant))
        return Verdict(same, float(same), f"{said:.12g} {'equals' if same else 'is not'} {meant:.12g}")

    def usable(self, reference: Any) -> str | None:
        if self.math_verify:
            return None if isinstance(reference, (str, int, float)) else "no expression in it"
        return None if reference_number(reference) is not None else "no number in it"


def reference_number(reference: Any) -> float | None:
    """The number a reference stands for: itself, or the final number of its text."""
    if isinstance(reference, bool):
        return None
    if isinstance(reference, (int, float)):
        return float(reference) if math.isfinite(reference) else None
    return final_number(reference) if isinstance(reference, str) else None


def final_number(text: str) -> float | None:
    """The number a text ends up with (see `Number`), or `None`."""
    places = [FINAL[0].findall(text)[-1:], boxed(text)[-1:], FINAL[1].findall(text)[-1:]]
    for place in places:
        if place and (found := numbers(place[0])):
            return found[-1] if "=" in place[0].split("\n")[0] else found[0]
    found = numbers(text)
    return found[-1] if found else None


def numbers(text: str) -> list[float]:
    """All numbers of a text, in order."""
    values = (value(match) for match in NUMBER.finditer(text))
    return [v for v in values if v is not None and math.isfinite(v)]


def value(match: re.Match[str]) -> float | None:
    """The value of a `NUMBER` match; `None` for a division by zero."""
    top, bottom = match["top"] or match["whole"], match["bottom"] or match["under"] or "1"
    negative = (match["sign"] or "") in "-\u2212\u2013" and match["sign"] is not None
    negative ^= match["inner"] is not None
    size, divisor = (float(part.replace(",", "").replace("\u2212", "-")) for part in (top, bottom))
    return (-size if negative else size) / divisor if divisor else None


def boxed(text: str) -> list[str]:
    r"""The contents of every `\boxed{...}`, braces balanced."""
    found = []
    for match in re.finditer(r"\\boxed\s*\{", text):
        depth, start = 1, match.end()
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                found.append(text[start:end])
                break
    return found


def symbolic(answer: Answer) -> Verdict:
    """The verdict of math-verify.

    Raises:
        UserError: If the package is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise UserError("judge number: math_verify needs a package; run pip install math-verify") from error
    meant, said = parse(str(answer.reference)), parse(answer.response)
    same = bool(verify(meant, said))
    return Verdict(same, float(same), f"{short(said)} {'equals' if same else 'is not'} {short(meant)}")
