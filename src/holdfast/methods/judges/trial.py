"""Try a judge on a file's own answers: it should pass each against its own reference, and none against another's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

from holdfast.axes.judge import Answer, Judge, Verdict
from holdfast.axes.registry import name_of
from holdfast.data.rows import Row, Rows
from holdfast.methods.judges.text import short

LOOK = 100
"""Rows that are tried."""
SHOWN = 2
"""Examples shown of every outcome."""


def try_judge(judge: Judge, rows: Rows) -> dict[str, Any]:
    """Judge the answers of the first rows as if a model had given them.

    Returns:
        `judge`, its name; `rows`, how many were judged; `right`, `wrong` and `unreadable`, how many were which against
        their own reference; `mistaken`, how many passed against the reference of another row, and `compared`, of how
        many; `skipped`, rows without an answer or a reference the judge can use; `examples`. Of a judge that asks a
        model, which is not loaded for this, only `judge` and `why`.
    """
    name = name_of(judge)
    if judge.needs_engine:
        return {"judge": name, "why": "it asks a model, which only a run does"}
    looked = list(islice(rows, LOOK))
    answered = [(number, row, text) for number, row in enumerate(looked, 1) if (text := answer_of(row)) is not None]
    tried, unused = [], []
    for entry in answered:
        why = judge.usable(entry[1].gold)
        tried += [entry] if why is None else []
        unused += [] if why is None else [example(*entry, "unused", why)]
    answers = [Answer(row.prompt, text, row.gold) for _, row, text in tried]
    swapped = [Answer(row.prompt, text, gold) for (_, row, text), gold in with_another(tried)]
    verdicts = judge.judge_all([*answers, *swapped])
    own, others = verdicts[: len(answers)], verdicts[len(answers) :]
    counts = Counter(verdict.outcome for verdict in own)
    return {
        "judge": name, "rows": len(own), "right": counts["right"], "wrong": counts["wrong"],
        "unreadable": counts["unreadable"], "mistaken": sum(v.outcome == "right" for v in others),
        "compared": len(others), "skipped": len(looked) - len(own),
        "examples": [*unused[:SHOWN], *examples(tried, own)],
    }  # fmt: skip


def answer_of(row: Row) -> str | None:
    """The answer of a row as a model would give it; its reference where that is a text or number and there is none."""
    text = row.chosen if row.answer is None else row.answer
    if text is None and isinstance(row.reference, (str, int, float)):
        return str(row.reference)
    return text


def with_another(tried: Sequence[tuple[int, Row, str]]) -> list[tuple[tuple[int, Row, str], Any]]:
    """Each entry with the next reference that is another one, where there is one."""
    found = []
    for at, entry in enumerate(tried):
        following = [*tried[at + 1 :], *tried[:at]]
        other = next((row.gold for _, row, _ in following[:20] if row.gold != entry[1].gold), None)
        if other is not None:
            found.append((entry, other))
    return found


def examples(tried: Sequence[tuple[int, Row, str]], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """A few verdicts of every outcome, the doubtful first."""
    found: list[dict[str, Any]] = []
    for outcome in ("unreadable", "wrong", "right"):
        mine = [(entry, v) for entry, v in zip(tried, verdicts, strict=True) if v.outcome == outcome]
        found += [example(*entry, outcome, verdict.reason) for entry, verdict in mine[:SHOWN]]
    return found


def example(number: int, row: Row, text: str, outcome: str, why: str) -> dict[str, Any]:
    """One example: the number of the row, its answer and reference, what came of it and why."""
    shown = {"answer": short(text), "reference": short(row.gold), "reason": short(why, 160)}
    return {"row": number, "outcome": outcome, **shown}
