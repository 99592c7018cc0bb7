"""Continuous batching over a cache that grows and shrinks between steps, drawn from with help of the host.

This suits a CPU, where memory is dear and launching an operation is not: no column is read that no sequence needs.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from holdfast.generation.continuous_batch import REFILL, ContinuousBatch, DecodeJob, PendingSample, Step
from holdfast.generation.kv_cache import GROWTH, SlotCache
from holdfast.generation.token_sampler import choose_tokens, compute_token_logps, uniform_numbers
from holdfast.models.compiled_layers import pause_compiled
from holdfast.models.placement import widest_dtype


class GrowingBatch(ContinuousBatch):
    """Slots whose newest tokens share a column; empty ones are dropped once nothing waits."""

    cache: SlotCache

    def __init__(self, job: DecodeJob, sequences: list[PendingSample], slots: int) -> None:
        super().__init__(job, sequences, slots)
        longest = max(len(s.prompt) for s in sequences) - 1
        self.cache = SlotCache(len(self.live), longest + GROWTH, job.forward.layers)
        self.cache.cursor = longest

    @torch.no_grad()
    @pause_compiled()
    def decode_step(self) -> Step:
        """Fill free slots if there are enough of them, decode one token in each."""
        self.counts = Counter()
        self._refill_slots()
        samples = self._record_tokens(*self._decode_tokens())
        self.cache.cursor += 1
        return samples, self.counts

    def _decode_tokens(self) -> tuple[np.ndarray, np.ndarray | None]:
        """One forward pass over all slots: the next token of each, and where they are kept log-probabilities, [slots]
        each.
        """
        cache, past = self.cache, int(self.past.max())
        if cache.cursor == cache.columns:
            cache.make_room(past)
        cache.past = past
        mask = np.arange(past + 1) >= past - self.past[:, None]  # [slots, columns in use]
        ids, positions = self._to_device(self.current[:, None]), self._to_device(self.past[:, None])
        places = self._to_device(self.token_counts)
        logits = self.forward.decode_logits(ids, positions, self._to_device(mask), cache, places)
        tokens = self._draw_tokens(logits)
        logps = compute_token_logps(logits, tokens).cpu().numpy() if self.params.keep_ids else None
        return tokens.cpu().numpy(), logps

    def _draw_tokens(self, logits: Tensor) -> Tensor:
        """The next token of each slot [slots], by logits [slots, V]."""
        return choose_tokens(logits, self._random_numbers() if self.params.temperature else None, self.params)

    def _random_numbers(self) -> Tensor:
        """The number in [0, 1) that draws the next token of each slot, [slots]."""
        randoms = torch.from_numpy(uniform_numbers(self.seeds, self.token_counts)).to(widest_dtype(self.device))
        return randoms.to(self.device)

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _make_room(self, longest: int) -> None:
        if longest > self.cache.cursor:
            self.cache.make_room(int(self.past.max()), new_cursor=longest)

    def _drop_empty_slots(self, free: int) -> None:
        """Drop the empty slots, if they are not few; the last sequences move into the gaps."""
        if free * REFILL < len(self.live):
            return
        past = int(self.past.max())
        count = len(self.live) - free
        movers, holes = self._gather_slots(count)
        self.cache.keep_slots(count, torch.from_numpy(movers), torch.from_numpy(holes), past)
