"""The C library, for the system calls that Python has no function for."""

from __future__ import annotations

import ctypes
import sys

LINUX = sys.platform == "linux"
LIBC = ctypes.CDLL(None, use_errno=True) if LINUX else None

DEATH_SIGNAL, KEEP_CAPABILITIES, SECCOMP, NO_NEW_PRIVILEGES = 1, 8, 22, 38


def call_prctl(option: int, *values: int) -> bool:
    """prctl(2); False where it is refused, or this is not Linux."""
    if LIBC is None:
        return False
    arguments = [*values, 0, 0, 0, 0][:4]
    return LIBC.prctl(option, *map(ctypes.c_ulong, arguments)) == 0


def call_syscall(number: int, *values: object) -> int:
    """syscall(2): its result, -1 where it fails or this is not Linux. Whole numbers are passed as long."""
    if LIBC is None:
        return -1
    return LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(v) if isinstance(v, int) else v for v in values))
