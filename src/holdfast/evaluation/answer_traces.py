"""How answers came about, beside what is measured of them: sources, attempts, cost, and other answers that are judged.

An inference method leaves a trace with its answer (`Sample.trace`). It is kept with the item, under `extra["trace"]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.axes.engine import Sample
from holdfast.axes.judge import JudgeRequest
from holdfast.evaluation.task import ItemResult, Task

if TYPE_CHECKING:
    from holdfast.data.rows import Row
    from holdfast.evaluation.subject import EvaluatedModel

TRACE, BESIDE = "trace", "beside"
"""Keys of `ItemResult.extra`: the trace, and other answers to the question by name, judged like the answer itself."""


def add_traces(task: Task, items: Sequence[ItemResult], samples: Sequence[Sample], subject: EvaluatedModel) -> None:
    """Put the samples' traces into the items, and judge the answers that stand beside theirs."""
    beside = []
    for number, (item, sample) in enumerate(zip(items, samples, strict=True)):
        if sample.trace:
            others = sample.trace.get(BESIDE) or {}
            item.extra[TRACE] = {key: value for key, value in sample.trace.items() if key != BESIDE}
            beside += [(number, name, text) for name, text in others.items()]
    if not beside or task.judge is None:
        return
    rows = task.rows
    answers = [JudgeRequest(rows[number].prompt, text, rows[number].gold) for number, _, text in beside]
    for (number, name, text), verdict in zip(beside, subject.judge(task.judge, answers), strict=True):
        is_readable = verdict.outcome != "unreadable"
        entry = {"text": text, "passed": verdict.passed and is_readable, "score": verdict.score if is_readable else 0.0}
        items[number].extra.setdefault(BESIDE, {})[name] = entry


def trace_of_prompt(row: Row, subject: EvaluatedModel) -> dict[str, Any]:
    """What `ItemResult.extra` says of a question that is not answered by sampling."""
    sources = subject.describe_sources(list(row.prompt)) if subject.describe_sources else {}
    return {TRACE: sources} if sources else {}


def summarise_traces(items: Sequence[ItemResult]) -> dict[str, Any] | None:
    """What the traces of a task's items come to; `None` where there are none.

    Returns:
        `calls` and `tokens`: means per answer, where it was made of several; `beside`: by name, the points of other
        answers, on the questions that have one, the answer itself counting elsewhere.
    """
    traces = [item.extra[TRACE] for item in items if TRACE in item.extra]
    if not traces:
        return None
    out: dict[str, Any] = {}
    for key in ("calls", "tokens"):
        values = [trace[key] for trace in traces if key in trace]
        if values:
            out[key] = sum(values) / len(values)
    names = dict.fromkeys(name for item in items for name in item.extra.get(BESIDE, {}))
    if names:
        # Where a method had no need of another answer (the first try passed), the other is the answer itself.
        out[BESIDE] = {name: 100 * sum(_score_beside(item, name) for item in items) / len(items) for name in names}
    return out


def _score_beside(item: ItemResult, name: str) -> float:
    others: Mapping[str, Any] = item.extra.get(BESIDE, {})
    return float(others[name]["score"]) if name in others else item.score
