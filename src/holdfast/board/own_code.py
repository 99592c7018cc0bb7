"""What a recipe reaches outside of itself, found without reading it: code of the user's own, and places on the disk."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.axes.own_class import list_plugins

OWN_CLASS = re.compile(r"[\w./-]+:[A-Za-z_]\w*")
"""`package.module:Class`, `file.py:function`."""
NOT_CODE = ("lab:", "text:", "stage:")
LIBRARY_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""`torch.optim.RAdam`, where an optimizer or the like stands."""
NAMES_DATA = frozenset(
    {"train", "test", "path", "split", "config", "model", "keep", "target", "output", "draft", "revision"}
)
"""Keys whose texts name data and models, in which a colon stands before a split."""
FREE_TEXT = frozenset({"system", "stop", "prompt", "columns", "instruction", "template"})
"""Keys whose texts say something and name nothing."""
MOST_MATCHES = 1000


def walk_texts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text of a recipe with its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk_texts(inner, (*path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from walk_texts(inner, path)
    elif isinstance(value, str):
        yield path, value


def find_own_code(data: Any) -> list[str]:
    """What of a recipe would run code that is not of this package, or names a judge that does."""
    names = []
    for path, text in walk_texts(data):
        key = path[-1] if path else ""
        if key in FREE_TEXT or text.startswith(NOT_CODE):
            continue
        for part in text.split("+"):
            is_class = key not in NAMES_DATA and OWN_CLASS.fullmatch(part) is not None
            is_library = bool({"optimizer", "optim"} & set(path)) and LIBRARY_CLASS.fullmatch(part) is not None
            is_python = part == "python" and key in ("judge", "name")
            if is_class or is_library or is_python or part in list_plugins():
                names.append(part)
    return list(dict.fromkeys(names))


def find_outside_places(data: Any, root: Path) -> list[str]:
    """What of a recipe lies, or would be written, outside of a directory.

    Args:
        data: The recipe.
        root: The directory, links resolved; relative names are from there.
    """
    return list(
        dict.fromkeys(
            text
            for path, text in walk_texts(data)
            if not (path and set(path) & FREE_TEXT) and "\n" not in text and _leads_outside(text, root)
        )
    )


def _leads_outside(text: str, root: Path) -> bool:
    """Whether a text, as a name of a file, leads out of a directory."""
    name = text.removeprefix("text:")
    if name.startswith(("http://", "https://")):
        return False  # an engine, where an address may stand; nothing else reads one
    if "\0" in name or name.startswith("~") or "://" in name:
        return True
    candidates = {name, name.rpartition(":")[0] or name}
    return any(_is_outside(candidate, root) for candidate in candidates)


def _is_outside(name: str, root: Path) -> bool:
    path = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return not _resolves_inside(path, root)
    try:
        matches = glob.iglob(str(root / name), recursive=True) if glob.has_magic(name) else iter([str(path)])
        return not all(_resolves_inside(Path(match), root) for match in itertools.islice(matches, MOST_MATCHES))
    except (OSError, ValueError):
        return True


def _resolves_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):
        return False
