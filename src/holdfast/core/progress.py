"""The voice of a run: it says what happens, and every listener makes of it what it is for.

Only rank 0 of a distributed run speaks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Literal

from holdfast.core.events import (
    Event,
    LineWritten,
    Listener,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    ResultGiven,
    Warned,
)
from holdfast.core.listeners import JsonLines, LiveLine, PlainLines

Mode = Literal["live", "plain", "json", "silent"]


def ignore_call(*args: Any) -> None:
    """Do nothing: the default of hooks, and of who is told lines."""


class Progress:
    """The voice of a run: `start_phase`, then `advance`; `write_line`, `write_detail` and `warn` for sentences,
    `report_result` for the outcome.

    Each becomes an event; `emit` is for events that need no words.

    Args:
        mode: "live" (a terminal), "plain", "json", "silent": who listens at first; `for_terminal` chooses.
        quiet: Only warnings and results.
        verbose: Also `write_detail`.
        err, out: Streams; default standard error and standard output.
        clock: Seconds, for tests.
    """

    _first: tuple[float, int] | None

    def __init__(
        self,
        mode: Mode = "plain",
        *,
        quiet: bool = False,
        verbose: bool = False,
        err: IO[str] | None = None,
        out: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode: Mode = mode
        self.verbose, self._clock = verbose, clock
        self._written_once: set[str] = set()
        err, out = err or sys.stderr, out or sys.stdout
        self.listeners: list[Listener] = []
        if mode == "json":
            self.listeners.append(JsonLines(out))
        elif mode != "silent":
            self.listeners.append((LiveLine if mode == "live" else PlainLines)(err, out, quiet=quiet))
        self._reset_phase("", None)

    @classmethod
    def create_silent(cls) -> Progress:
        """Nobody listens until somebody is attached: for the Python API."""
        return cls("silent")

    @classmethod
    def for_terminal(cls, *, quiet: bool = False, verbose: bool = False, as_json: bool = False) -> Progress:
        """The mode that fits the streams, the environment and the rank of this process."""
        if int(os.environ.get("RANK", "0")) != 0:
            return cls.create_silent()
        if as_json:
            return cls("json", quiet=quiet, verbose=verbose)
        live = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and not quiet
        return cls("live" if live else "plain", quiet=quiet, verbose=verbose)

    def emit(self, event: Event) -> None:
        """Hand an event to everybody who listens."""
        for listener in tuple(self.listeners):
            listener.handle_event(event)

    def start_phase(self, name: str, total: int | None = None) -> None:
        """A new stretch of work: what it is called, and how many units (steps, questions) it has, if known."""
        self._end_phase()
        self._reset_phase(name, total)
        self.emit(PhaseStarted(name=name, total=total))

    def advance(self, n: int = 1, **figures: Any) -> None:
        """`n` units are done; `figures` values stay on the line until replaced.

        Known names: loss, target and keep (a score, or `(score, change)`), tokens_per_second, memory_gib; anything else
        is shown as `name value`.
        """
        self.done += n
        self.figures.update({key: value for key, value in figures.items() if value is not None})
        now = self._clock()
        self._first = self._first or (now, self.done)
        self.emit(
            PhaseAdvanced(
                name=self.name, done=self.done, total=self.total, seconds=now - self._started,
                left=self._seconds_left(now),
                figures=dict(self.figures),
            )
        )  # fmt: skip

    def write_line(self, text: str) -> None:
        """A sentence that stays."""
        self.emit(LineWritten(text=text))

    def write_once(self, text: str) -> None:
        """A sentence that stays, unless it was written before: for what several parts of a run find out."""
        if text not in self._written_once:
            self._written_once.add(text)
            self.write_line(text)

    def write_detail(self, text: str) -> None:
        """A sentence for `-v`."""
        if self.verbose:
            self.write_line(text)

    def warn(self, text: str) -> None:
        """A warning, shown once however often it is given."""
        self.emit(Warned(text=text))

    def report_result(self, text: str, /, **data: Any) -> None:
        """What came out, on standard output: `text` for people, `data` for machines."""
        self.close()
        self.emit(ResultGiven(text=text, data=data))

    def close(self) -> None:
        """End the phase; safe to call twice."""
        self._end_phase()
        self._reset_phase("", None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reset_phase(self, name: str, total: int | None) -> None:
        self.name, self.total, self.done = name, total, 0
        self.figures: dict[str, Any] = {}
        self._started = self._clock()
        self._first = None

    def phase_end(self) -> PhaseEnded | None:
        """The event that the phase at work ends now; `None` between phases."""
        if not self.name:
            return None
        seconds = self._clock() - self._started
        return PhaseEnded(name=self.name, done=self.done, total=self.total, seconds=seconds, figures=dict(self.figures))

    def _end_phase(self) -> None:
        if (event := self.phase_end()) is not None:
            self.emit(event)

    def _seconds_left(self, now: float) -> float | None:
        """Seconds until the phase is done, at its mean pace after the first step (slow, or a jump ahead)."""
        if not self.total or not self.done or self._first is None:
            return None
        since, before = self._first if self.done > self._first[1] else (self._started, 0)
        return max(0.0, (now - since) / (self.done - before) * (self.total - self.done))
