"""A step on several cores at once: each takes some of its rows through forward and backward pass, alone.

Splitting every operation of a small model over cores costs more than it saves: a step's rows, split once, need no
meeting but at the end. Gradients are summed in a fixed order, so that a run repeats to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.core import threads

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch

Scored = tuple[dict[str, Tensor], dict[str, tuple[float, float]]]
"""Sums and metrics of a micro-batch."""


def deal(rows: Sequence[int], lengths: Any, lanes: int) -> list[list[int]]:
    """Rows as `lanes` hands of like many tokens, fewer if there are fewer rows: each goes to the hand that has least.

    Args:
        rows: Longest first.
        lengths: Tokens of every row of the table.
    """
    hands: list[list[int]] = [[] for _ in range(min(lanes, len(rows)))]
    held = [0] * len(hands)
    for row in rows:
        least = held.index(min(held))
        hands[least].append(row)
        held[least] += int(lengths[row])
    return hands


def side_by_side(
    score: Callable[[Batch], Scored],
    batches: Sequence[Batch],
    factors: Mapping[str, float],
    parameters: Sequence[Tensor],
    lanes: int,
) -> list[Scored]:
    """Scores every micro-batch and adds the gradient of all, weighted by term, to the parameters' `grad`.

    Args:
        score: An objective on a policy, as `Scorer`; called in threads that compute on one core each.
        batches: Number i goes to lane i % lanes.
        factors: Term to what its sum is multiplied by in the loss.
        parameters: Those that train.
    """

    def run(lane: int) -> tuple[list[Scored], list[Tensor | None]]:
        found, total = [], None
        for batch in batches[lane::lanes]:
            terms, metrics = score(batch)
            loss = torch.stack([terms[term] * factor for term, factor in factors.items()]).sum()
            total = added(total, torch.autograd.grad(loss, parameters, allow_unused=True))
            found.append(({term: value.detach() for term, value in terms.items()}, metrics))
        return found, total or [None] * len(parameters)

    with threads.one_each(lanes) as pool:
        done = list(pool.map(run, range(lanes)))
    total = None
    for _, gradients in done:
        total = added(total, gradients)
    for parameter, gradient in zip(parameters, total or (), strict=False):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return [done[index % lanes][0][index // lanes] for index in range(len(batches))]


def added(total: Sequence[Tensor | None] | None, more: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sums by parameter; never in place, since gradients of several parameters may be one tensor."""
    if total is None:
        return list(more)
    return [b if a is None else a if b is None else a + b for a, b in zip(total, more, strict=True)]
