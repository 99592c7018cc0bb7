"""Continuous batching: a fixed number of slots that decode together.

A finished sequence leaves its slot at once and a waiting one enters; a prompt is read once however many samples it
gets. Waiting prompts are read in batches of like length, all but their last token, which becomes the sequence's first
decoding step, so that sampling happens in one place only.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from holdfast.axes.engine import Sample, SamplingParams
from holdfast.data.thoughts import split_thought
from holdfast.generation.fused_decode import Forward
from holdfast.generation.kv_cache import GROWTH, PrefilledPrompts, SlotCache
from holdfast.generation.thought_budget import ThoughtState
from holdfast.generation.token_sampler import choose_tokens, uniform_numbers
from holdfast.models.placement import widest_dtype

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.models.loading import Model

REFILL = 8
"""Free slots are filled (dropped, where nothing waits) once one in this many is free: one by one would cost more."""
PREFILL_TOKENS = {"cpu": 768, "mps": 4096}
"""Prompt tokens (with padding) read in one forward pass, by device: on a CPU, activations should stay in its cache."""
PREFILL_TOKENS_OF_CARDS = 16384


Step = tuple[list[Sample], Counter[str]]
"""What one step finished, and its "tokens", "steps" and "prompt tokens"."""


@dataclass(slots=True)
class PendingSample:
    """One sample on its way: `limit` is the most tokens it may get, by `max_tokens` and the model's context."""

    key: str
    index: int
    prompt: list[int]
    limit: int
    seed: int
    opening: str = ""
    """What the prompt has opened of a thought."""
    thought: ThoughtState | None = None


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """What the batches of one call have in common.

    Args:
        ends: Which tokens can complete a stop string, bool [vocabulary]; `None` without stop strings.
        shared: What all prompts begin with, already read; `None` if that is little.
    """

    model: Model
    chat: Chat
    forward: Forward
    params: SamplingParams
    ends: np.ndarray | None
    shared: PrefilledPrompts | None


class DecodeBatch:
    """What waits, what decodes, and the arrays that describe the slots.

    Slot arrays are NumPy, one entry a slot; a slot without a sequence has `past` 0 and computes a value nobody reads.
    """

    def __init__(self, job: DecodeJob, sequences: list[PendingSample], slots: int) -> None:
        self.job, self.params, self.forward = job, job.params, job.forward
        self.device = job.model.device
        self.counts: Counter[str] = Counter()
        self.thinks = any(sequence.thought for sequence in sequences)
        self.waiting = deque(sequences)
        self.ready: deque[tuple[PendingSample, PrefilledPrompts, int]] = deque()
        rows = min(slots, len(sequences))
        longest = max(len(s.prompt) for s in sequences) - 1
        self.cache = SlotCache(rows, longest + GROWTH, job.forward.layers)
        self.cache.cursor = longest
        self.occupant: list[PendingSample | None] = [None] * rows
        self.past = np.zeros(rows, dtype=np.int64)
        self.current = np.zeros(rows, dtype=np.int64)
        self.token_counts = np.zeros(rows, dtype=np.int64)
        self.limit = np.ones(rows, dtype=np.int64)
        self.seeds = np.zeros(rows, dtype=np.uint64)
        self.live = np.zeros(rows, dtype=bool)
        self.tokens = np.zeros((rows, max(s.limit for s in sequences)), dtype=np.int32)
        self.stops = np.array(sorted(job.chat.stop_ids), dtype=np.int64)

    @property
    def busy(self) -> bool:
        return bool(self.live.any() or self.waiting or self.ready)

    @torch.no_grad()
    def decode_step(self) -> Step:
        """Fill free slots if there are enough of them, decode one token in each."""
        self.counts = Counter()
        free = len(self.live) - int(self.live.sum())
        if self.waiting or self.ready:
            if free >= max(1, len(self.live) // REFILL):
                self._admit_waiting(free)
        elif free * REFILL >= len(self.live):
            self._drop_empty_slots()
        tokens = self._decode_tokens()
        rows = np.flatnonzero(self.live)
        if self.thinks:
            self._force_closing(rows, tokens)
        self.tokens[rows, self.token_counts[rows]] = tokens[rows]
        self.token_counts += self.live
        if self.thinks:
            self._follow_thoughts(rows, tokens)
        self.past += self.live
        self.current = tokens
        self.cache.cursor += 1
        self.counts.update({"tokens": len(rows), "steps": 1})
        return self._collect_finished(rows, tokens), self.counts

    def _force_closing(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        """Put the marks that close a thought over budget in the place of what was drawn, one a step."""
        for row in rows.tolist():
            sequence = self.occupant[row]
            if sequence and sequence.thought and sequence.thought.forced_ids:
                tokens[row], *rest = sequence.thought.forced_ids
                sequence.thought.forced_ids = tuple(rest)

    def _follow_thoughts(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        """See which thoughts begin, end or reach their budget, and what each sequence may still write."""
        for row in rows.tolist():
            sequence, num_tokens = self.occupant[row], int(self.token_counts[row])
            if tokens[row] in self.stops:
                continue
            if sequence and sequence.thought and sequence.thought.thinking is not False:
                sequence.thought.follow_token(num_tokens, int(tokens[row]), partial(self._output_text, row, num_tokens))
                self.limit[row] = sequence.thought.limit

    def _decode_tokens(self) -> np.ndarray:
        """One forward pass over all slots: the next token of each, [slots]."""
        cache, past = self.cache, int(self.past.max())
        if cache.cursor == cache.columns:
            cache.make_room(past)
        cache.past = past
        mask = np.arange(past + 1) >= past - self.past[:, None]  # [slots, columns in use]
        ids, positions = self._to_device(self.current[:, None]), self._to_device(self.past[:, None])
        logits = self.forward.decode_logits(ids, positions, self._to_device(mask), cache)
        randoms = torch.from_numpy(uniform_numbers(self.seeds, self.token_counts)).to(widest_dtype(self.device))
        uniform = randoms.to(self.device) if self.params.temperature else None
        return choose_tokens(logits, uniform, self.params).cpu().numpy()

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _admit_waiting(self, free: int) -> None:
        """Put waiting sequences into the free slots, reading their prompts first where that has not happened."""
        while len(self.ready) < free and self.waiting:
            self._prefill_prompts()
        rows = np.flatnonzero(~self.live)[: len(self.ready)].tolist()
        entering = [self.ready.popleft() for _ in rows]
        longest = max(len(s.prompt) - 1 for s, _, _ in entering)
        if longest > self.cache.cursor:
            self.cache.make_room(int(self.past.max()), new_cursor=longest)
        batches: dict[int, list[tuple[int, int, int, PrefilledPrompts]]] = {}
        for row, (sequence, source, prompt) in zip(rows, entering, strict=True):
            self._fill_slot(row, sequence)
            if len(sequence.prompt) > 1:
                batches.setdefault(id(source), []).append((prompt, row, len(sequence.prompt) - 1, source))
        for batch in batches.values():
            prompts, slots, lengths, sources = zip(*batch, strict=True)
            self.cache.insert_prompts(sources[0], prompts, slots, lengths)

    def _fill_slot(self, row: int, sequence: PendingSample) -> None:
        self.occupant[row] = sequence
        self.live[row] = True
        self.past[row] = len(sequence.prompt) - 1
        self.current[row] = sequence.prompt[-1]
        self.token_counts[row] = 0
        self.limit[row] = sequence.thought.limit if sequence.thought else sequence.limit
        self.seeds[row] = sequence.seed

    def _prefill_prompts(self) -> None:
        """Read the next prompts, without their last tokens, in one batch padded right (no mask is needed then)."""
        width = max(1, len(self.waiting[0].prompt) - 1)
        most = max(1, PREFILL_TOKENS.get(self.device.type, PREFILL_TOKENS_OF_CARDS) // width)
        prompts: list[list[int]] = []
        entries: list[tuple[PendingSample, int]] = []
        while self.waiting:
            if not prompts or self.waiting[0].prompt != prompts[-1]:
                if len(prompts) == most:
                    break
                prompts.append(self.waiting[0].prompt)
            entries.append((self.waiting.popleft(), len(prompts) - 1))
        source = read_prompts(self.forward, self.device, prompts, self.job.shared)
        shared_length = self.job.shared.length if self.job.shared else 0
        self.counts["prompt tokens"] += sum(len(prompt) - 1 - shared_length for prompt in prompts)
        self.ready.extend((sequence, source, prompt) for sequence, prompt in entries)

    def _drop_empty_slots(self) -> None:
        """Drop the empty slots once nothing waits for them; the last sequences move into the gaps."""
        count = int(self.live.sum())
        holes, movers = np.flatnonzero(~self.live[:count]), count + np.flatnonzero(self.live[count:])
        self.cache.keep_slots(count, torch.from_numpy(movers), torch.from_numpy(holes), int(self.past.max()))
        for hole, mover in zip(holes, movers, strict=True):
            self.occupant[hole] = self.occupant[mover]
        del self.occupant[count:]
        for name in ("past", "current", "token_counts", "limit", "seeds", "live", "tokens"):
            array = getattr(self, name)
            array[holes] = array[movers]
            setattr(self, name, array[:count])

    def _collect_finished(self, rows: np.ndarray, tokens: np.ndarray) -> list[Sample]:
        """Samples that the tokens just drawn have ended; their slots become free."""
        stop_mask = np.isin(tokens, self.stops) & self.live
        end_mask = stop_mask | (self.live & (self.token_counts >= self.limit))
        cut: dict[int, str] = {}
        if self.job.ends is not None:
            for row in rows[self.job.ends[tokens[rows]] & ~stop_mask[rows]].tolist():
                text = self._output_text(row, self.token_counts[row])
                if (place := find_stop(text, self.occupant[row], self.params.stop)) >= 0:
                    cut[row] = text[:place]
                    end_mask[row] = True
        samples = []
        for row in np.flatnonzero(end_mask).tolist():
            sequence, num_tokens = self.occupant[row], int(self.token_counts[row])
            assert sequence is not None
            text = cut[row] if row in cut else self._output_text(row, num_tokens - int(stop_mask[row]))
            finish: Literal["stop", "length"] = "stop" if stop_mask[row] or row in cut else "length"
            samples.append(build_sample(sequence, text, finish, num_tokens))
            self.occupant[row] = None
        self.live &= ~end_mask
        self.past[end_mask] = 0
        return samples

    def partial_text(self, row: int) -> str:
        """The text so far of the sequence in a slot; "" where none is."""
        sequence = self.occupant[row] if row < len(self.live) else None
        return sequence.opening + self._output_text(row, self.token_counts[row]) if sequence else ""

    def _output_text(self, row: int, length: int) -> str:
        return self.job.chat.text_of(self.tokens[row, :length].tolist())


@torch.no_grad()
def read_prompts(
    forward: Forward, device: torch.device, prompts: list[list[int]], before: PrefilledPrompts | None = None
) -> PrefilledPrompts:
    """Keys and values of prompts without their last tokens, in one batch padded right (no mask is needed then).

    What the prompts share, `before` holds already.
    """
    cache = DynamicCache() if before is None else before.build_cache(len(prompts))
    start, end = cache.get_seq_length(), max(map(len, prompts)) - 1
    if end > start:
        ids = np.empty((len(prompts), end - start), dtype=np.int64)
        for line, prompt in zip(ids, prompts, strict=True):
            line[:] = prompt[0]  # what stands in the padding changes nothing, but a pad token would draw a warning
            line[: len(prompt) - 1 - start] = prompt[start:-1]
        positions = torch.arange(start, end, device=device).expand(len(prompts), -1)
        forward.prefill_cache(torch.from_numpy(ids).to(device), positions, cache)
    return PrefilledPrompts.from_cache(cache)


def find_stop(text: str, sequence: PendingSample | None, stop: tuple[str, ...]) -> int:
    """Where a stop string stands in an answer; they do not end thoughts. -1: nowhere."""
    reply = split_thought((sequence.opening if sequence else "") + text)
    begin = len(text) - len(reply.answer) if reply.marks else 0
    places = [text.find(end, begin) for end in stop if end]
    return min((place for place in places if place >= 0), default=-1)


def build_sample(sequence: PendingSample, text: str, finish: Literal["stop", "length"], num_tokens: int) -> Sample:
    """A finished sequence; all of it was thought, if that never ended."""
    thought, text = sequence.thought, sequence.opening + text
    if thought is None:
        return Sample(sequence.key, sequence.index, text, finish, num_tokens)
    spent = num_tokens if thought.thinking else thought.tokens
    return Sample(sequence.key, sequence.index, text, finish, num_tokens, min(spent, num_tokens), thought.cut)
