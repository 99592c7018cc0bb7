"""The sandbox: the only place where code written by a model, or a judge written by the user, runs.

A program runs in one process and its tests in another, both forked from a small warmed interpreter. The tests see the
program's functions as stand-ins, call them over a pipe, and receive plain values back: what `all` or `math.isclose`
mean among the tests, whether an object equals 2, and what the verdict is, the program's process does not decide, and it
never holds the text of the tests. See `contained/test_side.py` for what a test may do with a program's objects.

Walls around both, each standing by itself: mount, process and network namespaces with a file system that holds only
the library, Landlock, a system-call filter, no capabilities, a user of their own when started as root, an empty
environment, hard limits on CPU time, memory, written bytes (none), open files and processes, and everywhere an audit
hook. What a machine does not offer is left out; `walls` says what stands, and docs/sandbox.md what that means. Past its
wall-clock time everything is killed. The user's own function runs behind the same limits and the call filter, but may
read files.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from holdfast.errors import RunError, UserError
from holdfast.sandbox.backends import ENVIRONMENT, Backend
from holdfast.sandbox.backends import WORKER as WORKER

PATIENCE = 20.0
"""Seconds beyond a job's own time after which the sandbox's interpreter counts as lost."""


LOADING = 60.0
"""Seconds that loading a user's module may take."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Args:
        seconds: Wall-clock (and CPU) time of a program, or of one call of a function.
        memory_mb: Address space in MiB.
        output_kb: Printed text in KiB; a program that prints more is stopped.
        path: Further import directories (installed packages).
    """

    seconds: float = 5.0
    memory_mb: int = 512
    output_kb: int = 256
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedProgram:
    """Code and the checks it must pass.

    Args:
        candidates: Readings of the program; the first that compiles is run.
        checks: Sources run one after another in the program's namespace; each must end without an exception.
    """

    candidates: tuple[str, ...]
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    Args:
        status: "passed"; "failed": an exception; "exited": ended before its end; "timeout"; "output": printed too much;
            "crashed": killed by a limit or a fault; "broken": a check does not compile.
            "lost": the sandbox's interpreter or the machine's memory ended under it, which says nothing about it.
        reason: One line.
        check: Number (from 1) of the check that was not passed; 0 = the program itself.
        output: What it printed.
    """

    status: Literal["passed", "failed", "exited", "timeout", "output", "crashed", "broken", "lost"]
    reason: str
    check: int = 0
    output: str = ""


class Worker:
    """One warmed interpreter and the pipe to it."""

    def __init__(self, scratch: str, path: Sequence[str] = (), backend: Backend | None = None) -> None:
        self.log = tempfile.NamedTemporaryFile(dir=scratch, suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            (backend or Backend()).build_command(tempfile.mkdtemp(dir=scratch), path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=ENVIRONMENT if backend is None else {**ENVIRONMENT, **backend.command_environment()},
            start_new_session=True,
            bufsize=0,
            cwd="/",
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._jobs, self._replies = self.process.stdin, self.process.stdout
        walls = self._receive_reply(time.monotonic() + 60)
        if walls is None:
            self.close()
            with open(self.log.name, encoding="utf-8", errors="replace") as log:
                why = one_line(log.read()[-300:])
            self.log.close()
            if backend is not None and backend.name != "own":
                raise UserError(f"judge.backend: {backend.name} does not start the sandbox: {why}")
            raise RunError(f"the sandbox does not start: {why}")
        self.walls = walls

    def run_job(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """The reply to one job; `None` if the interpreter is lost."""
        parts = [job] if job["kind"] == "call" else [{k: v for k, v in job.items() if k != "checks"}, job["checks"]]
        try:
            for data in (json.dumps(part).encode() for part in parts):
                rest = memoryview(len(data).to_bytes(4, "big") + data)
                while rest:
                    rest = rest[self._jobs.write(rest) :]
        except BrokenPipeError:
            return None
        return self._receive_reply(time.monotonic() + job["wall"] + PATIENCE)

    def _receive_reply(self, deadline: float) -> dict[str, Any] | None:
        head = self._read_exactly(4, deadline)
        body = self._read_exactly(int.from_bytes(head, "big"), deadline) if head else None
        return json.loads(body) if body else None

    def _read_exactly(self, size: int, deadline: float) -> bytes | None:
        data, source = b"", self._replies
        while len(data) < size:
            if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            piece = source.read(size - len(data))
            if not piece:
                return None
            data += piece
        return data

    def close(self) -> None:
        """End the interpreter; its children die with it."""
        self._jobs.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._replies.close()


class Sandbox:
    """A pool of warmed interpreters; use it as a context manager.

    Args:
        limits: What each program may use.
        workers: Programs run at the same time; default: the number of CPUs, at most 8.
        backend: What stands around the sandbox's own walls: nothing, bubblewrap or Docker.

    Raises:
        UserError: On systems without `fork` (Windows).
    """

    def __init__(
        self, limits: Limits | None = None, workers: int | None = None, backend: Backend | None = None
    ) -> None:
        if not hasattr(os, "fork"):
            raise UserError("the sandbox needs Linux or macOS; on Windows run Holdfast under WSL")
        self.limits = limits or Limits()
        self.backend = backend
        self.workers = workers or min(8, os.cpu_count() or 1)
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._all: list[Worker] = []

    def __enter__(self) -> Sandbox:
        self._scratch = tempfile.TemporaryDirectory(prefix="holdfast-", ignore_cleanup_errors=True)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._all:
            worker.close()
            worker.log.close()
        self._all.clear()
        self._scratch.cleanup()

    @property
    def walls(self) -> dict[str, Any]:
        """Which of the walls that not every system offers stand here.

        `network_namespace`, `mount_namespace`, `process_namespace`, `call_filter`, `own_user` (started as root) are
        true or false; `landlock` is the kernel's version of it, 0 where there is none.
        """
        worker = self._take_worker()
        self._idle.put(worker)
        return {k: v for k, v in worker.walls.items() if k != "ready"}

    def run_all(self, programs: Sequence[CheckedProgram]) -> list[Outcome]:
        """The outcomes of `programs`, in their order."""
        return [
            self._build_outcome(job, reply) for job, reply in self._run_jobs([self._build_run_job(p) for p in programs])
        ]

    def call_all(self, target: str, inputs: Sequence[Sequence[Any]], chunk: int = 32) -> list[dict[str, Any]]:
        """Call the function `target`, "module:function" or "file.py:function", on each of `inputs` (JSON-able).

        Up to `chunk` calls share a process; a call that ends its process fails alone, the others are done in a new one.

        Returns:
            For each input `{"value": ..., "type": ...}` or `{"error": why}`, in order.

        Raises:
            UserError: If the function cannot be loaded.
        """
        results: list[dict[str, Any]] = [{}] * len(inputs)
        waiting = [list(range(i, min(i + chunk, len(inputs)))) for i in range(0, len(inputs), chunk)]
        while waiting:
            jobs = [self._build_call_job(target, [inputs[i] for i in group]) for group in waiting]
            again = []
            for group, (_, reply) in zip(waiting, self._run_jobs(jobs), strict=True):
                values, why = self._parse_values(target, reply)
                for i, value in zip(group, values, strict=False):
                    results[i] = value
                if len(values) < len(group):
                    results[group[len(values)]] = {"error": why}
                    again.append(group[len(values) + 1 :])
            waiting = [group for group in again if group]
        return results

    def check_loads(self, target: str) -> None:
        """Load the function `target` and call nothing.

        Raises:
            UserError: If it cannot be loaded.
        """
        ((_, reply),) = self._run_jobs([self._build_call_job(target, [])])
        self._parse_values(target, reply)

    def _build_run_job(self, program: CheckedProgram) -> dict[str, Any]:
        what = {"kind": "run", "candidates": program.candidates, "checks": program.checks}
        return {**what, **self._build_bounds(wall=self.limits.seconds, answer=65536)}

    def _build_call_job(self, target: str, inputs: Sequence[Sequence[Any]]) -> dict[str, Any]:
        seconds = self.limits.seconds
        what = {"kind": "call", "target": target, "inputs": inputs, "seconds": seconds, "load_seconds": LOADING}
        return {**what, **self._build_bounds(wall=LOADING + (seconds + 1) * len(inputs), answer=16 << 20)}

    def _build_bounds(self, wall: float, answer: int) -> dict[str, Any]:
        """What every job says: seconds in all, bytes of answer and output, memory, import directories."""
        limits = self.limits
        bounds = {"memory_mb": limits.memory_mb, "output": limits.output_kb << 10, "path": limits.path}
        return {"wall": wall, "answer": answer, **bounds}

    def _take_worker(self) -> Worker:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            worker = Worker(self._scratch.name, self.limits.path, self.backend)
            self._all.append(worker)
            return worker

    def _run_jobs(self, jobs: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
        """Each job with its reply (`None`: the interpreter was lost with it), spread over the pool."""
        replies: list[dict[str, Any] | None] = [None] * len(jobs)
        numbers = iter(range(len(jobs)))
        lock = threading.Lock()
        errors: list[BaseException] = []

        def run_worker() -> None:
            worker = self._take_worker()
            while not errors:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    break
                replies[number] = worker.run_job(jobs[number])
                if replies[number] is None:
                    worker.close()
                    worker = self._take_worker()
            self._idle.put(worker)

        def catch_errors() -> None:
            try:
                run_worker()
            except BaseException as error:  # carried over to the calling thread
                errors.append(error)

        threads = [threading.Thread(target=catch_errors, daemon=True) for _ in range(min(self.workers, len(jobs)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return list(zip(jobs, replies, strict=True))

    def _build_outcome(self, job: dict[str, Any], reply: dict[str, Any] | None) -> Outcome:
        if reply is None:
            return Outcome("lost", "the sandbox was lost while it ran")
        verdict, output = reply["verdict"], reply["output"]
        if verdict is None:
            return self._no_verdict_outcome(reply, output)
        check, reason = verdict["check"], one_line(verdict["reason"])
        if verdict["status"] == "walls":
            raise RunError(f"the sandbox cannot contain a process here: {reason}")
        if verdict["status"] == "passed":
            return Outcome("passed", f"{len(job['checks'])} checks passed", output=output)
        if verdict["status"] == "broken":
            return Outcome("broken", reason, output=output)
        where = f"check {check} of {len(job['checks'])}" if check else "program"
        if verdict["status"] == "gone":
            return self._early_end_outcome(reply["program_status"], where, reason, check, output)
        if verdict["status"] == "exited":
            return Outcome("exited", f"{where}: ended before its end", check, output)
        return Outcome("failed", f"{where}: {reason}", check, output)

    def _early_end_outcome(self, status: int, where: str, reason: str, check: int, output: str) -> Outcome:
        """The outcome of a program whose process ended before the tests did."""
        if not os.WIFSIGNALED(status):
            ending = describe_status(status) if status else reason or "ended before its end"
            return Outcome("exited", f"{where}: {ending}", check, output)
        if os.WTERMSIG(status) == signal.SIGKILL:  # no limit of ours: the machine had no memory left
            return Outcome("lost", f"{where}: {describe_status(status)} from outside", check, output)
        return Outcome("crashed", f"{where}: {describe_status(status)}", check, output)

    def _no_verdict_outcome(self, reply: dict[str, Any], output: str) -> Outcome:
        """The outcome of a process that gave no verdict."""
        if reply["ending"] == "time":
            return Outcome("timeout", f"stopped after {self.limits.seconds:g} seconds", output=output)
        if reply["ending"] == "output":
            return Outcome("output", f"printed more than {self.limits.output_kb} KiB", output=output)
        return Outcome("lost", describe_status(reply["status"]), output=output)

    def _parse_values(self, target: str, reply: dict[str, Any] | None) -> tuple[list[dict[str, Any]], str]:
        """The values a `call` job brought back, and why there are no more."""
        if reply is None:
            return [], "the sandbox was lost while it ran"
        token = reply["token"]
        problem, separator, verdict = reply["said"].rpartition(token)
        if separator and verdict == "X":  # then it ran nothing, and no other would
            raise RunError(f"the sandbox cannot contain a process here: {one_line(problem)}")
        lines = [json.loads(line[len(token) :]) for line in reply["said"].split("\n")[:-1] if line.startswith(token)]
        if lines and "load" in lines[0]:
            raise UserError(f"judge {target}: {one_line(lines[0]['load'])}; correct the module or the function's name")
        if not lines:
            raise UserError(
                f"judge {target}: loading it {self._no_verdict_outcome(reply, '').reason}; correct the module"
            )
        if reply["ending"]:
            return lines[1:], self._no_verdict_outcome(reply, "").reason
        late = os.WIFSIGNALED(reply["status"]) and os.WTERMSIG(reply["status"]) == signal.SIGALRM
        return lines[1:], f"stopped after {self.limits.seconds:g} seconds" if late else describe_status(reply["status"])


def one_line(text: str) -> str:
    """The text on one line, at most 300 characters, without characters that would steer a terminal or hide others."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())[:300]


def describe_status(status: int) -> str:
    """A wait status in words."""
    if not os.WIFSIGNALED(status):
        return f"ended early with exit status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    return f"killed by {signal.Signals(number).name}" + (" (CPU limit)" if number == signal.SIGXCPU else "")
