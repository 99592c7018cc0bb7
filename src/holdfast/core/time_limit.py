"""A limit on how long foreign code may take: what never comes back would hold up everything else."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

AGAIN = 1.0
"""Seconds until the alarm is raised once more, where code that catches everything, or a finalizer, has swallowed it."""


class _Alarm(BaseException):
    """No `Exception`: code that catches those and goes on would swallow it."""


class OutOfTime(TimeoutError):
    """What was done under a limit took longer; no time-out of its own."""


def can_limit_time() -> bool:
    """Tell whether what runs here can be stopped: in the main thread, on systems that have timers (not Windows)."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


class TimeLimit:
    """Stop what is done inside a `with` after so many seconds; where `can_limit_time` says no, never.

    It is stopped wherever Python comes by: in a loop, a sleep, a wait for a lock, a process or a connection; not in
    code of another language that does not come back to Python. A handler of alarms and a timer that were there before
    are there again afterwards, the timer with what it had left.

    Args:
        seconds: `None`: no limit.
    Raises:
        OutOfTime: At the end of the `with`, if it took longer.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self.is_running, self.has_rung = seconds, False, False

    def __enter__(self) -> None:
        if self.seconds is None or not can_limit_time():
            return
        self.handler = signal.signal(signal.SIGALRM, self._raise_alarm)
        self.began, self.is_running = time.monotonic(), True
        self.timer = signal.setitimer(signal.ITIMER_REAL, self.seconds, AGAIN)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.is_running:
            return
        self.is_running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if self.handler is None else self.handler)
        delay, interval = self.timer
        if delay:
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, delay - (time.monotonic() - self.began)), interval)
        if self.has_rung and isinstance(error, (_Alarm, Exception)):  # or what it was turned into on its way
            raise OutOfTime(f"no answer within {self.seconds:g} s") from error

    def _raise_alarm(self, number: int, frame: FrameType | None) -> None:
        """Stop what runs; not the limit itself where it begins or ends, which leaves everything as it was."""
        if self.is_running and not (frame is not None and frame.f_code.co_filename == __file__):
            self.has_rung = True
            raise _Alarm
