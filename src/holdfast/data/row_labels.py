"""Rows whose answers are labels."""

from __future__ import annotations

from holdfast.data.rows import Row, Rows


def find_label(row: Row) -> str | None:
    """The label that answers a row: the right one of its choices, else its answer, else its reference as text."""
    if "choices" in row.meta and isinstance(row.gold, int):
        return str(row.meta["choices"][row.gold])
    if row.answer is not None:
        return row.answer.strip()
    return None if row.gold is None or isinstance(row.gold, (list, dict)) else str(row.gold)


def list_labels(rows: Rows) -> tuple[str, ...]:
    """All labels, in the order they first occur in."""
    return tuple(dict.fromkeys(label for row in rows if (label := find_label(row))))
