"""What happens in a run, as typed events with the time at which it happened: one stream, and whoever listens to it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; `time` is in seconds since 1970."""

    lasting: ClassVar[bool] = True
    """Whether it belongs into the record of the run, or is of the moment only."""

    time: float = field(default_factory=time.time)

    @classmethod
    def kind_name(cls) -> str:
        """The name of this sort of event in `events.jsonl`: `step_finished` of StepFinished."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def to_json(self) -> dict[str, Any]:
        """The event as one object of plain values; numbers that JSON does not have become null."""
        return {
            "time": round(self.time, 3),
            "event": self.kind_name(),
            **{part.name: _to_plain_json(getattr(self, part.name)) for part in fields(self) if part.name != "time"},
        }


def _to_plain_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _to_plain_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain_json(inner) for inner in value]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run began or went on in its directory.

    Args:
        name: Of the directory. method, model: As the recipe has them.
        again: Whether there were events of this run before: it was killed or stopped.
    """

    name: str
    method: str
    model: str
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted(Event):
    """A stretch of work began: what it is called, and how many units it has, if known."""

    name: str
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseAdvanced(Event):
    """A stretch of work went on; these are many, and none of them lasts.

    Args:
        done, total: Units.
        seconds: Since it began. left: Until it is done, at its mean pace; `None` where that is unknown.
        figures: What is shown beside it, the last known of each; a pair is a score and its change.
    """

    lasting: ClassVar[bool] = False

    name: str
    done: int
    total: int | None
    seconds: float
    left: float | None
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnded(Event):
    """A stretch of work ended; as PhaseAdvanced."""

    name: str
    done: int
    total: int | None
    seconds: float
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineWritten(Event):
    """A sentence for the user."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """A warning for the user; it may be given more than once."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultGiven(Event):
    """What a command came to: a text for people, data for machines."""

    lasting: ClassVar[bool] = False

    text: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsCurated(Event):
    """The rows to train on are there.

    Args:
        rows: Before curation. curated: After it.
        counts: Of them by origin. notes: What the curators counted.
    """

    rows: int
    curated: int
    counts: Mapping[str, int]
    notes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished(Event):
    """A step of training is done; all numbers over all processes.

    Args:
        step: Steps done, counted from 1. steps: Steps of the whole run.
        epoch: Passes over the rows so far.
        loss: Sum of `terms`. terms: Each term's sum divided by its count.
        metrics: Means of what the objective reports.
        grad_norm: Before clipping. clipped: Whether it was clipped. learning_rate: Of this step.
        tokens: Real (not padding) tokens read so far, earlier sessions of a resumed run included.
        trained_tokens: Labels among those.
        tokens_per_second: Real tokens in this step by its time.
        memory_gib: Peak so far: of the accelerator, or of the process on a CPU.
        seconds: Spent in steps so far, earlier sessions included. remaining: Seconds left, by the mean so far.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    terms: Mapping[str, float]
    metrics: Mapping[str, float]
    grad_norm: float
    clipped: bool
    learning_rate: float
    tokens: int
    trained_tokens: int
    tokens_per_second: float
    memory_gib: float
    seconds: float
    remaining: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMeasured(Event):
    """The model was measured in the middle of training.

    Args:
        step: Steps done.
        figures: By part (`target`, `keep`, `held_out`, `text`), those that were measured.
    """

    step: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMeasured(Event):
    """A task was measured, or its measurement found again.

    Args:
        when: "base", "final", "step-000120" or the name of a stage, as under `eval/`.
        task, role, unit: Of the task. items: Questions. figure: The mean in that unit.
    """

    when: str
    task: str
    role: str
    unit: str
    items: int
    figure: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run has its report.

    Args:
        gain, loss: Change of the target, and what was lost elsewhere, in their units; `None` where not measured.
        passed: Whether the gate let it pass; `None` without a gate.
    """

    gain: float | None
    loss: float | None
    passed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInterrupted(Event):
    """The run ended before its report: by the user, by an error, by a gate of one of its stages.

    Args:
        error: Name of the exception. text: What it says, its first line.
    """

    error: str
    text: str


class Listener(Protocol):
    """Whoever wants to know what happens."""

    def handle_event(self, event: Event) -> None:
        """Take note of one event."""
