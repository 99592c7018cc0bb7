"""Whether a process holds a file's lock, found out without taking it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from holdfast.core.files import lock_file
from holdfast.errors import UserError

TABLE = Path("/proc/locks")
FRESH_SECONDS = 120.0
"""Where the system does not tell of locks, a run that wrote something so lately is taken to be at work."""


def is_locked(path: Path) -> bool:
    """Whether another process holds a file's lock; for files whose lock nobody waits for."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: several may look at once
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def wait_for_lock(file: IO[bytes], seconds: float) -> bool:
    """Take the lock of an open file, and say whether it could be had in time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            lock_file(file, "")
        except UserError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def find_writer(path: Path) -> int:
    """The number of the process whose standard output is a file; 0 where that cannot be seen."""
    for place in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            if place.samefile(path):
                return int(place.parts[2])
    return 0


def find_runs_at_work(runs: Sequence[Path]) -> set[Path]:
    """Of some run directories those that a process works on: it then holds the lock of the journal."""
    numbers: dict[Path, int] = {}
    for run in runs:
        with contextlib.suppress(OSError):
            numbers[run] = os.stat(f"{run}/samples.jsonl").st_ino
    # Trying the locks would be simpler, and would refuse a run that begins in that moment.
    # The inode is enough: file systems in layers name another device there than here.
    try:
        lines = TABLE.read_text(encoding="ascii").splitlines() if numbers else []
    except OSError:  # another system than Linux
        return {run for run in numbers if _is_fresh(run)}
    held_numbers = {
        field.rpartition(":")[2] for line in lines if "FLOCK" in line for field in line.split() if ":" in field
    }
    return {run for run, number in numbers.items() if str(number) in held_numbers}


def _is_fresh(run: Path) -> bool:
    """Whether a run wrote something just now."""
    files = [run / name for name in ("events.jsonl", "log.jsonl", "samples.jsonl")]
    return any(file.exists() and time.time() - file.stat().st_mtime < FRESH_SECONDS for file in files)
