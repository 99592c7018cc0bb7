"""Residual dropout that rises with the depth of a layer, as LIMA trains. [Zhou et al. 2023, arXiv 2305.11206]"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.nn import functional as F

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "block_sparse_moe", "feed_forward", "ffn")
"""What the two parts of a layer whose outputs are added to the residual stream are called."""


def dropout_rates(depth: int, top: float) -> list[float]:
    """The rate of each layer, from 0 in the first to `top` in the last (Megatron-LM's `--lima-dropout`)."""
    return [top * layer / max(1, depth - 1) for layer in range(depth)]


def attach_residual_dropout(layers: Sequence[nn.Module], top: float) -> list[RemovableHandle]:
    """Drop elements of what each layer's attention and MLP add to the residual stream, while the layer trains.

    Args:
        layers: From the first to the last.
        top: The last one's rate.
    Returns:
        What takes it off again.
    Raises:
        UserError: If the parts of a layer are called otherwise than in any model known here.
    """
    handles = []
    for layer, rate in zip(layers, dropout_rates(len(layers), top), strict=True):
        for names in (ATTENTION, MLP):
            part = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
            if part is None:
                raise UserError(
                    f"train.residual_dropout: {type(layer).__name__} has none of {', '.join(names)}; leave it out"
                )
            if rate:
                handles.append(part.register_forward_hook(partial(_drop_output, rate)))
    return handles


def _drop_output(rate: float, module: nn.Module, inputs: Any, output: Any) -> Any:
    """The output, or the first of several, with elements dropped where the module trains."""
    if not module.training:
        return output
    if isinstance(output, tuple):
        return (F.dropout(output[0], rate), *output[1:])
    return F.dropout(output, rate)
