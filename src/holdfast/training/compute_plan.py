"""How a training is computed, in lines: attention, compiling, types, sizes, memory; what declined, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from holdfast.models.compiled_layers import pause_compiled, wants_compiled
from holdfast.models.quantized_base import FORMATS
from holdfast.training.memory_estimate import HeldWeights, estimate_state_memory, measure_saved_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from holdfast.models.policy import Policy
    from holdfast.training.micro_batch_search import PassCost
    from holdfast.training.setup import TrainerState

NAMES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "8 bits", torch.int8: "8 bits",
}  # fmt: skip
"""Types as they are called here."""


@dataclass(frozen=True, slots=True)
class ComputePlan:
    """How a training is computed: a line each.

    Args:
        attention: With the layout, and what stands against attention by lengths.
        compiling: Whether the layers are compiled, or why not.
        precision: Types of weights, of what is computed, and of the optimizer's states.
        gradient_checkpointing: Which activations are computed again.
        micro_batch: Tokens of one.
        head: Rows of logits at a time.
        memory: What it takes at its peak, and for what.
    """

    attention: str
    compiling: str
    precision: str
    gradient_checkpointing: str
    micro_batch: str
    head: str
    memory: str

    def label_lines(self) -> dict[str, str]:
        """The lines by what they are about."""
        return {
            "attention": self.attention,
            "compile": self.compiling,
            "precision": self.precision,
            "gradient checkpointing": self.gradient_checkpointing,
            "micro-batch": self.micro_batch,
            "head": self.head,
            "memory": self.memory,
        }


def describe_compiling(setting: str, device: torch.device, has_failed: bool = False) -> str:
    """Whether the layers are compiled.

    Args:
        setting: `train.compile`.
        has_failed: Whether it was tried in vain.
    """
    if has_failed:
        return "off: the layers cannot be compiled here"
    if wants_compiled(setting, device):
        return "on, layer by layer"
    return "off" if setting == "off" else f"off: train.compile auto is for CUDA, this is {device.type}"


def describe_precision(held_weights: HeldWeights, states: Iterable[Tensor]) -> str:
    """Types of weights, of what is computed, and of what the optimizer keeps.

    Args:
        states: The optimizer's, as they are before the first step; they may be without memory.
    """
    kinds: dict[str, dict[str, int]] = {"frozen": {}, "trained": {}}
    for name, p in held_weights.model.named_parameters():
        kind = kinds["trained" if p.requires_grad else "frozen"]
        dtype = NAMES.get(held_weights.dtypes.get(name, p.dtype), str(p.dtype).removeprefix("torch."))
        kind[dtype] = kind.get(dtype, 0) + p.numel()
    if held_weights.bits is not None:
        kinds["frozen"] = {FORMATS[held_weights.bits]: 0} | kinds["frozen"]
    texts = {what: " and ".join(kind) for what, kind in kinds.items() if kind}
    alike = len(set(texts.values())) == 1
    weights = next(iter(texts.values())) if alike else ", ".join(f"{text} ({what})" for what, text in texts.items())
    compute_type = "fp32" if held_weights.autocast is None else NAMES[held_weights.autocast]
    return f"weights {weights}; computed in {compute_type}; optimizer states {_describe_states(states)}"


def _describe_states(states: Iterable[Tensor]) -> str:
    """The type of most of an optimizer's states, and whether masters of weights in bf16 are among them."""
    numbers: dict[torch.dtype, int] = {}
    for tensor in states:
        numbers[tensor.dtype] = numbers.get(tensor.dtype, 0) + tensor.numel()
    rests = numbers.pop(torch.int16, 0)  # `master_weights`
    if max(numbers.values(), default=0) <= 2:  # the running mean of clipping
        text = "none before the first step"
    else:
        dtype = max(numbers, key=lambda dtype: numbers[dtype])
        text = NAMES.get(dtype, str(dtype).removeprefix("torch."))
    return f"{text}, with what fp32 masters have beyond the weights" if rests else text


def describe_micro_batch(tokens: int, step_tokens: int, cost: PassCost | None = None, is_searched: bool = False) -> str:
    """Tokens of a micro-batch, and what one was measured to take.

    Args:
        is_searched: Whether the size is still to be found by measuring; `tokens` is then the most that fits.
    """
    if is_searched:
        return f"at most {tokens:,} tokens: the smallest that is as fast as larger ones, measured before the first step"
    whole = ", a whole step" if tokens >= step_tokens else ""
    return f"{min(tokens, step_tokens):,} tokens{whole}" + (f": {cost.describe_cost()}" if cost is not None else "")


def describe_head(policy: Policy) -> str:
    """How logits are made."""
    if not policy.head.is_exact:
        kind = policy.config.get_text_config().model_type
        return f"logits of a whole micro-batch at once: what {kind} does after its output embedding is not known here"
    return f"{policy.chunk_rows:,} rows of logits at a time"


def plan_state(state: TrainerState) -> ComputePlan:
    """How the training of a state is computed, once its probe is done."""
    train, layers = state.recipe.train, state.policy.compiled_layers
    held_weights = HeldWeights.from_model(state.model, state.machine.autocast, state.recipe.tuner.frozen_bits())
    tokens = min(state.micro_tokens, state.step_size.tokens)
    with pause_compiled():
        everything = None if state.machine.is_sharded else measure_saved_bytes(state.policy)
    return ComputePlan(
        attention=state.attention,
        compiling=describe_compiling(train.compile, state.machine.device, layers is not None and not layers.is_on),
        precision=describe_precision(held_weights, state.rule.state_tensors().values()),
        gradient_checkpointing=train.gradient_checkpointing,
        micro_batch=describe_micro_batch(tokens, state.step_size.tokens, state.pass_cost),
        head=describe_head(state.policy),
        memory=estimate_state_memory(state, tokens, everything).describe_total(),
    )
