"""Key-value storage whose tensors stay where they are: what a CUDA graph needs, which knows addresses and shapes alone.

A token at position p of a sequence lies in column p of its slot, so that slots need no common cursor and nothing is
shifted; what lies to the right of a slot's newest token is masked. A step reads the first `columns` columns of the
first `size` slots, both out of a few sizes: one graph each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from holdfast.generation.kv_cache import PrefilledPrompts
from holdfast.models.placement import free_bytes, give_back_memory

COLUMNS = 128
"""The fewest columns a step reads; the next sizes are 2, 4, 8, ... times that. A multiple of 16, as kernels want it."""
SHARE = 0.8
"""Of the memory that is free: most that the cache may take. The rest is for prompts being read and for logits."""


def choose_columns(token_count: int, capacity: int) -> int:
    """Columns that a step for up to `token_count` tokens reads: the next of a few sizes, at most all there are."""
    columns = COLUMNS
    while columns < token_count:
        columns *= 2
    return min(columns, capacity)


def round_capacity(token_count: int) -> int:
    """Columns to be allocated for sequences of up to `token_count` tokens."""
    return -(-token_count // COLUMNS) * COLUMNS


def column_bytes(like: PrefilledPrompts) -> int:
    """Bytes of one token's keys and values in all layers."""
    return sum(states[0, :, 0].numel() * states.element_size() for layer in like.layers for states in layer)


def count_fitting_slots(most_slots: int, capacity: int, like: PrefilledPrompts) -> int:
    """How many slots of `capacity` columns fit into the free memory, at most `most_slots`; all, if unknown."""
    device, slot_bytes = like.layers[0][0].device, capacity * column_bytes(like)
    free = free_bytes(device)
    if free is not None and SHARE * free < most_slots * slot_bytes:
        give_back_memory(device)  # not at once: training beside it would have to take again what it had
        free = free_bytes(device)
    return most_slots if free is None else min(most_slots, int(SHARE * free) // slot_bytes)


class StaticSlotLayer(CacheLayerMixin):
    """One layer's keys and values, [slots, heads, columns, dim], each slot written at its own column."""

    keys: Tensor
    values: Tensor

    def __init__(self, owner: StaticSlotCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.owner, self.keys, self.values = owner, keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the tensors are there from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new token of every slot, [size, heads, 1, dim]; returns the columns that the step reads."""
        owner = self.owner
        slots, places = owner.numbers[: owner.size], owner.places  # [size] each
        self.keys[slots, :, places] = key_states[:, :, 0]
        self.values[slots, :, places] = value_states[:, :, 0]
        return self.keys[: owner.size, :, : owner.columns], self.values[: owner.size, :, : owner.columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.columns, 0

    def get_seq_length(self) -> int:
        return 0  # asked for positions and masks, both of which every step brings along

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class StaticSlotCache(Cache):
    """Slots at fixed addresses.

    Args:
        slots: How many.
        capacity: Columns of each.
        like: Any prompt as the model read it: layers, heads, sizes, type and device.
    Attributes:
        size: Slots that the present step decodes, the first ones.
        columns: Columns that it reads, the first ones.
        places: The column that it writes in each slot, int64 [size] on the device.
    """

    def __init__(self, slots: int, capacity: int, like: PrefilledPrompts) -> None:
        self.size, self.columns, self.capacity = slots, capacity, capacity
        device = like.layers[0][0].device
        self.numbers = torch.arange(slots, device=device)
        self.places = torch.zeros(slots, dtype=torch.long, device=device)
        # Zeros, not empty: columns that hold nothing are masked, but a NaN in them would still reach the output.
        self.slots = [
            StaticSlotLayer(
                self, *(states.new_zeros(slots, states.shape[1], capacity, states.shape[3]) for states in layer)
            )
            for layer in like.layers
        ]
        super().__init__(layers=list(self.slots))

    def set_view(self, columns: int, places: Tensor) -> None:
        """What the next step reads, and where it writes: `places`, int64 [size], in the first slots."""
        self.size, self.columns, self.places = len(places), columns, places

    def insert_prompts(
        self, source: PrefilledPrompts, prompts: Sequence[int], rows: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Copy prefilled prompts into slots, from the first column on.

        Args:
            source: The prefilled batch.
            prompts: Which prompt of the batch, for each slot to be filled; may repeat.
            rows: The slots.
            lengths: Tokens of each prompt.
        """
        longest, device = max(lengths), self.numbers.device
        of, into = (torch.tensor(numbers, device=device) for numbers in (prompts, rows))
        # Of shorter prompts padding is copied as well: it is masked until the sequence's own tokens lie there.
        for layer, (keys, values) in zip(self.slots, source.layers, strict=True):
            layer.keys[into, :, :longest] = keys[of, :, :longest]
            layer.values[into, :, :longest] = values[of, :, :longest]

    def clear_slots(self) -> None:
        """Make all slots as they were at first, where they are."""
        for layer in self.slots:
            layer.keys.zero_()
            layer.values.zero_()

    def count_bytes(self) -> int:
        """Memory that the slots take."""
        return sum(x.numel() * x.element_size() for layer in self.slots for x in (layer.keys, layer.values))

    def grow_columns(self, capacity: int) -> None:
        """Make room for longer sequences. The tensors are others then."""
        for layer in self.slots:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                new = states.new_zeros(*states.shape[:2], capacity, states.shape[3])
                new[:, :, : self.capacity] = states
                setattr(layer, name, new)  # one at a time, so that little is there twice
        self.capacity = capacity

    def move_slots(self, movers: Tensor, holes: Tensor, columns: int) -> None:
        """Copy the first `columns` columns of the slots `movers` to the slots `holes`."""
        movers, holes = (numbers.to(self.numbers.device) for numbers in (movers, holes))
        for layer in self.slots:
            for states in (layer.keys, layer.values):
                states[holes, :, :columns] = states[movers, :, :columns]
