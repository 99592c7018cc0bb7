"""Sequences of like length together, so that little of a padded batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Encoded


def by_area(encoded: Sequence[Encoded], micro_tokens: int) -> Iterator[list[int]]:
    """Numbers of sequences of like length, longest first, whose padded area stays within `micro_tokens`."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].ids))
    start = 0
    while start < len(order):
        size = max(1, micro_tokens // len(encoded[order[start]].ids))
        yield order[start : start + size]
        start += size
