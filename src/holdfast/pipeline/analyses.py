"""Analyses of a run that has just been trained: each a section of report.json and of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.axes.analysis import AnalysedTask, Analysis, AnalysisContext, AnalysisSection, Table
from holdfast.axes.registry import name_of
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.axes.tuner import Tuner
    from holdfast.data.rows import Row, Rows
    from holdfast.evaluation.task import ItemResult, Task, TaskInfo
    from holdfast.models.loading import Model
    from holdfast.models.policy import Policy
    from holdfast.pipeline.phases import RunContext
    from holdfast.training.callbacks import TrainResult


def run_analyses(
    work: RunContext,
    result: TrainResult,
    rows: Rows,
    before: Mapping[str, list[ItemResult]],
    after: Mapping[str, list[ItemResult]],
) -> list[dict[str, Any]]:
    """Run the recipe's analyses on base and tuned model; their sections in order.

    Args:
        before, after: What was measured of the two, by task.
    """
    from holdfast.models.loading import load_model

    if not work.recipe.analyses:
        return []
    work.ui.start_phase("analyse", len(work.recipe.analyses))
    context = AnalysisContext(
        rows=rows,
        tasks=pair_tasks(work.tasks, before, after, lambda task: list(task.rows) if hasattr(task, "rows") else []),
        chat=work.chat,
        open_base=lambda: open_policy(load_model(work.recipe.model, device=work.base.device).model),
        open_tuned=lambda: open_policy(result.model),
        open_folded=lambda: open_folded_policy(result.model, result.tuner),
    )
    sections = []
    for analysis in work.recipe.analyses:
        try:
            sections.append(measure_section(analysis, context))
        except UserError as error:  # of what was measured; a run that is trained is not lost for it
            work.ui.warn(f"analyses: {name_of(analysis)}: {error}")
            sections.append(describe_nothing(analysis, str(error)))
        work.ui.advance()
    return sections


def measure_section(analysis: Analysis, context: AnalysisContext) -> dict[str, Any]:
    """The section of one analysis as it stands in a report: with its name, and what it looks at in a line."""
    import torch

    with torch.no_grad():
        section = analysis.measure(context)
    about = analysis.summary_line().rpartition(" [")[0].rstrip() or analysis.summary_line()
    return {"name": name_of(analysis), "about": about, **section.to_json()}


def describe_nothing(analysis: Analysis, why: str) -> dict[str, Any]:
    """The section of an analysis that had nothing to look at."""
    section = AnalysisSection(f"Not looked at: {name_of(analysis)}", why, Table((), ()))
    return {"name": name_of(analysis), **section.to_json()}


def pair_tasks(
    tasks: Sequence[Task | TaskInfo],
    before: Mapping[str, list[ItemResult]],
    after: Mapping[str, list[ItemResult]],
    open_rows: Callable[[Any], list[Row]],
) -> list[AnalysedTask]:
    """The tasks that both models were measured on, as analyses see them; targets first.

    Args:
        open_rows: From a task to its questions; called when an analysis asks for them.
    """
    order = {"target": 0, "watch": 1, "keep": 2}
    return [
        AnalysedTask(task.name, task.kind, task.role, before[task.name], after[task.name], partial(open_rows, task))
        for task in sorted(tasks, key=lambda task: order[task.role])
        if task.name in before and task.name in after
    ]


def open_policy(model: Model) -> Policy:
    """A model as analyses see it."""
    from holdfast.models.policy import Policy

    return Policy(model.eval())


def open_folded_policy(model: Model, tuner: Tuner) -> Policy:
    """A copy of a model with its adapter folded in; one that has none as it is."""
    from holdfast.models.loading import has_adapter
    from holdfast.models.merging import merged_copy

    return open_policy(merged_copy(model, tuner) if has_adapter(model) else model)
