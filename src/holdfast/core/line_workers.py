"""Processes of this program that work side by side: a JSON line for each task, a JSON line for each answer.

The first line a worker reads says what all its tasks have in common. Workers end when the process that started them
does, however that ends: nobody is left who would write into its directories.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from selectors import EVENT_READ, DefaultSelector
from typing import Any, TextIO

from holdfast.core.threads import tune_malloc
from holdfast.errors import HoldfastError

Task = dict[str, Any]

THREADS = "OMP_NUM_THREADS"
CARDS = "CUDA_VISIBLE_DEVICES"
BEAT_SECONDS = 15.0
"""Seconds between two lines that say that a task goes on."""


def share_machine(place: int, count: int, cores: int, cards: Sequence[str]) -> dict[str, str]:
    """What a worker's environment has of its own: an even share of the cores, and one card where there are several.

    Args:
        place: The worker's among `count`.
        cores: Those of the machine; where the environment has fewer threads for a program, each has no more than that.
        cards: As `CUDA_VISIBLE_DEVICES` names them.
    """
    own_limit = os.environ.get(THREADS, "")
    own = {THREADS: str(max(1, min(cores // count, int(own_limit) if own_limit.isdigit() else cores)))}
    return own | ({CARDS: cards[place % len(cards)]} if len(cards) > 1 else {})


def list_cards() -> list[str]:
    """The cards this process sees, by their names in the environment."""
    import torch

    if CARDS in os.environ:
        return [name for name in os.environ[CARDS].split(",") if name]
    return [str(index) for index in range(torch.cuda.device_count())]


@dataclass(slots=True)
class LineWorker:
    """A process that does one task at a time, and what it is at."""

    process: subprocess.Popen[str]
    task: str = ""


@dataclass(slots=True)
class LineWorkers:
    """Workers of one kind.

    Args:
        module: What each runs; it calls `serve_tasks`.
        settings: What their tasks have in common.
        environment: Of the worker at a place, what differs from this process's.
    """

    module: str
    settings: Task
    environment: Callable[[int], Mapping[str, str]] = lambda place: {}
    workers: list[LineWorker] = field(default_factory=list)

    def start_workers(self, count: int) -> None:
        """Start as many as are missing for there to be `count`."""
        for place in range(len(self.workers), count):
            self.workers.append(self._start_worker(place))

    def _start_worker(self, place: int) -> LineWorker:
        process = subprocess.Popen(
            [sys.executable, "-m", self.module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, **self.environment(place)},
        )  # fmt: skip
        worker = LineWorker(process)
        self._write_line(worker, self.settings)
        return worker

    def give_task(self, worker: LineWorker, name: str, task: Task) -> None:
        """Let an idle worker do a task, called by a name until it is answered."""
        worker.task = name
        self._write_line(worker, task)

    def _write_line(self, worker: LineWorker, value: Task) -> None:
        """Send a line; of one that died meanwhile the end of its output says so."""
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(json.dumps(value) + "\n")
            worker.process.stdin.flush()
        except BrokenPipeError:
            return

    def wait_for_answer(self) -> tuple[LineWorker, Task | None]:
        """The next worker that says something, and what; `None` where it died."""
        with DefaultSelector() as selector:
            for worker in self.workers:
                if worker.task:
                    assert worker.process.stdout is not None
                    selector.register(worker.process.stdout, EVENT_READ, worker)
            ready: LineWorker = selector.select()[0][0].data
        assert ready.process.stdout is not None
        line = ready.process.stdout.readline()
        return ready, json.loads(line) if line.endswith("\n") else None

    def replace_worker(self, worker: LineWorker) -> int:
        """Start another in the place of one that died; the exit code of that."""
        code, place = worker.process.wait(), self.workers.index(worker)
        _close_pipes(worker)
        self.workers[place] = self._start_worker(place)
        return code

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
            _close_pipes(worker)
        self.workers.clear()


def _close_pipes(worker: LineWorker) -> None:
    for pipe in (worker.process.stdin, worker.process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what it was sent and did not read
                pipe.close()


def _read_tasks(source: TextIO, tasks: queue.Queue[Task]) -> None:
    """Hand on every line; when there are no more, whoever asked is gone, and nothing here may go on."""
    for line in source:
        tasks.put(json.loads(line))
    os._exit(1)


def serve_tasks(
    begin: Callable[[Task], Callable[[Task], Iterable[Task] | None]], count_steps: Callable[[], int] | None = None
) -> None:
    """Do the tasks of whoever started this process, until it is gone; errors of ours are answers.

    The last answer to a task is `{}`, or its error; a task that is a generator gives others before it.

    Args:
        begin: From what tasks have in common to what does one.
        count_steps: How far the work has come; as long as that grows, lines `{"alive": ...}` say so.
    """
    tune_malloc()
    answers = os.fdopen(os.dup(1), "w")  # whatever a library prints must not come between the answers
    os.dup2(2, 1)
    lock, tasks = threading.Lock(), queue.Queue[Task]()

    def write_answer(answer: Task) -> None:
        with lock:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    do_task = begin(json.loads(sys.stdin.readline()))
    threading.Thread(target=_read_tasks, args=(sys.stdin, tasks), daemon=True).start()
    if count_steps is not None:
        threading.Thread(target=_report_life, args=(count_steps, write_answer), daemon=True).start()
    while True:
        for answer in answer_task(do_task, tasks.get()):
            write_answer(answer)


def answer_task(do_task: Callable[[Task], Iterable[Task] | None], task: Task) -> Iterator[Task]:
    """The answers to a task, the last of which is `{}`, or an error of ours."""
    answer: Task = {}
    try:
        yield from do_task(task) or ()
    except HoldfastError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    yield answer


def _report_life(count_steps: Callable[[], int], write_answer: Callable[[Task], None]) -> None:
    before = 0
    while True:
        time.sleep(BEAT_SECONDS)
        if (steps := count_steps()) != before:
            before = steps
            write_answer({"alive": steps})
