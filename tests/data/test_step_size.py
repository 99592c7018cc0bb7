"""The derived size of a step: a function of the rows alone."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.data.batching.batches import EncodedSequence, TokenTable
from holdfast.data.batching.step_size import compute_step_size, derive_batch_tokens, rows_per_step


def table_of(lengths: list[int], per_row: int = 1) -> TokenTable:
    encoded = [
        EncodedSequence(np.ones(length, np.int32), np.ones(length, bool), row, role)
        for row, length in enumerate(lengths)
        for role in range(per_row)
    ]
    return TokenTable.from_sequences(encoded)


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, 16), (480, 16), (1919, 16), (1920, 32), (3839, 32), (3840, 64), (10**6, 64)]
)
def test_rows_of_a_step(rows: int, expected: int) -> None:
    assert rows_per_step(rows) == expected


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (np.full(3000, 63), 2048),  # 32.5 rows
        (np.full(20, 100), 1650),
        (np.full(5000, 2048), 32_768),  # 16 rows; 64 are too many tokens
        (np.array([10, 11]), 174),  # 173.25 rounded up
        (np.full(10**6, 5, dtype=np.int32), 323),
    ],
)
def test_tokens_of_a_step(lengths: np.ndarray, expected: int) -> None:
    assert derive_batch_tokens(lengths) == expected


@pytest.mark.parametrize("rows", [480, 481, 1000, 1919, 1920, 2500, 3839, 3840, 9000])
def test_an_epoch_has_at_least_30_steps_of_16_to_64_rows_from_480_rows_on(rows: int) -> None:
    lengths = np.random.default_rng(rows).integers(20, 120, rows)
    size = compute_step_size("auto", table_of(lengths.tolist()), seed=0)
    assert size.per_epoch >= 30
    assert 15 < size.rows < 64.5


def test_it_is_said_in_one_line() -> None:
    size = compute_step_size("auto", table_of([63] * 3000), seed=0)
    assert size.text == "batch_tokens 2,048 (derived): 32 rows of 63 tokens, 94 steps an epoch"
    pairs = compute_step_size("auto", table_of([50] * 64, per_row=2), seed=0)
    assert pairs.text == "batch_tokens 1,650 (derived): 16 rows of 100 tokens in 2 sequences, 4 steps an epoch"
    given = compute_step_size(80, table_of([63, 90, 100, 20]), seed=0)
    assert (given.tokens, given.derived, given.over) == (80, False, 2)
