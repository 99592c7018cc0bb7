"""Workers that only seem to be: a pool's runner on a clock of its own, in which hours pass in seconds.

The pool, its scheduler and the journal are the real ones; made up are the workers, the time they take, and what befalls
them. So a thousand workers with faults of every kind can be watched, again and again with the same seed.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast.axes.engine import Sample, SamplingParams
from holdfast.generation.pool.events import (
    LeasedJob,
    LeaseEnded,
    PoolEvent,
    SampleArrived,
    WorkerGone,
    WorkerReady,
)


@dataclass(frozen=True, slots=True)
class Misfortune:
    """What befalls simulated workers, and how often.

    Args:
        crash: Chance that a worker dies at a sample.
        restart_seconds: Until another is in its place.
        hang: Chance that it stops for ever at a sample, and says nothing.
        straggle: Chance that a sample takes longer, by a factor of Pareto's distribution.
        shape: Of that distribution; at 1.5 its mean is 3 and it has no variance.
        delay: Mean seconds that a message to or from a worker takes.
        liars: Workers that give a sample nobody asked them for, in the midst of their work.
        slowest: Speed of the slowest worker; the fastest has 1.
    """

    crash: float = 0.01
    restart_seconds: float = 5.0
    hang: float = 1e-5
    straggle: float = 0.01
    shape: float = 1.5
    delay: float = 0.05
    liars: int = 2
    slowest: float = 0.5


@dataclass(slots=True)
class SimulatedWorker:
    """A worker at its lease.

    Attributes:
        life: Number of the process in its place; what an earlier one was at comes to nothing.
        jobs: What is left of its lease.
        drawn: Samples it gave.
    """

    number: int
    speed: float
    delay: float
    is_liar: bool = False
    life: int = 0
    lease: int = 0
    jobs: list[LeasedJob] = field(default_factory=list)
    drawn: int = 0


class SimulatedRunner:
    """Workers on a virtual clock.

    Args:
        count: How many.
        misfortune: What befalls them.
        seed: Of all that is random.
        mean_seconds: That a sample takes on the fastest worker, exponentially distributed.

    Attributes:
        work: Seconds that the samples asked for would have taken on the fastest worker, each once, without misfortune.
        counts: How often what befell them.
    """

    def __init__(self, count: int, misfortune: Misfortune, seed: int = 0, mean_seconds: float = 1.0) -> None:
        self.misfortune, self.mean_seconds = misfortune, mean_seconds
        self.random = random.Random(seed)
        self.now, self.work = 0.0, 0.0
        self.counts: Counter[str] = Counter()
        liars = set(self.random.sample(range(count), min(count, misfortune.liars)))
        self.workers = [
            SimulatedWorker(
                number, self.random.uniform(misfortune.slowest, 1.0), self.random.expovariate(1) * misfortune.delay,
                number in liars,
            )
            for number in range(count)
        ]  # fmt: skip
        self._queue: list[tuple[float, int, int, int, str]] = []  # time, order, worker, its life, what
        self._order = 0
        self._is_started = False

    @property
    def ideal_seconds(self) -> float:
        """Seconds if all workers had been at work all the time, and nothing had befallen them."""
        return self.work / sum(worker.speed for worker in self.workers)

    def start(self) -> None:
        if not self._is_started:
            for worker in self.workers:
                self._add_event(worker, worker.delay, "ready")
        self._is_started = True

    def submit_lease(self, worker: int, lease: int, jobs: Sequence[LeasedJob], params: SamplingParams) -> None:
        it = self.workers[worker]
        it.lease, it.jobs = lease, list(reversed(jobs))
        self._begin_sample(it, it.delay)

    def restart_worker(self, worker: int, reason: str) -> None:
        self._end_life(self.workers[worker], 0.0)

    def end_worker(self, worker: int) -> None:
        self.workers[worker].life += 1

    def wait_for_events(self, timeout: float) -> Sequence[PoolEvent]:
        ends = self.now + timeout
        while self._queue and self._queue[0][0] <= ends:
            self.now, _, number, life, what = heapq.heappop(self._queue)
            if life == self.workers[number].life and (found_events := self._carry_out(self.workers[number], what)):
                return found_events
        self.now = ends
        return ()

    def measure_time(self) -> float:
        return self.now

    def close(self) -> None:
        self._queue.clear()

    def _carry_out(self, worker: SimulatedWorker, what: str) -> list[PoolEvent]:
        if what == "ready":
            return [WorkerReady(worker.number)]
        if what == "crash":
            self.counts["crashes"] += 1
            self._end_life(worker, self.misfortune.restart_seconds)
            return [WorkerGone(worker.number, "it died", returns=True)]
        job = worker.jobs.pop()
        worker.drawn += 1
        key = job.request.key
        if worker.is_liar and worker.drawn == 3:
            self.counts["lies"] += 1
            key = f"{key} of another"
        arrivals: list[PoolEvent] = [SampleArrived(worker.lease, Sample(key, job.index, "text", "stop", 1))]
        if worker.jobs:
            self._begin_sample(worker, 0.0)
        else:
            arrivals.append(LeaseEnded(worker.lease))
        return arrivals

    def _begin_sample(self, worker: SimulatedWorker, after: float) -> None:
        fate, chances = self.random.random(), self.misfortune
        job = worker.jobs[-1]
        seconds = self.random.expovariate(1 / self.mean_seconds)
        if not job.losses and job.copies < 2:
            self.work += seconds
        seconds /= worker.speed
        if fate < chances.crash:
            self._add_event(worker, after + seconds * self.random.random(), "crash")
        elif fate < chances.crash + chances.hang:
            self.counts["hangs"] += 1
        else:
            if self.random.random() < chances.straggle:
                self.counts["stragglers"] += 1
                seconds *= self.random.paretovariate(chances.shape)
            self._add_event(worker, after + seconds, "sample")

    def _end_life(self, worker: SimulatedWorker, after: float) -> None:
        worker.life += 1
        worker.jobs = []
        self._add_event(worker, after + self.misfortune.restart_seconds, "ready")

    def _add_event(self, worker: SimulatedWorker, after: float, what: str) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now + after, self._order, worker.number, worker.life, what))
