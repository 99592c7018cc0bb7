"""Continuous batching in which a small model proposes tokens and the model reads several of them in one pass.

A step drafts `k` tokens a slot, one by one; the model then reads the newest token and the drafts together and draws
what it would have drawn after each, with the random numbers that the plain engine has for these places. Drafts stand as
long as they are what was drawn, and the first that is not gives way to it. So every answer is, token for token, that of
the plain engine, greedy or sampled, but for ties within rounding; a bad draft only costs time. (Leviathan et al. 2023,
arXiv 2211.17192, and Chen et al. 2023, arXiv 2302.01318, keep the distribution alone, by rejection: a draft x then
stands with probability min(1, p(x) / q(x)), more often than here, where draft and model share their random numbers.)

Drafts that fell leave columns of the cache that nobody reads; they are closed up whenever room is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.cache_utils import Cache

from holdfast.axes.engine import Sample
from holdfast.generation.continuous_batch import REFILL, DecodeJob, PendingSample, Step
from holdfast.generation.fused_decode import Forward
from holdfast.generation.growing_batch import GrowingBatch
from holdfast.generation.joint_forward import JointForward
from holdfast.generation.kv_cache import GROWTH
from holdfast.generation.static_forward import static_lacks
from holdfast.generation.token_sampler import choose_tokens, compute_token_logps, uniform_numbers
from holdfast.models.compiled_layers import pause_compiled
from holdfast.models.loading import count_embeddings
from holdfast.models.placement import widest_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.inference import LogitStep
    from holdfast.models.loading import Model

MODEL, DRAFT = "model", "draft"


@dataclass(frozen=True, slots=True)
class Draft:
    """Who proposes tokens.

    Args:
        model: A small model with the tokens of the one that answers.
        tokens: How many it proposes at once.
    """

    model: Model
    tokens: int


def draft_lacks(model: Model) -> str:
    """Why a model cannot read several tokens at columns with gaps between them, as drafting has it; "" if it can."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if "sliding_attention" in (kinds or ()) or (kinds is None and getattr(config, "sliding_window", None)):
        return f"the attention of {config.model_type} has a window, which is counted in columns"
    return static_lacks(model)


def refuse_mixing(step: LogitStep) -> Tensor:
    """What a `JointForward` of model and draft is given to mix with: their logits are never one."""
    raise TypeError("the logits of a model and its draft are not mixed")


class SpeculativeBatch(GrowingBatch):
    """Slots in which a step may add several tokens.

    Args:
        job: Its forward pass is a `JointForward` of `MODEL` and `DRAFT`.
        sequences: To be decoded; without pictures.
        slots: Decoded together.
        draft: Who proposes tokens.
    """

    def __init__(self, job: DecodeJob, sequences: list[PendingSample], slots: int, draft: Draft) -> None:
        super().__init__(job, sequences, slots)
        self.most = draft.tokens
        # Embeddings may be padded, and a padding has no meaning in either.
        self.sizes = [count_embeddings(model) for model in (draft.model, job.model)]
        self.filled = np.zeros((len(self.live), self.cache.columns), dtype=bool)
        """Which columns hold a token of each slot's sequence, [slots, columns]."""

    @torch.no_grad()
    @pause_compiled()
    def decode_step(self) -> Step:
        """Fill free slots if there are enough of them, draft in each, and keep what the model draws as well."""
        self.counts = Counter()
        self._refill_slots()
        if self.cache.cursor + self.most + 1 > self.cache.columns:
            self._close_up(int(self.past.max()))
        start, span = self.cache.cursor, self._count_columns()
        drafts = self._draft_tokens(start, span)
        samples = self._keep_matching(drafts, *self._draw_own(drafts, start, span), start)
        self.cache.cursor = start + self.most + 1
        return samples, self.counts

    def _draft_tokens(self, start: int, span: int) -> np.ndarray:
        """What the small model proposes, [slots, k]; one pass more puts the last of it into its cache."""
        forward, part = self._parts[DRAFT]
        columns = np.zeros((len(self.live), span + self.most + 1), dtype=bool)
        columns[:, :span] = self.filled[:, start - span : start]
        columns[:, span:] = True
        tokens, drafts = self.current, []
        for place in range(self.most + 1):
            self.cache.cursor, self.cache.past = start + place, span + place
            ids, positions = np.minimum(tokens, self.sizes[0] - 1), self._token_positions(place)
            logits = forward.decode_logits(
                self._to_device(ids[:, None]), self._to_device(positions[:, None]),
                self._to_device(columns[:, : span + place + 1]), part, self._to_device(self.token_counts + place),
            )  # fmt: skip
            if place < self.most:
                tokens = self._draw_span(logits[:, : self.sizes[1]], place, place + 1).cpu().numpy()
                drafts.append(tokens)
        return np.stack(drafts, 1)

    def _draw_own(self, drafts: np.ndarray, start: int, span: int) -> tuple[np.ndarray, np.ndarray | None]:
        """What the model draws after the newest token and after each draft, and where they are kept log-probabilities,
        [slots, k + 1] each.
        """
        forward, part = self._parts[MODEL]
        width = self.most + 1
        self.cache.cursor, self.cache.past = start, span
        mask = np.ones((len(self.live), width, span + width), dtype=bool)
        mask[:, :, :span] = self.filled[:, None, start - span : start]
        mask[:, :, span:] = np.tri(width, dtype=bool)
        ids = np.concatenate((self.current[:, None], drafts), 1)
        positions = np.stack([self._token_positions(place) for place in range(width)], 1)
        logits = forward.read_tokens(
            self._to_device(ids), self._to_device(positions), self._to_device(mask), part,
            self._to_device(self.token_counts),
        )  # fmt: skip
        logits = logits.flatten(0, 1)
        own_tokens = self._draw_span(logits, 0, width)
        self._note_own(logits.unflatten(0, ids.shape), own_tokens.view(ids.shape))
        logps = compute_token_logps(logits, own_tokens) if self.params.keep_ids else None
        own_logps = None if logps is None else logps.cpu().numpy().reshape(ids.shape)
        return own_tokens.cpu().numpy().reshape(ids.shape), own_logps

    def _keep_matching(
        self, drafts: np.ndarray, own_tokens: np.ndarray, logps: np.ndarray | None, start: int
    ) -> list[Sample]:
        """Take what was drawn, as far as the drafts before it were; the samples that this ends.

        What counts is the token that was recorded: a thought over its budget is closed by others than were drawn.
        """
        samples, active = [], self.live.copy()
        self.counts["drafted"] = self.most * int(active.sum())
        for place in range(self.most + 1):
            active &= self.live  # some have ended
            if place:
                active &= self.current == drafts[:, place - 1]
                self.counts["kept drafts"] += int(active.sum())
            if not active.any():
                break
            self.filled[active, start + place] = True
            self._begin_place(place)
            own_logps = None if logps is None else logps[:, place]
            samples += self._record_tokens(own_tokens[:, place].copy(), own_logps, active)
        self.counts["steps"] = 1
        return samples

    @property
    def _parts(self) -> Mapping[str, tuple[Forward, Cache]]:
        assert isinstance(self.forward, JointForward)
        return {name: (forward, part) for name, forward, part in self.forward.list_parts(self.cache)}

    def _token_positions(self, place: int) -> np.ndarray:
        """Where the `place`-th token of a step stands; those that come to nothing stay within the context."""
        rooms = np.array([one.limit if one else 1 for one in self.occupant])
        return self.past + np.minimum(place, np.maximum(rooms - self.token_counts - 1, 0))

    def _draw_span(self, logits: Tensor, first: int, end: int) -> Tensor:
        """Tokens [slots * n] by logits [slots * n, V] at n neighbouring places of a step."""
        return choose_tokens(logits, self._numbers_at(first, end) if self.params.temperature else None, self.params)

    def _note_own(self, logits: Tensor, own_tokens: Tensor) -> None:
        """Take note of the model's logits [slots, k + 1, V] of a step, and what was drawn, [slots, k + 1]."""

    def _begin_place(self, place: int) -> None:
        """Get ready to take note of a step's tokens at one place."""

    def _numbers_at(self, first: int, end: int) -> Tensor:
        """The random numbers of some of a step's tokens, slot by slot, [slots * tokens]."""
        places = (self.token_counts[:, None] + np.arange(first, end)).ravel()
        numbers = torch.from_numpy(uniform_numbers(np.repeat(self.seeds, end - first), places))
        return numbers.to(widest_dtype(self.device)).to(self.device)

    # ---- columns --------------------------------------------------------------------------------------------------

    def _count_columns(self) -> int:
        """Columns left of the cursor from the first that any sequence uses."""
        columns = np.flatnonzero(self.filled[:, : self.cache.cursor].any(0))
        return self.cache.cursor - int(columns[0]) if len(columns) else 0

    def _close_up(self, new_cursor: int) -> None:
        """Bring each sequence's columns together, to end at a new cursor, which is not left of the longest."""
        length = int(self.past.max())
        order = np.argsort(self.filled[:, : self.cache.cursor], 1, kind="stable")[:, self.cache.cursor - length :]
        self.cache.gather_columns(torch.from_numpy(order), new_cursor, max(GROWTH, 4 * (self.most + 1)))
        self.filled = np.zeros((len(self.live), self.cache.columns), dtype=bool)
        self.filled[:, new_cursor - length : new_cursor] = np.arange(length) >= length - self.past[:, None]

    def _make_room(self, longest: int) -> None:
        if longest > self.cache.cursor:
            self._close_up(longest)

    def _fill_slot(self, row: int, sequence: PendingSample) -> None:
        super()._fill_slot(row, sequence)
        self.filled[row] = False
        self.filled[row, self.cache.cursor - int(self.past[row]) : self.cache.cursor] = True

    def _drop_empty_slots(self, free: int) -> None:
        if free * REFILL < len(self.live):
            return
        span, count = self._count_columns(), len(self.live) - free
        movers, holes = self._gather_slots(count)
        self.filled[holes] = self.filled[movers]
        self.filled = self.filled[:count]
        self.cache.keep_slots(count, torch.from_numpy(movers), torch.from_numpy(holes), span)

    def _free_slots(self, rows: list[int]) -> None:
        super()._free_slots(rows)
        self.filled[rows] = False
