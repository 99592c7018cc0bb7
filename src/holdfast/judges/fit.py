"""Whether a judge fits the rows, and which judge would."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.judges.base import Judge
from holdfast.judges.choice import Choice, options_of
from holdfast.judges.code import Code, checks
from holdfast.judges.exact import Exact
from holdfast.judges.number import NUMBER, Number
from holdfast.judges.text import short

ANNOUNCED = re.compile(
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
        why = judge.usable(row.gold)
        if why is not None:
            bad += 1
            first = first or f"row {number} ({row.id}): {why}: {short(row.gold, 60)!r}"
    name = type(judge).__name__.lower()
    if total and bad == total:
        raise UserError(
            f"judge {name} fits none of the {total} rows, e.g. {first}; choose another judge, or give references"
        )
    return f"judge {name} cannot use the reference of {bad} of {total} rows, e.g. {first}" if bad else None


def guess(rows: Iterable[Row], look: int = 200) -> tuple[Judge, str]:
    """The judge that the references of the first `look` rows call for, and why in one line."""
    seen = [row for row in islice(rows, look) if row.gold is not None]
    for judge, test, what in (
        (Code(), is_tests, "unit tests"),
        (Choice(), is_choice, "choices among listed options"),
        (Number(), is_number, "numbers"),
    ):
        fitting = sum(map(test, seen))
        if seen and fitting >= 0.95 * len(seen):
            return (
                judge,
                f"judge {type(judge).__name__.lower()}: the references are {what} ({fitting} of {len(seen)} looked at)",
            )
    return Exact(), "judge exact: the references are free text, so an answer must equal its reference"


def is_tests(row: Row) -> bool:
    """Whether the reference is unit tests."""
    gold: Any = row.gold
    if isinstance(gold, dict):
        return bool(checks(gold))
    sources = checks(gold)
    return bool(sources) and all(source.lstrip().startswith("assert") for source in sources)


def is_choice(row: Row) -> bool:
    """Whether the reference is one of several options."""
    gold: Any = row.gold
    if isinstance(gold, dict):
        return "answer" in gold and "options" in gold
    options = options_of(row.prompt)
    return (
        isinstance(gold, str)
        and bool(options)
        and (gold.strip(" ().").upper() in options or gold.strip() in options.values())
    )


def is_number(row: Row) -> bool:
    """Whether the reference is a bare number, or a text that announces a final one."""
    gold: Any = row.gold
    if isinstance(gold, bool) or not isinstance(gold, (str, int, float)):
        return False
    return bool(
        not isinstance(gold, str)
        or NUMBER.fullmatch(gold.strip().rstrip("%."))
        or (ANNOUNCED.search(gold) and Number().usable(gold) is None)
    )
