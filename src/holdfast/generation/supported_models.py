"""Which models the native engine can batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.models.loading import Model

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Layers that keep keys and values of the tokens they saw, and nothing else."""


def native_lacks(model: Model) -> str:
    """What the native engine lacks for a model: what it keeps of a prompt beside keys and values; "" for nothing."""
    import torch
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    from holdfast.models.compiled_layers import pause_compiled
    from holdfast.models.eyes import has_eyes
    from holdfast.models.loading import eval_mode
    from holdfast.models.virtual_tokens import virtual_tokens_of

    if virtual_tokens_of(model):
        return "virtual tokens before a prompt"
    if has_eyes(model.config):
        return "pictures"
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - ATTENTION
    if kinds:
        return f"layers of {', '.join(sorted(kinds))}"
    with pause_compiled(), eval_mode(model):
        output = model(input_ids=torch.tensor([[0, 1]], device=model.device), use_cache=True)
    layers = getattr(getattr(output, "past_key_values", None), "layers", ())
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and layer.keys is not None for layer in layers)
    return "" if layers and plain else "the state it keeps"
