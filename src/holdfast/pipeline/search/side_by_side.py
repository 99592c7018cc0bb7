"""Trials in processes side by side, before the search itself goes through them one by one.

What a worker leaves is a run directory, as of a run that was killed after its last step: the search then repeats the
run, finds it done, and puts what it came to on record in its own order. So a trial that fails, or whose worker dies,
needs no care here: it is repeated, and its failure recorded, as without workers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.core.line_workers import LineWorkers, list_cards, share_machine
from holdfast.recipe.loader import ResolvedRecipe
from holdfast.recipe.schema import WITH_KEYS


@dataclass(frozen=True, slots=True)
class TrialJob:
    """A run to be trained.

    Args:
        name: What to call it, once among all.
        trial: Its recipe.
        parents: Journals of other runs, which are only read.
    """

    name: str
    trial: ResolvedRecipe
    parents: Sequence[Path] = ()


@dataclass(slots=True)
class TrialWorkers:
    """Processes that train trials, started when they are first needed.

    Args:
        count: How many at most.
    """

    count: int
    pool: LineWorkers = field(init=False)

    def __post_init__(self) -> None:
        self.pool = LineWorkers("holdfast.pipeline.search.worker", {}, self.describe_environment)

    def describe_environment(self, place: int) -> dict[str, str]:
        """What the environment of the worker at a place has of its own."""
        return share_machine(place, self.count, os.cpu_count() or 1, list_cards())

    def train_trials(self, jobs: Sequence[TrialJob]) -> dict[str, float]:
        """Train all; of each job the seconds that it kept its worker, over how many were at work."""
        waiting, seconds, starts = list(jobs), dict[str, float](), dict[str, float]()
        self.pool.start_workers(min(self.count, len(jobs)))
        while len(seconds) < len(jobs):
            for worker in self.pool.workers:
                if not worker.task and waiting:
                    job = waiting.pop(0)
                    starts[job.name] = time.perf_counter()
                    self.pool.give_task(worker, job.name, describe_job(job))
            worker, answer = self.pool.wait_for_answer()
            name, worker.task = worker.task, ""
            seconds[name] = (time.perf_counter() - starts[name]) / min(self.count, len(jobs))
            if answer is None:
                self.pool.replace_worker(worker)
        return seconds


def describe_job(job: TrialJob) -> dict[str, Any]:
    """A job as `worker` reads it."""
    return {
        "recipe": job.trial.recipe.model_dump(mode="json", context=WITH_KEYS),
        "sources": job.trial.sources,
        "name": job.trial.name,
        "parents": [str(path.resolve()) for path in job.parents],
    }
