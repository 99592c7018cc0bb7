"""Gradient descent as a user would add it: one class over an optimizer of PyTorch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from holdfast.axes.optimizer import Optimizer
from holdfast.methods.optimizers.torch_rule import TorchRule


class SGD(Optimizer):
    """Gradient descent with momentum. [Sutskever et al. 2013, PMLR 28(3)]"""

    paper: ClassVar[str] = "Sutskever et al. 2013, PMLR 28(3)"
    momentum: float = Field(0.9, ge=0, lt=1, description="Share of the step before that goes on.")

    def build(self, params):
        import torch

        named = dict(params)
        return TorchRule(self, named, torch.optim.SGD(named.values(), lr=self.learning_rate, momentum=self.momentum))
