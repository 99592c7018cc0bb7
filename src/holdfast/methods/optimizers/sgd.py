"""SGD: plain gradient descent, with momentum where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.methods.optimizers.torch_groups import build_torch_rule, group_by_decay

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer


class SGD(Optimizer):
    """Plain gradient descent, with momentum on request. [Robbins and Monro 1951]

    What: g = g + decay w; w = w - lr g; with momentum m: b = m b + g and b in place of g (g + m b with `nesterov`).

    When it helps: no state without momentum, 4 bytes a weight with it; the same step on every process, so that it
    averages well (`holdfast federate`). `lomo` takes the same steps and holds no gradients either.

    When it fails: it needs a large learning rate (0.01 to 0.1) that fits the model, and learns less than `adamw` on
    transformers, whose gradients differ by orders of magnitude between layers: clipping is what keeps it together.

    Columns needed: none.

    Decay is 0, as in `adamw`, and leaves norms and biases alone.

    Paper: Robbins and Monro 1951, A stochastic approximation method. Momentum: Sutskever et al. 2013.
    """

    paper: ClassVar[str] = "Robbins and Monro 1951, A stochastic approximation method"
    keeps_masters: ClassVar[bool] = True

    learning_rate: float = Field(0.03, gt=0, description="Peak learning rate.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Memory of the gradient.")
    nesterov: bool = Field(False, description="Look one step of momentum ahead.")
    weight_decay: float = Field(0.0, ge=0, description="Added to the gradient of matrices, times the weight.")

    @model_validator(mode="after")
    def _check_nesterov(self) -> SGD:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov looks one step of momentum ahead, and momentum is 0; set momentum: 0.9")
        return self

    def build(self, params: Iterable[tuple[str, Parameter]]) -> UpdateRule:
        """The rule over `(name, parameter)` pairs; momentum is allocated at once."""
        import torch

        def build_optimizers(moving: dict[str, Parameter]) -> list[TorchOptimizer]:
            groups = group_by_decay(moving.values(), self.weight_decay)
            return [torch.optim.SGD(groups, self.learning_rate, self.momentum, nesterov=self.nesterov)]

        def build_state(p: Parameter) -> dict[str, Tensor]:
            return {"momentum_buffer": torch.zeros_like(p, memory_format=torch.preserve_format)}

        return build_torch_rule(self, params, build_optimizers, build_state if self.momentum else None)
