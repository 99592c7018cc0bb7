"""What a worker says line by line, and what it means to a pool: the same for processes and for actors of Ray."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from holdfast.axes.engine import SamplingParams
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


class SpokenWorker(Protocol):
    """A worker that answers in lines; `task` is the name of what it is at."""

    task: str


W = TypeVar("W", bound=SpokenWorker)


class LineRunner(Generic[W]):
    """Workers that are given leases and answer in JSON lines; where they live says a subclass.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._lines: queue.SimpleQueue[tuple[W, bytes | str]] = queue.SimpleQueue()
        self._deaths, self._out = [0] * count, set[int]()

    @property
    def workers(self) -> Sequence[W]:
        """Those that live, by their places."""
        raise NotImplementedError

    def give_task(self, worker: W, name: str, task: dict[str, Any]) -> None:
        """Let a worker begin a task; its lines go into `_lines`, "" as the last of a worker that ended."""
        raise NotImplementedError

    def kill_worker(self, worker: W) -> None:
        """End a worker at once."""
        raise NotImplementedError

    def describe_end(self, worker: W) -> str:
        """How a worker ended that said its last."""
        raise NotImplementedError

    def replace_worker(self, place: int) -> None:
        """Start another at a place."""
        raise NotImplementedError

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
        self.give_task(self.workers[worker], str(lease), {"params": params.model_dump(mode="json"), "jobs": entries})

    def restart_worker(self, worker: int, reason: str) -> None:
        self.kill_worker(self.workers[worker])

    def end_worker(self, worker: int) -> None:
        self._out.add(worker)
        self.kill_worker(self.workers[worker])

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

    def _read_line(self, worker: W, line: bytes | str) -> list[PoolEvent]:
        """What a line of a worker says; nothing where it was given up meanwhile."""
        place = next((i for i, each in enumerate(self.workers) if each is worker), None)
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

    def _read_answer(self, place: int, worker: W, answer: dict[str, Any]) -> list[PoolEvent]:
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

    def _replace_worker(self, place: int, worker: W) -> list[PoolEvent]:
        """Start another in the place of a worker that wrote its last, unless it was to end, or dies again and again."""
        if place in self._out:
            return []
        reason = self.describe_end(worker)
        self._deaths[place] += 1
        returns = self._deaths[place] < DEATHS
        if returns:
            self.replace_worker(place)
        else:
            self._out.add(place)
        return [WorkerGone(place, reason, returns)]
