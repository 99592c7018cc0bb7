"""Which tasks see what an inference method changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from holdfast.axes.registry import name_of
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.axes.inference import Inference
    from holdfast.evaluation.task import Task

SAMPLED = frozenset({"generate", "probe", "episodes"})
ASKED = SAMPLED | {"choice", "held_out"}
REACH: Mapping[str, frozenset[str]] = {
    "weights": ASKED | {"perplexity"}, "logits": ASKED | {"perplexity"}, "prompt": ASKED,
    "sampling": SAMPLED, "attempts": SAMPLED, "prefix": SAMPLED, "choice_bias": frozenset({"choice"}),
}  # fmt: skip
"""What a method may change, and the kinds of tasks whose figures that moves."""


def describe_reach(method: Inference | None, tasks: Sequence[Task]) -> list[str]:
    """A line that names the tasks which see nothing of what a method changes; none where all do.

    Raises:
        UserError: If no task does.
    """
    if method is None or not method.overridden_methods():  # of the latter others complain
        return []
    kinds = frozenset[str]().union(*(REACH[change] for change in method.list_changes()))
    blind = [task.name for task in tasks if task.kind not in kinds]
    problems = {
        task.name: problem
        for task in tasks
        if task.kind == "generate" and task.name not in blind and (problem := method.find_task_problem(task.judge))
    }
    for task in tasks:
        if task.name in problems and (task.role == "target" or len(problems) + len(blind) == len(tasks)):
            raise UserError(f"inference: {name_of(method)}: {task.name}: {problems[task.name]}")
    changes = " and ".join(change.replace("_", " ") for change in method.list_changes())
    what = f"inference: {name_of(method)} changes {changes}"
    if tasks and len(blind) == len(tasks):
        raise UserError(
            f"{what}, of which {', '.join(blind)} can see nothing; name a task whose answers are "
            f"{'sampled' if kinds & SAMPLED else 'multiple choice'}"
        )
    lines = [f"{what}; {', '.join(blind)}: measured without it, as it cannot be seen there"] if blind else []
    if problems:
        name, problem = next(iter(problems.items()))
        lines.append(f"inference: {name_of(method)}; {', '.join(problems)}: measured without it; of {name}: {problem}")
    return lines
