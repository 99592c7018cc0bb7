"""Measurements on disk: whole or absent, and found again only for exactly the same measurement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.evaluation.results_store import ResultsStore, cache_dir
from holdfast.evaluation.task import ItemResult, Task

TASK = Task("text:my file", "generate", [Row([{"role": "user", "content": "q"}], reference="a", id="1")])
ITEMS = [ItemResult("1", "q", "an\u2028swer\n", "a", 1.0, True, True, 3)]


def test_round_trip(tmp_path: Path):
    store = ResultsStore(tmp_path / "eval" / "base")
    assert store.read_items(TASK, "f") is None
    store.write_items(TASK, "f", ITEMS)
    assert store.read_items(TASK, "f") == ITEMS
    assert store.read_items(TASK, "other") is None
    assert sorted(p.name for p in (tmp_path / "eval" / "base").iterdir()) == ["text_my_file.json", "text_my_file.jsonl"]
    assert store.read_measurements() == {TASK.name: (TASK.info, ITEMS)}


def test_role_is_not_part_of_the_measurement(tmp_path: Path):
    store = ResultsStore(tmp_path)
    store.write_items(TASK, "f", ITEMS)
    assert store.read_items(replace(TASK, role="target"), "f") == ITEMS
    assert store.read_measurements()[TASK.name][0].role == "target"


def test_half_written_is_not_written(tmp_path: Path):
    store = ResultsStore(tmp_path)
    store.write_items(TASK, "f", ITEMS)
    path = store.items_path(TASK.name)
    path.write_text(path.read_text()[:20])
    assert store.read_items(TASK, "f") is None
    assert store.read_measurements() == {}
    store.write_items(TASK, "f", ITEMS)
    path.with_suffix(".json").unlink()
    assert store.read_items(TASK, "f") is None


def test_shared_store_keeps_tasks_of_one_name_apart(tmp_path: Path):
    store = ResultsStore(tmp_path, by_fingerprint=True)
    store.write_items(TASK, "one", ITEMS)
    store.write_items(TASK, "two", ITEMS * 2)
    assert (store.read_items(TASK, "one"), store.read_items(TASK, "two")) == (ITEMS, ITEMS * 2)


def test_cache_directory_is_set_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("HOLDFAST_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "holdfast"


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="HOLDFAST_CACHE"):
        ResultsStore(tmp_path / "file" / "eval", by_fingerprint=True).write_items(TASK, "f", ITEMS)
