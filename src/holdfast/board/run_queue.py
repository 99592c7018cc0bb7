"""Runs that wait for their turn: folders of processes that were not started yet, in a line that lies on the disk.

A waiting run has a folder with its recipe and a `job.json` without a process. Their order is `queue.json`; what is not
in it comes last, as it arrived. All changes are made under a lock, so that any number of boards may show one directory.
What the program is started with is never read from the disk: it is made anew from the recipe, which is confined and
looked through once more. Runs that another board left and that run code of their own wait until somebody allows them.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.board.draft import NAME, parse_text
from holdfast.board.jobs import TRAIN, Job, Jobs
from holdfast.board.own_code import find_outside_places, find_own_code
from holdfast.board.refusal import Refusal
from holdfast.core.files import read_json
from holdfast.errors import UserError
from holdfast.pipeline.run_dir import MARK, replace_json

MOST_RUNS = 1
"""Runs at work at once: two on one machine take more than twice as long."""
MOST_WAITING = 200
LOOK_SECONDS = 1.0
"""Time between looks whether a run has ended."""


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A run in the line.

    Args:
        job: Its folder.
        place: From 1.
        asks: What of it would run code of its own, or lies outside, if nobody has said here that it may be started.
    """

    job: Job
    place: int
    asks: tuple[str, ...] = ()


class RunQueue:
    """The line of one board directory.

    Args:
        jobs: Its processes.
        most_runs: At work at once.
    """

    def __init__(self, jobs: Jobs, most_runs: int = MOST_RUNS) -> None:
        self.jobs, self.folder, self.most_runs = jobs, jobs.folder, most_runs
        self._allowed: set[str] = set()

    @property
    def _order(self) -> Path:
        return self.folder.state / "queue.json"

    def list_waiting(self) -> list[WaitingRun]:
        """The line, the next one first."""
        return [WaitingRun(job, place, self._find_asks(job)) for place, job in enumerate(self._list_jobs(), 1)]

    def list_starting(self) -> list[Job]:
        """Runs at work that have no directory yet, so that no list of runs shows them."""
        jobs = [job for job in self.jobs.list_jobs() if job.kind == TRAIN and self.jobs.is_alive(job)]
        return [job for job in jobs if not (self.folder.root / job.run / MARK).is_file()]

    def find_waiting(self, run: str) -> WaitingRun | None:
        """The place of a run directory in the line."""
        return next((entry for entry in self.list_waiting() if entry.job.run == run), None)

    def add_run(self, run: str, text: str, *, resumes: bool = False) -> Job:
        """Put a run that may be started at the end of the line, and start it if it is its turn.

        Args:
            run: The run directory, by its name.
            text: Its recipe.
            resumes: The run is there and goes on.
        Raises:
            Refusal: If it waits or is at work already, or the line is full.
        """
        with self.jobs.hold_lock():
            waiting = self._list_jobs()
            if any(job.run == run for job in waiting):
                raise Refusal(409, "waits_already", name=run)
            if self.jobs.find_at_work([self.folder.root / run]):
                raise Refusal(409, "at_work_already", name=run)
            if len(waiting) >= MOST_WAITING:
                raise Refusal(409, "line_is_full", number=str(MOST_WAITING))
            job = self.jobs.prepare_job(TRAIN, run=run, files={"recipe.yaml": text}, resumes=resumes)
            self._allowed.add(job.name)
            self._write_order([*waiting, job])
        self.start_due()
        return job

    def move_run(self, name: str, by: int) -> None:
        """Move a run in the line by so many places; raises as `remove_run`."""
        with self.jobs.hold_lock():
            waiting = self._list_jobs()
            job = self._find_job(waiting, name)
            place = max(0, waiting.index(job) + by)
            waiting.remove(job)
            waiting.insert(place, job)
            self._write_order(waiting)

    def remove_run(self, name: str) -> None:
        """Take a run out of the line.

        Raises:
            Refusal: If it does not wait there any more.
        """
        with self.jobs.hold_lock():
            self.jobs.withdraw_job(self._find_job(self._list_jobs(), name))

    def allow_run(self, name: str) -> None:
        """Say that a run which another board left may be started; raises as `remove_run`."""
        self._allowed.add(self._find_job(self._list_jobs(), name).name)
        self.start_due()

    def start_due(self) -> None:
        """Start the next ones while fewer than `most_runs` are at work."""
        if not self._list_jobs():
            return
        with self.jobs.hold_lock():
            at_work = sum(job.kind == TRAIN and self.jobs.is_alive(job) for job in self.jobs.list_jobs())
            for job in self._list_jobs():
                if at_work >= self.most_runs:
                    return
                if not self._find_asks(job):
                    at_work += self._start_job(job)

    def keep_starting(self, ends: threading.Event) -> None:
        """Start runs when their turn comes, until an event."""
        while not ends.wait(LOOK_SECONDS):
            # A full disk, or another board that holds the lock, may be over at the next look.
            with contextlib.suppress(OSError, Refusal):
                self.start_due()

    def _start_job(self, job: Job) -> bool:
        """Start a waiting run; one that cannot be started is marked, and the line goes on."""
        try:
            words = self._make_words(job)
        except UserError as error:
            self.jobs.refuse_job(job, str(error))
            return False
        self.jobs.launch_job(job, words)
        return True

    def _make_words(self, job: Job) -> list[str]:
        """What the program is started with.

        Raises:
            UserError: If the recipe is none any more, or leads outside.
        """
        try:
            path = self.folder.find_path(job.run)
        except Refusal as refusal:
            raise UserError(f"{NAME}: output: {job.run[:200]!r} lies outside of the board's directory") from refusal
        if job.resumes:
            return ["train", str(path), f"output={json.dumps(str(path))}", "--json"]
        data = parse_text(self._read_recipe(job))
        if places := find_outside_places(data, self.folder.root):
            raise UserError(f"{NAME}: {places[0]}: lies outside of the board's directory")
        output = data.get("output")
        is_plain = isinstance(output, str) and (self.folder.root / output).resolve() == path
        return ["train", "{job}/recipe.yaml", *([] if is_plain else [f"output={json.dumps(job.run)}"]), "--json"]

    def _find_asks(self, job: Job) -> tuple[str, ...]:
        """What somebody must have allowed before a run is started; empty where that was done, or nothing is to be."""
        if job.name in self._allowed:
            return ()
        try:
            data = parse_text(self._read_recipe(job))
        except UserError:  # said when it is started
            return ()
        return (*find_own_code(data), *(find_outside_places(data, self.folder.root) if job.resumes else ()))

    def _read_recipe(self, job: Job) -> str:
        """The recipe that a job would run with."""
        try:
            place = (
                self.folder.find_path(job.run) / "resolved.yaml" if job.resumes else self.jobs.root / job.name / NAME
            )
            return place.read_text(encoding="utf-8", errors="replace")
        except (OSError, Refusal) as error:
            raise UserError(f"{NAME}: {job.run[:200]}: has no recipe any more") from error

    def _list_jobs(self) -> list[Job]:
        """The jobs of the line, in order."""
        waiting = [job for job in reversed(self.jobs.list_jobs()) if self.jobs.is_waiting(job)]
        order = read_json(self._order)
        ranks = {str(name): rank for rank, name in enumerate(order if isinstance(order, list) else [])}
        return sorted(waiting, key=lambda job: ranks.get(job.name, len(ranks)))

    def _find_job(self, waiting: Sequence[Job], name: str) -> Job:
        """A job of the line by its name; raises as `remove_run`."""
        job = next((job for job in waiting if job.name == name), None)
        if job is None:
            raise Refusal(409, "waits_no_more", name=name[:200])
        return job

    def _write_order(self, jobs: Sequence[Job]) -> None:
        replace_json(self._order, [job.name for job in jobs])
