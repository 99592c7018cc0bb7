"""The pool: whatever becomes of its workers, each sample comes once, and none is lost."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.errors import RunError, UserError
from holdfast.generation.journal import Journal
from holdfast.generation.pool.engine import Pool
from holdfast.generation.pool.processes import ProcessRunner
from holdfast.generation.pool.scheduler import LeaseRules, Scheduler
from holdfast.testing.simulated_workers import Misfortune, SimulatedRunner

PARAMS = SamplingParams()


def asked(count: int) -> list[Request]:
    return [Request(f"key {number}", [{"role": "user", "content": "?"}]) for number in range(count)]


@pytest.mark.parametrize("seed", [0])
def test_many_workers_with_every_fault(seed: int, tmp_path: Path) -> None:
    """Crashes at 1 % of the samples, hangs, stragglers without variance, delays and two liars, on a virtual clock."""
    count, workers = 3000, 30
    runner = SimulatedRunner(workers, Misfortune(hang=1e-3), seed)
    said: list[str] = []
    pool = Pool(runner, "engine", dict.fromkeys(range(workers), 1), rules=LeaseRules(silence=20.0), say=said.append)
    with Journal(tmp_path / "s.jsonl") as journal:
        samples = journal.build_sample_fn(pool)(asked(count), PARAMS)
    assert len((tmp_path / "s.jsonl").read_bytes().splitlines()) == len(samples) == count
    assert runner.counts["crashes"] > 20
    assert runner.counts["hangs"]
    assert runner.counts["stragglers"] > 20
    assert len(said) == runner.counts["lies"] == 2
    assert all("is left out, and others do its work: it gave sample 0 of 'key" in line for line in said)
    assert runner.now < 1.3 * runner.ideal_seconds
    assert pool.scheduler.counts["most out"] < 30 * workers, "memory goes with the workers, not with the requests"
    assert pool.scheduler.counts["hedged"]


def test_a_call_that_was_left_does_not_disturb_the_next() -> None:
    runner = SimulatedRunner(4, Misfortune(liars=0, crash=0.0))
    pool = Pool(runner, "engine", dict.fromkeys(range(4), 1))
    stream = pool.sample([(request, [0]) for request in asked(50)], PARAMS)
    assert next(stream).key
    stream.close()
    samples = list(pool.sample([(request, [1, 0]) for request in asked(30)], PARAMS))
    assert Counter((s.key, s.index) for s in samples) == Counter((r.key, i) for r in asked(30) for i in (0, 1))


def test_what_kills_its_workers_is_named() -> None:
    class DeadlyRunner(SimulatedRunner):
        def _begin_sample(self, worker: Any, after: float) -> None:
            deadly = worker.jobs[-1].request.key == "key 17"
            if deadly:
                self._add_event(worker, after, "crash")
            else:
                super()._begin_sample(worker, after)

    pool = Pool(DeadlyRunner(4, Misfortune(liars=0)), "engine", dict.fromkeys(range(4), 1))
    arrived = []
    with pytest.raises(RunError, match="every worker that was given 'key 17' alone failed"):
        arrived.extend(pool.sample([(request, [0]) for request in asked(60)], PARAMS))
    assert {sample.key for sample in arrived} == {r.key for r in asked(60)} - {"key 17"}, "the others are there"


def test_the_least_busy_is_given_the_next_and_what_rests_is_left_out() -> None:
    scheduler = Scheduler(LeaseRules(first=1, most=1))
    scheduler.add_worker(0, 2)
    scheduler.add_worker(1, 2)
    scheduler.mark_ready(0)
    scheduler.mark_ready(1)
    scheduler.begin(((request, 0) for request in asked(9)), 9)
    leases = list(scheduler.hand_out(0.0))
    assert [lease.worker.number for lease in leases] == [0, 1, 0, 1]
    scheduler.fail_lease(leases[0].number, 0.0, "503")
    assert not list(scheduler.hand_out(0.1)), "it rests, and the other is busy"
    scheduler.take_sample(leases[1].number, Sample("key 1", 0, "", "stop", 1), 0.2)
    scheduler.end_lease(leases[1].number, 0.2)
    (lease,) = scheduler.hand_out(0.3)
    assert (lease.worker.number, *lease.jobs) == (1, ("key 0", 0)), "what was lost comes first"
    assert [lease.worker.number for lease in scheduler.hand_out(0.6)] == [0]


FAULTS = {
    "SIGKILL": "",
    "SIGSTOP": "",
    "garbage": "it wrote what is no answer",
    "no sample": "it gave what is no sample",
    "wrong ids": "it gave sample 0 of 'not key",
    "wrong count": "it gave 2 of ",
    "refuses": "row 7 has a picture",
}
"""What a worker does wrong, and what is said of it when it is left out; those that die are replaced."""


def pool_of(place: Path, faults: list[str], count: int, said: list[str], always: tuple[int, ...] = ()) -> Pool:
    """A pool of processes of which the first do what is wrong."""
    settings = {"faults": dict(enumerate(faults)), "mark": str(place), "always": always, "seconds": 0.001}
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""), *filter(None, sys.path)])
    runner = ProcessRunner("pool_worker", settings, count, lambda place: {"PLACE": str(place), "PYTHONPATH": path})
    rules = LeaseRules(first=8, most=8, silence=1.0, patience=3.0)
    return Pool(runner, "engine", dict.fromkeys(range(count), 1), rules=rules, say=said.append)


def test_bad_workers_cost_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    pool = pool_of(tmp_path, list(FAULTS), len(FAULTS) + 1, said)
    try:
        with Journal(tmp_path / "s.jsonl") as journal:
            samples = journal.build_sample_fn(pool)(asked(200), PARAMS)
    finally:
        pool.close()
    assert {key: one.text for key, (one,) in samples.items()} == {r.key: f"{r.key}!" for r in asked(200)}
    assert len((tmp_path / "s.jsonl").read_bytes().splitlines()) == 200
    assert pool.scheduler.counts["lost"] >= len(FAULTS) - 1  # a stopped one may be waited for no more
    for number, line in enumerate(FAULTS.values(), 1):
        of_it = [text for text in said if text.startswith(f"sampling: worker {number} is left out, ")]
        assert [line in text for text in of_it] == ([True] if line else []), said


def test_the_end_of_the_last_worker_is_the_end(tmp_path: Path) -> None:
    for fault, error, match in (
        ("refuses", UserError, "row 7 has a picture"),
        ("SIGKILL", RunError, "no worker is left .its process ended with exit code -9.; what was sampled is kept"),
    ):
        pool = pool_of(tmp_path, [fault], 1, [], always=(0,))
        try:
            with pytest.raises(error, match=match):
                list(pool.sample([(request, range(4)) for request in asked(30)], PARAMS))
        finally:
            pool.close()
