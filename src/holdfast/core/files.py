"""Files and directories that are whole or absent: filled under a side name, synced, renamed; leftovers are swept.

A side name is `.NAME.PID` (a directory: `.NAME.PID.partial`), so that two processes never write into one. A process
that is killed leaves its own behind; whoever writes NAME next removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from holdfast.errors import UserError

SIDE = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)(\.partial|\.old)?", re.DOTALL)
SEAL = "sha256.json"
HASHED_BYTES = 2**30
"""Bytes up to which a file is hashed whenever it is opened."""
ABANDONED_SECONDS = 24 * 3600.0
"""Seconds after which a side file is nobody's, where it cannot be known whether its writer still runs."""


def side_name(path: Path, end: str = "") -> Path:
    """Where this process writes what `path` will be."""
    return path.with_name(f".{path.name}.{os.getpid()}{end}")


def replace_file(path: Path, content: str | bytes, *, patience: float = 0.0) -> None:
    """Write a file, whole or not at all; a text as UTF-8 with its line ends as they are."""
    with fresh_file(path, patience=patience) as side:
        side.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def fresh_file(path: Path, *, patience: float = 0.0) -> Iterator[Path]:
    """The side name of a file to write inside; after that it is synced and renamed, or removed if anything failed.

    Args:
        patience: As `remove_leftovers` takes it.
    """
    side = side_name(path)
    remove_leftovers(path.parent, path.name, patience=patience)
    try:
        yield side
        _sync_to_disk(side)
        os.replace(side, path)
    except BaseException:
        side.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def fresh_directory(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """An empty directory to fill inside; after that it is synced and has the name `target`, or is removed.

    Args:
        target: A directory or link of that name gives way; what a link leads to stays as it is.
        replace: Whether it gives way; else what was made is dropped, as another process has made the same.
    """
    side, old = side_name(target, ".partial"), side_name(target, ".old")
    remove_leftovers(target.parent, target.name)
    remove_path(side)
    side.mkdir(parents=True)
    try:
        yield side
        for path in [*side.rglob("*"), side]:
            _sync_to_disk(path)
        if replace or not os.path.lexists(target):
            _swap_directories(side, target, old)
    finally:
        remove_path(side)


def _swap_directories(side: Path, target: Path, old: Path) -> None:
    """Let `side` take the place of what `target` names; if that fails, that stays."""
    there = os.path.lexists(target)
    if there:
        remove_path(old)
        os.replace(target, old)
    try:
        os.replace(side, target)
    except OSError:
        if there:
            os.replace(old, target)
        raise
    remove_path(old)


def seal_directory(directory: Path) -> None:
    """Write down how long each file of a directory is, and its SHA-256."""
    sizes = {path.name: [path.stat().st_size, sha256_of(path)] for path in sorted(directory.iterdir())}
    (directory / SEAL).write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def is_sealed(directory: Path) -> bool:
    """Whether the files of a directory are still as `seal_directory` found them; of very large ones only the length
    is known.
    """
    entries = read_json(directory / SEAL)
    if not isinstance(entries, dict) or not all(isinstance(v, list) and len(v) == 2 for v in entries.values()):
        return False
    for name, (size, digest) in entries.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != size or (size <= HASHED_BYTES and sha256_of(path) != digest):
            return False
    return True


def remove_leftovers(
    directory: Path, name: str | None = None, *, everyone: bool = False, patience: float = 0.0
) -> None:
    """Remove what killed processes left half written in a directory.

    Args:
        name: Only what was to have this name.
        everyone: Also what seems to be of a process that runs: only this process writes here.
        patience: Seconds that pass before anything is removed, where machines share the directory.
    """
    if not directory.is_dir():
        return
    for path in directory.glob(".*"):
        match = SIDE.fullmatch(path.name)
        if (
            match
            and (name is None or match["name"] == name)
            and (everyone or _is_abandoned(path, int(match["pid"]), patience))
        ):
            remove_path(path)


def _is_abandoned(path: Path, pid: int, patience: float) -> bool:
    """Whether a side file has no writer any more; a number is used again, and says nothing of another machine."""
    try:
        age = time.time() - path.lstat().st_mtime
    except OSError:  # its writer has just renamed it
        return False
    return age > ABANDONED_SECONDS or (age >= patience and not _process_exists(pid))


def _process_exists(pid: int) -> bool:
    """Whether there is a process of this number on this machine; this process has no part in what was left over."""
    if sys.platform == "win32":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid != os.getpid()


def remove_path(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a whole directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The value in a JSON file; `None` where there is no file, or what is there is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):  # cut off, zeroed by a crash of the machine, not text
        return None


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; lines that hold none (torn, zeroed, joined with another) are passed over."""
    with path.open("rb") as handle:
        for line in handle:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def append_line(path: Path, value: Any) -> None:
    """Add an object to a JSON-lines file, on a line of its own even where the last one was torn."""
    with path.open("a+b") as handle:
        torn = False
        if handle.tell():
            handle.seek(-1, os.SEEK_END)
            torn = handle.read(1) != b"\n"
        handle.write(b"\n" * torn + json.dumps(value).encode() + b"\n")


def lock_file(file: IO[bytes], refusal: str) -> None:
    """Refuse a second writer of an open file; the lock ends with the process, however it ends.

    Args:
        refusal: What is said where another process holds it.
    Raises:
        UserError: If another process holds it.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(refusal) from error


def describe_truncation(weights: Path) -> str:
    """What is wrong with the length of a safetensors file; "" where its header and its size agree."""
    size = weights.stat().st_size
    with weights.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > size - 8:
            return f"cut off after {size:,} bytes"
        try:
            header = json.loads(handle.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return "its header is damaged"
    full_size = 8 + length + max(ends, default=0)
    return "" if full_size == size else f"has {size:,} of {full_size:,} bytes"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _sync_to_disk(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk."""
    if path.is_symlink() or sys.platform == "win32":  # which syncs only what was opened for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_tree(source: Path, target: Path) -> None:
    """The files of a folder at a second place, without a second copy where the disk can do that; all or nothing."""
    with fresh_directory(target) as side:
        shutil.copytree(source, side, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
