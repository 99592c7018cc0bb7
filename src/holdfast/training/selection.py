"""Which step of a run is kept and when it stops early, both by the losses measured on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True)
class Selection:
    """The losses measured so far, and what follows from them. The same losses always give the same decisions.

    Args:
        keep: The step whose weights a run ends with: the last one, or that of the lowest loss.
        patience: Evaluations without a lower loss after which the run stops; `None`: it never does.
        losses: Loss by step. Not a number is worse than any.
    """

    keep: Literal["last", "best"] = "last"
    patience: int | None = None
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def decides(self) -> bool:
        """Whether anything follows from the losses, so that the last step's is needed too."""
        return self.keep == "best" or self.patience is not None

    @property
    def best(self) -> int | None:
        """The first step with the lowest loss; `None` when nothing was measured."""
        comparable = {step: loss for step, loss in sorted(self.losses.items()) if not math.isnan(loss)}
        return min(comparable, key=comparable.__getitem__) if comparable else None

    @property
    def is_exhausted(self) -> bool:
        """Whether the last `patience` evaluations have all brought nothing lower."""
        if self.patience is None or not self.losses:
            return False
        best = self.best
        return sum(best is None or step > best for step in self.losses) >= self.patience

    def kept_step(self, steps_done: int) -> int:
        """The step whose weights are kept of a run of `done` steps."""
        best = self.best if self.keep == "best" else None
        return steps_done if best is None else best

    def add_loss(self, step: int, loss: float) -> None:
        """Take in the loss after `step`; measured again after a resume, it takes the place of the earlier one."""
        self.losses[step] = loss

    def to_json(self) -> list[list[float]]:
        """The losses as they are stored in a checkpoint."""
        return [[step, loss] for step, loss in sorted(self.losses.items())]

    def restore_losses(self, losses: list[list[float]]) -> None:
        """The inverse of `to_json`."""
        self.losses = {int(step): loss for step, loss in losses}
