"""Trained embeddings before every sequence: how many of them a model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import UserError
from holdfast.models.loading import has_adapter

if TYPE_CHECKING:
    from holdfast.models.loading import Model


def virtual_tokens_of(model: Model) -> int:
    """How many trained embeddings PEFT puts before every sequence (prompt tuning).

    Raises:
        UserError: If it puts something else there, such as keys and values (prefix tuning).
    """
    if not has_adapter(model) or not model.active_peft_config.is_prompt_learning:
        return 0
    settings = model.active_peft_config
    if settings.peft_type not in ("PROMPT_TUNING", "P_TUNING"):
        raise UserError(
            f"adapters of type {getattr(settings.peft_type, 'value', settings.peft_type)} cannot be trained or scored "
            "here: of those before a prompt only embeddings can (prompt tuning, p-tuning)"
        )
    return int(settings.num_virtual_tokens)
