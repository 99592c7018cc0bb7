"""From measured items to what reports show: figures in their task's unit, intervals, flips, the gate, comparisons.

Of a task, differences are tuned minus base, in its unit. Of a whole run, `gain` is positive where the target became
better, and a *loss* is positive where something was lost: both whichever way the unit counts. Tasks in points (`loss`)
and tasks in bits (`text`, in per cent) are never averaged with each other. Where no kept task is in points, the loss is
that of agreement with the base on the probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.errors import UserError
from holdfast.evaluation.answer_traces import TRACE, summarise_traces
from holdfast.evaluation.results_store import ResultsStore
from holdfast.evaluation.statistics.pair_margins import measure_chosen_gains
from holdfast.evaluation.statistics.paired import (
    Items,
    MeasuredRun,
    compare_methods,
    losing_tasks,
    pair_scores,
    scale_interval,
    tasks_in_bits,
    tasks_with_role,
)
from holdfast.evaluation.statistics.seed_disagreement import measure_disagreement
from holdfast.evaluation.statistics.summary_statistics import (
    Interval,
    PairedScores,
    compute_interval,
    mark_pareto_front,
    mcnemar_p_value,
    noise_floor,
)
from holdfast.evaluation.task import ANSWERED, POINTS, ItemResult, Task, TaskInfo, Unit
from holdfast.evaluation.tasks.episode_summary import summarise_episodes
from holdfast.evaluation.tasks.probe_summary import summarise_probe
from holdfast.evaluation.thought_counts import count_thoughts, count_unanswered, drop_unfit, refuse_unasked

MOST_FLIPS = 20
MOST_NATS = 700.0
"""Nats per token above which a perplexity is no floating-point number."""


def read_run(directory: str | Path, seed: int = 0, tuned: str = "final") -> MeasuredRun:
    """The measurements of a run directory: `eval/base` and `eval/<tuned>`, the tasks that both have.

    Raises:
        UserError: If the run is not finished.
    """
    before, after = (ResultsStore(Path(directory) / "eval" / when).read_measurements() for when in ("base", tuned))
    both = {name: info for name, (info, _) in after.items() if name in before}
    if not both:
        raise UserError(f"{directory}: no finished evaluation; run `holdfast train` on its recipe again to finish it")
    base, final = ({name: items[name][1] for name in both} for items in (before, after))
    asked_base, asked_final = drop_unfit(base, final)
    return MeasuredRun(list(both.values()), asked_base, asked_final, seed)


def compute_score(task: Task | TaskInfo, items: Sequence[ItemResult]) -> float:
    """A model's figure on one task, in the task's unit, over the questions it could be asked."""
    unit, whole = task.info.unit, items
    items = drop_unfit({task.name: whole})[0][task.name]
    refuse_unasked(task.name, whole, items)
    return 0.0 + unit.scale * sum(item.score for item in items) / sum(item.size_per(unit.per) for item in items)


def score_interval(task: Task | TaskInfo, items: Sequence[ItemResult]) -> dict[str, float | None]:
    """The 95 % interval of a score in points over the questions, as `low` and `high`; nothing for other units."""
    unit = task.info.unit
    if unit is not POINTS or not items:
        return {}
    scores = np.array([item.score for item in items], dtype=float)
    ends = compute_interval([[PairedScores(tuple(item.id for item in items), np.zeros(len(items)), scores)]])
    if ends.low is None or ends.high is None:
        return {"low": None, "high": None}
    return {"low": max(0.0, unit.scale * ends.low), "high": unit.scale * ends.high}


def compute_role_figures(tasks: Sequence[Task | TaskInfo], items: Items) -> dict[str, float | None]:
    """What the live line and the curves show: `target`, `keep`, `text` and `held_out`.

    The target in its own unit, the mean of the kept tasks in points (for want of them agreement on the probe), the mean
    of those in bits, and bits per token on the held-out answers. `None` when there are no such tasks, or not all of
    them were measured (a run was killed in between).
    """
    (items,) = drop_unfit(items)
    kept_tasks = tasks_with_role(tasks, "keep")
    parts = {
        "target": tasks_with_role(tasks, "target"),
        "keep": losing_tasks(kept_tasks),
        "text": tasks_in_bits(kept_tasks),
    }
    parts["held_out"] = [held_out] if (held_out := find_held_out(tasks)) else []
    return {
        part: float(np.mean([compute_score(task, items[task.name]) for task in some]))
        if some and all(items.get(task.name) for task in some)
        else None
        for part, some in parts.items()
    }


def find_held_out(tasks: Sequence[Task | TaskInfo]) -> Task | TaskInfo | None:
    """The task that measures the held-out answers, beside the target or as the target."""
    candidates = [t for t in tasks if t.info.kind == "held_out" and t.info.role != "keep"]
    return next((t for t in candidates if t.info.role == "watch"), candidates[0] if candidates else None)


def summarise_run(tasks: Sequence[Task | TaskInfo], base: Items, tuned: Items) -> dict[str, Any]:
    """The parts `tasks`, `gain`, `loss`, `text`, `held_out` and `probe` of report.json."""
    tasks = [task for task in tasks if base[task.name] or task.info.kind != "probe"]  # too long for the model: no item
    whole = {task.name: (base[task.name], tuned[task.name]) for task in tasks}
    base, tuned = drop_unfit(base, tuned)
    for task in tasks:
        refuse_unasked(task.name, whole[task.name][0], base[task.name])
    paired_scores = {task.name: pair_scores(task, base[task.name], tuned[task.name]) for task in tasks}
    rows = [
        _summarise_task(task, paired_scores[task.name], base[task.name], tuned[task.name])
        | _count_left_out(*whole[task.name], task, base)
        for task in tasks
    ]
    probes = [summarise_probe(base[task.name], tuned[task.name]) for task in tasks if task.info.kind == "probe"]
    return {
        "tasks": rows,
        **_summarise_roles(tasks, [paired_scores]),
        "held_out": _summarise_held_out(tasks, rows),
        "probe": probes[0] if probes else None,
    }


def _summarise_roles(tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, PairedScores]]) -> dict[str, Any]:
    """The parts `gain`, `loss` and `text`, over one or several seeds.

    Args:
        seeds: Of each seed the paired scores by task.
    """
    kept_tasks = tasks_with_role(tasks, "keep")
    return {
        "gain": _summarise_gain(tasks_with_role(tasks, "target"), seeds),
        "loss": _summarise_loss(losing_tasks(kept_tasks), seeds),
        "text": _summarise_text(tasks_in_bits(kept_tasks), seeds),
    }


def _mean_interval(
    tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, PairedScores]], *, relative: bool = False
) -> Interval:
    """Mean difference over tasks of one unit and over seeds."""
    return compute_interval(
        [[replace(paired_scores[task.name], relative=relative) for task in tasks] for paired_scores in seeds]
    )


def _summarise_gain(
    tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, PairedScores]]
) -> dict[str, Any] | None:
    """How much better the target became, in its unit; for a target in bits also in per cent."""
    if not tasks:
        return None
    unit = tasks[0].info.unit
    gain: dict[str, Any] = scale_interval(_mean_interval(tasks, seeds), abs(unit.scale))
    if unit.better_direction == "lower":
        gain["percent"] = 0.0 - 100 * _mean_interval(tasks, seeds, relative=True).value
    return {**gain, "n": sum(len(seeds[0][task.name].ids) for task in tasks), "unit": unit.name}


def _summarise_loss(
    tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, PairedScores]]
) -> dict[str, Any] | None:
    """The mean drop over kept tasks in points, or of agreement with the base on the probe."""
    if not tasks:
        return None
    worst = min(tasks, key=lambda task: sum(paired_scores[task.name].compute_delta() for paired_scores in seeds))
    of, result = (
        "tasks" if tasks[0].info.unit is POINTS else "probe",
        scale_interval(_mean_interval(tasks, seeds), -POINTS.scale),
    )
    if of == "probe" and result["low"] is not None:
        result["low"] = max(0.0, result["low"])  # nothing agrees with the base more than it does itself
    return {**result, "worst": worst.name, "unit": POINTS.name, "of": of}


def bound_loss(runs: Sequence[MeasuredRun], confidence: float) -> float | None:
    """The upper one-sided limit of the loss of one method over its seeds, in points; `None` where there is none.

    Args:
        confidence: With which the loss is no higher.
    """
    runs = _without_unfit({"": runs})[""]
    tasks = losing_tasks(tasks_with_role([task for task in runs[0].tasks if runs[0].base[task.name]], "keep"))
    if not tasks:
        return None
    scores = [[pair_scores(task, run.base[task.name], run.tuned[task.name]) for task in tasks] for run in runs]
    low = compute_interval(scores, level=confidence).low
    return None if low is None else 0.0 - POINTS.scale * low


def _summarise_text(
    tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, PairedScores]]
) -> dict[str, Any] | None:
    """By how many per cent the bits of the kept texts rose, in the mean."""
    if not tasks:
        return None
    result = scale_interval(_mean_interval(tasks, seeds, relative=True), 100.0)
    worst = max(tasks, key=lambda task: sum(replace(m[task.name], relative=True).compute_delta() for m in seeds))
    return {"percent": result["delta"], "low": result["low"], "high": result["high"], "worst": worst.name}


def _summarise_held_out(tasks: Sequence[Task | TaskInfo], rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The loss of the held-out answers before and after; `delta` is tuned minus base."""
    task = find_held_out(tasks)
    row = next((row for row in rows if task is not None and row["name"] == task.name), None)
    return {k: row[k] for k in ("base", "tuned", "delta", "low", "high", "n", "unit", "percent")} if row else None


def _summarise_task(
    task: Task | TaskInfo, both: PairedScores, base: Sequence[ItemResult], tuned: Sequence[ItemResult]
) -> dict[str, Any]:
    """One entry of `tasks`. What a kind of task does not have (flips of a text, length of a choice) is `None`."""
    info, unit = task.info, task.info.unit
    after = {item.id: item for item in tuned}
    flips: dict[str, Any] = {"p": None, "won": None, "lost": None}
    flip_pairs: list[tuple[ItemResult, ItemResult]] = []
    if unit is POINTS:
        flip_pairs = [(b, after[b.id]) for b in base if b.passed != after[b.id].passed]
        wins = sum(t.passed for _, t in flip_pairs)
        flips = {"p": mcnemar_p_value(wins, len(flip_pairs) - wins), "won": wins, "lost": len(flip_pairs) - wins}
    return {
        "name": info.name, "role": info.role, "kind": info.kind, "judge": info.judge or None, "n": len(both.ids),
        "unit": unit.name, "better": unit.better_direction,
        "base": 0.0 + unit.scale * both.compute_figure(both.base),
        "tuned": 0.0 + unit.scale * both.compute_figure(both.tuned),
        **scale_interval(compute_interval([[both]]), unit.scale), **_percent_change(unit, both), **flips,
        "noise": abs(unit.scale) * noise_floor(both),
        **_answer_statistics(info, "base", base), **_answer_statistics(info, "tuned", tuned),
        "flips": _list_flips(flip_pairs),
        "extra": _convert_units(unit, both, base),
        "thoughts": {"base": count_thoughts(base), "tuned": count_thoughts(tuned)},
        **({"answering": answering} if (answering := summarise_traces(tuned)) else {}),
        **({"episodes": {"base": summarise_episodes(base), "tuned": summarise_episodes(tuned)}}
           if info.kind == "episodes" else {}),
    }  # fmt: skip


def _count_left_out(
    base: Sequence[ItemResult], tuned: Sequence[ItemResult], task: Task | TaskInfo, rest: Items
) -> dict[str, Any]:
    """Of a task's questions: those without a whole answer, and how many are left out of the figures of both models."""
    return {
        "unanswered": {"base": count_unanswered(base), "tuned": count_unanswered(tuned)},
        "left_out": len(base) - len(rest[task.name]),
    }


def _percent_change(unit: Unit, both: PairedScores) -> dict[str, float]:
    """The change as a share of the base's figure, where that has a meaning: for units that count from 0 down to 0."""
    return (
        {"percent": 0.0 + 100 * replace(both, relative=True).compute_delta()}
        if unit.better_direction == "lower"
        else {}
    )


def _convert_units(unit: Unit, both: PairedScores, base: Sequence[ItemResult]) -> dict[str, float | None]:
    """The same likelihood in other units: perplexity per token, and bits per byte for what is counted per token."""
    if unit.better_direction == "higher":
        return {}
    result: dict[str, float | None] = {}
    tokens, size = (sum(item.size_per(per) for item in base) for per in ("token", "byte"))  # type: ignore[arg-type]
    for when, scores in (("base", both.base), ("tuned", both.tuned)):
        nats = -float(scores.sum()) / tokens
        result[f"perplexity_{when}"] = float(np.exp(nats)) if nats < MOST_NATS else None
        if unit.per == "token":
            result[f"bits_per_byte_{when}"] = nats * tokens / float(np.log(2)) / size
    return result


def _answer_statistics(info: TaskInfo, when: str, items: Sequence[ItemResult]) -> dict[str, float | None]:
    """Share of answers the model ended by itself (0 to 1), their mean tokens, how many the judge could not read."""
    if info.kind not in ANSWERED:
        return {f"stop_{when}": None, f"length_{when}": None, f"unreadable_{when}": None}
    stop_share, length = (float(np.mean([getattr(i, name) for i in items])) for name in ("stopped", "tokens"))
    unreadable = sum(item.unreadable for item in items)
    return {f"stop_{when}": stop_share, f"length_{when}": length, f"unreadable_{when}": unreadable}


def _list_flips(flip_pairs: Sequence[tuple[ItemResult, ItemResult]]) -> list[dict[str, Any]]:
    """Up to `MOST_FLIPS` changed items, lost ones first but both kinds if there are both."""
    losses, wins = ([pair for pair in flip_pairs if pair[1].passed is kind] for kind in (False, True))
    few = min(len(wins), max(MOST_FLIPS // 2, MOST_FLIPS - len(losses)))
    selection = losses[: MOST_FLIPS - few] + wins[:few]
    return [
        {
            "id": b.id,
            "prompt": b.prompt,
            "reference": b.reference,
            "base": b.response,
            "tuned": t.response,
            "won": t.passed,
            **({"trace": t.extra[TRACE]} if TRACE in t.extra else {}),
        }
        for b, t in selection
    ]


def summarise_comparison(methods: Mapping[str, Sequence[MeasuredRun]]) -> dict[str, Any]:
    """The parts `tasks` and `runs` of compare.json that come from measurements.

    Args:
        methods: Label to its runs, one per seed. Only tasks that every run measured are compared.
    """
    methods = _without_unfit(methods)
    every = [run for runs in methods.values() for run in runs]
    names = [t.name for t in every[0].tasks if all(run.tuned.get(t.name) and run.base.get(t.name) for run in every)]
    tasks = [t.info for t in every[0].tasks if t.name in names]
    runs = [
        {"method": label, **_summarise_method(tasks, seeds), "versus": _compare_with_others(tasks, label, methods)}
        for label, seeds in methods.items()
    ]
    complete_runs = [run for run in runs if run["gain"] and run["loss"]]
    base_point = (0.0, 0.0)  # the base competes too: what gains nothing and loses something is behind it
    _, *front = mark_pareto_front(
        [base_point, *((run["gain"]["delta"], run["loss"]["delta"]) for run in complete_runs)]
    )
    for run in runs:
        run["pareto"] = any(best for other, best in zip(complete_runs, front, strict=True) if other is run)
    return {
        "tasks": [
            {
                "name": t.name,
                "role": t.role,
                "kind": t.kind,
                "unit": t.unit.name,
                "better": t.unit.better_direction,
                "n": len(every[0].base[t.name]),
                "base": compute_score(t, every[0].base[t.name]),
            }
            for t in tasks
        ],
        "runs": runs,
    }


def _without_unfit(methods: Mapping[str, Sequence[MeasuredRun]]) -> dict[str, list[MeasuredRun]]:
    """The runs on the questions that every one of them could be asked."""
    sides = iter(drop_unfit(*(side for runs in methods.values() for run in runs for side in (run.base, run.tuned))))
    return {
        label: [replace(run, base=next(sides), tuned=next(sides)) for run in runs] for label, runs in methods.items()
    }


def _compare_with_others(
    tasks: Sequence[TaskInfo], label: str, methods: Mapping[str, Sequence[MeasuredRun]]
) -> dict[str, Any]:
    """The paired difference of a method from every other, by its label; from those it shares a seed with."""
    mine = {run.seed for run in methods[label]}
    others = {name: runs for name, runs in methods.items() if name != label and mine & {run.seed for run in runs}}
    return {name: compare_methods(tasks, methods[label], runs) for name, runs in others.items()}


def _summarise_method(tasks: Sequence[TaskInfo], seeds: Sequence[MeasuredRun]) -> dict[str, Any]:
    paired_scores = [{t.name: pair_scores(t, run.base[t.name], run.tuned[t.name]) for t in tasks} for run in seeds]
    targets, kept_tasks = tasks_with_role(tasks, "target"), losing_tasks(tasks_with_role(tasks, "keep"))
    means = [compute_role_figures(tasks, run.tuned) for run in seeds]
    return {
        "seeds": [run.seed for run in seeds],
        "points": [
            {"seed": run.seed, "gain": _mean_delta(targets, scores), "loss": _mean_delta(kept_tasks, scores, -1)}
            for run, scores in zip(seeds, paired_scores, strict=True)
        ],
        **_summarise_roles(tasks, paired_scores),
        **{part: _mean_if_complete([mean[part] for mean in means]) for part in ("target", "keep", "held_out")},
        "tasks": {task.name: _summarise_method_task(task, seeds, paired_scores) for task in tasks},
        "probe": _summarise_method_probe(tasks, seeds),
        **({"chosen_gains": share} if (share := measure_chosen_gains(seeds)) else {}),
        **({"seeds_apart": apart} if (apart := measure_disagreement(tasks, seeds)) else {}),
    }


def _summarise_method_probe(tasks: Sequence[TaskInfo], seeds: Sequence[MeasuredRun]) -> dict[str, float] | None:
    """The figures of the probe, means over seeds; the interval of agreement is in `tasks`."""
    name = next((task.name for task in tasks if task.kind == "probe"), None)
    if name is None:
        return None
    parts = [summarise_probe(run.base[name], run.tuned[name]) for run in seeds]
    means = {key: float(np.mean([part[key]["value"] for part in parts])) for key in ("kl", "agreement")}
    rest = ("same_answers", "stop_base", "stop_tuned", "length_base", "length_tuned")
    return means | {key: float(np.mean([part[key] for part in parts])) for key in rest}


def _summarise_method_task(
    task: TaskInfo, seeds: Sequence[MeasuredRun], paired_scores: Sequence[Mapping[str, PairedScores]]
) -> dict[str, Any]:
    before, after = ([compute_score(task, items[task.name]) for items in side] for side in _split_sides(seeds))
    percent = {}
    if task.unit.better_direction == "lower":
        percent["percent"] = 0.0 + 100 * _mean_interval([task], paired_scores, relative=True).value
    return {
        "base": float(np.mean(before)),
        "tuned": float(np.mean(after)),
        **scale_interval(_mean_interval([task], paired_scores), task.unit.scale),
        **percent,
    }


def _mean_delta(
    tasks: Sequence[Task | TaskInfo], paired_scores: Mapping[str, PairedScores], sign: int = 1
) -> float | None:
    """Mean difference over tasks of one unit, in that unit; with sign -1 a loss."""
    deltas = [abs(task.info.unit.scale) * paired_scores[task.name].compute_delta() for task in tasks]
    return 0.0 + sign * float(np.mean(deltas)) if deltas else None


def _mean_if_complete(values: Sequence[float | None]) -> float | None:
    """The mean; `None` when one is missing."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if len(numbers) == len(values) else None


def _split_sides(seeds: Sequence[MeasuredRun]) -> tuple[list[Items], list[Items]]:
    return [run.base for run in seeds], [run.tuned for run in seeds]
