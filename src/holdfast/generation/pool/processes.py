"""A pool's workers as processes of this machine, each with an engine of its own, and a GPU where there are several."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from holdfast.core.line_workers import LineWorker, LineWorkers
from holdfast.generation.pool.lines import READY, LineRunner

GRACE = 5.0
"""Seconds that a process may live after its last word."""


class ProcessRunner(LineRunner[LineWorker]):
    """Workers that read leases and write samples, a JSON line each; no pickles.

    Args:
        module: What each runs: `core.line_workers.serve_tasks` with `{"ready": true}` as its first task, and a sample
            in plain data as each answer to a lease.
        settings: What its engine is built from.
        count: How many.
        environment: Of the worker at a place, what differs from this process's.
    """

    def __init__(
        self, module: str, settings: dict[str, Any], count: int,
        environment: Callable[[int], Mapping[str, str]] = lambda place: {},
    ) -> None:  # fmt: skip
        super().__init__(count)
        self.pool = LineWorkers(module, settings, environment)
        self._writers: ThreadPoolExecutor | None = None

    @property
    def workers(self) -> Sequence[LineWorker]:
        return self.pool.workers

    def start(self) -> None:
        if self._writers is None:
            self._writers = ThreadPoolExecutor(self.count)  # one that does not read must not keep the others waiting
            self.pool.start_workers(self.count)
            for worker in self.workers:
                self._begin_worker(worker)

    def give_task(self, worker: LineWorker, name: str, task: dict[str, Any]) -> None:
        assert self._writers is not None
        worker.task = name
        self._writers.submit(self.pool.give_task, worker, name, task)

    def kill_worker(self, worker: LineWorker) -> None:
        worker.process.kill()

    def describe_end(self, worker: LineWorker) -> str:
        try:
            code = worker.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = worker.process.wait()
        return f"its process ended with exit code {code}"

    def replace_worker(self, place: int) -> None:
        self.pool.replace_worker(self.pool.workers[place])
        self._begin_worker(self.pool.workers[place])

    def close(self) -> None:
        self.pool.close()
        if self._writers is not None:
            self._writers.shutdown()
            self._writers = None

    def _begin_worker(self, worker: LineWorker) -> None:
        threading.Thread(target=self._forward_lines, args=(worker,), daemon=True).start()
        self.give_task(worker, READY, {READY: True})

    def _forward_lines(self, worker: LineWorker) -> None:
        """Hand on what a worker writes; "" when it has ended."""
        assert worker.process.stdout is not None
        try:
            for line in worker.process.stdout:
                self._lines.put((worker, line))
        except ValueError:  # bytes that are no text, or closed by us
            self._lines.put((worker, b""))
            return
        self._lines.put((worker, ""))
