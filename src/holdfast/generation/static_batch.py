"""Continuous batching over slots that never move, for CUDA graphs.

Prompts are read outside the graph and copied into their slots. A few steps run one after another on the device, which
itself sees who has ended; then the tokens of all of them come to the host at once, which finds stop strings, follows
budgets of thoughts, hands out what is finished and fills the slots. The host's view is what counts: what a sequence
drew after its stop string is forgotten, and where a thought is closed by force, which the device knew nothing of, all
slots go on from there; what they drew since is drawn again, the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch

from holdfast.axes.engine import Sample
from holdfast.generation.continuous_batch import ContinuousBatch, DecodeJob, PendingSample, Step, read_prompts
from holdfast.generation.static_cache import StaticSlotCache, choose_columns, count_fitting_slots, round_capacity
from holdfast.generation.static_forward import StaticForward, describe_decline
from holdfast.generation.static_step import StaticStep, StepRunner
from holdfast.models.compiled_layers import pause_compiled

STEPS = 4
"""Steps between two transfers of tokens to the host."""
SHRINK = 4
"""The batch becomes this many times smaller once all its sequences fit: each size costs a graph of its own."""


class StaticBatch(ContinuousBatch):
    """Slots of a fixed number of columns, which is changed only where a thought opens that the prompt did not begin.

    Args:
        job: What the batches of a call have in common.
        sequences: To be decoded.
        cache: The slots.
        forward: The model, over such a cache.
        captures: Whether steps become CUDA graphs.
        steps: Between two transfers to the host.
        say: Told in a line what cannot be captured.
        runner: Of an earlier call, over the same cache, with its graphs; default a new one.
    """

    cache: StaticSlotCache
    step_key: Hashable = None
    """What its graphs depend on beside their own tensors (`kept_graphs.describe_step`)."""

    def __init__(
        self,
        job: DecodeJob,
        sequences: list[PendingSample],
        cache: StaticSlotCache,
        forward: StaticForward,
        *,
        captures: bool,
        steps: int = STEPS,
        say: Callable[[str], Any],
        runner: StepRunner | None = None,
    ) -> None:
        super().__init__(job, sequences, len(cache.numbers))
        self.cache, self.steps = cache, steps
        self.runner = runner or StepRunner(StaticStep(forward, cache, job.params, self.stops), captures, say)
        self.step = self.runner.step
        self.block = torch.zeros(steps, len(cache.numbers), dtype=torch.long, device=self.device)
        self.logps_block = torch.zeros(steps, len(cache.numbers), device=self.device)

    @torch.no_grad()
    @pause_compiled()
    def decode_step(self) -> Step:
        """Fill free slots if there are enough of them, decode a few tokens in each."""
        self.counts = Counter()
        self._refill_slots()
        limits = self.limit.copy()
        samples: list[Sample] = []
        for tokens, logps in zip(*self._decode_block(), strict=True):
            samples += self._record_tokens(tokens, logps if self.params.keep_ids else None)
            # A thought that opened may leave its sequence more than the device knew, which has ended it then.
            goes_on = self.live & (self.token_counts >= limits)
            if not self.live.any() or goes_on.any() or self._closes_thoughts():
                break
        return samples, self.counts

    def _closes_thoughts(self) -> bool:
        """Whether a sequence's next token is not the one that is drawn."""
        return self.thinks and any(one and one.thought and one.thought.forced_ids for one in self.occupant)

    def _decode_block(self) -> tuple[np.ndarray, np.ndarray]:
        """The next tokens of each slot and how likely they were, [steps, slots] each; behind a sequence's last one
        stands nothing of meaning.
        """
        size = len(self.live)
        rows = [self.current, self.past, self.token_counts, self.live, self.limit, self.seeds.view(np.int64)]
        self.step.state[:, :size].copy_(torch.from_numpy(np.stack(rows)))  # [6, size]
        remaining = np.where(self.live, self.limit - self.token_counts, 0)  # tokens each may still get
        steps = 1 if self._closes_thoughts() else min(self.steps, int(remaining.max()))
        token_count = int((self.past + np.minimum(remaining, steps)).max())
        if token_count > self.cache.capacity:
            self._grow_slots(int((self.past + remaining).max()))
        columns = choose_columns(token_count, self.cache.capacity)
        for number in range(steps):
            self.runner.run_step(size, columns)
            self.block[number, :size].copy_(self.step.state[0, :size])
            self.logps_block[number, :size].copy_(self.step.logps[:size])
        blocks = (self.block, self.logps_block)
        tokens, logps = (block[:steps, :size].cpu().numpy().copy() for block in blocks)  # they are written again
        return tokens, logps

    def _grow_slots(self, most: int) -> None:
        """Make the slots longer, up to twice; `most` is what the longest sequence can come to."""
        self.runner.forget_graphs()
        self.cache.grow_columns(round_capacity(min(most, 2 * self.cache.capacity)))

    def _drop_empty_slots(self, free: int) -> None:
        """Decode fewer slots once all sequences fit into them; the last ones move into the gaps."""
        size, count = len(self.live), len(self.live) - free
        while size > 1 and count <= -(-size // SHRINK):
            size = -(-size // SHRINK)
        if size < len(self.live):
            movers, holes = self._gather_slots(size)
            self.cache.move_slots(torch.from_numpy(movers), torch.from_numpy(holes), int(self.past.max()))


def plan_static_batch(
    job: DecodeJob,
    sequences: list[PendingSample],
    slots: int,
    forward: StaticForward,
    take_kept: Callable[[int, int], StepRunner | None],
    **options: Any,
) -> tuple[StaticBatch | None, str]:
    """A static batch for all sequences, and what is to be said of it in a line; no batch where memory holds no slot.

    Args:
        slots: Most of them; fewer where the device's free memory holds fewer of the longest sequence asked for.
        take_kept: Gives slots and graphs of an earlier call, if it left so many slots with so many columns.
        options: Of `StaticBatch`.
    """
    # The last token is never read; a thought that the prompt did not open is not reckoned with.
    longest = max(len(s.prompt) + (s.thought.limit if s.thought else s.limit) for s in sequences) - 1
    capacity, most_slots = round_capacity(longest), min(slots, len(sequences))
    if runner := take_kept(most_slots, capacity):
        return StaticBatch(job, sequences, runner.step.cache, forward, runner=runner, **options), ""
    first = sequences[0]
    like = read_prompts(job.forward, job.model.device, [first.prompt[:1] * 2])  # one token as the model keeps it
    count = count_fitting_slots(most_slots, capacity, like)
    if count < 1:
        return None, describe_decline(f"memory for {longest:,} tokens (prompt and answer) is not free")
    line = "" if count == most_slots else (
        f"sampling.slots: decoding {count} sequences together, not {most_slots}: no more of up to {longest:,} tokens "
        "fit into the memory that is free"
    )  # fmt: skip
    cache = StaticSlotCache(count, capacity, like)
    return StaticBatch(job, sequences, cache, forward, **options), line
