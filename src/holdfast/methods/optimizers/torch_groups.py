"""What optimizers of PyTorch are built over: stand-ins of weights in bf16, and groups of which one is not decayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from holdfast.methods.optimizers.master_weights import MasterWeights
from holdfast.methods.optimizers.torch_rule import TorchRule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer

    from holdfast.axes.optimizer import Optimizer


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


def group_by_decay(params: Iterable[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices are decayed, vectors (norms and biases) are not; none is empty."""
    every = list(params)
    groups = [
        {"params": [p for p in every if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
