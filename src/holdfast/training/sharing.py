"""What several processes that share a training, or its weights, cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.axes.optimizer import Optimizer
    from holdfast.recipe.schema import Recipe

SHARDED_BF16 = "train.weights: shards are fp32 and computed with in bf16 already; leave bf16 out with FSDP"
SHARDED_FEW_BITS = "tuner.base_bits: weights in 4 or 8 bits cannot be shared out by FSDP; leave one of them out"
SHARDED_VALUE_HEAD = "a value head cannot be trained where weights are sharded; run it on one process"


def describe_early_updates(optimizer: Optimizer) -> str:
    """Why an optimizer that updates inside the backward pass trains on one process only."""
    return (
        f"optimizer {type(optimizer).__name__} updates inside the backward pass, before other processes' gradients are "
        "known; run it on one process, or use adamw"
    )


def refuse_sharing(recipe: Recipe) -> None:
    """See that a recipe can be trained by processes that share its weights.

    Raises:
        UserError: If not.
    """
    if recipe.optimizer.in_backward:
        raise UserError(describe_early_updates(recipe.optimizer))
    if recipe.train.weights == "bf16":
        raise UserError(SHARDED_BF16)
    if recipe.tuner.frozen_bits() is not None:
        raise UserError(SHARDED_FEW_BITS)
    if recipe.objective.needs_values:
        raise UserError(SHARDED_VALUE_HEAD)
