"""Which activations a layer keeps for its backward pass, and which are computed again there.

`full` keeps only what enters a layer and computes the whole layer again: about a third more time. `selective` keeps
the results of the matrix products and of attention, which are nearly all of the time, and computes the rest again
(norms, rotations, activations, residual sums), which is most of the memory (Korthikanti et al. 2022, 2205.05198).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

Recomputation = Literal["off", "full", "selective"]

PRODUCTS = ("aten::mm", "aten::addmm", "aten::_scaled_mm", "aten::_grouped_mm")
"""Products of a linear map. Batched ones (`bmm`) are not among them: in models that write attention out they are the
[L, L] scores, which are larger than everything else."""


def choose_policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Whether the result of an operation is kept: of products and of every fused attention, whoever brings it."""
    name = op.name().partition(".")[0]  # aten::mm.out is aten::mm
    is_kept = name in PRODUCTS or "attention" in name or "_attn" in name
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


def checkpoint_options(recomputation: Recomputation) -> dict[str, Any]:
    """What `torch.utils.checkpoint.checkpoint` is told."""
    if recomputation != "selective":
        return {"use_reentrant": False}
    return {
        "use_reentrant": False,
        "context_fn": functools.partial(create_selective_checkpoint_contexts, choose_policy),
    }


def run_checkpointed(recomputation: Recomputation, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` with the activations inside it kept or not."""
    if recomputation == "off":
        return function(*args)
    return checkpoint(function, *args, **checkpoint_options(recomputation))


def enable_recomputation(model: PreTrainedModel, recomputation: Recomputation) -> None:
    """Let the layers of a model compute activations again in the backward pass."""
    if recomputation == "off":
        return
    settings = checkpoint_options(recomputation)
    if hasattr(model, "activation_checkpointing_enable"):  # its name in newer releases of transformers
        model.activation_checkpointing_enable(settings)
    else:
        model.gradient_checkpointing_enable(settings)
