"""Weights that are no numbers any more: found where they would be kept, so that no checkpoint or model holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.errors import BrokenWeights, UserError
from holdfast.models.files import count_non_finite
from holdfast.training import checkpoint

if TYPE_CHECKING:
    from holdfast.training.distributed import Machine


def refuse_broken_weights(weights: Mapping[str, Tensor], machine: Machine, root: Path, step: int) -> None:
    """See, before they are written, that all trained weights are numbers; every process takes part.

    The loss of a step is that of the weights before it, so that a step that breaks them shows only in the next.

    Raises:
        BrokenWeights: If some are not.
    """
    broken = round(machine.sum_over_processes([float(count_non_finite(weights.values()))])[0])
    if broken:
        last = checkpoint.find_newest(root)
        raise BrokenWeights(
            f"step {step}: {broken:,} of the trained weights are no finite numbers; they are not saved "
            f"({f'{last.name} is intact' if last else 'no checkpoint yet'}). Lower optimizer.learning_rate, or set "
            "train.precision: fp32, and run the command again"
        )


def refuse_broken_checkpoint(path: Path, weights: Mapping[str, Tensor]) -> None:
    """See that a checkpoint, which an older version may have written, can be gone on from.

    Raises:
        UserError: If some of its weights are no numbers.
    """
    if count_non_finite(weights.values()):
        raise UserError(
            f"{path}: some of its weights are no finite numbers; remove it to go on from the checkpoint before it, if "
            "any, and lower optimizer.learning_rate"
        )
