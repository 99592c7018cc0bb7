"""Rows and models given to the Python API as objects: kept by their content, and called `memory:FINGERPRINT`.

A recipe is text, so that a run can be repeated and compared by what it says. An object in it is therefore written to
the cache under the fingerprint of its content, and its name stands in the recipe: the same content is the same run,
another is another. A run directory has a copy of its rows (`rows-FINGERPRINT.jsonl`), so that it is whole by itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.core.files import fresh_file
from holdfast.errors import UserError

PREFIX = "memory:"
ROW_KEYS = ("train", "test", "replay")
"""Keys of a recipe's `data` that may hold rows instead of a file."""

_copies: dict[str, Path] = {}
"""Names to the copies that run directories hold, of those that were read in this process."""


def cache_home() -> Path:
    """Where what is not part of a run is kept: `HOLDFAST_CACHE`, else `~/.cache/holdfast`."""
    return Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast").expanduser()


def is_memory(name: str) -> bool:
    """Whether a name stands for something that was given as an object."""
    return name.startswith(PREFIX)


# ---- rows ---------------------------------------------------------------------------------------------------------


def cached_rows(name: str) -> Path:
    return cache_home() / "memory" / f"{name.removeprefix(PREFIX)}.jsonl"


def copy_path(directory: Path, name: str) -> Path:
    """Where a run directory has its copy of rows."""
    return directory / f"rows-{name.removeprefix(PREFIX)}.jsonl"


def rows_path(name: str) -> Path:
    """The file of rows that were given as an object.

    Raises:
        UserError: If they are neither in the cache nor in a run directory that was read.
    """
    for path in (_copies.get(name), cached_rows(name)):
        if path is not None and path.exists():
            return path
    raise UserError(f"{name}: these rows were given from memory, and no copy is left; give them again")


def offer_copies(directory: Path, recipe: Any) -> None:
    """Let the rows that a recipe of this run directory names be read from its copies."""
    for name in names_in(recipe):
        if (copy := copy_path(directory, name)).exists():
            _copies[name] = copy


def keep_copies(directory: Path, recipe: Any) -> None:
    """Put copies of the rows that a recipe names into its run directory."""
    for name in names_in(recipe):
        copy = copy_path(directory, name)
        if not copy.exists():
            with fresh_file(copy) as side:
                shutil.copyfile(rows_path(name), side)


def names_in(recipe: Any) -> Iterator[str]:
    """The names of rows in a recipe's mapping, those of its stages too."""
    stages = recipe.get("stages") if isinstance(recipe, dict) else None
    for part in (recipe, *(stages if isinstance(stages, (list, tuple)) else ())):
        data = part.get("data") if isinstance(part, dict) else None
        for key in ROW_KEYS:
            entries = data.get(key) if isinstance(data, dict) else None
            for entry in entries if isinstance(entries, (list, tuple)) else (entries,):
                name = entry.get("path") if isinstance(entry, dict) else entry
                if isinstance(name, str) and is_memory(name):
                    yield name


# ---- models -------------------------------------------------------------------------------------------------------


def cached_model(name: str) -> Path:
    return cache_home() / "memory" / name.removeprefix(PREFIX)


def model_path(name: str) -> Path:
    """The folder of a model that was given as an object.

    Raises:
        UserError: If its copy is gone.
    """
    path = cached_model(name)
    if not path.is_dir():
        raise UserError(
            f"{name}: this model was given from memory, and its copy in {path.parent} is gone; save it with its "
            "tokenizer (save_pretrained) and name the folder, or give it again"
        )
    return path
