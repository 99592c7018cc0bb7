"""How many programs a second judge `code` judges, beside the usual way: a Python process for each program.

Both get the same programs of the laboratory's kind with three tests each, and run as many at a time as there are cores.
The usual way (as the harnesses of HumanEval and MBPP do) writes program and tests into one file and starts an
interpreter on it; it protects nothing. Run in turn, the best of three rounds counts; CPU seconds are those of all
processes, and say more than the clock on a machine that others use too.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from common import Line, alone, in_turn, line, main, reason, run_side

TESTS = ("assert f(1) == {a}", "assert f(5) == {b}", "assert f(0) == {n}")


def programs(count: int) -> list[tuple[str, tuple[str, ...]]]:
    """Programs with their tests."""
    return [
        (f"def f(x):\n    return x + {n}\n", tuple(t.format(a=n + 1, b=n + 5, n=n) for t in TESTS))
        for n in range(count)
    ]


@contextmanager
def measured(count: int) -> Iterator[dict[str, Any]]:
    """Programs a second, and CPU milliseconds of the processes started for each."""
    found: dict[str, Any] = {}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    yield found
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found |= {"rate": count / seconds, "seconds": seconds, "cpu_ms": 1000 * cpu / count}


def ours(count: int) -> dict[str, Any]:
    """The sandbox, its start included."""
    from holdfast.sandbox.pool import CheckedProgram, Sandbox

    with measured(count) as found:
        with Sandbox() as sandbox:
            outcomes = sandbox.run_all([CheckedProgram((source,), tests) for source, tests in programs(count)])
            found["walls"] = sandbox.walls
        assert all(outcome.status == "passed" for outcome in outcomes), outcomes[0]
    return found


def theirs(count: int) -> dict[str, Any]:
    """An interpreter for each program and its tests."""

    def one(work: tuple[str, tuple[str, ...]]) -> int:
        text = work[0] + "\n".join(work[1])
        return subprocess.run([sys.executable, "-S", "-c", text], capture_output=True, timeout=60).returncode

    with measured(count) as found, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        assert not any(pool.map(one, programs(count)))
    return found


def measure(tiny: bool) -> tuple[list[Line], dict[str, Any]]:
    """The rates, and the CPU time of a program."""
    count, rounds = (8, 1) if tiny else (300, 3)
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        side: partial(run_side, __file__, side, count=count) for side in ("ours", "theirs")
    }
    found = in_turn(sides, rounds)
    own, usual = found["ours"], found["theirs"]
    note = reason(own, usual) or f"{own['cpu_ms']:.1f} and {usual['cpu_ms']:.1f} ms of CPU time a program"
    lines = [line("programs judged", own.get("rate"), usual.get("rate"), "/s", note=note)]
    if "walls" in own:
        standing = ", ".join(name for name, stands in own["walls"].items() if stands)
        lines.append(alone("CPU time of a program in the sandbox", own["cpu_ms"], "ms", note=standing))
    return lines, found


if __name__ == "__main__":
    main("sandbox", measure, {"ours": ours, "theirs": theirs})
