"""What methods lose where all have gained the same: each at several learning rates, read off between them.

Gain and loss move together along learning rate and steps, so that "loses less" at a lower gain says nothing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from holdfast.evaluation.statistics.paired import (
    MeasuredRun,
    interpret_difference,
    losing_tasks,
    pair_scores,
    scale_interval,
    tasks_with_role,
)
from holdfast.evaluation.statistics.summary_statistics import Interval, PairedScores, compute_interval
from holdfast.evaluation.statistics.verdicts import MARGIN
from holdfast.evaluation.task import Task, TaskInfo

At = Literal["gain", "front"]
"""Read off the line between two rates, or at the rate that loses least among those that gain enough."""
Tasks = Sequence[Task | TaskInfo]


@dataclass(frozen=True, slots=True)
class RateResult:
    """A method at one learning rate: its runs, one per seed, and what they gained and lost in the mean."""

    rate: float
    runs: Sequence[MeasuredRun]
    gain: float
    loss: float


@dataclass(frozen=True, slots=True)
class GainPoint:
    """Where a method has a given gain: how much each of its rates counts there, and what it has lost.

    Args:
        weights: Of the rates; what they lack of 1 is the base's.
        slope: Loss per gain along the line, by which an error in the gain is one in the loss; 0 off a line.
    """

    weights: tuple[float, ...]
    slope: float
    loss: float


def build_rate_results(tasks: Tasks, by_rate: Mapping[float, Sequence[MeasuredRun]]) -> list[RateResult]:
    """A method's rates from the smallest to the largest, gains in the target's unit and losses in points."""
    targets, kept_tasks = tasks_with_role(tasks, "target"), losing_tasks(tasks_with_role(tasks, "keep"))
    return [
        RateResult(rate, runs, _mean_change(targets, runs), -_mean_change(kept_tasks, runs))
        for rate, runs in sorted(by_rate.items())
    ]


def _mean_change(tasks: Tasks, runs: Sequence[MeasuredRun]) -> float:
    changes = [
        [abs(t.info.unit.scale) * pair_scores(t, run.base[t.name], run.tuned[t.name]).compute_delta() for t in tasks]
        for run in runs
    ]
    return float(np.mean(changes))


def common_gain(methods: Mapping[str, Sequence[RateResult]]) -> float:
    """The largest gain that every method reaches at one of its rates."""
    return min(max(rung.gain for rung in ladder) for ladder in methods.values())


def find_gain_point(ladder: Sequence[RateResult], gain: float, at: At = "gain") -> GainPoint | None:
    """Where a method gains so much, with the least loss of all such places; `None` where it nowhere does.

    Lines go from the base, at 0 and 0, to the smallest rate and on from rate to rate.
    """
    candidates = []
    if at == "front":
        for k, rung in enumerate(ladder):
            if rung.gain >= gain - 1e-9:
                candidates.append(GainPoint(tuple(float(i == k) for i in range(len(ladder))), 0.0, rung.loss))
        return min(candidates, key=lambda one: one.loss, default=None)
    corners = [(0.0, 0.0), *((rung.gain, rung.loss) for rung in ladder)]
    for k, ((g1, l1), (g2, l2)) in enumerate(pairwise(corners)):
        if not min(g1, g2) - 1e-9 <= gain <= max(g1, g2) + 1e-9:
            continue
        share = (gain - g1) / (g2 - g1) if g2 != g1 else 1.0
        weights = [0.0] * (len(ladder) + 1)
        weights[k], weights[k + 1] = 1 - share, share
        slope = (l2 - l1) / (g2 - g1) if g2 != g1 else 0.0
        candidates.append(GainPoint(tuple(weights[1:]), slope, l1 + share * (l2 - l1)))
    return min(candidates, key=lambda one: one.loss, default=None)


def compute_matched_difference(
    tasks: Tasks, one: tuple[Sequence[RateResult], GainPoint], other: tuple[Sequence[RateResult], GainPoint]
) -> Interval:
    """By how much more `one` keeps than `other` where both have the gain of their places, paired.

    The places are taken as known but for the gains that they were read off at: an error there moves the loss along the
    line (delta method).
    """
    targets, kept_tasks = tasks_with_role(tasks, "target"), losing_tasks(tasks_with_role(tasks, "keep"))
    seeds = [run.seed for run in one[0][0].runs]
    runs = [
        [_weigh_scores(task, seed, one, other) for task in kept_tasks]
        + [_weigh_scores(task, seed, one, other, True) for task in targets]
        for seed in seeds
    ]
    scale = [abs(task.info.unit.scale) / 100 for task in targets]  # slopes are points per unit of the target
    weights = [1 / len(kept_tasks)] * len(kept_tasks) + [s / len(targets) for s in scale]
    total = compute_interval(runs, weights)
    # The gains are what they are in the mean: their part has an error, and no value.
    shift = float(
        np.mean(
            [np.dot(weights[len(kept_tasks) :], [p.compute_delta() for p in row[len(kept_tasks) :]]) for row in runs]
        )
    )
    if total.low is None or total.high is None:
        return Interval(total.value - shift, None, None)
    return Interval(total.value - shift, total.low - shift, total.high - shift)


def _weigh_scores(
    task: Task | TaskInfo, seed: int, one: tuple[Sequence[RateResult], GainPoint],
    other: tuple[Sequence[RateResult], GainPoint],
    by_slope: bool = False,
) -> PairedScores:  # fmt: skip
    """What the rates of either method changed on a task, weighed as its place says; `by_slope`: times its slope."""
    sides = []
    for ladder, where in (other, one):
        total: Any = 0.0
        for rung, weight in zip(ladder, where.weights, strict=True):
            run = next(run for run in rung.runs if run.seed == seed)
            both = pair_scores(task, run.base[task.name], run.tuned[task.name])
            total = total + weight * (where.slope if by_slope else 1.0) * (both.tuned - both.base)
        sides.append(total)
    return PairedScores(both.ids, sides[0], sides[1], both.sizes)


def compare_at_matched_gain(
    tasks: Tasks, methods: Mapping[str, Mapping[float, Sequence[MeasuredRun]]], at: At = "gain", margin: float = MARGIN
) -> dict[str, Any] | None:
    """The part `matched` of compare.json: the loss of every method where all gain the same, and the paired differences.

    Args:
        methods: Of each its runs by learning rate.
    Returns:
        `{"gain", "unit", "margin", "methods": [{"method", "loss", "rates": [{"rate", "gain", "loss"}], "versus": {NAME:
        {"delta", "low", "high", "unit", "reading"}}}]}`, `delta` positive where the method lost more; `None` where
        there is no target, or nothing was kept in points. `gain` is `None` where a method gained nothing at any rate.
    """
    targets = tasks_with_role(tasks, "target")
    if not targets or not losing_tasks(tasks_with_role(tasks, "keep")):
        return None
    ladders = {name: build_rate_results(tasks, by_rate) for name, by_rate in methods.items()}
    gain = common_gain(ladders)
    places = {name: find_gain_point(ladder, gain, at) if gain > 0 else None for name, ladder in ladders.items()}
    rows = []
    for name, ladder in ladders.items():
        mine = places[name]
        others = {k: (ladders[k], where) for k, where in places.items() if k != name and where is not None}
        rows.append({
            "method": name,
            "loss": mine.loss if mine else None,
            "rates": [{"rate": r.rate, "gain": r.gain, "loss": r.loss} for r in ladder],
            "versus": {
                k: _compute_contrast(tasks, (ladder, mine), one, margin) for k, one in others.items()
            } if mine else {},
        })  # fmt: skip
    return {"gain": gain if gain > 0 else None, "unit": targets[0].info.unit.name, "margin": margin, "methods": rows}


def _compute_contrast(
    tasks: Tasks,
    one: tuple[Sequence[RateResult], GainPoint],
    other: tuple[Sequence[RateResult], GainPoint],
    margin: float,
) -> dict[str, Any]:
    result = scale_interval(compute_matched_difference(tasks, one, other), -100.0)
    return {**result, "unit": "points", "reading": interpret_difference(result["low"], result["high"], margin)}
