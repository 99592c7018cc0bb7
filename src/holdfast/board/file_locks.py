"""Whether a process holds a file's lock, found out without taking it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

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


def is_run_at_work(run: Path) -> bool:
    """Whether a process works on a run directory: it then holds the lock of the journal."""
    journal = run / "samples.jsonl"
    try:
        status = journal.stat()
    except OSError:
        return False
    if not sys.platform.startswith("linux"):
        return _is_fresh(run)
    # Trying the lock would be simpler, and would refuse a run that begins in that moment.
    # The inode is enough: file systems in layers name another device there than here.
    try:
        lines = TABLE.read_text(encoding="ascii").splitlines()
    except OSError:
        return _is_fresh(run)
    return any("FLOCK" in line and f":{status.st_ino} " in line for line in lines)


def _is_fresh(run: Path) -> bool:
    """Whether a run wrote something just now."""
    files = [run / name for name in ("events.jsonl", "log.jsonl", "samples.jsonl")]
    return any(file.exists() and time.time() - file.stat().st_mtime < FRESH_SECONDS for file in files)
