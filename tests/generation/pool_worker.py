"""A worker of a pool for tests: what it draws is plain, and what it does wrong is said in its settings."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from holdfast.core.line_workers import serve_tasks
from holdfast.errors import UserError


def begin(settings: dict[str, Any]) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    place = int(os.environ["PLACE"])
    first = Path(settings["mark"]) / str(place)  # a worker in its place does no wrong
    fault = settings["faults"].get(str(place)) if not first.exists() or place in settings["always"] else None
    first.touch()

    def draw(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while (
            "ready" in task and not fault and any(not (first.parent / f"met {n}").exists() for n in settings["faults"])
        ):
            time.sleep(0.01)  # so that the others do their worst before all is done
        for number, job in enumerate(task.get("jobs", ())):
            if fault and number == (0 if place in settings["always"] else 2):
                (first.parent / f"met {place}").touch()
                misbehave(fault)
                if fault == "wrong count":
                    return
            key = f"not {job['key']}" if fault == "wrong ids" and number == 2 else job["key"]
            time.sleep(settings["seconds"])
            yield {"key": key, "index": job["index"], "text": f"{job['key']}!", "finish": "stop", "tokens": 1}

    return draw


def misbehave(fault: str) -> None:
    if fault in ("SIGKILL", "SIGSTOP"):
        os.kill(os.getpid(), getattr(signal, fault))
    elif fault == "garbage":
        os.write(3, b"\xff not json\n")
    elif fault == "no sample":
        os.write(3, json.dumps({"key": 1, "index": -2, "text": None, "finish": "?", "tokens": 0}).encode() + b"\n")
    elif fault == "refuses":
        raise UserError("row 7 has a picture")


if __name__ == "__main__":
    if os.dup(1) != 3:
        sys.exit("descriptor 3 is taken")
    serve_tasks(begin)
