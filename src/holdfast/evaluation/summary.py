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
from holdfast.evaluation.results_store import Store
from holdfast.evaluation.statistics.paired import (
    Items,
    Run,
    losing_tasks,
    pairs,
    scaled,
    tasks_in_bits,
    tasks_with_role,
    versus,
)
from holdfast.evaluation.statistics.summary_statistics import Interval, Pairs, interval, mcnemar, noise_floor, pareto
from holdfast.evaluation.task import POINTS, Item, Task, TaskInfo, Unit
from holdfast.evaluation.tasks.probe_summary import probe_part
from holdfast.evaluation.thought_counts import count_thoughts, count_unanswered, drop_unfit, refuse_unasked

MOST_FLIPS = 20
MOST_NATS = 700.0
"""Nats per token above which a perplexity is no floating-point number."""


def read_run(directory: str | Path, seed: int = 0, tuned: str = "final") -> Run:
    """The measurements of a run directory: `eval/base` and `eval/<tuned>`, the tasks that both have.

    Raises:
        UserError: If the run is not finished.
    """
    before, after = (Store(Path(directory) / "eval" / when).load() for when in ("base", tuned))
    both = {name: info for name, (info, _) in after.items() if name in before}
    if not both:
        raise UserError(f"{directory}: no finished evaluation; run `holdfast train` on its recipe again to finish it")
    base, final = ({name: items[name][1] for name in both} for items in (before, after))
    asked_base, asked_final = drop_unfit(base, final)
    return Run(list(both.values()), asked_base, asked_final, seed)


def score(task: Task | TaskInfo, items: Sequence[Item]) -> float:
    """A model's figure on one task, in the task's unit, over the questions it could be asked."""
    unit, whole = task.info.unit, items
    items = drop_unfit({task.name: whole})[0][task.name]
    refuse_unasked(task.name, whole, items)
    return 0.0 + unit.scale * sum(item.score for item in items) / sum(item.size(unit.per) for item in items)


def figures(tasks: Sequence[Task | TaskInfo], items: Items) -> dict[str, float | None]:
    """What the live line and the curves show: `target`, `keep`, `text` and `held_out`.

    The target in its own unit, the mean of the kept tasks in points (for want of them agreement on the probe), the mean
    of those in bits, and bits per token on the held-out answers. `None` when there are no such tasks, or not all of
    them were measured (a run was killed in between).
    """
    (items,) = drop_unfit(items)
    kept = tasks_with_role(tasks, "keep")
    parts = {"target": tasks_with_role(tasks, "target"), "keep": losing_tasks(kept), "text": tasks_in_bits(kept)}
    parts["held_out"] = [found] if (found := held_out_of(tasks)) else []
    return {
        part: float(np.mean([score(task, items[task.name]) for task in some]))
        if some and all(items.get(task.name) for task in some)
        else None
        for part, some in parts.items()
    }


def held_out_of(tasks: Sequence[Task | TaskInfo]) -> Task | TaskInfo | None:
    """The task that measures the held-out answers, beside the target or as the target."""
    found = [t for t in tasks if t.info.kind == "held_out" and t.info.role != "keep"]
    return next((t for t in found if t.info.role == "watch"), found[0] if found else None)


def summarise(tasks: Sequence[Task | TaskInfo], base: Items, tuned: Items) -> dict[str, Any]:
    """The parts `tasks`, `gain`, `loss`, `text`, `held_out` and `probe` of report.json."""
    tasks = [task for task in tasks if base[task.name] or task.info.kind != "probe"]  # too long for the model: no item
    whole = {task.name: (base[task.name], tuned[task.name]) for task in tasks}
    base, tuned = drop_unfit(base, tuned)
    for task in tasks:
        refuse_unasked(task.name, whole[task.name][0], base[task.name])
    matched = {task.name: pairs(task, base[task.name], tuned[task.name]) for task in tasks}
    rows = [
        _task(task, matched[task.name], base[task.name], tuned[task.name]) | _unanswered(*whole[task.name], task, base)
        for task in tasks
    ]
    probes = [probe_part(base[task.name], tuned[task.name]) for task in tasks if task.info.kind == "probe"]
    return {
        "tasks": rows,
        **_parts(tasks, [matched]),
        "held_out": _held_out(tasks, rows),
        "probe": probes[0] if probes else None,
    }


def _parts(tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, Pairs]]) -> dict[str, Any]:
    """The parts `gain`, `loss` and `text`, over one or several seeds.

    Args:
        seeds: Of each seed the paired scores by task.
    """
    kept = tasks_with_role(tasks, "keep")
    return {
        "gain": _gain(tasks_with_role(tasks, "target"), seeds),
        "loss": _loss(losing_tasks(kept), seeds),
        "text": _text(tasks_in_bits(kept), seeds),
    }


def _over(
    tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, Pairs]], *, relative: bool = False
) -> Interval:
    """Mean difference over tasks of one unit and over seeds."""
    return interval([[replace(matched[task.name], relative=relative) for task in tasks] for matched in seeds])


def _gain(tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, Pairs]]) -> dict[str, Any] | None:
    """How much better the target became, in its unit; for a target in bits also in per cent."""
    if not tasks:
        return None
    unit = tasks[0].info.unit
    gain: dict[str, Any] = scaled(_over(tasks, seeds), abs(unit.scale))
    if unit.better == "lower":
        gain["percent"] = 0.0 - 100 * _over(tasks, seeds, relative=True).value
    return {**gain, "n": sum(len(seeds[0][task.name].ids) for task in tasks), "unit": unit.name}


def _loss(tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, Pairs]]) -> dict[str, Any] | None:
    """The mean drop over kept tasks in points, or of agreement with the base on the probe."""
    if not tasks:
        return None
    worst = min(tasks, key=lambda task: sum(matched[task.name].delta() for matched in seeds))
    of, found = "tasks" if tasks[0].info.unit is POINTS else "probe", scaled(_over(tasks, seeds), -POINTS.scale)
    if of == "probe" and found["low"] is not None:
        found["low"] = max(0.0, found["low"])  # nothing agrees with the base more than it does itself
    return {**found, "worst": worst.name, "unit": POINTS.name, "of": of}


def _text(tasks: Sequence[Task | TaskInfo], seeds: Sequence[Mapping[str, Pairs]]) -> dict[str, Any] | None:
    """By how many per cent the bits of the kept texts rose, in the mean."""
    if not tasks:
        return None
    found = scaled(_over(tasks, seeds, relative=True), 100.0)
    worst = max(tasks, key=lambda task: sum(replace(m[task.name], relative=True).delta() for m in seeds))
    return {"percent": found["delta"], "low": found["low"], "high": found["high"], "worst": worst.name}


def _held_out(tasks: Sequence[Task | TaskInfo], rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The loss of the held-out answers before and after; `delta` is tuned minus base."""
    task = held_out_of(tasks)
    row = next((row for row in rows if task is not None and row["name"] == task.name), None)
    return {k: row[k] for k in ("base", "tuned", "delta", "low", "high", "n", "unit", "percent")} if row else None


def _task(task: Task | TaskInfo, both: Pairs, base: Sequence[Item], tuned: Sequence[Item]) -> dict[str, Any]:
    """One entry of `tasks`. What a kind of task does not have (flips of a text, length of a choice) is `None`."""
    info, unit = task.info, task.info.unit
    after = {item.id: item for item in tuned}
    flips: dict[str, Any] = {"p": None, "won": None, "lost": None}
    changed: list[tuple[Item, Item]] = []
    if unit is POINTS:
        changed = [(b, after[b.id]) for b in base if b.passed != after[b.id].passed]
        won = sum(t.passed for _, t in changed)
        flips = {"p": mcnemar(won, len(changed) - won), "won": won, "lost": len(changed) - won}
    return {
        "name": info.name, "role": info.role, "kind": info.kind, "judge": info.judge or None, "n": len(both.ids),
        "unit": unit.name, "better": unit.better,
        "base": 0.0 + unit.scale * both.figure(both.base), "tuned": 0.0 + unit.scale * both.figure(both.tuned),
        **scaled(interval([[both]]), unit.scale), **_percent(unit, both), **flips,
        "noise": abs(unit.scale) * noise_floor(both),
        **_manner(info, "base", base), **_manner(info, "tuned", tuned), "flips": _flips(changed),
        "extra": _extra(unit, both, base), "thoughts": {"base": count_thoughts(base), "tuned": count_thoughts(tuned)},
    }  # fmt: skip


def _unanswered(base: Sequence[Item], tuned: Sequence[Item], task: Task | TaskInfo, kept: Items) -> dict[str, Any]:
    """Of a task's questions: those without a whole answer, and how many are left out of the figures of both models."""
    return {
        "unanswered": {"base": count_unanswered(base), "tuned": count_unanswered(tuned)},
        "left_out": len(base) - len(kept[task.name]),
    }


def _percent(unit: Unit, both: Pairs) -> dict[str, float]:
    """The change as a share of the base's figure, where that has a meaning: for units that count from 0 down to 0."""
    return {"percent": 0.0 + 100 * replace(both, relative=True).delta()} if unit.better == "lower" else {}


def _extra(unit: Unit, both: Pairs, base: Sequence[Item]) -> dict[str, float | None]:
    """The same likelihood in other units: perplexity per token, and bits per byte for what is counted per token."""
    if unit.better == "higher":
        return {}
    found: dict[str, float | None] = {}
    tokens, size = (sum(item.size(per) for item in base) for per in ("token", "byte"))  # type: ignore[arg-type]
    for when, scores in (("base", both.base), ("tuned", both.tuned)):
        nats = -float(scores.sum()) / tokens
        found[f"perplexity_{when}"] = float(np.exp(nats)) if nats < MOST_NATS else None
        if unit.per == "token":
            found[f"bits_per_byte_{when}"] = nats * tokens / float(np.log(2)) / size
    return found


def _manner(info: TaskInfo, when: str, items: Sequence[Item]) -> dict[str, float | None]:
    """Share of answers the model ended by itself (0 to 1), their mean tokens, how many the judge could not read."""
    if info.kind != "generate":
        return {f"stop_{when}": None, f"length_{when}": None, f"unreadable_{when}": None}
    stopped, length = (float(np.mean([getattr(i, name) for i in items])) for name in ("stopped", "tokens"))
    unreadable = sum(item.unreadable for item in items)
    return {f"stop_{when}": stopped, f"length_{when}": length, f"unreadable_{when}": unreadable}


def _flips(changed: Sequence[tuple[Item, Item]]) -> list[dict[str, Any]]:
    """Up to `MOST_FLIPS` changed items, lost ones first but both kinds if there are both."""
    lost, won = ([pair for pair in changed if pair[1].passed is kind] for kind in (False, True))
    few = min(len(won), max(MOST_FLIPS // 2, MOST_FLIPS - len(lost)))
    shown = lost[: MOST_FLIPS - few] + won[:few]
    return [
        {
            "id": b.id,
            "prompt": b.prompt,
            "reference": b.reference,
            "base": b.response,
            "tuned": t.response,
            "won": t.passed,
        }
        for b, t in shown
    ]


def compare_summary(methods: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """The parts `tasks` and `runs` of compare.json that come from measurements.

    Args:
        methods: Label to its runs, one per seed. Only tasks that every run measured are compared.
    """
    methods = _without_unfit(methods)
    every = [run for runs in methods.values() for run in runs]
    names = [t.name for t in every[0].tasks if all(run.tuned.get(t.name) and run.base.get(t.name) for run in every)]
    tasks = [t.info for t in every[0].tasks if t.name in names]
    runs = [
        {"method": label, **_compared(tasks, seeds), "versus": _versus(tasks, label, methods)}
        for label, seeds in methods.items()
    ]
    known = [run for run in runs if run["gain"] and run["loss"]]
    untouched = (0.0, 0.0)  # the base competes too: what gains nothing and loses something is behind it
    _, *front = pareto([untouched, *((run["gain"]["delta"], run["loss"]["delta"]) for run in known)])
    for run in runs:
        run["pareto"] = any(best for other, best in zip(known, front, strict=True) if other is run)
    return {
        "tasks": [
            {
                "name": t.name,
                "role": t.role,
                "kind": t.kind,
                "unit": t.unit.name,
                "better": t.unit.better,
                "n": len(every[0].base[t.name]),
                "base": score(t, every[0].base[t.name]),
            }
            for t in tasks
        ],
        "runs": runs,
    }


def _without_unfit(methods: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """The runs on the questions that every one of them could be asked."""
    sides = iter(drop_unfit(*(side for runs in methods.values() for run in runs for side in (run.base, run.tuned))))
    return {
        label: [replace(run, base=next(sides), tuned=next(sides)) for run in runs] for label, runs in methods.items()
    }


def _versus(tasks: Sequence[TaskInfo], label: str, methods: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """The paired difference of a method from every other, by its label; from those it shares a seed with."""
    mine = {run.seed for run in methods[label]}
    others = {name: runs for name, runs in methods.items() if name != label and mine & {run.seed for run in runs}}
    return {name: versus(tasks, methods[label], runs) for name, runs in others.items()}


def _compared(tasks: Sequence[TaskInfo], seeds: Sequence[Run]) -> dict[str, Any]:
    matched = [{t.name: pairs(t, run.base[t.name], run.tuned[t.name]) for t in tasks} for run in seeds]
    targets, kept = tasks_with_role(tasks, "target"), losing_tasks(tasks_with_role(tasks, "keep"))
    means = [figures(tasks, run.tuned) for run in seeds]
    return {
        "seeds": [run.seed for run in seeds],
        "points": [
            {"seed": run.seed, "gain": _mean_delta(targets, found), "loss": _mean_delta(kept, found, -1)}
            for run, found in zip(seeds, matched, strict=True)
        ],
        **_parts(tasks, matched),
        **{part: _mean([found[part] for found in means]) for part in ("target", "keep", "held_out")},
        "tasks": {task.name: _compared_task(task, seeds, matched) for task in tasks},
        "probe": _compared_probe(tasks, seeds),
    }


def _compared_probe(tasks: Sequence[TaskInfo], seeds: Sequence[Run]) -> dict[str, float] | None:
    """The figures of the probe, means over seeds; the interval of agreement is in `tasks`."""
    name = next((task.name for task in tasks if task.kind == "probe"), None)
    if name is None:
        return None
    parts = [probe_part(run.base[name], run.tuned[name]) for run in seeds]
    means = {key: float(np.mean([part[key]["value"] for part in parts])) for key in ("kl", "agreement")}
    rest = ("same_answers", "stop_base", "stop_tuned", "length_base", "length_tuned")
    return means | {key: float(np.mean([part[key] for part in parts])) for key in rest}


def _compared_task(task: TaskInfo, seeds: Sequence[Run], matched: Sequence[Mapping[str, Pairs]]) -> dict[str, Any]:
    before, after = ([score(task, items[task.name]) for items in side] for side in _sides(seeds))
    percent = {}
    if task.unit.better == "lower":
        percent["percent"] = 0.0 + 100 * _over([task], matched, relative=True).value
    return {
        "base": float(np.mean(before)),
        "tuned": float(np.mean(after)),
        **scaled(_over([task], matched), task.unit.scale),
        **percent,
    }


def _mean_delta(tasks: Sequence[Task | TaskInfo], matched: Mapping[str, Pairs], sign: int = 1) -> float | None:
    """Mean difference over tasks of one unit, in that unit; with sign -1 a loss."""
    deltas = [abs(task.info.unit.scale) * matched[task.name].delta() for task in tasks]
    return 0.0 + sign * float(np.mean(deltas)) if deltas else None


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; `None` when one is missing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _sides(seeds: Sequence[Run]) -> tuple[list[Items], list[Items]]:
    return [run.base for run in seeds], [run.tuned for run in seeds]
