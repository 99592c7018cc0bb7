"""Answers that are labelled as bad ones."""

from __future__ import annotations

import numpy as np

from holdfast.data.row_store import RowView
from holdfast.data.rows import Rows


def without_bad_answers(rows: Rows) -> Rows:
    """The rows whose answer is not labelled false; the same rows, if that are all."""
    if not len(rows) or rows[0].label is None:  # labels stand on every row of a file, or on none
        return rows
    indices = [i for i, row in enumerate(rows) if row.label is not False]
    if len(indices) == len(rows):
        return rows
    return [rows[i] for i in indices] if isinstance(rows, list) else RowView(rows, np.array(indices, dtype=np.int64))
