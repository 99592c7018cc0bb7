"""What the log of a finished training shows that a loss curve does not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from holdfast.methods.objectives.terms.pairs import CHANGE, CHOSEN

FALL = 0.5
"""Nats by which chosen answers must have become less likely to be worth a line."""

QUARTER, FEWEST = 0.25, 3
"""The last quarter of the steps is looked at, but so many at least."""


def review_training(log: Iterable[Mapping[str, Any]]) -> list[str]:
    """Warnings on a training that ran to its end, one line each, with what to do.

    Args:
        log: The entries of `log.jsonl`; those of a step that was repeated after a kill stand in it twice.
    """
    steps = {entry["step"]: entry for entry in log if "loss" in entry}
    entries = [steps[number] for number in sorted(steps)]
    return [*find_zero_gradient(entries), *find_falling_chosen(entries)]


def find_zero_gradient(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line where no step had anything to learn from."""
    norms = [entry["grad_norm"] for entry in steps if "grad_norm" in entry]
    if not norms or any(norms):
        return []
    return [
        "the gradient was exactly 0 in every step, so nothing was learned from the rows: the objective does not "
        "see them (a beta or weight too small for its type), or the model's weights are all zero"
    ]


def find_falling_chosen(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line when the chosen answers have become less likely, which a growing margin does not show.

    Where there is a reference, every row is compared with itself; else the last quarter of the steps with the first,
    whose rows are others.
    """
    values = [entry[CHANGE] for entry in steps if CHANGE in entry]
    if values:
        change, error = _mean_and_error(_last_quarter(values))
        than = "than under the reference"
    else:
        values = [entry[CHOSEN] for entry in steps if CHOSEN in entry]
        if len(values) < 4 * FEWEST:
            return []
        (after, one), (before, other) = (
            _mean_and_error(_last_quarter(values)),
            _mean_and_error(values[: len(_last_quarter(values))]),
        )
        change, error = after - before, math.hypot(one, other)
        than = "than in the first steps"
    if not values or change > -FALL or change + 2 * error > 0:
        return []
    return [
        f"chosen answers became less likely, by {-change:.1f} nats each {than} (mean of the steps' last quarter): the "
        "margin grows because rejected ones fall faster, and what the model says then is often neither; lower "
        "optimizer.learning_rate, raise objective.beta, or let the likelihood of chosen count too (cpo, orpo)"
    ]


def _last_quarter(values: list[float]) -> list[float]:
    return values[-max(FEWEST, round(QUARTER * len(values))) :]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; 0 for a single value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
