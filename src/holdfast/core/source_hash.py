"""The hash of a class's source, with what it imports from beside it: an edited class is another class."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

INSTALL_FOLDERS = ("site-packages", "dist-packages")
"""Folders that hold many packages, of which only the class's own is its source."""


@cache
def source_hash(cls: type) -> str:
    """SHA-256 of the files that define a class, its bases outside of this package, and what these import.

    Followed are imports of modules that lie in the same project: below the folder that holds the top-level module, of
    an installed package below its own folder. Taken once for a class: what runs is what was imported, whatever becomes
    of the file meanwhile. A class typed into an interpreter has no file, and the hash of no text.
    """
    files: dict[str, bytes] = {}
    for base in cls.__mro__:
        top = base.__module__.partition(".")[0]
        if top in ("holdfast", "pydantic", "torch", "builtins", "typing", "abc"):
            continue
        file = _file_of(base)
        if file is not None:
            parts = [] if base.__module__ == "__main__" else base.__module__.split(".")
            root = (file.parent if file.name == "__init__.py" else file).parents[max(0, len(parts) - 1)]
            _collect_files(file, root, top if root.name in INSTALL_FOLDERS else "", files)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode() + files[name])
    return digest.hexdigest()


def is_installed(cls: type) -> bool:
    """Whether a class belongs to an installed package, and not to a project that is worked on."""
    file = _file_of(cls)
    return file is not None and not set(INSTALL_FOLDERS).isdisjoint(file.parts)


def find_own_file(thing: type | Callable[..., Any]) -> Path | None:
    """The file of the user's own that defines a class or function; `None` where it is an installed package's."""
    file = _file_of(thing)
    return file if file is not None and set(INSTALL_FOLDERS).isdisjoint(file.parts) else None


def _file_of(cls: type | Callable[..., Any]) -> Path | None:
    try:
        file = inspect.getsourcefile(cls)
    except (OSError, TypeError):  # a class that was typed into an interpreter
        return None
    return Path(file).resolve() if file and Path(file).is_file() else None


def _collect_files(file: Path, root: Path, only: str, files: dict[str, bytes]) -> None:
    """Add a file and all that it imports below `root`; `only`: the one top-level package looked at there."""
    name = file.relative_to(root).as_posix()
    if name in files:
        return
    files[name] = file.read_bytes()
    package = file.parent.relative_to(root).parts
    for parts in _parse_imports(files[name], package):
        if only and parts[:1] != (only,):
            continue
        for n in range(1, len(parts) + 1):  # importing a.b runs a/__init__.py as well
            stem = root.joinpath(*parts[:n])
            for candidate in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
                if candidate.is_file():
                    _collect_files(candidate, root, only, files)


def _parse_imports(text: bytes, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The dotted names that a file imports, inside functions too; of `from a import b` also a.b: it may be a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*base, alias.name) for alias in node.names)
