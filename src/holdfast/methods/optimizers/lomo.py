"""LOMO: each weight is updated inside the backward pass and its gradient freed at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.methods.optimizers.clipping import ROUNDING, Clipping

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
    models, as the paper says; `adamw` learns faster wherever it fits. A step must be one micro-batch on one process,
    since the weights have already changed when a second one would come. Without clipping, a gradient that is not
    finite stops the run after some weights have taken it (the last checkpoint is untouched); with clipping it is
    found in the first pass, before any update.

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


class LOMORule:
    """Hooks on every weight. Between `step` and the next `begin_pass` gradients are only thrown away (probes)."""

    def __init__(self, knobs: LOMO, params: dict[str, Parameter]) -> None:
        self.knobs, self.clipping = knobs, Clipping(knobs)
        self.lr = knobs.learning_rate
        self.passes = 2 if knobs.max_grad_norm else 1
        self.mode: Literal["discard", "measure", "update"] = "discard"
        self.coefficient: Tensor | None = None
        self.norms: list[Tensor | None] = [None] * len(params)
        for index, p in enumerate(params.values()):
            p.register_post_accumulate_grad_hook(lambda p, index=index: self._receive_gradient(index, p))

    def begin_pass(self, pass_index: int) -> None:
        """First of two passes: measure the norm. Last pass: update, unless the measured norm is not finite."""
        import torch

        if pass_index == 0:
            self.norms = [None] * len(self.norms)
            self.coefficient = None
            self.mode = "measure" if self.passes == 2 else "update"
            return
        total, limit = self._total_norm(), self.clipping.norm_limit()
        self.mode = "update" if math.isfinite(total) else "discard"
        self.coefficient = torch.clamp(limit / (total + ROUNDING), max=1.0)

    def _total_norm(self) -> Tensor:
        import torch

        present = [norm for norm in self.norms if norm is not None]
        return torch.linalg.vector_norm(torch.stack(present)) if present else torch.zeros(())

    def _receive_gradient(self, index: int, p: Parameter) -> None:
        import torch

        grad, p.grad = p.grad, None
        if self.mode == "discard" or grad is None:
            return
        with torch.no_grad():
            grad = grad.float()
            if self.knobs.clip_value:
                grad = grad.clamp(-self.knobs.clip_value, self.knobs.clip_value)
            if self.mode == "measure" or self.passes == 1:
                self.norms[index] = torch.linalg.vector_norm(grad)
            if self.mode == "update":
                self._update_weight(p, grad if self.coefficient is None else grad * self.coefficient)

    def _update_weight(self, p: Parameter, grad: Tensor) -> None:
        import torch

        weight = p.float()  # the weight itself when it is fp32
        # Of a number beyond the type torch raises; as infinity it makes the weights overflow, which is found and said.
        lr = self.lr if self.lr <= torch.finfo(weight.dtype).max else math.inf
        if self.knobs.weight_decay:
            weight.mul_(1 - lr * self.knobs.weight_decay)
        weight.add_(grad, alpha=-lr)
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
        """What `clip: running` keeps; nothing of the weights outlives a step."""
        return self.clipping.state_tensors()

    def load(self, state: dict[str, Tensor]) -> None:
        for key, tensor in self.state_tensors().items():
            tensor.copy_(state[key])
