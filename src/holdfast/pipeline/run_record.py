"""The record of a run: every event that lasts, in its directory, from the first line on."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from holdfast.core.events import Event, RunInterrupted, RunStarted, StepFinished, StepMeasured
from holdfast.core.progress import Progress
from holdfast.core.safe_text import hide_keys
from holdfast.data.rows import fingerprint_json
from holdfast.errors import first_line
from holdfast.pipeline.run_dir import MARK, RunDirectory
from holdfast.pipeline.trackers import open_trackers
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.pipeline.trackers.base import Tracker


class RunRecord:
    """Listens to a run and writes what lasts to `events.jsonl`, its steps also to `log.jsonl`.

    A run has no directory until everything that can be refused was looked at. What happens before waits in memory, and
    is forgotten where the run is refused. The trackers of the recipe listen from the same moment on.

    Args:
        ui: The voice of the run.
        writes: Whether this process keeps a record: the first of a distributed run.
    """

    def __init__(self, ui: Progress, *, writes: bool = True) -> None:
        self.ui, self.writes = ui, writes
        self.folder: RunDirectory | None = None
        self.trackers: list[Tracker] = []
        self._pending_events: list[Event] = []
        self._start_time = time.time()

    def __enter__(self) -> RunRecord:
        self.ui.listeners.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ui.listeners.remove(self)
        here = self.folder is not None and (self.folder.path / MARK).exists()
        if here and (end := self.ui.phase_end()) is not None:
            self.handle_event(end)
        if here and value is not None:
            self.handle_event(RunInterrupted(error=type(value).__name__, text=hide_keys(first_line(value))))
        for tracker in self.trackers:
            self.ui.listeners.remove(tracker)
            tracker.close(has_failed=value is not None)

    def begin(self, folder: RunDirectory, recipe: Recipe) -> None:
        """Write down that the run begins or goes on, and whatever was heard before.

        Raises:
            UserError: If a tracker of the recipe does not start.
        """
        if not self.writes:
            return
        again = (folder.path / "events.jsonl").exists()
        start = RunStarted(
            time=self._start_time, name=folder.path.name, method=recipe.label, model=recipe.model, again=again
        )
        self.folder, early_events, self._pending_events = folder, self._pending_events, []
        for event in (start, *early_events):
            self.handle_event(event)
        last_step = max((entry["step"] for entry in folder.read_log() if "loss" in entry), default=0)
        run_id = fingerprint_json([folder.path.name, folder.state["created"], folder.state["recipe"]])[:16]
        if recipe.stages:
            return  # each stage is a run of its own to a tracker, too
        self.trackers = open_trackers(recipe, folder.path, run_id, last_step, self.ui.warn)
        self.ui.listeners += self.trackers

    def handle_event(self, event: Event) -> None:
        """Write down one event.

        Raises:
            RunError: If the directory was removed while the run was at work in it.
        """
        if not event.lasting or not self.writes:
            return
        if self.folder is None:
            self._pending_events.append(event)
            return
        if isinstance(event, StepFinished):
            self.folder.append_log(log_entry(event))
        elif isinstance(event, StepMeasured):
            self.folder.append_log({"step": event.step, **event.figures})
        self.folder.append_event(event)


def log_entry(step: StepFinished) -> dict[str, Any]:
    """The line of `log.jsonl` for a step."""
    return {
        "step": step.step, "tokens": step.tokens, "loss": step.loss, "learning_rate": step.learning_rate,
        "grad_norm": step.grad_norm, "clipped": step.clipped,
        **{f"term/{name}": value for name, value in step.terms.items()}, **step.metrics,
    }  # fmt: skip
