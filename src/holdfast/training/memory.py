"""Memory: how large a micro-batch to try first, what an allocation failure looks like, and what to advise then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from holdfast.models.placement import GIB, count_weight_bytes, free_bytes, give_back_memory

if TYPE_CHECKING:
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


def is_small(model: nn.Module) -> bool:
    """Whether a model counts as small on a CPU."""
    return sum(p.numel() for p in model.parameters()) <= SMALL


def first_micro_tokens(model: Model, device: torch.device, share: int, recomputation: Recomputation) -> int:
    """Tokens per forward pass to try first; the probe halves what does not fit.

    Args:
        share: Tokens of a step for this process; more would never be used.
        recomputation: Which activations are computed again.
    """
    give_back_memory(device)  # what sampling took is free again, but its allocator keeps it
    free = free_bytes(device)
    if free is None:
        return min(share, CPU_TOKENS if is_small(model) else CPU_TOKENS_OF_LARGE)
    free -= sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    fitting = int(0.7 * free / activation_bytes(model, recomputation))
    return max(1, min(share, fitting))


def activation_bytes(model: Model, recomputation: Recomputation) -> int:
    """Rough bytes per token kept for the backward pass: 12 hidden and 4 MLP vectors a layer, 16 bits, norms fp32.

    Selective recomputation keeps the results of the seven products and of attention, the full one what enters a layer;
    of one layer at a time everything is there again.
    """
    config = model.config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    layer = 2 * (12 * hidden + 4 * inner) + 8 * hidden
    if recomputation == "off":
        return layer * layers
    products = 2 * (6 * hidden + 2 * inner) if recomputation == "selective" else 0
    return (2 * hidden + products) * layers + layer


def describe_memory_shortage(model: nn.Module, states: int, rows: int, tokens: int, per_token: int) -> str:
    """One line: what the memory goes to, the largest first, and the changes to a recipe that would help.

    Args:
        states: Bytes of optimizer state. rows, tokens: Size of the smallest micro-batch that failed.
        per_token: Rough bytes of activations per token.
    """
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    parts = {
        "weights": (count_weight_bytes(model), "a smaller model"),
        "gradients": (gradients, "tuner: lora, or optimizer: lomo"),
        "optimizer state": (states, "tuner: lora, or optimizer: lomo"),
        "activations": (per_token * tokens, "train.gradient_checkpointing: full, or a smaller train.max_length"),
    }
    by_size = sorted(parts.items(), key=lambda item: -item[1][0])
    breakdown = ", ".join(f"{name} {size / GIB:.2g} GiB" for name, (size, _) in by_size)
    mends = "; ".join(dict.fromkeys(mend for _, (_, mend) in by_size[:3]))
    return (
        f"not enough memory even for {rows} row(s) of {tokens} tokens together. It goes to: {breakdown}. Try: {mends}"
    )
