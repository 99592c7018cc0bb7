"""Where memory is short, sequences go through a model in smaller groups; where it is for one alone, advice is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import EncodedSequence
from holdfast.errors import RunError
from holdfast.models.row_groups import run_by_area


def run(lengths: list[int], micro_tokens: int, room: int) -> list[list[int]]:
    """The groups that were gone through, where there is memory for an area of `room`."""
    rows = [
        EncodedSequence(np.zeros(length, np.int32), np.ones(length, bool), row) for row, length in enumerate(lengths)
    ]
    groups: list[list[int]] = []

    def take_group(numbers: list[int]) -> None:
        if len(numbers) * max(lengths[number] for number in numbers) > room:
            raise torch.OutOfMemoryError("out of memory")
        groups.append(numbers)

    run_by_area(rows, micro_tokens, torch.device("cpu"), take_group)
    return groups


def test_groups_are_halved_and_stay_small() -> None:
    assert run([4, 4, 4, 4, 4, 4, 4, 4, 2, 2], 16, 100) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert run([4, 4, 4, 4, 4, 4, 4, 4, 2, 2], 16, 8) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert run([1, 9, 1], 100, 9) == [[1], [0, 2]]


def test_one_that_does_not_fit_ends_in_advice() -> None:
    with pytest.raises(
        RunError, match=r"not enough memory on cpu even for one text of 9 tokens: end what else uses it"
    ):
        run([1, 9, 1], 100, 8)


def test_other_errors_are_the_model_s_own() -> None:
    def fail(numbers: list[int]) -> None:
        raise RuntimeError("shape")

    with pytest.raises(RuntimeError, match="shape"):
        run_by_area([EncodedSequence(np.zeros(2, np.int32), np.ones(2, bool), 0)], 8, torch.device("cpu"), fail)
