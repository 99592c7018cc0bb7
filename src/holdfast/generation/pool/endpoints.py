"""A pool's workers as servers: several addresses at once, each with many requests in flight.

A request that fails goes to another server, and its own rests, for longer each time; a server that is down is asked
again until it answers. One that refuses, or answers what is no answer, is left out for good.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.axes.engine import SamplingParams
from holdfast.errors import UserError
from holdfast.generation.openai_endpoint import EndpointEngine, NoAnswer, Unreachable
from holdfast.generation.pool.engine import Pool
from holdfast.generation.pool.events import (
    LeasedJob,
    LeaseEnded,
    LeaseFailed,
    PoolEvent,
    SampleArrived,
    WorkerGone,
    WorkerReady,
    WorkerUnusable,
)
from holdfast.generation.pool.scheduler import LONGEST_REST, SHORTEST_REST, LeaseRules

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat

ONE_BY_ONE = LeaseRules(first=1, most=1, patience=3.0, shortest_wait=5.0, silence=float("inf"))
"""A request is a lease; its own time limit says when it is lost."""


class EndpointRunner:
    """Servers that answer one request at a time to each of a few threads.

    Args:
        engines: One for each server, which tries a request once.
        model: What each calls the model.
    """

    def __init__(self, engines: Sequence[EndpointEngine], model: str) -> None:
        self.engines, self.model = engines, model
        self._events: queue.SimpleQueue[PoolEvent] = queue.SimpleQueue()
        self._out: set[int] = set()
        self._is_started = False

    def start(self) -> None:
        if not self._is_started:
            for place in range(len(self.engines)):
                threading.Thread(target=self._reach_server, args=(place,), daemon=True).start()
        self._is_started = True

    def submit_lease(self, worker: int, lease: int, jobs: Sequence[LeasedJob], params: SamplingParams) -> None:
        # Daemons: nobody waits at the end for an answer that another server has given.
        threading.Thread(target=self._send_lease, args=(worker, lease, jobs[0], params), daemon=True).start()

    def restart_worker(self, worker: int, reason: str) -> None:
        """Nothing: there is no server that could be restarted from here, and requests have a time limit."""

    def end_worker(self, worker: int) -> None:
        self._out.add(worker)

    def wait_for_events(self, timeout: float) -> Sequence[PoolEvent]:
        try:
            found_events = [self._events.get(timeout=timeout)]
        except queue.Empty:
            return ()
        while not self._events.empty():
            found_events.append(self._events.get())
        return found_events

    def measure_time(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        self._out.update(range(len(self.engines)))

    def _send_lease(self, place: int, lease: int, job: LeasedJob, params: SamplingParams) -> None:
        """Ask for one sample; whatever happens, there is an event."""
        events: list[PoolEvent] = [LeaseFailed(lease, "the request ended in an error of ours")]
        try:
            events = self._ask_server(place, lease, job, params)
        finally:
            for event in events:
                self._events.put(event)

    def _ask_server(self, place: int, lease: int, job: LeasedJob, params: SamplingParams) -> list[PoolEvent]:
        try:
            sample, _ = self.engines[place].sample_one(self.model, job.request, job.index, params)
        except NoAnswer as error:
            return [LeaseFailed(lease, error.failure)]
        except UserError as error:
            return [WorkerUnusable(place, str(error), error)]
        return [SampleArrived(lease, sample), LeaseEnded(lease)]

    def _reach_server(self, place: int) -> None:
        """Ask a server until it answers whether it knows the model."""
        rest = SHORTEST_REST
        while place not in self._out:
            try:
                _ = self.engines[place].model
            except Unreachable as error:
                self._events.put(WorkerGone(place, error.failure, returns=True))
                time.sleep(rest)
                rest = min(2 * rest, LONGEST_REST)
            except UserError as error:
                self._events.put(WorkerUnusable(place, str(error), error))
                return
            else:
                self._events.put(WorkerReady(place))
                return


def open_endpoints(
    urls: Sequence[str], name: str | None, *, concurrency: int, chat: Chat | None = None,
    say: Callable[[str], Any] = len, rules: LeaseRules = ONE_BY_ONE,
) -> Pool:  # fmt: skip
    """A pool of servers; its samples are called by the first address, so that others may join or leave.

    Args:
        urls: Of servers of the same model.
        name: Of the model there; default: the first that the first server lists which answers.
        concurrency: Requests in flight at each.
    Raises:
        UserError: If none answers, or one that does refuses.
    """
    model = find_model(urls, name, say)
    engines = [EndpointEngine(url, model, concurrency=concurrency, attempts=1, chat=chat) for url in urls]
    return Pool(
        EndpointRunner(engines, model), engines[0].describe_source(model),
        dict.fromkeys(range(len(engines)), concurrency), rules=rules,
        names={place: engine.url for place, engine in enumerate(engines)}, say=say,
    )  # fmt: skip


def find_model(urls: Sequence[str], name: str | None, say: Callable[[str], Any] = len) -> str:
    """The name of the model at servers, all of which are asked.

    Args:
        say: Told in a line of servers that do not answer.
    Raises:
        UserError: If none answers, or one that does refuses, or does not know the model.
    """
    failures: list[UserError] = []
    for url in urls:
        try:
            name = EndpointEngine(url, name).model
        except Unreachable as error:
            failures.append(error)
    if len(failures) == len(urls):
        raise failures[0]
    for failure in failures:
        say(f"sampling.engine: {failure}; the others do its work until it answers")
    assert name is not None
    return name
