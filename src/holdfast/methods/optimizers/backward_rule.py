"""An update rule inside the backward pass: each weight moves as soon as its gradient is there, which is then freed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from holdfast.methods.optimizers.clipping import ROUNDING, Clipping

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from holdfast.axes.optimizer import Optimizer


class BackwardRule:
    """Hooks on every weight; a rule of this kind says in `update_weight` how one moves.

    A norm over all weights is known only when all gradients were there, and then they are gone: clipping by it takes a
    pass that measures and a second one that updates. Between `step` and the next `begin_pass` gradients are only thrown
    away (probes). What is not finite never reaches a weight: a gradient that is not finite counts as zero.

    Args:
        knobs: The method, for `max_grad_norm` and `clip`.
        params: The trained parameters by name.
    """

    def __init__(self, knobs: Optimizer, params: Mapping[str, Parameter]) -> None:
        self.clipping = Clipping(knobs)
        self.lr = knobs.learning_rate
        self.passes = 2 if knobs.max_grad_norm else 1
        self.mode: Literal["discard", "measure", "update"] = "discard"
        self.coefficient: Tensor | None = None
        self.names = tuple(params)
        self.norms: dict[str, Tensor] = {}
        for name, p in params.items():
            p.register_post_accumulate_grad_hook(lambda p, name=name: self._receive_gradient(name, p))

    def prepare_gradient(self, grad: Tensor) -> Tensor:
        """The gradient, in fp32, as the norm is measured of it; may change it in place."""
        return grad

    def update_weight(self, name: str, weight: Tensor, grad: Tensor) -> None:
        """Move `weight` in place; both are in fp32, and `grad`, clipped, may be used up."""
        raise NotImplementedError

    def begin_pass(self, pass_index: int) -> None:
        """First of two passes: measure the norm. Last pass: update, unless the measured norm is not finite."""
        import torch

        if pass_index == 0:
            self.norms = {}
            self.coefficient = None
            self.mode = "measure" if self.passes == 2 else "update"
            return
        total, limit = self._total_norm(), self.clipping.norm_limit()
        self.mode = "update" if math.isfinite(total) else "discard"
        self.coefficient = torch.clamp(limit / (total + ROUNDING), max=1.0)

    def _total_norm(self) -> Tensor:
        import torch

        norms = [self.norms[name] for name in self.names if name in self.norms]  # in the order that others sum in
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    def _receive_gradient(self, name: str, p: Parameter) -> None:
        import torch

        grad, p.grad = p.grad, None
        if self.mode == "discard" or grad is None:
            return
        with torch.no_grad():
            grad = self.prepare_gradient(grad.float())
            if self.mode == "measure" or self.passes == 1:
                self.norms[name] = torch.linalg.vector_norm(grad)
            if self.mode != "update":
                return
            if self.coefficient is not None:
                grad = grad.mul_(self.coefficient)  # autograd gave it away: nobody else holds it
            else:  # no number is read back from the device to decide it
                grad = grad.masked_fill_(~self.norms[name].isfinite(), 0)
            weight = p.float()  # the weight itself when it is fp32
            self.update_weight(name, weight, grad)
            if weight.data_ptr() != p.data_ptr():
                p.copy_(weight)

    def step(self) -> float:
        """The weights have moved already; returns the norm and sleeps until `begin_pass`."""
        self.mode = "discard"
        norm = float(self._total_norm())
        self.clipping.record_norm(norm)
        return norm

    @property
    def was_clipped(self) -> bool:
        return self.clipping.was_clipped

    def zero_grad(self) -> None:
        """There are no gradients to clear."""

    def state_tensors(self) -> dict[str, Tensor]:
        """What `clip: running` keeps; a rule with states of its own adds them."""
        return self.clipping.state_tensors()

    def load(self, state: dict[str, Tensor]) -> None:
        for key, tensor in self.state_tensors().items():
            tensor.copy_(state[key])
