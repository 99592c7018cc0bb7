"""The entries of `data.train` and `data.test`: texts, mappings or lists of these, each as a mapping."""

from __future__ import annotations

from typing import Any, TypeVar

from holdfast.recipe.data_section import Data, DataFile, TrainFile

File = TypeVar("File", bound=DataFile)


def train_files(data: Data) -> list[TrainFile]:
    """Where the training rows come from, one or several."""
    return _list_entries(data.train, TrainFile)


def test_files(data: Data) -> list[DataFile]:
    """Where the held-out rows come from; empty if they are a share of the training rows."""
    return [] if isinstance(data.test, float) else _list_entries(data.test, DataFile)


def _list_entries(entries: Any, kind: type[File]) -> list[File]:
    some = entries if isinstance(entries, tuple) else (entries,)
    return [kind(path=entry) if isinstance(entry, str) else entry for entry in some]


def entry_name(entry: DataFile | TrainFile) -> str:
    """An entry as one text: `data.json:train`, `owner/name:config:split`."""
    config = f":{entry.config or ''}" if entry.config or (entry.revision and entry.split) else ""
    return f"{entry.path}{config}{f':{entry.split}' if entry.split else ''}"


def data_label(data: Data) -> str:
    """What the training rows are called in messages: the names of their files."""
    return " + ".join(map(entry_name, train_files(data)))
