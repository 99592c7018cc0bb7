"""The contract of an objective: named sums, and the unit each sum is counted in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from holdfast.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batches import Batch
    from holdfast.policy import Policy

Unit = Literal["tokens", "sequences", "pairs"]
"""What a term is divided by: trained tokens (weighted), trained sequences, or chosen/rejected pairs."""


@dataclass(slots=True)
class Losses:
    """What an objective makes of one micro-batch.

    Args:
        sums: Term name to a differentiable scalar *sum* over the micro-batch.
        metrics: Name to `(sum, count)` of anything worth logging (reward accuracy, margin); detached.
    """

    sums: dict[str, Tensor]
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)


class Objective(Method):
    """What is minimised.

    An objective never divides: `units` says what each term is counted in, and the trainer divides by that count over
    the whole accumulated batch of all ranks, so that 8 x 1 = 1 x 8 = packed = unpacked.
    """

    rows: ClassVar[Literal["answer", "pair"]] = "answer"
    """Which rows it trains on: conversations with answers, or prompts with `chosen` and `rejected`."""

    needs_reference: ClassVar[bool] = False
    """Whether it calls `policy.reference_logps`."""

    def units(self) -> dict[str, Unit]:
        """The unit of each term, the total loss being the sum over terms of sum / count."""
        raise NotImplementedError

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        """The terms' sums on one micro-batch."""
        raise NotImplementedError
