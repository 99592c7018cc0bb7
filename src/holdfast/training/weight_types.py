"""In which types weights are held while they train."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from holdfast.models.quantized_base import is_quantized

if TYPE_CHECKING:
    from collections.abc import Collection

    from holdfast.models.loading import Model


def choose_weight_dtypes(
    model: Model,
    autocast: torch.dtype | None,
    weights: str,
    in_backward: bool,
    apart: Collection[str] = (),
    is_quantized_later: bool = False,
) -> dict[str, torch.dtype]:
    """The type that each parameter of a model trains in, on one process or on whole copies (`Machine.place_model`).

    Args:
        model: With its tuner, as it was loaded.
        autocast: What is computed in; `None` for fp32.
        weights: `train.weights`.
        in_backward: Whether the optimizer updates inside the backward pass.
        apart: Names of what an adapter added: it stays fp32.
        is_quantized_later: Whether the frozen base will be read anew in few bits, and the rest of it in the type that
            is computed in.
    """
    own = {name: p.dtype for name, p in model.named_parameters()}
    trained_names = {name for name, p in model.named_parameters() if p.requires_grad}
    if weights != "auto":
        dtype = torch.bfloat16 if weights == "bf16" else torch.float32
        chosen = dict.fromkeys(own, dtype) | dict.fromkeys(apart, torch.float32)
    elif is_quantized(model) or is_quantized_later:
        rest = (autocast or torch.float32) if is_quantized_later else None
        chosen = {name: torch.float32 if name in trained_names else rest or dtype for name, dtype in own.items()}
    elif autocast is None or not (in_backward or all(own[name] == torch.float32 for name in trained_names)):
        chosen = dict.fromkeys(own, torch.float32)
    else:
        return own
    return {name: chosen[name] if dtype.is_floating_point else dtype for name, dtype in own.items()}
