"""Several files as one set of rows, each with its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.data.row_store import RowView, prompt_keys
from holdfast.data.rows import LazyRows, Row, Rows, fingerprint_json, fingerprint_rows
from holdfast.errors import UserError


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one entry of `data.train`.

    Args:
        name: As the user wrote it.
        rows: All it has.
        share: Of all rows of the result, in (0, 1]; `None`: what the others leave.
    """

    name: str
    rows: Rows
    share: float | None = None


class JoinedRows(LazyRows):
    """The rows of several sequences, one after another, read on demand."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(rows) for rows in self.parts])  # int64 [parts]

    @property
    def keys(self) -> np.ndarray:
        return np.concatenate([prompt_keys(rows) for rows in self.parts])

    @property
    def fingerprint(self) -> str:
        return fingerprint_json([fingerprint_rows(rows) for rows in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _take_slice(self, index: slice) -> Rows:
        return RowView(self, np.arange(len(self))[index])

    def _read_row(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - int(self.ends[part]) + len(self.parts[part])]

    def __iter__(self) -> Iterator[Row]:
        for rows in self.parts:
            yield from rows


def chain_rows(parts: Sequence[Rows]) -> Rows:
    """Rows one after another: a list if all of them are lists."""
    if len(parts) == 1:
        return parts[0]
    return [row for rows in parts for row in rows] if all(isinstance(p, list) for p in parts) else JoinedRows(parts)


def join_parts(parts: Sequence[Part], limit: int | None = None) -> tuple[Rows, list[str]]:
    """Rows of several files in their shares, and what was taken of each.

    Files without a share are used whole, and a file with one gives that share of all rows. Where all files have shares,
    there are as many rows as keep them. No row is taken twice: a file that has too few gives all it has. Which rows a
    file gives, when it gives not all, is drawn at random, the same ones every time; their order stays.

    Args:
        parts: At least one.
        limit: Most rows of the result, in the same shares.
    Returns:
        The rows, and one line for each file that gives fewer rows than it has or than its share would be.
    Raises:
        UserError: The shares add up to more than 1, leave nothing for the others, or do not make up 1.
    """
    sizes = [len(part.rows) for part in parts]
    shares = [part.share for part in parts]
    counts = allocate_rows(sizes, shares, limit)
    random = np.random.default_rng((0, 0x5A4E))
    selections: list[Rows] = []
    lines: list[str] = []
    for part, size, count in zip(parts, sizes, counts, strict=True):
        chosen = random.permutation(size)[: min(count, size)]
        selections.append(part.rows if count >= size else _select_rows(part.rows, np.sort(chosen)))
    total = sum(map(len, selections))
    for part, size, count, rows in zip(parts, sizes, counts, selections, strict=True):
        if count > size:
            real_share = f"{size / total:.2g}"
            lines.append(
                f"{part.name}: all its {size:,} rows are {real_share} of the rows, not {part.share:g}: none is repeated"
            )
        elif len(rows) < size:
            lines.append(f"{part.name}: {len(rows):,} of its {size:,} rows are used, {len(rows) / total:.2g} of all")
    return chain_rows(selections), lines


def _select_rows(rows: Rows, indices: np.ndarray) -> Rows:
    return [rows[i] for i in indices.tolist()] if isinstance(rows, list) else RowView(rows, indices)


def allocate_rows(sizes: Sequence[int], shares: Sequence[float | None], limit: int | None = None) -> list[int]:
    """How many rows each file is to give by its share; more than it has where it has too few.

    Args:
        sizes: Rows of each file.
        shares: Of all rows; `None`: in proportion to its size, of what the others leave.
        limit: Most rows altogether.
    """
    share_sum = sum(share for share in shares if share is not None)
    free = sum(size for size, share in zip(sizes, shares, strict=True) if share is None)
    if share_sum > 1 + 1e-9 or (None in shares and share_sum > 1 - 1e-9):
        hint = ", which leaves nothing for the others" if share_sum <= 1 + 1e-9 else ""
        raise UserError(f"data.train: the shares add up to {share_sum:g}{hint}; lower them")
    if None not in shares:
        if abs(share_sum - 1) > 1e-6:
            raise UserError(
                f"data.train: every file has a share and they add up to {share_sum:g}, not 1; mend one, or leave one "
                "out"
            )
        total = min(size / share for size, share in zip(sizes, shares, strict=True) if share)
    else:
        total = free / (1 - share_sum)
    total = min(total, limit or total)
    counts = [
        share * total if share is not None else size / max(1, free) * (1 - share_sum) * total
        for size, share in zip(sizes, shares, strict=True)
    ]
    out = [max(1, round(count)) if size else 0 for count, size in zip(counts, sizes, strict=True)]
    if limit is not None and sum(out) > limit:  # by rounding
        largest = int(np.argmax(out))
        out[largest] = max(1, out[largest] - (sum(out) - limit))
    return out
