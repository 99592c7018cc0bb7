"""What a pool and its workers say to each other, wherever these live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.errors import HoldfastError


@dataclass(slots=True)
class LeasedJob:
    """One sample that is wanted."""

    request: Request
    index: int
    losses: int = 0
    """Leases that were lost with it in them."""
    losses_alone: int = 0
    """Of them, those in which there was nothing else."""
    copies: int = 0
    """Leases it is in now."""
    newest: int = 0
    """The last of them."""
    is_done: bool = False
    first: str | None = None
    """The text that was taken, while somebody else still draws it."""


@dataclass(frozen=True, slots=True)
class SampleArrived:
    """A sample of a lease."""

    lease: int
    sample: Sample


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """The worker says that it gave all samples of a lease."""

    lease: int


@dataclass(frozen=True, slots=True)
class LeaseFailed:
    """A lease came to nothing, and its worker rests before it is given another."""

    lease: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker can be given leases, for the first time or again."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerAlive:
    """A worker is at work on what it has."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A worker died; its runner starts another in its place where it can."""

    worker: int
    reason: str
    returns: bool


@dataclass(frozen=True, slots=True)
class WorkerUnusable:
    """What a worker says cannot be used, now or later: it gave what nobody asked for, or refuses with an error."""

    worker: int
    reason: str
    error: HoldfastError | None = None


PoolEvent = SampleArrived | LeaseEnded | LeaseFailed | WorkerReady | WorkerAlive | WorkerGone | WorkerUnusable


class Runner(Protocol):
    """Where workers live. Its calls come from one thread."""

    def start(self) -> None:
        """Let there be workers; each that can be given work says `WorkerReady`. Called again, it changes nothing."""

    def submit_lease(self, worker: int, lease: int, jobs: Sequence[LeasedJob], params: SamplingParams) -> None:
        """Give a worker a lease; it answers by events."""

    def restart_worker(self, worker: int, reason: str) -> None:
        """End a worker that does not answer; a `WorkerGone` follows, as if it had died."""

    def end_worker(self, worker: int) -> None:
        """End a worker for good; no event of it follows."""

    def wait_for_events(self, timeout: float) -> Sequence[PoolEvent]:
        """What happened, in order; waits up to `timeout` seconds where nothing has yet."""

    def measure_time(self) -> float:
        """Seconds of a clock that only goes forward."""

    def close(self) -> None:
        """End all workers."""
