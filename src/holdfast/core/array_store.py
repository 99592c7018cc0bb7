"""Arrays by key on disk, appended a file at a time; each file is whole or absent, so that a kill costs one at most."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from holdfast.core.files import fresh_file

CHUNK = 256
"""Arrays computed and written together."""


class ArrayStore:
    """The arrays of a directory.

    Args:
        directory: Made when the first array is put.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._places: dict[str, Any] = {}
        for path in sorted(directory.glob("*.safetensors")):
            self._open_file(path)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> np.ndarray:
        return self._places[key].get_tensor(key)

    def write_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays, all or none, to one file."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{hashlib.sha256(''.join(arrays).encode()).hexdigest()[:24]}.safetensors"
        with fresh_file(path) as side:
            save_file(dict(arrays), side)
        self._open_file(path)

    def _open_file(self, path: Path) -> None:
        try:
            handle = safe_open(path, framework="np")
        except SafetensorError:
            return  # cut off or overwritten by someone: its arrays are computed again, and it is replaced
        self._places.update(dict.fromkeys(handle.keys(), handle))

    def get_or_compute(
        self, keys: Sequence[str], compute: Callable[[list[int]], Sequence[np.ndarray]], chunk: int = CHUNK
    ) -> list[np.ndarray]:
        """The arrays of `keys`, those that are not here computed and put here a chunk at a time.

        Args:
            compute: From indices into `keys`, of different keys, to their arrays.
        """
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        missing = sorted(index for key, index in first.items() if key not in self)
        for start in range(0, len(missing), chunk):
            part = missing[start : start + chunk]
            self.write_arrays({keys[i]: array for i, array in zip(part, compute(part), strict=True)})
        return [self[key] for key in keys]
