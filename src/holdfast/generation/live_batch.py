"""Continuous batching across clients: sequences join a batch that already decodes, each with sampling of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.axes.engine import Sample, SamplingParams
from holdfast.generation.continuous_batch import REFILL, DecodeJob, PendingSample, find_stop
from holdfast.generation.growing_batch import GrowingBatch
from holdfast.generation.kv_cache import PrefilledPrompts
from holdfast.generation.text_stream import TextStream
from holdfast.generation.token_sampler import choose_tokens

PATIENCE = 2
"""Steps after which what waits enters though few slots are free: prompts read together cost less, but somebody waits
for each."""
PADDING = 24
"""Tokens of padding on a CPU that cost as much as reading a prompt in a pass of its own."""


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """One token of an answer.

    Args:
        token: Its id.
        logprob: Its log-probability by the model, before temperature and cuts.
        top: The likeliest tokens there, with theirs; the first is the likeliest.
        start: Where it begins in the answer's text, in characters.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    start: int


@dataclass(slots=True)
class LiveSequence(PendingSample):
    """One sample on its way to somebody who waits for it.

    Args:
        params: How it is drawn, and what ends it.
        top_logprobs: How many of the likeliest tokens are told with each of its own; `None`: no log-probabilities.
        stream: Its text as it grows; `None` where only the end counts.
        owner: Whose it is: has `is_cancelled`.
        num_shown: Characters of it that were told.
        details: Of its tokens, where log-probabilities are asked for.
    """

    params: SamplingParams = field(default_factory=SamplingParams)
    top_logprobs: int | None = None
    stream: TextStream | None = None
    owner: Any = None
    num_shown: int = 0
    details: list[TokenDetail] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LiveJob(DecodeJob):
    """What the batches of a server have in common.

    Args:
        shared_ids: The ids of `shared`, which most prompts begin with, but not all: those of its chat template and
            system message.
    """

    shared_ids: tuple[int, ...] = ()

    def begins_shared(self, prompt: list[int]) -> bool:
        """Whether a prompt goes on from what was read before."""
        count = len(self.shared_ids)
        return 0 < count < len(prompt) and tuple(prompt[:count]) == self.shared_ids


class LiveBatch(GrowingBatch):
    """Slots that sequences enter and leave while it decodes; it grows and shrinks with those that are there.

    Args:
        job: What all have in common; its parameters and stop strings count for none of them.
        sequences: The first.
        slots: Most that decode together.
    """

    occupant: list[LiveSequence | None]  # type: ignore[assignment]  # no others come in

    job: LiveJob

    def __init__(self, job: LiveJob, sequences: Sequence[LiveSequence], slots: int) -> None:
        super().__init__(job, list(sequences), min(slots, len(sequences)))
        self.most_slots, self.num_waits = slots, PATIENCE
        self.endings: list[tuple[LiveSequence, Sample]] = []
        self._drawn_details: dict[int, tuple[float, tuple[tuple[int, float], ...]]] = {}

    def add_sequences(self, sequences: Sequence[LiveSequence]) -> None:
        """Let some more in as soon as there is room."""
        self.waiting.extend(sequences)
        self.thinks = self.thinks or any(sequence.thought for sequence in sequences)
        longest = max(sequence.limit for sequence in sequences)
        if longest > self.tokens.shape[1]:
            self.tokens = np.pad(self.tokens, ((0, 0), (0, longest - self.tokens.shape[1])))

    def drop_cancelled(self) -> None:
        """Forget sequences that nobody waits for any more."""
        if not any(sequence.owner.is_cancelled for sequence in self.list_sequences()):
            return
        self._free_slots([row for row, one in enumerate(self.occupant) if one and one.owner.is_cancelled])
        self.waiting = type(self.waiting)(one for one in self.waiting if not one.owner.is_cancelled)  # type: ignore[attr-defined]
        self.ready = type(self.ready)(entry for entry in self.ready if not entry[0].owner.is_cancelled)  # type: ignore[attr-defined]

    def list_sequences(self) -> list[LiveSequence]:
        """All that decode or wait."""
        ready: list[Any] = [entry[0] for entry in self.ready]
        waiting: list[Any] = list(self.waiting)
        return [*(sequence for sequence in self.occupant if sequence), *ready, *waiting]

    def decode_live(self) -> list[tuple[LiveSequence, Sample]]:
        """One step; the sequences that it ended, with their samples."""
        self.endings = []
        self.decode_step()
        return self.endings

    def _refill_slots(self) -> None:
        num_waiting, count = len(self.waiting) + len(self.ready), int(self.live.sum())
        if not num_waiting:
            self.num_waits = 0
            self._drop_empty_slots(len(self.live) - count)
            return
        self.num_waits += 1
        entering = min(num_waiting, self.most_slots - count)
        if entering and (entering * REFILL >= count or self.num_waits > PATIENCE):
            if count + entering > len(self.live):
                self._add_slots(count + entering)
            self._admit_waiting(entering)
            self.num_waits = 0

    def _admit_waiting(self, free: int) -> None:
        """Those that enter are read together, neighbours in length."""
        entering = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
        self.waiting.extendleft(sorted(entering, key=self._reading_order, reverse=True))
        super()._admit_waiting(free)

    def _pads_much(self, longest: list[int], prompt: list[int]) -> bool:
        differs = self.job.begins_shared(longest) != self.job.begins_shared(prompt)
        return differs or (self.device.type == "cpu" and len(longest) - len(prompt) > PADDING)

    def _reading_order(self, sequence: PendingSample) -> tuple[bool, int, list[int]]:
        """Those that go on from what was read, then the others; the longest first, equal prompts together."""
        return not self.job.begins_shared(sequence.prompt), -len(sequence.prompt), sequence.prompt

    def _find_shared(self, prompts: list[list[int]]) -> PrefilledPrompts | None:
        return self.job.shared if self.job.begins_shared(prompts[0]) else None

    def _add_slots(self, count: int) -> None:
        """More slots, empty ones."""
        more = count - len(self.live)
        self.occupant += [None] * more
        for name, filling in (("past", 0), ("current", 0), ("token_counts", 0), ("limit", 1), ("seeds", 0)):
            setattr(self, name, np.pad(getattr(self, name), (0, more), constant_values=filling))
        self.live = np.pad(self.live, (0, more))
        self.tokens = np.pad(self.tokens, ((0, more), (0, 0)))
        self.logps = np.pad(self.logps, ((0, more), (0, 0)))
        self.cache.add_slots(count)

    def _draw_tokens(self, logits: Tensor) -> Tensor:
        """The next token of each slot [slots], each by the parameters of its sequence."""
        tokens = self._draw_by_sequence(logits, self._random_numbers, 1)
        self._drawn_details = self._read_details(logits, tokens)
        return tokens

    def _draw_by_sequence(self, logits: Tensor, draw_numbers: Callable[[], Tensor], width: int) -> Tensor:
        """Tokens [slots * width] by logits [slots * width, V], each by the parameters of its slot's sequence."""
        groups: dict[tuple[float, int, float], list[int]] = {}
        for row, sequence in enumerate(self.occupant):
            if sequence and sequence.params.temperature:
                params = sequence.params
                groups.setdefault((params.temperature, params.top_k, params.top_p), []).append(row)
        tokens = logits.argmax(-1)
        uniform = draw_numbers() if groups else None
        for rows in groups.values():
            sequence = self.occupant[rows[0]]
            assert sequence is not None
            assert uniform is not None
            lines = [row * width + place for row in rows for place in range(width)]
            tokens[lines] = choose_tokens(logits[lines], uniform[lines], sequence.params)
        return tokens

    def _read_details(self, logits: Tensor, tokens: Tensor) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
        """The log-probability of the token of each slot that was asked for it, and of the likeliest ones there."""
        tops = {row: one.top_logprobs for row, one in enumerate(self.occupant) if one and one.top_logprobs is not None}
        if not tops:
            return {}
        rows = list(tops)
        logps = torch.log_softmax(logits[rows].float(), -1)  # [rows, V]
        own = logps.gather(1, tokens[rows][:, None])[:, 0].tolist()
        values, ids = (part.tolist() for part in logps.topk(min(max(tops.values()), logps.shape[1])))
        return {row: (own[k], tuple(zip(ids[k], values[k], strict=True))[: tops[row]]) for k, row in enumerate(rows)}

    def _collect_finished(self, rows: np.ndarray, tokens: np.ndarray) -> list[Sample]:
        for row in rows[~np.isin(tokens[rows], self.stops)].tolist():
            sequence = self.occupant[row]
            if sequence and sequence.stream:
                if row in self._drawn_details:
                    start, token = len(sequence.stream.text), int(tokens[row])
                    sequence.details.append(TokenDetail(token, *self._drawn_details[row], start))
                sequence.stream.add_token(int(tokens[row]))
        before = list(self.occupant)
        samples = super()._collect_finished(rows, tokens)
        endings = [sequence for sequence, now in zip(before, self.occupant, strict=True) if sequence and now is None]
        self.endings += zip(endings, samples, strict=True)
        return samples

    def _cut_at_stops(self, rows: np.ndarray, tokens: np.ndarray) -> dict[int, str]:
        cut: dict[int, str] = {}
        for row in rows.tolist():
            sequence = self.occupant[row]
            if sequence and sequence.stream and any(end in sequence.stream.text for end in sequence.params.stop):
                text = self._output_text(row, int(self.token_counts[row]))
                if (place := find_stop(text, sequence, sequence.params.stop)) >= 0:
                    cut[row] = text[:place]
                    sequence.details = [detail for detail in sequence.details if detail.start < place]
        return cut
