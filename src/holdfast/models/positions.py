"""Position interpolation: rotary positions squeezed into the range a model was trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

NAME = "rotary_emb"
"""What the architectures of transformers call the module that makes angles of positions."""


def refuse_uninterpolated(model: PreTrainedModel) -> None:
    """See that a model has rotary positions that nothing scales yet.

    Raises:
        UserError: If not.
    """
    config: Any = model.config.get_text_config()
    kind = type(model).__name__
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or not _list_owners(model):
        raise UserError(
            f"tuner.factor: {kind} has no rotary positions to interpolate; keep rows within its context of "
            f"{getattr(config, 'max_position_embeddings', 'no')} tokens (train.max_length)"
        )
    if rope.get("rope_type") != "default":
        what = rope.get("rope_type") or "one for each kind of layer"
        raise UserError(f"tuner.factor: rotary positions of {kind} are scaled already ({what}); set tuner.factor: 1")


def interpolate_positions(model: PreTrainedModel, factor: float) -> None:
    """Let token m have the angles of position m / factor, in place: `factor` times the context. [arXiv 2306.15595]

    The configuration says so in transformers' own words (`rope_type: linear`), so that what is saved loads anywhere.
    """
    config: Any = model.config.get_text_config()
    config.rope_parameters = {**config.rope_parameters, "rope_type": "linear", "factor": float(factor)}
    config.max_position_embeddings = int(config.max_position_embeddings * factor)
    _replace_rotary(model, config)


@contextmanager
def restore_positions(model: PreTrainedModel) -> Iterator[None]:
    """Where an interpolated model has the angles it was pre-trained with."""
    config: Any = model.config.get_text_config()
    if config.rope_parameters.get("rope_type") != "linear":
        yield
        return
    own = copy.deepcopy(config)
    own.rope_parameters = {k: v for k, v in own.rope_parameters.items() if k != "factor"} | {"rope_type": "default"}
    _replace_rotary(model, own)
    try:
        yield
    finally:
        _replace_rotary(model, config)


def _replace_rotary(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Make the angles anew, by a configuration."""
    for owner in _list_owners(model):
        rotary: Any = getattr(owner, NAME)
        fresh = type(rotary)(config=config)
        setattr(owner, NAME, fresh.to(rotary.inv_freq.device))


def _list_owners(model: nn.Module) -> list[nn.Module]:
    """The modules that have a rotary one."""
    return [m for m in model.modules() if getattr(getattr(m, NAME, None), "config", None) is not None]
