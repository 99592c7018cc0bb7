"""Continuous batching: a fixed number of slots that decode together.

A finished sequence leaves its slot at once and a waiting one enters; a prompt is read once however many samples it
gets. Waiting prompts are read in batches of like length, all but their last token, which becomes the sequence's first
decoding step, so that sampling happens in one place only.

What all batches share stands here: the queues, the slots, what ends a sequence. How the slots' keys and values lie, and
how a token is drawn from them, is `growing_batch`'s (a cache that grows and shrinks, for a CPU) or `static_batch`'s
(fixed tensors, for CUDA graphs).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from transformers import DynamicCache

from holdfast.axes.engine import Sample, SamplingParams
from holdfast.data.thoughts import split_thought
from holdfast.generation.fused_decode import Forward
from holdfast.generation.kv_cache import PrefilledPrompts
from holdfast.generation.thought_budget import ThoughtState

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Message
    from holdfast.models.loading import Model

REFILL = 8
"""Free slots are filled (dropped, where nothing waits) once one in this many is free: one by one would cost more."""
PREFILL_TOKENS = {"cpu": 768, "mps": 4096}
"""Prompt tokens (with padding) read in one forward pass, by device: on a CPU, activations should stay in its cache."""
PREFILL_TOKENS_OF_CARDS = 16384
LOGP_DIGITS = 5
"""Behind the point, of a kept log-probability: it takes 8 bytes in the journal and is read again as it was."""


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
    pictures: Sequence[Message] = ()
    """The messages of a prompt with pictures."""


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """What the batches of one call have in common.

    Args:
        ends: Which tokens can complete a stop string, bool [vocabulary]; `None` without stop strings.
        shared: What all prompts begin with, already read; `None` if that is little.
        reader: Reads prompts of unlike lengths without padding; `None` where the model does not allow it.
    """

    model: Model
    chat: Chat
    forward: Forward
    params: SamplingParams
    ends: np.ndarray | None
    shared: PrefilledPrompts | None
    reader: PromptReader | None = None


class PromptReader(Protocol):
    """Reads prompts some other way than padded right."""

    def read_prompts(self, prompts: list[list[int]], before: PrefilledPrompts | None = None) -> PrefilledPrompts:
        """Keys and values of prompts without their last tokens, as `read_prompts` gives them."""


class PromptStorage(Protocol):
    """Keys and values of the slots, as far as all batches know them."""

    def insert_prompts(
        self, source: PrefilledPrompts, prompts: Sequence[int], rows: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Copy prefilled prompts into slots: which of the batch, into which slot, how many tokens of it."""


class ContinuousBatch:
    """What waits, what decodes, and the arrays that describe the slots.

    Slot arrays are NumPy, one entry a slot; a slot without a sequence has `past` 0 and computes a value nobody reads.
    """

    cache: PromptStorage

    def __init__(self, job: DecodeJob, sequences: list[PendingSample], slots: int) -> None:
        self.job, self.params, self.forward = job, job.params, job.forward
        self.device = job.model.device
        self.counts: Counter[str] = Counter()
        self.thinks = any(sequence.thought for sequence in sequences)
        self.waiting = deque(sequences)
        self.ready: deque[tuple[PendingSample, PrefilledPrompts, int]] = deque()
        rows = min(slots, len(sequences))
        self.occupant: list[PendingSample | None] = [None] * rows
        self.past = np.zeros(rows, dtype=np.int64)
        self.current = np.zeros(rows, dtype=np.int64)
        self.token_counts = np.zeros(rows, dtype=np.int64)
        self.limit = np.ones(rows, dtype=np.int64)
        self.seeds = np.zeros(rows, dtype=np.uint64)
        self.live = np.zeros(rows, dtype=bool)
        self.tokens = np.zeros((rows, max(s.limit for s in sequences)), dtype=np.int32)
        self.logps = np.zeros((rows, self.tokens.shape[1] if job.params.keep_ids else 0), dtype=np.float32)
        self.stops = np.array(sorted(job.chat.stop_ids), dtype=np.int64)

    @property
    def busy(self) -> bool:
        return bool(self.live.any() or self.waiting or self.ready)

    def decode_step(self) -> Step:
        """Fill free slots if there are enough of them, decode in each."""
        raise NotImplementedError

    def _make_room(self, longest: int) -> None:
        """See that a prompt of `longest` tokens, but for its last one, can enter."""

    def _drop_empty_slots(self, free: int) -> None:
        """Make the batch smaller where nothing waits for the `free` slots and it pays."""

    def _refill_slots(self) -> None:
        """Fill free slots if there are enough of them, drop them where nothing waits."""
        free = len(self.live) - int(self.live.sum())
        if self.waiting or self.ready:
            if free >= max(1, len(self.live) // REFILL):
                self._admit_waiting(free)
        else:
            self._drop_empty_slots(free)

    def _record_tokens(
        self, tokens: np.ndarray, logps: np.ndarray | None = None, active: np.ndarray | None = None
    ) -> list[Sample]:
        """Take note of one more token of each slot [slots]; the samples that it ends.

        Args:
            logps: How likely each was, [slots], where that is kept.
            active: Which slots got one, bool [slots]; default: all with a sequence.
        """
        active = self.live.copy() if active is None else active
        rows = np.flatnonzero(active)
        if self.thinks:
            self._force_closing(rows, tokens)
        self.tokens[rows, self.token_counts[rows]] = tokens[rows]
        if logps is not None:
            self.logps[rows, self.token_counts[rows]] = logps[rows]
        self.token_counts += active
        if self.thinks:
            self._follow_thoughts(rows, tokens)
        self.past += active
        self.current = np.where(active, tokens, self.current)
        self.counts.update({"tokens": len(rows), "steps": 1})
        return self._collect_finished(rows, tokens)

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

    def _admit_waiting(self, free: int) -> None:
        """Put waiting sequences into the free slots, reading their prompts first where that has not happened."""
        while len(self.ready) < free and self.waiting:
            self._prefill_prompts()
        rows = np.flatnonzero(~self.live)[: len(self.ready)].tolist()
        entering = [self.ready.popleft() for _ in rows]
        self._make_room(max(len(s.prompt) - 1 for s, _, _ in entering))
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
        """Read the next prompts, without their last tokens, in one batch."""
        width = max(1, len(self.waiting[0].prompt) - 1)
        most = max(1, PREFILL_TOKENS.get(self.device.type, PREFILL_TOKENS_OF_CARDS) // width)
        prompts: list[list[int]] = []
        entries: list[tuple[PendingSample, int]] = []
        while self.waiting:
            if not prompts or self.waiting[0].prompt != prompts[-1]:
                if len(prompts) == most or (prompts and self._pads_much(prompts[0], self.waiting[0].prompt)):
                    break
                prompts.append(self.waiting[0].prompt)
            entries.append((self.waiting.popleft(), len(prompts) - 1))
        source = self._read_batch(prompts)
        shared_length = self.job.shared.length if self.job.shared else 0
        self.counts["prompt tokens"] += sum(len(prompt) - 1 - shared_length for prompt in prompts)
        self.ready.extend((sequence, source, prompt) for sequence, prompt in entries)

    def _pads_much(self, longest: list[int], prompt: list[int]) -> bool:
        """Whether a prompt is better read apart from a batch whose first is `longest`; they come sorted by length."""
        return False

    def _read_batch(self, prompts: list[list[int]]) -> PrefilledPrompts:
        """Prompts of one length with nothing before them are what SDPA's causal kernel is quickest at."""
        before, reader = self._find_shared(prompts), self.job.reader
        if reader is not None and (before is not None or len(set(map(len, prompts))) > 1):
            return reader.read_prompts(prompts, before)
        return read_prompts(self.forward, self.device, prompts, before)

    def _find_shared(self, prompts: list[list[int]]) -> PrefilledPrompts | None:
        """What prompts that are read together begin with, where it was read before."""
        return self.job.shared

    def _gather_slots(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Bring all sequences into the first `count` slots and forget the others: from where each moved, and whereto.

        Only what describes the slots moves; keys and values are the caller's.
        """
        movers = count + np.flatnonzero(self.live[count:])
        holes = np.flatnonzero(~self.live[:count])[: len(movers)]
        for hole, mover in zip(holes, movers, strict=True):
            self.occupant[hole] = self.occupant[mover]
        del self.occupant[count:]
        for name in ("past", "current", "token_counts", "limit", "seeds", "live", "tokens", "logps"):
            array = getattr(self, name)
            array[holes] = array[movers]
            setattr(self, name, array[:count])
        return movers, holes

    def _collect_finished(self, rows: np.ndarray, tokens: np.ndarray) -> list[Sample]:
        """Samples that the tokens just drawn have ended; their slots become free."""
        active = np.zeros_like(self.live)
        active[rows] = True
        stop_mask = np.isin(tokens, self.stops) & active
        end_mask = stop_mask | (active & (self.token_counts >= self.limit))
        cut = self._cut_at_stops(rows[~stop_mask[rows]], tokens)
        end_mask[list(cut)] = True
        samples = []
        for row in np.flatnonzero(end_mask).tolist():
            sequence, num_tokens = self.occupant[row], int(self.token_counts[row])
            assert sequence is not None
            text = cut[row] if row in cut else self._output_text(row, num_tokens - int(stop_mask[row]))
            finish: Literal["stop", "length"] = "stop" if stop_mask[row] or row in cut else "length"
            samples.append(build_sample(sequence, text, finish, num_tokens, *self._kept_tokens(row, num_tokens)))
        self._free_slots(np.flatnonzero(end_mask).tolist())
        return samples

    def _kept_tokens(self, row: int, num_tokens: int) -> tuple[list[int], list[float]]:
        """The ids of the sequence in a slot and their log-probabilities, where they are kept."""
        if not self.params.keep_ids:
            return [], []
        return self.tokens[row, :num_tokens].tolist(), self.logps[row, :num_tokens].tolist()

    def _cut_at_stops(self, rows: np.ndarray, tokens: np.ndarray) -> dict[int, str]:
        """The texts of those of `rows` in which the tokens just drawn [slots] completed a stop string, cut there."""
        cut: dict[int, str] = {}
        if self.job.ends is not None:
            for row in rows[self.job.ends[tokens[rows]]].tolist():
                text = self._output_text(row, self.token_counts[row])
                if (place := find_stop(text, self.occupant[row], self.params.stop)) >= 0:
                    cut[row] = text[:place]
        return cut

    def _free_slots(self, rows: list[int]) -> None:
        """Forget the sequences in some slots."""
        for row in rows:
            self.occupant[row] = None
        self.live[rows] = False
        self.past[rows] = 0

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


def build_sample(
    sequence: PendingSample,
    text: str,
    finish: Literal["stop", "length"],
    num_tokens: int,
    ids: Sequence[int] = (),
    logps: Sequence[float] = (),
) -> Sample:
    """A finished sequence; all of it was thought, if that never ended."""
    thought, text = sequence.thought, sequence.opening + text
    spent, was_cut = 0, False
    if thought is not None:
        spent, was_cut = min(num_tokens if thought.thinking else thought.tokens, num_tokens), thought.cut
    # The marks that close a thought by force were not drawn.
    digits = () if was_cut else tuple(round(logp, LOGP_DIGITS) for logp in logps)
    return Sample(sequence.key, sequence.index, text, finish, num_tokens, spent, was_cut, tuple(ids), digits)
