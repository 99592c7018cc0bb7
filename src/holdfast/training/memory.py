"""Memory: how large a micro-batch to try first, how much stays free, and what to advise when it is short."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.models.placement import free_bytes, give_back_memory, memory_bytes
from holdfast.training.memory_estimate import MemoryEstimate, activation_bytes, format_size

if TYPE_CHECKING:
    import torch
    from torch import nn

    from holdfast.models.loading import Model
    from holdfast.models.recomputation import Recomputation

SMALL = 16_000_000
"""Parameters up to which a model counts as small on a CPU; it was measured at 2, 12 and 30 million."""

CPU_TOKENS, CPU_TOKENS_OF_LARGE = 2048, 4096
"""Micro-batch on a CPU. A small model's activations of a layer stay near the caches, and larger ones are no faster. A
large one's gradients do not, and every micro-batch adds to all of them: 4 to 6 % faster at 30 million parameters."""

ONE_MICRO_BATCH = 2**62
"""A size no step exceeds, for updates inside the backward pass."""

FREE_SHARE = 0.2
"""Of an accelerator's memory, what stays free: for the update, for rows in another order, for fragments."""


def is_small(model: nn.Module) -> bool:
    """Whether a model counts as small on a CPU."""
    return sum(p.numel() for p in model.parameters()) <= SMALL


def first_micro_tokens(model: Model, device: torch.device, share: int, recomputation: Recomputation) -> int:
    """Tokens of a micro-batch by what is known before it is tried; the probe measures below it, or halves it.

    Args:
        share: Tokens of a step for this process; more would never be used.
        recomputation: Which activations are computed again.
    """
    give_back_memory(device)  # what sampling took is free again, but its allocator keeps it
    free, total = free_bytes(device), memory_bytes(device)
    if free is None or total is None:
        return min(share, CPU_TOKENS if is_small(model) else CPU_TOKENS_OF_LARGE)
    gradients = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    return count_fitting_tokens(free - gradients, total, activation_bytes(model, recomputation), share)


def count_fitting_tokens(free: int, total: int, per_token: float, share: int) -> int:
    """Tokens of a micro-batch, 1 to `share`, whose activations leave `FREE_SHARE` of a device's memory free.

    Args:
        free, total: Bytes of the device, as they are without activations.
    """
    return max(1, min(share, int((free - FREE_SHARE * total) / per_token)))


MENDS = {
    "weights": "a smaller model",
    "gradients": "tuner: lora, or optimizer: lomo",
    "optimizer states": "tuner: lora, or optimizer: lomo",
    "activations": "train.gradient_checkpointing: full, or a smaller train.max_length",
    "head": "tuner: lora",
    "draft": "no sampling.draft",
}
"""By part of an estimate, the changes to a recipe that make it smaller."""


def describe_memory_shortage(estimate: MemoryEstimate, rows: int, tokens: int) -> str:
    """One line: what the memory goes to, the largest first, and the changes to a recipe that would help.

    Args:
        estimate: For the smallest micro-batch that failed.
        rows, tokens: Its size.
    """
    by_size = sorted((part for part in estimate.list_parts() if part[0] in MENDS), key=lambda part: -part[1])
    breakdown = ", ".join(f"{name} {format_size(size)}" for name, size in by_size)
    mends = "; ".join(dict.fromkeys(MENDS[name] for name, _ in by_size[:3]))
    return (
        f"not enough memory even for {rows} row(s) of {tokens} tokens together. It goes to: {breakdown}. Try: {mends}"
    )
