"""A pool's workers as actors of Ray, on whichever machines its cluster has (`pip install 'holdfast[ray]'`).

An actor is given what a process is, as a JSON text, and answers in the same lines; this module keeps none of Ray's own
restarts, so that a worker that dies again and again is left out here as there.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.core.line_workers import BEAT_SECONDS, answer_task
from holdfast.errors import UserError
from holdfast.generation.pool.lines import READY, LineRunner

INSTALL = "sampling.runner: ray needs Ray: pip install 'holdfast[ray]', or leave it out for processes of this machine"


def require_ray() -> None:
    """See that Ray is installed.

    Raises:
        UserError: If not.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(INSTALL)


class LeaseActor:
    """What an actor is: the tasks of one module, as `core.line_workers.serve_tasks` would do them.

    Args:
        begin: "module:function", from settings to what does a task.
        settings: As JSON.
        environment: What differs from that of other processes.
        steps: "module:function" that says how far the work has come.
    """

    def __init__(self, begin: str, settings: str, environment: Mapping[str, str], steps: str) -> None:
        os.environ.update(environment)
        self.do_task = _find_function(begin)(json.loads(settings))
        self.count_steps: Callable[[], int] = _find_function(steps) if steps else lambda: 0

    def answer_lines(self, task: str) -> Iterator[str]:
        """The answers to a task in JSON, and lines that say that it goes on while it does."""
        answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

        def do_whole() -> None:
            try:
                for answer in answer_task(self.do_task, json.loads(task)):
                    answers.put(answer)
            finally:
                answers.put(None)

        threading.Thread(target=do_whole, daemon=True).start()
        before = self.count_steps()
        while True:
            try:
                answer = answers.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                if (steps := self.count_steps()) != before:
                    before, answer = steps, {"alive": steps}
                else:
                    continue
            if answer is None:
                return
            yield json.dumps(answer)


def _find_function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


@dataclass(slots=True)
class RayWorker:
    """An actor, and what it is at."""

    actor: Any
    task: str = ""


class RayRunner(LineRunner[RayWorker]):
    """Workers in a cluster of Ray: the one of `RAY_ADDRESS`, else one that is started on this machine.

    Args:
        begin, steps: Of `LeaseActor`.
        settings: What the engine is built from; the files it names are seen by all machines.
        count: How many.
        gpus: Cards of each.
        environment: Of the worker at a place, what differs.
    """

    def __init__(
        self, begin: str, settings: dict[str, Any], count: int, *, gpus: int = 0, steps: str = "",
        environment: Callable[[int], Mapping[str, str]] = lambda place: {},
    ) -> None:  # fmt: skip
        super().__init__(count)
        self.begin, self.settings, self.gpus, self.steps = begin, settings, gpus, steps
        self.environment = environment
        self._workers: list[RayWorker] = []
        self._is_own = False

    @property
    def workers(self) -> Sequence[RayWorker]:
        return self._workers

    def start(self) -> None:
        if self._workers:
            return
        require_ray()
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when it is imported; nothing is reported to anybody
        import ray

        if not ray.is_initialized():
            here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": max(self.count, os.cpu_count() or 1)}
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **here)
            self._is_own = True
        self._workers = [self._start_worker(place) for place in range(self.count)]

    def _start_worker(self, place: int) -> RayWorker:
        import ray

        options = {"num_cpus": 1, "num_gpus": self.gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        actor = ray.remote(**options)(LeaseActor).remote(
            self.begin, json.dumps(self.settings), dict(self.environment(place)), self.steps
        )
        worker = RayWorker(actor)
        self.give_task(worker, READY, {READY: True})
        return worker

    def give_task(self, worker: RayWorker, name: str, task: dict[str, Any]) -> None:
        worker.task = name
        threading.Thread(target=self._forward_lines, args=(worker, json.dumps(task)), daemon=True).start()

    def _forward_lines(self, worker: RayWorker, task: str) -> None:
        """Hand on what an actor answers; "" when it has ended."""
        import ray

        try:
            for answer in worker.actor.answer_lines.options(num_returns="streaming").remote(task):
                self._lines.put((worker, ray.get(answer)))
        except ray.exceptions.RayError:  # it died, or was killed, or its machine is gone
            self._lines.put((worker, ""))

    def kill_worker(self, worker: RayWorker) -> None:
        import ray

        ray.kill(worker.actor)

    def describe_end(self, worker: RayWorker) -> str:
        return "its actor ended"

    def replace_worker(self, place: int) -> None:
        self._workers[place] = self._start_worker(place)

    def close(self) -> None:
        if not self._workers:
            return
        import ray

        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers.clear()
        if self._is_own:
            ray.shutdown()
            self._is_own = False
