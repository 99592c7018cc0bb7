"""Try a judge on a file's own answers: it should pass each against its own reference, and none against another's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.axes.registry import name_of
from holdfast.data.rows import Row, Rows
from holdfast.methods.judges.text import shorten_text

LOOK = 100
"""Rows that are tried."""
EXAMPLES_PER_OUTCOME = 2
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
    first_rows = list(islice(rows, LOOK))
    entries = [(number, row, text) for number, row in enumerate(first_rows, 1) if (text := answer_of(row)) is not None]
    usable_entries, unused_examples = [], []
    for entry in entries:
        why = judge.find_reference_problem(entry[1].gold)
        usable_entries += [entry] if why is None else []
        unused_examples += [] if why is None else [build_example(*entry, "unused", why)]
    answers = [JudgeRequest(row.prompt, text, row.gold) for _, row, text in usable_entries]
    swapped_answers = [JudgeRequest(row.prompt, text, gold) for (_, row, text), gold in swap_references(usable_entries)]
    verdicts = judge.judge_all([*answers, *swapped_answers])
    own, others = verdicts[: len(answers)], verdicts[len(answers) :]
    counts = Counter(verdict.outcome for verdict in own)
    return {
        "judge": name, "rows": len(own), "right": counts["right"], "wrong": counts["wrong"],
        "unreadable": counts["unreadable"], "mistaken": sum(v.outcome == "right" for v in others),
        "compared": len(others), "skipped": len(first_rows) - len(own),
        "examples": [*unused_examples[:EXAMPLES_PER_OUTCOME], *collect_examples(usable_entries, own)],
    }  # fmt: skip


def answer_of(row: Row) -> str | None:
    """The answer of a row as a model would give it; its reference where that is a text or number and there is none."""
    text = row.chosen if row.answer is None else row.answer
    if text is None and isinstance(row.reference, (str, int, float)):
        return str(row.reference)
    return text


def swap_references(entries: Sequence[tuple[int, Row, str]]) -> list[tuple[tuple[int, Row, str], Any]]:
    """Each entry with the next reference that is another one, where there is one."""
    pairs = []
    for at, entry in enumerate(entries):
        following = [*entries[at + 1 :], *entries[:at]]
        other = next((row.gold for _, row, _ in following[:20] if row.gold != entry[1].gold), None)
        if other is not None:
            pairs.append((entry, other))
    return pairs


def collect_examples(entries: Sequence[tuple[int, Row, str]], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """A few verdicts of every outcome, the doubtful first."""
    examples: list[dict[str, Any]] = []
    for outcome in ("unreadable", "wrong", "right"):
        mine = [(entry, v) for entry, v in zip(entries, verdicts, strict=True) if v.outcome == outcome]
        examples += [build_example(*entry, outcome, verdict.reason) for entry, verdict in mine[:EXAMPLES_PER_OUTCOME]]
    return examples


def build_example(number: int, row: Row, text: str, outcome: str, why: str) -> dict[str, Any]:
    """One example: the number of the row, its answer and reference, what came of it and why."""
    texts = {"answer": shorten_text(text), "reference": shorten_text(row.gold), "reason": shorten_text(why, 160)}
    return {"row": number, "outcome": outcome, **texts}
