"""`BatchSampler`: which rows make up each step, a pure function of seed and lengths: sought, never replayed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import numpy as np

from holdfast.errors import UserError

Layout = Literal["padded", "packed"]
"""padded: one sequence per line, padded on the right. packed: all sequences of a micro-batch in one line."""


class StepPlan:
    """The steps of one epoch: a shuffled `order` of the rows and the `bounds` that cut it into steps.

    Args:
        lengths: Tokens per row, int64 [rows].
        batch_tokens: Most tokens of a step (a longer single row is a step of its own).
        seed, epoch: Seed the order.
    """

    def __init__(self, lengths: np.ndarray, batch_tokens: int, seed: int, epoch: int) -> None:
        self.order = np.random.default_rng((seed, epoch)).permutation(len(lengths))
        ends = np.cumsum(lengths[self.order])  # tokens up to and including each shuffled row
        bounds = self._greedy_bounds(ends, batch_tokens)
        even = self._even_bounds(ends, len(bounds) - 1)
        sizes = np.diff(np.concatenate([[0], ends])[even])
        # Steps of like size when that keeps the budget: the last step of an epoch is otherwise an arbitrary remainder.
        self.bounds = even if len(sizes) and sizes.min() > 0 and sizes.max() <= batch_tokens else bounds

    @staticmethod
    def _greedy_bounds(ends: np.ndarray, budget: int) -> np.ndarray:
        bounds, tokens_before = [0], 0
        while bounds[-1] < len(ends):
            cut = max(int(np.searchsorted(ends, tokens_before + budget, side="right")), bounds[-1] + 1)
            bounds.append(cut)
            tokens_before = int(ends[cut - 1])
        return np.array(bounds)

    @staticmethod
    def _even_bounds(ends: np.ndarray, steps: int) -> np.ndarray:
        targets = ends[-1] * np.arange(1, steps) / steps
        return np.concatenate([[0], np.searchsorted(ends, targets, side="right"), [len(ends)]])

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def step_rows(self, step: int) -> np.ndarray:
        """The rows of a step, in shuffled order."""
        return self.order[self.bounds[step] : self.bounds[step + 1]]


class BatchSampler:
    """Deterministic batches of a token budget.

    A step holds shuffled rows up to `batch_tokens` over all ranks. Inside it rows are sorted by length (longest first)
    and cut into micro-batches of at most `micro_tokens`: area (lines x longest) when padded, tokens when packed, always
    at least one row. The micro-batches of a step are the same for every `world`; rank r takes every world-th of them,
    and ranks that run out get empty ones, so that all ranks run equally many.

    Args:
        lengths: Tokens per row over all its sequences, [rows]: what `batch_tokens` counts.
        batch_tokens, micro_tokens: Budgets in tokens; `micro_tokens` defaults to `batch_tokens`.
        layout: "padded" or "packed".
        seed: Together with the epoch number it fixes the order.
        rank, world: This process and how many there are.
        widths: Tokens of each row's longest line when padded; default `lengths` (one sequence per row).
        per_row: Lines per row when padded (2 for pairs, unless they share a line).
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        batch_tokens: int,
        micro_tokens: int | None = None,
        layout: Layout = "padded",
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        widths: np.ndarray | None = None,
        per_row: int = 1,
    ) -> None:
        if len(lengths) == 0:
            raise UserError("there is no row to train on")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.widths = self.lengths if widths is None else np.asarray(widths, dtype=np.int64)
        self.batch_tokens, self.micro_tokens = int(batch_tokens), int(micro_tokens or batch_tokens)
        self.layout, self.seed, self.rank, self.world, self.per_row = layout, seed, rank, world, per_row
        self._plans: OrderedDict[int, StepPlan] = OrderedDict()
        self._first = [0]  # first global step of each epoch planned so far

    def epoch_plan(self, epoch: int) -> StepPlan:
        """The plan of an epoch; the two last used are kept."""
        if epoch not in self._plans:
            self._plans[epoch] = StepPlan(self.lengths, self.batch_tokens, self.seed, epoch)
            if len(self._plans) > 2:
                self._plans.popitem(last=False)
        self._plans.move_to_end(epoch)
        return self._plans[epoch]

    def _first_step(self, epoch: int) -> int:
        while len(self._first) <= epoch:
            self._first.append(self._first[-1] + len(self.epoch_plan(len(self._first) - 1)))
        return self._first[epoch]

    def count_steps(self, epochs: float) -> int:
        """Steps in this many passes over the rows, at least 1; a part of an epoch is rounded to whole steps."""
        whole = int(epochs)
        part = epochs - whole
        return max(1, self._first_step(whole) + (round(part * len(self.epoch_plan(whole))) if part > 0 else 0))

    def locate_step(self, step: int) -> tuple[int, int]:
        """`(epoch, step within the epoch)` of a global step."""
        epoch = int(np.searchsorted(self._first, step, side="right")) - 1
        while self._first_step(epoch + 1) <= step:
            epoch += 1
        return epoch, step - self._first[epoch]

    def epoch_at(self, step: int) -> float:
        """Epochs done before global step `step`."""
        epoch, inside = self.locate_step(step)
        return epoch + inside / len(self.epoch_plan(epoch))

    def step_rows(self, step: int) -> np.ndarray:
        """All rows of a global step, over all ranks, in shuffled order."""
        epoch, inside = self.locate_step(step)
        return self.epoch_plan(epoch).step_rows(inside)

    def count_tokens(self, step: int) -> int:
        """Tokens of a global step, over all ranks."""
        return int(self.lengths[self.step_rows(step)].sum())

    def micro_batches(self, step: int) -> list[list[int]]:
        """The micro-batches of a global step over all ranks, whatever `world` is."""
        rows = self.step_rows(step)
        return self.cut_micro_batches(rows[np.argsort(-self.widths[rows], kind="stable")])

    def cut_micro_batches(self, rows: np.ndarray) -> list[list[int]]:
        """Cut rows, longest first, into micro-batches within `micro_tokens`."""
        parts, at = [], 0
        ends = np.cumsum(self._computed_tokens()[rows])
        while at < len(rows):
            if self.layout == "padded":
                take = self.micro_tokens // (int(self.widths[rows[at]]) * self.per_row)
            else:
                tokens_before = int(ends[at - 1]) if at else 0
                take = int(np.searchsorted(ends, tokens_before + self.micro_tokens, side="right")) - at
            parts.append(rows[at : at + max(1, take)].tolist())
            at += max(1, take)
        return parts

    def _computed_tokens(self) -> np.ndarray:
        """Real tokens that each row costs, [rows]: fewer than `lengths` where its sequences share a line."""
        return np.minimum(self.lengths, self.widths * self.per_row)

    def rank_micro_batches(self, step: int) -> list[list[int]]:
        """This rank's micro-batches of a global step: lists of row indexes, the same number on every rank."""
        parts = self.micro_batches(step)
        mine = parts[self.rank :: self.world]
        return mine + [[] for _ in range(-(-len(parts) // self.world) - len(mine))]

    def largest_micro_batch(self) -> list[int]:
        """Rows of the most expensive micro-batch there can be: the longest row, filled up with the next longest."""
        return self.cut_micro_batches(np.argsort(-self.widths, kind="stable")[: max(1, self.micro_tokens)])[0]

    def padding_share(self, steps: int = 20) -> float:
        """Share of the computed positions that are padding, over the first steps of the first epoch."""
        if self.layout == "packed":
            return 0.0
        real_tokens = self._computed_tokens()
        real = area = 0
        for index in range(min(steps, len(self.epoch_plan(0)))):
            for part in self.micro_batches(index):
                real += int(real_tokens[part].sum())
                area += int(self.widths[part].max()) * len(part) * self.per_row
        return 1.0 - real / area
