"""Position interpolation and YaRN: rotary positions squeezed into the range a model was trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

NAME = "rotary_emb"
"""What the architectures of transformers call the module that makes angles of positions."""
BEFORE = "rope_parameters_before"
"""Attribute of a model whose positions were interpolated: its `rope_parameters` of before."""
RopeKind = Literal["linear", "yarn"]
"""How longer rows get their angles, as transformers calls it (`rope_type`)."""


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


def interpolate_positions(model: PreTrainedModel, factor: float, kind: RopeKind = "linear", **knobs: float) -> None:
    """Let `factor` times the context stand within the angles a model was trained on, in place.

    The configuration says so in transformers' own words (`rope_parameters`), so that what is saved loads anywhere.

    Args:
        kind: `linear`: token m has the angles of position m / factor [arXiv 2306.15595]; `yarn`: only those pairs of
            dimensions that turn slowly do, and all angles' cosine and sine grow [arXiv 2309.00071].
        knobs: Of that kind, by transformers' names (`beta_fast`, `beta_slow`).
    """
    config: Any = model.config.get_text_config()
    setattr(model, BEFORE, dict(config.rope_parameters))
    more = {} if kind == "linear" else {"original_max_position_embeddings": config.max_position_embeddings}
    config.rope_parameters = {**config.rope_parameters, "rope_type": kind, "factor": float(factor), **more, **knobs}
    config.max_position_embeddings = int(config.max_position_embeddings * factor)
    _replace_rotary(model, config)


def is_interpolated(model: nn.Module) -> bool:
    """Whether `interpolate_positions` changed a model since it was loaded."""
    return hasattr(model, BEFORE)


@contextmanager
def restore_positions(model: PreTrainedModel) -> Iterator[None]:
    """Where an interpolated model has the angles it was pre-trained with."""
    if not is_interpolated(model):
        yield
        return
    config: Any = model.config.get_text_config()
    own = copy.deepcopy(config)
    own.rope_parameters = dict(getattr(model, BEFORE))
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
