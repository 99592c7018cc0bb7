"""How many tokens make a step, where the recipe leaves it open: derived from the rows, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from holdfast.data.batching.batch_sampler import BatchSampler
    from holdfast.data.batching.batches import TokenTable
    from holdfast.recipe.schema import Train

MOST_TOKENS = 32_768
"""No derived step is larger."""

MOST_ROWS, FEWEST_ROWS = 64, 16
"""Rows of a derived step: what fine-tuning is usually done with. An objective's paper may say another most."""

STEPS_PER_EPOCH = 60
"""A derived step takes more rows only where this many steps an epoch remain (30 in steps of the fewest rows)."""

FEW_STEPS = 30
"""A run of fewer steps learns little at the usual learning rates."""


def rows_per_step(rows: int, most: int = MOST_ROWS) -> int:
    """Rows of a derived step: 64 from 3,840 rows on, 32 from 1,920 on, else 16; 128 from 7,680 on where so many may be.

    So from 480 rows on an epoch has at least 30 steps.

    Args:
        most: What the objective's paper trains with (`Settings.batch`); where that is less than 16, it is taken.
    """
    count = most
    while count > FEWEST_ROWS and rows < STEPS_PER_EPOCH * count:
        count //= 2
    return count


def derive_batch_tokens(lengths: np.ndarray, most: int = MOST_ROWS) -> int:
    """Derive `train.batch_tokens` from the rows alone, whatever the machine and the number of processes.

    Room for the rows of a step (`rows_per_step`) of mean length, and for half a row more: the row with which a step
    would be over its tokens begins the next, so that on average half a row stays empty. At most 32,768 tokens.

    Args:
        lengths: Tokens of each row over all its sequences, [rows].
        most: Rows of a step at most.
    """
    halves, total = 2 * rows_per_step(len(lengths), most) + 1, int(np.sum(lengths, dtype=np.int64))
    return max(1, min(MOST_TOKENS, -(-halves * total // (2 * len(lengths)))))


@dataclass(frozen=True, slots=True)
class StepSize:
    """The size of a step, and what it comes to.

    Args:
        tokens: `batch_tokens` as it is used.
        derived: Whether it was derived from the rows; else the recipe says it.
        rows: Mean rows of a step.
        row_tokens: Mean tokens of a row over all its sequences.
        sequences: Sequences per row, of the row that has most.
        per_epoch: Steps of the first epoch.
        over: Rows that alone are larger than a step.
    """

    tokens: int
    derived: bool
    rows: float
    row_tokens: float
    sequences: int
    per_epoch: int
    over: int

    @property
    def breakdown(self) -> str:
        """What the number comes from, as `32 rows of 63 tokens, 94 steps an epoch`."""
        rows, length = max(1, round(self.rows)), max(1, round(self.row_tokens))
        many = f" in {self.sequences} sequences" if self.sequences > 1 else ""
        steps = f"{self.per_epoch:,} step{'' if self.per_epoch == 1 else 's'} an epoch"
        return f"{rows:,} row{'' if rows == 1 else 's'} of {length:,} tokens{many}, {steps}"

    @property
    def text(self) -> str:
        """`batch_tokens 2,016: 32 rows of 63 tokens, 94 steps an epoch`."""
        return f"batch_tokens {self.tokens:,}{' (derived)' if self.derived else ''}: {self.breakdown}"


def compute_step_size(
    batch_tokens: int | Literal["auto"], table: TokenTable, seed: int, most: int = MOST_ROWS
) -> StepSize:
    """The size of a step over the rows of a table.

    Args:
        batch_tokens: `train.batch_tokens`; `auto` derives it.
        table: With the sequences that steps hold (`TokenTable.keep_first_sequences`).
        seed: `train.seed`, on which the order of the rows depends, and with it how many steps an epoch has.
        most: Rows of a derived step at most (`Settings.batch` of the objective).
    """
    lengths = table.step_lengths
    tokens = derive_batch_tokens(lengths, most) if batch_tokens == "auto" else batch_tokens
    per_epoch = table.build_sampler(batch_tokens=tokens, seed=seed).count_steps(1.0)
    return StepSize(
        tokens=tokens, derived=batch_tokens == "auto", rows=len(table) / per_epoch, row_tokens=float(lengths.mean()),
        sequences=table.per_row, per_epoch=per_epoch, over=int((lengths > tokens).sum()),
    )  # fmt: skip


def count_steps(train: Train, sampler: BatchSampler) -> int:
    """Steps of a run: `train.max_steps`, however many epochs that takes; without it those of `train.epochs`."""
    return sampler.count_steps(train.epochs) if train.max_steps is None else train.max_steps
