"""Measured items on disk: one JSON-lines file per task, never half written, never measured twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.files import read_json, replace_file
from holdfast.core.interrupts import finishing
from holdfast.errors import UserError
from holdfast.evaluation.task import UNITS, Item, Task, TaskInfo

if TYPE_CHECKING:
    from torch import Tensor


def cache_dir() -> Path:
    """Where baselines are kept for all runs: `HOLDFAST_CACHE`, else `~/.cache/holdfast`."""
    return Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast").expanduser()


def shared_store() -> Store:
    """The store of baselines that all runs share, with files named by fingerprint."""
    return Store(cache_dir() / "eval", keyed=True)


class Store:
    """The directory `eval/<when>`: `TASK.jsonl` holds one item a line, `TASK.json` what was measured.

    The second file is written last and holds the hash of the first: a measurement cut off by a crash is no measurement.
    A task that keeps numbers beside its items has them in `TASK.safetensors`, hashed and written likewise.

    Args:
        directory: Made when something is written.
        keyed: Put the measurement's fingerprint into the file names (for a directory shared by many models).
    """

    def __init__(self, directory: str | Path, *, keyed: bool = False) -> None:
        self.directory = Path(directory)
        self.keyed = keyed

    def path(self, task: str, fingerprint: str = "") -> Path:
        """File of a task's items."""
        end = f"-{fingerprint[:24]}" if self.keyed else ""
        return self.directory / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', task)}{end}.jsonl"

    def read(self, task: Task, fingerprint: str) -> list[Item] | None:
        """The items of exactly this measurement, or `None` when it has to be made."""
        path = self.path(task.name, fingerprint)
        found = _load(path)
        if found is None or found[0]["fingerprint"] != fingerprint:
            return None
        if not self.keyed and found[0]["task"] != asdict(task.info):  # another role; the figures are the same
            replace_file(path.with_suffix(".json"), json.dumps({**found[0], "task": asdict(task.info)}))
        return found[1]

    def tensors(self, task: Task, fingerprint: str) -> dict[str, Tensor] | None:
        """The numbers kept beside the items of exactly this measurement, or `None` when they are not there."""
        from safetensors.torch import load

        path = self.path(task.name, fingerprint)
        found, file = _load(path), path.with_suffix(".safetensors")
        if found is None or found[0]["fingerprint"] != fingerprint or not file.exists():
            return None
        data = file.read_bytes()
        return load(data) if hashlib.sha256(data).hexdigest() == found[0].get("tensors") else None

    def write(
        self, task: Task, fingerprint: str, items: list[Item], tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep a finished measurement, with numbers beside its items where the task has some."""
        path = self.path(task.name, fingerprint)
        text = "".join(json.dumps(item.to_json(), ensure_ascii=False) + "\n" for item in items)
        header = {"task": asdict(task.info), "n": len(items), "fingerprint": fingerprint, "sha256": _sha256(text)}
        data = b""
        if tensors is not None:
            from safetensors.torch import save

            data = save(dict(tensors))
            header["tensors"] = hashlib.sha256(data).hexdigest()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            patience = 60.0 if self.keyed else 0.0  # processes of other machines and containers may write here too
            with finishing():
                if tensors is not None:
                    replace_file(path.with_suffix(".safetensors"), data, patience=patience)
                replace_file(path, text, patience=patience)
                replace_file(path.with_suffix(".json"), json.dumps(header), patience=patience)
        except OSError as error:
            hint = "; set HOLDFAST_CACHE to a directory that can be written" if self.keyed else ""
            raise UserError(f"{path}: cannot be written ({error.strerror}){hint}") from error

    def load(self) -> dict[str, tuple[TaskInfo, list[Item]]]:
        """Every finished measurement of the directory, by task name."""
        found = {}
        for path in sorted(self.directory.glob("*.jsonl")):
            loaded = _load(path)
            if loaded is not None:
                info = TaskInfo(**loaded[0]["task"])
                found[info.name] = (info, loaded[1])
        return found


def _load(path: Path) -> tuple[dict[str, Any], list[Item]] | None:
    """What was measured and its items; `None` where either file is missing or damaged, so that it is measured again."""
    known = read_json(path.with_suffix(".json"))
    whole = isinstance(known, dict) and isinstance(known.get("fingerprint"), str) and _is_info(known.get("task"))
    if not whole or not path.exists():
        return None
    data = path.read_bytes()
    if known.get("sha256") != hashlib.sha256(data).hexdigest():
        return None
    text = data.decode()
    # Not splitlines(): answers may hold other Unicode line separators.
    return known, [Item.from_json(json.loads(line)) for line in text.split("\n") if line]


def _is_info(task: Any) -> bool:
    """Whether plain data is what a `TaskInfo` is made of."""
    names = {part.name for part in fields(TaskInfo)}
    return (
        isinstance(task, dict)
        and {"name", "kind"} <= set(task) <= names
        and all(isinstance(value, str) for value in task.values())
        and task["kind"] in UNITS
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
