"""The judge that a method asks while it answers: one of its own, or the task's where that needs no answer key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.axes.judge import Judge, Judging
from holdfast.axes.registry import name_of
from holdfast.data.rows import fingerprint_json

if TYPE_CHECKING:
    from holdfast.axes.engine import Request


def give_own_judge(request: Request, judge: Judge | None) -> Request:
    """The request with the method's own judge, which is given no reference, in the place of the task's."""
    if judge is None:
        return request
    return replace(request, judging=Judging(judge, None, fingerprint_json([name_of(judge), judge.identity])))


def find_key_problem(task_judge: Judge | None, own_judge: Judge | None, oracle: bool) -> str | None:
    """Why attempts must not be judged: by what only who knows the answer has, unless that is asked for.

    Args:
        task_judge: Of the task.
        own_judge: Of the method.
        oracle: Whether the answer key was asked for.
    """
    if own_judge is not None or oracle:
        return None
    if task_judge is None:
        return "there is no judge; set its knob judge"
    if task_judge.needs_answer_key():
        return (
            f"judge {name_of(task_judge)} needs the right answer, which nobody has of a new question; set its knob "
            "judge to one that does without, or oracle: true to measure with the answer key all the same"
        )
    return None
