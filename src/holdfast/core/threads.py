"""Threads of one core each, for small models: splitting every operation over cores costs more than it saves."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Names of glibc's malloc.h."""
HEAP, APART = 256 << 20, 32 << 20
"""Bytes that the heap may keep at its end before they are given back; blocks from this size on lie outside of it."""

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel")
"""What Linux shows of a CUDA, ROCm or other accelerator."""


def computes_on_cpu() -> bool:
    """Tell whether this machine shows no accelerator, or is told to use none; asked before torch is imported."""
    return os.environ.get("HOLDFAST_DEVICE") == "cpu" or not any(Path(path).exists() for path in ACCELERATORS)


@contextmanager
def one_core_threads(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads whose PyTorch operations stay on one core; this thread's own setting is kept."""
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # a thread's setting is its own, but later threads would begin with it


def tune_malloc() -> None:
    """Threads take memory from one heap, where glibc is the allocator; to be called before there are any.

    It gives threads heaps of their own, and what one has freed another cannot use: training on two cores then takes a
    third more memory. Tensors are few and large, so threads hardly ever wait for the one heap; growing and shrinking it
    in every step is what would cost time.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        for name, value in ((ARENA_MAX, 1), (TRIM_THRESHOLD, HEAP), (MMAP_THRESHOLD, APART)):
            libc.mallopt(name, value)
