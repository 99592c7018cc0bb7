"""LOMO: each weight is updated inside the backward pass and its gradient freed at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.methods.optimizers.backward_rule import BackwardRule

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class LOMO(Optimizer):
    """Plain gradient descent fused into the backward pass: no gradients, no states. [Lv et al. 2023, arXiv 2306.09782]

    What: as soon as autograd has a weight's gradient g, w = w (1 - lr decay) - lr c g in fp32, and g is freed: at most
    one gradient is alive. c = min(1, max_grad_norm / (||g|| + 1e-6)) needs the norm over all weights first, hence a
    second forward and backward pass per step (`max_grad_norm: 0` saves it; `clip_value` clips elements without it).
    The result equals `torch.optim.SGD` bit for bit.

    When it helps: full fine-tuning where the weights in bf16 are about all that fits (7 B parameters in 15 GB).

    When it fails: it is gradient descent, so it needs a large learning rate (0.01 to 0.05) and does poorly on small
    models, as the paper says: `adalomo` adapts the rate of each weight at hardly more memory, and `adamw` learns faster
    wherever it fits. A step must be one micro-batch on one process, since the weights have already changed when a
    second one would come. Without clipping, a gradient that is not finite stops the run after the weights above it
    have moved (the last checkpoint is untouched); with clipping it is found in the first pass, before any update.

    Columns needed: none.
    Paper: Lv, Yang, Liu, Gao, Guo, Qiu 2023, arXiv 2306.09782. Defaults: its SuperGLUE example (WiC).
    """

    paper: ClassVar[str] = "Lv et al. 2023, arXiv 2306.09782"
    in_backward: ClassVar[bool] = True

    learning_rate: float = Field(0.03, gt=0, description="Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="Shape after the warm-up.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps over which the rate rises from 0.")
    weight_decay: float = Field(0.0, ge=0, description="Pull towards zero, times the learning rate.")
    clip_value: float = Field(0.0, ge=0, description="Clip each gradient element to this; 0 = off.")

    def build(self, params: Iterable[tuple[str, Parameter]]) -> UpdateRule:
        """The rule, hooked into the `(name, parameter)` pairs."""
        return LOMORule(self, dict(params))


class LOMORule(BackwardRule):
    """Gradient descent of one weight."""

    def __init__(self, knobs: LOMO, params: Mapping[str, Parameter]) -> None:
        super().__init__(knobs, params)
        self.knobs = knobs

    def prepare_gradient(self, grad: Tensor) -> Tensor:
        """Cut each element."""
        limit = self.knobs.clip_value
        return grad.clamp_(-limit, limit) if limit else grad

    def update_weight(self, name: str, weight: Tensor, grad: Tensor) -> None:
        """w = w (1 - lr decay) - lr g."""
        import torch

        # Of a number beyond the type torch raises; as infinity it makes the weights overflow, which is found and said.
        lr = self.lr if self.lr <= torch.finfo(weight.dtype).max else math.inf
        if self.knobs.weight_decay:
            weight.mul_(1 - lr * self.knobs.weight_decay)
        weight.add_(grad, alpha=-lr)
