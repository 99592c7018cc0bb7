"""How large a gradient may be: a fixed norm, or a multiple of the norms of the steps before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.optimizer import Optimizer

MEMORY = 0.95
"""Share of the running mean of norms that a step keeps: a memory of about twenty steps."""

ROUNDING = 1e-6
"""Added to the norm by the functions that clip."""

NAME = "clipping.norms"
"""What the running mean is called in an optimizer's state."""


class Clipping:
    """The limit of each step, from the knobs and the norms so far.

    `clip: fixed`: always `max_grad_norm`. `clip: running`: `max_grad_norm` times the mean of the norms before, recent
    ones counting most; each goes into the mean as it was left after clipping, so that an outlier does not raise it. The
    first step has no mean and is not clipped.

    Args:
        optimizer: With its knobs.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        import torch

        self.uses_running_mean, self.max_norm = optimizer.clip == "running", optimizer.max_grad_norm
        self.norms: Tensor = torch.zeros(2, dtype=torch.float64)
        """Decayed sum of the norms, and of their weights."""
        self.was_clipped = False
        """Whether the last step's gradient was cut."""

    @property
    def is_off(self) -> bool:
        return not self.max_norm

    def norm_limit(self) -> float:
        """The largest norm that is left alone; infinite where there is none."""
        if self.is_off:
            return math.inf
        total, weight = self.norms.tolist()
        return self.max_norm if not self.uses_running_mean else self.max_norm * total / weight if weight else math.inf

    def record_norm(self, norm: float) -> None:
        """Take the norm of a step, as it was before clipping, into account."""
        limit = self.norm_limit()
        self.was_clipped = norm + ROUNDING > limit
        if self.uses_running_mean and math.isfinite(norm):
            self.norms.mul_(MEMORY).add_(self.norms.new_tensor([min(norm, limit), 1.0]), alpha=1 - MEMORY)

    def state_tensors(self) -> dict[str, Tensor]:
        """The running mean; empty where there is none to keep."""
        return {NAME: self.norms} if self.uses_running_mean else {}
