"""The pool: an engine whose samples many workers draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.errors import HoldfastError, RunError
from holdfast.generation.pool.events import (
    LeaseEnded,
    LeaseFailed,
    PoolEvent,
    Runner,
    SampleArrived,
    WorkerAlive,
    WorkerGone,
    WorkerReady,
    WorkerUnusable,
)
from holdfast.generation.pool.scheduler import LeaseRules, Misconduct, Scheduler

TICK = 0.5
"""Seconds between two looks for what is late."""


class Pool:
    """Draws samples by many workers; whichever fails, each sample comes once.

    Whoever reads its samples is the one writer of the journal: nothing is kept here.

    Args:
        runner: Where the workers live.
        fingerprint: Of the engine that each worker runs, so that a run may go on with another number of workers.
        capacities: Leases that each worker may have at a time, by its number.
        rules: How work is cut up.
        names: What messages call a worker, by its number; default: "worker 3".
        say: Told in a line of workers that are left out.
    """

    def __init__(
        self,
        runner: Runner,
        fingerprint: str,
        capacities: Mapping[int, int],
        *,
        rules: LeaseRules | None = None,
        names: Mapping[int, str] | None = None,
        say: Callable[[str], Any] = len,
    ) -> None:
        self.runner, self.say = runner, say
        self.scheduler = Scheduler(rules or LeaseRules())
        self._fingerprint, self._names = fingerprint, names or {}
        self._next_look = 0.0
        for number, capacity in capacities.items():
            self.scheduler.add_worker(number, capacity)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def sample(self, requests: Sequence[tuple[Request, Sequence[int]]], params: SamplingParams) -> Iterator[Sample]:
        """Yield one sample for each (request, index), as they arrive.

        Raises:
            RunError: If no worker is left that could draw what is missing.
        """
        scheduler, runner = self.scheduler, self.runner
        jobs = ((request, index) for request, indexes in requests for index in indexes)
        runner.start()
        scheduler.begin(jobs, sum(len(indexes) for _, indexes in requests))
        try:
            while scheduler.n_open:
                now = runner.measure_time()
                if now >= self._next_look:
                    self._next_look = now + TICK
                    self._look_for_late(now, params)
                for lease in scheduler.hand_out(now):
                    runner.submit_lease(lease.worker.number, lease.number, list(lease.jobs.values()), params)
                for event in runner.wait_for_events(TICK):
                    if (sample := self._take_event(event)) is not None:
                        yield sample
        finally:
            scheduler.abandon_call()

    def close(self) -> None:
        """End all workers."""
        self.runner.close()

    def _look_for_late(self, now: float, params: SamplingParams) -> None:
        """End workers that are silent, let idle ones help with what is late, and see that there is hope."""
        for number in self.scheduler.find_silent(now):
            reason = f"it gave no sign of life for {self.scheduler.rules.silence:g} seconds"
            self.scheduler.lose_worker(number, now, reason)
            self.runner.restart_worker(number, reason)
        if (deadly := self.scheduler.deadly) and self.scheduler.n_open == len(deadly):  # all others have arrived
            reason = next((w.reason for w in self.scheduler.workers.values() if w.reason), "")
            raise RunError(
                f"sampling: every worker that was given {deadly[0].request.key!r} alone failed ({reason}); what "
                "else was asked for is sampled and kept"
            )
        if reason := self.scheduler.is_hopeless():
            raise RunError(
                f"sampling: no worker is left ({reason}); what was sampled is kept, run the same command to go on"
            )
        for lease in self.scheduler.hedge_late(now):
            self.runner.submit_lease(lease.worker.number, lease.number, list(lease.jobs.values()), params)

    def _take_event(self, event: PoolEvent) -> Sample | None:
        """The sample that an event brings, if it is one that is still wanted."""
        scheduler, now = self.scheduler, self.runner.measure_time()
        if isinstance(event, SampleArrived | LeaseEnded):
            return self._take_answer(event, now)
        if isinstance(event, LeaseFailed):
            scheduler.fail_lease(event.lease, now, event.reason)
        elif isinstance(event, WorkerReady):
            scheduler.mark_ready(event.worker)
        elif isinstance(event, WorkerAlive):
            scheduler.hear_worker(event.worker, now)
        elif isinstance(event, WorkerGone):
            scheduler.lose_worker(event.worker, now, event.reason)
            if not event.returns:
                scheduler.drop_worker(event.worker, event.reason)
        elif isinstance(event, WorkerUnusable):
            self._leave_out(event.worker, event.reason, event.error)
        return None

    def _take_answer(self, event: SampleArrived | LeaseEnded, now: float) -> Sample | None:
        try:
            if isinstance(event, SampleArrived):
                return event.sample if self.scheduler.take_sample(event.lease, event.sample, now) else None
            self.scheduler.end_lease(event.lease, now)
        except Misconduct as error:
            self._leave_out(self.scheduler.leases[event.lease].worker.number, str(error))
        return None

    def _leave_out(self, number: int, reason: str, error: HoldfastError | None = None) -> None:
        """Give a worker nothing more.

        Raises:
            HoldfastError: The worker's own, if it was the last.
        """
        if self.scheduler.workers[number].state == "out":
            return
        self.scheduler.drop_worker(number, reason)
        self.runner.end_worker(number)
        if error is not None and all(worker.state == "out" for worker in self.scheduler.workers.values()):
            raise error
        name = self._names.get(number, f"worker {number + 1}")
        self.say(f"sampling: {name} is left out, and others do its work: {reason}")
