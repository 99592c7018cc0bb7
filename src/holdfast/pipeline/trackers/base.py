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
        seen: Steps that were shown already: a run that was killed does some of them again, with the same figures.
        warn: Told when the library fails; nothing more is shown then, and the run goes on.
    """

    def __init__(self, path: Path, run_id: str, seen: int, warn: Callable[[str], Any]) -> None:
        self.path, self.run_id, self.seen, self.warn = path, run_id, seen, warn
        self.step = 0
        self.failed = False

    @abstractmethod
    def open(self, recipe: dict[str, Any]) -> None:
        """Begin to show a run, or go on with it.

        Args:
            recipe: As plain data.
        """

    @abstractmethod
    def log(self, step: int, figures: dict[str, float]) -> None:
        """Show figures of a step."""

    @abstractmethod
    def end(self, failed: bool) -> None:
        """Write out what is still held back, and say how the run ended."""

    def on(self, event: Event) -> None:
        """Show what an event has of figures."""
        if isinstance(event, StepFinished):
            self.step = event.step
        if self.failed or not (figures := figures_of(event)):
            return
        step = 0 if isinstance(event, TaskMeasured) and event.when == "base" else getattr(event, "step", self.step)
        if (isinstance(event, (RunFinished, TaskMeasured)) and step) or step > self.seen or not self.seen:
            self._guarded(lambda: self.log(step, figures))

    def close(self, failed: bool = False) -> None:
        """End the tracking."""
        if not self.failed:
            self._guarded(lambda: self.end(failed))

    def _guarded(self, act: Callable[[], Any]) -> None:
        """Do something with the library; a run of hours does not end because a server of curves is away."""
        try:
            act()
        except Exception as error:
            self.failed = True
            self.warn(
                f"track: {type(self).__name__} failed ({first_line(error)}) and shows no more of this run; it goes on, "
                f"and all of it is in {self.path / 'events.jsonl'}"
            )


def figures_of(event: Event) -> dict[str, float]:
    """What a tracker shows of an event, by name; nothing of most."""
    if isinstance(event, StepFinished):
        names = ("loss", "learning_rate", "grad_norm", "epoch", "tokens", "tokens_per_second", "memory_gib")
        terms = {f"term/{name}": value for name, value in event.terms.items()} if len(event.terms) > 1 else {}
        found = {**{name: getattr(event, name) for name in names}, **terms, **event.metrics}
        return {f"train/{name}": float(value) for name, value in found.items()}
    if isinstance(event, StepMeasured):
        return _named("eval", event.figures)
    if isinstance(event, TaskMeasured) and event.when in ("base", "final"):
        return _named(event.when, {event.task: event.figure})
    if isinstance(event, RunFinished):
        return _named("result", {"gain": event.gain, "loss": event.loss})
    return {}


def _named(group: str, figures: Mapping[str, float | None]) -> dict[str, float]:
    return {f"{group}/{name}": float(value) for name, value in figures.items() if value is not None}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A recipe as dotted settings: `optimizer.learning_rate`, `curate.0.name`."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: dict[str, Any] = {}
    for key, inner in pairs:
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found if isinstance(value, (dict, list)) and value else {prefix: value}
