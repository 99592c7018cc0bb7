"""A recipe's tuner in a model; of one that sees, eyes stay as they are unless the recipe says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import UserError
from holdfast.models.eyes import freeze_eyes, has_eyes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from holdfast.models.loading import Model
    from holdfast.recipe.schema import Recipe


def apply_tuner(recipe: Recipe, model: Model, seed: int) -> Model:
    """The model to train, `requires_grad` set on exactly what trains.

    Args:
        model: The base.
        seed: Of the tuner's random choices.
    Raises:
        UserError: If eyes are to train that the tuner leaves alone.
    """
    tuned = recipe.tuner.apply(model, seed)
    count = freeze_vision(recipe, tuned)
    if recipe.train.vision == "trained" and not count:
        raise UserError(describe_untrained_eyes(recipe, model.config))
    return tuned


def describe_untrained_eyes(recipe: Recipe, config: PretrainedConfig) -> str:
    """Why eyes do not train though the recipe says so, and what to do."""
    what = "leaves eyes alone; set tuner: full" if has_eyes(config) else "cannot train what is not there"
    return f"train.vision: trained, but {type(recipe.tuner).__name__} {what}, or leave train.vision out"


def freeze_vision(recipe: Recipe, tuned: Model) -> int:
    """Let eyes train only where the recipe says so; how many of their parameters the tuner would train."""
    return freeze_eyes(tuned, keep=recipe.train.vision == "trained")
