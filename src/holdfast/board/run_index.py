"""The list of runs: what is known of each from its files, read again only where these have changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.board.folder import RunsFolder
from holdfast.core.files import read_json
from holdfast.errors import UserError
from holdfast.pipeline.damage import read_outline
from holdfast.pipeline.run_dir import MARK
from holdfast.report.phrasing import lost_part, method_of, total_seconds

RUNNING, FINISHED, REFUSED, STOPPED, FAILED, DAMAGED = "running", "finished", "refused", "stopped", "failed", "damaged"
STATES = (RUNNING, FINISHED, REFUSED, STOPPED, FAILED, DAMAGED)
TAIL = 1 << 16
"""Bytes at the end of a record of events in which the last ones are looked for."""


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run in the list.

    Args:
        name: Of its directory, from the board's.
        state: One of `STATES`.
        gain, loss: As in its report; `None` where there is none yet.
        seconds: It took so far.
        step, steps: Trained so far, of how many.
        why: What it ended with, where it failed.
    """

    name: str
    state: str
    method: str = ""
    model: str = ""
    created: str = ""
    gain: Mapping[str, Any] | None = None
    loss: Mapping[str, Any] | None = None
    seconds: float | None = None
    step: int | None = None
    steps: int | None = None
    why: str = ""


class RunIndex:
    """Entries of all runs below a directory.

    Args:
        folder: The directory.
        find_at_work: Of some run directories those that a process works on now.
    """

    def __init__(self, folder: RunsFolder, find_at_work: Callable[[Sequence[Path]], set[Path]]) -> None:
        self.folder, self.find_at_work = folder, find_at_work
        self._entries: dict[Path, tuple[tuple[int, ...], RunEntry]] = {}

    def list_entries(self) -> list[RunEntry]:
        """All of them, the newest first."""
        paths = self.folder.list_runs()
        there = set(paths)
        self._entries = {path: entry for path, entry in self._entries.items() if path in there}
        return sorted(self._read_entries(paths), key=lambda entry: (entry.created, entry.name), reverse=True)

    def read_entry(self, path: Path) -> RunEntry:
        """What is known of one run."""
        return self._read_entries([path])[0]

    def _read_entries(self, paths: Sequence[Path]) -> list[RunEntry]:
        """What is known of some runs; who is at work is asked once for all of them."""
        stamps = {path: _stamp_run(path) for path in paths}
        at_work = self.find_at_work([path for path in paths if self._may_be_at_work(path, stamps[path])])
        for path, stamp in stamps.items():
            before = self._entries.get(path)
            if before is None or before[0] != stamp or (before[1].state == RUNNING) != (path in at_work):
                self._entries[path] = stamp, build_entry(self.folder.name_of(path), path, at_work=path in at_work)
        return [self._entries[path][1] for path in paths]

    def _may_be_at_work(self, path: Path, stamp: tuple[int, ...]) -> bool:
        """Whether a run is not known to be finished."""
        before = self._entries.get(path)
        return before is None or before[0] != stamp or before[1].state not in (FINISHED, REFUSED)


def _stamp_run(path: Path) -> tuple[int, ...]:
    """What changes with the files that an entry is read from."""
    return tuple(part for name in (MARK, "report.json", "events.jsonl") for part in _stamp_file(f"{path}/{name}"))


def _stamp_file(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def build_entry(name: str, path: Path, *, at_work: bool) -> RunEntry:
    """The entry of a run directory."""
    mark = read_json(path / MARK)
    if not isinstance(mark, dict):
        return RunEntry(name, DAMAGED)
    creation = str(mark.get("created", ""))
    if mark.get("finished") and not at_work:
        try:
            report = read_outline(path / "report.json")
        except UserError as error:
            return RunEntry(name, DAMAGED, created=creation, why=str(error))
        gate = report.get("gate")
        return RunEntry(
            name, REFUSED if gate and not gate["passed"] else FINISHED, method_of(report),
            str((report.get("model") or {}).get("name") or ""), creation, report.get("gain"), lost_part(report),
            total_seconds(report.get("cost")),
        )  # fmt: skip
    return _build_unfinished_entry(name, path, creation, at_work=at_work)


def _build_unfinished_entry(name: str, path: Path, creation: str, *, at_work: bool) -> RunEntry:
    """The entry of a run that has no report, by its events."""
    first, events = read_first_event(path / "events.jsonl"), read_last_events(path / "events.jsonl")
    last = events[-1] if events else {}
    step: Mapping[str, Any] = next((event for event in reversed(events) if event.get("event") == "step_finished"), {})
    ending = last if last.get("event") == "run_interrupted" else {}
    has_failed = bool(ending) and ending.get("error") not in ("UserInterrupt", "KeyboardInterrupt")
    state = RUNNING if at_work else FAILED if has_failed else STOPPED
    return RunEntry(
        name, state, str(first.get("method", "")), str(first.get("model", "")), creation,
        step=step.get("step"), steps=step.get("steps"), why=str(ending.get("text", "")) if has_failed else "",
    )  # fmt: skip


def read_first_event(path: Path) -> Mapping[str, Any]:
    """The first event of a run, which says its method and model; empty where there is none."""
    try:
        with path.open("rb") as handle:
            return parse_events([handle.readline(TAIL)])[0]
    except (OSError, IndexError):
        return {}


def read_last_events(path: Path, size: int = TAIL) -> list[Mapping[str, Any]]:
    """The events at the end of a record, in so many bytes."""
    try:
        with path.open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            begin = max(0, handle.tell() - size)
            handle.seek(begin)
            lines = handle.read(size).split(b"\n")
    except OSError:
        return []
    return parse_events(lines[1:] if begin else lines)


def parse_events(lines: Sequence[bytes]) -> list[Mapping[str, Any]]:
    """The objects in some lines; what is torn is passed over."""
    events: list[Mapping[str, Any]] = []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
