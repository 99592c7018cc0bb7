"""Who is given which samples to draw: adaptive leases that are handed out again when they are lost or late.

A lease is a number of samples for one worker, about `seconds` of work by what that worker has shown it can do, and at
most a share of what is left, so that all end together. What a lost lease had not given goes back to the front of the
queue. When the queue is empty, idle workers draw again what others are late with; the first sample to arrive is taken.
Nothing is kept of a sample that has arrived: memory grows with the leases that are out, not with the requests.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.axes.engine import Request, Sample
from holdfast.generation.pool.events import LeasedJob

SHORTEST_REST = 0.5
LONGEST_REST = 60.0
"""Seconds that a worker rests after a failure; doubled with each in a row."""
GROWTH = 4
"""How many times larger than the last a worker's next lease may be."""
SPREAD = 2
"""Leases that each worker should still get of what is left."""
ALONE = 3
"""Lost leases from which on a sample is leased by itself: it may be what its workers die of."""
MOST_COPIES = 4
"""Workers that may draw a sample at the same time."""
MOST_ALONE = 4
"""Leases of a sample by itself that may be lost."""


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """How work is cut up.

    Args:
        seconds: Work in a lease.
        first: Samples in the first lease of a worker nobody knows yet.
        most: Samples in any lease.
        patience: How many times its expected time a lease may take before others draw its samples too.
        shortest_wait: Seconds that it may take in any case.
        silence: Seconds without a word after which a worker is taken for dead.
        failures: Failures in a row after which a worker is not counted on.
    """

    seconds: float = 10.0
    first: int = 8
    most: int = 4096
    patience: float = 1.5
    shortest_wait: float = 0.0
    silence: float = 300.0
    failures: int = 7


@dataclass(slots=True)
class PoolWorker:
    """A worker as the scheduler sees it.

    Attributes:
        leases: It has now, by number.
        rate: Samples a second of one lease; 0 before its first has ended.
        size: Samples of its largest lease that ended.
        failures: In a row.
        rests_until: When it may be given a lease again.
        state: "away" before it is ready, "here", or "out" for good.
    """

    number: int
    capacity: int = 1
    leases: set[int] = field(default_factory=set)
    rate: float = 0.0
    size: int = 0
    failures: int = 0
    rests_until: float = 0.0
    state: str = "away"
    reason: str = ""


@dataclass(slots=True)
class Lease:
    """Samples that a worker is drawing.

    Attributes:
        jobs: What it has not given yet, by key and index.
        size: How many they were.
        expected: Seconds it should take.
        began, heard: When it was given, and when it last gave a sign of life.
    """

    number: int
    worker: PoolWorker
    jobs: dict[tuple[str, int], LeasedJob]
    size: int
    expected: float
    began: float
    heard: float


class Misconduct(Exception):
    """A worker gave what it was not asked for."""


class Scheduler:
    """The leases of one pool.

    Args:
        rules: How work is cut up.

    Attributes:
        workers: By number.
        leases: That are out, by number; also those of earlier calls that nobody waits for.
        n_open: Samples of this call that have not arrived.
        deadly: Samples by which worker after worker died that was given nothing else; nobody draws them any more.
        counts: "leases", "hedged" samples that a second worker was given, "lost" leases, samples that came "late" (a
            second time), and of these the "unequal" ones; "most out": samples in leases at any time.
    """

    def __init__(self, rules: LeaseRules) -> None:
        self.rules = rules
        self.workers: dict[int, PoolWorker] = {}
        self.leases: dict[int, Lease] = {}
        self.counts: Counter[str] = Counter()
        self.n_open = self._n_unleased = self._n_out = self._last_number = 0
        self._source: Iterator[tuple[Request, int]] = iter(())
        self._returned_jobs: deque[LeasedJob] = deque()
        self._idle: set[int] = set()
        self._rate = 0.0
        self.deadly: list[LeasedJob] = []

    def begin(self, source: Iterator[tuple[Request, int]], count: int) -> None:
        """Take the samples that one call asks for, which are read as they are handed out.

        Args:
            count: How many there are.
        """
        self._source, self._n_unleased, self.n_open, self.deadly = source, count, count, []
        self._returned_jobs.clear()

    def abandon_call(self) -> None:
        """Forget what is open; leases that are out go on, and nobody waits for them."""
        for lease in self.leases.values():
            for job in lease.jobs.values():
                job.is_done = True
        self.begin(iter(()), 0)

    def add_worker(self, number: int, capacity: int = 1) -> None:
        """Count a worker among those that will be ready at some time."""
        self.workers[number] = PoolWorker(number, capacity)

    def mark_ready(self, number: int) -> None:
        """Give a worker leases from now on."""
        worker = self.workers[number]
        if worker.state != "out":
            worker.state, worker.rests_until = "here", 0.0
            self._offer_room(worker)

    def drop_worker(self, number: int, reason: str) -> None:
        """Give a worker no more leases; what it has goes to others."""
        worker = self.workers[number]
        worker.state, worker.reason = "out", reason
        self._return_leases(worker)

    def lose_worker(self, number: int, now: float, reason: str) -> None:
        """Give a worker no leases until it is ready again; what it has goes to others."""
        worker = self.workers[number]
        worker.state, worker.reason = ("out" if worker.state == "out" else "away"), reason
        self._note_failure(worker, now)
        self._return_leases(worker)

    def fail_lease(self, number: int, now: float, reason: str) -> None:
        """Give the samples of a lease to others, and its worker a rest."""
        if (lease := self.leases.get(number)) is not None:
            lease.worker.reason = reason
            self._note_failure(lease.worker, now)
            self._return_lease(lease)
            self._offer_room(lease.worker)

    def is_hopeless(self) -> str:
        """Why no sample can be expected any more; "" where some worker is here, or is still to be tried."""
        usable = [w for w in self.workers.values() if w.state != "out" and w.failures < self.rules.failures]
        if usable:
            return ""
        last = [worker.reason for worker in self.workers.values() if worker.reason]
        return last[-1] if last else "there is no worker"

    def hand_out(self, now: float) -> Iterator[Lease]:
        """A lease for each worker that has room, as long as there is work; the least busy come first."""
        while (self._n_unleased or self._returned_jobs) and (worker := self._take_idle(now)):
            jobs = self._take_jobs(self._choose_size(worker))
            if not jobs:
                return
            yield self._lease_jobs(worker, jobs, now)

    def hedge_late(self, now: float) -> Iterator[Lease]:
        """Leases of what others are late with, for workers that have nothing else to do."""
        if self._n_unleased or self._returned_jobs or not self.n_open:
            return
        patience, shortest = self.rules.patience, self.rules.shortest_wait
        late = [
            one for one in self.leases.values() if now - one.began > max(shortest, patience * self._expect_seconds(one))
        ]
        for lease in sorted(late, key=lambda lease: lease.began):
            waiting_jobs = [job for job in lease.jobs.values() if self._can_hedge(job, lease)]
            while waiting_jobs and (worker := self._take_idle(now, lease.worker)):
                size = -(-len(waiting_jobs) // len(self._idle))
                jobs, waiting_jobs = waiting_jobs[:size], waiting_jobs[size:]
                self.counts["hedged"] += len(jobs)
                yield self._lease_jobs(worker, jobs, now)

    def _expect_seconds(self, lease: Lease) -> float:
        """What a lease should take by what is known now: of the first ones nothing was when they were given."""
        return min(lease.expected, 2 * lease.size / self._rate) if self._rate else lease.expected

    def _can_hedge(self, job: LeasedJob, lease: Lease) -> bool:
        """Whether a sample is still wanted, and this late lease is the last hope for it."""
        is_last = job.newest == lease.number or job.newest not in self.leases
        return is_last and not job.is_done and job.copies < MOST_COPIES

    def find_silent(self, now: float) -> list[int]:
        """Workers that have a lease and have said nothing for too long."""
        limit = self.rules.silence
        return sorted({lease.worker.number for lease in self.leases.values() if now - lease.heard > limit})

    def hear_worker(self, number: int, now: float) -> None:
        """Take note that a worker lives."""
        for lease in self.workers[number].leases:
            self.leases[lease].heard = now

    def take_sample(self, number: int, sample: Sample, now: float) -> bool:
        """Whether a sample is the first of its key and index to arrive.

        Raises:
            Misconduct: If it is not of its lease, or was given twice.
        """
        lease = self.leases.get(number)
        if lease is None:  # of a worker that was given up
            return False
        job = lease.jobs.pop((sample.key, sample.index), None)
        if job is None:
            raise Misconduct(f"it gave sample {sample.index} of {sample.key!r}, which it was not asked for now")
        lease.heard = now
        self._n_out -= 1
        job.copies -= 1
        lease.worker.failures = 0
        if job.is_done:
            self.counts["late"] += 1
            self.counts["unequal"] += job.first is not None and job.first != sample.text
            return False
        job.is_done, job.first = True, sample.text if job.copies else None
        self.n_open -= 1
        return True

    def end_lease(self, number: int, now: float) -> None:
        """Take a lease as given.

        Raises:
            Misconduct: If samples of it are missing.
        """
        lease = self.leases.get(number)
        if lease is None:
            return
        if lease.jobs:
            (key, index), count = next(iter(lease.jobs)), lease.size - len(lease.jobs)
            raise Misconduct(f"it gave {count} of {lease.size} samples; sample {index} of {key!r} is missing")
        rate = lease.size / max(now - lease.began, 1e-6)
        lease.worker.rate = _blend_rates(lease.worker.rate, rate)
        self._rate = _blend_rates(self._rate, rate, 0.1)
        lease.worker.size = max(lease.worker.size, lease.size)
        self._forget_lease(lease)
        self._offer_room(lease.worker)

    def _offer_room(self, worker: PoolWorker) -> None:
        """Count a worker among those with room, or no longer."""
        if worker.state == "here" and len(worker.leases) < worker.capacity:
            self._idle.add(worker.number)
        else:
            self._idle.discard(worker.number)

    def _take_idle(self, now: float, beside: PoolWorker | None = None) -> PoolWorker | None:
        """The least busy worker that has room and does not rest."""
        workers = (self.workers[number] for number in self._idle)
        ready_workers = [worker for worker in workers if worker.rests_until <= now and worker is not beside]
        return min(ready_workers, key=lambda worker: (len(worker.leases), worker.number), default=None)

    def _choose_size(self, worker: PoolWorker) -> int:
        rules = self.rules
        size = rules.first
        if worker.rate:
            size = min(int(worker.rate * rules.seconds), GROWTH * worker.size)
        n_here = sum(w.state == "here" for w in self.workers.values()) if len(self.workers) < 32 else len(self.workers)
        share = -(-(self._n_unleased + len(self._returned_jobs)) // (SPREAD * max(1, n_here)))
        return max(1, min(size, share or size, rules.most))

    def _take_jobs(self, size: int) -> list[LeasedJob]:
        jobs: list[LeasedJob] = []
        while self._returned_jobs and len(jobs) < size:
            job = self._returned_jobs[0]
            if job.is_done or job.copies:  # it arrived meanwhile, or somebody else draws it
                self._returned_jobs.popleft()
                continue
            if job.losses >= ALONE and jobs:
                return jobs
            jobs.append(self._returned_jobs.popleft())
            if job.losses >= ALONE:
                return jobs
        while self._n_unleased and len(jobs) < size:
            request, index = next(self._source)
            self._n_unleased -= 1
            jobs.append(LeasedJob(request, index))
        return jobs

    def _lease_jobs(self, worker: PoolWorker, jobs: list[LeasedJob], now: float) -> Lease:
        self._last_number += 1
        rate = max(worker.rate, self._rate / 2)  # one that was late once is not waited for longer the next time
        by_name = {(job.request.key, job.index): job for job in jobs}
        duration = len(jobs) / rate if rate else self.rules.seconds
        lease = Lease(self._last_number, worker, by_name, len(jobs), duration, now, now)
        for job in jobs:
            job.copies, job.newest = job.copies + 1, lease.number
        self.leases[lease.number] = lease
        worker.leases.add(lease.number)
        self._n_out += len(jobs)
        self.counts["leases"] += 1
        self.counts["most out"] = max(self.counts["most out"], self._n_out + len(self._returned_jobs))
        self._offer_room(worker)
        return lease

    def _note_failure(self, worker: PoolWorker, now: float) -> None:
        if now >= worker.rests_until:  # what fails together with another has failed once
            worker.rests_until = now + min(LONGEST_REST, SHORTEST_REST * 2**worker.failures)
            worker.failures += 1

    def _return_leases(self, worker: PoolWorker) -> None:
        for number in sorted(worker.leases):
            self._return_lease(self.leases[number])

    def _return_lease(self, lease: Lease) -> None:
        """Put what a lease has not given back into the queue."""
        self._forget_lease(lease)
        self.counts["lost"] += 1
        for job in lease.jobs.values():
            job.copies -= 1
            job.losses += 1
            job.losses_alone += lease.size == 1
            if not job.is_done:
                (self.deadly if job.losses_alone >= MOST_ALONE else self._returned_jobs).append(job)
        self._n_out -= len(lease.jobs)

    def _forget_lease(self, lease: Lease) -> None:
        del self.leases[lease.number]
        lease.worker.leases.discard(lease.number)


def _blend_rates(old: float, new: float, share: float = 0.5) -> float:
    return new if not old else (1 - share) * old + share * new
