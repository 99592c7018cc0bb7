"""Holding out a share of the rows, and finding questions that stand on both sides."""

from __future__ import annotations

import numpy as np

from holdfast.data.row_store import RowView, prompt_keys
from holdfast.data.rows import Rows, fingerprint
from holdfast.errors import UserError


def split(rows: Rows, test: float, seed: int = 0) -> tuple[Rows, Rows]:
    """`(train, test)`: hold out a share of the rows, the same ones for the same seed however the file is ordered.

    Rows with the same prompt stay on one side, unless so many share one that this is impossible. Order is kept.

    Args:
        rows: At least two, unless `test` is 0.
        test: Share in [0, 1).
        seed: Chooses the rows.
    """
    if not 0 <= test < 1:
        raise UserError(f"data.test: {test} is not a share from 0 to 1")
    if test == 0:
        return rows, []
    if len(rows) < 2:
        raise UserError("data.test: a single row cannot be split; set data.test to 0 or to a file")
    wanted = min(max(1, round(len(rows) * test)), len(rows) - 1)
    held = _hold_out(_mixed(prompt_keys(rows), seed), wanted)
    if not wanted / 2 <= held.sum() <= 1.5 * wanted + 1 or held.all():
        ids = np.array([int(fingerprint([row.id, row.messages])[:16], 16) for row in rows], dtype=np.uint64)
        # Equal rows fall to one side only as long as there are others.
        mixed = _mixed(ids, seed)
        held = np.zeros(len(rows), dtype=np.bool_)
        held[np.argsort(mixed, kind="stable")[:wanted]] = True
    return _select(rows, np.flatnonzero(~held)), _select(rows, np.flatnonzero(held))


def _hold_out(mixed: np.ndarray, wanted: int) -> np.ndarray:
    """Whole groups of equal numbers, smallest first, until `wanted` are held out; bool [rows]."""
    bound = np.sort(mixed)[wanted - 1]
    return mixed <= bound


def _mixed(keys: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64 of the keys: another order for every seed. Wraps around by design."""
    z = keys + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _select(rows: Rows, indices: np.ndarray) -> Rows:
    return [rows[i] for i in indices.tolist()] if isinstance(rows, list) else RowView(rows, indices)


def duplicates(train: Rows, test: Rows) -> int:
    """How many different prompts occur in both, white space aside."""
    return int(np.intersect1d(prompt_keys(train), prompt_keys(test)).size)
