"""Drafting across clients: a step may add several tokens to each answer, each drawn by parameters of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from holdfast.generation.live_batch import LiveBatch, LiveJob, LiveSequence
from holdfast.generation.speculative_batch import Draft, SpeculativeBatch

if TYPE_CHECKING:
    from torch import Tensor


class LiveSpeculativeBatch(SpeculativeBatch, LiveBatch):
    """Slots that sequences enter and leave, in which a small model proposes tokens.

    Args:
        job: Its forward pass is a `JointForward` of the model and the draft.
        sequences: The first.
        slots: Most that decode together.
        draft: Who proposes tokens.
    """

    occupant: list[LiveSequence | None]  # type: ignore[assignment]  # no others come in

    job: LiveJob

    def __init__(self, job: LiveJob, sequences: Sequence[LiveSequence], slots: int, draft: Draft) -> None:
        super().__init__(job, list(sequences), slots, draft)
        self._details_by_place: list[dict[int, tuple[float, tuple[tuple[int, float], ...]]]] = []

    def _add_slots(self, count: int) -> None:
        self.filled = np.pad(self.filled, ((0, count - len(self.filled)), (0, 0)))
        super()._add_slots(count)

    def _draw_span(self, logits: Tensor, first: int, end: int) -> Tensor:
        return self._draw_by_sequence(logits, partial(self._numbers_at, first, end), end - first)

    def _note_own(self, logits: Tensor, own_tokens: Tensor) -> None:
        places = range(own_tokens.shape[1])
        self._details_by_place = [self._read_details(logits[:, place], own_tokens[:, place]) for place in places]

    def _begin_place(self, place: int) -> None:
        self._drawn_details = self._details_by_place[place]
