"""What is dropped while a model trains: parts of what its layers add, and of how far its weights went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import UserError
from holdfast.models.mixout import attach_mixout
from holdfast.models.residual_dropout import attach_residual_dropout
from holdfast.training.distributed import find_layers

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from holdfast.models.loading import Model
    from holdfast.recipe.schema import Train


def attach_dropouts(train: Train, model: Model, is_sharded: bool) -> list[RemovableHandle]:
    """Hook onto the layers what the recipe has dropped; call it with the weights from before training.

    Raises:
        UserError: If a model's parts are called otherwise, or weights that must be whole are not.
    """
    hooks = attach_residual_dropout(find_layers(model), train.residual_dropout) if train.residual_dropout else []
    if train.mixout and is_sharded:
        raise UserError("train.mixout needs whole weights, these are sharded; run it on one process")
    return hooks + (attach_mixout(find_layers(model), train.mixout) if train.mixout else [])
