"""Processes that the board starts: each is the program with a list of arguments, and a folder that says all of it.

They belong to nobody once they run: if the board ends they go on, and the next board finds them. Whether one runs is
seen by the lock of the file that it writes to, which ends with it; the number of a process is used again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from holdfast.board.file_locks import find_runs_at_work, find_writer, is_locked, wait_for_lock
from holdfast.board.folder import RunsFolder
from holdfast.board.refusal import Refusal
from holdfast.board.run_index import parse_events
from holdfast.core.files import read_json, replace_file
from holdfast.pipeline.run_dir import replace_json

Kind: TypeAlias = Literal["train", "check", "export", "chat"]
TRAIN: Final = "train"
CHECK: Final = "check"
EXPORT: Final = "export"
CHAT: Final = "chat"
MOST_SHORT = 2
"""Checks and exports at work at once."""
SAID, ERRORS = "said.jsonl", "errors.txt"
"""What a process writes."""
LOCK_SECONDS = 10.0
LARGEST_SAID = 4 << 20
"""Bytes at the end of what a process said that are read."""
JOB_NAME_BYTES = 6
FORMS = ("folder", "gguf")
DTYPES = ("", "fp32", "bf16", "fp16", "q8_0")
"""What `holdfast export` writes; "" for the types that were saved."""


@dataclass(frozen=True, slots=True)
class Job:
    """A process that the board started.

    Args:
        name: Of its folder.
        kind: What it does.
        run: The run directory that it works on, by its name; "" for none.
        pid: Its number; 0 before it is started.
        words: The command.
        began: When.
        resumes: The run was there before.
        withdrawn: It waited, and was taken out of the line.
    """

    name: str
    kind: Kind
    run: str
    pid: int
    words: tuple[str, ...]
    began: float
    resumes: bool = False
    withdrawn: bool = False


JOB = TypeAdapter(Job)


class Jobs:
    """The processes of one board directory.

    Args:
        folder: The directory; processes work in it.
    """

    def __init__(self, folder: RunsFolder) -> None:
        self.folder, self.root = folder, folder.state / "jobs"
        self._children: list[subprocess.Popen[bytes]] = []
        self._known: dict[str, Job] = {}  # what is said of a job that was started never changes
        self._ended: set[str] = set()

    def place_of(self, name: str) -> Path:
        """The folder of a job.

        Raises:
            Refusal: If the name is none of a job.
        """
        if len(name) > 64 or not name.replace("-", "").isalnum() or not (self.root / name / "job.json").is_file():
            raise Refusal(404, "no_job", name=name[:200])
        return self.root / name

    def find_job(self, name: str) -> Job:
        """A job by its name; raises as `place_of`."""
        if name not in self._known:
            try:
                job = JOB.validate_python(read_json(self.place_of(name) / "job.json"))
            except ValidationError:
                raise Refusal(404, "no_job", name=name) from None
            job = replace(job, name=name)
            if not (job.pid or job.withdrawn):
                return job
            self._known[name] = job
        return self._known[name]

    def list_jobs(self) -> list[Job]:
        """All jobs, the newest first."""
        names = sorted((path.parent.name for path in self.root.glob("*/job.json")), reverse=True)
        jobs = []
        for name in names:
            with contextlib.suppress(Refusal):
                jobs.append(self.find_job(name))
        return jobs

    def find_for_run(self, run: str) -> Job | None:
        """The newest job that trains in a run directory."""
        return next(
            (job for job in self.list_jobs() if job.kind == TRAIN and job.run == run and not job.withdrawn), None
        )

    def is_alive(self, job: Job) -> bool:
        """Whether a job's process runs."""
        if job.name in self._ended:
            return False
        self._children = [child for child in self._children if child.poll() is None]
        alive = is_locked(self.root / job.name / SAID)
        if not alive and job.pid:
            self._ended.add(job.name)
        return alive

    def is_waiting(self, job: Job) -> bool:
        """Whether a run was never started: it has no process, and nothing was said."""
        if job.kind != TRAIN or job.pid or job.withdrawn or self.is_alive(job):
            return False
        files = [self.root / job.name / name for name in (SAID, ERRORS)]
        return not any(file.exists() and file.stat().st_size for file in files)

    @contextlib.contextmanager
    def hold_lock(self) -> Iterator[None]:
        """Be the only one who starts processes in this directory, of all boards that show it.

        Raises:
            Refusal: If another does for long.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("ab") as handle:
            if not wait_for_lock(handle, LOCK_SECONDS):
                raise Refusal(503, "held")
            yield

    def find_at_work(self, runs: Sequence[Path]) -> set[Path]:
        """Of some run directories those that any process works on, whoever started it."""
        at_work = find_runs_at_work(runs)
        ours = {job.run for job in self.list_jobs() if job.kind == TRAIN and self.is_alive(job)} if runs else set()
        return at_work | {run for run in runs if self.folder.name_of(run) in ours}

    def start_job(
        self,
        kind: Kind,
        words: Sequence[str],
        *,
        run: str = "",
        files: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Job:
        """Start the program with some words, at once.

        Args:
            kind: What it does.
            words: Its arguments; "{job}" at the beginning of one stands for the folder of the job.
            run: The run directory that it works on.
            files: Text files to be there first, in the folder of the job.
            environment: More of it.
        Raises:
            Refusal: If enough of its kind are at work.
        """
        with self.hold_lock():
            if kind != TRAIN and sum(job.kind == kind and self.is_alive(job) for job in self.list_jobs()) >= MOST_SHORT:
                raise Refusal(409, "busy")
            return self.launch_job(self.prepare_job(kind, run=run, files=files), words, environment)

    def prepare_job(
        self, kind: Kind, *, run: str = "", files: Mapping[str, str] | None = None, resumes: bool = False
    ) -> Job:
        """Make the folder of a job that is not started yet; arguments as of `start_job`."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(JOB_NAME_BYTES)}"
        (self.root / name).mkdir(parents=True)
        for file, text in (files or {}).items():
            replace_file(self.root / name / file, text)
        return self._write_job(Job(name, kind, run, 0, (), time.time(), resumes))

    def launch_job(self, job: Job, words: Sequence[str], environment: Mapping[str, str] | None = None) -> Job:
        """Start the process of a job; whoever asks holds the lock. Arguments as of `start_job`."""
        place = self.root / job.name
        here = self.folder.name_of(place)  # as the processes see it, whose directory is the board's
        words = [f"{here}{word.removeprefix('{job}')}" if word.startswith("{job}") else word for word in words]
        with (place / SAID).open("ab") as output, (place / ERRORS).open("ab") as errors:
            # Others may look at this lock for a moment. It is taken first, so that no board takes the job for ended.
            if not wait_for_lock(output, LOCK_SECONDS):
                raise Refusal(503, "held")
            child = subprocess.Popen(
                [sys.executable, "-m", "holdfast", *words], cwd=self.folder.root, stdin=subprocess.DEVNULL,
                stdout=output, stderr=errors, start_new_session=True,
                env={**os.environ, "NO_COLOR": "1", **(environment or {})},
            )  # fmt: skip
            self._children.append(child)
            return self._write_job(replace(job, pid=child.pid, words=tuple(words), began=time.time()))

    def withdraw_job(self, job: Job) -> None:
        """Mark a waiting job as taken out of the line."""
        self._write_job(replace(job, withdrawn=True))

    def refuse_job(self, job: Job, why: str) -> None:
        """Mark a waiting job as failed, in the words that its process would have said."""
        replace_file(self.root / job.name / ERRORS, "".join(f"holdfast: {line}\n" for line in why.split("\n")))

    def _write_job(self, job: Job) -> Job:
        replace_json(self.root / job.name / "job.json", asdict(job))
        return job

    def stop_job(self, job: Job) -> None:
        """Ask a job's process to stop, as Ctrl-C does: a run saves what it has, and can go on."""
        if self.is_alive(job):
            pid = job.pid or find_writer(
                self.root / job.name / SAID
            )  # none is known if the board that started it was killed
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, signal.SIGTERM)

    def read_said(self, job: Job) -> list[Mapping[str, Any]]:
        """What a process said, as objects with `event`, and what went wrong as lines of errors."""
        place = self.root / job.name
        events = parse_events(_read_end(place / SAID).split(b"\n"))
        error_texts = {event.get("text") for event in events if event.get("event") == "error"}
        lines = _read_end(place / ERRORS).decode("utf-8", "replace").splitlines()
        for line in lines:
            text = line.removeprefix("holdfast: ")
            if not any(text in str(error) for error in error_texts):
                events.append({"event": "error" if line.startswith("holdfast: ") else "line", "text": text})
        return events


def _read_end(path: Path) -> bytes:
    """The end of a file; nothing where there is none."""
    try:
        with path.open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - LARGEST_SAID))
            return handle.read(LARGEST_SAID)
    except OSError:
        return b""


def describe_said(events: Sequence[Mapping[str, Any]], most: int = 200) -> dict[str, Any]:
    """What a process said, for a page: `lines`, the latest `progress`, its `result`."""
    last = {str(event.get("event")): event for event in events}
    return {
        "lines": [event for event in events if event.get("event") in ("line", "warning", "error")][-most:],
        "phase": last.get("phase"),
        "progress": last.get("progress"),
        "result": last.get("result"),
        "failed": "error" in last,
    }
