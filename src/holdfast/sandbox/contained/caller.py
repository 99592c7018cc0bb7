"""Calling the user's own function in a contained process."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys


def call_function(job: dict, token: bytes, result: int) -> None:
    """Load a function and call it on every input, reporting each value on a line of its own."""

    def write_line(**message) -> None:
        data = memoryview(token + json.dumps(message).encode() + b"\n")
        while data:
            data = data[os.write(result, data) :]

    signal.setitimer(signal.ITIMER_REAL, job["load_seconds"])  # nobody handles the alarm: it ends the process
    try:
        function = load_function(job["target"])
    except BaseException as error:
        write_line(load=f"{type(error).__name__}: {error}"[:1000])
        return
    write_line(loaded=True)
    for arguments in job["inputs"]:
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        try:
            value = function(*arguments)
            message = {
                "value": value if isinstance(value, (bool, int, float, dict)) else None,
                "type": type(value).__name__,
            }
            json.dumps(message)
        except BaseException as error:
            message = {"error": f"{type(error).__name__}: {error}"[:1000]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_line(**message)


def load_function(target: str):
    """The function named by `module:function` or `file.py:function`."""
    place, _, name = target.rpartition(":")
    if place.endswith(".py"):
        from importlib import util

        spec = util.spec_from_file_location("judge", place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} is not a Python file")
        module = util.module_from_spec(spec)
        sys.modules["judge"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    return getattr(module, name)
