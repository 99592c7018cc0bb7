"""Two measurements of one set of questions, matched question by question, and how one method differs from another.

Methods of a comparison answered the same questions from the same base with the same seeds, so their difference is
paired in all three; that of two separate intervals is two to three times as wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from holdfast.errors import RunError
from holdfast.evaluation.statistics.summary_statistics import Interval, PairedScores, compute_interval
from holdfast.evaluation.statistics.verdicts import MARGIN, decide_outcome, is_within_margin
from holdfast.evaluation.task import AGREEMENT, POINTS, ItemResult, Task, TaskInfo

Items = Mapping[str, Sequence[ItemResult]]
"""Measured items by task name."""


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One run of a comparison: its tasks, the items before and after, its seed."""

    tasks: Sequence[Task | TaskInfo]
    base: Items
    tuned: Items
    seed: int = 0


def pair_scores(task: Task | TaskInfo, base: Sequence[ItemResult], tuned: Sequence[ItemResult]) -> PairedScores:
    """The paired scores of a task, matched by question.

    Tokens are the base's on both sides, so that models with different tokenizers compare on one text.

    Raises:
        RunError: If the two did not answer the same questions.
    """
    after, per = {item.id: item for item in tuned}, task.info.unit.per
    if not base or len(base) != len(tuned) or any(item.id not in after for item in base):
        raise RunError(f"{task.name}: base and tuned model were not measured on the same questions")
    return PairedScores(
        ids=tuple(item.id for item in base),
        base=np.array([item.score for item in base]),
        tuned=np.array([after[item.id].score for item in base]),
        sizes=None if per == "item" else np.array([item.size_per(per) for item in base], dtype=float),
    )


def tasks_with_role(tasks: Sequence[Task | TaskInfo], role: str) -> list[Task | TaskInfo]:
    return [task for task in tasks if task.info.role == role]


def tasks_in_points(tasks: Sequence[Task | TaskInfo]) -> list[Task | TaskInfo]:
    return [task for task in tasks if task.info.unit is POINTS]


def losing_tasks(tasks: Sequence[Task | TaskInfo]) -> list[Task | TaskInfo]:
    """The tasks that make the loss: those in points; for want of them the probe, whose unit is points of agreement."""
    return tasks_in_points(tasks) or [task for task in tasks if task.info.unit is AGREEMENT]


def tasks_in_bits(tasks: Sequence[Task | TaskInfo]) -> list[Task | TaskInfo]:
    return [task for task in tasks if task.info.unit.better_direction == "lower"]


def scale_interval(delta_interval: Interval, scale: float) -> dict[str, Any]:
    """An interval in another unit; a negative scale turns it around. Ends are `None` where there are none."""
    delta = 0.0 + scale * delta_interval.value  # 0.0 + x: nothing is 0, not -0
    if delta_interval.low is None or delta_interval.high is None:
        return {"delta": delta, "low": None, "high": None}
    low, high = sorted((0.0 + scale * delta_interval.low, 0.0 + scale * delta_interval.high))
    return {"delta": delta, "low": low, "high": high}


Reading = Literal["more", "less", "as much", "cannot tell"]


def interpret_difference(low: float | None, high: float | None, margin: float = MARGIN) -> Reading:
    """What a paired difference says against a margin: its whole interval lies beyond it, or within, or neither."""
    if is_within_margin(low, high, margin):
        return "as much"
    if decide_outcome(low, high, margin) == "held":
        return "more"
    return "less" if decide_outcome(low, high, -margin) == "refuted" else "cannot tell"


def compute_difference(
    tasks: Sequence[Task | TaskInfo],
    one: Sequence[MeasuredRun],
    other: Sequence[MeasuredRun] | None,
    *,
    share: float = 1.0,
    relative: bool = False,
) -> Interval:
    """What `one` changed on tasks of one unit beyond `share` of what `other` did, over their common seeds.

    Args:
        other: `None`: the base itself, which changes nothing.
        share: 0.5: beyond half of what the other changed.
        relative: As a share of the other's figure; for likelihoods.
    Raises:
        RunError: If they have no seed in common, or did not answer the same questions.
    """
    rivals = {run.seed: run for run in one} if other is None else {run.seed: run for run in other}
    runs = [(run, rivals[run.seed]) for run in one if run.seed in rivals]
    if not runs:
        raise RunError("the methods have no seed in common, so there is nothing to pair")
    share = 0.0 if other is None else share
    return compute_interval(
        [[_pair_with_rival(task, mine, theirs, share, relative) for task in tasks] for mine, theirs in runs]
    )


def _pair_with_rival(
    task: Task | TaskInfo, mine: MeasuredRun, theirs: MeasuredRun, share: float, relative: bool
) -> PairedScores:
    """The scores of `mine` beside the base's plus `share` of what `theirs` changed."""
    own, rival = (pair_scores(task, run.base[task.name], run.tuned[task.name]) for run in (mine, theirs))
    if own.ids != rival.ids:
        raise RunError(f"{task.name}: the methods were not measured on the same questions")
    return PairedScores(own.ids, own.base + share * (rival.tuned - rival.base), own.tuned, own.sizes, relative)


def compare_methods(
    tasks: Sequence[Task | TaskInfo], one: Sequence[MeasuredRun], other: Sequence[MeasuredRun], margin: float = MARGIN
) -> dict[str, Any]:
    """The paired difference of two methods: `gain`, `loss` and `text` as of a run, `None` where there is none.

    Each is `{"delta", "low", "high", "unit", "reading"}`. Gain: positive where `one` gained more, in points or, of a
    target in bits, in per cent of the other's bits. Loss and text: positive where `one` lost more.
    """
    targets, kept_tasks = tasks_with_role(tasks, "target"), tasks_with_role(tasks, "keep")
    bits = bool(targets) and targets[0].info.unit.better_direction == "lower"
    return {
        "margin": margin,
        "gain": _compute_contrast(targets, one, other, margin, sign=-1 if bits else 1, relative=bits),
        "loss": _compute_contrast(losing_tasks(kept_tasks), one, other, margin, sign=-1),
        "text": _compute_contrast(tasks_in_bits(kept_tasks), one, other, margin, relative=True),
    }


def _compute_contrast(
    tasks: Sequence[Task | TaskInfo], one: Sequence[MeasuredRun], other: Sequence[MeasuredRun], margin: float,
    *, sign: int = 1, relative: bool = False,
) -> dict[str, Any] | None:  # fmt: skip
    if not tasks:
        return None
    result = scale_interval(compute_difference(tasks, one, other, relative=relative), sign * 100.0)
    unit = "%" if relative else POINTS.name
    return {**result, "unit": unit, "reading": interpret_difference(result["low"], result["high"], margin)}
