"""Arrays on disk: each computed once, a killed computation going on where it was, damage computed again."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from holdfast.core.array_store import ArrayStore

KEYS = ["a", "b", "a", "c", "d"]


def squares(asked, stop=None):
    """Groups of two, the last first; after `stop` arrays it is interrupted."""

    def compute(indices):
        for start in range(0, len(indices), 2):
            group = indices[::-1][start : start + 2]
            if stop is not None and len(asked) >= stop:
                raise KeyboardInterrupt
            asked.extend(KEYS[i] for i in group)
            yield {i: np.full(i % 3, i * i, np.float32) for i in group}

    return compute


def test_each_is_computed_once_and_what_an_interruption_leaves_is_kept(tmp_path):
    asked: list[str] = []
    path = tmp_path / "s" / "arrays.bin"
    with pytest.raises(KeyboardInterrupt):
        ArrayStore(path).get_or_compute(KEYS, squares(asked, stop=2))
    assert asked == ["d", "c"]
    arrays = ArrayStore(path).get_or_compute(KEYS, squares(asked))
    assert asked == ["d", "c", "b", "a"]
    assert [one.tolist() for one in arrays] == [[], [1.0], [], [], [16.0]]
    ArrayStore(path).get_or_compute(KEYS, squares(asked))
    assert len(asked) == 4
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_every_group_is_on_the_disk_when_it_is_time(tmp_path):
    path = tmp_path / "arrays.bin"
    for seconds, written in ((0.0, ["d", "c"]), (1e9, [])):

        def compute(indices, written=written):
            yield {4: np.ones(3), 3: np.zeros((2, 2), np.int8)}
            assert [key for key in KEYS[1:] if key in ArrayStore(path)] == sorted(written)
            yield {1: np.float32(5), 0: np.ones(1)}

        path.unlink(missing_ok=True)
        arrays = ArrayStore(path, flush_seconds=seconds).get_or_compute(KEYS, compute)
        assert [(one.dtype.str, one.shape) for one in arrays[2:]] == [("<f8", (1,)), ("|i1", (2, 2)), ("<f8", (3,))]
        assert arrays[1] == 5
        arrays[4][0] = 2  # whoever gets one may change it


def test_what_is_torn_or_damaged_is_computed_again_and_nothing_else(tmp_path):
    path = tmp_path / "arrays.bin"
    asked: list[str] = []
    whole = ArrayStore(path).get_or_compute(KEYS, squares(asked))
    content = path.read_bytes()  # d c b a
    third = content.index(b'{"key": "b"')
    for damaged, missing in (
        (content[:-1], "a"),
        (content[: third + 20], "ab"),
        (content[: third - 1] + bytes(64), "abc"),  # c has no numbers, and now no whole line
        (content[:third] + bytes(64), "ab"),  # as a crash of the machine leaves them
        (content[:third] + content[third:].replace(b'"<f4"', b'"<f9"'), "ab"),
        (content[:third] + content[third:].replace(b'"shape": [1]', b'"shape": [-1]'), "ab"),
        (content.replace(np.float32(16).tobytes(), np.float32(17).tobytes()), "abcd"),
        (b"x" * 10_000, "abcd"),
        (b"", "abcd"),
    ):
        path.write_bytes(damaged)
        asked.clear()
        arrays = ArrayStore(path).get_or_compute(KEYS, squares(asked))
        assert "".join(sorted(asked)) == missing, damaged
        assert [one.tolist() for one in arrays] == [one.tolist() for one in whole]
        asked.clear()
        ArrayStore(path).get_or_compute(KEYS, squares(asked))
        assert not asked


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from holdfast.core.array_store import ArrayStore

def compute(indices):
    for index in indices:
        time.sleep(0.002)
        print(index, flush=True)
        yield {index: np.arange(index, dtype=np.float32)}

store = ArrayStore(Path(sys.argv[1]), flush_seconds=0.02)
store.get_or_compute([f"{i}" for i in range(200)], compute)
"""


def test_killed_again_and_again_it_loses_the_last_moments(tmp_path):
    """A process that computes 200 arrays is killed (SIGKILL) three times, wherever it is."""
    path, asked = tmp_path / "arrays.bin", list[int]()
    for number in range(4):
        with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
            asked += [int(child.stdout.readline())]
            if number < 3:
                time.sleep(0.1)
                child.kill()
            asked += map(int, child.stdout.read().split())
    assert child.returncode == 0
    assert sorted(set(asked)) == list(range(200))
    assert 200 <= len(asked) < 200 + 3 * 50, "each time what was computed since the last write"

    def refuse(indices):
        raise AssertionError(indices)

    arrays = ArrayStore(path).get_or_compute([f"{i}" for i in range(200)], refuse)
    assert all((array == np.arange(i)).all() and len(array) == i for i, array in enumerate(arrays))
