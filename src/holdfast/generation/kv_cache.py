"""Key-value storage of the native engine: sequences of different lengths that end at one common column.

Every slot's newest token sits at the same column, the cursor, and its older tokens lie to the left of it. A decode step
then writes one column of all slots at once, and the model sees nothing but an ordinary left-padded batch: its own mask
code, sliding windows included, does the rest. Public `transformers` cache classes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

GROWTH = 32
"""Free columns when storage is taken; little at once, since fresh memory is dear on a CPU (every page is a fault)."""


@dataclass(slots=True)
class PrefilledPrompts:
    """Keys and values of a batch of prompts, padded right: per layer two tensors [prompts, heads, length, dim]."""

    layers: list[tuple[Tensor, Tensor]]

    @classmethod
    def from_cache(cls, cache: DynamicCache) -> PrefilledPrompts:
        """What a forward pass over the prompts left behind."""
        layers: list[Any] = cache.layers
        return cls([(layer.keys, layer.values) for layer in layers])

    @property
    def length(self) -> int:
        """Tokens of the longest prompt."""
        return self.layers[0][0].shape[2]

    def build_cache(self, copies: int) -> DynamicCache:
        """A cache that holds this batch's only prompt `copies` times, to read on from."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(copies, -1, -1, -1), values.expand(copies, -1, -1, -1), index)
        return cache


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [slots, heads, columns, dim], written at the owner's cursor."""

    keys: Any
    values: Any
    whole: tuple[Tensor, Tensor] | None = None
    """Keys and values with the slots that were dropped, of which there may be need again."""

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns = self.owner.rows, self.owner.columns
        # Zeros, not empty: columns of other sequences are masked, but a NaN in them would still reach the output.
        self.keys = key_states.new_zeros(rows, key_states.shape[1], columns, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens of every slot, [slots, heads, T, dim]; returns the columns in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cursor = self.owner.cursor
        end = cursor + key_states.shape[2]
        self.keys[:, :, cursor:end] = key_states
        self.values[:, :, cursor:end] = value_states
        columns = slice(cursor - self.owner.past, end)
        return self.keys[:, :, columns], self.values[:, :, columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.past + query_length, 0

    def get_seq_length(self) -> int:
        return self.owner.past

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """Slots for sequences that decode together.

    Args:
        rows: Number of slots.
        columns: Tokens a slot can hold at first; `make_room` adds more.
        layers: Number of attention layers.

    `cursor` is the column the next token is written to, `past` the number of columns left of it that any sequence uses.
    """

    def __init__(self, rows: int, columns: int, layers: int) -> None:
        self.rows, self.columns = rows, columns
        self.cursor = self.past = 0
        self.slots = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.slots))

    def insert_prompts(
        self, source: PrefilledPrompts, prompts: Sequence[int], rows: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Copy prefilled prompts into slots, each ending left of the cursor.

        Args:
            source: The prefilled batch.
            prompts: Which prompt of the batch, for each slot to be filled; may repeat.
            rows: The slots.
            lengths: Tokens of each prompt; none longer than `cursor`.
        """
        together = {}  # prompts of one length are copied at once
        for length in set(lengths):
            chosen = [(row, prompt) for row, prompt, n in zip(rows, prompts, lengths, strict=True) if n == length]
            together[length] = torch.tensor(chosen, device=source.layers[0][0].device).T
        for layer, (keys, values) in zip(self.slots, source.layers, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            for length, (into, of) in together.items():
                place = slice(self.cursor - length, self.cursor)
                layer.keys[into, :, place] = keys[of, :, :length]
                layer.values[into, :, place] = values[of, :, :length]

    def make_room(self, past: int, new_cursor: int | None = None) -> None:
        """Free columns on the right by dropping old ones on the left; take more storage only where that is too little.

        Args:
            past: Columns left of the cursor that are still needed.
            new_cursor: Columns there shall be left of the cursor; default `past`.
        """
        new_cursor = max(past, new_cursor or 0)
        columns = (
            self.columns if new_cursor + GROWTH // 2 <= self.columns else new_cursor + max(GROWTH, new_cursor // 4)
        )
        for layer in self.slots:
            if layer.is_initialized:
                layer.keys = self._move_columns(layer.keys, past, new_cursor, columns)
                layer.values = self._move_columns(layer.values, past, new_cursor, columns)
                layer.whole = layer.whole if columns == self.columns else None
        self.columns, self.cursor = columns, new_cursor

    def gather_columns(self, order: Tensor, new_cursor: int, free: int) -> None:
        """Bring chosen columns of each slot together, so that they end at `new_cursor`; the others are forgotten.

        Args:
            order: Columns of each slot, int64 [slots, length].
            free: Columns there shall be from the new cursor on.
        """
        length, columns = order.shape[1], max(self.columns, new_cursor + free)
        for layer in self.slots:
            if layer.is_initialized:
                layer.keys, layer.values = (
                    self._gather_states(states, order, slice(new_cursor - length, new_cursor), columns)
                    for states in (layer.keys, layer.values)
                )
                layer.whole = None
        self.columns, self.cursor = columns, new_cursor

    def _gather_states(self, old: Tensor, order: Tensor, place: slice, columns: int) -> Tensor:
        new = old.new_zeros(*old.shape[:2], columns, old.shape[3])
        index = order[:, None, :, None].to(old.device).expand(-1, old.shape[1], -1, old.shape[3])
        new[:, :, place] = old.gather(2, index)
        return new

    def _move_columns(self, old: Tensor, past: int, new_cursor: int, columns: int) -> Tensor:
        old_columns = old[:, :, self.cursor - past : self.cursor]
        grows = columns > self.columns
        new = old.new_zeros(*old.shape[:2], columns, old.shape[3]) if grows else old
        overlaps = not grows and self.cursor - new_cursor < past
        new[:, :, new_cursor - past : new_cursor] = old_columns.clone() if overlaps else old_columns
        return new

    def add_slots(self, count: int) -> None:
        """Make it `count` slots, more than there are; the new ones are empty."""
        for layer in self.slots:
            if not layer.is_initialized:
                continue
            if layer.whole is None or len(layer.whole[0]) < count:
                layer.whole = self._append_rows(layer.keys, count), self._append_rows(layer.values, count)
            layer.keys, layer.values = (states[:count] for states in layer.whole)
        self.rows = count

    def _append_rows(self, old: Tensor, count: int) -> Tensor:
        new = old.new_zeros(count, *old.shape[1:])
        new[: len(old)] = old
        return new

    def keep_slots(self, count: int, movers: Tensor, holes: Tensor, past: int) -> None:
        """Drop all slots but the first `count`, after the slots `movers` have been copied to the slots `holes`.

        `past` is the number of columns left of the cursor that are still needed.
        """
        columns = slice(self.cursor - past, self.cursor)
        for layer in self.slots:
            if layer.is_initialized:
                for states in (layer.keys, layer.values):
                    states[holes.to(states.device), :, columns] = states[movers.to(states.device), :, columns]
                layer.whole = layer.whole or (layer.keys, layer.values)
                layer.keys, layer.values = layer.keys[:count], layer.values[:count]
        self.rows = count
