"""The arithmetic of a plan on paper: operations, traffic and memory of training, and what writing answers takes.

A step of training takes the longer of its operations and its traffic. A token takes 2 operations a weight forward, 2
for the gradient of what enters, and 2 for that of each weight that trains: 6 where all do. Weights that are shared out
(FSDP) are gathered in 16 bits forward and once more backward, and gradients are summed and scattered, in each
micro-batch. A step of writing reads the weights once for all answers, and the keys and values of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.models.shape import ModelSize

HALF = 2
"""Bytes of a weight in 16 bits, as it is gathered and read."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """So many GPUs, with what each of them reaches.

    Args:
        gpus: How many.
        flops: Operations a second.
        bandwidth: Bytes of its memory a second.
        exchange: Bytes a second to the others.
        room: Bytes for weights and cache while answers are written.
    """

    gpus: int
    flops: float
    bandwidth: float
    exchange: float
    room: float


@dataclass(frozen=True, slots=True)
class StepCost:
    """One step of training.

    Args:
        flops: Operations, over all GPUs.
        compute_seconds, traffic_seconds: What these, and the exchanges, take.
    """

    flops: float
    compute_seconds: float
    traffic_seconds: float

    @property
    def seconds(self) -> float:
        return max(self.compute_seconds, self.traffic_seconds)

    @property
    def bound(self) -> str:
        """What takes the time."""
        return "compute" if self.compute_seconds >= self.traffic_seconds else "traffic"


def count_forward_flops(size: ModelSize, length: float) -> float:
    """Operations of a token in a forward pass.

    Args:
        length: Tokens of its row: on average it looks at half of them, with two operations for scores and two for sums.
    """
    return 2 * size.active + 2 * size.layers * size.attention_width * length


def count_training_flops(size: ModelSize, length: float, is_recomputed: bool) -> float:
    """Operations of a token in a step of training.

    Args:
        is_recomputed: Whether layers are computed once more in the backward pass.
    """
    forward = count_forward_flops(size, length)
    backward = 2 * size.active + 2 * size.trained_active + 4 * size.layers * size.attention_width * length
    return forward * (2 if is_recomputed else 1) + backward


def count_traffic(size: ModelSize, gpus: int, gradient_bytes: float) -> float:
    """Bytes that a GPU sends for a micro-batch: weights gathered twice, gradients scattered; none where it is alone."""
    whole = 2 * HALF * size.parameters + gradient_bytes * size.trained
    return whole * (gpus - 1) / gpus


def compute_step_cost(
    size: ModelSize, cluster: Cluster, tokens: float, length: float, rows: float, passes: int, *,
    is_recomputed: bool = False, gradient_bytes: float = 4,
) -> StepCost:  # fmt: skip
    """What a step takes.

    Args:
        tokens: Of a step, over all GPUs.
        length: Of a row, on average.
        rows: Of a step: more GPUs than these have nothing to compute.
        passes: Micro-batches of a step on each GPU.
    """
    flops = tokens * count_training_flops(size, length, is_recomputed)
    computing = min(cluster.gpus, max(1, math.floor(rows)))
    traffic = passes * count_traffic(size, cluster.gpus, gradient_bytes)
    return StepCost(flops, flops / (computing * cluster.flops), traffic / cluster.exchange)


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """How answers are written.

    Args:
        per_copy: GPUs that a copy of the model is spread over.
        copies: Copies that write side by side.
        batch: Answers that one writes at once.
        step_seconds: Of a token of all of them.
        bound: "bandwidth" or "compute".
    """

    per_copy: int
    copies: int
    batch: int
    step_seconds: float
    bound: str

    @property
    def tokens_per_second(self) -> float:
        """Of all copies together."""
        return self.copies * self.batch / self.step_seconds


def plan_decoding(
    size: ModelSize, cluster: Cluster, slots: int, prompt: float, answer: float, answers: float, copies: int = 0
) -> DecodePlan | None:
    """Spread a model that writes over as few GPUs as hold it, and as many copies as there is room for.

    Args:
        slots: Most answers of a copy at once.
        prompt, answer: Tokens of each, on average.
        answers: How many there are to write.
        copies: At most so many; 0: no limit.
    Returns:
        None where all GPUs together do not hold it.
    """
    longest = (prompt + answer) * size.cache_bytes
    per_copy = 1
    while per_copy * cluster.room < HALF * size.parameters + longest:
        if per_copy >= cluster.gpus:
            return None
        per_copy = min(2 * per_copy, cluster.gpus)
    count = min(cluster.gpus // per_copy, copies or cluster.gpus)
    fitting = (per_copy * cluster.room - HALF * size.parameters) / longest if longest else slots
    batch = max(1, min(slots, math.floor(fitting), math.ceil(answers / count)))
    read = HALF * size.read_parameters(batch) + batch * (prompt + answer / 2) * size.cache_bytes
    reading = read / (per_copy * cluster.bandwidth)
    computing = batch * count_forward_flops(size, prompt + answer) / (per_copy * cluster.flops)
    return DecodePlan(
        per_copy, count, batch, max(reading, computing), "bandwidth" if reading >= computing else "compute"
    )


def compute_reading_seconds(size: ModelSize, cluster: Cluster, plan: DecodePlan, tokens: float, length: float) -> float:
    """What the copies of a plan take to read so many tokens of texts of this length."""
    flops = tokens * count_forward_flops(size, length)
    return flops / (plan.per_copy * plan.copies * cluster.flops)
