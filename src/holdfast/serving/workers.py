"""Further processes that answer at a server's address, each with an interpreter and models of its own.

Threads of one process take turns at the interpreter, and a small model's steps are mostly its work: of two cores 64
clients kept 1.4 at work. Linux deals connections out among the processes that listen at one address.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.core.line_workers import LineWorker, LineWorkers, list_cards, share_machine
from holdfast.generation.fused_decode import is_small
from holdfast.serving.address import CAN_SHARE

if TYPE_CHECKING:
    from holdfast.models.loading import Model

MODULE = "holdfast.serving.worker"
FEWEST_SLOTS = 16
"""Sequences that a process should be able to decode together; with fewer it reads all weights for too few of them."""
DEATHS = 3
"""Deaths of one worker after which none takes its place."""
GRACE = 10.0
"""Seconds that a worker may take to end, beyond those that answers on their way have left."""


def choose_worker_count(model: Model, cores: int, slots: int) -> int:
    """How many processes answer best: one a core where the model is small, for each has a copy; else one.

    Args:
        slots: Sequences that all of them decode together.
    """
    if not CAN_SHARE or model.device.type != "cpu" or not is_small(model):
        return 1
    return max(1, min(cores, slots // FEWEST_SLOTS))


class ServerWorkers:
    """Processes beside this one, which end when it does; one that dies is replaced.

    Args:
        settings: What each serves, and how, as `worker.answer_beside` reads it.
        count: How many there are with this process.
        device: Where a recipe would put the models.
        grace: Seconds that answers on their way have left at the end.
        say: Told in a line what became of one.
    """

    def __init__(
        self, settings: dict[str, Any], count: int, device: str, grace: float, say: Callable[[str], Any]
    ) -> None:
        cards, cores = list_cards() if device == "auto" else [], os.cpu_count() or 1
        self.pool = LineWorkers(MODULE, settings, lambda place: share_machine(place + 1, count, cores, cards))
        self.count, self.grace, self.say = count - 1, grace, say
        self.deaths, self.ready = Counter[int](), set[int]()
        self.is_ending = False
        self.thread = threading.Thread(target=self._watch_workers, name="holdfast-workers", daemon=True)

    def start(self) -> None:
        """Start them; each takes connections as soon as its models are there."""
        if self.count:
            self.pool.start_workers(self.count)
            for worker in self.pool.workers:
                self.pool.give_task(worker, MODULE, {})
            self.thread.start()

    def begin_end(self) -> None:
        """Let them finish what is on its way; told twice, they end at once."""
        self.is_ending = True
        for worker in self.pool.workers:
            worker.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Wait for their end."""
        self.is_ending = True
        if self.thread.ident is None:
            return
        self.thread.join(self.grace + GRACE)
        for worker in self.pool.workers:
            worker.process.kill()
        self.thread.join()
        self.pool.close()

    def _watch_workers(self) -> None:
        while any(worker.task for worker in self.pool.workers):
            worker, answer = self.pool.wait_for_answer()
            if answer == {"ready": True}:
                self.ready.add(self.pool.workers.index(worker))
                if len(self.ready) == self.count:
                    self.say(f"{self.count + 1} processes answer")
            elif answer is None:
                self._replace_worker(worker)
            elif "error" in answer:
                self.say(f"one process fewer answers: {answer['text']}")
                worker.task = ""
            elif not answer:  # it has done serving
                worker.task = ""

    def _replace_worker(self, worker: LineWorker) -> None:
        place, worker.task = self.pool.workers.index(worker), ""
        self.ready.discard(place)
        if self.is_ending:
            return
        self.deaths[place] += 1
        gives_up = self.deaths[place] >= DEATHS
        code = worker.process.wait() if gives_up else self.pool.replace_worker(worker)
        what = "one process fewer answers from now on" if gives_up else "another takes its place"
        self.say(f"a process that answered ended ({_describe_exit(code)}), and its clients with it; {what}")
        if not gives_up:
            self.pool.give_task(self.pool.workers[place], MODULE, {})
            if self.is_ending:  # meanwhile
                self.pool.workers[place].process.send_signal(signal.SIGTERM)


def _describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
