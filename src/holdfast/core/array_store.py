"""Arrays by key in one file that only grows, so that a kill costs the last seconds of work at most."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

FLUSH_SECONDS = 1.0
"""Seconds after which what was computed since is written."""

HEADER_BYTES = 4096
"""Most bytes of the line before an array; a longer one is damage."""


class ArrayPlace(NamedTuple):
    """Where an array is in the file."""

    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


class ArrayStore:
    """The arrays of a file, each behind a line of JSON with its key, type, shape and checksum.

    One process writes at a time. What stands behind a torn or damaged array is computed again, and written in its
    place.

    Args:
        path: Made, with its directory, when the first array is written.
        flush_seconds: How often what is computed is written.
    """

    def __init__(self, path: Path, flush_seconds: float = FLUSH_SECONDS) -> None:
        self.path, self.flush_seconds = path, flush_seconds
        self._places: dict[str, ArrayPlace] = {}
        self._end = 0  # of what is whole
        if path.exists():
            with path.open("rb") as file:
                for key, place, end in _walk_arrays(file):
                    self._places[key], self._end = place, end

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def write_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add arrays behind those that are whole; they are on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.truncate(self._end)
            file.seek(self._end)
            for key, array in arrays.items():
                file.write(_encode_array(key, array))
            file.flush()
            os.fsync(file.fileno())
            file.seek(self._end)
            for key, place, end in _walk_arrays(file):
                self._places[key], self._end = place, end

    def read_arrays(self, keys: Sequence[str]) -> list[np.ndarray]:
        """The arrays of keys that are here, in their order."""
        if not keys:
            return []
        with self.path.open("rb") as file:
            return [_read_array(file, self._places[key]) for key in keys]

    def get_or_compute(
        self, keys: Sequence[str], compute: Callable[[list[int]], Iterator[Mapping[int, np.ndarray]]]
    ) -> list[np.ndarray]:
        """The arrays of `keys`, those that are not here computed and written every few seconds.

        Args:
            compute: From indices into `keys`, of different keys, to their arrays by index, group by group: a group is
                written as a whole. What was computed before an error is written too.
        """
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        missing = sorted(index for key, index in first.items() if key not in self)
        if missing:
            self._write_groups(keys, compute(missing))
        return self.read_arrays(keys)

    def _write_groups(self, keys: Sequence[str], groups: Iterator[Mapping[int, np.ndarray]]) -> None:
        pending: dict[str, np.ndarray] = {}
        last_write = time.monotonic()
        try:
            for group in groups:
                pending.update((keys[index], array) for index, array in group.items())
                if time.monotonic() - last_write >= self.flush_seconds:
                    self.write_arrays(pending)
                    pending, last_write = {}, time.monotonic()
        finally:
            if pending:
                self.write_arrays(pending)


def _encode_array(key: str, array: np.ndarray) -> bytes:
    data = np.ascontiguousarray(array).tobytes()
    header = {"key": key, "dtype": array.dtype.str, "shape": array.shape, "crc32": zlib.crc32(data)}
    return json.dumps(header).encode() + b"\n" + data


def _walk_arrays(file: BinaryIO) -> Iterator[tuple[str, ArrayPlace, int]]:
    """Key, place and end of every array from here on, up to the first that is torn or damaged."""
    while (line := file.readline(HEADER_BYTES)).endswith(b"\n"):
        try:
            header = json.loads(line)
            key, dtype, shape = str(header["key"]), np.dtype(header["dtype"]), tuple(map(int, header["shape"]))
            checksum = int(header["crc32"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        offset = file.tell()
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        data = file.read(size) if size >= 0 else b""
        if len(data) != size or zlib.crc32(data) != checksum:
            return
        yield key, ArrayPlace(offset, dtype, shape), offset + size


def _read_array(file: BinaryIO, place: ArrayPlace) -> np.ndarray:
    file.seek(place.offset)
    size = int(np.prod(place.shape, dtype=np.int64)) * place.dtype.itemsize
    return np.ndarray(place.shape, place.dtype, buffer=bytearray(file.read(size)))
