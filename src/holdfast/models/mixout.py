"""Mixout: while a model trains, some of its weights are those it began with, drawn anew in every pass.

Lee, Cho, Kang 2020 (arXiv 1909.11299): dropout towards the base instead of towards zero. With w0 the weights before
training and M ~ Bernoulli(1 - p) of the shape of w,

    w' = w0 + M * (w - w0) / (1 - p),   E[w'] = w
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


def attach_mixout(layers: Sequence[nn.Module], share: float) -> list[RemovableHandle]:
    """Let each linear map of the layers that trains compute with weights of which a share is its first ones.

    As the authors do, embeddings, norms and biases are left alone. A copy of the weights as they are now is kept.

    Args:
        layers: With the weights they begin with.
        share: p; the others are scaled so that the mean is what trains.
    Returns:
        What takes it off again.
    Raises:
        UserError: If no linear map of these layers trains.
    """
    maps = [
        module for layer in layers for module in layer.modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    ]  # fmt: skip
    if not maps:
        raise UserError("train.mixout: no linear map of the layers trains here (nn.Linear); leave it out")
    return [
        module.register_forward_hook(partial(_mix_weights, share, module.weight.detach().clone())) for module in maps
    ]


def _mix_weights(share: float, start: Tensor, module: nn.Linear, inputs: Any, output: Tensor) -> Tensor:
    """The output with mixed weights: w' - w = (M / (1 - p) - 1) (w - w0) is added to what w gave."""
    if not module.training:
        return output
    factors = F.dropout(torch.ones_like(start), share) - 1
    return output + F.linear(inputs[0], (factors * (module.weight - start)).to(inputs[0].dtype))
