"""What optimizers of PyTorch are built over: stand-ins of weights in bf16, and groups of which one is not decayed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from holdfast.methods.optimizers.master_weights import MasterWeights
from holdfast.methods.optimizers.torch_rule import RATE_SHARE, TorchRule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer

    from holdfast.axes.optimizer import Optimizer

LAYER = re.compile(r"\.(\d+)\.")
"""The first number in a parameter's name is its layer's."""
EMBEDDING = re.compile(r"embed|\bwte\b|\bwpe\b")


def build_torch_rule(
    knobs: Optimizer,
    params: Iterable[tuple[str, Parameter]],
    build_optimizers: Callable[[dict[str, Parameter]], list[TorchOptimizer]],
    build_state: Callable[[Parameter], dict[str, Tensor]] | None = None,
) -> TorchRule:
    """A rule over `(name, parameter)` pairs, on fp32 masters of those in bf16.

    Args:
        knobs: The method, for `max_grad_norm` and `clip`.
        build_optimizers: The optimizers over the parameters that move: the pairs' own, or the stand-ins of masters. A
            step may be cut into several of few parameters each, so that what is kept must be kept of each parameter.
        build_state: What is kept of a parameter before the first step; `None`: made when the first step comes.
    """
    import torch

    parameters = dict(params)
    short = any(p.dtype == torch.bfloat16 for p in parameters.values())
    masters = MasterWeights(parameters) if short else None
    optimizers = build_optimizers(parameters if masters is None else masters.stand_ins)
    return TorchRule(knobs, parameters, optimizers, build_state, masters)


def group_by_layer(params: Mapping[str, Parameter], weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups as `group_by_decay` makes them, of each depth apart, with the share of the rate that is theirs."""
    if layer_decay == 1:
        return group_by_decay(params.values(), weight_decay)
    by_share: dict[float, list[Parameter]] = {}
    for name, share in share_rates(params, layer_decay).items():
        by_share.setdefault(share, []).append(params[name])
    return [
        {**group, RATE_SHARE: share} for share, some in by_share.items() for group in group_by_decay(some, weight_decay)
    ]


def share_rates(names: Iterable[str], decay: float) -> dict[str, float]:
    """The share of the rate of each parameter: decay ^ (layers above it), L + 1 depths with the embeddings the lowest.

    What is in no layer and no embedding (head, last norm) has the whole rate; a head that is tied to the embeddings is
    one with them.
    """
    depths = {name: int(match[1]) + 1 if (match := LAYER.search(name)) else None for name in names}
    top = max((depth for depth in depths.values() if depth is not None), default=0)
    lowest = {name: 0 if EMBEDDING.search(name) else top for name, depth in depths.items() if depth is None}
    return {name: decay ** (top - lowest.get(name, depth or 0)) for name, depth in depths.items()}


def group_by_decay(params: Iterable[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices are decayed, vectors (norms and biases) are not; none is empty."""
    every = list(params)
    groups = [
        {"params": [p for p in every if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
