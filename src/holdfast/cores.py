"""Threads of one core each, for small models: splitting every operation over cores costs more than it saves."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

ARENA_MAX = -8
"""`M_ARENA_MAX` of glibc's malloc.h."""


@contextmanager
def one_each(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads whose PyTorch operations stay on one core; this thread's own setting is kept."""
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # a thread's setting is its own, but later threads would begin with it


def share_memory() -> None:
    """Threads take memory from one heap, where glibc is the allocator; to be called before there are any.

    It gives threads heaps of their own, and what one has freed another cannot use: training on two cores then takes a
    third more memory. Tensors are few and large, so threads hardly ever wait for the one heap.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        ctypes.CDLL(None).mallopt(ARENA_MAX, 1)
