"""What a run will cost, from a few measured forward passes: time to train, sample and measure, and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from holdfast.models.loading import context_length
from holdfast.models.placement import GIB, autocast_dtype, count_weight_bytes, peak_gib, wait_for
from holdfast.models.policy import Policy
from holdfast.pipeline.live_evaluation import live_tasks
from holdfast.training.layout import choose_layout, describe_attention, share_pair_prompts
from holdfast.training.memory import activation_bytes, first_micro_tokens
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
) -> dict[str, Any]:
    """Steps of the plan, time and memory.

    Args:
        model: The base on its device; the tuner is applied to it.
        rows: Before curation.
        thinks: Whether the model may think before its answers.
    Returns:
        `plan`, and `estimate` with `seconds` of training and the most `sampling_seconds` and `measuring_seconds`, every
        answer as long as its limit allows (`None` where nothing is sampled in this process; measuring is that of base
        and tuned model and what is asked during training), and `memory_gib`.
    """
    train, device = recipe.train, model.device
    width = min(recipe.sampling.slots, WIDEST)
    per_step = _time_fastest_pass(model, torch.zeros(width, 1, dtype=torch.long, device=device))
    own = peak_gib(device) * GIB - count_weight_bytes(model) if device.type == "cpu" else 0.0
    tuned = recipe.tuner.apply(model, train.seed)
    draw = recipe.tuner.draw_number(plan.steps - 1, plan.steps, 0)
    if draw is not None:  # what trains at a time is what memory is for
        recipe.tuner.apply_draw(tuned, train.seed, draw)
    trainable = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    total = sum(p.numel() for p in tuned.parameters())
    micro = train.micro_tokens or first_micro_tokens(model, device, plan.size.tokens, train.gradient_checkpointing)
    per_token = _seconds_per_token(tuned, micro)
    tokens = plan.size.row_tokens * plan.size.rows * plan.steps
    states = 2 if recipe.optimizer.in_backward else 4
    weights = sum(p.numel() * (4 if p.requires_grad else p.element_size()) for p in tuned.parameters())
    resident_bytes = (
        weights + 4 * (states - 1) * trainable + micro * activation_bytes(model, train.gradient_checkpointing)
    )
    draws = sum(curator.count_samples(rows) for curator in recipe.curate)
    here = not recipe.sampling.engine.startswith("http")
    during = len(boundary_steps(recipe.evaluate.every, plan.steps) - {plan.steps})
    measured_tasks = [*tasks] * MEASUREMENTS + [*live_tasks(recipe, [*tasks])] * during
    answers, read_tokens = _count_tokens(measured_tasks, thinks)
    longest = recipe.sampling.max_tokens + (recipe.sampling.max_thinking_tokens if thinks else 0)
    return {
        "plan": {
            "steps": plan.steps, "batch_tokens": plan.size.tokens, "batch": plan.size.breakdown, "micro_tokens": micro,
            "learning_rate": plan.learning_rate, "epochs": plan.epochs or None,
            "trainable": trainable, "parameters": total, "attention": _describe_attention(recipe, tuned, table),
        },
        "estimate": {
            "seconds": PASSES * tokens * per_token,
            "sampling_seconds": draws * longest * per_step / width if draws and here else None,
            "measuring_seconds": answers * per_step / width + read_tokens * per_token if tasks else None,
            "memory_gib": (resident_bytes + max(0.0, own)) / GIB,
        },
    }  # fmt: skip


def _describe_attention(recipe: Recipe, tuned: Model, table: TokenTable) -> str:
    """Attention and layout of the training, by the trials that it begins with; `tuned` is of no use afterwards."""
    autocast = autocast_dtype(recipe.train.precision, tuned.device, recipe.train.weights)
    if autocast is None:
        tuned.float()  # as training does then: there is no varlen attention in fp32
    policy = Policy(tuned, autocast=autocast)
    layout = choose_layout(recipe.train.layout, policy, table.per_row, tuned.device)
    return describe_attention(policy, layout, share_pair_prompts(table, policy, layout, recipe.objective))


def _count_tokens(tasks: Sequence[Task], thinks: bool) -> tuple[float, float]:
    """Tokens that measuring may sample, and about how many it reads at least."""
    sampled_tasks = [task for task in tasks if task.kind in ("generate", "probe")]
    answer_tokens = sum(
        len(t.rows) * (t.max_tokens + (t.max_thinking_tokens or 0 if thinks else 0)) for t in sampled_tasks
    )
    characters_read = 0
    for task in tasks:
        for row in task.rows:
            prompt_characters = sum(len(str(message["content"])) for message in row.messages)
            choices = row.meta.get("choices") or () if task.kind == "choice" else ()
            characters_read += max(1, len(choices)) * prompt_characters + sum(map(len, choices))
    return answer_tokens, characters_read / CHARACTERS


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
