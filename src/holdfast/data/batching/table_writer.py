"""Collecting the sequences of a `TokenTable`, in memory or on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from holdfast.data.batching.batches import TablePictures, TokenTable

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat, Encoding

PICTURES = "pictures.json"
"""Of a table on disk: the references of each sequence's pictures."""


def pictures_of_table(references: list[list[str]], chat: Chat) -> TablePictures | None:
    """The pictures of a table, where any sequence has one."""
    processor = chat.pictures.processor
    return TablePictures(references, processor) if processor is not None and any(references) else None


class TableWriter:
    """Collects sequences, in memory or appended to the two files `(ids, trained)`."""

    def __init__(self, files: tuple[BinaryIO, BinaryIO] | None) -> None:
        self.files = files
        self.ids: list[np.ndarray] = []
        self.label_masks: list[np.ndarray] = []
        self.pieces: list[tuple[np.ndarray, np.ndarray]] = []
        self.lengths: list[int] = []
        self.weights: list[float] = []
        self.source: list[int] = []
        self.first: list[int] = [0]
        self.values: list[tuple[float, ...]] = []
        self.pictures: list[list[str]] = []

    def add_row(
        self,
        sequences: list[Encoding],
        weight: float,
        source: int,
        values: list[tuple[float, ...]],
        pictures: list[list[str]],
    ) -> None:
        for ids, label_mask in sequences:
            self.ids.append(ids)
            self.label_masks.append(label_mask)
            self.lengths.append(len(ids))
        self.weights.append(weight)
        self.source.append(source)
        self.first.append(len(self.lengths))
        self.values += values
        self.pictures += pictures

    def flush(self) -> None:
        """Hand what has been collected to the files, or keep it as one piece: an array per row is mostly header."""
        if not self.ids:
            return
        ids, label_mask = np.concatenate(self.ids).astype(np.int32), np.concatenate(self.label_masks)
        self.ids, self.label_masks = [], []
        if self.files:
            self.files[0].write(ids.tobytes())
            self.files[1].write(label_mask.tobytes())
        else:
            self.pieces.append((ids, label_mask))

    def small_arrays(self) -> tuple[np.ndarray, ...]:
        return (
            np.concatenate([[0], np.cumsum(np.array(self.lengths, dtype=np.int64))]).astype(np.int64),
            np.array(self.weights, dtype=np.float32),
            np.array(self.source, dtype=np.int64),
            np.array(self.first, dtype=np.int64),
            np.array(self.values, dtype=np.float32).reshape(len(self.lengths), -1 if self.lengths else 0),
        )

    def save_small_arrays(self, directory: Path) -> None:
        for name, array in zip(TokenTable.ARRAYS[2:], self.small_arrays(), strict=True):
            np.save(directory / f"{name}.npy", array, allow_pickle=False)

    def to_table(self, columns: list[str], name: str) -> TokenTable:
        ids, label_mask = (np.concatenate(part) for part in zip(*self.pieces, strict=True))
        return TokenTable(ids, label_mask, *self.small_arrays(), columns=columns, fingerprint=name)
