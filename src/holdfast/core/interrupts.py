"""Ctrl-C, a polite kill, and a scheduler's warning, outside training: what is being written is written to its end, then
everything stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C, a polite kill, and what a cluster's scheduler sends before a job's time is up (not on Windows)."""


class _State:
    """How many pieces of work must not be cut, and whether somebody asked to stop during one of them."""

    depth = 0
    stop_requested = False


def handle_interrupt(number: int, frame: Any) -> None:
    """Stop as by Ctrl-C, at once or after the piece of work that must not be cut.

    Raises:
        KeyboardInterrupt: Wherever the program is.
    """
    if _State.depth:
        _State.stop_requested = True
        return
    raise KeyboardInterrupt


@contextlib.contextmanager
def as_interrupts() -> Iterator[None]:
    """Take the other signals to stop for Ctrl-C inside; only the main thread of a program can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle_interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def defer_interrupts() -> Iterator[None]:
    """Finish what is done inside before the program stops.

    Raises:
        KeyboardInterrupt: At the end, where somebody asked meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
    if _State.stop_requested and not _State.depth:
        _State.stop_requested = False
        raise KeyboardInterrupt
