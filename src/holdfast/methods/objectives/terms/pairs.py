"""What objectives over several answers have in common: sums by row and role, and the figures that people watch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy


def reshape_by_row(values: Tensor, batch: Batch) -> Tensor:
    """Per-sequence `values` [S] as [R, S / R], where every row has equally many sequences."""
    return values.view(batch.n_rows, -1)


def answer_logps_and_lengths(policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
    """`(s, n)`: log-probability of each answer, fp32 and differentiable, and its length in tokens, [R, roles] each."""
    return reshape_by_row(batch.sum_per_sequence(policy.token_logps(batch)), batch), reshape_by_row(
        batch.label_counts(), batch
    )


def compute_gains(policy: Policy, batch: Batch, states: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """`(gains, s, n)`, [R, roles] each: D(y) = s(y) - s_ref(y), summed token by token, then as
    `answer_logps_and_lengths`.

    Args:
        states: Final hidden states [N, D] where the labels are predicted, where they are known.
    """
    logps = policy.token_logps(batch, states=states)
    gains = batch.sum_per_sequence(logps - policy.reference_logps(batch))
    return (
        reshape_by_row(gains, batch),
        reshape_by_row(batch.sum_per_sequence(logps), batch),
        reshape_by_row(batch.label_counts(), batch),
    )


def row_weights(batch: Batch) -> Tensor:
    """The weight of each row, [R]."""
    return batch.sequence_weights()[batch.roles == 0]


CHOSEN, CHANGE = "logps/chosen", "logps/chosen_change"
"""Metrics: log-probability of chosen answers, and by how much it is above the reference's."""


def pair_metrics(
    s: Tensor, rewards: Tensor | None = None, gains: Tensor | None = None
) -> dict[str, tuple[float, float]]:
    """Metrics of pairs: log-probabilities, and how often and by how much chosen is rewarded above rejected.

    `logps/accuracy` is how often chosen is the likelier; at the first step it is what the base thinks of the pairs.

    Args:
        s: Log-probabilities [R, 2 or more], chosen first, rejected second.
        rewards: What the objective compares, [R, 2]; default `s`.
        gains: Log-probabilities less those of the reference, [R, 2], where there is one.
    """
    count = float(len(s))
    s, rewards = s.detach(), (s if rewards is None else rewards).detach()
    margins = rewards[:, 0] - rewards[:, 1]
    change = {} if gains is None else {CHANGE: (gains[:, 0].detach().sum().item(), count)}
    return change | {
        CHOSEN: (s[:, 0].sum().item(), count),
        "logps/rejected": (s[:, 1].sum().item(), count),
        "logps/accuracy": ((s[:, 0] > s[:, 1]).sum().item(), count),
        "rewards/accuracy": ((margins > 0).sum().item(), count),
        "rewards/margin": (margins.sum().item(), count),
        "rewards/chosen": (rewards[:, 0].sum().item(), count),
        "rewards/rejected": (rewards[:, 1].sum().item(), count),
    }


def row_indices(batch: Batch) -> Tensor:
    """For each sequence [S], which of the micro-batch's rows it belongs to, 0..R-1."""
    return (batch.roles == 0).cumsum(0) - 1


def log1m_exp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x <= 0, accurate at both ends; -87 stands for the infinity at 0, where the gradient is 0.

    Source: Maechler 2012, Accurately Computing log(1 - exp(-|a|)).
    """
    import torch

    x = x.clamp_max(-math.exp(-87))
    near = x > -math.log(2)
    # The branch not taken must not make its gradient infinite.
    one = torch.log(-torch.expm1(torch.where(near, x, -math.log(2))))
    other = torch.log1p(-torch.exp(torch.where(near, -math.log(2), x)))
    return torch.where(near, one, other)


def log_odds(means: Tensor) -> Tensor:
    """log P / (1 - P) of answers whose mean log-probability per token, log P, is `means`."""
    return means - log1m_exp(means)
