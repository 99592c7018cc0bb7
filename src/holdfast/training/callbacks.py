"""What the trainer tells the outside: each step, the points of evaluation, the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.core.events import StepFinished
from holdfast.core.progress import ignore_call

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.axes.tuner import Tuner
    from holdfast.data.batching.step_size import StepSize
    from holdfast.models.loading import Model


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called on the main process only.

    Args:
        on_step: After every step.
        on_evaluate: At each boundary of `evaluate.every` inside the run (and at its end, where `train.keep` or
            `train.patience` need that), with the steps done, the model in eval mode and the head beside it, if there is
            one. A run resumed from there or before calls it again for that step. Returns the loss by which steps are
            compared, lower being better, or `None` when there is nothing to compare by.
        on_note: One line worth telling: resumed, micro-batch halved, interrupt received.
    """

    on_step: Callable[[StepFinished], Any] = ignore_call
    on_evaluate: Callable[[int, Model, nn.Linear | None], float | None] = ignore_call
    on_note: Callable[[str], Any] = ignore_call


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Where a training begins that goes on from another: a client's round, with the optimizer new.

    Args:
        tensors: Values of trained parameters in the place of the model's; references are the model's still.
        tuner_seed: Of what the tuner draws, where it must be alike in trainings whose seeds differ; `None`: their own.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    tuner_seed: int | None = None


@dataclass(slots=True)
class Totals:
    """Counters that live through kills and resumes."""

    tokens: int = 0
    trained_tokens: int = 0
    sequences: int = 0
    seconds: float = 0.0
    loss: float = float("nan")
    clipped: int = 0
    """Steps whose gradient was clipped."""

    def add_step(self, loss: float, counts: Mapping[str, float], seconds: float, was_clipped: bool) -> None:
        """One step: its loss, what it held, the time it took, whether its gradient was clipped."""
        self.loss = loss
        self.tokens += int(counts["real tokens"])
        self.trained_tokens += int(counts["labels"])
        self.sequences += int(counts["rows"])
        self.seconds += seconds
        self.clipped += was_clipped


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training.

    Args:
        model: The trained model in eval mode, still with its adapter; whole on the main process.
        tuner: Who reads and writes it.
        steps, epochs: Done, earlier sessions included. tokens, trained_tokens, seconds: Likewise.
        loss: Of the last step.
        tokens_per_second: Real tokens by the time spent in steps.
        peak_memory_gib: Of the accelerator, or of the process on a CPU; this session.
        step_size: Of a step in tokens, and what it came from.
        micro_tokens: Size of the micro-batches in the end. layout: "padded" or "packed". precision: "fp32" or "bf16".
        arithmetic: The precision in words, with how weights were held where the recipe says that.
        trainable: Parameters that moved. clipped: Steps whose gradient was clipped.
        resumed_from: Steps found done at the start.
        value_head: Trained beside the model, where the objective needs one.
        kept_step: The step whose weights `model` has. stopped_early: Whether steps were left out for want of progress.
        is_partial: Whether it stopped where `train.stop_at` says, with steps to come.
    """

    model: Model
    tuner: Tuner
    steps: int
    epochs: float
    tokens: int
    trained_tokens: int
    seconds: float
    loss: float
    tokens_per_second: float
    peak_memory_gib: float
    step_size: StepSize
    micro_tokens: int
    layout: str
    precision: str
    arithmetic: str
    trainable: int
    clipped: int = 0
    resumed_from: int = 0
    kept_step: int = 0
    value_head: nn.Linear | None = None
    stopped_early: bool = False
    is_partial: bool = False


def add_metrics(
    metrics: dict[str, tuple[float, float]], more: dict[str, tuple[float, float]], share: float = 1.0
) -> None:
    """Add sums and counts by name."""
    for name, (total, count) in more.items():
        so_far = metrics.get(name, (0.0, 0.0))
        metrics[name] = (so_far[0] + share * total, so_far[1] + share * count)
