"""Arrays on disk: each computed once, a killed computation going on where it was, damage computed again."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.core.array_store import ArrayStore

KEYS = ["a", "b", "a", "c", "d"]


def squares(asked, stop=None):
    def compute(indices):
        if stop is not None and len(asked) >= stop:
            raise KeyboardInterrupt
        asked.extend(KEYS[i] for i in indices)
        return [np.full(i % 3, i, np.float32) for i in indices]

    return compute


def test_each_is_computed_once_and_a_kill_costs_a_chunk(tmp_path):
    asked: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        ArrayStore(tmp_path / "s").get_or_compute(KEYS, squares(asked, stop=2), chunk=2)
    assert asked == ["a", "b"]
    found = ArrayStore(tmp_path / "s").get_or_compute(KEYS, squares(asked), chunk=2)
    assert asked == ["a", "b", "c", "d"]
    assert [one.tolist() for one in found] == [[], [1.0], [], [], [4.0]]
    ArrayStore(tmp_path / "s").get_or_compute(KEYS, squares(asked))
    assert len(asked) == 4


def test_what_is_damaged_is_computed_again(tmp_path):
    asked: list[str] = []
    ArrayStore(tmp_path).get_or_compute(KEYS, squares(asked))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:40])
    found = ArrayStore(tmp_path).get_or_compute(KEYS, squares(asked))
    assert len(asked) == 8
    assert found[4].tolist() == [4.0]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
