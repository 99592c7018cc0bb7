"""Rows on disk: `RowFile` reads them on demand, `RowView` is a selection; both behave like a list of rows."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from holdfast.core.files import fresh_directory, seal_directory
from holdfast.data.pictures.references import compared_text
from holdfast.data.rows import LazyRows, Row, Rows, fingerprint_json, without_place


class RowFile(LazyRows):
    """Rows in a JSONL file, one `Row.to_json` a line, read on demand; memory holds 8 bytes a row.

    Args:
        path: The file.
        offsets: Where each line begins, and where the last one ends, int64 [rows + 1] bytes; default: found out.
        keys: uint64 [rows], `prompt_key` of each row; default: computed when asked for.
        fingerprint: Names the rows; default: of the file's bytes, without the places of its rows.
        source: What the rows were read from; it goes before the place of each.
    """

    def __init__(
        self,
        path: Path,
        offsets: np.ndarray | None = None,
        keys: np.ndarray | None = None,
        fingerprint: str | None = None,
        source: str = "",
    ) -> None:
        self.path, self.source = path, source
        if offsets is None:
            with path.open("rb") as handle:
                offsets = np.cumsum(np.fromiter(chain([0], map(len, handle)), dtype=np.int64))
        self.offsets, self._keys, self._fingerprint = offsets, keys, fingerprint
        self._map: mmap.mmap | None = None

    @classmethod
    def open(cls, directory: Path, source: str = "") -> RowFile:
        """The rows that `write` left in a directory; it may have been made of `source` under another name."""
        offsets, keys = (np.load(directory / f"{name}.npy", allow_pickle=False) for name in ("offsets", "keys"))
        return cls(directory / "rows.jsonl", offsets, keys, (directory / "fingerprint").read_text(), source)

    @property
    def keys(self) -> np.ndarray:
        if self._keys is None:
            self._keys = np.array([prompt_key(row) for row in self], dtype=np.uint64)
        return self._keys

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            digest = hashlib.sha256()
            with self.path.open("rb") as handle:
                for line in handle:
                    digest.update(without_place(line))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @classmethod
    def write(cls, rows: Iterable[Row], directory: Path, source: str = "") -> RowFile:
        """Write `rows` as they come, and open them; nothing is left behind if `rows` raises.

        Args:
            source: What their places begin with; it is not written, so that they can be opened under another name.
        """
        with fresh_directory(directory) as side:
            cls._write_files(rows, side, source)
            seal_directory(side)
        return cls.open(directory, source)

    @staticmethod
    def _write_files(rows: Iterable[Row], side: Path, source: str) -> None:
        lengths, keys, digest = [0], [], hashlib.sha256()
        with (side / "rows.jsonl").open("wb") as handle:
            for row in rows:
                line = replace(row, place=row.place.removeprefix(source)).to_line().encode()
                handle.write(line)
                digest.update(without_place(line))
                lengths.append(len(line))
                keys.append(prompt_key(row))
        np.save(side / "offsets.npy", np.cumsum(np.array(lengths, dtype=np.int64)))
        np.save(side / "keys.npy", np.array(keys, dtype=np.uint64))
        (side / "fingerprint").write_text(digest.hexdigest())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def _take_slice(self, index: slice) -> Rows:
        return RowView(self, np.arange(len(self))[index])

    def _read_row(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = index % len(self)
        if self._map is None:
            with self.path.open("rb") as handle:
                self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        return self._parse_line(self._map[int(self.offsets[index]) : int(self.offsets[index + 1])])

    def _parse_line(self, line: bytes) -> Row:
        row = Row.from_json(json.loads(line))
        if row.place:
            row.place = self.source + row.place
        return row

    def __iter__(self) -> Iterator[Row]:
        with self.path.open("rb") as handle:
            for line in handle:
                yield self._parse_line(line)


class RowView(LazyRows):
    """Some rows of another sequence, in any order."""

    def __init__(self, rows: Rows, indices: np.ndarray) -> None:
        self.rows, self.indices = rows, indices

    @property
    def keys(self) -> np.ndarray:
        return prompt_keys(self.rows)[self.indices]

    @property
    def fingerprint(self) -> str:
        own_fingerprint = getattr(self.rows, "fingerprint", None)
        base = own_fingerprint if isinstance(own_fingerprint, str) else [row.to_json() for row in self.rows]
        return fingerprint_json([base, hashlib.sha256(self.indices.astype(np.int64).tobytes()).hexdigest()])

    def __len__(self) -> int:
        return len(self.indices)

    def _take_slice(self, index: slice) -> Rows:
        return RowView(self.rows, self.indices[index])

    def _read_row(self, index: int) -> Row:
        return self.rows[int(self.indices[index])]

    def __iter__(self) -> Iterator[Row]:
        for index in self.indices.tolist():
            yield self.rows[index]


def prompt_key(row: Row) -> int:
    """64 bits naming a row's prompt, white space aside; of plain text, the text."""
    prompt = row.prompt or row.messages
    text = "\0".join(f"{m['role']}:{' '.join(compared_text(m).split())}" for m in prompt)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def prompt_keys(rows: Rows) -> np.ndarray:
    """`prompt_key` of each row, uint64 [rows]."""
    keys = getattr(rows, "keys", None)
    if isinstance(keys, np.ndarray):
        return keys
    return np.array([prompt_key(row) for row in rows], dtype=np.uint64)
