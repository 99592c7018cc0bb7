"""Adafactor: adaptive rates from two vectors of state a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.methods.optimizers.torch_groups import build_torch_rule, group_by_decay

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer


class Adafactor(Optimizer):
    """Adaptive rates whose second moment is two vectors of a matrix. [Shazeer and Stern 2018, arXiv 1804.04235]

    What: PyTorch's. For a matrix with gradient g [m, n], at step t with b = 1 - t^-0.8: r = b r + (1 - b) mean_columns
    (g^2) [m];  c = b c + (1 - b) mean_rows(g^2) [n];  u = g / sqrt(r c / mean(r));  u = u / max(1, RMS(u) / d);
    w = w (1 - lr decay) - min(lr, 1 / sqrt(t)) max(eps2, RMS(w)) u. A vector keeps the squares in full. No momentum.

    When it helps: hardly any state (m + n numbers instead of 2 m n), steps in proportion to the weights, and unlike
    `adalomo`, which takes the same steps, it may accumulate and run on several processes. It holds all gradients.

    When it fails: slightly behind `adamw` where that fits; weights that begin at zero (the B of a LoRA) move by
    eps2 lr at first: use `adamw` there.

    Columns needed: none.

    The gradient's norm is not clipped unless that is asked for: u is, and does not depend on the gradient's scale.

    Paper: Shazeer and Stern 2018, arXiv 1804.04235. Rate: fine-tuning of T5, Raffel et al. 2020, arXiv 1910.10683.
    """

    paper: ClassVar[str] = "Shazeer and Stern 2018, arXiv 1804.04235"
    keeps_masters: ClassVar[bool] = True

    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate, as a share of each weight's size.")
    max_grad_norm: float = Field(0.0, ge=0, description="Clip the global gradient norm to this; 0 = off.")
    update_clip: float = Field(1.0, ge=1, description="d, the largest root mean square of an update before the rate.")
    eps: tuple[float, float] = Field(
        (1e-30, 1e-3), description="Least second moment; least size of a weight in its step."
    )
    decay_power: float = Field(
        0.8, ge=0, description="The memory of squared gradients at step t is 1 - t^-decay_power."
    )
    weight_decay: float = Field(0.0, ge=0, description="Pull of matrices towards zero, times the learning rate.")

    def build(self, params: Iterable[tuple[str, Parameter]]) -> UpdateRule:
        """The rule over `(name, parameter)` pairs; states are allocated at once."""
        import torch

        def build_optimizers(moving: dict[str, Parameter]) -> list[TorchOptimizer]:
            eps = (math.sqrt(self.eps[0]), self.eps[1])  # PyTorch squares the first
            groups = group_by_decay(moving.values(), self.weight_decay)
            return [torch.optim.Adafactor(groups, self.learning_rate, -self.decay_power, eps, self.update_clip)]

        def build_state(p: Parameter) -> dict[str, Tensor]:
            step = torch.zeros((), dtype=torch.float32)
            if p.ndim < 2:
                return {"step": step, "variance": torch.zeros_like(p, memory_format=torch.preserve_format)}
            rows, columns = (*p.shape[:-1], 1), (*p.shape[:-2], 1, p.shape[-1])
            return {"step": step, "row_var": p.new_zeros(rows), "col_var": p.new_zeros(columns)}

        return build_torch_rule(self, params, build_optimizers, build_state)
