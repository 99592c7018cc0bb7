"""How a training would be computed and what memory it would take, on this device or one that is not here: tried on a
few tokens, and counted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from holdfast.core.progress import ignore_call
from holdfast.errors import UserError
from holdfast.models.attention_choice import find_attention_obstacle
from holdfast.models.compiled_layers import CompiledLayers, wants_compiled
from holdfast.models.lm_head import choose_chunk_rows
from holdfast.models.placement import (
    GIB,
    autocast_dtype,
    count_weight_bytes,
    free_bytes,
    is_out_of_memory,
    memory_bytes,
)
from holdfast.models.policy import Policy
from holdfast.training import compute_plan
from holdfast.training.layout import choose_layout, describe_attention, share_pair_prompts
from holdfast.training.memory import count_fitting_tokens, first_micro_tokens
from holdfast.training.memory_estimate import (
    HeldWeights,
    MemoryEstimate,
    activation_bytes,
    count_draft_bytes,
    count_gradient_bytes,
    count_head_bytes,
    measure_saved_bytes,
    sketch_optimizer_states,
    sum_bytes,
)
from holdfast.training.weight_types import choose_weight_dtypes

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Layout, TokenTable
    from holdfast.models.loading import Model
    from holdfast.recipe.schema import Recipe

CONTEXT_BYTES = GIB // 2
"""What the driver takes of a GPU before anything is computed on it."""


@dataclass(frozen=True, slots=True)
class TargetDevice:
    """Where a training shall run.

    Args:
        device: It; of one that is not here its type alone counts.
        total, free: Bytes, and those that are free without the model; `None` where nobody says.
        is_here: Whether it can be tried.
    """

    device: torch.device
    total: int | None
    free: int | None
    is_here: bool = True

    @classmethod
    def from_model(cls, model: Model) -> TargetDevice:
        """The device that a model is on."""
        free = free_bytes(model.device)
        return cls(model.device, memory_bytes(model.device), None if free is None else free + count_weight_bytes(model))

    @classmethod
    def from_gib(cls, gib: float) -> TargetDevice:
        """A CUDA GPU that is not here, with so much memory.

        Raises:
            UserError: If that is nothing.
        """
        if not gib > 0:
            raise UserError(f"--device-memory must be the GiB of a GPU, such as 80, not {gib:g}")
        total = int(gib * GIB)
        return cls(torch.device("cuda"), total, max(0, total - CONTEXT_BYTES), False)


@dataclass(frozen=True, slots=True)
class ComputeEstimate:
    """How a training would be computed.

    Args:
        plan: In lines.
        layout: "padded" or "packed".
        micro_tokens, head_rows: Sizes of a micro-batch, and of a chunk of the head.
        memory: At the peak.
    """

    plan: compute_plan.ComputePlan
    layout: Layout
    micro_tokens: int
    head_rows: int
    memory: MemoryEstimate

    def plan_entries(self) -> dict[str, Any]:
        """What `holdfast check` gives of it: sizes as numbers, the rest in words."""
        lines = self.plan.label_lines()
        words = {re.sub("[ -]", "_", key): text for key, text in lines.items() if key != "memory"}
        return words | {"layout": self.layout, "micro_tokens": self.micro_tokens, "head_rows": self.head_rows}

    def memory_entries(self) -> dict[str, Any]:
        """The estimate in words, and in GiB."""
        parts = {name.replace(" ", "_"): size / GIB for name, size in self.memory.list_parts()}
        return {"memory": self.plan.memory, "memory_gib": self.memory.total / GIB, "memory_parts": parts}


def estimate_compute(
    recipe: Recipe,
    tuned: Model,
    table: TokenTable,
    step_tokens: int,
    target: TargetDevice,
    n_quantized: int = 0,
    program: int = 0,
) -> ComputeEstimate:
    """Plan how a model trains on a device.

    Args:
        tuned: With its tuner, on this machine's device; it is of no use afterwards.
        step_tokens: Tokens of a step.
        n_quantized: Weights of the base that will be in few bits.
        program: Bytes that the process holds beside it.
    """
    train, optimizer, tuner = recipe.train, recipe.optimizer, recipe.tuner
    autocast = _choose_autocast(recipe, target)
    bits, apart = tuner.frozen_bits(), tuner.adapter_parameters(tuned)
    dtypes = choose_weight_dtypes(tuned, autocast, train.weights, optimizer.in_backward, apart, bits is not None)
    held_weights = HeldWeights(tuned, dtypes, autocast, n_quantized, bits)
    parameters, weight_bytes = held_weights.trained_parameters(), held_weights.count_bytes()
    states = sketch_optimizer_states(optimizer, parameters)
    precision = compute_plan.describe_precision(held_weights, states)
    policy, layout, attention = _try_attention(recipe, tuned, table, autocast, target)
    policy.chunk_rows = choose_chunk_rows(target.device, policy.config.get_text_config().vocab_size, target.total)
    everything = _measure_in_types(policy, dtypes)
    per_token = activation_bytes(policy.causal, train.gradient_checkpointing, everything)

    draft_bytes = count_draft_bytes(recipe.sampling.draft, target.device, target.is_here)

    def count_memory(tokens: int) -> MemoryEstimate:
        return MemoryEstimate(
            weights=weight_bytes,
            gradients=count_gradient_bytes(parameters.values(), optimizer.in_backward, tokens < step_tokens),
            optimizer_states=sum_bytes(states),
            activations=per_token * tokens,
            head=count_head_bytes(policy, tokens, target.device),
            program=program,
            draft=draft_bytes,
        )

    settled_bytes = count_memory(1).total + count_head_bytes(policy, step_tokens, target.device)
    micro_tokens, is_searched = _choose_micro_tokens(recipe, policy, settled_bytes, per_token, step_tokens, target)
    memory = count_memory(min(micro_tokens, step_tokens))
    plan = compute_plan.ComputePlan(
        attention=attention,
        compiling=compute_plan.describe_compiling(train.compile, target.device),
        precision=precision,
        gradient_checkpointing=train.gradient_checkpointing,
        micro_batch=compute_plan.describe_micro_batch(micro_tokens, step_tokens, is_searched=is_searched),
        head=compute_plan.describe_head(policy),
        memory=memory.describe_total(),
    )
    return ComputeEstimate(plan, layout, micro_tokens, policy.chunk_rows, memory)


def _choose_autocast(recipe: Recipe, target: TargetDevice) -> torch.dtype | None:
    """What is computed in; of a GPU that is not here it is supposed that it is good at bf16."""
    precision = recipe.train.precision
    is_bf16_there = precision == "auto" and not target.is_here
    return autocast_dtype("bf16" if is_bf16_there else precision, target.device, recipe.train.weights)


def _try_attention(
    recipe: Recipe, tuned: Model, table: TokenTable, autocast: torch.dtype | None, target: TargetDevice
) -> tuple[Policy, Layout, str]:
    """A policy of a model, the layout of its batches, and its attention in words, by the trials that training has.

    Of a GPU that is not here it is said what can be read from outside.
    """
    if autocast is None:
        tuned.float()  # as training does then: there is no varlen attention in fp32
    policy = Policy(tuned, autocast=autocast)
    if wants_compiled(recipe.train.compile, target.device):
        policy.compiled_layers = CompiledLayers(ignore_call)
    if target.is_here:
        layout = choose_layout(
            recipe.train.layout, policy, table.per_row, target.device, has_pictures=table.pictures is not None
        )
        shared_table = share_pair_prompts(table, policy, layout, recipe.objective)
        return policy, layout, describe_attention(policy, layout, shared_table)
    obstacle = find_attention_obstacle(policy.causal, policy.attention.name) if autocast else "fp32 has no such kernel"
    setting = recipe.train.layout
    layout = setting if setting != "auto" else "padded" if obstacle else "packed"
    if obstacle or layout == "padded":
        return policy, layout, f"{policy.attention.name} ({layout})" + (f": {obstacle}" if obstacle else "")
    return policy, layout, f"varlen ({layout}), if the trial on the GPU agrees"


def _measure_in_types(policy: Policy, dtypes: Mapping[str, torch.dtype]) -> float | None:
    """Bytes per token kept for the backward pass in the types that are trained in; `None` for want of memory."""
    try:
        for name, p in policy.model.named_parameters():
            if p.dtype != dtypes[name]:
                p.data = p.data.to(dtypes[name])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    return measure_saved_bytes(policy)


def _choose_micro_tokens(
    recipe: Recipe, policy: Policy, settled_bytes: int, per_token: float, step_tokens: int, target: TargetDevice
) -> tuple[int, bool]:
    """Tokens of a micro-batch, and whether they are the most that fits and the size is still to be measured.

    Args:
        settled_bytes: Bytes of all but activations.
    """
    train = recipe.train
    if train.micro_tokens is not None or recipe.optimizer.in_backward:
        return train.micro_tokens or step_tokens, False
    if target.free is None or target.total is None:
        return first_micro_tokens(policy.causal, target.device, step_tokens, train.gradient_checkpointing), False
    return count_fitting_tokens(target.free - settled_bytes, target.total, per_token, step_tokens), True
