"""Holding out a share of the rows, and finding questions that stand on both sides."""

from __future__ import annotations

import numpy as np

from holdfast.data.pictures.references import identify_pictures
from holdfast.data.row_store import RowView, prompt_keys
from holdfast.data.rows import Rows, fingerprint_json
from holdfast.errors import UserError


def split_rows(rows: Rows, test: float, seed: int = 0) -> tuple[Rows, Rows]:
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
    count = min(max(1, round(len(rows) * test)), len(rows) - 1)
    test_mask = _hold_out(_mix_keys(prompt_keys(rows), seed), count)
    if not count / 2 <= test_mask.sum() <= 1.5 * count + 1 or test_mask.all():
        ids = np.array(
            [int(fingerprint_json([row.id, identify_pictures(row.messages)])[:16], 16) for row in rows], dtype=np.uint64
        )
        # Equal rows fall to one side only as long as there are others.
        hashes = _mix_keys(ids, seed)
        test_mask = np.zeros(len(rows), dtype=np.bool_)
        test_mask[np.argsort(hashes, kind="stable")[:count]] = True
    return _select_rows(rows, np.flatnonzero(~test_mask)), _select_rows(rows, np.flatnonzero(test_mask))


def _hold_out(hashes: np.ndarray, count: int) -> np.ndarray:
    """Whole groups of equal numbers, smallest first, until `wanted` are held out; bool [rows]."""
    bound = np.sort(hashes)[count - 1]
    return hashes <= bound


def _mix_keys(keys: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64 of the keys: another order for every seed. Wraps around by design."""
    z = keys + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _select_rows(rows: Rows, indices: np.ndarray) -> Rows:
    return [rows[i] for i in indices.tolist()] if isinstance(rows, list) else RowView(rows, indices)


def count_shared_prompts(train: Rows, test: Rows) -> int:
    """How many different prompts occur in both, white space aside."""
    return int(np.intersect1d(prompt_keys(train), prompt_keys(test)).size)
