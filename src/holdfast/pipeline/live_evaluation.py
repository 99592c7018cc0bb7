"""What is measured while a model trains: a few questions of every task, and the held-out loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.core.events import StepFinished, StepMeasured
from holdfast.errors import UserError
from holdfast.evaluation.gate import refuse_gate
from holdfast.evaluation.summary import compute_role_figures, find_held_out
from holdfast.evaluation.task import POINTS
from holdfast.evaluation.tasks.held_out import find_pairs_target
from holdfast.pipeline.pair_ranking import build_rater
from holdfast.pipeline.phases import RunContext, measure_tasks
from holdfast.pipeline.subject import build_subject
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.evaluation.task import ItemResult, Task


def build_training_hooks(work: RunContext, before: dict[str, list[ItemResult]]) -> Any:
    """Log every step, show it, and measure the live tasks at the points the recipe asks for."""
    from holdfast.models.loading import move_to_device
    from holdfast.models.placement import give_back_memory, weights_dtype
    from holdfast.models.saving import copy_as_reloaded
    from holdfast.training.callbacks import Hooks

    live = live_tasks(work.recipe, work.tasks)
    base = live_figures(live, before) if before else {}

    def on_step(log: StepFinished) -> None:
        work.ui.emit(log)
        if work.ui.total is None:
            work.ui.start_phase("train", log.steps)
        work.ui.advance(
            log.step - work.ui.done,
            loss=log.loss, **work.live_scores, **round_figures(log.metrics), tokens_per_second=log.tokens_per_second,
            memory_gib=log.memory_gib,
        )  # fmt: skip

    def show_figures(now: dict[str, float | None]) -> None:
        for role, value in now.items():
            name = _live_name(role, live)
            if value is not None and name:
                work.live_scores[name] = (value, value - (base.get(role) or 0.0))

    def on_evaluate(step: int, model: Any, head: Any) -> float | None:
        if not live:
            return None
        give_back_memory(work.base.device)
        saved_dtype, held_dtype = work.base.dtype, weights_dtype(work.base.dtype, work.base.device)
        model = move_to_device(copy_as_reloaded(model, saved_dtype, held_dtype, work.recipe.tuner), work.base.device)
        subject = build_subject(work, model, f"{work.folder.state['recipe']}/step-{step:06d}", work.recipe.tuner)
        subject.rater = build_rater(work, model, head)
        items = measure_tasks(work, f"measure step {step}", live, subject, f"step-{step:06d}")
        now = live_figures(live, items)
        show_figures(now)
        known_figures = {role: value for role, value in now.items() if value is not None}
        work.ui.emit(StepMeasured(step=step, figures=known_figures))
        work.ui.start_phase("train")
        return comparison_loss(live, now)

    if work.recipe.evaluate.every:  # else the base's figure would stand there to the end, as if nothing changed
        show_figures({"held_out": base.get("held_out")})
    return Hooks(on_step=on_step, on_evaluate=on_evaluate, on_note=work.ui.write_line)


def round_figures(metrics: Mapping[str, float]) -> dict[str, str]:
    """What the live line shows of a round of online learning: its mean return, and the share that succeeded."""
    names = {"return": "rollouts/return", "solved": "rollouts/passed"}
    return {name: f"{metrics[key]:.2f}" for name, key in names.items() if key in metrics}


def _live_name(part: str, live: list[Task]) -> str | None:
    """What the live line calls a figure: a target in bits is no score, and held-out answers are shown as such."""
    if part != "target":
        return part
    targets = [task.info for task in live if task.role == "target"]
    if any(info.kind == "held_out" for info in targets):
        return None
    return part if all(info.unit is POINTS for info in targets) else "target_bits"


LEAST_ANSWERS = 64
"""Held-out answers or pairs measured during training at least: they cost forward passes alone, and decide."""


def live_tasks(recipe: Recipe, tasks: list[Task]) -> list[Task]:
    """The few questions of every task that are asked during training, and of the held-out answers rather more."""
    few, beside = recipe.evaluate.live_items, (find_held_out(tasks), find_pairs_target(tasks))
    counts = [max(few, LEAST_ANSWERS) if task in beside else min(few, task.meta.get("live", few)) for task in tasks]
    return [task.limit_rows(count) for task, count in zip(tasks, counts, strict=True) if count]


def comparison_loss(live: list[Task], now: dict[str, float | None]) -> float | None:
    """The loss by which steps are compared: that of the held-out answers, else the target, lower being better.

    Where the target is the order of held-out pairs it is that: losses of pairs make the chosen answer less likely too.
    """
    if now["target"] is None or (now["held_out"] is not None and find_pairs_target(live) is None):
        return now["held_out"]
    target = next(task for task in live if task.role == "target")
    return -now["target"] if target.info.unit.better_direction == "higher" else now["target"]


def refuse_unmeasured(recipe: Recipe, tasks: list[Task]) -> None:
    """Refuse a gate, or a choice among steps, that nothing measured could decide.

    Raises:
        UserError: With what is missing.
    """
    refuse_gate(recipe.evaluate.gate, tasks)
    train, live = recipe.train, live_tasks(recipe, tasks)
    if train.keep == "last" and train.patience is None:
        return
    if not any(task.role == "target" for task in live) and find_held_out(live) is None:
        setting = "train.keep: best" if train.keep == "best" else "train.patience"
        raise UserError(
            f"{setting} compares steps by the held-out answers or the target, and neither is measured during training; "
            "give data.test some rows with answers, or evaluate.live_items more than 0"
        )


def live_figures(live: list[Task], items: dict[str, list[ItemResult]]) -> dict[str, float | None]:
    """Figures on the live questions by part; `items` may hold the answers to more of them."""
    few = {task.name: items[task.name][: len(task.rows)] for task in live if task.name in items}
    return compute_role_figures(live, few)
