"""The skeleton of objectives over pairs: answers scored, a formula on [P, 2], row weights, and the figures one watches.

A method of this family says in `compare_pairs` what it makes of the pairs, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.objective import Losses, Objective
from holdfast.methods.objectives.terms.pairs import pair_metrics, reshape_by_row, row_weights

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Kind
    from holdfast.models.policy import Policy


@dataclass(slots=True)
class ScoredPairs:
    """The scored rows of a micro-batch; chosen first, rejected second, of triples the gold answer third.

    Args:
        policy, batch: What was scored, and by whom.
        logps: Log-probability of each label, [N].
        logratios: `logps` less those of the reference, [N]; without a reference as `logps`.
        answer_logps: Log-probability of each answer, [P, roles].
        gains: D(y) = s(y) - s_ref(y), summed token by token, [P, roles]; without a reference as `s`.
        lengths: Tokens of each answer, at least 1, [P, roles].
        extra: What a `score_pairs` of the method's own found beside.
    """

    policy: Policy
    batch: Batch
    logps: Tensor
    logratios: Tensor
    answer_logps: Tensor
    gains: Tensor
    lengths: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_logps(cls, policy: Policy, batch: Batch, logps: Tensor, reference: bool, **extra: Tensor) -> ScoredPairs:
        """Sum `logps` [N] by answer, and how far they are above the reference's, if there is one."""
        logratios = logps - policy.reference_logps(batch) if reference else logps
        answer_logps, gains = (reshape_by_row(batch.sum_per_sequence(values), batch) for values in (logps, logratios))
        lengths = reshape_by_row(batch.label_counts(), batch)
        return cls(policy, batch, logps, logratios, answer_logps, gains, lengths, extra)

    def weighted_sum(self, each: Tensor) -> Tensor:
        """The sum of `each` [P], every row by its weight."""
        return (each * row_weights(self.batch)).sum()


@dataclass(slots=True)
class Comparison:
    """What a formula makes of pairs.

    Args:
        sums: Term name to its differentiable sum over the micro-batch.
        rewards: What is compared, [P, 2 or more], for the figures one watches.
        metrics: More of these, as in `Losses`.
        swap_mask: Rows [P] whose rejected answer is the better one: in the figures the two change places.
    """

    sums: dict[str, Tensor]
    rewards: Tensor
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    swap_mask: Tensor | None = None


class PairObjective(Objective):
    """An objective over pairs. A method writes `compare_pairs`; `normalizers` too where it has more terms than
    `preference`.
    """

    rows: ClassVar[Kind] = "pair"

    def score_pairs(self, policy: Policy, batch: Batch) -> ScoredPairs:
        """The pairs with their log-probabilities; of its own where one forward pass has to give more than these."""
        return ScoredPairs.from_logps(policy, batch, policy.token_logps(batch), self.needs_reference)

    def compare_pairs(self, pairs: ScoredPairs) -> Comparison:
        """The formula."""
        raise self._build_missing_error("compare")

    def normalizers(self, batch: Batch) -> dict[str, float]:
        return {"preference": batch.n_rows}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        pairs = self.score_pairs(policy, batch)
        comparison = self.compare_pairs(pairs)
        s, rewards, gains = pairs.answer_logps, comparison.rewards, pairs.gains if self.needs_reference else None
        if comparison.swap_mask is not None:
            swap_column = comparison.swap_mask[:, None]  # [P, 1]
            s, rewards = s.where(~swap_column, s.flip(1)), rewards.where(~swap_column, rewards.flip(1))
            gains = None if gains is None else gains.where(~swap_column, gains.flip(1))
        return Losses(comparison.sums, pair_metrics(s, rewards, gains) | comparison.metrics)
