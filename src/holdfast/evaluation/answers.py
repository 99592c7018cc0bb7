"""The same question answered by the base and by every method of a comparison, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.evaluation.answer_traces import TRACE
from holdfast.evaluation.statistics.paired import MeasuredRun
from holdfast.evaluation.task import JUDGED, ItemResult, TaskInfo

QUESTIONS = 3
"""Questions shown of a task."""
TASKS = 4
"""Tasks shown: the targets, then the kept tasks on which most verdicts differ."""


def collect_answers(runs: Mapping[str, MeasuredRun]) -> list[dict[str, Any]]:
    """The part `answers` of compare.json: a few questions whose verdicts differ, with everybody's answer.

    Args:
        runs: By method, one run of each.
    Returns:
        Per question `{"task", "role", "id", "prompt", "reference", "answers"}`; each answer is `{"method", "text",
        "passed"}`, the base's first, its method "base". Questions on which the methods differ most come first.
    """
    first = next(iter(runs.values()))
    entries = []
    for task in first.tasks:
        info = task.info
        if info.kind in JUDGED and all(info.name in run.tuned for run in runs.values()):
            questions = _collect_questions(info, first, runs)
            entries.append((info.role != "target", -len(questions), questions[:QUESTIONS]))
    entries.sort(key=lambda entry: entry[:2])
    return [question for *_, questions in entries[:TASKS] for question in questions]


def _collect_questions(info: TaskInfo, first: MeasuredRun, runs: Mapping[str, MeasuredRun]) -> list[dict[str, Any]]:
    """Every question of a task on which a verdict differs, the most divided first."""
    tuned = {method: {item.id: item for item in run.tuned[info.name]} for method, run in runs.items()}
    entries = []
    for item in first.base[info.name]:
        answers = {"base": item, **{method: items[item.id] for method, items in tuned.items() if item.id in items}}
        n_passed = sum(answer.passed for answer in answers.values())
        if 0 < n_passed < len(answers):
            entries.append((-min(n_passed, len(answers) - n_passed), _build_question(info, item, answers)))
    entries.sort(key=lambda entry: entry[0])
    return [question for _, question in entries]


def _build_question(info: TaskInfo, item: ItemResult, answers: Mapping[str, ItemResult]) -> dict[str, Any]:
    return {
        "task": info.name, "role": info.role, "id": item.id, "prompt": item.prompt, "reference": item.reference,
        "answers": [
            {"method": method, "text": answer.response, "passed": answer.passed,
             **({"trace": answer.extra[TRACE]} if TRACE in answer.extra else {})}
            for method, answer in answers.items()
        ],
    }  # fmt: skip
