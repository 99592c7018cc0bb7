"""`search.jsonl`: every suggestion and every result, in order. All that a search decides follows from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from holdfast.core.files import lock_file
from holdfast.core.interrupts import defer_interrupts
from holdfast.errors import UserError
from holdfast.pipeline.search.order import TrialOutcome

NAME = "search.jsonl"


class History:
    """The record of a search, open for one process.

    Lines are `{"event": "begin" | "ask" | "result" | "close" | "dial" | "final", ...}`. The last line, torn by a kill,
    is cut off: what it said is done again, with the same result.

    Args:
        root: The search's directory; made when missing.
        key: What the search is: one with another key is refused.
    Raises:
        UserError: If the directory holds another search, or another process is at work in it.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.path = root / NAME
        root.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115 - closed by close()
        try:
            lock_file(self._file, f"{self.path}: another search is at work here; wait for it, or set another --out")
            self.events = self._read_events()
            if not self.events:
                self.append_event("begin", key=key)
            if self.events[0].get("key") != key:
                raise UserError(
                    f"{root}: holds another search; set another --out, or add --restart, which keeps the old one"
                )
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append_event(self, event: str, **fields: Any) -> dict[str, Any]:
        """Put an event on record, on the disk when this returns; the event."""
        entry = {"event": event, **fields}
        with defer_interrupts():
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.events.append(entry)
        return entry

    def find_event(self, event: str, **fields: Any) -> dict[str, Any] | None:
        """The first event of a kind with these fields, or `None`."""
        return next((e for e in self.events if e["event"] == event and fields.items() <= e.items()), None)

    def sum_seconds(self) -> float:
        """Time spent on what is on record."""
        return sum(float(event.get("seconds", 0.0)) for event in self.events)

    def _read_events(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        events: list[dict[str, Any]] = []
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                self._file.truncate(whole)
                break
            whole += len(line)
            try:
                events.append(dict(json.loads(line)))
                assert isinstance(events[-1]["event"], str)
            except (ValueError, TypeError, KeyError, AssertionError) as error:
                raise UserError(
                    f"{self.path}:{number}: not a line of a search; remove it, and what it said is done again"
                ) from error
        self._file.seek(0, os.SEEK_END)
        return events


def parse_outcome(event: dict[str, Any]) -> TrialOutcome:
    """The outcome that an event records: of a failure, that there is none."""
    numbers = [event.get(name) for name in ("gain", "loss", "error")]
    gain, loss, error = (float("nan") if number is None else float(number) for number in numbers)
    return TrialOutcome(gain, loss, error, float(event.get("bits") or 0.0))  # none in histories of before
