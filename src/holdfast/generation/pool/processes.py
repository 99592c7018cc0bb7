"""A pool's workers as processes of this machine, each with an engine of its own, and a GPU where there are several."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from holdfast.axes.engine import SamplingParams
from holdfast.core.line_workers import LineWorker, LineWorkers
from holdfast.core.safe_text import make_printable
from holdfast.errors import RunError, UserError
from holdfast.generation.journal import parse_sample
from holdfast.generation.pool.events import (
    LeasedJob,
    LeaseEnded,
    PoolEvent,
    SampleArrived,
    WorkerAlive,
    WorkerGone,
    WorkerReady,
    WorkerUnusable,
)

ERRORS = {"UserError": UserError, "RunError": RunError}
READY = "ready"
"""Name of a worker's first task, which is to get ready; those that follow are called by the numbers of leases."""
DEATHS = 3
"""Deaths of a worker without a sample between them after which none takes its place."""
GRACE = 5.0
"""Seconds that a process may live after its last word."""


class ProcessRunner:
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
        self.count = count
        self.pool = LineWorkers(module, settings, environment)
        self._lines: queue.SimpleQueue[tuple[LineWorker, bytes | str]] = queue.SimpleQueue()
        self._deaths, self._out = [0] * count, set[int]()
        self._writers: ThreadPoolExecutor | None = None

    def start(self) -> None:
        if self._writers is None:
            self._writers = ThreadPoolExecutor(self.count)  # one that does not read must not keep the others waiting
            self.pool.start_workers(self.count)
            for worker in self.pool.workers:
                self._begin_worker(worker)

    def submit_lease(self, worker: int, lease: int, jobs: Sequence[LeasedJob], params: SamplingParams) -> None:
        entries = [
            {
                "key": job.request.key,
                "messages": job.request.messages,
                "prefill": job.request.prefill,
                "index": job.index,
            }
            for job in jobs
        ]
        self._give_task(
            self.pool.workers[worker], str(lease), {"params": params.model_dump(mode="json"), "jobs": entries}
        )

    def restart_worker(self, worker: int, reason: str) -> None:
        self.pool.workers[worker].process.kill()

    def end_worker(self, worker: int) -> None:
        self._out.add(worker)
        self.pool.workers[worker].process.kill()

    def wait_for_events(self, timeout: float) -> Sequence[PoolEvent]:
        found_events: list[PoolEvent] = []
        ends = time.monotonic() + timeout
        while not found_events and (seconds := ends - time.monotonic()) > 0:
            try:
                found_events += self._read_line(*self._lines.get(timeout=seconds))
                while not self._lines.empty():
                    found_events += self._read_line(*self._lines.get())
            except queue.Empty:
                break
        return found_events

    def measure_time(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        self.pool.close()
        if self._writers is not None:
            self._writers.shutdown()
            self._writers = None

    def _begin_worker(self, worker: LineWorker) -> None:
        threading.Thread(target=self._forward_lines, args=(worker,), daemon=True).start()
        self._give_task(worker, READY, {READY: True})

    def _give_task(self, worker: LineWorker, name: str, task: dict[str, Any]) -> None:
        assert self._writers is not None
        worker.task = name
        self._writers.submit(self.pool.give_task, worker, name, task)

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

    def _read_line(self, worker: LineWorker, line: bytes | str) -> list[PoolEvent]:
        """What a line of a worker says; nothing where it was given up meanwhile."""
        place = next((i for i, each in enumerate(self.pool.workers) if each is worker), None)
        if place is None:
            return []
        if line == "":
            return self._replace_worker(place, worker)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            excerpt = make_printable(str(line)[:80].strip(), one_line=True)
            return [self._refuse_answer(place, f"it wrote what is no answer: {excerpt}")]
        return self._read_answer(place, worker, answer)

    def _read_answer(self, place: int, worker: LineWorker, answer: dict[str, Any]) -> list[PoolEvent]:
        if "alive" in answer:
            return [WorkerAlive(place)]
        if kind := answer.get("error"):
            text = str(answer.get("text"))
            return [WorkerUnusable(place, text, ERRORS.get(str(kind), RunError)(text))]
        if not answer:
            name, worker.task = worker.task, ""
            return [WorkerReady(place)] if name == READY else [LeaseEnded(int(name))] if name else []
        sample = parse_sample(answer)
        if sample is None or not worker.task.isdigit():
            excerpt = make_printable(json.dumps(answer)[:80], one_line=True)
            return [self._refuse_answer(place, f"it gave what is no sample: {excerpt}")]
        self._deaths[place] = 0
        return [SampleArrived(int(worker.task), sample)]

    def _refuse_answer(self, place: int, reason: str) -> WorkerUnusable:
        self.end_worker(place)
        return WorkerUnusable(place, reason)

    def _replace_worker(self, place: int, worker: LineWorker) -> list[PoolEvent]:
        """Start another in the place of a worker that wrote its last, unless it was to end, or dies again and again."""
        if place in self._out:
            return []
        try:
            code = worker.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = worker.process.wait()
        self._deaths[place] += 1
        returns = self._deaths[place] < DEATHS
        if returns:
            self.pool.replace_worker(worker)
            self._begin_worker(self.pool.workers[place])
        else:
            self._out.add(place)
        return [WorkerGone(place, f"its process ended with exit code {code}", returns)]
