"""The one rule by which every claim is decided: a paired difference against a stated margin, with three outcomes.

A part of a claim *holds* where the whole 95 % interval of the difference lies beyond its line, is *refuted* where the
whole interval lies on the other side, and else *cannot be told here*. "More" means by more than the margin, "as much"
not less by more than it. It cannot be told either where the runs could not have shown it (`comparability.doubts`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np

from holdfast.evaluation.statistics.matched import (
    At,
    build_rate_results,
    common_gain,
    compute_matched_difference,
    find_gain_point,
)
from holdfast.evaluation.statistics.paired import (
    MeasuredRun,
    compute_difference,
    losing_tasks,
    pair_scores,
    scale_interval,
    tasks_with_role,
)
from holdfast.evaluation.statistics.rates import find_rate_beyond
from holdfast.evaluation.statistics.verdicts import MARGIN, Outcome, decide_outcome

By = Literal["more", "as much"]
Measurements = Mapping[str, Sequence[float]]
"""What a study measured, by quantity, of every seed."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """A part of a claim about two arms: that one gains, or keeps, more or as much as another.

    Args:
        arm: The label the claim speaks for.
        than: The label it is held against; `None`: the untouched base.
        of: "gain" (the target's score), "kept" (the mean score of the kept tasks), the name of one task, or "log:NAME":
            a share that the training logged, over its last quarter.
        by: "more": by more than the margin; "as much": not less by more than the margin.
        share: Of what the rival changed, 0.5: half of the rival's gain or loss is what is held against.
        margin: In points; default: the claim's.
        at: At the stated learning "rate"; with the claim's `rates`, each arm at its "best", the one that gained most in
            the other seeds; with the claim's `validation`, each at the rate that a sweep on other questions chose
            ("validated"); or what is kept where both have gained the same, read off the line between two rates ("gain")
            or at the best rate that gains enough ("front").
    """

    arm: str
    than: str | None
    of: str = "gain"
    by: By = "as much"
    share: float = 1.0
    margin: float | None = None
    at: Literal["rate", "best", "validated", "gain", "front"] = "rate"

    def format_sentence(self) -> str:
        """`s3ft gains as much as sft`, `s3ft loses less elsewhere than 57 % of what sft does`."""
        whom = self.than or "the base"
        whom = f"{100 * self.share:g} % of what {whom} does" if self.share != 1 else whom
        if self.of not in ("gain", "kept"):
            of = self.of.removeprefix("log:")
            return f"{self.arm} has {self.by} {'than' if self.by == 'more' else 'as'} {whom} of {of}"
        each = "each " if self.than else ""
        at = {"rate": "", "best": f", {each}at its best rate", "validated": f", {each}at its validated rate"}.get(
            self.at, " at equal gain"
        )
        if self.than is None:
            nothing = "loses nothing elsewhere" if self.of == "kept" else "does not fall on the target"
            return f"{self.arm} {'gains' if self.by == 'more' else nothing}{at}"
        if self.of == "gain":
            return f"{self.arm} gains {self.by} {'than' if self.by == 'more' else 'as'} {whom}{at}"
        return f"{self.arm} loses {'less' if self.by == 'more' else 'no more'} elsewhere than {whom}{at}"


def gains_more(arm: str, than: str | None = None, **more: Any) -> Expectation:
    """That an arm gains more on the target than another, or than the base."""
    return Expectation(arm, than, "gain", "more", **more)


def gains_as_much(arm: str, than: str, **more: Any) -> Expectation:
    """That an arm does not gain less on the target than another."""
    return Expectation(arm, than, "gain", "as much", **more)


def loses_less(arm: str, than: str, **more: Any) -> Expectation:
    """That an arm loses less elsewhere than another."""
    return Expectation(arm, than, "kept", "more", **more)


def loses_no_more(arm: str, than: str | None = None, **more: Any) -> Expectation:
    """That an arm does not lose more elsewhere than another, or than the base, which loses nothing."""
    return Expectation(arm, than, "kept", "as much", **more)


@dataclass(frozen=True, slots=True)
class Arm:
    """Of an arm of a claim its runs, one per seed, and why they may say nothing (`comparability.doubts`).

    Args:
        at_rates: The arm at each of its learning rates.
        further: Those of them that the claim has not, where the arm went on because it rose. They count for what an arm
            gains at its best; a gain that arms have in common would be moved by them to where all else is lost.
    """

    runs: Sequence[MeasuredRun]
    doubts: Mapping[str, str]
    dirs: Sequence[str] = ()
    at_rates: Mapping[float, Arm] = field(default_factory=dict)
    further: frozenset[float] = frozenset()


def decide_expectation(expectation: Expectation, arms: Mapping[str, Arm], margin: float = MARGIN) -> dict[str, Any]:
    """Decide a part of a claim.

    Returns:
        `{"what", "delta", "low", "high", "margin", "outcome", "measured", "reasons"}`: the paired difference in points,
        what it says, and, in `outcome`, what is left of that after the reasons for which it cannot be told.
    """
    margin = margin if expectation.margin is None else expectation.margin
    if expectation.at == "best":
        arms = {
            name: at_best_rate(arms[name], margin) for name in (expectation.arm, expectation.than) if name is not None
        }
    arm, rival = arms[expectation.arm], arms[expectation.than] if expectation.than is not None else None
    tasks, reasons = arm.runs[0].tasks, _list_reasons(expectation, arms)
    if expectation.at in ("gain", "front") and rival is not None:
        return _decide_at_equal_gain(expectation, arm, rival, margin, reasons)
    reasons += _find_sameness(expectation, arm, rival)
    if expectation.of.startswith("log:") and rival is not None:
        name = expectation.of.removeprefix("log:")
        apart = [
            100 * (read_log_mean(a, name) - read_log_mean(b, name)) for a, b in zip(arm.dirs, rival.dirs, strict=True)
        ]
        parts = dict(zip(("delta", "low", "high"), student_interval(apart), strict=True))
        return _build_check(expectation.format_sentence(), parts, margin, expectation.by, reasons)
    if expectation.of == "gain":
        tasks = tasks_with_role(tasks, "target")
    elif expectation.of == "kept":
        tasks = losing_tasks(tasks_with_role(tasks, "keep"))
    else:
        tasks = [task for task in tasks if task.info.name == expectation.of]
    score_difference = compute_difference(tasks, arm.runs, rival.runs if rival else None, share=expectation.share)
    interval = scale_interval(score_difference, 100.0)
    return _build_check(
        expectation.format_sentence(), interval, margin, expectation.by, reasons, _find_edges(expectation, arms)
    )


def at_best_rate(arm: Arm, margin: float = MARGIN) -> Arm:
    """An arm with, of each seed, the run at the learning rate that gained most in the other seeds.

    A rate chosen by the very runs that are then judged would look better than it is.
    """
    if len(arm.runs) < 2 or not arm.at_rates:
        return arm
    gains = _measure_gains(arm)
    others = gains.sum(1, keepdims=True) - gains
    chosen = [list(arm.at_rates.values())[rate] for rate in others.argmax(0)]
    usual = int(gains.sum(1).argmax())
    doubts = {**list(arm.at_rates.values())[usual].doubts, **find_edge(_average_gains(arm, gains), margin)}
    dirs = [one.dirs[seed] for seed, one in enumerate(chosen) if one.dirs]
    return replace(arm, runs=[one.runs[seed] for seed, one in enumerate(chosen)], dirs=dirs, doubts=doubts)


def compute_gains(arm: Arm) -> dict[float, float]:
    """Compute what an arm gained on the target at each of its learning rates: points, the mean of its seeds."""
    return _average_gains(arm, _measure_gains(arm))


def _measure_gains(arm: Arm) -> np.ndarray:
    """The change of the target's score in each run; [rates, seeds]."""
    return np.array([[_target_gain(run) for run in at.runs] for at in arm.at_rates.values()])


def _average_gains(arm: Arm, gains: np.ndarray) -> dict[float, float]:
    """The means over seeds of `_measure_gains`, in points."""
    return {rate: 100 * float(own.mean()) for rate, own in zip(arm.at_rates, gains, strict=True)}


def find_edge(gains: Mapping[float, float], margin: float = MARGIN) -> dict[str, str]:
    """The doubt, if there is one, that an arm which gained most at its outermost learning rate gains more beyond it."""
    if find_rate_beyond(gains, margin) is None:
        return {}
    best = max(gains, key=lambda rate: gains[rate])
    return {"edge": f"gained most at learning rate {best:g}, the outermost that was tried"}


def _target_gain(run: MeasuredRun) -> float:
    """The mean change of the target's score in one run."""
    changes = [
        pair_scores(task, run.base[task.name], run.tuned[task.name]) for task in tasks_with_role(run.tasks, "target")
    ]
    return float(np.mean([np.mean(each.tuned - each.base) for each in changes]))


def _decide_at_equal_gain(
    expectation: Expectation, arm: Arm, rival: Arm, margin: float, reasons: list[str]
) -> dict[str, Any]:
    """Decide what is kept where two arms have gained the same."""
    tasks, at = arm.runs[0].tasks, cast(At, expectation.at)
    ladders = [
        build_rate_results(tasks, {rate: at.runs for rate, at in one.at_rates.items() if rate not in one.further})
        for one in (arm, rival)
    ]
    gain = common_gain({str(k): ladder for k, ladder in enumerate(ladders)})
    mine, theirs = (find_gain_point(ladder, gain, at) if gain > 0 else None for ladder in ladders)
    if mine is None or theirs is None:
        nothing = {"delta": 0.0, "low": None, "high": None}
        why = [*reasons, "there is no gain that both reach at these learning rates"]
        return _build_check(expectation.format_sentence(), nothing, margin, expectation.by, why)
    interval = scale_interval(compute_matched_difference(tasks, (ladders[0], mine), (ladders[1], theirs)), 100.0)
    reasons = [*reasons, *_find_sameness(expectation, arm, rival)]
    what = f"{expectation.format_sentence()} of {gain:.1f} points"
    return _build_check(what, interval, margin, expectation.by, reasons)


def _find_sameness(expectation: Expectation, arm: Arm, rival: Arm | None) -> list[str]:
    """Why two arms that gave the same answers in every seed say nothing."""
    if rival is None or any(mine.tuned != theirs.tuned for mine, theirs in zip(arm.runs, rival.runs, strict=True)):
        return []
    return [f"{expectation.arm} and {expectation.than} answered alike: what sets them apart changed nothing"]


def read_log_mean(folder: str, name: str) -> float:
    """What a run logged under a name, over the last quarter of its entries."""
    lines = (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    values = [line[name] for line in map(json.loads, lines) if name in line]
    last = values[-(len(values) // 4 or 1) :]
    return float(sum(last) / len(last))


def _find_edges(expectation: Expectation, arms: Mapping[str, Arm]) -> dict[Outcome, list[str]]:
    """Why an outcome cannot be told where an arm gained most at the outermost learning rate that it ran at.

    At a rate beyond it might gain more, so that neither can it be said to gain less than another, nor another to gain
    more than it; and lose more or less than it does, so that nothing can be said of that.
    """
    mine, theirs = (
        [f"{name}: {arms[name].doubts['edge']}"] if name is not None and "edge" in arms[name].doubts else []
        for name in (expectation.arm, expectation.than)
    )
    if expectation.of == "gain":
        return {"refuted": mine, "held": theirs}
    return {"refuted": [*mine, *theirs], "held": [*mine, *theirs]}


def _build_check(
    what: str,
    interval: Mapping[str, Any],
    margin: float,
    by: By,
    reasons: Sequence[str],
    edges: Mapping[Outcome, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    measured_outcome = decide_outcome(interval["low"], interval["high"], margin if by == "more" else -margin)
    reasons = [*reasons, *edges.get(measured_outcome, ())]
    outcome: Outcome = "cannot tell" if reasons else measured_outcome
    return {
        "what": what, **interval, "margin": margin, "by": by, "outcome": outcome, "measured": measured_outcome,
        "reasons": reasons,
    }  # fmt: skip


def _list_reasons(expectation: Expectation, arms: Mapping[str, Arm]) -> list[str]:
    """Why a part of a claim cannot be told from these runs, whatever their difference.

    The target's ceiling matters to gains only: "more" cannot be seen above a rival that is there, and "as much" says
    nothing where both are; a base that is there leaves nothing to gain.
    """
    names = [name for name in (expectation.arm, expectation.than) if name is not None]
    reasons = []
    for kind in ("pairs", "groups", "rows", *(["rate"] if expectation.at in ("rate", "best", "validated") else [])):
        reasons += [f"{name}: {text}" for name in names if (text := arms[name].doubts.get(kind))]
    high = [name for name in names if "ceiling" in arms[name].doubts]
    if expectation.of == "gain" and expectation.than is not None:
        rival = [expectation.than] if expectation.by == "more" else names
        reasons += [f"{name}: {arms[name].doubts['ceiling']}" for name in rival if set(rival) <= set(high)]
    if expectation.of == "gain" and expectation.than is None and expectation.by == "more":
        reasons += [f"{name}: {text}" for name in names if (text := arms[name].doubts.get("base"))]
    return reasons


def arms_of(
    runs: Sequence[Mapping[str, Any]], families: Mapping[str, Mapping[float, str]] | None = None
) -> dict[str, Arm]:
    """The arms of a comparison's `runs`, read from their directories.

    Args:
        families: Of an arm that runs at several learning rates the label at each.
    """
    from holdfast.evaluation.summary import read_run

    arms = {
        run["method"]: Arm(
            [read_run(folder, seed) for folder, seed in zip(run["dirs"], run["seeds"], strict=True)],
            run["doubts"],
            run["dirs"],
        )
        for run in runs
    }
    for label, rates in (families or {}).items():
        arms[label] = replace(arms[label], at_rates={rate: arms[name] for rate, name in rates.items()})
    return arms


@dataclass(frozen=True, slots=True)
class StudyExpectation:
    """A part of a study's claim: that a sum of quantities lies beyond a line, over the seeds.

    Args:
        what: In words.
        terms: What each quantity counts in the sum: `{"ift": -1, "sft": 1}`.
        line: What the sum must be above, in the quantities' unit; the margin is in it.
        is_premise: Whether the paper says it of its runs and not of its method: where ours are not so, nothing of the
            claim can be told.
    """

    what: str
    terms: Mapping[str, float]
    line: float = 0.0
    is_premise: bool = False


def quantity_above(
    one: str, other: str | float, what: str, by: float = 0.0, *, is_premise: bool = False
) -> StudyExpectation:
    """That a quantity is above another, or above a number, by more than `by` (below 0: not below by more than that)."""
    if isinstance(other, str):
        return StudyExpectation(what, {one: 1.0, other: -1.0}, by, is_premise)
    return StudyExpectation(what, {one: 1.0}, other + by, is_premise)


def quantity_below(one: str, other: str | float, what: str, by: float = 0.0) -> StudyExpectation:
    """That a quantity is below another, or below a number, by more than `by`."""
    if isinstance(other, str):
        return quantity_above(other, one, what, by)
    return StudyExpectation(what, {one: -1.0}, by - other)


def student_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of values over seeds and its 95 % interval by Student's t; [S] to (mean, low, high)."""
    from scipy import stats

    mean = sum(values) / len(values)
    wide = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - wide, mean + wide


def decide_study_expectation(reading: StudyExpectation, measurements: Measurements) -> dict[str, Any]:
    """Decide a part of a study's claim; the result is as of `decide_expectation`, `delta` in the quantities' unit."""
    seeds = len(next(iter(measurements.values())))
    sums = [sum(weight * measurements[name][k] for name, weight in reading.terms.items()) for k in range(seeds)]
    mean, low, high = student_interval(sums)
    outcome = decide_outcome(low, high, reading.line)
    return {
        "what": reading.what, "delta": mean, "low": low, "high": high, "margin": reading.line, "by": "more",
        "outcome": outcome, "measured": outcome, "reasons": [],
    }  # fmt: skip


def decide_study(expects: Sequence[StudyExpectation], measurements: Measurements) -> list[dict[str, Any]]:
    """Decide the parts of a study's claim; where a premise does not hold, none can be told."""
    checks = [decide_study_expectation(part, measurements) for part in expects]
    reasons = [
        f"not so here: {part.what}"
        for part, check in zip(expects, checks, strict=True)
        if part.is_premise and check["outcome"] != "held"
    ]
    return [check | {"outcome": "cannot tell", "reasons": reasons} for check in checks] if reasons else checks


def outcome_of_all(checks: Sequence[Mapping[str, Any]]) -> Outcome:
    """A claim holds if all of its parts do, and is refuted if one is."""
    outcomes = {check["outcome"] for check in checks}
    if "refuted" in outcomes:
        return "refuted"
    return "cannot tell" if "cannot tell" in outcomes else "held"
