"""The contract of an optimizer: how the weights move, and how its state is saved without pickles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import Field

from holdfast.axes.method import Method

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class UpdateRule(Protocol):
    """A built optimizer, driven by the trainer: set `lr`, run the backward passes, `step`, `zero_grad`."""

    lr: float
    passes: int
    """Forward and backward passes over the step's batch before `step` (2 when a norm must be known first)."""

    @property
    def was_clipped(self) -> bool:
        """Whether the gradient of the last step was clipped."""

    def begin_pass(self, pass_index: int) -> None:
        """Called before each pass over the step's batch."""

    def step(self) -> float:
        """Apply the update (if it has not happened inside backward); returns the gradient norm before clipping."""

    def zero_grad(self) -> None: ...

    def state_tensors(self) -> dict[str, Tensor]:
        """Flat name-to-tensor state for safetensors; names start with the parameter's name, or with `clipping.`."""

    def load(self, state: dict[str, Tensor]) -> None: ...


class Optimizer(Method):
    """How the weights move."""

    in_backward: ClassVar[bool] = False
    """True when weights change inside the backward pass: one micro-batch a step, no accumulation."""

    keeps_masters: ClassVar[bool] = False
    """True when `build` takes parameters in bf16 and loses no small step, by an fp32 master of each (or the like)."""

    learning_rate: float = Field(
        1e-4,
        gt=0,
        description="Peak learning rate; default: what the objective's paper takes, which `holdfast show` of it says.",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="Shape after the warm-up.")
    warmup: float = Field(0.03, ge=0, le=1, description="Share of the steps over which the rate rises from 0.")
    min_ratio: float = Field(0.0, ge=0, le=1, description="Final rate as a share of the peak.")
    max_grad_norm: float = Field(1.0, ge=0, description="Clip the global gradient norm to this; 0 = off.")
    clip: Literal["fixed", "running"] = Field(
        "fixed",
        description="running: max_grad_norm is a multiple of the running mean of the norms before (2 cuts outliers "
        "only), so that losses of any scale are clipped alike.",
    )

    def check_ready(self) -> None:
        """See that what these settings need is installed, before anything is sampled or measured.

        Raises:
            UserError: If not.
        """

    def build(self, params: Iterable[tuple[str, Parameter]]) -> UpdateRule:
        """The update rule over the trainable `(name, parameter)` pairs.

        They may be on the meta device, without numbers: `holdfast check` counts so what will be kept of them.
        """
        raise NotImplementedError

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of 0-based `step` out of `steps`.

        The steps of the warm-up are rounded up, so that a short run has one too; the first after them has the peak.
        """
        import math

        warm = min(steps - 1, math.ceil(self.warmup * steps - 1e-9))
        if step < warm:
            return self.learning_rate * (step + 1) / (warm + 1)
        progress = (step - warm) / max(1, steps - warm)
        shape = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}[
            self.schedule
        ]
        return self.learning_rate * (self.min_ratio + (1 - self.min_ratio) * shape)
