"""Whether a judge fits the rows, and which judge would."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from holdfast.axes.judge import Judge
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.judges.choice import Choice, parse_options
from holdfast.methods.judges.choices.labels import names_option, parse_labels
from holdfast.methods.judges.code import Code, parse_tests
from holdfast.methods.judges.exact import Exact
from holdfast.methods.judges.number import Number
from holdfast.methods.judges.numbers.final_number import RANGE_DASH, is_prose, parse_whole_text
from holdfast.methods.judges.numbers.math_tokens import normalise_math, tokenize_math
from holdfast.methods.judges.text import shorten_text

ANNOUNCEMENT = re.compile(
    r"####\s*\S|\\boxed\s*\{|\banswer\b[^\n\d]{0,40}?(?:\bis\b|:|=)[\s$€£]*[-\u2212]?\d", re.IGNORECASE
)


def check_fit(judge: Judge, rows: Iterable[Row]) -> str | None:
    """A warning if some rows' references cannot be used by `judge`, `None` if all can.

    Raises:
        UserError: If no row's reference can be used.
    """
    total, bad, first = 0, 0, ""
    for number, row in enumerate(rows, 1):
        total += 1
        why = judge.find_reference_problem(row.gold)
        if why is not None:
            bad += 1
            first = first or f"{row.describe_row(number)}: {why}: {shorten_text(row.gold, 60)!r}"
    name = type(judge).__name__.lower()
    if total and bad == total:
        raise UserError(
            f"judge {name} fits none of the {total} rows, e.g. {first}; choose another judge, or give references"
        )
    return f"judge {name} cannot use the reference of {bad} of {total} rows, e.g. {first}" if bad else None


FEW_WORDS, FEW_LETTERS, MOST = 4, 60, 0.9
"""A short answer has at most so many words and letters; this share of the answers must be short."""


def guess_judge(rows: Iterable[Row], look: int = 200) -> tuple[Judge | None, str]:
    """The judge that the references of the first `look` rows call for, and why in one line.

    `None` for free text, which no judge may be guessed for: references are free text unless they are tests, options,
    numbers or labels. They are labels if fewer than half of them are distinct, or nine in ten of them are short.
    """
    rows_with_gold = [row for row in islice(rows, look) if row.gold is not None]
    for judge, test, what in (
        (Code(), is_tests, "unit tests"),
        (Choice(), is_choice, "choices among listed options"),
        (Number(), is_number, "numbers"),
    ):
        fitting = sum(map(test, rows_with_gold))
        if rows_with_gold and fitting >= 0.95 * len(rows_with_gold):
            return (
                judge,
                f"judge {type(judge).__name__.lower()}: the references are {what} ({fitting} of {len(rows_with_gold)} "
                "looked at)",
            )
    math_references = [row.gold for row in rows_with_gold if isinstance(row.gold, str) and is_mathematics(row.gold)]
    unread = sum(Number().find_reference_problem(gold) is not None for gold in math_references)
    if unread and len(math_references) >= 0.95 * len(rows_with_gold):
        return None, (
            f"the references are free text of mathematics, {unread} of {len(rows_with_gold)} of which are no plain "
            "numbers (judge number reads them with pip install 'holdfast[math]') and no judge is named"
        )
    if not rows_with_gold or are_labels([row.gold for row in rows_with_gold]):
        return Exact(), "judge exact: the references are labels or short answers, which an answer must equal"
    return None, "the references are free text and no judge is named"


def are_labels(references: Sequence[Any]) -> bool:
    """Whether the references are labels or short answers, which another answer can equal: see `guess_judge`."""
    texts = [" ".join(str(reference).split()) for reference in references]
    return 2 * len(set(texts)) < len(texts) or sum(map(_is_short, texts)) >= MOST * len(texts)


def _is_short(text: str) -> bool:
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    # Chinese and Japanese write no spaces: two letters make up a word.
    return len(text.split()) + wide // 2 <= FEW_WORDS and len(text) <= FEW_LETTERS


def is_tests(row: Row) -> bool:
    """Whether the reference is unit tests."""
    gold: Any = row.gold
    if isinstance(gold, dict):
        return bool(parse_tests(gold))
    sources = parse_tests(gold)
    return bool(sources) and all(source.lstrip().startswith("assert") for source in sources)


def is_choice(row: Row) -> bool:
    """Whether the reference is one of several options."""
    gold: Any = row.gold
    if isinstance(gold, dict):
        return "answer" in gold and "options" in gold
    options = parse_options(row.prompt)
    if not options and (labels := parse_labels(row.prompt)):
        return names_option(gold, labels)
    return (
        isinstance(gold, str)
        and bool(options)
        and (gold.strip(" ().").upper() in options or gold.strip() in options.values())
    )


def is_number(row: Row) -> bool:
    """Whether the reference is a bare number, or a text that announces a final one, and can be read."""
    gold: Any = row.gold
    if isinstance(gold, bool) or not isinstance(gold, (str, int, float)):
        return False
    return not isinstance(gold, str) or (is_mathematics(gold) and Number().find_reference_problem(gold) is None)


def is_mathematics(gold: str) -> bool:
    """Whether a text is one expression, or announces a final one."""
    if ANNOUNCEMENT.search(gold):
        return True
    text = normalise_math(gold.strip())
    if not any(c.isdigit() for c in text) or RANGE_DASH.search(text) or any(map(is_prose, tokenize_math(text))):
        return False
    answer = parse_whole_text(text)
    return answer.quantity is not None or (answer.is_mathematical and "\\" in text)
