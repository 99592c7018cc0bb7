"""What a run will cost, from a few measured forward passes: time to train, sample and measure, and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from holdfast.core.line_workers import THREADS, list_cards, share_machine
from holdfast.evaluation.method_reach import SAMPLED
from holdfast.generation.factory import is_remote
from holdfast.models.loading import context_length
from holdfast.models.placement import wait_for
from holdfast.models.quantized_base import count_quantizable
from holdfast.pipeline.compute_estimate import TargetDevice, estimate_compute
from holdfast.pipeline.live_evaluation import live_tasks
from holdfast.training.apply_tuner import apply_tuner, freeze_vision
from holdfast.training.memory_estimate import count_program_bytes, sketch_optimizer_states
from holdfast.training.plan import boundary_steps

if TYPE_CHECKING:
    from holdfast.data.batching.batches import TokenTable
    from holdfast.evaluation.task import Task
    from holdfast.models.loading import Model
    from holdfast.recipe.schema import Recipe
    from holdfast.training.plan import TrainingPlan

PASSES = 3
"""A training step costs about three forward passes."""
CHARACTERS = 3
"""Of a token, at least, in most texts: how the questions of tasks are counted without tokenising them."""
MEASUREMENTS = 2
"""The base and the tuned model."""
WIDEST = 32
"""Sequences of the decoding step that is measured; a wider one costs more than it would add."""


def estimate_costs(
    recipe: Recipe,
    model: Model,
    table: TokenTable,
    plan: TrainingPlan,
    tasks: Sequence[Task],
    rows: int,
    thinks: bool = False,
    device_gib: float | None = None,
) -> dict[str, Any]:
    """Steps of the plan, time and memory.

    Args:
        model: The base on its device; the tuner is applied to it.
        rows: Before curation.
        thinks: Whether the model may think before its answers.
        device_gib: Plan for a GPU with this much memory instead of the device that is here.
    Returns:
        `plan`, and `estimate` with `seconds` of training and the most `sampling_seconds` and `measuring_seconds`, every
        answer as long as its limit allows (`None` where nothing is sampled in this process; measuring is that of base
        and tuned model and what is asked during training), `memory_gib`, and what that is made of, `memory_parts`. Of a
        device that is not here no seconds are known.
    """
    train, device = recipe.train, model.device
    width = min(recipe.sampling.slots, WIDEST)
    step_ids = torch.zeros(width, 1, dtype=torch.long, device=device)
    per_step = _time_fastest_pass(model, step_ids)
    pooled_step = _share_step(recipe, model, step_ids, per_step) if recipe.curate else per_step
    program = count_program_bytes(model, device)
    target = TargetDevice.from_model(model) if device_gib is None else TargetDevice.from_gib(device_gib)
    n_quantized = count_quantizable(model) if recipe.tuner.frozen_bits() else 0
    tuned = apply_tuner(recipe, model, train.init_seed)
    apply_last_draw(recipe, tuned, plan.steps)
    trainable = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    total = sum(p.numel() for p in tuned.parameters())
    per_token = _seconds_per_token(tuned, train.micro_tokens or plan.size.tokens)
    program = program if target.is_here else 0
    compute = estimate_compute(recipe, tuned, table, plan.size.tokens, target, n_quantized, program)
    tokens = plan.size.row_tokens * plan.size.rows * plan.steps
    draws = sum(curator.count_samples(rows) for curator in recipe.curate)
    turns, here = count_rollout_turns(recipe), not is_remote(recipe.sampling.engine)
    answers, read_tokens = count_task_tokens(list_measurements(recipe, tasks, plan.steps), thinks)
    longest = recipe.sampling.max_tokens + (recipe.sampling.max_thinking_tokens if thinks else 0)
    return {
        "plan": {
            "steps": plan.steps, "batch_tokens": plan.size.tokens, "batch": plan.breakdown,
            "learning_rate": plan.learning_rate, "epochs": plan.epochs or None,
            "trainable": trainable, "parameters": total, **compute.plan_entries(),
        },
        "estimate": {
            "seconds": PASSES * tokens * per_token if target.is_here else None,
            "sampling_seconds": longest * (draws * pooled_step + turns * per_step) / width
            if draws + turns and here and target.is_here else None,
            "measuring_seconds": answers * per_step / width + read_tokens * per_token
            if tasks and target.is_here else None,
            **compute.memory_entries(),
        },
    }  # fmt: skip


def count_rollout_turns(recipe: Recipe) -> int:
    """Answers that online learning draws, if every episode is as long as may be."""
    turns = recipe.environment.turns if recipe.environment is not None else 1
    return recipe.online.rounds * recipe.online.prompts * recipe.online.n * turns if recipe.credit is not None else 0


def list_measurements(recipe: Recipe, tasks: Sequence[Task], steps: int) -> list[Task]:
    """The tasks as often as they are measured in a run of so many steps: base, tuned model, and during training."""
    during = len(boundary_steps(recipe.evaluate.every, steps) - {steps})
    return [*tasks] * MEASUREMENTS + [*live_tasks(recipe, [*tasks])] * during


def apply_last_draw(recipe: Recipe, tuned: Model, steps: int) -> None:
    """Let train what does in the last step: what trains at a time is what memory is for.

    Raises:
        UserError: If the optimizer cannot move what trains in the first.
    """
    first, last = (recipe.tuner.draw_number(step, steps, 0) for step in (0, steps - 1))
    if first is not None and first != last:
        recipe.tuner.apply_draw(tuned, recipe.train.init_seed, first)
        freeze_vision(recipe, tuned)
        moving = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
        sketch_optimizer_states(recipe.optimizer, {n: torch.nn.Parameter(p.to("meta")) for n, p in moving.items()})
    if last is not None:
        recipe.tuner.apply_draw(tuned, recipe.train.init_seed, last)
        freeze_vision(recipe, tuned)


def count_task_tokens(tasks: Sequence[Task], thinks: bool, characters: float = CHARACTERS) -> tuple[float, float]:
    """Tokens that measuring may sample, and about how many it reads at least.

    Args:
        characters: Of a token that is read.
    """
    sampled_tasks = [task for task in tasks if task.kind in SAMPLED]
    answer_tokens = sum(
        len(t.rows)
        * (t.environment.turns if t.environment else 1)
        * (t.max_tokens + (t.max_thinking_tokens or 0 if thinks else 0))
        for t in sampled_tasks
    )
    characters_read = 0
    for task in tasks:
        for row in task.rows:
            prompt_characters = sum(len(str(message["content"])) for message in row.messages)
            choices = row.meta.get("choices") or () if task.kind == "choice" else ()
            characters_read += max(1, len(choices)) * prompt_characters + sum(map(len, choices))
    return answer_tokens, characters_read / characters


def _share_step(recipe: Recipe, model: Model, ids: torch.Tensor, alone: float) -> float:
    """Seconds of a decoding step over the workers that take steps at the same time, where curators sample.

    Several cards are shared out, and the cores of a CPU, of which each worker has some: how fast it is on these is
    measured. More workers than that take turns.

    Args:
        alone: Seconds of a step over ids [rows, 1] in this process.
    """
    count, device = recipe.sampling.workers, model.device
    if count == 1 or is_remote(recipe.sampling.engine):
        return alone
    if device.type != "cpu":
        has_several = device.type == "cuda" and recipe.device in ("auto", "cuda")
        return alone / max(1, min(count, len(list_cards()) if has_several else 1))
    cores, before = os.cpu_count() or 1, torch.get_num_threads()
    threads = int(share_machine(0, count, cores, ())[THREADS])
    torch.set_num_threads(threads)
    try:
        step = _time_fastest_pass(model, ids)
    finally:
        torch.set_num_threads(before)
    return step / min(count, max(1, cores // threads))


def _seconds_per_token(model: Any, micro: int) -> float:
    """Of one forward pass, measured on a small batch after a warm-up."""
    length = min(128, context_length(model.config) or 128)
    ids = torch.zeros(max(1, min(micro, 2048) // length), length, dtype=torch.long, device=model.device)
    return _time_fastest_pass(model.base_model, ids) / ids.numel()


def _time_fastest_pass(forward: Any, ids: torch.Tensor) -> float:
    """Seconds of the fastest of three forward passes over ids [rows, length]; the first is a warm-up."""
    took = []
    with torch.no_grad():
        for _ in range(3):
            began = time.perf_counter()
            forward(input_ids=ids)
            wait_for(ids.device)
            took.append(time.perf_counter() - began)
    return min(took)
