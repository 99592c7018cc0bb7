"""Mixing general rows into training rows, so that old skills are rehearsed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from holdfast.data.rows import LazyRows, Row, Rows, fingerprint_json, fingerprint_rows
from holdfast.errors import UserError


class Mixture(LazyRows):
    """Rows of two sequences in one order, read on demand; those of the second get origin "replay".

    Args:
        rows, replay_rows: The two.
        order: int64 [n]: i >= 0 is `rows[i]`, i < 0 is `replay_rows[-i - 1]`.
    """

    def __init__(self, rows: Rows, replay_rows: Rows, order: np.ndarray) -> None:
        self.rows, self.replay_rows, self.order = rows, replay_rows, order

    @property
    def fingerprint(self) -> str:
        return fingerprint_json([fingerprint_rows(self.rows), fingerprint_rows(self.replay_rows), self.order.tolist()])

    def __len__(self) -> int:
        return len(self.order)

    def _read_at(self, index: int) -> Row:
        return self.rows[index] if index >= 0 else replace(self.replay_rows[-index - 1], origin="replay")

    def _take_slice(self, index: slice) -> Rows:
        return Mixture(self.rows, self.replay_rows, self.order[index])

    def _read_row(self, index: int) -> Row:
        return self._read_at(int(self.order[index]))

    def __iter__(self) -> Iterator[Row]:
        for index in self.order.tolist():
            yield self._read_at(index)


def mix_replay(rows: Rows, replay_rows: Rows, share: float, seed: int = 0) -> Rows:
    """All `rows`, with `replay_rows` spread among them at random so that they make up `share` of the result.

    Args:
        rows: The rows to train on; each occurs once, in its order.
        replay_rows: Drawn without replacement; when all are drawn, all are drawn again in a new order.
        share: Share of the result, in [0, 1), to the nearest row.
        seed: Chooses rows and places.
    Returns:
        A sequence that reads its rows on demand; replayed rows have origin "replay".
    """
    if not 0 <= share < 1:
        raise UserError(f"data.replay.share: {share} is not a share from 0 to 1")
    count = round(len(rows) * share / (1 - share))
    if count and not len(replay_rows):
        raise UserError("data.replay.path: there are no rows to replay")
    random = np.random.default_rng((seed, 0x4D1))
    rounds = -(-count // len(replay_rows)) if count else 0
    replay_indices = np.concatenate(
        [np.zeros(0, np.int64), *(random.permutation(len(replay_rows)) for _ in range(rounds))]
    )[:count]
    order = np.empty(len(rows) + count, dtype=np.int64)
    place = np.zeros(len(order), dtype=np.bool_)
    place[random.permutation(len(order))[:count]] = True
    order[place], order[~place] = -replay_indices - 1, np.arange(len(rows))
    return Mixture(rows, replay_rows, order)
