"""Mixing general rows into training rows, so that old skills are rehearsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from holdfast.data.rows import LazyRows, Row, Rows, fingerprint_json, fingerprint_rows
from holdfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np


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
    import numpy as np

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


class DrawnRows(LazyRows):
    """Rows of another sequence in any order and any number, each changed as it is read.

    Args:
        rows: The others.
        draws: Index of a row, and which time it is taken, counted from 0.
        change: What becomes of a row the so-manieth time.
    """

    def __init__(self, rows: Rows, draws: Sequence[tuple[int, int]], change: Callable[[Row, int], Row]) -> None:
        self.rows, self.draws, self.change = rows, draws, change

    def __len__(self) -> int:
        return len(self.draws)

    def _take_slice(self, index: slice) -> Rows:
        return DrawnRows(self.rows, self.draws[index], self.change)

    def _read_row(self, index: int) -> Row:
        number, copy = self.draws[index]
        return self.change(self.rows[number], copy)


def allocate_draws(weights: np.ndarray, total: int) -> list[int]:
    """`total` in proportion to weights [N], rounded by largest remainder; the sum is exactly `total`."""
    import numpy as np

    exact = total * weights / weights.sum()
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")  # largest remainder first, of equals the first
    counts[order[: total - int(counts.sum())]] += 1
    return counts.tolist()


def draw_rows(indices: Sequence[int], count: int, seed: str) -> list[tuple[int, int]]:
    """So many of the indices, each as often as any other but for one, and which time it is: (index, copy)."""
    rng, out = Random(seed), list[tuple[int, int]]()
    for copy in range(-(-count // max(1, len(indices)))):
        rest = count - len(out)
        out += [(index, copy) for index in (indices if rest >= len(indices) else rng.sample(indices, rest))]
    return out
