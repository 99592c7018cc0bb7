"""Ctrl-C, a polite kill, a scheduler's warning: the run ends after the step it is in; a second one ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from holdfast.core.interrupts import STOP_SIGNALS

APART = 2.0
"""Seconds: a launcher of several processes passes on the very signal that the terminal had already sent to them."""


class Interrupts:
    """Whether somebody asked to stop.

    Args:
        world: How many processes train.
        note: Told once.
    """

    def __init__(self, world: int, note: Callable[[str], None]) -> None:
        self.world, self.note = world, note
        self.stop_requests, self._at = 0, 0.0
        self._before: dict[int, Any] = {}

    @contextlib.contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Signals are caught inside; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number in self._before:
            signal.signal(number, self._handle_signal)
        try:
            yield
        finally:
            self._restore_handlers()

    def _handle_signal(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.stop_requests:
            self.stop_requests, self._at = 1, now
            self.note("stopping after this step; once more to stop at once")
        elif self.world == 1 or now - self._at > APART:
            self._restore_handlers()
            signal.raise_signal(number)  # os.kill may reach another thread, and this one would go on for a while

    def _restore_handlers(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
