"""A thousand workers with faults, on a clock of their own: does each sample come once, and how long does it take?

The pool, its scheduler and the journal's protocol are those of a run; the workers are made up (`holdfast.testing`): a
sample takes a second on the fastest, exponentially distributed, half as fast the slowest; at one sample in a hundred
its worker dies and is away for five seconds, one in a hundred takes longer by Pareto's distribution (no variance), one
in 100,000 hangs its worker for good, messages take time, and two workers lie. Ideal is the time in which all of them
would have done the work without misfortune, each at its own speed.

    python benchmarks/pool.py --workers 1000 --requests 1000000
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator, Sequence
from typing import Any

from holdfast.axes.engine import Request, SamplingParams
from holdfast.generation.pool.engine import Pool
from holdfast.generation.pool.scheduler import LeaseRules
from holdfast.testing.simulated_workers import Misfortune, SimulatedRunner

MESSAGES = [{"role": "user", "content": "question"}]


class Requests(Sequence[tuple[Request, Sequence[int]]]):
    """So many requests, made as they are read: what is measured is the pool's own memory."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: Any) -> Any:
        return Request(str(place), MESSAGES), (0,)

    def __iter__(self) -> Iterator[tuple[Request, Sequence[int]]]:
        return (self[place] for place in range(self.count))


def simulate(workers: int, requests: int, seed: int) -> dict[str, Any]:
    """One run: figures, after a look that each sample came once."""
    runner = SimulatedRunner(workers, Misfortune(), seed)
    pool = Pool(runner, "simulated", dict.fromkeys(range(workers), 1), rules=LeaseRules(silence=120.0))
    arrived, began, before = bytearray(requests), time.perf_counter(), memory_mib()
    for sample in pool.sample(Requests(requests), SamplingParams()):
        arrived[int(sample.key)] += 1
    assert set(arrived) == {1}, "a sample is lost, or came twice"
    return {
        "workers": workers, "requests": requests, "seed": seed, "seconds": round(time.perf_counter() - began, 1),
        "makespan": round(runner.now, 1), "ideal": round(runner.ideal_seconds, 1),
        "ratio": round(runner.now / runner.ideal_seconds, 4), "memory_mib": round(memory_mib() - before, 1),
        "befell": dict(runner.counts), "pool": dict(pool.scheduler.counts),
    }  # fmt: skip


def memory_mib() -> float:
    """The most memory this process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Read the sizes, and print the figures of each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    for seed in range(asked.seeds):
        print(json.dumps(simulate(asked.workers, asked.requests, seed)), flush=True)


if __name__ == "__main__":
    main()
