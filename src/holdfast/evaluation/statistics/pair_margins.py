"""By how much training moved held-out pairs, which is seen before it turns their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.axes.analysis import OPTIONS
from holdfast.evaluation.statistics.paired import MeasuredRun, scale_interval
from holdfast.evaluation.statistics.summary_statistics import PairedScores, compute_interval
from holdfast.evaluation.task import PAIRS, RATED, ItemResult


def measure_margins(items: Sequence[ItemResult], before: Sequence[ItemResult] = ()) -> np.ndarray:
    """By how much the chosen answer is above the rejected one, in nats per character or in rewards; [P].

    Args:
        items: Of the task `held-out pairs`, whose first option is the chosen answer.
        before: Of the same pairs, from whose margins these are counted.
    """
    options = {item.id: item.extra[OPTIONS] for item in before}
    values = [np.subtract(item.extra[OPTIONS], options.get(item.id, 0.0)) for item in items]
    return -np.diff(np.array(values).reshape(-1, 2))[:, 0]


def measure_chosen_gains(seeds: Sequence[MeasuredRun]) -> dict[str, float | None] | None:
    """In how many per cent of the held-out pairs the chosen answer gained on the rejected one, over pairs and seeds.

    Returns:
        `delta` is that share, `low` and `high` its interval; `None` where no pairs are held out, or rewards rank them.
    """
    scores = []
    for run in seeds:
        items = run.tuned.get(PAIRS) or []
        if not items or any(RATED in item.extra for item in items):
            return None
        has_gained = (measure_margins(items, run.base[PAIRS]) > 0).astype(float)
        scores.append([PairedScores(tuple(item.id for item in items), np.zeros(len(items)), has_gained)])
    return scale_interval(compute_interval(scores), 100.0) if scores else None
