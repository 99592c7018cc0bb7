"""Sequences of like length together, so that little of a padded batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.data.batching.batches import EncodedSequence


def group_by_area(sequences: Sequence[EncodedSequence], micro_tokens: int) -> Iterator[list[int]]:
    """Numbers of sequences of like length, longest first, whose padded area stays within `micro_tokens`."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i].ids))
    start = 0
    while start < len(order):
        size = max(1, micro_tokens // len(sequences[order[start]].ids))
        yield order[start : start + size]
        start += size
