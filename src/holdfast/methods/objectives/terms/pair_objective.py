"""The skeleton of objectives over pairs: answers scored, a formula on [P, 2], row weights, and the figures one watches.

A method of this family says in `compare` what it makes of the pairs, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.objective import Losses, Objective
from holdfast.methods.objectives.terms.pairs import by_row, row_weights, watched

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy


@dataclass(slots=True)
class Pairs:
    """The scored rows of a micro-batch; chosen first, rejected second, of triples the gold answer third.

    Args:
        policy, batch: What was scored, and by whom.
        logps: Log-probability of each label, [N].
        above: `logps` less those of the reference, [N]; without a reference as `logps`.
        s: Log-probability of each answer, [P, roles].
        gains: D(y) = s(y) - s_ref(y), summed token by token, [P, roles]; without a reference as `s`.
        lengths: Tokens of each answer, at least 1, [P, roles].
        extra: What a `score` of the method's own found beside.
    """

    policy: Policy
    batch: Batch
    logps: Tensor
    above: Tensor
    s: Tensor
    gains: Tensor
    lengths: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, policy: Policy, batch: Batch, logps: Tensor, reference: bool, **extra: Tensor) -> Pairs:
        """Sum `logps` [N] by answer, and how far they are above the reference's, if there is one."""
        above = logps - policy.reference_logps(batch) if reference else logps
        s, gains = (by_row(batch.per_sequence(values), batch) for values in (logps, above))
        lengths = by_row(batch.lengths(), batch)
        return cls(policy, batch, logps, above, s, gains, lengths, extra)

    def sum(self, each: Tensor) -> Tensor:
        """The sum of `each` [P], every row by its weight."""
        return (each * row_weights(self.batch)).sum()


@dataclass(slots=True)
class Comparison:
    """What a formula makes of pairs.

    Args:
        sums: Term name to its differentiable sum over the micro-batch.
        rewards: What is compared, [P, 2 or more], for the figures one watches.
        metrics: More of these, as in `Losses`.
        swapped: Rows [P] whose rejected answer is the better one: in the figures the two change places.
    """

    sums: dict[str, Tensor]
    rewards: Tensor
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    swapped: Tensor | None = None


class PairObjective(Objective):
    """An objective over pairs. A method writes `compare`; `counts` too where it has more terms than `preference`."""

    rows: ClassVar[Kind] = "pair"

    def score(self, policy: Policy, batch: Batch) -> Pairs:
        """The pairs with their log-probabilities; of its own where one forward pass has to give more than these."""
        return Pairs.of(policy, batch, policy.token_logps(batch), self.needs_reference)

    def compare(self, pairs: Pairs) -> Comparison:
        """The formula."""
        raise self._lacks("compare")

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"preference": batch.n_rows}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        pairs = self.score(policy, batch)
        found = self.compare(pairs)
        s, rewards, gains = pairs.s, found.rewards, pairs.gains if self.needs_reference else None
        if found.swapped is not None:
            swapped = found.swapped[:, None]  # [P, 1]
            s, rewards = s.where(~swapped, s.flip(1)), rewards.where(~swapped, rewards.flip(1))
            gains = None if gains is None else gains.where(~swapped, gains.flip(1))
        return Losses(found.sums, watched(s, rewards, gains) | found.metrics)
