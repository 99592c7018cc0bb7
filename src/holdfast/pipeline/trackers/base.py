"""What every tracker shows of a run, and under which names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.core.events import Event, RunFinished, StepFinished, StepMeasured, TaskMeasured
from holdfast.errors import first_line


class Tracker(ABC):
    """Listens to a run and shows its figures by step.

    `train/...` are those of a step, `eval/...` what was measured in between, `base/TASK` and `final/TASK` the tasks
    before and after, `result/gain` and `result/loss` what it came to.

    Args:
        path: The run's directory, whose name is the run's.
        run_id: What this run is called for good.
        resume_step: Steps that were shown already: a run that was killed does some of them again, with the same
            figures.
        warn: Told when the library fails; nothing more is shown then, and the run goes on.
    """

    def __init__(self, path: Path, run_id: str, resume_step: int, warn: Callable[[str], Any]) -> None:
        self.path, self.run_id, self.resume_step, self.warn = path, run_id, resume_step, warn
        self.step = 0
        self.has_failed = False

    @abstractmethod
    def open_run(self, recipe: dict[str, Any]) -> None:
        """Begin to show a run, or go on with it.

        Args:
            recipe: As plain data.
        """

    @abstractmethod
    def log_figures(self, step: int, figures: dict[str, float]) -> None:
        """Show figures of a step."""

    @abstractmethod
    def end_run(self, has_failed: bool) -> None:
        """Write out what is still held back, and say how the run ended."""

    def handle_event(self, event: Event) -> None:
        """Show what an event has of figures."""
        if isinstance(event, StepFinished):
            self.step = event.step
        if self.has_failed or not (figures := event_figures(event)):
            return
        step = 0 if isinstance(event, TaskMeasured) and event.when == "base" else getattr(event, "step", self.step)
        if (isinstance(event, (RunFinished, TaskMeasured)) and step) or step > self.resume_step or not self.resume_step:
            self._call_safely(lambda: self.log_figures(step, figures))

    def close(self, has_failed: bool = False) -> None:
        """End the tracking."""
        if not self.has_failed:
            self._call_safely(lambda: self.end_run(has_failed))

    def _call_safely(self, act: Callable[[], Any]) -> None:
        """Do something with the library; a run of hours does not end because a server of curves is away."""
        try:
            act()
        except Exception as error:
            self.has_failed = True
            self.warn(
                f"track: {type(self).__name__} failed ({first_line(error)}) and shows no more of this run; it goes on, "
                f"and all of it is in {self.path / 'events.jsonl'}"
            )


def event_figures(event: Event) -> dict[str, float]:
    """What a tracker shows of an event, by name; nothing of most."""
    if isinstance(event, StepFinished):
        names = ("loss", "learning_rate", "grad_norm", "epoch", "tokens", "tokens_per_second", "memory_gib")
        terms = {f"term/{name}": value for name, value in event.terms.items()} if len(event.terms) > 1 else {}
        metrics = {**{name: getattr(event, name) for name in names}, **terms, **event.metrics}
        return {f"train/{name}": float(value) for name, value in metrics.items()}
    if isinstance(event, StepMeasured):
        return _prefix_names("eval", event.figures)
    if isinstance(event, TaskMeasured) and event.when in ("base", "final"):
        return _prefix_names(event.when, {event.task: event.figure})
    if isinstance(event, RunFinished):
        return _prefix_names("result", {"gain": event.gain, "loss": event.loss})
    return {}


def _prefix_names(group: str, figures: Mapping[str, float | None]) -> dict[str, float]:
    return {f"{group}/{name}": float(value) for name, value in figures.items() if value is not None}


def flatten_settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """A recipe as dotted settings: `optimizer.learning_rate`, `curate.0.name`."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    settings: dict[str, Any] = {}
    for key, inner in pairs:
        settings |= flatten_settings(inner, f"{prefix}.{key}" if prefix else str(key))
    return settings if isinstance(value, (dict, list)) and value else {prefix: value}
