"""From measured items to what reports show: figures in points (0 to 100), intervals, flips, the gate, comparisons.

Differences are tuned minus base; a *loss* is base minus tuned, so that a positive loss was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from holdfast.errors import RunError, UserError
from holdfast.evaluation.base import Item, Task, TaskInfo
from holdfast.evaluation.statistics import Interval, Pairs, interval, mcnemar, noise_floor, pareto
from holdfast.evaluation.store import Store

MOST_FLIPS = 20
Items = Mapping[str, Sequence[Item]]
"""Measured items by task name."""


class Gate(Protocol):
    """When a result is refused (`recipe.Gate`)."""

    @property
    def max_loss(self) -> float | None: ...
    @property
    def min_gain(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a comparison: its tasks, the items before and after, its seed."""

    tasks: Sequence[Task | TaskInfo]
    base: Items
    tuned: Items
    seed: int = 0


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
    return Run(list(both.values()), base, final, seed)


def pairs(task: Task | TaskInfo, base: Sequence[Item], tuned: Sequence[Item]) -> Pairs:
    """The paired scores of a task, matched by question.

    Text is counted in the base's tokens on both sides, so that models with different tokenizers compare on one text.

    Raises:
        RunError: If the two did not answer the same questions.
    """
    after = {item.id: item for item in tuned}
    if not base or len(base) != len(tuned) or any(item.id not in after for item in base):
        raise RunError(f"{task.name}: base and tuned model were not measured on the same questions")
    return Pairs(
        ids=tuple(item.id for item in base),
        base=np.array([item.score for item in base]),
        tuned=np.array([after[item.id].score for item in base]),
        tokens=np.array([item.tokens for item in base], dtype=float) if task.info.kind == "perplexity" else None,
    )


def score(kind: str, items: Sequence[Item]) -> float:
    """A model's figure on one task in points: the mean score, or the geometric mean probability of a token."""
    scores = np.array([item.score for item in items])
    if kind == "perplexity":
        return 100 * float(np.exp(scores.sum() / sum(item.tokens for item in items)))
    return 100 * float(scores.mean())


def mean_score(tasks: Sequence[Task | TaskInfo], items: Items, role: str) -> float | None:
    """Mean figure in points over the tasks of a role, for the live line and the curves.

    `None` when there are no such tasks, or not all of them were measured (a run was killed in between).
    """
    names = _with_role(tasks, role)
    if not names or any(name not in items for name in names):
        return None
    return float(np.mean([score(t.info.kind, items[t.name]) for t in tasks if t.name in names]))


def summarise(tasks: Sequence[Task | TaskInfo], base: Items, tuned: Items) -> dict[str, Any]:
    """The parts `tasks`, `gain` and `loss` of report.json."""
    matched = {task.name: pairs(task, base[task.name], tuned[task.name]) for task in tasks}
    targets, kept = (_with_role(tasks, role) for role in ("target", "keep"))
    rows = [_task(task, matched[task.name], base[task.name], tuned[task.name]) for task in tasks]
    gain = _points(interval([[matched[name] for name in targets]])) if targets else None
    loss = _lost(interval([[matched[name] for name in kept]])) if kept else None
    return {
        "tasks": rows,
        "gain": {**gain, "n": sum(len(matched[name].ids) for name in targets)} if gain else None,
        "loss": {**loss, "worst": min(kept, key=lambda name: matched[name].delta())} if loss else None,
    }


def _with_role(tasks: Sequence[Task | TaskInfo], role: str) -> list[str]:
    return [task.name for task in tasks if task.info.role == role]


def _points(found: Interval) -> dict[str, float]:
    return {"delta": 100 * found.value, "low": 100 * found.low, "high": 100 * found.high}


def _lost(found: Interval) -> dict[str, float]:
    # 0.0 - x and not -x: nothing lost is 0, not -0.
    return {"delta": 0.0 - 100 * found.value, "low": 0.0 - 100 * found.high, "high": 0.0 - 100 * found.low}


def _task(task: Task | TaskInfo, both: Pairs, base: Sequence[Item], tuned: Sequence[Item]) -> dict[str, Any]:
    """One entry of `tasks`. What a kind of task does not have (flips of a text, length of a choice) is `None`."""
    info = task.info
    after = {item.id: item for item in tuned}
    changed = [(b, after[b.id]) for b in base if b.passed != after[b.id].passed] if info.kind != "perplexity" else []
    won = sum(t.passed for _, t in changed)
    flips: dict[str, Any] = {"p": None, "won": None, "lost": None}
    if info.kind != "perplexity":
        flips = {"p": mcnemar(won, len(changed) - won), "won": won, "lost": len(changed) - won}
    extra = {}
    if both.tokens is not None:
        extra = {
            "perplexity_base": _inverse(both.figure(both.base)),
            "perplexity_tuned": _inverse(both.figure(both.tuned)),
        }
    return {
        "name": info.name, "role": info.role, "kind": info.kind, "judge": info.judge or None, "n": len(both.ids),
        "base": 100 * both.figure(both.base), "tuned": 100 * both.figure(both.tuned),
        **_points(interval([[both]])), **flips, "noise": 100 * noise_floor(both),
        **_manner(info, "base", base), **_manner(info, "tuned", tuned), "flips": _flips(changed), "extra": extra,
    }  # fmt: skip


def _inverse(figure: float) -> float | None:
    return 1 / figure if figure > 0 else None


def _manner(info: TaskInfo, when: str, items: Sequence[Item]) -> dict[str, float | None]:
    """Share of answers the model ended by itself (0 to 1) and their mean length in tokens."""
    if info.kind != "generate":
        return {f"stop_{when}": None, f"length_{when}": None}
    stopped, length = (float(np.mean([getattr(i, name) for i in items])) for name in ("stopped", "tokens"))
    return {f"stop_{when}": stopped, f"length_{when}": length}


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


def gate(limits: Gate, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part `gate` of report.json: whether the result passes `evaluate.gate`, and why not; `None` without limits.

    The limits are held against the measured figures; the intervals are given with the reasons.
    """
    if limits.max_loss is None and limits.min_gain is None:
        return None
    reasons = []
    gain, loss = summary["gain"], summary["loss"]
    if limits.max_loss is not None:
        if loss is None:
            reasons.append(f"max_loss is {limits.max_loss:g}, but evaluate.keep names nothing to measure")
        elif not loss["delta"] <= limits.max_loss:  # so that NaN does not pass
            reasons.append(
                f"lost {_said(loss)} on the kept tasks (worst: {loss['worst']}); max_loss is {limits.max_loss:g}"
            )
    if limits.min_gain is not None:
        if gain is None:
            reasons.append(f"min_gain is {limits.min_gain:g}, but evaluate.target is none")
        elif not gain["delta"] >= limits.min_gain:
            reasons.append(f"gained {_said(gain)} on the target; min_gain is {limits.min_gain:g}")
    return {"passed": not reasons, "reasons": reasons}


def _said(part: Mapping[str, float]) -> str:
    return f"{part['delta']:.2f} points (95 %: {part['low']:.2f} to {part['high']:.2f})"


def compare_summary(methods: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """The parts `tasks` and `runs` of compare.json that come from measurements.

    Args:
        methods: Label to its runs, one per seed. Only tasks that every run measured are compared.
    """
    every = [run for runs in methods.values() for run in runs]
    names = [t.name for t in every[0].tasks if all(t.name in run.tuned and t.name in run.base for run in every)]
    tasks = [t.info for t in every[0].tasks if t.name in names]
    runs = [{"method": label, **_compared(tasks, seeds)} for label, seeds in methods.items()]
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
                "n": len(every[0].base[t.name]),
                "base": score(t.kind, every[0].base[t.name]),
            }
            for t in tasks
        ],
        "runs": runs,
    }


def _compared(tasks: Sequence[TaskInfo], seeds: Sequence[Run]) -> dict[str, Any]:
    matched = [{t.name: pairs(t, run.base[t.name], run.tuned[t.name]) for t in tasks} for run in seeds]

    def over(names: Sequence[str]) -> Interval:
        return interval([[found[name] for name in names] for found in matched])

    targets, kept = _with_role(tasks, "target"), _with_role(tasks, "keep")
    means = {role: _mean([mean_score(tasks, run.tuned, role) for run in seeds]) for role in ("target", "keep")}
    per_task = {}
    for task in tasks:
        before, after = ([score(task.kind, items[task.name]) for items in side] for side in _sides(seeds))
        per_task[task.name] = {
            "base": float(np.mean(before)),
            "tuned": float(np.mean(after)),
            **_points(over([task.name])),
        }
    points = [
        {"seed": run.seed, "gain": _mean_delta(found, tasks, "target"), "loss": _mean_delta(found, tasks, "keep", -1)}
        for run, found in zip(seeds, matched, strict=True)
    ]
    return {
        "seeds": [run.seed for run in seeds], "points": points,
        "gain": _points(over(targets)) if targets else None, "loss": _lost(over(kept)) if kept else None,
        **means, "tasks": per_task,
    }  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; `None` when one is missing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _mean_delta(found: Mapping[str, Pairs], tasks: Sequence[TaskInfo], role: str, sign: int = 1) -> float | None:
    """Mean difference in points over the tasks of a role; with sign -1 a loss."""
    deltas = [found[name].delta() for name in _with_role(tasks, role)]
    return 0.0 + sign * 100 * float(np.mean(deltas)) if deltas else None


def _sides(seeds: Sequence[Run]) -> tuple[list[Items], list[Items]]:
    return [run.base for run in seeds], [run.tuned for run in seeds]
