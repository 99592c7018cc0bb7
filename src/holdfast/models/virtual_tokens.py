"""What PEFT puts before every sequence: embeddings, or keys and values of every layer; and how many of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import UserError
from holdfast.models.loading import has_adapter

if TYPE_CHECKING:
    from holdfast.models.loading import Model


CACHE_KIND = "PREFIX_TUNING"


def stands_in_cache(model: Model) -> bool:
    """Whether what stands before every sequence are keys and values of every layer, and not embeddings."""
    return has_adapter(model) and model.active_peft_config.peft_type == CACHE_KIND


def virtual_tokens_of(model: Model) -> int:
    """How many places of the context PEFT fills before every sequence: prompt tuning, p-tuning, prefix tuning.

    Raises:
        UserError: If it does something else there.
    """
    if not has_adapter(model) or not model.active_peft_config.is_prompt_learning:
        return 0
    settings = model.active_peft_config
    if settings.peft_type not in ("PROMPT_TUNING", "P_TUNING", CACHE_KIND):
        raise UserError(
            f"adapters of type {getattr(settings.peft_type, 'value', settings.peft_type)} cannot be trained or scored "
            "here: of those before a prompt only embeddings, and keys and values can (prompt tuning, p-tuning, prefix "
            "tuning)"
        )
    return int(settings.num_virtual_tokens)
