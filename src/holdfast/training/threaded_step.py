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

BatchScores = tuple[dict[str, Tensor], dict[str, tuple[float, float]]]
"""Sums and metrics of a micro-batch."""


def partition_rows(rows: Sequence[int], lengths: Any, num_workers: int) -> list[list[int]]:
    """Rows as `num_workers` hands of like many tokens, fewer if there are fewer rows: each goes to the hand that has
    least.

    Args:
        rows: Longest first.
        lengths: Tokens of every row of the table.
    """
    shards: list[list[int]] = [[] for _ in range(min(num_workers, len(rows)))]
    shard_tokens = [0] * len(shards)
    for row in rows:
        least = shard_tokens.index(min(shard_tokens))
        shards[least].append(row)
        shard_tokens[least] += int(lengths[row])
    return shards


def run_threaded_backward(
    score: Callable[[Batch], BatchScores],
    batches: Sequence[Batch],
    factors: Mapping[str, float],
    parameters: Sequence[Tensor],
    num_workers: int,
) -> list[BatchScores]:
    """Scores every micro-batch and adds the gradient of all, weighted by term, to the parameters' `grad`.

    Args:
        score: An objective on a policy, as `ObjectiveModule`; called in threads that compute on one core each.
        batches: Number i goes to lane i % lanes.
        factors: Term to what its sum is multiplied by in the loss.
        parameters: Those that train.
    """

    def run_worker(worker: int) -> tuple[list[BatchScores], list[Tensor | None]]:
        scores, total = [], None
        for batch in batches[worker::num_workers]:
            terms, metrics = score(batch)
            loss = torch.stack([terms[term] * factor for term, factor in factors.items()]).sum()
            total = add_gradients(total, torch.autograd.grad(loss, parameters, allow_unused=True))
            scores.append(({term: value.detach() for term, value in terms.items()}, metrics))
        return scores, total or [None] * len(parameters)

    with threads.one_core_threads(num_workers) as pool:
        results = list(pool.map(run_worker, range(num_workers)))
    total = None
    for _, gradients in results:
        total = add_gradients(total, gradients)
    for parameter, gradient in zip(parameters, total or (), strict=False):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return [results[index % num_workers][0][index // num_workers] for index in range(len(batches))]


def add_gradients(total: Sequence[Tensor | None] | None, more: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sums by parameter; never in place, since gradients of several parameters may be one tensor."""
    if total is None:
        return list(more)
    return [b if a is None else a if b is None else a + b for a, b in zip(total, more, strict=True)]
