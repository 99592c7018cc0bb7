"""Coroutines called from code that is none: on one event loop, which lives as long as the process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def run_coroutines(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side until all have ended; what the first that failed raises is raised.

    Clients that keep connections belong to a loop, so that a new one for each call would break them; and the loop of a
    notebook is running already. It has a thread of its own.
    """

    async def gather_all() -> list[T | BaseException]:
        return await asyncio.gather(*coroutines, return_exceptions=True)

    results = asyncio.run_coroutine_threadsafe(gather_all(), _start_loop(os.getpid())).result()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


@cache
def _start_loop(process: int) -> asyncio.AbstractEventLoop:
    """The loop of a process; one that was forked has no thread of its parent's."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="coroutines", daemon=True).start()
    return loop
