"""A softmax policy over a table of actions: a language model small enough that the optimum is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


def seeded_generator(seed: int) -> Generator:
    """A generator of random numbers of its own."""
    import torch

    return torch.Generator().manual_seed(seed)


def random_policy(*shape: int, seed: int, spread: float = 1.0) -> Tensor:
    """Log-probabilities [..., A] over the last axis, from normal logits of this spread; fp64."""
    import torch

    return (spread * torch.randn(*shape, generator=seeded_generator(seed), dtype=torch.float64)).log_softmax(-1)


def train_policy(
    reference: Tensor, loss: Callable[[Tensor], Tensor], *, steps: int, rate: float = 0.05, adam: bool = True
) -> Tensor:
    """The policy's log-probabilities [..., A] after so many steps of Adam, begun at the reference [..., A].

    Args:
        reference: Log-probabilities over the last axis.
        loss: From the policy's log-probabilities [..., A] to a scalar.
        steps: All on the whole loss.
        rate: The learning rate of the logits.
        adam: Else plain gradient descent, which keeps the gradients' scale: in a table every action has a logit of its
            own, and Adam moves those that are pushed weakly as fast as the others.
    """
    import torch

    logits = reference.clone().requires_grad_()
    optimizer = (torch.optim.Adam if adam else torch.optim.SGD)([logits], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(logits.log_softmax(-1)).backward()
        optimizer.step()
    return logits.detach().log_softmax(-1)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's."""
    from scipy import stats

    return float(stats.spearmanr(one.numpy(), other.numpy()).statistic)
