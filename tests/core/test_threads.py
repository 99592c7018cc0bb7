"""Threads of one core each, and the one heap that they share."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from holdfast.core import threads

HEAPS = """
import ctypes, sys, threading
from holdfast.core.threads import tune_malloc

libc = ctypes.CDLL(None)
if sys.argv[1] == "shared":
    tune_malloc()
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(4)

def take():
    libc.malloc(1 << 16)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(4)]
[t.start() for t in threads], [t.join() for t in threads]
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file), libc.fclose(file)
"""


def test_a_pool_of_single_cores_leaves_this_threads_setting_alone():
    before = torch.get_num_threads()
    with threads.one_core_threads(2) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_threads_share_one_heap(tmp_path):
    heaps = {}
    for how in ("shared", "own"):
        subprocess.run([sys.executable, "-c", HEAPS, how, str(tmp_path / how)], check=True)
        heaps[how] = (tmp_path / how).read_text().count("<heap nr=")
    assert heaps["shared"] == 1 < heaps["own"]


def test_the_heap_is_left_alone_beside_an_accelerator(tmp_path, monkeypatch):
    monkeypatch.delenv("HOLDFAST_DEVICE", raising=False)
    monkeypatch.setattr(threads, "ACCELERATORS", (str(tmp_path / "nothing"),))
    assert threads.computes_on_cpu()
    monkeypatch.setattr(threads, "ACCELERATORS", (str(tmp_path),))
    assert not threads.computes_on_cpu()
    monkeypatch.setenv("HOLDFAST_DEVICE", "cpu")
    assert threads.computes_on_cpu()
