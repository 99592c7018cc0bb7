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
from holdfast.core.interrupts import defer_interrupts
from holdfast.errors import UserError
from holdfast.evaluation.task import UNITS, ItemResult, Task, TaskInfo

if TYPE_CHECKING:
    from torch import Tensor


def cache_dir() -> Path:
    """Where baselines are kept for all runs: `HOLDFAST_CACHE`, else `~/.cache/holdfast`."""
    return Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast").expanduser()


def shared_store() -> ResultsStore:
    """The store of baselines that all runs share, with files named by fingerprint."""
    return ResultsStore(cache_dir() / "eval", by_fingerprint=True)


class ResultsStore:
    """The directory `eval/<when>`: `TASK.jsonl` holds one item a line, `TASK.json` what was measured.

    The second file is written last and holds the hash of the first: a measurement cut off by a crash is no measurement.
    A task that keeps numbers beside its items has them in `TASK.safetensors`, hashed and written likewise.

    Args:
        directory: Made when something is written.
        by_fingerprint: Put the measurement's fingerprint into the file names (for a directory shared by many models).
    """

    def __init__(self, directory: str | Path, *, by_fingerprint: bool = False) -> None:
        self.directory = Path(directory)
        self.by_fingerprint = by_fingerprint

    def items_path(self, task: str, fingerprint: str = "") -> Path:
        """File of a task's items."""
        end = f"-{fingerprint[:24]}" if self.by_fingerprint else ""
        return self.directory / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', task)}{end}.jsonl"

    def read_items(self, task: Task, fingerprint: str = "") -> list[ItemResult] | None:
        """The items of exactly this measurement, or `None` when it has to be made.

        Args:
            fingerprint: Default: of whichever measurement of the task is there.
        """
        path = self.items_path(task.name, fingerprint)
        measurement = _read_measurement(path)
        if measurement is None or measurement[0]["fingerprint"] != (fingerprint or measurement[0]["fingerprint"]):
            return None
        if not self.by_fingerprint and measurement[0]["task"] != asdict(
            task.info
        ):  # another role; the figures are the same
            replace_file(path.with_suffix(".json"), json.dumps({**measurement[0], "task": asdict(task.info)}))
        return measurement[1]

    def read_tensors(self, task: Task, fingerprint: str = "") -> dict[str, Tensor] | None:
        """The numbers kept beside the items that `read_items` gives, or `None` when they are not there."""
        from safetensors.torch import load

        path = self.items_path(task.name, fingerprint)
        measurement, file = _read_measurement(path), path.with_suffix(".safetensors")
        if measurement is None or not file.exists():
            return None
        if measurement[0]["fingerprint"] != (fingerprint or measurement[0]["fingerprint"]):
            return None
        data = file.read_bytes()
        return load(data) if hashlib.sha256(data).hexdigest() == measurement[0].get("tensors") else None

    def write_items(
        self, task: Task, fingerprint: str, items: list[ItemResult], tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep a finished measurement, with numbers beside its items where the task has some."""
        path = self.items_path(task.name, fingerprint)
        text = "".join(json.dumps(item.to_json(), ensure_ascii=False) + "\n" for item in items)
        header = {"task": asdict(task.info), "n": len(items), "fingerprint": fingerprint, "sha256": _hash_text(text)}
        data = b""
        if tensors is not None:
            from safetensors.torch import save

            data = save(dict(tensors))
            header["tensors"] = hashlib.sha256(data).hexdigest()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            patience = (
                60.0 if self.by_fingerprint else 0.0
            )  # processes of other machines and containers may write here too
            with defer_interrupts():
                if tensors is not None:
                    replace_file(path.with_suffix(".safetensors"), data, patience=patience)
                replace_file(path, text, patience=patience)
                replace_file(path.with_suffix(".json"), json.dumps(header), patience=patience)
        except OSError as error:
            hint = "; set HOLDFAST_CACHE to a directory that can be written" if self.by_fingerprint else ""
            raise UserError(f"{path}: cannot be written ({error.strerror}){hint}") from error

    def read_measurements(self) -> dict[str, tuple[TaskInfo, list[ItemResult]]]:
        """Every finished measurement of the directory, by task name."""
        measurements = {}
        for path in sorted(self.directory.glob("*.jsonl")):
            measurement = _read_measurement(path)
            if measurement is not None:
                info = TaskInfo(**measurement[0]["task"])
                measurements[info.name] = (info, measurement[1])
        return measurements


def _read_measurement(path: Path) -> tuple[dict[str, Any], list[ItemResult]] | None:
    """What was measured and its items; `None` where either file is missing or damaged, so that it is measured again."""
    header = read_json(path.with_suffix(".json"))
    whole = isinstance(header, dict) and isinstance(header.get("fingerprint"), str) and _is_info(header.get("task"))
    if not whole or not path.exists():
        return None
    data = path.read_bytes()
    if header.get("sha256") != hashlib.sha256(data).hexdigest():
        return None
    text = data.decode()
    # Not splitlines(): answers may hold other Unicode line separators.
    return header, [ItemResult.from_json(json.loads(line)) for line in text.split("\n") if line]


def _is_info(task: Any) -> bool:
    """Whether plain data is what a `TaskInfo` is made of."""
    names = {part.name for part in fields(TaskInfo)}
    return (
        isinstance(task, dict)
        and {"name", "kind"} <= set(task) <= names
        and all(isinstance(value, str) for value in task.values())
        and task["kind"] in UNITS
    )


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
