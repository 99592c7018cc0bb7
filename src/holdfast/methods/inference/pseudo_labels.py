"""Scores of labels on rows, and the gamma that halves of the trained labels call for (pseudo cross-validation)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.data.row_labels import find_label
from holdfast.errors import UserError
from holdfast.methods.inference.label_scores import LabelScores

if TYPE_CHECKING:
    from holdfast.axes.inference import InferenceBench
    from holdfast.data.rows import Row, Rows

MOST_ROWS = 500
"""Rows that a model is asked for one figure."""
HELD_OUT = 5
"""One row in this many is kept from the trainings of halves, to choose gamma on."""


def score_rows(
    bench: InferenceBench, model: str, rows: Rows, present: Sequence[str], absent: Sequence[str], form: str
) -> LabelScores:
    """What a model says of all labels on the rows that have one of them; of many rows, on some."""
    import numpy as np

    labels = (*present, *absent)
    numbers = {label: number for number, label in enumerate(labels)}
    label_rows = [row for row in rows if find_label(row) in numbers]
    if not label_rows:
        raise UserError(f"inference.calibration: no row has one of the labels {', '.join(labels[:5])}, ...")
    if len(label_rows) > MOST_ROWS:
        label_rows = random.Random(0).sample(label_rows, MOST_ROWS)
    gold = np.array([numbers[str(find_label(row))] for row in label_rows])
    return LabelScores(
        bench.score_labels(model, label_rows, labels, form), gold, np.arange(len(labels)) >= len(present)
    )


def cross_validate(bench: InferenceBench, present: Sequence[str], form: str, splits: int) -> float:
    """PCV: train on half of the labels, take the gamma that is best on held-out rows of all of them, and average.

    Best is the highest overall accuracy that leaves the half left out as accurate as before that training; splits in
    which no gamma does so do not count.
    """
    if len(present) < 2:
        raise UserError("inference.calibration: pcv trains on half of the trained labels, and there is one; use alg")
    rows = [row for row in bench.rows if find_label(row) in set(present)]
    random.Random(0).shuffle(rows)
    held_out, rest = rows[::HELD_OUT], [row for i, row in enumerate(rows) if i % HELD_OUT]
    gammas = []
    for split in range(splits):
        labels = list(present)
        random.Random(split).shuffle(labels)
        half, left_out = labels[: (len(labels) + 1) // 2], labels[(len(labels) + 1) // 2 :]
        model = bench.train_copy(_rows_with(rest, half))
        before, after = (score_rows(bench, name, held_out, half, left_out, form) for name in ("base", model))
        gammas.append(after.compute_curve().pick_gamma(before.compute_accuracies()[2]))
    usable_gammas = [gamma for gamma in gammas if gamma is not None]
    return sum(usable_gammas) / len(usable_gammas) if usable_gammas else 0.0


def _rows_with(rows: Rows, labels: Sequence[str]) -> list[Row]:
    return [row for row in rows if find_label(row) in set(labels)]
